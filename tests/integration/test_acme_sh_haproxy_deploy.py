# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The program haproxy_deploy.py of the role acme_sh, with the real HAProxy."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import typing as t

import harness
import pytest

PROGRAM = pathlib.Path(__file__).resolve().parents[2] / 'roles' / 'acme_sh' / 'files' / 'haproxy_deploy.py'
HAPROXY = shutil.which('haproxy', path=os.environ['PATH'] + ':/usr/sbin')
pytestmark = pytest.mark.skipif(HAPROXY is None, reason='HAProxy is not installed')

CONFIG = """
global
    %s
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend site
    bind 127.0.0.1:%d ssl crt %s
    http-request return status 200
"""


class Site:
    """One HAProxy with one site."""

    def __init__(self, work: pathlib.Path, stats: bool) -> None:
        self.work = work
        [self.port] = harness.free_ports(1)
        self.config = work / 'haproxy.cfg'
        self.target = work / 'certs' / 'site.pem'
        self.target.parent.mkdir()
        shutil.copy(harness.certificate(work, 'a.example'), self.target)
        self.target.chmod(0o640)
        self.config.write_text(CONFIG % ('stats socket %s/admin.sock mode 600 level admin' % work if stats else '', self.port, self.target.parent))

    def __enter__(self) -> Site:
        self._process = subprocess.Popen([str(HAPROXY), '-W', '-f', str(self.config)], stderr=subprocess.DEVNULL)
        harness.wait_for(self.served, 'HAProxy answers')
        return self

    def __exit__(self, *dummy: object) -> None:
        self._process.terminate()
        self._process.wait()

    def served(self) -> str | None:
        """The fingerprint of the certificate that a client sees, or None if nobody answers."""
        try:
            return harness.get(self.port, 'a.example').certificate
        except ConnectionError:
            return None

    def workers(self) -> list[str]:
        return pathlib.Path('/proc/%d/task/%d/children' % (self._process.pid, self._process.pid)).read_text().split()

    def deploy(self, key: pathlib.Path, chain: pathlib.Path) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, 'CERT_KEY_PATH': str(key), 'CERT_FULLCHAIN_PATH': str(chain), 'PATH': os.environ['PATH'] + ':/usr/sbin'}
        command = [sys.executable, str(PROGRAM), '--config', str(self.config), str(self.target)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def new(work: pathlib.Path, name: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Make a new certificate; give its key and its chain."""
    work.joinpath(name).mkdir()
    harness.certificate(work / name, 'a.example')
    return work / name / 'a.example.key', work / name / 'a.example.crt'


@pytest.mark.parametrize('stats', [True, False], ids=['runtime API', 'reload'])
def test_new_certificate(tmp_path: pathlib.Path, stats: bool) -> None:
    key, chain = new(tmp_path, 'new')
    with Site(tmp_path, stats) as site:
        workers = site.workers()
        done = site.deploy(key, chain)
        assert done.returncode == 0 and ('runtime API' if stats else 'HAProxy reloaded') in done.stdout, done
        harness.wait_for(lambda: site.served() == harness.fingerprint(chain), 'the new certificate is served')
        assert (site.workers() == workers) == stats  # by the runtime API, without a reload
        assert site.target.read_bytes() == key.read_bytes() + chain.read_bytes()
        assert site.target.stat().st_mode & 0o777 == 0o640
        assert sorted(path.name for path in site.target.parent.iterdir()) == ['site.pem']


@pytest.mark.parametrize('stats', [True, False], ids=['runtime API', 'reload'])
def test_refused_certificate(tmp_path: pathlib.Path, stats: bool) -> None:
    """A key that does not belong to the certificate: HAProxy keeps what it has, in memory and on disk."""
    key, dummy = new(tmp_path, 'one')
    dummy, chain = new(tmp_path, 'two')
    with Site(tmp_path, stats) as site:
        before, served = harness.Picture.of(site.target.parent).bytes, site.served()
        done = site.deploy(key, chain)
        assert done.returncode == 1 and done.stderr.startswith('haproxy_deploy: '), done
        assert site.served() == served
        assert harness.Picture.of(site.target.parent).bytes == before


def test_new_file(tmp_path: pathlib.Path) -> None:
    """The first certificate of a HAProxy that does not run: only its owner may read it."""
    site = Site(tmp_path, stats=True)
    site.target.unlink()
    key, chain = new(tmp_path, 'new')
    done: t.Any = site.deploy(key, chain)
    assert done.returncode == 0 and 'does not run' in done.stdout, done
    assert site.target.stat().st_mode & 0o777 == 0o600
