"""A front that was loaded and has to go again at once: no client fails, neither a new one nor one that has not said anything yet."""

from __future__ import annotations

import os
import signal
import socket
import ssl

import harness
import nginx_site
import pytest
from servers import as_before, site_of


@pytest.mark.parametrize('handoff', ['', 'plain'])
@pytest.mark.parametrize('module', ['nginx_alpn_stream', 'haproxy_alpn_frontend'])
def test_front_that_is_not_proven(module: str, handoff: str) -> None:
    """The run is ended while its proof waits for the responder. ``handoff`` is that of a front from before, which comes back."""
    with site_of(module) as site:
        site.start()
        if handoff:
            assert site.run(handoff=handoff).changed
        before = site.picture()
        with socket.create_server(('127.0.0.1', site.acme)) as silent, harness.Traffic(site.port, ['a.example', 'b.example'], site.root):
            silent.settimeout(harness.PATIENCE)
            process = harness.start_module(module, site.arguments(), site.root)
            with silent.accept()[0], socket.create_connection(('127.0.0.1', site.port), harness.PATIENCE) as plain:
                front = set(site.workers())
                os.kill(process.pid, signal.SIGTERM)
                harness.wait_for(lambda: set(site.workers()) - front and not any(map(nginx_site.takes_connections, front)), 'it was not reloaded')
                with ssl._create_unverified_context().wrap_socket(plain, server_hostname='b.example') as secured:
                    secured.sendall(b'GET / HTTP/1.0\r\nHost: b.example\r\n\r\n')
                    assert b' 200 ' in secured.recv(100)
            assert 'interrupted by SIGTERM' in harness.end_module(process).message
        as_before(site, before)
        assert site.run().changed
