# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Processes, read from /proc, and reloads through systemd. Knows no server.

PRIVATE to the collection, may change at any time.
"""

from __future__ import annotations

import os
import re
import signal
import time
import typing as t

from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed

Run = t.Callable[[list[str]], tuple[int, str, str]]


def wait_for(condition: t.Callable[[], bool], timeout: float, interval: float = 0.05) -> bool:
    """Ask ``condition`` until it holds or ``timeout`` seconds have passed; give whether it held."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


def _status(pid: int) -> dict[str, str]:
    try:
        with open('/proc/%d/status' % pid, encoding='utf-8', errors='replace') as stream:
            return {name: value.strip() for name, dummy, value in (line.partition(':') for line in stream)}
    except (FileNotFoundError, ProcessLookupError):
        return {}


def is_alive(pid: int) -> bool:
    """Whether the process exists and is more than a zombie."""
    return _status(pid).get('State', 'Z')[0] not in 'ZX'


def parent(pid: int) -> int:
    """Give the PID of the process's parent, or 0 if it is gone."""
    return int(_status(pid).get('PPid', '0'))


def started(pid: int, proc: str = '/proc') -> int:
    """Give when the process started, in clock ticks since the boot (proc(5), stat field 22), or 0 if it is gone. With it, a PID is unique."""
    try:
        with open('%s/%d/stat' % (proc, pid), 'rb') as stream:
            return int(stream.read().rpartition(b')')[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def command_line(pid: int) -> list[str]:
    """Give the words of a process's command line (empty if it is gone)."""
    try:
        with open('/proc/%d/cmdline' % pid, 'rb') as stream:
            return [os.fsdecode(word) for word in stream.read().rstrip(b'\0').split(b'\0')]
    except (FileNotFoundError, ProcessLookupError):
        return []


def neighbours() -> list[int]:
    """Give the PIDs of this host's processes, without those of containers on it."""
    found = []
    namespace = os.stat('/proc/self/ns/pid').st_ino
    for name in os.listdir('/proc'):
        try:
            if name.isdigit() and os.stat('/proc/%s/ns/pid' % name).st_ino == namespace:
                found.append(int(name))
        except PermissionError:  # of another user, and so of this host as far as can be told
            found.append(int(name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return sorted(found)


def children(pid: int) -> list[int]:
    """Give the PIDs of a process's children."""
    found = []
    for name in os.listdir('/proc'):
        if name.isdigit():
            status = _status(int(name))
            if status.get('PPid') == str(pid) and status.get('State', 'Z')[0] != 'Z':
                found.append(int(name))
    return sorted(found)


def is_ready(pid: int, number: int) -> bool:
    """Whether the process sleeps and the signal is neither blocked nor pending: an earlier one has been taken and its work is done."""
    status = _status(pid)
    if status.get('State', '')[:1] != 'S':
        return False
    bit = 1 << (number - 1)
    return not any(int(status.get(field, '0'), 16) & bit for field in ('SigBlk', 'SigPnd', 'ShdPnd'))


def await_ready(pid: int, number: int, timeout: float = 60) -> None:
    """Wait until a reload that somebody else asked for is done, so that its workers are not taken for ours; raise Failed."""
    if not wait_for(lambda: is_ready(pid, number) or not is_alive(pid), timeout):
        raise Failed('process %d has not been ready for %s for %d seconds' % (pid, signal.Signals(number).name, timeout))


def unit_of(run: Run, pid: int) -> str | None:
    """Give the systemd unit whose main process this is, or None (no systemd, or started by hand within something else)."""
    if not os.path.isdir('/run/systemd/system'):
        return None
    try:
        with open('/proc/%d/cgroup' % pid, encoding='utf-8') as stream:
            parts = [part for line in stream for part in line.strip().split(':', 2)[2].split('/') if part.endswith('.service')]
    except (FileNotFoundError, ProcessLookupError):
        return None
    for unit in reversed(parts):
        code, out, dummy = run(['systemctl', 'show', '--property', 'MainPID', '--value', unit])
        if code == 0 and out.strip() == str(pid):
            return unit
    return None


def journal(run: Run, unit: str, lines: int = 10) -> str:
    """Give the last lines that the unit logged."""
    return run(['journalctl', '--quiet', '--no-pager', '--lines', str(lines), '--output', 'cat', '--unit', unit])[1].strip()


def reload_unit(run: Run, unit: str) -> None:
    """Let systemd reload the unit; raise Failed with what it says."""
    code, out, err = run(['systemctl', 'reload', unit])
    if code:
        raise Failed('systemctl reload %s: %s\n%s' % (unit, (err or out).strip(), journal(run, unit)))


def log_size(path: str) -> int:
    """Give the size of a log in bytes, 0 where it can't be read."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def log_since(path: str, size: int, pattern: str) -> list[str]:
    """Give the lines that match ``pattern`` (a regular expression) and were written since the log had that size."""
    try:
        with open(path, encoding='utf-8', errors='replace') as stream:
            stream.seek(size)
            return [line for line in stream.read().splitlines() if re.search(pattern, line)]
    except OSError:
        return []
