"""What the integration tests share: certificates, free ports, modules run for real, clients, traffic, and pictures of files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import typing as t

import pytest

HERE = pathlib.Path(__file__).parent
LOAD = HERE.parent / 'load' / 'load.py'
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason='mounts file systems, which needs root')
PATIENCE = 60  # seconds; a loaded machine is slow


def wait_for(condition: t.Callable[[], t.Any], what: str) -> t.Any:
    """Wait until ``condition`` gives something true, and give that."""
    deadline = time.monotonic() + PATIENCE
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


class Result(t.NamedTuple):
    """What a module said."""

    code: int
    value: dict[str, t.Any]

    @property
    def changed(self) -> bool:
        assert not self.value.get('failed'), self.value
        return self.value['changed']

    @property
    def message(self) -> str:
        assert self.value.get('failed'), self.value
        return self.value['msg']


def start_module(name: str, arguments: dict[str, t.Any], work: pathlib.Path, check: bool = False, **environment: str) -> subprocess.Popen[str]:
    """Start a module; its arguments are a file in ``work``."""
    file = work / ('arguments-%s.json' % os.urandom(4).hex())
    internal = {'_ansible_check_mode': check, '_ansible_diff': True, '_ansible_remote_tmp': str(work), '_ansible_tmpdir': str(work)}
    file.write_text(json.dumps({**arguments, **internal}))
    return subprocess.Popen(
        [sys.executable, str(HERE / 'run_module.py'), name, str(file)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end_module(process: subprocess.Popen[str]) -> Result:
    """Wait for a module and give what it said (nothing if it was killed)."""
    out, err = process.communicate(timeout=300)
    if process.returncode == -signal.SIGKILL:
        return Result(process.returncode, {})
    assert out.strip().startswith('{'), (process.returncode, out, err)
    return Result(process.returncode, json.loads(out))


def run_module(name: str, arguments: dict[str, t.Any], work: pathlib.Path, check: bool = False, **environment: str) -> Result:
    """Run a module to its end."""
    return end_module(start_module(name, arguments, work, check, **environment))


def certificate(directory: pathlib.Path, name: str, key_type: str = 'ec') -> pathlib.Path:
    """Make a self-signed certificate and its key in one file; give its path (the certificate alone: .crt, the key: .key)."""
    path = directory / name
    kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1'] if key_type == 'ec' else ['-newkey', 'rsa:2048']
    names = ['-subj', '/CN=%s' % name, '-addext', 'subjectAltName=DNS:%s' % name]
    files = ['-keyout', '%s.key' % path, '-out', '%s.crt' % path]
    subprocess.run(['openssl', 'req', '-x509', '-nodes', '-days', '30', *kind, *names, *files], check=True, capture_output=True)
    both = pathlib.Path('%s.pem' % path)
    both.write_bytes(pathlib.Path('%s.crt' % path).read_bytes() + pathlib.Path('%s.key' % path).read_bytes())
    return both


def fingerprint(pem: pathlib.Path) -> str:
    """Give the SHA-256 of the first certificate in a file."""
    text = pem.read_text()
    text = text[text.index('-----BEGIN CERTIFICATE-----') :]
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(text[: text.index('-----END CERTIFICATE-----') + 25] + '\n')).hexdigest()


BLOCK = 100  # ports that a process takes at once
_mine: dict[int, socket.socket] = {}  # the first port of each block that is this process's, and the lock on it
_taken: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Give ``count`` neighbouring ports on which nobody listens, and on which no other process with this function will before this one ends."""
    for first in range(21000, 32000, BLOCK):  # below those that connections get
        if not _is_mine(first):
            continue
        for port in range(first, first + BLOCK - count + 1):
            ports = list(range(port, port + count))
            if not _taken & set(ports) and all(_is_free(one) for one in ports):
                _taken.update(ports)
                return ports
    raise AssertionError('no free ports')


def _is_mine(first: int) -> bool:
    """Take a block of ports unless another process has; an abstract socket is of the network namespace, as ports are, and ends with its process (unix(7))."""
    if first not in _mine:
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind('\0seamless-tls-alpn-ports-%d' % first)
        except OSError:
            lock.close()
            return False
        _mine[first] = lock
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(('', port))
        except OSError:
            return False
    return True


class Answer(t.NamedTuple):
    """What a client saw."""

    certificate: str
    protocol: str | None
    status: int
    body: str
    headers: str


def get(port: int, sni: str, path: str = '/', address: str = '127.0.0.1', source: str | None = None, alpn: t.Sequence[str] = ('http/1.1',)) -> Answer:
    """Make a new TLS connection and, where HTTP/1.1 was chosen, one request; raises what a client would see."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(list(alpn))
    with (
        socket.create_connection((address, port), PATIENCE, (source, 0) if source else None) as plain,
        context.wrap_socket(plain, server_hostname=sni) as secured,
    ):
        der = secured.getpeercert(True)
        protocol = secured.selected_alpn_protocol()
        if protocol == 'h2':
            return Answer(hashlib.sha256(der).hexdigest(), protocol, 0, '', '')
        secured.sendall(('GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' % (path, sni)).encode())
        data = b''
        while True:
            more = secured.recv(65536)
            if not more:
                break
            data += more
    head, dummy, body = data.decode('latin-1').partition('\r\n\r\n')
    return Answer(hashlib.sha256(der).hexdigest(), protocol, int(head.split()[1]), body, head)


def children(pid: int) -> list[int]:
    """Give the processes that a process has started and that have not ended."""
    out = subprocess.run(['pgrep', '-P', str(pid)], check=False, capture_output=True, text=True).stdout
    return [int(word) for word in out.split()]


class Picture(t.NamedTuple):
    """All files below a directory: content, mode, time and inode of each."""

    files: dict[str, tuple[bytes, int, int, int]]

    @classmethod
    def of(cls, directory: pathlib.Path) -> Picture:
        files = {}
        for path in sorted(directory.rglob('*')):
            if path.is_symlink():
                files[str(path)] = (os.fsencode(os.readlink(path)), 0, 0, 0)
            elif path.is_file():
                status = path.stat()
                files[str(path)] = (path.read_bytes(), status.st_mode, status.st_mtime_ns, status.st_ino)
        return cls(files)

    @property
    def bytes(self) -> dict[str, tuple[bytes, int]]:
        return {path: (content, mode) for path, (content, mode, dummy, dummy2) in self.files.items()}


class Traffic:
    """New TLS connections all the while (tests/load/load.py); leaving it asserts that none failed."""

    def __init__(self, port: int, names: t.Sequence[str], work: pathlib.Path, parallel: int = 2) -> None:
        self._report = work / ('load-%s.json' % os.urandom(4).hex())
        argv = [sys.executable, str(LOAD), '--connect', '127.0.0.1:%d' % port, '--report', str(self._report), '--connections-parallel', str(parallel)]
        self._argv = argv + [word for name in names for word in ('--sni', name)]
        self.counts: dict[str, t.Any] = {}

    def __enter__(self) -> Traffic:
        self._process = subprocess.Popen(self._argv, stderr=subprocess.PIPE, text=True)
        return self

    def __exit__(self, kind: object, *dummy: object) -> None:
        self._process.terminate()
        err = self._process.communicate(timeout=PATIENCE)[1]
        if kind is None:
            self.counts = json.loads(self._report.read_text())
            assert self.counts['failed'] == 0 and self.counts['served'] > 0, (self.counts, err)


class Responder:
    """A TLS server at the responder's address that chooses acme-tls/1 (as openssl s_server does for acme.sh)."""

    def __init__(self, port: int, work: pathlib.Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate(work, 'challenge.example'))
        context.set_alpn_protocols(['acme-tls/1'])
        self._socket = context.wrap_socket(socket.create_server(('127.0.0.1', port)), server_side=True)
        self.certificate = fingerprint(work / 'challenge.example.pem')

    def __enter__(self) -> Responder:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def _serve(self) -> None:
        while True:
            try:
                self._socket.accept()[0].close()
            except (ssl.SSLError, ConnectionError):
                continue
            except OSError:
                return

    def __exit__(self, *dummy: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def offer(port: int, protocols: t.Sequence[str], address: str = '127.0.0.1', sni: str = 'a.example') -> tuple[str | None, str | None]:
    """Make a handshake that offers these protocols; give the certificate and what was chosen, or None and None where it is refused."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(list(protocols))
    try:
        with socket.create_connection((address, port), PATIENCE) as plain, context.wrap_socket(plain, server_hostname=sni) as secured:
            return hashlib.sha256(secured.getpeercert(True)).hexdigest(), secured.selected_alpn_protocol()
    except ssl.SSLError:
        return None, None


def offer_in_two(port: int, protocols: t.Sequence[str], sni: str = 'a.example') -> str:
    """Make a handshake whose ClientHello comes in two segments, as post-quantum ones do; give the certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(list(protocols))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=sni)
    with socket.create_connection(('127.0.0.1', port), PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        connection.sendall(outgoing.read(100))
        time.sleep(0.5)  # long enough for a front that does not wait to have gone wrong, and shorter than the time that it has to wait
        while True:
            connection.sendall(outgoing.read())
            try:
                client.do_handshake()
                return hashlib.sha256(client.getpeercert(True)).hexdigest()
            except ssl.SSLWantReadError:
                incoming.write(connection.recv(65536) or b'end of file')
