# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a client sees: TLS handshakes with a chosen ALPN and SNI, and the proof of a front by them.

PRIVATE to the collection, may change at any time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
import ssl
import threading
import time
import typing as t
import warnings

from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed

ACME = 'acme-tls/1'  # RFC 8737 section 3: offered alone
TIMEOUT = 10.0  # seconds for one handshake


class Endpoint(t.NamedTuple):
    """Where clients connect to, and whether they speak the PROXY protocol first (a load balancer in front of this host)."""

    address: str
    port: int
    proxied: bool = False

    def __str__(self) -> str:
        return '[%s]:%d' % (self.address, self.port) if ':' in self.address else '%s:%d' % (self.address, self.port)


class Handshake(t.NamedTuple):
    """One handshake as it went: what was offered, what the server chose, the SHA-256 of its certificate, or the error."""

    endpoint: Endpoint
    sni: str
    alpn: str
    negotiated: str | None = None
    certificate: str | None = None
    error: str | None = None

    def same_site(self, before: Handshake, renewed: t.Collection[str]) -> bool:
        """Whether the same certificate answered, or one renewed since the last reload; or none, before as after (a site that rejects handshakes)."""
        return self.certificate == before.certificate or self.certificate in renewed

    def report(self) -> dict[str, t.Any]:
        """Give it as a module returns it."""
        result = self.error or ('certificate %s' % self.certificate[:16] if self.certificate else 'reached the responder')
        return {'address': str(self.endpoint), 'sni': self.sni, 'alpn': self.alpn, 'negotiated': self.negotiated, 'result': result}


def _context(protocols: t.Sequence[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # old sites are proven, too
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with contextlib.suppress(ssl.SSLError):
        context.set_ciphers('DEFAULT:@SECLEVEL=0')
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def _connect(endpoint: Endpoint, timeout: float) -> socket.socket:
    connection = socket.create_connection((endpoint.address, endpoint.port), timeout)
    if endpoint.proxied:
        family = 'TCP6' if ':' in endpoint.address else 'TCP4'
        source = connection.getsockname()
        connection.sendall(('PROXY %s %s %s %d %d\r\n' % (family, source[0], endpoint.address, source[1], endpoint.port)).encode())
    return connection


@contextlib.contextmanager
def _secured(endpoint: Endpoint, sni: str, protocols: t.Sequence[str], timeout: float) -> t.Iterator[ssl.SSLSocket]:
    """Connect and make the handshake; whatever ends that, a signal included, closes the connection, which a front would wait for."""
    wrap = _context(protocols).wrap_socket
    with _connect(endpoint, timeout) as plain, wrap(plain, server_hostname=sni or None, do_handshake_on_connect=False) as secured:
        secured.do_handshake()
        yield secured


def handshake(endpoint: Endpoint, sni: str, protocols: t.Sequence[str] = ('h2', 'http/1.1'), timeout: float = TIMEOUT) -> Handshake:
    """Make one TLS handshake (verifying nothing; an empty ``sni`` sends none); errors are in what it gives, none is raised."""
    made = Handshake(endpoint, sni, ','.join(protocols))
    try:
        with _secured(endpoint, sni, protocols, timeout) as secured:
            certificate = hashlib.sha256(secured.getpeercert(True) or b'').hexdigest()
            return made._replace(negotiated=secured.selected_alpn_protocol(), certificate=certificate)
    except (OSError, ValueError) as error:
        return made._replace(error=str(error) or type(error).__name__)


def certificate_in(path: str) -> str | None:
    """Give the SHA-256 of the first certificate in a PEM file, or None where there is none to be read."""
    with contextlib.suppress(OSError, ValueError):
        with open(path, encoding='ascii', errors='replace') as stream:
            text = stream.read()
        begin, end = text.index('-----BEGIN CERTIFICATE-----'), text.index('-----END CERTIFICATE-----')
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(text[begin:end] + '-----END CERTIFICATE-----')).hexdigest()
    return None


def _client_hello(sni: str) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = _context([ACME]).wrap_bio(incoming, outgoing, server_hostname=sni)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


class Responder:
    """Stands at the responder's address during a proof and tells which ClientHellos arrived there, byte for byte.

    ``listening`` is False where somebody stands there already (an ACME client at work) or the address is not of this host.
    """

    def __init__(self, host: str, port: int) -> None:
        self._seen: set[bytes] = set()
        self._arrived = threading.Condition()
        family = socket.AF_INET6 if ':' in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            self._socket.listen(64)
            self.listening = True
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES) and not isinstance(error, socket.gaierror):
                raise
            self.listening = False

    def __enter__(self) -> Responder:
        if self.listening:
            threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *dummy: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection = self._socket.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._receive, args=(connection,), daemon=True).start()

    def _receive(self, connection: socket.socket) -> None:
        received = b''
        with contextlib.suppress(OSError), connection:
            connection.settimeout(TIMEOUT)
            # A TLS record says its length (RFC 8446 section 5.1); anything else ends with the connection.
            while len(received) < 5 or len(received) < 5 + int.from_bytes(received[3:5], 'big'):
                more = connection.recv(65536)
                if not more:
                    break
                received += more
            with self._arrived:
                self._seen.add(received)
                self._arrived.notify_all()

    def reached_through(self, endpoint: Endpoint) -> Handshake:
        """Send an acme-tls/1 ClientHello to ``endpoint``; it has to arrive here unchanged, with nothing before it."""
        sni = 'probe-%s.invalid' % os.urandom(6).hex()
        if not self.listening:
            return self._reached_another(endpoint, sni)
        made = Handshake(endpoint, sni, ACME)
        hello = _client_hello(sni)
        try:
            with _connect(endpoint, TIMEOUT) as connection:
                connection.sendall(hello)
                connection.settimeout(TIMEOUT)
                with contextlib.suppress(ConnectionError):
                    connection.recv(1)  # the front closes when this responder has; the web server would answer
            with self._arrived:
                if self._arrived.wait_for(lambda: hello in self._seen, 1.0):
                    return made._replace(negotiated=ACME)
            return made._replace(error='the handshake did not reach the responder')
        except OSError as error:
            return made._replace(error='the handshake did not reach the responder (%s)' % (error or type(error).__name__))

    def _reached_another(self, endpoint: Endpoint, sni: str) -> Handshake:
        """Somebody else is the responder: it chooses acme-tls/1, or is busy or gone. A web server answers otherwise, or with an alert."""
        made = Handshake(endpoint, sni, ACME)
        try:
            with _secured(endpoint, sni, [ACME], TIMEOUT) as secured:
                if secured.selected_alpn_protocol() == ACME:
                    return made._replace(negotiated=ACME)
        except (ssl.SSLEOFError, ConnectionResetError, socket.timeout):
            return made._replace(negotiated=ACME)
        except OSError as error:
            return made._replace(error='the handshake did not reach the responder (%s)' % error)
        return made._replace(error='the handshake was answered by the web server, not the responder')


def look(endpoints: t.Iterable[Endpoint], names: t.Sequence[str]) -> list[Handshake]:
    """Make an ordinary handshake with each endpoint for each name, to compare with later ones."""
    return [handshake(endpoint, name) for endpoint in endpoints for name in names]


def is_reachable(endpoint: Endpoint) -> bool:
    """Whether a connection to it can be made from this host (not where the address's family is off, say)."""
    try:
        socket.create_connection((endpoint.address, endpoint.port), TIMEOUT).close()
    except OSError:
        return False
    return True


def is_free(host: str, port: int, shared: bool = False) -> bool:
    """Whether a listener can be put there (port 0: whether this host has the address), ``shared``: or beside one, by SO_REUSEPORT (socket(7))."""
    with socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if ':' in host:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def reaches(endpoints: t.Iterable[Endpoint], responder: tuple[str, int]) -> bool:
    """Whether acme-tls/1 reaches the responder's address through each endpoint."""
    with Responder(*responder) as here:
        return all(here.reached_through(endpoint).error is None for endpoint in endpoints)


def prove(
    before: t.Sequence[Handshake],
    endpoints: t.Sequence[Endpoint],
    responder: tuple[str, int] | None,
    renewed: t.Collection[str] = (),
    tries: int = 1,
    timeout: float = 20.0,
) -> list[Handshake]:
    """Make the handshakes of ``before`` again: the same sites have to answer; with a responder, acme-tls/1 has to reach it every time.

    The acme-tls/1 handshake with each of ``endpoints`` is made ``tries`` times in a row. Until ``timeout`` seconds have passed a round
    that fails is repeated, since workers of the old generation may take a connection for a moment; where no site answers at all, only
    for a tenth of that. ``renewed`` are certificates (SHA-256) that a reload may begin to serve. Gives the handshakes of the round that
    held; raises Failed with what the last one showed.
    """
    start = time.monotonic()
    # A site that answers with another's certificate is no renewal; but one may be new, and before only the default one answered.
    defaults = {old.endpoint: old.certificate for old in before if not old.sni}
    new_ones = set(renewed) - {old.certificate for old in before}
    while True:
        made, problems = [], []
        for old in before:
            new = handshake(old.endpoint, old.sni, old.alpn.split(','))
            made.append(new)
            if not new.same_site(old, renewed if old.sni and old.certificate == defaults.get(old.endpoint) else new_ones):
                problems.append('%s, SNI %s: before: %s; now: %s' % (new.endpoint, new.sni or 'none', old.report()['result'], new.report()['result']))
        outage = any(old.certificate for old in before) and not any(new.certificate for new in made)
        if responder is not None and not problems:
            with Responder(*responder) as here:
                for endpoint in endpoints:
                    arrived = [here.reached_through(endpoint) for dummy in range(tries if here.listening else 1)]
                    problems += ['%s, acme-tls/1: %s' % (one.endpoint, one.error) for one in arrived if one.error][:1]
                    made += arrived[:1]
        if not problems:
            return made
        if time.monotonic() - start > (timeout / 10 if outage else timeout):
            raise Failed('handshakes after the reload are not as they should be: %s' % '; '.join(problems))
        time.sleep(0.2)
