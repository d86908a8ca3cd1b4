"""webserver_capability_facts, run as Ansible would, on real servers."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import typing as t

import harness
import pytest
from ansible_collections.seamless.tls_alpn.plugins.module_utils._capability_apache import apache_capability
from apache_site import BINARY as BINARY_OF_APACHE
from apache_site import MODULES, ApacheSite
from nginx_site import BINARY, NginxSite


def look(work: pathlib.Path, check: bool = False, **arguments: t.Any) -> dict[str, t.Any]:
    """Run the module, which never changes anything; give the facts."""
    result = harness.run_module('webserver_capability_facts', arguments, work, check)
    assert result.changed is False
    return result.value['ansible_facts']['webserver_capability']


def test_nginx_and_who_listens(site: NginxSite) -> None:
    before = harness.Picture.of(site.conf)
    facts = look(site.root, servers=['nginx'], nginx_binary=BINARY, https_port=site.port)
    assert set(facts) == {'nginx', 'https_listeners'}
    nginx = facts['nginx']
    assert (nginx['present'], nginx['binary'], nginx['stream'], nginx['stream_module']) == (True, BINARY, 'static', None)
    assert nginx['version'] in subprocess.run([BINARY, '-v'], capture_output=True, text=True, check=True).stderr
    assert nginx['tls_alpn'] == {'supported': True, 'reason': '', 'handoffs': ['proxy_protocol', 'pass', 'plain'], 'recommended': 'proxy_protocol'}
    expected = [
        {'family': family, 'address': address, 'port': site.port, 'process': 'nginx', 'pid': site.master}
        for family, address in (('ipv4', '0.0.0.0'), ('ipv6', '::'))
    ]
    assert facts['https_listeners'] == expected
    assert look(site.root, check=True, servers=['nginx'], nginx_binary=BINARY, https_port=site.port) == facts
    assert harness.Picture.of(site.conf) == before
    site.stop()
    assert look(site.root, servers=['nginx'], nginx_binary=BINARY, https_port=site.port)['https_listeners'] == []


def test_servers_that_are_not_there(tmp_path: pathlib.Path) -> None:
    none = str(tmp_path / 'none')
    facts = look(tmp_path, nginx_binary=none, haproxy_binary=none, apache_binary=none)
    for server in ('nginx', 'haproxy', 'apache'):
        assert (facts[server]['present'], facts[server]['running'], facts[server]['version']) == (False, False, None)
        assert facts[server]['tls_alpn'] == {'supported': False, 'reason': 'there is no program %s' % none, 'handoffs': [], 'recommended': None}


def test_a_program_that_is_something_else(tmp_path: pathlib.Path) -> None:
    facts = look(tmp_path, nginx_binary='/bin/echo', haproxy_binary='/bin/echo', apache_binary='/bin/echo')
    for server, name in (('nginx', 'nginx'), ('haproxy', 'HAProxy'), ('apache', 'Apache httpd')):
        assert facts[server]['tls_alpn']['supported'] is False
        assert '/bin/echo is no %s' % name in facts[server]['tls_alpn']['reason']


HAPROXY = """\
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend %s
    bind 127.0.0.1:%d
"""


@pytest.mark.skipif(os.geteuid() != 0, reason='a PID namespace, where no other HAProxy runs, needs root')
def test_haproxy_tells_what_the_running_one_reads(tmp_path: pathlib.Path) -> None:
    ports = harness.free_ports(2)
    main, directory, arguments = tmp_path / 'main.cfg', tmp_path / 'conf.d', tmp_path / 'arguments.json'
    main.write_text(HAPROXY % ('a', ports[0]))
    directory.mkdir()
    (directory / 'b.cfg').write_text(HAPROXY % ('b', ports[1]))
    arguments.write_text(json.dumps({'servers': ['haproxy'], 'https_port': ports[1], '_ansible_remote_tmp': str(tmp_path)}))
    # The master writes its PID file when its workers are there. The namespace, and all that runs in it, ends with the shell.
    script = 'haproxy -W -D -f "$1" -f conf.d -p pid && while [ ! -s pid ]; do sleep 0.05; done; exec "$2" "$3" webserver_capability_facts "$4"'
    done = subprocess.run(
        [
            'unshare',
            '--pid',
            '--fork',
            '--mount-proc',
            'sh',
            '-c',
            script,
            'sh',
            str(main),
            sys.executable,
            str(harness.HERE / 'run_module.py'),
            str(arguments),
        ],
        cwd=tmp_path,
        env={**os.environ, 'PATH': '%s:/usr/sbin' % os.environ['PATH']},
        capture_output=True,
        text=True,
        check=False,
        timeout=harness.PATIENCE,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    facts = json.loads(done.stdout)['ansible_facts']['webserver_capability']
    haproxy = facts['haproxy']
    assert (haproxy['present'], haproxy['running'], haproxy['tls'], haproxy['abns']) == (True, True, True, True)
    assert haproxy['config_paths'] == [str(main), str(directory)] and haproxy['config_path'] == str(main)
    assert haproxy['pid'] == int((tmp_path / 'pid').read_text())
    assert haproxy['tls_alpn'] == {'supported': True, 'reason': '', 'handoffs': ['abns', 'plain'], 'recommended': 'abns'}
    assert [(one['address'], one['port'], one['process']) for one in facts['https_listeners']] == [('127.0.0.1', ports[1], 'haproxy')]


def test_debians_apache_as_installed(tmp_path: pathlib.Path) -> None:
    facts = look(tmp_path, servers=['apache'])['apache']
    assert (facts['present'], facts['binary'], facts['config_path']) == (True, '/usr/sbin/apache2', '/etc/apache2/apache2.conf')
    assert facts['version'] in subprocess.run(['/usr/sbin/apache2', '-v'], capture_output=True, text=True, check=True).stdout
    # Its configuration is read although nothing has set its variables, nor made its run directory.
    assert (facts['root'], facts['mpm'], facts['md_store_dir']) == ('/etc/apache2', 'event', '/etc/apache2/md')
    assert '/etc/apache2/ports.conf' in facts['config_paths']
    assert facts['mod_md'] in ('loadable', 'loaded')
    assert (facts['tls_alpn']['handoffs'], facts['tls_alpn']['recommended']) == ([], None)


@pytest.fixture
def apache_root() -> t.Iterator[pathlib.Path]:
    """A directory that Apache's workers, who are not root, can reach."""
    with tempfile.TemporaryDirectory(prefix='seamless-apache-') as name:
        yield pathlib.Path(name)


def test_an_apache_that_runs(apache_root: pathlib.Path) -> None:
    apache = ApacheSite(apache_root)

    def facts() -> dict[str, t.Any]:
        return apache_capability(run, BINARY_OF_APACHE, str(apache.main))

    def run(argv: list[str]) -> tuple[int, str, str]:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    stopped = facts()
    assert (stopped['running'], stopped['pid']) == (False, None)
    assert (stopped['root'], stopped['mpm'], stopped['mod_ssl'], stopped['mod_md']) == (str(apache.conf), 'event', 'loaded', 'loadable')
    assert stopped['tls_alpn'] == {'supported': True, 'reason': '', 'handoffs': [], 'recommended': None}
    (apache.conf / 'mods-enabled' / 'md.load').write_text('LoadModule md_module %s/mod_md.so\n' % MODULES)
    (apache.conf / 'conf-enabled' / 'md.conf').write_text('MDStoreDir ${APACHE_RUN_DIR}/md\n')
    try:
        apache.start()
        running = facts()
        assert (running['running'], running['pid']) == (True, apache.master)
        assert (running['mod_md'], running['md_store_dir']) == ('loaded', str(apache_root / 'run' / 'md'))
        assert str(apache.conf / 'conf-enabled' / 'md.conf') in running['config_paths']
        listeners = look(apache_root, servers=[], https_port=apache.port)['https_listeners']
        assert {(one['process'], one['pid']) for one in listeners} == {('apache2', apache.master)}
        (apache.conf / 'conf-enabled' / 'broken.conf').write_text('NoSuchDirective\n')
        broken = facts()
        assert (broken['running'], broken['tls_alpn']['supported']) == (True, False)
        assert '%s/conf-enabled/broken.conf' % apache.conf in broken['tls_alpn']['reason']
    finally:
        apache.stop()
