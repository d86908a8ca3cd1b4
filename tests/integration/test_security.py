"""Who may read and write what the modules make, who is believed, and that nothing planted is followed."""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
import socket
import ssl
import stat
import subprocess
import typing as t

import apache_site
import harness
import pytest
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import state_directory
from servers import SERVERS, site_of


@pytest.fixture(params=SERVERS)
def site(request: pytest.FixtureRequest) -> t.Iterator[tuple[str, t.Any]]:
    with site_of(request.param) as one:
        one.start()
        yield request.param, one


def modes(*directories: pathlib.Path) -> dict[str, tuple[int, int]]:
    """Give mode and owner of every file and directory below."""
    found = {}
    for directory in directories:
        for path in (path for path in directory.rglob('*') if 'md' not in path.parts):  # mod_md's own
            status = path.lstat()
            if not stat.S_ISLNK(status.st_mode):
                found[str(path)] = (stat.S_IMODE(status.st_mode), status.st_uid)
    return found


def state_files(site: t.Any) -> list[pathlib.Path]:
    digest = hashlib.sha256(os.fsencode(os.path.realpath(site.main))).hexdigest()
    return list(pathlib.Path(state_directory()).glob('*-%s.*' % digest[:12]))


@pytest.mark.parametrize('umask', [0o000, 0o077])
def test_modes(site: tuple[str, t.Any], umask: int) -> None:
    """Stopped before each rename and at the end: what replaces a file has its mode, what is ours alone is read by its owner alone."""
    name, one = site
    for path in (path for path in one.conf.rglob('*') if path.is_file() and not path.is_symlink()):
        path.chmod(0o640)
    before = modes(one.conf)
    backup = one.root / 'backup'
    previous = os.umask(umask)
    try:
        number = 0
        while True:
            number += 1
            killed = harness.run_module(name, one.arguments(backup_dir=str(backup)), one.root, FAULT='kill@%d:rename' % number)
            now = modes(one.conf, backup)
            for path, (mode, owner) in now.items():
                target = re.sub(r'/\.([^/]+)\.seamless-(?:old|new|view)$', r'/\1', path)
                assert owner == os.geteuid(), path
                if target in before:
                    assert mode & ~before[target][0] == 0, (path, oct(mode))
                elif path.startswith(str(backup)) and os.path.isdir(path):
                    assert mode == 0o700, (path, oct(mode))
                else:
                    assert mode & 0o022 == 0, (path, oct(mode))
            for file in state_files(one):
                assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
            assert stat.S_IMODE(os.stat(state_directory()).st_mode) == 0o700
            if killed.code >= 0:
                break
        assert killed.changed and number > 2
        after = modes(one.conf)
        assert {path: after[path] for path in before} == before
    finally:
        os.umask(previous)
    assert harness.run_module(name, one.arguments(state='absent'), one.root).changed
    assert modes(one.conf) == before


def listening(port: int) -> set[str]:
    """Give the local addresses that listen on a TCP port."""
    lines = subprocess.run(['ss', '-Hltn', 'sport = :%d' % port], capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split()[3].rpartition(':')[0] for line in lines}


@pytest.mark.parametrize('site', ['nginx_alpn_stream'], indirect=True)
@pytest.mark.parametrize('handoff', ['proxy_protocol', 'pass', 'plain'])
def test_nginx_listens_on_loopback_alone(site: tuple[str, t.Any], handoff: str) -> None:
    one = site[1]
    assert one.run(handoff=handoff).changed
    found = {address for port in range(one.backend, one.backend + 3) for address in listening(port)}
    assert found and found <= {'127.0.0.1', '[::1]'}


@pytest.mark.parametrize('site', ['haproxy_alpn_frontend'], indirect=True)
def test_haproxy_listens_on_loopback_alone(site: tuple[str, t.Any]) -> None:
    one = site[1]
    assert one.run(handoff='plain').changed
    found = {address for port in range(one.backend, one.backend + 3) for address in listening(port)}
    assert found == {'127.0.0.1'}


def spoofed(address: str, port: int, sni: str, header: bytes) -> str | None:
    """Send a PROXY header before the ClientHello; give what the site then answers, or None where there is no TLS."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection((address, port), harness.PATIENCE) as plain:
            plain.sendall(header)
            with context.wrap_socket(plain, server_hostname=sni) as secured:
                secured.sendall(b'GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' % sni.encode())
                return b''.join(iter(lambda: secured.recv(65536), b'')).decode()
    except OSError:
        return None


V1 = b'PROXY TCP4 198.51.100.7 127.0.0.1 4711 443\r\n'
V2 = b'\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c' + socket.inet_aton('198.51.100.7') + socket.inet_aton('127.0.0.1') + b'\x12\x67\x01\xbb'


@pytest.mark.parametrize('site', ['nginx_alpn_stream', 'haproxy_alpn_frontend'], indirect=True)
@pytest.mark.parametrize('header', [V1, V2], ids=['v1', 'v2'])
def test_proxy_header_of_a_client_is_not_believed(site: tuple[str, t.Any], header: bytes) -> None:
    """At the public port it is no TLS; the site's port is not reached from any address that is not loopback."""
    one = site[1]
    assert one.run().changed
    answer = spoofed('127.0.0.1', one.port, 'a.example', header)
    assert answer is None or '198.51.100.7' not in answer
    outside = [address for address in subprocess.run(['hostname', '-I'], capture_output=True, text=True, check=True).stdout.split() if ':' not in address]
    for address in outside:
        assert spoofed(address, one.backend, 'a.example', header) is None
    assert '198.51.100.7' not in harness.get(one.port, 'a.example').body
    logs = [path.read_text(errors='replace') for path in one.root.glob('*.log')]
    assert all('198.51.100.7' not in line for log in logs for line in log.splitlines() if ' 200 ' in line)


@pytest.mark.parametrize('site', ['nginx_alpn_stream'], indirect=True)
def test_local_users_are_believed_by_nginx(site: tuple[str, t.Any]) -> None:
    """As docs/security.md says: whoever can connect to the loopback port can claim an address."""
    one = site[1]
    assert one.run(handoff='proxy_protocol').changed
    assert '198.51.100.7' in (spoofed('127.0.0.1', one.backend, 'a.example', V1) or '')


@pytest.mark.parametrize('suffix', ['new', 'old', 'view'])
def test_planted_links_are_not_followed(site: tuple[str, t.Any], suffix: str) -> None:
    name, one = site
    victim = one.root / 'victim'
    victim.write_text('mine\n')
    victim.chmod(0o600)
    before = one.picture()
    planted = []
    for path in [path for path in one.conf.rglob('*') if path.is_file() and not path.is_symlink()] + [one.conf / 'seamless-tls-alpn.conf']:
        link = path.with_name('.%s.seamless-%s' % (path.name, suffix))
        link.symlink_to(victim)
        planted.append(link)
    assert one.run().changed
    assert one.run(state='absent').changed
    assert victim.read_text() == 'mine\n' and stat.S_IMODE(victim.stat().st_mode) == 0o600
    for link in planted:
        link.unlink(missing_ok=True)
    assert one.picture().bytes == before.bytes


def test_no_shell_sees_names(tmp_path: pathlib.Path) -> None:
    """A directory whose name a shell would run: configuration, program and state all below it."""
    for name, (kind, binary) in SERVERS.items():
        if not os.path.exists(binary) or kind is apache_site.ApacheSite:  # its envvars are shell, and have their directory from there
            continue
        # nginx has variables in paths, and no blanks in what it says of its command line.
        root = tmp_path / ('`id>x`;id>x;n' if name == 'nginx_alpn_stream' else '$(touch x); `touch x` #h')
        root.mkdir()
        one = kind(root)
        if name == 'haproxy_alpn_frontend':
            one.main.write_text(re.sub(r'(?<=crt )(/.*?\.pem)', r"'\1'", one.main.read_text()))
        else:
            for path in [one.main, *(one.conf / 'sites-available').iterdir()]:
                path.write_text(re.sub(r'(?<= )(%s[^;]*?)(?=;| combined)' % re.escape(str(root)), r'"\1"', path.read_text()))
        try:
            one.start()
            before = one.picture()
            assert one.run().changed
            assert one.run(state='absent').changed
            assert one.picture().bytes == before.bytes
        finally:
            one.remove()
    assert not list(tmp_path.rglob('x')) and not os.path.exists('x')
