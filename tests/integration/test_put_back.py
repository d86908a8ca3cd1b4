"""A front that was loaded and has to go again at once: no client fails, neither a new one nor one that has not said anything yet."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import typing as t

import harness
import nginx_site
import pytest
from servers import SERVERS, as_before, site_of

OWN_ADDRESS = """\
server {
    listen %(address)s:%(port)d ssl;
    server_name %(name)s;
    ssl_certificate %(certificate)s;
    ssl_certificate_key %(certificate)s;
    location / { return 200 "$server_name $remote_addr\\n"; }
}
"""


@contextlib.contextmanager
def ended_in_its_proof(module: str, site: t.Any, said: str = '', **arguments: t.Any) -> t.Iterator[t.Callable[[], None]]:
    """Run the module until its proof waits for the responder, and give what ends it; wait for that. ``said`` is how its message goes on."""
    with socket.create_server(('127.0.0.1', site.acme)) as silent:
        silent.settimeout(harness.PATIENCE)
        process = harness.start_module(module, site.arguments(**arguments), site.root)
        with silent.accept()[0]:
            yield lambda: os.kill(process.pid, signal.SIGTERM)
        assert re.fullmatch('interrupted by SIGTERM' + said, harness.end_module(process).message)


def serve_a_late_client(module: str, site: t.Any, name: str, address: str) -> None:
    """One that connects while the front is there, and says something when it is not."""
    with ended_in_its_proof(module, site) as end, socket.create_connection((address, site.port), harness.PATIENCE) as plain:
        front = set(site.workers())
        end()
        harness.wait_for(lambda: set(site.workers()) - front and not any(map(nginx_site.takes_connections, front)), 'it was not reloaded')
        with ssl._create_unverified_context().wrap_socket(plain, server_hostname=name) as secured:
            secured.sendall(b'GET / HTTP/1.0\r\nHost: %s\r\n\r\n' % name.encode())
            assert b' 200 ' in secured.recv(100)


@pytest.mark.parametrize('handoff', ['', 'plain'])
@pytest.mark.parametrize('module', ['nginx_alpn_stream', 'haproxy_alpn_frontend'])
def test_front_that_is_not_proven(module: str, handoff: str) -> None:
    """``handoff`` is that of a front from before, which comes back; for a moment both take connections, which must not mean different things to them."""
    with site_of(module) as site:
        site.start()
        if handoff:
            assert site.run(handoff=handoff).changed
        before = site.picture()
        for dummy in range(3):
            with harness.Traffic(site.port, ['a.example', 'b.example'], site.root, 8):
                serve_a_late_client(module, site, 'b.example', '127.0.0.1')
            as_before(site, before)
        assert site.run().changed


def test_site_on_an_address_of_its_own_since() -> None:
    """Its file sorts before the others, so that the front that comes back hands each address over to another port than the one that goes."""
    with site_of('nginx_alpn_stream') as site:
        names = {'a.example': '127.0.0.1', 'b.example': '127.0.0.2', 'c.example': '127.0.0.3'}
        certificates = {name: harness.certificate(site.root, name) for name in names}

        def write(file: str, name: str) -> None:
            site.write(file, OWN_ADDRESS % {'address': names[name], 'port': site.port, 'name': name, 'certificate': certificates[name]})

        site.backend = harness.free_ports(8)[0]
        write('a.example', 'a.example')
        write('b.example', 'b.example')
        site.start()
        assert site.run().changed
        write('0.example', 'c.example')
        os.kill(site.master, signal.SIGHUP)
        harness.wait_for(lambda: site.answers('c.example', names['c.example']), 'the new site does not answer')
        before = site.picture()
        for dummy in range(3):
            with harness.Traffic(site.port, ['a.example'], site.root, 8) as traffic:
                serve_a_late_client('nginx_alpn_stream', site, 'c.example', names['c.example'])
            assert set(traffic.counts['certificates']) == {harness.fingerprint(certificates['a.example'])}
            assert site.picture() == before


def test_haproxy_that_is_restarted_during_the_proof() -> None:
    """By somebody else. What was restarted has the front; it gives it up."""
    with site_of('haproxy_alpn_frontend') as site:
        site.start()
        before = site.picture()
        with ended_in_its_proof('haproxy_alpn_frontend', site) as end:
            site.process.send_signal(signal.SIGTERM)
            site.process.wait(harness.PATIENCE)
            site.start()
            end()
        as_before(site, before)
        with harness.Responder(site.acme, site.root):
            assert harness.offer(site.port, ['acme-tls/1'])[1] is None
        assert not site.run(state='absent').changed


@pytest.mark.parametrize('module', ['nginx_alpn_stream', 'haproxy_alpn_frontend'])
def test_program_that_is_gone_during_the_proof(module: str) -> None:
    """As while its package is upgraded. The way back needs it; what was there before comes back without."""
    with site_of(module) as site:
        site.start()
        before = site.picture()
        program = shutil.copy(SERVERS[module][1], site.root)
        said = '; what was loaded was taken away at once, so that connections may have failed, since: .*No such file or directory.*'
        with ended_in_its_proof(module, site, said, binary=program) as end:
            os.unlink(program)
            end()
        as_before(site, before)
        assert site.run().changed


def test_files_that_somebody_else_puts_back_during_the_proof() -> None:
    with site_of('haproxy_alpn_frontend') as site:
        site.start()
        before, original, new = site.picture(), site.main.read_bytes(), site.root / 'new'
        with ended_in_its_proof('haproxy_alpn_frontend', site) as end:
            new.write_bytes(original)
            new.rename(site.main)
            end()
        as_before(site, before)
        assert not site.run(state='absent').changed
