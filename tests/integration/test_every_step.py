"""Every step of every module fails, or is its last: the site answers, the files are all old or all new or have a journal, the next run converges.

Every STRIDE-th step of those that there are (default 23; `make faults` takes each).
"""

from __future__ import annotations

import collections
import itertools
import json
import os
import pathlib
import signal
import socket
import ssl
import typing as t

import harness
import nginx_site
import pytest
import steps
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Transaction
from servers import SERVERS, site_of

STRIDE = int(os.environ.get('STRIDE', '23'))
REPORT = os.environ.get('FAULTS_REPORT')  # a directory for what was counted
KINDS = {'kill': None, 'EIO': None, 'EIO+': steps.FILES, 'ENOSPC+': steps.TAKES_ROOM}  # at which steps each makes a difference


class Bench:
    """A server that serves, and its module with a fault in it."""

    def __init__(self, module: str, site: t.Any) -> None:
        self._module = module
        self.site = site
        self._log = site.root / 'steps'
        site.start()

    def run(self, state: str, fault: str = '') -> tuple[harness.Result, list[str]]:
        """Run the module; give what it said, and the kinds of the steps that it made."""
        self._log.unlink(missing_ok=True)
        result = harness.run_module(self._module, self.site.arguments(state=state), self.site.root, FAULT=fault, STEPS=str(self._log))
        return result, [line.split('\t')[1] for line in self._log.read_text().splitlines()]

    def visible(self) -> dict[str, tuple[bytes, int]]:
        return {path: file for path, file in self.site.picture().bytes.items() if not os.path.basename(path).startswith('.')}

    def hidden(self) -> list[str]:
        return [path for path in self.site.picture().bytes if os.path.basename(path).startswith('.')]

    @property
    def interrupted(self) -> bool:
        return Transaction(str(self.site.main)).interrupted

    def answers(self) -> bool:
        return all(self.site.answers(name) for name in ('a.example', 'b.example'))


@pytest.fixture(params=SERVERS)
def bench(request: pytest.FixtureRequest) -> t.Iterator[tuple[str, Bench]]:
    with site_of(request.param) as site:
        yield request.param, Bench(request.param, site)


@pytest.mark.parametrize('kind', KINDS)
def test_fault_at_every_step(bench: tuple[str, Bench], kind: str) -> None:
    """In turn of `present` and of `absent`, each followed by a run that nothing happens to."""
    module, one = bench
    pictures, made = {'absent': one.visible()}, {}
    for state in ('present', 'absent', 'present', 'absent'):  # the first runs make a few files more, which stay
        result, made[state] = one.run(state)
        assert result.changed
        assert pictures.setdefault(state, one.visible()) == one.visible()
    points = {state: [number for number, step in enumerate(steps_made, 1) if KINDS[kind] is None or step in KINDS[kind]] for state, steps_made in made.items()}
    turns = itertools.zip_longest(points['present'][::STRIDE], points['absent'][::STRIDE])
    counts: collections.Counter[str] = collections.Counter()
    with harness.Traffic(one.site.port, ['a.example', 'b.example'], one.site.root):
        for state, number in ((state, number) for turn in turns for state, number in zip(('present', 'absent'), turn)):
            if number is not None:
                where = '%s %s@%d %s' % (state, kind, number, made[state][number - 1])
                result, steps_made = one.run(state, '%s@%d' % (kind, number))
                assert len(steps_made) >= number, (where, result.value)
                assert (result.code == -signal.SIGKILL) == (kind == 'kill'), where
                assert one.answers(), where
                whole = one.visible() in pictures.values()
                assert whole or one.interrupted, where
                counts['injected'] += 1
                counts['old or new' if whole else 'mixed, with a journal'] += 1
            assert not one.run(state)[0].value.get('failed'), where
            assert one.visible() == pictures[state], where
            assert one.answers() and not one.interrupted, where
            counts['hidden files left'] += len(one.hidden())
    assert counts['injected'] and not counts['hidden files left'], counts
    if REPORT:
        pathlib.Path(REPORT, '%s-%s.json' % (module, kind)).write_text(json.dumps(counts))


@pytest.mark.parametrize('again', ['', 'kill@1:rename', 'kill@2:rename', 'kill@3:rename'])
@pytest.mark.parametrize('module', ['nginx_alpn_stream', 'haproxy_alpn_frontend'])
def test_absent_after_a_kill_at_the_end(module: str, again: str) -> None:
    """The front is up when the run is killed, so that the way down takes stages: a client that has not said anything yet is served.

    Also when a first attempt at it is killed: before its journal is there, then, and after a file was renamed.
    """
    with site_of(module) as site:
        one = Bench(module, site)
        before = one.visible()
        renames = one.run('present')[1].count('rename')
        assert one.run('absent')[0].changed
        assert one.run('present', 'kill@%d:rename' % renames)[0].code == -signal.SIGKILL
        assert one.interrupted
        if again:
            assert one.run('absent', again)[0].code == -signal.SIGKILL
        old = set(site.workers())
        with socket.create_connection(('127.0.0.1', site.port), harness.PATIENCE) as plain:
            process = harness.start_module(module, site.arguments(state='absent'), site.root)
            harness.wait_for(lambda: set(site.workers()) - old and not any(map(nginx_site.takes_connections, old)), 'it was not reloaded')
            with ssl._create_unverified_context().wrap_socket(plain, server_hostname='b.example') as secured:
                secured.sendall(b'GET / HTTP/1.0\r\nHost: b.example\r\n\r\n')
                assert b' 200 ' in secured.recv(100)
        assert harness.end_module(process).changed
        assert one.visible() == before and one.answers() and not one.interrupted
