"""The responder against a real httpd, called as acme.sh calls openssl; at last by acme.sh itself."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import typing as t

import acme_ca
import harness
import pytest
from apache_site import BINARY, ApacheSite
from servers import site_of

SOURCE = harness.HERE.parents[1] / 'roles' / 'apache' / 'files' / 'responder.py'
DIGEST = bytes(range(32)).hex()

pytestmark = pytest.mark.skipif(not pathlib.Path(BINARY).exists(), reason='Debian package apache2 is not installed')


class Host:
    """A host on which Apache answers challenges, with the responder installed as the role does it."""

    def __init__(self, site: ApacheSite) -> None:
        self.site = site
        answers = site.run()
        assert answers.changed
        self.challenges = pathlib.Path(answers.value['store']) / 'challenges'
        directory = site.root / 'responder'
        directory.mkdir()
        self.program = directory / 'openssl'
        self.program.write_text('#!%s -I\n%s' % (sys.executable, SOURCE.read_text()))
        self.program.chmod(0o755)
        config = {'openssl': shutil.which('openssl'), 'store': answers.value['store'], 'endpoints': answers.value['public']}
        (directory / 'responder.json').write_text(json.dumps(config))

    def openssl(self, *words: t.Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.program, *words], check=False, capture_output=True, text=True)

    def request(self, name: str, kind: str = 'DNS') -> tuple[subprocess.CompletedProcess[str], pathlib.Path]:
        """Do what acme.sh does before it starts its responder; give what the request said, and the certificate's path."""
        work = pathlib.Path(tempfile.mkdtemp(dir=self.site.root))
        config = '[ dn ]\n[ req ]\ndistinguished_name = dn\nreq_extensions = v3_req\n[ v3_req ]\nsubjectAltName=%s:%s\n1.3.6.1.5.5.7.1.31=critical,DER:04:20:%s'
        (work / 'config').write_text(config % (kind, name, DIGEST))
        assert self.openssl('genrsa', '-out', work / 'key', '2048').returncode == 0
        done = self.openssl('req', '-new', '-sha256', '-key', work / 'key', '-subj', '/CN=x', '-config', work / 'config', '-out', work / 'csr')
        signing = ['-req', '-in', work / 'csr', '-signkey', work / 'key', '-extensions', 'v3_req', '-extfile', work / 'config', '-out', work / 'cert']
        if done.returncode == 0:
            assert self.openssl('x509', *signing).returncode == 0
        return done, work / 'cert'

    @contextlib.contextmanager
    def challenge(self, name: str, kind: str = 'DNS') -> t.Iterator[subprocess.Popen[str]]:
        done, certificate = self.request(name, kind)
        assert done.returncode == 0, done.stderr
        server = ['s_server', '-www', '-cert', certificate, '-key', certificate.with_name('key'), '-accept', '10443', '-alpn', 'acme-tls/1']
        process = subprocess.Popen([self.program, *server], stderr=subprocess.PIPE, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            process.stderr.close()

    def ask(self, sni: str, *more: str) -> str:
        """Make a handshake as the CA does; give the certificate as text."""
        client = ['openssl', 's_client', '-connect', '127.0.0.1:%d' % self.site.port, '-servername', sni, '-alpn', 'acme-tls/1', *more]
        seen = subprocess.run(client, stdin=subprocess.DEVNULL, check=False, capture_output=True, text=True).stdout
        assert 'ALPN protocol: acme-tls/1' in seen
        return subprocess.run(['openssl', 'x509', '-noout', '-text'], input=seen, check=True, capture_output=True, text=True).stdout

    def serves(self, sni: str) -> bool:
        return '1.3.6.1.5.5.7.1.31: critical' in self.ask(sni)

    def await_served(self, sni: str, process: subprocess.Popen[str]) -> None:
        def served() -> bool:
            assert process.poll() is None, process.stderr.read()
            return self.serves(sni)

        harness.wait_for(served, 'the challenge is not served')

    def names(self) -> list[str]:
        return sorted(path.name for path in self.challenges.iterdir())


@pytest.fixture(scope='module')
def host() -> t.Iterator[Host]:
    with site_of('apache_alpn_responder') as site:
        site.start()
        yield Host(site)


@pytest.fixture(autouse=True)
def leaves_nothing(host: Host) -> t.Iterator[None]:
    yield
    assert host.names() == []
    assert all(host.site.answers(name) for name in host.site.names)


def test_is_openssl(host: Host) -> None:
    for words in (['version'], ['dgst', '-nonsense'], ['s_client', '-help'], ['s_server', '-alpn'], []):
        real = subprocess.run(['openssl', *words], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        ours = subprocess.run([host.program, *words], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert (ours.returncode, ours.stdout) == (real.returncode, real.stdout)


@pytest.mark.parametrize(
    ('kind', 'name', 'sni', 'algorithm', 'ending'),
    [
        ('DNS', 'a.example', 'a.example', 'id-ecPublicKey', signal.SIGTERM),
        ('DNS', 'B.example', 'b.example', 'rsaEncryption', signal.SIGINT),
        ('DNS', 'new.example', 'new.example', 'id-ecPublicKey', signal.SIGHUP),
        ('IP', '127.0.0.1', '1.0.0.127.in-addr.arpa', 'id-ecPublicKey', signal.SIGTERM),
    ],
)
def test_served_in_the_key_type_of_the_site(host: Host, kind: str, name: str, sni: str, algorithm: str, ending: signal.Signals) -> None:
    with host.challenge(name, kind) as process:
        host.await_served(sni, process)
        for version in ('-tls1_2', '-tls1_3'):
            seen = host.ask(sni, version)
            assert 'Public Key Algorithm: ' + algorithm in seen
            assert ('IP Address:' if kind == 'IP' else 'DNS:') + name in seen
            assert seen.count('Subject Alternative Name') == seen.count('1.3.6.1.5.5.7.1.31: critical') == 1
        for path in (host.challenges / sni).glob('acme-*'):
            status = path.stat()
            assert status.st_mode & 0o777 == 0o600
            assert os.geteuid() or pwd.getpwuid(status.st_uid).pw_name == 'www-data'
        for site in host.site.names:  # everybody else gets the site
            assert harness.get(host.site.port, site).certificate == host.site.fingerprint(site)
        assert not any(host.serves(site) for site in host.site.names if site != sni)
        process.send_signal(ending)
        assert process.wait(harness.PATIENCE) == 128 + ending
        assert host.names() == []
        assert not host.serves(sni)


def test_several_at_once(host: Host) -> None:
    with host.challenge('a.example') as one, host.challenge('b.example') as two, host.challenge('other.example') as three:
        for name, process in (('a.example', one), ('b.example', two), ('other.example', three)):
            host.await_served(name, process)
        two.terminate()
        assert two.wait(harness.PATIENCE)
        assert host.names() == ['a.example', 'other.example']
        assert host.serves('a.example') and not host.serves('b.example') and host.serves('other.example')
        one.terminate()
        three.terminate()
        assert one.wait(harness.PATIENCE) and three.wait(harness.PATIENCE)


def test_one_after_the_other_for_one_name(host: Host) -> None:
    with host.challenge('a.example') as first:
        host.await_served('a.example', first)
        with host.challenge('a.example') as second:
            harness.wait_for(lambda: pathlib.Path('/proc/%d' % second.pid).exists() and second.poll() is None, 'the second does not wait')
            first.terminate()
            first.wait(harness.PATIENCE)
            host.await_served('a.example', second)
            second.terminate()
            second.wait(harness.PATIENCE)


def test_survives_graceful_restarts(host: Host) -> None:
    with host.challenge('b.example') as process:
        for dummy in range(3):
            host.await_served('b.example', process)
            before = (host.challenges / 'b.example').stat().st_ino
            host.site.graceful()
            harness.wait_for(lambda: host.serves('b.example'), 'not put back')
            assert (host.challenges / 'b.example').stat().st_ino != before or process.poll() is None
        process.terminate()
        process.wait(harness.PATIENCE)


@pytest.mark.parametrize('name', ['a.example', 'b.example'])
def test_killed_and_swept_by_the_next(host: Host, name: str) -> None:
    with host.challenge('a.example') as killed:
        host.await_served('a.example', killed)
        killed.kill()
        killed.wait(harness.PATIENCE)
    assert host.names() == ['a.example']
    with host.challenge(name) as process:
        marker = host.challenges / name / '.seamless-tls-alpn'
        harness.wait_for(lambda: os.path.islink(marker) and os.readlink(marker).startswith('%d.' % process.pid), 'not swept')
        assert host.names() == [name]
        host.await_served(name, process)
        process.terminate()
        process.wait(harness.PATIENCE)


def test_ends_with_its_parent(host: Host) -> None:
    certificate = host.request('a.example')[1]
    script = '"$0" s_server -cert "$1" -alpn acme-tls/1 & read line'
    with subprocess.Popen(['sh', '-c', script, host.program, certificate], stdin=subprocess.PIPE) as shell:
        harness.wait_for(lambda: host.serves('a.example'), 'the challenge is not served')
        shell.kill()
    harness.wait_for(lambda: host.names() == [], 'it goes on')


def test_leaves_the_challenges_of_mod_md_alone(host: Host) -> None:
    own = host.challenges / 'a.example' / 'acme-tls-alpn-01-pubcert.pem'
    own.parent.mkdir()
    own.write_text('of mod_md')
    shutil.chown(own.parent, host.challenges.stat().st_uid)
    with host.challenge('a.example') as process:
        assert process.wait(harness.PATIENCE) == 1
        assert 'mod_md itself is answering' in process.stderr.read()
    assert [path.name for path in own.parent.iterdir()] == [own.name] and own.read_text() == 'of mod_md'
    shutil.rmtree(own.parent)


@pytest.mark.parametrize('name', ['../../x', 'a/b', '*.a.example', 'a.example,DNS:b.example'])
def test_refused_names(host: Host, name: str) -> None:
    done, dummy = host.request(name)
    assert done.returncode == 1
    assert 'seamless.tls_alpn: ' in done.stderr and len(done.stderr.splitlines()) == 1


def test_refused_before_anything_runs(host: Host) -> None:
    """What is wrong is said by the command whose errors acme.sh shows."""
    site = host.site
    path = site.write('c', site.site('b.example').replace('b.example\n', 'c.example\n', 1))
    site.graceful()
    try:
        done = host.request('c.example')[0]
        assert done.returncode == 1 and 'for c.example (127.0.0.1:%d does not offer it' % site.port in done.stderr
        assert site.run().changed
        assert host.request('c.example')[0].returncode == 0
    finally:
        assert site.run(state='absent').changed
        (site.conf / 'sites-enabled' / 'c.conf').unlink()
        path.unlink()
        done = host.request('a.example')[0]
        assert done.returncode == 1 and 'run the role' in done.stderr
        assert site.run().changed


def test_other_private_keys_of_mod_md(host: Host) -> None:
    """mod_md looks for files named after the types in MDPrivateKeys."""
    path = host.site.conf / 'conf-enabled' / 'zz.conf'
    path.write_text('MDPrivateKeys secp384r1\n')
    host.site.graceful()
    try:
        with host.challenge('b.example') as process:
            host.await_served('b.example', process)
            process.terminate()
            process.wait(harness.PATIENCE)
    finally:
        path.unlink()
        host.site.graceful()


def test_site_with_two_key_types(host: Host) -> None:
    """The certificate has to be of the type that a CA gets."""
    site = host.site
    both = site.site('b.example').replace(
        '</V', '    SSLCertificateFile %(r)s/a.example.crt\n    SSLCertificateKeyFile %(r)s/a.example.key\n</V' % {'r': site.root}
    )
    path = site.write('both', both.replace('ServerName b', 'ServerName both'))
    try:
        assert site.run().changed
        with host.challenge('both.example') as process:
            harness.wait_for(lambda: host.names() == ['both.example'] and process.poll() is None, 'not answered')
            go_like = ['-sigalgs', 'RSA-PSS+SHA256:ECDSA+SHA256:RSA-PSS+SHA384:RSA+SHA256']
            harness.wait_for(lambda: '1.3.6.1.5.5.7.1.31: critical' in host.ask('both.example', *go_like), 'not served to a CA')
            process.terminate()
            process.wait(harness.PATIENCE)
    finally:
        (site.conf / 'sites-enabled' / 'both.conf').unlink()
        path.unlink()
        site.graceful()


FOUND = acme_ca.programs() if pathlib.Path(BINARY).exists() else None


@pytest.mark.skipif(FOUND is None, reason='acme.sh and Pebble are neither installed nor to be had as Debian packages')
def test_acme_sh(host: Host, tmp_path: pathlib.Path) -> None:
    """Two names, an EC and an RSA site, under load; acme.sh is unmodified."""
    ca = acme_ca.CA(tmp_path)
    ca.tls_port = host.site.port
    with ca.run(FOUND or {}), harness.Traffic(host.site.port, host.site.names, host.site.root) as traffic:
        command = [(FOUND or {})['acme.sh'], '--home', tmp_path / 'home', '--issue', '--alpn', '--tlsport', str(harness.free_ports(1)[0])]
        command += ['--openssl-bin', host.program, '--server', ca.url, '--ca-bundle', ca.bundle, '-d', 'a.example', '-d', 'b.example']
        done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, 'HOME': str(tmp_path)})
        assert done.returncode == 0 and 'Cert success' in done.stdout, done.stdout + done.stderr
    assert set(traffic.counts['certificates']) == {host.site.fingerprint(name) for name in host.site.names}
