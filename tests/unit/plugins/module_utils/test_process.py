# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What /proc says of real processes, and when a signal has been taken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import typing as t

import pytest
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _process
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed

PATIENCE = 60  # seconds; a loaded machine is slow
# A process that says when it is where it should be, then sleeps.
SLEEPS = 'import signal, sys; %s; print(flush=True); signal.pause()'
BLOCKS = SLEEPS % 'signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])'
TAKES = SLEEPS % 'signal.signal(signal.SIGHUP, lambda *dummy: None)'


@pytest.fixture
def start() -> t.Iterator[t.Callable[[str], int]]:
    """Start Python programs; each has said something before it is given."""
    processes: list[subprocess.Popen[bytes]] = []

    def one(program: str) -> int:
        process = subprocess.Popen([sys.executable, '-c', program, '', 'a word'], stdout=subprocess.PIPE)
        processes.append(process)
        assert process.stdout is not None and process.stdout.readline() == b'\n'
        return process.pid

    yield one
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def gone() -> int:
    process = subprocess.Popen(['true'])
    process.wait()
    return process.pid


def test_process_that_runs(start: t.Callable[[str], int]) -> None:
    pid = start(TAKES)
    assert _process.is_alive(pid)
    assert _process.parent(pid) == os.getpid()
    assert pid in _process.children(os.getpid())
    assert pid in _process.neighbours() and os.getpid() in _process.neighbours()
    assert _process.command_line(pid) == [sys.executable, '-c', TAKES, '', 'a word']
    assert _process.started(pid) == _process.started(pid) >= _process.started(os.getpid()) > 0


def test_process_that_is_gone() -> None:
    pid = gone()
    assert not _process.is_alive(pid)
    assert _process.parent(pid) == _process.started(pid) == 0
    assert _process.command_line(pid) == []
    assert pid not in _process.children(os.getpid())
    assert not _process.is_ready(pid, signal.SIGHUP)
    _process.await_ready(pid, signal.SIGHUP, 0)


def test_zombie() -> None:
    process = subprocess.Popen(['true'])
    try:
        assert _process.wait_for(lambda: not _process.is_alive(process.pid), PATIENCE)
        assert process.pid not in _process.children(os.getpid())
    finally:
        process.wait()


def test_blocked_signal_is_not_ready(start: t.Callable[[str], int]) -> None:
    pid = start(BLOCKS)
    assert _process.wait_for(lambda: _process.is_ready(pid, signal.SIGUSR1), PATIENCE)
    assert not _process.is_ready(pid, signal.SIGHUP)
    with pytest.raises(Failed, match='process %d has not been ready for SIGHUP' % pid):
        _process.await_ready(pid, signal.SIGHUP, 0)


def test_pending_signal_is_not_ready(start: t.Callable[[str], int]) -> None:
    pid = start(TAKES)
    _process.await_ready(pid, signal.SIGHUP, PATIENCE)
    os.kill(pid, signal.SIGSTOP)
    assert _process.wait_for(lambda: not _process.is_ready(pid, signal.SIGHUP), PATIENCE)
    os.kill(pid, signal.SIGHUP)
    assert not _process.is_ready(pid, signal.SIGHUP)
    os.kill(pid, signal.SIGCONT)
    assert _process.wait_for(lambda: not _process.is_alive(pid), PATIENCE)  # it has taken the signal, and pause() returned


def test_wait_for_gives_up() -> None:
    asked: list[int] = []
    assert not _process.wait_for(lambda: bool(asked.append(1)), 0, 0)
    assert asked
    assert _process.wait_for(lambda: True, 0)


def test_reload_that_fails_says_what_the_unit_logged() -> None:
    answers = {'systemctl': (1, '', 'Job for x.service failed.\n'), 'journalctl': (0, 'bind() failed\n', '')}
    with pytest.raises(Failed, match='systemctl reload x.service: Job for x.service failed.\nbind\\(\\) failed'):
        _process.reload_unit(lambda argv: answers[argv[0]], 'x.service')


def test_no_unit_without_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_process.os.path, 'isdir', lambda path: path != '/run/systemd/system')
    assert _process.unit_of(lambda argv: pytest.fail('asked for %s' % argv), os.getpid()) is None
