"""Clients of every kind, all the while: client.py HOST:PORT NAME [--parallel N] [--round-trip SECONDS]

Makes connections as browsers, applications and a CA do, and accounts for each: made, served, or failed and why. Nothing is tried again. Takes orders
on standard input, a line each: `lasting` opens a download and a WebSocket that last until the end; `acme SHA256` begins with acme-tls/1 handshakes that
this certificate has to answer, `acme` ends them; `end` ends everything. Prints a line of JSON with the connections made so far ten times a second,
and at the end the whole account. The virtual environment needs h2.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import itertools
import json
import random
import select
import socket
import ssl
import struct
import sys
import threading
import time
import typing as t

import h2.config
import h2.connection
import h2.events

TIMEOUT = 30  # seconds; a client that waits longer has failed
LONGEST_PAUSE = 1.5  # seconds before a slow client's ClientHello
REQUESTS = 20  # on one kept-alive connection
STREAMS, AT_ONCE = 40, 4  # on one HTTP/2 connection
GOAWAY = 7  # RFC 9113 section 6.8
KINDS = ('new', 'resumed', 'late', 'split', 'kept', 'h2', 'acme', 'download', 'websocket')


class Lost(Exception):
    """A connection that did not do what its client wanted."""


FAILURES = (OSError, ValueError, Lost, http.client.HTTPException)


class Account:
    """What happened to every connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts = {kind: {'made': 0, 'served': 0, 'failed': 0, 'requests': 0, 'closed while idle': 0, 'refused by GOAWAY': 0} for kind in KINDS}
        self.failures: list[dict[str, t.Any]] = []
        self.made = 0

    def add(self, kind: str, what: str, count: int = 1) -> None:
        with self._lock:
            self.counts[kind][what] += count
            self.made += count if what == 'made' else 0

    @contextlib.contextmanager
    def connection(self, kind: str) -> t.Iterator[Attempt]:
        """Account for one connection."""
        attempt = Attempt(kind)
        self.add(kind, 'made')
        try:
            yield attempt
        except FAILURES as error:
            with self._lock:
                self.failures.append(
                    {'kind': kind, 'stage': attempt.stage, 'since': attempt.since, 'begun': attempt.begun, 'at': time.time(), 'error': repr(error)}
                )
            self.add(kind, 'failed')
        else:
            self.add(kind, 'served')


class Attempt:
    """One connection, and how far it came."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.begun = time.time()
        self.at('connect')

    def at(self, stage: str) -> None:
        self.stage, self.since = stage, time.time()


def trusting(*protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(list(protocols))
    return context


class Clients:
    """Everybody who talks to one server."""

    def __init__(self, address: tuple[str, int], name: str, round_trip: float) -> None:
        self.address, self.name, self.round_trip = address, name, round_trip
        self.account = Account()
        self.ended = threading.Event()
        self.challenge = ''
        self._http, self._h2, self._acme, self._old = trusting('http/1.1'), trusting('h2'), trusting('acme-tls/1'), trusting('http/1.1')
        self._old.maximum_version = ssl.TLSVersion.TLSv1_2
        self._session: ssl.SSLSession | None = None
        self._numbers = itertools.count()
        self._identity = '%x' % random.getrandbits(48)

    def identifier(self) -> str:
        return '%s-%d' % (self._identity, next(self._numbers))

    @contextlib.contextmanager
    def secured(self, attempt: Attempt, context: ssl.SSLContext, pause: float = 0, session: ssl.SSLSession | None = None) -> t.Iterator[ssl.SSLSocket]:
        """Connect, wait, and make the handshake."""
        with socket.create_connection(self.address, TIMEOUT) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if pause:
                attempt.at('pause before ClientHello')
                quiet(plain, pause)
            attempt.at('handshake')
            with context.wrap_socket(plain, server_hostname=self.name, session=session) as secured:
                yield secured

    def request(self, path: str, close: bool = False) -> bytes:
        return ('GET %s HTTP/1.1\r\nHost: %s\r\nConnection: %s\r\n\r\n' % (path, self.name, 'close' if close else 'keep-alive')).encode()

    def check(self, status: int, body: bytes) -> None:
        if status != 200 or not body.startswith(self.name.encode()):
            raise Lost('status %d, %r' % (status, body[:60]))

    def ask(self, path: str) -> bytes:
        """Ask the application something, beside the account."""
        with self.secured(Attempt('ask'), self._http) as connection:
            connection.sendall(self.request(path, True))
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.read()

    def arrived(self, identifier: str) -> bool:
        return self.ask('/app/seen?' + identifier) == b'yes\n'

    # One connection of each kind

    def new(self, attempt: Attempt, pause: float = 0) -> None:
        """One request, as fast as it goes."""
        with self.secured(attempt, self._http, pause) as connection:
            self.once(attempt, connection)

    def resumed(self, attempt: Attempt) -> None:
        """The same with TLS 1.2 and the session of a connection before, as long as the server knows it."""
        with self.secured(attempt, self._old, session=self._session) as connection:
            self.once(attempt, connection)
            self._session = connection.session

    def once(self, attempt: Attempt, connection: ssl.SSLSocket) -> None:
        attempt.at('request')
        connection.sendall(self.request('/', True))
        response = http.client.HTTPResponse(connection)
        response.begin()
        self.check(response.status, response.read())
        self.account.add(attempt.kind, 'requests')

    def late(self, attempt: Attempt) -> None:
        """The ClientHello comes after a pause."""
        self.new(attempt, random.uniform(0.1, LONGEST_PAUSE))

    def split(self, attempt: Attempt) -> None:
        """The ClientHello comes in two segments with a round trip between them."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._http.wrap_bio(incoming, outgoing, server_hostname=self.name)
        with socket.create_connection(self.address, TIMEOUT) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            attempt.at('between two halves of ClientHello')
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
            hello = outgoing.read()
            plain.sendall(hello[: len(hello) // 2])
            quiet(plain, self.round_trip)
            attempt.at('handshake')
            plain.sendall(hello[len(hello) // 2 :])

            def until_done(act: t.Callable[[], t.Any]) -> t.Any:
                while True:
                    try:
                        return act()
                    except ssl.SSLWantReadError:
                        plain.sendall(outgoing.read())
                        data = plain.recv(65536)
                        if not data:
                            raise Lost('end of file') from None
                        incoming.write(data)

            until_done(tls.do_handshake)
            attempt.at('request')
            tls.write(self.request('/', True))
            data = b''
            while self.name.encode() + b' ' not in data and self.name.encode() + b'\n' not in data:
                data += until_done(lambda: tls.read(65536)) or b''
                if not data:
                    raise Lost('end of file')
            self.check(int(data.split()[1]), data.partition(b'\r\n\r\n')[2])
        self.account.add(attempt.kind, 'requests')

    def kept(self, attempt: Attempt) -> None:
        """One request after the other; nearly always one is under way.

        A server may close a connection between two requests (RFC 9112 section 9.5): one that never arrived at the application is not lost.
        """
        with self.secured(attempt, self._http) as connection:
            for number in range(REQUESTS):
                identifier = self.identifier()
                attempt.at('request %s' % ('1' if not number else 'after the first'))
                response = http.client.HTTPResponse(connection)
                try:
                    connection.sendall(self.request('/app/wait?' + identifier))
                    response.begin()
                except (http.client.RemoteDisconnected, ConnectionError, ssl.SSLError):
                    if not number or self.arrived(identifier):
                        raise
                    self.account.add(attempt.kind, 'closed while idle')
                    return
                if (response.status, response.read()) != (200, b'ok\n'):
                    raise Lost('status %d' % response.status)
                self.account.add(attempt.kind, 'requests')
                if response.will_close or self.ended.is_set():
                    return

    def h2(self, attempt: Attempt) -> None:
        """Several requests at a time on one HTTP/2 connection, always some under way.

        What a GOAWAY names as not processed may be tried again by its client (RFC 9113 section 6.8); everything else has to be answered.
        """
        with self.secured(attempt, self._h2) as connection:
            if connection.selected_alpn_protocol() != 'h2':
                raise Lost('no h2')
            attempt.at('streams')
            session = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding='utf-8'))
            session.initiate_connection()
            streams: dict[int, str] = {}
            frames = Frames()
            begun = 0
            while True:
                while frames.last is None and len(streams) < AT_ONCE and begun < STREAMS and not self.ended.is_set():
                    stream = session.get_next_available_stream_id()
                    streams[stream] = self.identifier()
                    path = '/app/wait?' + streams[stream]
                    session.send_headers(stream, [(':method', 'GET'), (':scheme', 'https'), (':authority', self.name), (':path', path)], end_stream=True)
                    begun += 1
                if not streams:
                    break
                try:
                    connection.sendall(session.data_to_send())
                    data = connection.recv(65536)
                except (ConnectionError, ssl.SSLError):
                    data = b''
                if not data:
                    lost = [identifier for identifier in streams.values() if self.arrived(identifier)]
                    if lost or begun <= AT_ONCE:
                        raise Lost('end of file with %d streams, %d of them at the application, GOAWAY %s' % (len(streams), len(lost), frames.last))
                    self.account.add(attempt.kind, 'closed while idle')
                    return
                for event in session.receive_data(frames.without_goaway(data)):
                    if isinstance(event, h2.events.ResponseReceived) and dict(event.headers)[':status'] != '200':
                        raise Lost('status %s' % dict(event.headers)[':status'])
                    elif isinstance(event, h2.events.DataReceived):
                        session.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    elif isinstance(event, h2.events.StreamReset):
                        raise Lost('stream reset, code %d' % event.error_code)
                    elif isinstance(event, h2.events.StreamEnded):
                        del streams[event.stream_id]
                        self.account.add(attempt.kind, 'requests')
                for stream in [one for one in streams if frames.last is not None and one > frames.last]:
                    del streams[stream]
                    self.account.add(attempt.kind, 'refused by GOAWAY')
            session.close_connection()
            with contextlib.suppress(OSError):
                connection.sendall(session.data_to_send())

    def acme(self, attempt: Attempt) -> None:
        """A CA's validation."""
        wanted = self.challenge
        with self.secured(attempt, self._acme) as connection:
            certificate = hashlib.sha256(connection.getpeercert(True) or b'').hexdigest()
            if connection.selected_alpn_protocol() != 'acme-tls/1' or certificate != wanted:
                raise Lost('%s, certificate %s' % (connection.selected_alpn_protocol(), certificate[:12]))

    def download(self, attempt: Attempt) -> None:
        """A file at a low rate, line by line, every byte of it, until the client wants no more."""
        identifier = self.identifier()
        with self.secured(attempt, self._http) as connection:
            attempt.at('response')
            connection.sendall(self.request('/app/download?' + identifier, True))
            response = http.client.HTTPResponse(connection)
            response.begin()
            asked = False
            for number in itertools.count():
                line = response.readline()
                attempt.at('under way')
                if line == b'end\n' and asked:
                    break
                if line != b'%d\n' % number:
                    raise Lost('%r instead of line %d' % (line, number))
                if self.ended.is_set() and not asked:
                    self.ask('/app/finish?' + identifier)
                    asked = True
            if response.read():
                raise Lost('more than the end')

    def websocket(self, attempt: Attempt) -> None:
        """An upgraded connection on which something is said twice a second, until the client ends it."""
        with self.secured(attempt, self._http) as connection:
            attempt.at('upgrade')
            upgrade = 'Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n'
            connection.sendall(('GET /app/echo HTTP/1.1\r\nHost: %s\r\n%s' % (self.name, upgrade)).encode())
            head = b''
            while not head.endswith(b'\r\n\r\n'):
                head += connection.recv(1) or failed('end of file')
            if b' 101 ' not in head:
                raise Lost(repr(head[:60]))
            for number in itertools.count():
                attempt.at('under way')
                message = b'%08d' % number
                connection.sendall(message)
                data = b''
                while len(data) < len(message):
                    data += connection.recv(len(message) - len(data)) or failed('end of file')
                if data != message:
                    raise Lost('%r instead of %r' % (data, message))
                if self.ended.wait(0.5):
                    return

    # Many

    def again_and_again(self, kind: str, rest: float) -> None:
        """Make connections of one kind until the end."""
        while not self.ended.wait(rest):
            if kind != 'acme' or self.challenge:
                self.one(kind)

    def one(self, kind: str) -> None:
        with self.account.connection(kind) as attempt:
            getattr(self, kind)(attempt)

    def obey(self, orders: t.Iterable[str], parallel: int) -> None:
        """Do what is said on standard input, then end everything and wait for it."""
        many = {'new': (parallel, 0.001), 'resumed': (2 * parallel, 0.001), 'late': (8, 0.01), 'split': (4, 0.02)}
        rests = {**many, 'kept': (6, 0.01), 'h2': (3, 0.01), 'acme': (1, 0.05)}
        threads = [threading.Thread(target=self.again_and_again, args=(kind, rest)) for kind, (count, rest) in rests.items() for dummy in range(count)]
        for thread in threads:
            thread.start()
        for order in orders:
            word, dummy, value = order.strip().partition(' ')
            if word == 'end':
                break
            if word == 'acme':
                self.challenge = value
            elif word == 'lasting':
                for kind in ('download', 'websocket'):
                    threads.append(threading.Thread(target=self.one, args=(kind,)))
                    threads[-1].start()
        self.ended.set()
        for thread in threads:
            thread.join()


class Frames:
    """HTTP/2 frames as they arrive; keeps what a GOAWAY says from h2, which would take nothing after it."""

    def __init__(self) -> None:
        self._rest = b''
        self.last: int | None = None

    def without_goaway(self, data: bytes) -> bytes:
        """Give the complete frames but GOAWAY; its last stream is noted."""
        data, frames = self._rest + data, b''
        while len(data) >= 9:
            size = 9 + int.from_bytes(data[:3], 'big')
            if len(data) < size:
                break
            if data[3] != GOAWAY:
                frames += data[:size]
            else:
                self.last = struct.unpack('>I', data[9:13])[0] & 0x7FFFFFFF
            data = data[size:]
        self._rest = data
        return frames


def quiet(connection: socket.socket, seconds: float) -> None:
    """Wait, and raise at once if the server says something, or closes, before it was told anything."""
    if select.select([connection], [], [], seconds)[0]:
        raise Lost('closed by the server: %r' % connection.recv(100))


def failed(why: str) -> t.NoReturn:
    raise Lost(why)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('address', metavar='HOST:PORT')
    parser.add_argument('name', metavar='NAME')
    parser.add_argument('--parallel', type=int, default=2, metavar='N', help='threads that make new connections, and twice as many that resume')
    parser.add_argument('--round-trip', type=float, default=0.05, metavar='SECONDS', help='between two halves of a ClientHello')
    arguments = parser.parse_args()
    host, dummy, port = arguments.address.rpartition(':')
    clients = Clients((host, int(port)), arguments.name, arguments.round_trip)

    def tell() -> None:
        while not clients.ended.wait(0.1):
            print(json.dumps({'made': clients.account.made, 'failed': len(clients.account.failures)}), flush=True)

    teller = threading.Thread(target=tell)
    teller.start()
    clients.obey(sys.stdin, arguments.parallel)
    teller.join()
    print(json.dumps({'made': clients.account.made, 'counts': clients.account.counts, 'failures': clients.account.failures}), flush=True)


if __name__ == '__main__':
    main()
