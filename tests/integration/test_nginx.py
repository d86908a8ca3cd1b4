"""nginx_alpn_stream against a real nginx: what clients see, what is on disk."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl

import harness
import pytest
from nginx_site import SITE, NginxSite, takes_connections

HANDOFFS = ['proxy_protocol', 'pass', 'plain']


@pytest.mark.parametrize('handoff', HANDOFFS)
def test_four_times_and_back(site: NginxSite, handoff: str) -> None:
    before = site.picture()
    with harness.Traffic(site.port, site.names, site.root):
        assert site.run(check=True, handoff=handoff).changed
        assert site.picture() == before
        present = site.run(handoff=handoff)
        assert present.changed and present.value['reloaded'] and present.value['handoff'] == handoff
        there = site.picture()
        assert not site.run(check=True, handoff=handoff).changed
        assert not site.run(handoff=handoff).changed
        assert site.picture() == there

        for name in site.names:
            seen = harness.get(site.port, name, source='127.0.0.9')
            assert seen.body == '%s %s\n' % (name, '127.0.0.1' if handoff == 'plain' else '127.0.0.9')
            assert seen.certificate == harness.fingerprint(site.certificates[name])
            assert harness.get(site.port, name, alpn=['h2', 'http/1.1']).protocol == 'h2'
            assert harness.get(site.port, name, address='::1').body.startswith(name)
        assert 'Location: https://' not in harness.get(site.port, 'a.example', '/away').headers
        with harness.Responder(site.acme, site.root) as responder:
            for address in ('127.0.0.1', '::1'):
                assert harness.offer(site.port, ['acme-tls/1'], address) == (responder.certificate, 'acme-tls/1')
            for protocols in (['h2', 'acme-tls/1'], ['acme-tls/1', 'http/1.1'], ['x-acme-tls/1'], ['ACME-TLS/1'], ['acme-tls/1.1']):
                assert harness.offer(site.port, protocols)[0] != responder.certificate
    if handoff == 'pass':  # nginx itself loses what has not sent its ClientHello when it reloads with `pass` in place
        assert site.run(state='absent').changed
    else:
        with harness.Traffic(site.port, site.names, site.root):
            assert site.run(state='absent', check=True).changed
            assert site.run(state='absent').changed
            assert not site.run(state='absent', check=True).changed
            gone = site.picture()
            assert not site.run(state='absent').changed
            assert site.picture() == gone
    assert site.picture().bytes == before.bytes
    assert site.answers('b.example')


@pytest.mark.parametrize(('first', 'then'), [('proxy_protocol', 'plain'), ('plain', 'proxy_protocol'), ('proxy_protocol', 'pass')])
def test_change_over(site: NginxSite, first: str, then: str) -> None:
    before = site.picture()
    assert site.run(handoff=first).changed
    with harness.Traffic(site.port, site.names, site.root):
        changed = site.run(handoff=then)
        assert changed.changed and changed.value['handoff'] == then
        assert not site.run(handoff=then).changed
    assert site.run(state='absent').changed
    assert site.picture().bytes == before.bytes


@pytest.mark.parametrize('handoff', HANDOFFS)
@pytest.mark.parametrize('options', ['', ' deferred backlog=99'])
def test_hello_in_two_segments(site: NginxSite, handoff: str, options: str) -> None:
    """Post-quantum ClientHellos are that large; with `deferred`, nginx's ssl_preread waits for the second segment in vain."""
    before = SITE % site.values('a.example')
    path = site.write('a.example', before.replace('ssl default_server;', 'ssl default_server%s;' % options))
    reload(site)
    picture = site.picture()
    assert site.run(handoff=handoff).changed
    with harness.Responder(site.acme, site.root) as responder:
        assert harness.offer_in_two(site.port, ['acme-tls/1']) == responder.certificate
    assert harness.offer_in_two(site.port, ['http/1.1']) == harness.fingerprint(site.certificates['a.example'])
    assert site.run(state='absent').changed
    assert site.picture().bytes == picture.bytes and options.encode() in path.read_bytes()


@pytest.mark.parametrize('handoff', ['proxy_protocol', 'plain'])
def test_late_hellos_survive_a_reload(site: NginxSite, handoff: str) -> None:
    """With `pass` they do not, which is why it is not the default."""
    assert site.run(handoff=handoff).changed
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    clients = [socket.create_connection(('127.0.0.1', site.port), harness.PATIENCE) for dummy in range(10)]
    reload(site)
    for client in clients:
        with context.wrap_socket(client, server_hostname='b.example') as secured:
            secured.sendall(b'GET / HTTP/1.0\r\n\r\n')
            assert secured.recv(100).startswith(b'HTTP/1.1 200')


def reload(site: NginxSite) -> None:
    """Reload without the collection; new workers are there then, and the old ones know that they are to end."""
    old = set(site.workers())
    os.kill(site.master, signal.SIGHUP)
    harness.wait_for(lambda: len(set(site.workers()) - old) == 2, 'nginx has no new workers')
    harness.wait_for(lambda: not any(map(takes_connections, old)), 'the old workers stay')


def test_another_backend_and_responder_port(site: NginxSite) -> None:
    before = site.picture()
    assert site.run().changed
    ports = harness.free_ports(5)
    with harness.Traffic(site.port, site.names, site.root):
        assert site.run(acme_port=ports[0]).changed
        assert site.run(acme_port=ports[0], backend_port=ports[1]).changed
        assert not site.run(acme_port=ports[0], backend_port=ports[1]).changed
        assert site.run(state='absent').changed
    assert site.picture().bytes == before.bytes


def test_diff_names_what_changes(site: NginxSite) -> None:
    value = site.run(check=True).value
    by_file = {entry['before_header']: entry for entry in value['diff']}
    available = str(site.conf / 'sites-available' / 'a.example')
    assert 'listen %d ssl' % site.port in by_file[available]['before']
    assert 'listen 127.0.0.1:%d ssl' % site.backend in by_file[available]['after']
    assert [entry for entry in by_file if entry.endswith('seamless-tls-alpn.conf (absent)')]
    assert {(listen['before'], listen['line']) for listen in value['listens']} == {(str(site.port), 2), ('[::]:%d' % site.port, 3)}


def test_new_site_after_the_front(site: NginxSite) -> None:
    assert site.run().changed
    site.names.append('c.example')
    site.certificates['c.example'] = harness.certificate(site.root, 'c.example')
    site.write('c.example', SITE % site.values('c.example'))
    with harness.Traffic(site.port, ['a.example', 'b.example'], site.root):
        assert site.run().changed
        assert harness.get(site.port, 'c.example').body.startswith('c.example')
        assert not site.run().changed


def test_edited_since(site: NginxSite) -> None:
    assert site.run().changed
    path = site.conf / 'sites-available' / 'b.example'
    path.write_text('# mine\n' + path.read_text().replace('http2 on;', 'http2 on; add_header X-Mine yes;'))
    assert site.run().changed
    assert site.answers('b.example')
    assert site.run(state='absent').changed
    assert path.read_text() == '# mine\n' + (SITE % site.values('b.example')).replace('http2 on;', 'http2 on; add_header X-Mine yes;')


def test_files_without_a_reload_are_not_taken_for_done(site: NginxSite) -> None:
    assert site.run(reload='none').changed
    again = site.run()
    assert again.changed and again.value['reloaded']
    assert not site.run().changed


def test_stopped_is_left_stopped(site: NginxSite) -> None:
    before = site.picture()
    site.stop()
    present = site.run()
    assert present.changed and not present.value['reloaded']
    assert not (site.root / 'nginx.pid').read_text()  # nginx -t itself leaves an empty one
    assert not site.run().changed
    site.start()
    assert harness.get(site.port, 'b.example', source='127.0.0.9').body == 'b.example 127.0.0.9\n'
    site.stop()
    assert site.run(state='absent').changed
    assert site.picture().bytes == before.bytes


def test_many_servers_in_one_file(site: NginxSite) -> None:
    text = ''.join(SITE % {**site.values('b.example'), 'name': '%d.example' % number} for number in range(40))
    path = site.write('many', text)
    with harness.Traffic(site.port, site.names, site.root):
        assert site.run().changed
        assert harness.get(site.port, '39.example', source='127.0.0.9').body == '39.example 127.0.0.9\n'
        assert site.run(state='absent').changed
    assert path.read_text() == text


def test_main_file_written_anew_by_somebody_else(site: NginxSite) -> None:
    """Configuration management puts nginx.conf back, so that nothing includes the front: present puts it right, absent takes all away."""
    before = site.picture()
    text = site.main.read_bytes()
    assert site.run().changed
    for state in ('present', 'absent'):
        site.main.write_bytes(text)
        with harness.Traffic(site.port, site.names, site.root):
            assert site.run(state=state).changed
            assert not site.run(state=state).changed
        assert harness.get(site.port, 'b.example').body == 'b.example 127.0.0.1\n'
        assert (site.conf / 'seamless-tls-alpn.conf').exists() == (state == 'present')
    assert site.picture().bytes == before.bytes


def test_site_disabled_and_enabled_again(site: NginxSite) -> None:
    before = site.picture()
    link = site.conf / 'sites-enabled' / 'b.example'
    assert site.run().changed
    link.unlink()
    assert site.run().changed
    assert not site.run().changed
    link.symlink_to('../sites-available/b.example')
    assert site.run().changed
    assert harness.get(site.port, 'b.example', source='127.0.0.9').body == 'b.example 127.0.0.9\n'
    link.unlink()
    assert site.run(state='absent').changed
    link.symlink_to('../sites-available/b.example')
    assert site.picture().bytes == before.bytes


def test_without_its_pid_file(site: NginxSite) -> None:
    master = site.master
    (site.root / 'nginx.pid').unlink()
    present = site.run()
    assert present.changed and present.value['reloaded'] and present.value['verified']
    assert harness.get(site.port, 'a.example', source='127.0.0.9').body == 'a.example 127.0.0.9\n'
    (site.root / 'nginx.pid').write_text('%d\n' % master)


def test_another_main_file_than_the_running_one(site: NginxSite) -> None:
    other = site.conf / 'other.conf'
    other.write_bytes(site.main.read_bytes())
    before = site.picture()
    assert 'does not run with %s' % other in site.run(config=str(other)).message
    assert site.picture() == before


@pytest.mark.parametrize('handoff', ['proxy_protocol', 'plain', 'pass'])
def test_client_that_ends_its_side_gets_its_answer(site: NginxSite, handoff: str) -> None:
    assert site.run(handoff=handoff).changed
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for dummy in range(30):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, server_hostname='a.example')
        with socket.create_connection(('127.0.0.1', site.port), harness.PATIENCE) as plain:
            while True:
                with contextlib.suppress(ssl.SSLWantReadError):
                    client.do_handshake()
                    break
                plain.sendall(outgoing.read())
                incoming.write(plain.recv(65536))
            client.write(b'GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n')
            plain.sendall(outgoing.read())
            plain.shutdown(socket.SHUT_WR)
            while more := plain.recv(65536):
                incoming.write(more)
            assert b'a.example' in client.read(65536)


def test_responder_at_work_is_no_proof_by_itself(site: NginxSite) -> None:
    """Somebody listens where the ACME client would; the files are there, but nginx has not loaded them: that is seen, and mended."""
    with socket.create_server(('127.0.0.1', site.acme)):
        assert site.run(reload='none').changed
        again = site.run()
        assert again.changed and again.value['reloaded']
    assert not site.run().changed


def test_sites_that_are_not_loaded_yet_are_proven(site: NginxSite) -> None:
    texts = {name: (site.conf / 'sites-available' / name).read_text() for name in site.names}
    for name in site.names:
        site.write(name, 'server { listen %d; return 204; }\n' % harness.free_ports(1)[0])
    os.kill(site.master, signal.SIGHUP)
    harness.wait_for(lambda: not site.answers('a.example'), 'nginx does not reload')
    for name, text in texts.items():
        site.write(name, text)
    present = site.run()
    assert present.value['reloaded'] and [one for one in present.value['verified'] if one['alpn'] == 'acme-tls/1']
    assert site.answers('b.example')
