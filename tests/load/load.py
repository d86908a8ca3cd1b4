"""Real clients, all the while: load.py --connect HOST:PORT --sni NAME [--sni NAME ...] --report FILE [--connections-parallel N]

Makes new TLS connections one after the other in N threads, each with one HTTP request that must be answered with 200; every tenth is
kept alive for five requests. Nothing is tried again. On SIGTERM it ends what is under way, writes what happened to the report (JSON) and
exits with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import http.client
import itertools
import json
import signal
import socket
import ssl
import sys
import threading
import time

TIMEOUT = 60  # seconds; a client that waits longer has failed


class Counts:
    """What happened to every connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.made = self.served = self.failed = self.requests = 0
        self.failures: list[dict[str, str]] = []
        self.certificates: collections.Counter[str] = collections.Counter()
        self.bodies: collections.Counter[str] = collections.Counter()

    def begin(self) -> None:
        with self._lock:
            self.made += 1

    def succeed(self, certificate: str, bodies: list[str]) -> None:
        with self._lock:
            self.served += 1
            self.requests += len(bodies)
            self.certificates[certificate] += 1
            self.bodies.update(bodies)

    def fail(self, name: str, stage: str, error: BaseException) -> None:
        with self._lock:
            self.failed += 1
            if len(self.failures) < 20:
                when = time.strftime('%H:%M:%S') + '.%03d' % (time.time() % 1 * 1000)
                self.failures.append({'when': when, 'name': name, 'stage': stage, 'error': repr(error)})


def connect_once(address: tuple[str, int], name: str, requests: int, context: ssl.SSLContext, counts: Counts) -> None:
    """Make one connection with some requests, and count how it went."""
    counts.begin()
    stage = 'connect'
    try:
        with socket.create_connection(address, TIMEOUT) as plain:
            stage = 'handshake'
            with context.wrap_socket(plain, server_hostname=name) as secured:
                certificate = hashlib.sha256(secured.getpeercert(True) or b'').hexdigest()
                bodies = []
                for number in range(requests):
                    stage = 'request %d' % (number + 1)
                    last = number + 1 == requests
                    head = 'GET / HTTP/1.1\r\nHost: %s\r\nConnection: %s\r\n\r\n' % (name, 'close' if last else 'keep-alive')
                    response = http.client.HTTPResponse(secured)
                    try:
                        secured.sendall(head.encode())
                        response.begin()
                    except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                        if number:
                            break  # a server may close a connection that is idle, and a reload does (RFC 9112 section 9.5)
                        raise
                    bodies.append(response.read().decode('latin-1')[:100])
                    if response.status != 200:
                        raise ValueError('status %d' % response.status)
                    if response.will_close:
                        break
        counts.succeed(certificate, bodies)
    except (OSError, ValueError, http.client.HTTPException) as error:
        counts.fail(name, stage, error)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--connect', required=True, metavar='HOST:PORT')
    parser.add_argument('--sni', required=True, action='append', metavar='NAME')
    parser.add_argument('--report', required=True, metavar='FILE')
    parser.add_argument('--connections-parallel', type=int, default=2, metavar='N')
    arguments = parser.parse_args()
    host, dummy, port = arguments.connect.rpartition(':')
    address = (host.strip('[]'), int(port))
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(['http/1.1'])
    counts, ended = Counts(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    signal.signal(signal.SIGINT, lambda *_: ended.set())

    def client(offset: int) -> None:
        for number, name in enumerate(itertools.cycle(arguments.sni), offset):
            if ended.is_set():
                return
            connect_once(address, name, 5 if number % 10 == 9 else 1, context, counts)
            ended.wait(0.02)  # leave the rest of a small machine something

    threads = [threading.Thread(target=client, args=(number,)) for number in range(arguments.connections_parallel)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = ('made', 'served', 'failed', 'requests', 'failures', 'certificates', 'bodies')
    report = {name: getattr(counts, name) for name in names}
    with open(arguments.report, 'w', encoding='utf-8') as stream:
        json.dump(report, stream, indent=1)
    print(json.dumps({name: report[name] for name in names[:4]}), file=sys.stderr)
    return 1 if counts.failed else 0


if __name__ == '__main__':
    sys.exit(main())
