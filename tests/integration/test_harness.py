"""The tests' own tools, where these could make a test of something else fail."""

from __future__ import annotations

import subprocess
import sys

import harness


def test_processes_share_no_ports() -> None:
    """As in `make test`, which runs servers from three processes at once: one's responder was found in the place of another's backend."""
    program = 'import harness, sys; print(*harness.free_ports(5), flush=True); sys.stdin.read()'
    argv = [sys.executable, '-c', program]
    others = [subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=harness.HERE) for dummy in range(3)]
    ports = harness.free_ports(5)
    for other in others:
        assert other.stdout is not None
        ports += map(int, other.stdout.readline().split())
    for other in others:
        other.communicate()
    assert len(ports) == len(set(ports)) == 20
