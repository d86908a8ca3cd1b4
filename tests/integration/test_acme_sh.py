# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules acme_sh_certificate and acme_sh_audit with the real acme.sh and the ACME test server Pebble."""

from __future__ import annotations

import json
import pathlib
import shutil
import socket
import subprocess
import typing as t

import acme_ca
import harness
import pytest

FOUND = acme_ca.programs()
pytestmark = pytest.mark.skipif(FOUND is None, reason='acme.sh and Pebble are neither installed nor to be had as Debian packages')


class Host:
    """One acme.sh home and the files that a server would read."""

    def __init__(self, directory: pathlib.Path, ca: acme_ca.CA) -> None:
        self.work = directory / 'work'
        self.work.mkdir()
        self.home = directory / 'home'
        self.tls = directory / 'tls'
        self.tls.mkdir()
        self.key, self.fullchain, self.reloads = self.tls / 'site.key', self.tls / 'site.pem', directory / 'reloads'
        self.options: dict[str, t.Any] = {
            'home': str(self.home),
            'acme_sh': (FOUND or {})['acme.sh'],
            'server': ca.url,
            'ca_bundle': ca.bundle,
            'tls_port': ca.tls_port,
            'domains': ['a.example', 'b.example'],
            'install': {'key': str(self.key), 'fullchain': str(self.fullchain)},
            'reload': 'echo >> %s' % self.reloads,
        }

    def certificate(self, check: bool = False, **options: t.Any) -> harness.Result:
        return harness.run_module('acme_sh_certificate', {**self.options, **options}, self.work, check)

    def four_times(self, **options: t.Any) -> dict[str, t.Any]:
        """Check mode, for real, check mode again, for real again: the last two change nothing and touch nothing."""
        before = self.pictures()
        planned = self.certificate(check=True, **options)
        assert planned.changed
        assert self.pictures() == before
        done = self.certificate(**options)
        assert done.changed
        assert [planned.value[name] for name in ('msg', 'diff', 'issued')] == [done.value[name] for name in ('msg', 'diff', 'issued')]
        after = self.pictures()
        for check in (True, False):
            again = self.certificate(check=check, **options)
            assert not again.changed
            assert again.value['diff']['before'] == again.value['diff']['after']
            assert self.pictures() == after
        return done.value

    def pictures(self) -> list[harness.Picture]:
        return [harness.Picture.of(top) for top in (self.home, self.tls)]

    def contents(self) -> dict[str, tuple[bytes, int]]:
        """The certificate's files and the installed ones, but not acme.sh's notes of what it did last."""
        found = {path: content for picture in self.pictures() for path, content in picture.bytes.items()}
        return {path: content for path, content in found.items() if '/ca/' not in path and not path.endswith(('http.header', '.bak'))}

    def reloaded(self) -> int:
        return len(self.reloads.read_text().splitlines()) if self.reloads.exists() else 0

    def names(self) -> str:
        command = ['openssl', 'x509', '-in', self.fullchain, '-noout', '-ext', 'subjectAltName']
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1].strip()

    def cron(self, *options: str) -> None:
        """What the timer runs."""
        subprocess.run([self.options['acme_sh'], '--cron', '--home', self.home, *options], check=True, capture_output=True)

    def conf(self, name: str = 'a.example_ecc/a.example.conf') -> pathlib.Path:
        return self.home / name


@pytest.fixture(scope='module')
def ca(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[acme_ca.CA]:
    with acme_ca.CA(tmp_path_factory.mktemp('ca')).run(FOUND or {}) as running:
        yield running


@pytest.fixture
def host(tmp_path: pathlib.Path, ca: acme_ca.CA) -> Host:
    """Nothing there yet."""
    return Host(tmp_path, ca)


@pytest.fixture(scope='module')
def _issued(tmp_path_factory: pytest.TempPathFactory, ca: acme_ca.CA) -> tuple[Host, pathlib.Path]:
    host = Host(tmp_path_factory.mktemp('issued'), ca)
    host.options['domains'] = ['a.example']
    assert host.certificate().changed
    copy = tmp_path_factory.mktemp('copy')
    shutil.copytree(host.home.parent, copy / 'issued')
    return host, copy / 'issued'


@pytest.fixture
def issued(_issued: tuple[Host, pathlib.Path]) -> Host:
    """A certificate for a.example, as it was when it had been issued."""
    host, copy = _issued
    shutil.rmtree(host.home.parent)
    shutil.copytree(copy, host.home.parent)
    return host


def test_journey(host: Host) -> None:
    """Issued, installed, renewed by what the timer runs, issued anew for other names: and nothing in between when nothing is to be done."""
    done = host.four_times(days=1)  # acme.sh renews a day before, so the next run of the timer renews
    assert done['issued'] and done['msg'].startswith('a.example: issued (there is no certificate yet)')
    assert host.names() == 'DNS:a.example, DNS:b.example'
    assert (host.key.stat().st_mode & 0o777, host.fullchain.stat().st_mode & 0o777) == (0o600, 0o644)
    assert (host.home.stat().st_mode & 0o777) == 0o700
    assert host.reloaded() == 1

    first = host.fullchain.read_bytes()
    host.cron()
    assert host.fullchain.read_bytes() != first and host.names() == 'DNS:a.example, DNS:b.example'
    assert host.reloaded() == 2
    assert not host.certificate(days=1).changed

    # settings only: no certificate is issued, nothing is reloaded
    second = host.fullchain.read_bytes()
    assert not host.four_times(days=20)['issued']
    assert host.fullchain.read_bytes() == second and host.reloaded() == 2

    # an installed file that was lost, and one that others can read
    host.fullchain.unlink()
    host.key.chmod(0o644)
    assert not host.four_times(days=20)['issued']
    assert host.fullchain.read_bytes() == second and host.reloaded() == 3
    assert host.key.stat().st_mode & 0o777 == 0o600

    done = host.four_times(days=20, domains=['a.example'])
    assert done['issued'] and 'the names were a.example, b.example' in done['msg']
    assert host.names() == 'DNS:a.example' and host.reloaded() == 4


def test_failure_to_issue_puts_everything_back(issued: Host) -> None:
    """Neither acme.sh's configuration nor the installed files may speak of names that were not validated."""
    before = issued.contents()
    with socket.create_server(('127.0.0.1', issued.options['tls_port'])):
        failed = issued.certificate(domains=['a.example', 'b.example'])
    assert 'tcp port %d is already used' % issued.options['tls_port'] in failed.message
    assert issued.contents() == before
    assert not issued.certificate().changed


def test_failure_to_reload_puts_everything_back(issued: Host) -> None:
    before = issued.contents()
    assert 'Reload error for: a.example' in issued.certificate(reload='false').message
    assert issued.contents() == before
    assert not issued.certificate().changed


def test_other_key_type(issued: Host) -> None:
    """Two certificates of acme.sh that install to the same files would take turns: the one before stops to renew."""
    done = issued.four_times(key_type='2048')
    assert 'renewal of a.example_ecc ended' in done['msg']
    assert not issued.conf().exists() and issued.conf('a.example/a.example.conf').exists()
    text = subprocess.run(['openssl', 'x509', '-in', issued.fullchain, '-noout', '-text'], capture_output=True, text=True, check=True).stdout
    assert 'Public-Key: (2048 bit)' in text


def test_audit(issued: Host) -> None:
    """A certificate issued by hand that would not renew does after the audit; only those values change, and no secret is shown."""
    conf = issued.conf()
    good = conf.read_bytes()
    secret = b"Le_PFXPassword='hush'\n"
    wrong = good.replace(b"Le_TLSPort='%d'" % issued.options['tls_port'], b"Le_TLSPort='443'").replace(b"Le_LocalAddress='127.0.0.1,'\n", b'')
    conf.write_bytes(wrong.replace(issued.options['server'].encode(), b'https://acme.zerossl.com/v2/DV90') + secret)
    conf.chmod(0o640)
    options = {name: issued.options[name] for name in ('home', 'tls_port', 'server')}

    results = [harness.run_module('acme_sh_audit', options, issued.work, check) for check in (True, False, True, False)]
    assert [result.changed for result in results] == [True, True, False, False]
    assert results[0].value['findings'] == results[1].value['findings'] and results[0].value['diff'] == results[1].value['diff']
    assert [finding['setting'] for finding in results[1].value['findings']] == ['Le_TLSPort', 'Le_LocalAddress', 'Le_API']
    assert 'hush' not in json.dumps([result.value for result in results])
    kept = [line for line in good.splitlines() if not line.startswith((b'Le_OrderFinalize', b'Le_Link'))]
    assert {*kept, secret.strip()} <= set(conf.read_bytes().splitlines())
    assert conf.stat().st_mode & 0o777 == 0o640

    first = issued.fullchain.read_bytes()
    issued.cron('--force')
    assert issued.fullchain.read_bytes() != first


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'server': 'zerossl'}, 'ZeroSSL offers http-01 and dns-01 only'),
        ({'server': 'https://acme.zerossl.com/v2/DV90'}, 'ZeroSSL offers http-01 and dns-01 only'),
        ({'domains': ['*.example.org']}, "can't validate a wildcard"),
        ({'reload': 'haproxy'}, 'install.combined'),
        ({'install': {'key': '/nowhere/site.key'}}, 'there is no folder /nowhere'),
    ],
)
def test_refused_before_anything_runs(host: Host, options: dict[str, t.Any], message: str) -> None:
    assert message in host.certificate(**options).message
    assert not host.home.exists()
