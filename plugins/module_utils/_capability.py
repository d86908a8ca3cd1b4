# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the capability facts of all servers share: finding the program and its main process, versions, the shape of an answer.

PRIVATE to the collection, may change at any time.
"""

from __future__ import annotations

import os
import re
import shutil
import typing as t

from ansible_collections.seamless.tls_alpn.plugins.module_utils import _process

SYSTEM_PATHS = ('/usr/sbin', '/usr/local/sbin')
COMM_LENGTH = 15  # bytes that the kernel keeps of a program's name (proc(5), comm)


def find_binary(names: t.Iterable[str], given: str | None = None) -> str | None:
    """Give the program: the one that is given if it can be run, else the first found as the shell would, or in the system's paths."""
    if given is not None:
        return given if os.path.isfile(given) and os.access(given, os.X_OK) else None
    path = os.pathsep.join([os.environ.get('PATH', os.defpath), *SYSTEM_PATHS])
    return next((found for found in (shutil.which(name, path=path) for name in names) if found), None)


def version_tuple(version: str) -> tuple[int, ...]:
    """Give the numbers of a version (what follows them, as -dev or ~deb, does not count)."""
    match = re.match(r'\d+(?:\.\d+)*', version)
    return tuple(int(part) for part in match[0].split('.')) if match else ()


def answer(obstacle: str | None, handoffs: list[str]) -> dict[str, t.Any]:
    """Give `tls_alpn`: supported unless there is an obstacle; the first of the handoffs is recommended."""
    if obstacle is not None:
        return {'supported': False, 'reason': obstacle, 'handoffs': [], 'recommended': None}
    return {'supported': True, 'reason': '', 'handoffs': handoffs, 'recommended': handoffs[0] if handoffs else None}


def absent(given: str | None) -> dict[str, t.Any]:
    """Give the facts of a server that is not there (``given``: the program that was asked for)."""
    return {
        'present': False,
        'binary': None,
        'version': None,
        'config_path': None,
        'running': False,
        'pid': None,
        'tls_alpn': answer('there is no program %s' % given if given else 'it is not installed', []),
    }


def main_process(pid_file: str, names: t.Iterable[str]) -> int | None:
    """Give the PID that a PID file holds, if that process lives and runs one of the programs ``names``."""
    try:
        with open(pid_file, encoding='ascii') as stream:
            pid = int(stream.read())
        with open('/proc/%d/comm' % pid, encoding='utf-8', errors='replace') as stream:
            name = stream.read().strip()
    except (OSError, ValueError):
        return None
    return pid if name in [one[:COMM_LENGTH] for one in names] and _process.is_alive(pid) else None
