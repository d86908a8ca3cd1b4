# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who listens on a TCP port, read from /proc.

PRIVATE to the collection, may change at any time.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import typing as t

from ansible_collections.seamless.tls_alpn.plugins.module_utils import _process

_LISTEN = '0A'  # TCP_LISTEN (include/net/tcp_states.h)


class Listener(t.NamedTuple):
    """A listening socket; ``process`` and ``pid`` are None where this user may not see whose it is."""

    family: str
    address: str
    port: int
    process: str | None
    pid: int | None


def parse_address(text: str) -> tuple[str, int]:
    """Read `ADDRESS:PORT` as /proc/net/tcp and tcp6 write it: 32-bit words in the host's byte order (proc(5))."""
    address, port = text.split(':')
    words = [int(address[start : start + 8], 16) for start in range(0, len(address), 8)]
    packed = b''.join(struct.pack('=I', word) for word in words)
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, packed), int(port, 16)


def _owners(inodes: set[str], proc: str) -> dict[str, int]:
    """Give the process of each socket; of several that share one the oldest, which is the master (PIDs begin anew at some time)."""
    found: dict[str, set[int]] = {}
    for pid in (int(name) for name in os.listdir(proc) if name.isdigit()):
        with contextlib.suppress(OSError):
            for descriptor in os.listdir('%s/%d/fd' % (proc, pid)):
                with contextlib.suppress(OSError):
                    match = re.match(r'socket:\[(\d+)\]', os.readlink('%s/%d/fd/%s' % (proc, pid, descriptor)))
                    if match and match[1] in inodes:
                        found.setdefault(match[1], set()).add(pid)
    return {inode: min(pids, key=lambda pid: (_process.started(pid, proc) or float('inf'), pid)) for inode, pids in found.items()}


def listeners(port: int, proc: str = '/proc') -> list[Listener]:
    """Give who listens on a TCP port."""
    sockets = []
    for family, name in (('ipv4', 'tcp'), ('ipv6', 'tcp6')):
        with contextlib.suppress(OSError), open('%s/net/%s' % (proc, name), encoding='ascii') as stream:
            for line in list(stream)[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and parse_address(fields[1])[1] == port:
                    sockets.append((family, *parse_address(fields[1]), fields[9]))
    owners = _owners({inode for dummy, dummy2, dummy3, inode in sockets}, proc)
    found = []
    for family, address, number, inode in sockets:
        pid, process = owners.get(inode), None
        if pid is not None:
            with contextlib.suppress(OSError), open('%s/%d/comm' % (proc, pid), encoding='utf-8', errors='replace') as stream:
                process = stream.read().strip()
        found.append(Listener(family, address, number, process, pid))
    return list(dict.fromkeys(found))
