# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""acme.sh and Pebble (the ACME test server) from Debian 13's packages, on loopback, for the tests of acme.sh."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import socket
import subprocess
import typing as t

import harness

CACHE = pathlib.Path(__file__).resolve().parents[2] / '.cache' / 'acme'
KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'


def programs() -> dict[str, str] | None:
    """Give the paths of acme.sh, pebble and pebble-challtestsrv: installed ones, or unpacked from Debian 13's packages; None where neither can be."""
    names = ('acme.sh', 'pebble', 'pebble-challtestsrv')
    installed = {name: shutil.which(name) for name in names}
    if all(installed.values()):
        return installed  # type: ignore[return-value]
    if not shutil.which('apt-get') or not os.path.exists(KEYRING):
        return None
    root = CACHE / 'root'
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / 'lock', 'wb') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several test processes one unpacks
        if not root.exists():
            _unpack(root)
    return {name: str(root / 'usr' / 'bin' / name) for name in names}


def _unpack(root: pathlib.Path) -> None:
    """Download the packages (apt verifies them) without touching the system's own apt, and unpack them to ``root``."""
    work = CACHE / 'apt'
    for directory in ('lists/partial', 'archives/partial'):
        (work / directory).mkdir(parents=True, exist_ok=True)
    (work / 'sources.list').write_text('deb [signed-by=%s] http://deb.debian.org/debian trixie main\n' % KEYRING)
    options = {
        'Dir::State::lists': work / 'lists',
        'Dir::Cache': work,
        'Dir::Etc::sourcelist': work / 'sources.list',
        'Dir::Etc::sourceparts': work / 'none',
        'Acquire::Languages': 'none',
    }
    apt = ['apt-get', '-qq'] + ['-o%s=%s' % option for option in options.items()]
    subprocess.run(apt + ['update'], check=True, cwd=work)
    subprocess.run(apt + ['download', 'acme.sh', 'pebble'], check=True, cwd=work)
    unpacked = CACHE / 'root.new'
    shutil.rmtree(unpacked, ignore_errors=True)
    for package in work.glob('*.deb'):
        subprocess.run(['dpkg-deb', '--extract', package, unpacked], check=True)
    unpacked.rename(root)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', port), timeout=5):
        return True
    return False


class CA:
    """A running Pebble that validates every name on 127.0.0.1, port ``tls_port``."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.tls_port, self._listen, self._management, self._dns, self._dns_management = harness.free_ports(5)
        self._directory = directory
        self.bundle = str(directory / 'ca.pem')
        self.url = 'https://localhost:%d/dir' % self._listen

    @contextlib.contextmanager
    def run(self, found: dict[str, str]) -> t.Iterator[CA]:
        key, cert = self._directory / 'key.pem', self._directory / 'cert.pem'
        openssl = ['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2']
        subprocess.run(
            openssl + ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost', '-keyout', key, '-out', cert], check=True, capture_output=True
        )
        shutil.copy(cert, self.bundle)
        config = {
            'listenAddress': '127.0.0.1:%d' % self._listen,
            'managementListenAddress': '127.0.0.1:%d' % self._management,
            'certificate': str(cert),
            'privateKey': str(key),
            'httpPort': 1,
            'tlsPort': self.tls_port,
            'ocspResponderURL': '',
            'externalAccountBindingRequired': False,
            'retryAfter': {'authz': 1, 'order': 1},
            'certificateValidityPeriod': 6 * 86400,
        }
        (self._directory / 'pebble.json').write_text(json.dumps({'pebble': config}))
        dns = [found['pebble-challtestsrv'], '-defaultIPv6', '', '-dns01', '127.0.0.1:%d' % self._dns, '-management', '127.0.0.1:%d' % self._dns_management]
        dns += ['-http01', '', '-https01', '', '-tlsalpn01', '', '-doh', '']
        pebble = [found['pebble'], '-config', self._directory / 'pebble.json', '-dnsserver', '127.0.0.1:%d' % self._dns]
        environment = {**os.environ, 'PEBBLE_VA_NOSLEEP': '1', 'PEBBLE_WFE_NONCEREJECT': '0', 'PEBBLE_AUTHZREUSE': '0'}
        with open(self._directory / 'log', 'wb') as log, contextlib.ExitStack() as stack:
            for command in (dns, pebble):
                process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
                stack.callback(process.wait)
                stack.callback(process.terminate)
            harness.wait_for(lambda: _answers(self._listen) and _answers(self._dns_management), 'Pebble')
            yield self
