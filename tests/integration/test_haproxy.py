"""haproxy_alpn_frontend against a real HAProxy: what clients see, what is on disk."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import typing as t

import harness
import pytest
from haproxy_site import BINARY, HaproxySite
from servers import site_of

pytestmark = pytest.mark.skipif(not os.path.exists(BINARY), reason='HAProxy is not installed')
CORPUS = sorted((pathlib.Path(__file__).parents[1] / 'corpus' / 'haproxy').glob('*.cfg'))


@pytest.fixture
def site() -> t.Iterator[HaproxySite]:
    """A private HAProxy that is not started yet."""
    with site_of('haproxy_alpn_frontend') as one:
        yield one


def exchange(site: HaproxySite, data: bytes) -> bytes:
    """Send bytes that are no TLS, and give what comes back."""
    with socket.create_connection(('127.0.0.1', site.port), harness.PATIENCE) as connection:
        connection.sendall(data)
        return connection.recv(1000)


@pytest.mark.parametrize('handoff', ['abns', 'plain'])
def test_four_times_and_back(site: HaproxySite, handoff: str) -> None:
    site.start()
    before = site.picture()
    with harness.Traffic(site.port, ['a.example', 'b.example'], site.root):
        assert site.run(check=True, handoff=handoff).changed
        assert site.picture() == before
        present = site.run(handoff=handoff)
        assert present.changed and present.value['reloaded'] and present.value['handoff'] == handoff
        assert {one['result'] for one in present.value['verified'] if one['alpn'] == 'acme-tls/1'} == {'reached the responder'}
        assert {one['address'] for one in present.value['verified']} == {name % site.port for name in ('127.0.0.1:%d', '[::1]:%d', '127.0.0.2:%d')}
        there = site.picture()
        assert not site.run(check=True, handoff=handoff).changed
        assert not site.run(handoff=handoff).changed
        assert site.picture() == there

        for name, address in (('a.example', '127.0.0.1'), ('b.example', '127.0.0.1'), ('a.example', '::1'), ('c.example', '127.0.0.2')):
            seen = harness.get(site.port, name, address=address)
            client = {'::1': '::1', '127.0.0.2': '127.0.0.1'}.get(address, address)  # as the kernel chooses it
            backend = 'c' if address == '127.0.0.2' else name[0]
            if handoff == 'abns':
                assert seen.body == '%s %s %d' % (backend, client, site.port)
            else:
                assert seen.body.startswith('%s 127.0.0.1 ' % backend)
            assert seen.certificate == harness.fingerprint(site.certificates[name])
        if handoff == 'abns':
            assert harness.get(site.port, 'a.example', source='127.0.0.9').body == 'a 127.0.0.9 %d' % site.port
        assert harness.get(site.port, 'a.example', alpn=['h2', 'http/1.1']).protocol == 'h2'
        assert harness.get(site.other, 'a.example').status == 200  # the bind's other port stayed
        with harness.Responder(site.acme, site.root) as responder:
            for address in ('127.0.0.1', '::1', '127.0.0.2'):
                for dummy in range(20):
                    assert harness.offer(site.port, ['acme-tls/1'], address) == (responder.certificate, 'acme-tls/1')
            for protocols in (['h2', 'acme-tls/1'], ['acme-tls/1', 'other'], ['acme-tls/1', 'postgresql'], ['x-acme-tls/1'], ['ACME-TLS/1'], ['acme-tls/1.1']):
                assert harness.offer(site.port, protocols)[0] != responder.certificate
            assert not exchange(site, b'GET / HTTP/1.1\r\n\r\n')  # as without a front: the HTTPS side closes it
    with harness.Traffic(site.port, ['a.example', 'b.example'], site.root):
        assert site.run(state='absent', check=True).changed
        assert site.run(state='absent').changed
        assert not site.run(state='absent', check=True).changed
        gone = site.picture()
        assert not site.run(state='absent').changed
        assert site.picture() == gone
    assert site.picture().bytes == before.bytes
    assert site.answers('b.example')


@pytest.mark.parametrize('options', ['', ' defer-accept'])
def test_hello_in_two_segments(site: HaproxySite, options: str) -> None:
    """Post-quantum ClientHellos are that large; the front has to wait for the second half."""
    text = site.main.read_text()
    site.main.write_text(text.replace(' ssl crt', options + ' ssl crt'))
    site.start()
    assert site.run().changed
    with harness.Responder(site.acme, site.root) as responder:
        assert harness.offer_in_two(site.port, ['acme-tls/1']) == responder.certificate
    assert harness.offer_in_two(site.port, ['http/1.1']) == harness.fingerprint(site.certificates['a.example'])


WIKI = """\
frontend fe_alpn
  mode tcp
  bind :%(port)d
  tcp-request inspect-delay 5s
  tcp-request content accept if { req_ssl_hello_type 1 }
  use_backend bk_acmesh if { req.ssl_alpn acme-tls/1 }
  default_backend bk_https

backend bk_acmesh
  server acmesh 127.0.0.1:%(acme)d

backend bk_https
  server https 127.0.0.1:%(backend)d
"""


def test_the_well_known_recipe_fails_here(site: HaproxySite) -> None:
    """`mode http` in Debian's defaults breaks it, and `haproxy -c` calls it valid; the module's front serves on the very same configuration."""
    original = site.main.read_text()
    binds = re.sub(r'bind [^ ]+:%d\S*( v6only)?' % site.port, 'bind 127.0.0.1:%d' % site.backend, original, count=1)
    site.main.write_text(re.sub(r'\tbind [^ ]+:%d .*\n' % site.port, '', binds) + WIKI % {'port': site.port, 'acme': site.acme, 'backend': site.backend})
    check = subprocess.run([BINARY, '-c', '-f', str(site.main)], capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stderr
    with pytest.raises(AssertionError, match='HAProxy does not answer'), pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, 'PATIENCE', 3)
        site.start()
    with pytest.raises(ssl.SSLError, match='(?i)wrong.version.number|record layer failure'):
        harness.get(site.port, 'a.example')
    site.process.send_signal(signal.SIGTERM)
    site.process.wait(harness.PATIENCE)
    site.main.write_text(original)
    site.start()
    assert site.run().changed
    assert harness.get(site.port, 'a.example').status == 200


def test_left_over_bind(site: HaproxySite) -> None:
    """Another frontend on the same address: the kernel shares connections out, and without care half of the challenges miss the front."""
    with open(site.main, 'a', encoding='ascii') as stream:
        stream.write('\nfrontend forgotten\n\tbind 127.0.0.1:%(port)d ssl crt %(a)s\n\tdefault_backend a\n' % site.values)
    site.start()
    result = site.run()
    assert result.changed
    assert len(result.value['binds']) == 4
    with harness.Responder(site.acme, site.root) as responder:
        assert {harness.offer(site.port, ['acme-tls/1'])[0] for dummy in range(60)} == {responder.certificate}


def test_left_over_bind_of_another_process(site: HaproxySite) -> None:
    """A second HAProxy on the same address takes some of the challenges: the proof shows it, and everything is put back."""
    site.start()
    other = site.root / 'other.cfg'
    other.write_text(
        'defaults\n mode http\n timeout client 9s\n timeout server 9s\n timeout connect 9s\n'
        'frontend f\n bind 127.0.0.1:%(port)d ssl crt %(a)s crt %(b)s\n http-request return status 200\n' % site.values
    )
    second = subprocess.Popen([BINARY, '-W', '-db', '-f', str(other)], stderr=subprocess.DEVNULL)
    try:
        harness.wait_for(lambda: harness.get(site.port, 'a.example').body == '', 'the second HAProxy gets no connection')
        before = site.picture()
        assert 'did not reach the responder' in site.run().message
        assert site.picture() == before
    finally:
        second.terminate()
        second.wait(harness.PATIENCE)
    assert site.run().changed


@pytest.mark.parametrize(('first', 'then'), [('abns', 'plain'), ('plain', 'abns')])
def test_change_over(site: HaproxySite, first: str, then: str) -> None:
    site.start()
    before = site.picture()
    assert site.run(handoff=first).changed
    with harness.Traffic(site.port, ['a.example', 'b.example'], site.root):
        changed = site.run(handoff=then)
        assert changed.changed and changed.value['handoff'] == then
        assert not site.run(handoff=then).changed
        assert site.run(handoff=then, frontend=site.frontend + '_x').changed
    assert site.run(state='absent').changed
    assert site.picture().bytes == before.bytes


def test_several_sources(site: HaproxySite) -> None:
    """`-f` of a file and of a directory: the front gets a file of its own there, in front of the first defaults."""
    text = site.main.read_text()
    parts = site.conf / 'conf.d'
    parts.mkdir()
    site.main.write_text('global\n\tmaxconn 2000\n')
    defaults, sites = text[text.index('defaults') :].split('frontend', 1)
    (parts / '10-defaults.cfg').write_text(defaults)
    (parts / '20-sites.cfg').write_text('frontend' + sites)
    (parts / '.hidden.cfg').write_text('nonsense\n')
    site.start('-f', str(site.main), '-f', str(parts))
    before = site.picture()
    assert site.run().changed
    assert (parts / '00-tls-alpn.cfg').exists()
    assert not site.run().changed
    with harness.Responder(site.acme, site.root) as responder:
        assert harness.offer(site.port, ['acme-tls/1'])[0] == responder.certificate
    assert site.run(state='absent').changed
    assert site.picture().bytes == before.bytes


def test_environment_and_conditions(site: HaproxySite) -> None:
    """The port comes from HAProxy's own environment, and a bind from a branch that is not taken is not missed."""
    text = site.main.read_text().replace('127.0.0.2:%d' % site.port, '"127.0.0.2:${HTTPS}"')
    site.main.write_text(text.replace('listen c\n', 'listen c\n.if defined(NOWHERE)\n\tbind 127.0.0.3:%(port)d ssl crt %(c)s\n.endif\n' % site.values))
    site.start(HTTPS=str(site.port))
    before = site.picture()
    result = site.run()
    assert result.changed
    assert len(result.value['binds']) == 4
    with harness.Responder(site.acme, site.root) as responder:
        assert harness.offer(site.port, ['acme-tls/1'], '127.0.0.2')[0] == responder.certificate
    assert site.run(state='absent').changed
    assert site.picture().bytes == before.bytes


def test_behind_a_load_balancer(site: HaproxySite) -> None:
    """A bind that expects the PROXY protocol goes on to do so, and the address it tells gets through."""
    site.main.write_text(site.main.read_text().replace('127.0.0.2:%d ssl' % site.port, '127.0.0.2:%d accept-proxy ssl' % site.port))
    site.start()
    result = site.run()
    assert result.changed
    assert any(one['address'].startswith('127.0.0.2') and one['alpn'] == 'acme-tls/1' for one in result.value['verified'])
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(('127.0.0.2', site.port), harness.PATIENCE) as plain:
        plain.sendall(b'PROXY TCP4 198.51.100.7 203.0.113.1 40000 443\r\n')
        with context.wrap_socket(plain, server_hostname='c.example') as secured:
            secured.sendall(b'GET / HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n')
            received = b''
            while not received.endswith(b'443'):
                more = secured.recv(4096)
                assert more, received
                received += more
    assert received.endswith(b'c 198.51.100.7 443')


def test_idle_connection_survives(site: HaproxySite) -> None:
    """A connection made before the front is there outlives its coming and going (as long as the old worker's timeouts let it)."""
    site.start()
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(('127.0.0.1', site.port), harness.PATIENCE) as plain, context.wrap_socket(plain, server_hostname='a.example') as secured:
        assert site.run().changed
        secured.sendall(b'GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
        assert secured.recv(4096).startswith(b'HTTP/1.1 200')


def test_renewed_certificate(site: HaproxySite) -> None:
    """What was renewed on disk since the last reload may be served after it; that is no reason to put everything back."""
    site.start()
    other = site.root / 'other'
    other.mkdir()
    site.certificates['a.example'].write_bytes(harness.certificate(other, 'a.example').read_bytes())
    assert site.run().changed
    assert harness.get(site.port, 'a.example').certificate == harness.fingerprint(site.certificates['a.example'])


def test_nginx_on_the_same_host(site: HaproxySite) -> None:
    """Each module has its own server and leaves the other alone."""
    with site_of('nginx_alpn_stream') as nginx:
        nginx.start()
        site.start()
        before = nginx.picture()
        assert site.run().changed
        assert nginx.picture() == before and nginx.answers('a.example')
        assert 'port %d' % site.port in nginx.run(https_port=site.port).message
        there = site.picture()
        assert nginx.run().changed and nginx.answers('a.example')
        assert site.picture() == there and site.answers('a.example')
        assert site.run(state='absent').changed
        assert nginx.answers('a.example')


def test_stopped(site: HaproxySite) -> None:
    """It is checked and left stopped; started later, the front is there."""
    before = site.picture()
    result = site.run()
    assert result.changed and not result.value['reloaded'] and not result.value['verified']
    assert not site.run().changed
    site.start()
    with harness.Responder(site.acme, site.root) as responder:
        assert harness.offer(site.port, ['acme-tls/1'])[0] == responder.certificate
    site.process.send_signal(signal.SIGTERM)
    site.process.wait(harness.PATIENCE)
    assert site.run(state='absent').changed
    assert site.picture().bytes == before.bytes


def test_reload_none(site: HaproxySite) -> None:
    """Only the files change; the next run with a reload sees that HAProxy has not loaded them."""
    site.start()
    workers = site.workers()
    result = site.run(reload='none')
    assert result.changed and not result.value['reloaded']
    assert site.workers() == workers
    assert not site.run(reload='none').changed
    result = site.run()
    assert result.changed and result.value['reloaded'] and not result.value['diff']
    assert not site.run().changed


def test_backup(site: HaproxySite) -> None:
    site.start()
    original = site.main.read_bytes()
    result = site.run(backup_dir=str(site.root / 'backup'))
    assert pathlib.Path(result.value['backup'] + str(site.main)).read_bytes() == original
    assert 'backup' not in site.run(backup_dir=str(site.root / 'backup')).value


@pytest.mark.parametrize('path', CORPUS, ids=lambda path: path.stem)
def test_corpus(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """HAProxy accepts every configuration of the corpus before, with the front, and half way down."""
    (tmp_path / 'maps').mkdir()
    (tmp_path / 'maps' / 'hosts.map').write_text('')
    certificates = tmp_path / 'certs'
    certificates.mkdir()
    pem = harness.certificate(tmp_path, 'x.example').read_bytes()
    for name in {*re.findall(r'/etc/haproxy/certs/([\w.-]+\.pem)', path.read_text('latin-1')), 'any.pem'}:
        (certificates / name).write_bytes(pem)
    (certificates / 'any.pem').rename(tmp_path / 'any.pem')
    (tmp_path / 'list.txt').write_text('%s [alpn h2] x.example\n' % (tmp_path / 'any.pem'))
    text = path.read_bytes().replace(b'/etc/haproxy/certs/list.txt', os.fsencode(tmp_path / 'list.txt'))
    text = text.replace(b'/etc/haproxy/certs/', os.fsencode(certificates) + b'/').replace(b'/etc/haproxy/maps', os.fsencode(tmp_path / 'maps'))
    if b'certs/ ' in path.read_bytes():
        (certificates / 'any.pem').write_bytes(pem)
    file = tmp_path / 'haproxy.cfg'
    file.write_bytes(text)
    result = harness.run_module('haproxy_alpn_frontend', {'config': [str(file)], 'binary': BINARY}, tmp_path)
    assert result.changed
    assert not harness.run_module('haproxy_alpn_frontend', {'config': [str(file)], 'binary': BINARY}, tmp_path).changed
    assert harness.run_module('haproxy_alpn_frontend', {'config': [str(file)], 'binary': BINARY, 'state': 'absent'}, tmp_path).changed
    assert file.read_bytes() == text
