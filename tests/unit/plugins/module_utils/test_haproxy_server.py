# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HAProxy's processes: what their command lines say, and which one is meant."""

from __future__ import annotations

import os

import pytest
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _haproxy_server as hs
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed

COMMANDS = [
    ('haproxy -f /a.cfg', ['/a.cfg'], ['-f', '/a.cfg'], []),
    ('haproxy -Ws -f /a.cfg -p /run/p -S /run/m.sock', ['/a.cfg'], ['-Ws', '-f', '/a.cfg', '-p', '/run/p', '-S', '/run/m.sock'], []),
    ('haproxy -f /a.cfg -f /b -W', ['/a.cfg', '/b'], ['-f', '/a.cfg', '-f', '/b', '-W'], []),
    ('haproxy -f a.cfg', ['/srv/a.cfg'], ['-f', 'a.cfg'], []),
    ('haproxy -C /etc/haproxy -f a.cfg -L me', ['/etc/haproxy/a.cfg'], ['-C', '/etc/haproxy', '-f', 'a.cfg', '-L', 'me'], ['-C', '/etc/haproxy', '-L', 'me']),
    ('haproxy -D -- /a.cfg /b.cfg', ['/a.cfg', '/b.cfg'], ['-D', '--', '/a.cfg', '/b.cfg'], []),
    ('haproxy -sf 12 13 -x sockpair@5 -W -f /a.cfg', ['/a.cfg'], ['-W', '-f', '/a.cfg'], []),
    ('haproxy -W -f /a.cfg -sf 12', ['/a.cfg'], ['-W', '-f', '/a.cfg'], []),
    ('haproxy -f /a.cfg -st 1 2 -x /run/s', ['/a.cfg'], ['-f', '/a.cfg'], []),
]


@pytest.mark.parametrize(('command', 'paths', 'words', 'shared'), COMMANDS)
def test_arguments(command: str, paths: list[str], words: list[str], shared: list[str]) -> None:
    arguments = hs.read_arguments(command.split(), '/srv')
    assert (arguments.paths, arguments.words, arguments.shared) == (paths, words, shared)


def process(pid: int, *paths: str) -> hs.Process:
    return hs.Process(pid, hs.Arguments(list(paths), '/', []))


def test_choose() -> None:
    one, two, other = process(os.getpid(), '/a.cfg', '/b.cfg'), process(1, '/a.cfg', '/b.cfg'), process(2, '/c.cfg')
    assert hs.choose([], []) is None
    assert hs.choose([other], []) == other
    assert hs.choose([one, other], ['/b.cfg']) == one
    assert hs.choose([one, other], ['/d.cfg']) is None
    assert hs.choose([two, one], ['/a.cfg', '/b.cfg']) == one  # the one that started last: a successor beside the one that it follows
    with pytest.raises(Failed, match=r'several HAProxy run here: process \d+ \(/a\.cfg /b\.cfg\), process 2 \(/c\.cfg\); name the files'):
        hs.choose([one, other], [])
