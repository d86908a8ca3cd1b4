"""apache_alpn_responder against a real httpd: what clients see, what is on disk."""

from __future__ import annotations

import pathlib
import signal
import socket
import subprocess
import typing as t
import urllib.request

import harness
import pytest
from apache_site import BINARY, MODULES, ApacheSite
from servers import as_before, site_of

pytestmark = pytest.mark.skipif(not pathlib.Path(BINARY).exists(), reason='Debian package apache2 is not installed')


@pytest.fixture
def site() -> t.Iterator[ApacheSite]:
    with site_of('apache_alpn_responder') as one:
        one.start()
        yield one


def offered(site: ApacheSite, name: str) -> bool:
    """Whether a client that offers acme-tls/1 gets it."""
    client = ['openssl', 's_client', '-connect', '127.0.0.1:%d' % site.port, '-servername', name, '-alpn', 'acme-tls/1']
    return 'ALPN protocol: acme-tls/1' in subprocess.run(client, stdin=subprocess.DEVNULL, check=False, capture_output=True, text=True).stdout


def test_four_times_and_back(site: ApacheSite) -> None:
    before = site.picture()
    with harness.Traffic(site.port, site.names, site.root):
        planned = site.run(check=True)
        assert planned.changed
        assert site.picture() == before
        present = site.run()
        assert present.changed and present.value['reloaded']
        assert present.value['diff'] == planned.value['diff']
        there = site.picture()
        assert not site.run(check=True).changed
        assert not site.run().changed
        assert site.picture() == there

        assert present.value['public'] == ['127.0.0.1:%d' % site.port, '[::1]:%d' % site.port]
        assert [host['names'] for host in present.value['virtual_hosts']] == [['a.example'], ['b.example']]
        a, b = ((site.conf / 'sites-available' / name).read_text() for name in ('a.conf', 'b.conf'))
        assert '    Protocols h2 http/1.1 acme-tls/1\n' in a
        assert '<VirtualHost *:%d>\n    Protocols http/1.1 acme-tls/1\n    ServerName' % site.port in b
        for name in site.names:
            seen = harness.get(site.port, name)
            assert (seen.body, seen.certificate) == (name + '\n', site.fingerprint(name))
        assert harness.get(site.port, 'a.example', alpn=['h2', 'http/1.1']).protocol == 'h2'
        assert harness.get(site.port, 'b.example', alpn=['h2', 'http/1.1']).protocol == 'http/1.1'

        assert site.run(check=True, state='absent').changed
        assert site.picture() == there
        assert site.run(state='absent').changed
        assert site.picture().bytes == before.bytes
        assert not site.run(check=True, state='absent').changed
        assert not site.run(state='absent').changed


def test_chosen_virtual_hosts(site: ApacheSite) -> None:
    before = site.picture()
    assert site.run(virtual_hosts=['b.example']).changed
    assert [offered(site, name) for name in site.names] == [False, True]
    assert site.run(virtual_hosts=['a.example']).changed
    assert [offered(site, name) for name in site.names] == [True, False]
    assert 'c.example: no virtual host' in site.run(virtual_hosts=['c.example']).message
    assert site.run(state='absent').changed
    assert site.picture().bytes == before.bytes


def test_hard_configuration(site: ApacheSite) -> None:
    """Several hosts in one file, conditions, continued lines, CRLF, bytes that are no UTF-8, includes, globs, a host without a name."""
    (site.conf / 'parts').mkdir()
    (site.conf / 'parts' / 'tls.inc').write_text(
        'SSLEngine on\nSSLCertificateFile %(r)s/b.example.crt\nSSLCertificateKeyFile %(r)s/b.example.key\n' % {'r': site.root}
    )
    (site.conf / 'parts' / 'protocols.inc').write_text('Protocols \\\n  h2 \\\n  http/1.1\n')
    include = 'IncludeOptional parts/t*.inc\nInclude parts/protocols.inc\n'
    text = 'Define NAME c.example\n<IfModule ssl_module>\n<VirtualHost \\\n  *:%d [::]:%d>\n  ServerName ${NAME}\n  # \xe4\n%s</VirtualHost>\n</IfModule>\n'
    text += '<IfDefine !NOTHING>\n<VirtualHost _default_:%d>\n  ServerName d.example\n%s</VirtualHost>\n</IfDefine>\n<VirtualHost *:%d>\n%s</VirtualHost>\n'
    text += '<IfDefine NOTHING>\n<VirtualHost *:%d>\n  Nonsense\n</VirtualHost>\n</IfDefine>'
    text %= (site.port, site.port, include, site.port, include.splitlines()[0] + '\n', site.port, include, site.port)
    path = site.write('hard', text.replace('\n', '\r\n').encode('latin-1'))
    site.graceful()
    before = site.picture()
    present = site.run()
    assert present.changed
    assert (site.conf / 'parts' / 'protocols.inc').read_text() == 'Protocols \\\n  h2 \\\n  http/1.1 acme-tls/1\n'
    assert path.read_bytes().count(b'acme-tls/1') == 1 and b'_default_:%d>\r\n  Protocols http/1.1 acme-tls/1\r\n' % site.port in path.read_bytes()
    assert [host['names'] for host in present.value['virtual_hosts']] == [['a.example'], ['b.example'], ['c.example'], ['d.example'], []]
    assert all(offered(site, name) for name in ('a.example', 'b.example', 'c.example', 'd.example'))
    assert not site.run().changed
    assert site.run(state='absent').changed
    assert site.picture().bytes == before.bytes


def test_macro_is_refused_with_its_place(site: ApacheSite) -> None:
    load = 'LoadModule macro_module %s/mod_macro.so\n<Macro Site $name>\n%s</Macro>\nUse Site m.example\n'
    site.write('macro', load % (MODULES, site.site('$name').replace('$name.', 'a.example.').replace('html/$name', 'html')))
    before = site.picture()
    assert 'sites-enabled/macro.conf":1: ' in site.run().message
    as_before(site, before)
    assert site.run(virtual_hosts=['a.example', 'b.example']).changed


def test_main_file_without_includes_for_us(site: ApacheSite) -> None:
    text = site.main.read_text()
    site.main.write_text(
        text.replace('IncludeOptional conf-enabled/*.conf\n', '')
        .replace('mods-enabled/*.conf', 'mods-enabled/ssl.conf')
        .replace('sites-enabled/*.conf', 'sites-enabled/[abp]*.conf')
    )
    site.graceful()
    before = site.picture()
    assert site.run().changed
    assert site.main.read_text().endswith('\nIncludeOptional "%s"\n' % (site.conf / 'seamless-tls-alpn.conf'))
    assert all(offered(site, name) for name in site.names)
    site.stop()
    site.start()  # what is on disk is what runs
    assert all(offered(site, name) for name in site.names)
    assert not site.run().changed
    assert site.run(state='absent').changed
    assert site.picture().bytes == before.bytes


MANAGED = """\
MDStoreDir ../store
MDPrivateKeys secp384r1 rsa2048
<MDomain b.example>
    MDCertificateFile %(root)s/b.example.crt
    MDCertificateKeyFile %(root)s/b.example.key
</MDomain>
"""


def test_mod_md_in_use(site: ApacheSite) -> None:
    """Where mod_md is loaded already nothing is loaded, and its own work goes on; what others serve for http-01 is left alone, too."""
    (site.conf / 'mods-enabled' / 'md.load').write_text('LoadModule md_module %s/mod_md.so\n' % MODULES)
    (site.conf / 'conf-enabled' / 'md.conf').write_text(MANAGED % {'root': site.root})
    challenge = site.root / 'html' / '.well-known' / 'acme-challenge'
    challenge.mkdir(parents=True)
    (challenge / 'token').write_text('of somebody else\n')
    site.graceful()
    before = site.picture()
    present = site.run()
    assert present.changed and present.value['store'] == str(site.root / 'store')
    assert all(offered(site, name) and site.answers(name) for name in site.names)
    assert b'LoadModule' not in (site.conf / 'conf-enabled' / 'seamless-tls-alpn.conf').read_bytes()
    with urllib.request.urlopen('http://127.0.0.1:%d/.well-known/acme-challenge/token' % site.plain, timeout=harness.PATIENCE) as answer:
        assert answer.read() == b'of somebody else\n'
    assert site.run(state='absent').changed
    assert site.picture().bytes == before.bytes


def test_stopped(site: ApacheSite) -> None:
    """A stopped Apache is changed, checked and left stopped, also where its run directory is not there yet (made by apachectl)."""
    site.stop()
    (site.root / 'run').rename(site.root / 'away')
    present = site.run()
    assert present.changed and not present.value['reloaded']
    assert present.value['public'] == ['127.0.0.1:%d' % site.port, '[::1]:%d' % site.port]
    assert not site.run().changed
    (site.root / 'away').rename(site.root / 'run')
    site.start()
    assert all(offered(site, name) for name in site.names)


def test_files_right_but_not_loaded(site: ApacheSite) -> None:
    assert site.run(reload='none').changed
    assert not offered(site, 'a.example')
    again = site.run()
    assert again.changed and again.value['reloaded'] and again.value['diff'] == []
    assert offered(site, 'a.example')
    assert not site.run().changed


def test_defines_of_the_running_httpd(site: ApacheSite) -> None:
    site.write('defined', '<IfDefine EXTRA>\n%s</IfDefine>\n' % site.site('b.example').replace('ServerName b', 'ServerName x'))
    site.stop()
    site.command('-D', 'EXTRA', '-k', 'start')
    harness.wait_for(lambda: site.answers('a.example'), 'Apache does not answer')
    assert site.run().changed
    assert offered(site, 'x.example')


def test_backup(site: ApacheSite) -> None:
    present = site.run(backup_dir=str(site.root / 'backup'))
    kept = {path.name for path in pathlib.Path(present.value['backup']).rglob('*') if path.is_file()}
    assert kept == {'a.conf', 'b.conf'}


def test_broken_before(site: ApacheSite) -> None:
    site.write('broken', 'Nonsense\n')
    before = site.picture()
    assert "Invalid command 'Nonsense'" in site.run().message
    as_before(site, before)


def test_reload_that_would_end_apache(site: ApacheSite) -> None:
    """`httpd -t` accepts what makes httpd end at the next graceful restart: these are refused before anything is touched."""
    key = site.root / 'b.example.key'
    own = key.read_bytes()
    key.write_bytes((site.root / 'a.example.key').read_bytes())
    before = site.picture()
    assert 'is not the key of' in site.run().message
    as_before(site, before)
    key.write_bytes(own)

    with socket.create_server(('127.0.0.1', 0)) as taken:
        ports = site.conf / 'ports.conf'
        text = ports.read_text()
        ports.write_text(text + 'Listen 127.0.0.1:%d\n' % taken.getsockname()[1])
        before = site.picture()
        assert '/ports.conf:3: port ' in site.run().message
        as_before(site, before)
        ports.write_text(text)
    assert site.run().changed


def test_apache_that_ends_is_started_again(site: ApacheSite) -> None:
    """What nobody could know: with mod_md httpd can't make its store, and ends. The files are put back and it is started again."""
    (site.conf / 'conf-enabled' / 'zz.conf').write_text('<IfModule md_module>\nMDStoreDir /dev/null/store\n</IfModule>\n')
    site.graceful()
    before = site.picture()
    assert 'Apache ended when it was to reload' in site.run().message
    harness.wait_for(lambda: site.answers('a.example'), 'Apache does not answer any more')
    as_before(site, before)


@pytest.mark.parametrize('state', ['present', 'absent'])
@pytest.mark.parametrize('rename', [1, 2, 4])
def test_killed(site: ApacheSite, rename: int, state: str) -> None:
    before = site.picture()
    if state == 'absent':
        assert site.run().changed
    result = harness.run_module('apache_alpn_responder', site.arguments(state=state), site.root, FAULT='kill@%d:rename' % rename)
    assert result.code in (0, -signal.SIGKILL)
    assert all(site.answers(name) for name in site.names)
    again = site.run(state=state)
    assert again.changed == (result.code != 0)
    assert not site.run(state=state).changed
    if state == 'absent':
        assert site.picture().bytes == before.bytes
    assert offered(site, 'b.example') == (state == 'present')


def test_site_disabled_since_and_enabled_again(site: ApacheSite) -> None:
    before = site.picture()
    link = site.conf / 'sites-enabled' / 'b.conf'
    target = link.readlink()
    assert site.run().changed
    link.unlink()
    site.graceful()
    assert site.run().changed
    assert not site.run().changed
    link.symlink_to(target)
    site.graceful()
    assert site.run().changed
    link.unlink()
    site.graceful()
    assert site.run(state='absent').changed
    link.symlink_to(target)
    assert site.picture().bytes == before.bytes


def test_acme_tls_of_the_operators_own(site: ApacheSite) -> None:
    """Written by hand, but with no mod_md nobody answers it; absent leaves it so."""
    site.write('b', site.site('b.example', '    Protocols http/1.1 acme-tls/1\n'))
    site.graceful()
    before = site.picture()
    assert site.run().changed
    assert offered(site, 'b.example')
    assert site.run(state='absent').changed
    assert site.picture().bytes == before.bytes
    assert site.answers('b.example')


def test_virtual_host_without_a_certificate(site: ApacheSite) -> None:
    """`httpd -t` accepts it, but a reload would end httpd: refused before anything is touched."""
    text = site.site('c.example')
    site.write('c', ''.join(line + '\n' for line in text.splitlines() if 'SSLCertificate' not in line))
    before = site.picture()
    assert 'without a certificate' in site.run().message
    as_before(site, before)
