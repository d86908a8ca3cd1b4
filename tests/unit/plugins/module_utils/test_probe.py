# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Handshakes with real TLS servers on loopback, and what reaches the responder."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import re
import socket
import ssl
import subprocess
import threading
import typing as t

import pytest
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _probe
from ansible_collections.seamless.tls_alpn.plugins.module_utils._probe import ACME, Endpoint, Responder, handshake
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed


class Listener:
    """Accepts connections on 127.0.0.1 and gives each to ``serve``, in a thread of its own."""

    def __init__(self) -> None:
        self._socket = socket.create_server(('127.0.0.1', 0), backlog=64)
        self.port: int = self._socket.getsockname()[1]
        self.endpoint = Endpoint('127.0.0.1', self.port)
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> t.Any:
        return self

    def __exit__(self, *dummy: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._socket.accept()[0],), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self.serve(connection)

    def serve(self, connection: socket.socket) -> None:
        """Close at once."""


class Site(Listener):
    """A TLS server with a certificate; ``proxied``: it takes a PROXY protocol line first."""

    def __init__(self, certificate: pathlib.Path, protocols: t.Sequence[str] = (), proxied: bool = False) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate)
        if protocols:
            self.context.set_alpn_protocols(list(protocols))
        self.names: list[str | None] = []
        self.lines: list[bytes] = []
        self._proxied = proxied
        self.context.sni_callback = lambda dummy, name, dummy2: self.names.append(name)
        super().__init__()
        self.endpoint = self.endpoint._replace(proxied=proxied)

    def serve(self, connection: socket.socket) -> None:
        if self._proxied:
            line = b''
            while not line.endswith(b'\r\n'):
                line += connection.recv(1)
            self.lines.append(line)
        with self.context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(1)


class Relay(Listener):
    """Hands what it gets on to a port, ``before`` first, in pieces of ``piece`` bytes."""

    def __init__(self, port: int, before: bytes = b'', piece: int = 65536) -> None:
        self._to, self._before, self._piece = port, before, piece
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        with socket.create_connection(('127.0.0.1', self._to)) as onward:
            onward.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            onward.sendall(self._before)
            back = threading.Thread(target=self._copy, args=(onward, connection), daemon=True)
            back.start()
            self._copy(connection, onward)
            back.join()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = source.recv(self._piece)
                if not data:
                    break
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


class Alert(Listener):
    """Answers every ClientHello with the alert no_application_protocol (RFC 7301), as a web server without the protocol does."""

    def serve(self, connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b'\x15\x03\x03\x00\x02\x02\x78')


@pytest.fixture(scope='module')
def certificates(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    """Two self-signed certificates, each behind its key in one file."""
    made = []
    for name in ('one', 'two'):
        path = tmp_path_factory.mktemp(name) / 'site.pem'
        command = ['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2', '-subj', '/CN=%s.example' % name]
        subprocess.run([*command, '-keyout', str(path), '-out', str(path) + '.crt'], check=True, capture_output=True)
        with open(path, 'ab') as stream:
            stream.write(pathlib.Path(str(path) + '.crt').read_bytes())
        made.append(path)
    return made


@pytest.fixture
def closed() -> t.Iterator[Endpoint]:
    """A port where nobody listens (it stays bound, so that nobody else gets it)."""
    with socket.socket() as one:
        one.bind(('127.0.0.1', 0))
        yield Endpoint('127.0.0.1', one.getsockname()[1])


def a_port() -> int:
    with socket.socket() as one:
        one.bind(('127.0.0.1', 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize(
    ('offered', 'known', 'negotiated'),
    [
        (['h2', 'http/1.1'], ['h2', 'http/1.1'], 'h2'),
        (['h2', 'http/1.1'], ['http/1.1'], 'http/1.1'),
        (['h2', 'http/1.1'], [], None),
        ([ACME], [ACME], ACME),
        ([ACME], ['http/1.1'], None),
        ([], ['http/1.1'], None),
    ],
)
def test_alpn(certificates: list[pathlib.Path], offered: list[str], known: list[str], negotiated: str | None) -> None:
    with Site(certificates[0], known) as site:
        made = handshake(site.endpoint, 'one.example', offered)
    assert (made.negotiated, made.alpn, made.error) == (negotiated, ','.join(offered), None)
    der = ssl.PEM_cert_to_DER_cert(pathlib.Path(str(certificates[0]) + '.crt').read_text())
    assert made.certificate == _probe.certificate_in(str(certificates[0])) == hashlib.sha256(der).hexdigest()


@pytest.mark.parametrize(('asked', 'seen'), [('one.example', 'one.example'), ('', None)])
def test_sni(certificates: list[pathlib.Path], asked: str, seen: str | None) -> None:
    with Site(certificates[0]) as site:
        assert handshake(site.endpoint, asked).error is None
        assert site.names == [seen]


def test_errors_are_given_not_raised(certificates: list[pathlib.Path], closed: Endpoint) -> None:
    with Listener() as silent:
        for endpoint, name in ((closed, ''), (silent.endpoint, 'a'), (silent.endpoint, 'a' * 300)):
            made = handshake(endpoint, name)
            assert made.error and made.certificate is None and made.negotiated is None
            assert made.report()['result'] == made.error


def test_proxy_protocol_comes_first(certificates: list[pathlib.Path]) -> None:
    with Site(certificates[0], proxied=True) as site:
        assert handshake(site.endpoint, 'a').error is None
        assert re.fullmatch(rb'PROXY TCP4 127\.0\.0\.1 127\.0\.0\.1 \d+ %d\r\n' % site.port, site.lines[0])
        assert handshake(site.endpoint._replace(proxied=False), 'a', timeout=0.5).error


def test_report(certificates: list[pathlib.Path]) -> None:
    with Site(certificates[0], ['h2']) as site:
        made = handshake(site.endpoint, 'a')
    digest = _probe.certificate_in(str(certificates[0])) or ''
    assert made.report() == {
        'address': '127.0.0.1:%d' % site.port, 'sni': 'a', 'alpn': 'h2,http/1.1', 'negotiated': 'h2', 'result': 'certificate ' + digest[:16]
    }  # fmt: skip
    assert str(Endpoint('::1', 443)) == '[::1]:443'


def test_certificate_in(tmp_path: pathlib.Path) -> None:
    path = tmp_path / 'x.pem'
    assert _probe.certificate_in(str(path)) is None
    for text in ('', '-----BEGIN CERTIFICATE-----\n', '-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n'):
        path.write_text(text)
        assert _probe.certificate_in(str(path)) is None


@pytest.mark.parametrize('piece', [65536, 7])
def test_responder_is_reached(piece: int) -> None:
    port = a_port()
    with Responder('127.0.0.1', port) as here, Relay(port, piece=piece) as relay:
        assert here.listening
        for _number in range(3):
            made = here.reached_through(relay.endpoint)
            assert (made.error, made.negotiated, made.alpn) == (None, ACME, ACME)
            assert made.report()['result'] == 'reached the responder'


@pytest.mark.parametrize('before', [b'PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n', b'\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c' + b'\x01' * 12, b'\x00'])
def test_anything_before_the_client_hello_is_seen(before: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A responder such as openssl s_server understands no PROXY protocol: with its header the handshake has not reached it."""
    monkeypatch.setattr(_probe, 'TIMEOUT', 0.5)
    port = a_port()
    with Responder('127.0.0.1', port) as here, Relay(port, before) as relay:
        assert 'did not reach the responder' in str(here.reached_through(relay.endpoint).error)


def test_responder_is_not_reached(certificates: list[pathlib.Path], closed: Endpoint) -> None:
    with Responder('127.0.0.1', a_port()) as here, Site(certificates[0], ['http/1.1']) as site, Site(certificates[0], [ACME]) as other, Listener() as silent:
        for endpoint in (site.endpoint, other.endpoint, silent.endpoint, closed):
            made = here.reached_through(endpoint)
            assert 'did not reach the responder' in str(made.error) and made.negotiated is None


def test_somebody_else_is_the_responder(certificates: list[pathlib.Path]) -> None:
    """An ACME client at work has the port: it chooses acme-tls/1 or is busy; the web server answers otherwise."""
    with Site(certificates[1], [ACME]) as client, Responder('127.0.0.1', client.port) as here:
        assert not here.listening
        assert here.reached_through(client.endpoint).error is None
        with Site(certificates[0], ['http/1.1']) as site, Site(certificates[0]) as old, Alert() as strict, Listener() as busy:
            assert 'answered by the web server' in str(here.reached_through(site.endpoint).error)
            assert 'answered by the web server' in str(here.reached_through(old.endpoint).error)
            assert here.reached_through(strict.endpoint).error
            assert here.reached_through(busy.endpoint).error is None


def test_responder_at_an_address_that_is_not_of_this_host() -> None:
    with Responder('192.0.2.1', 10443) as here:
        assert not here.listening


def test_responder_gives_its_port_back() -> None:
    port = a_port()
    for _number in range(2):
        with Responder('127.0.0.1', port) as here:
            assert here.listening
    assert _probe.is_free('127.0.0.1', port)


def test_prove_same_site(certificates: list[pathlib.Path]) -> None:
    port = a_port()
    with Site(certificates[0], ['h2']) as site, Relay(port) as relay:
        before = _probe.look([site.endpoint], ['', 'one.example'])
        made = _probe.prove(before, [relay.endpoint], ('127.0.0.1', port), tries=2)
    assert [(one.sni, one.negotiated, one.error) for one in made[:2]] == [('', 'h2', None), ('one.example', 'h2', None)]
    assert [(one.endpoint, one.negotiated) for one in made[2:]] == [(relay.endpoint, ACME)]


def test_prove_another_certificate(certificates: list[pathlib.Path]) -> None:
    with Site(certificates[0]) as site, Site(certificates[1]) as other:
        before = [one._replace(endpoint=other.endpoint) for one in _probe.look([site.endpoint], ['a'])]
        with pytest.raises(Failed, match=r'SNI a: before: certificate [0-9a-f]{16}; now: certificate [0-9a-f]{16}'):
            _probe.prove(before, [], None, timeout=0)
        renewed = {_probe.certificate_in(str(certificates[1])) or ''}
        assert _probe.prove(before, [], None, renewed, timeout=0)[0].certificate in renewed


def test_prove_site_that_rejected_before(certificates: list[pathlib.Path]) -> None:
    with Listener() as rejects, Site(certificates[0]) as site:
        before = _probe.look([rejects.endpoint], [''])
        assert before[0].certificate is None
        assert _probe.prove(before, [], None, timeout=0)[0].error
        with pytest.raises(Failed, match='SNI none'):
            _probe.prove([before[0]._replace(endpoint=site.endpoint)], [], None, timeout=0)


def test_prove_site_that_is_gone(certificates: list[pathlib.Path], closed: Endpoint) -> None:
    with Site(certificates[0]) as site:
        before = [one._replace(endpoint=closed) for one in _probe.look([site.endpoint], ['a'])]
    with pytest.raises(Failed, match='now: .*refused'):
        _probe.prove(before, [], None, timeout=0)


def test_prove_challenge_that_goes_to_the_site(certificates: list[pathlib.Path]) -> None:
    with Site(certificates[0]) as site:
        before = _probe.look([site.endpoint], ['a'])
        with pytest.raises(Failed, match='127.0.0.1:%d, acme-tls/1: the handshake did not reach the responder' % site.port):
            _probe.prove(before, [site.endpoint], ('127.0.0.1', a_port()), timeout=0)


def test_prove_waits_for_the_new_generation(certificates: list[pathlib.Path]) -> None:
    """The first connections go to workers of the old generation; what holds in the end counts."""
    with Site(certificates[0]) as site, Site(certificates[1]) as old:
        before = _probe.look([site.endpoint], ['a'])
        ports = iter([old.port, old.port])

        class Generations(Relay):
            def serve(self, connection: socket.socket) -> None:
                self._to = next(ports, site.port)
                super().serve(connection)

        with Generations(0) as relay:
            made = _probe.prove([before[0]._replace(endpoint=relay.endpoint)], [], None, timeout=60)
    assert made[0].certificate == before[0].certificate
    assert next(ports, None) is None


def test_reaches(certificates: list[pathlib.Path]) -> None:
    port = a_port()
    with Relay(port) as relay, Site(certificates[0]) as site:
        assert _probe.reaches([relay.endpoint, relay.endpoint], ('127.0.0.1', port))
        assert not _probe.reaches([relay.endpoint, site.endpoint], ('127.0.0.1', port))


def test_is_free(closed: Endpoint) -> None:
    with Listener() as one:
        assert not _probe.is_free('127.0.0.1', one.port)
        assert not _probe.is_free('127.0.0.1', one.port, shared=True)
        assert _probe.is_reachable(one.endpoint)
    assert not _probe.is_reachable(closed)
    assert _probe.is_free('127.0.0.1', 0)
    assert not _probe.is_free('192.0.2.1', 0)
    with socket.socket() as shared:
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind(('127.0.0.1', 0))
        shared.listen()
        port = shared.getsockname()[1]
        assert not _probe.is_free('127.0.0.1', port)
        assert _probe.is_free('127.0.0.1', port, shared=True)
