# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the capability facts of all servers share: programs, versions, running masters, the shape of an answer.

PRIVATE to the collection, may change at any time.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import typing as t

from ansible_collections.seamless.tls_alpn.plugins.module_utils import _process

SYSTEM_PATHS = ('/usr/sbin', '/usr/local/sbin')


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


def absent() -> dict[str, t.Any]:
    """Give the facts of a server that is not there."""
    return {
        'present': False,
        'binary': None,
        'version': None,
        'config_path': None,
        'running': False,
        'tls_alpn': answer('it is not installed', []),
    }


def answer(obstacle: str | None, handoffs: list[str]) -> dict[str, t.Any]:
    """Give `tls_alpn`: supported unless there is an obstacle; the first of the handoffs is recommended."""
    if obstacle is not None:
        return {'supported': False, 'reason': obstacle, 'handoffs': [], 'recommended': None}
    return {'supported': True, 'reason': '', 'handoffs': handoffs, 'recommended': handoffs[0] if handoffs else None}


def main_process(binary: str) -> int | None:
    """Give the PID of the running program's main process: one whose parent does not run the same file."""
    wanted = os.path.realpath(binary)
    running = set()
    for name in os.listdir('/proc'):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.readlink('/proc/%s/exe' % name).replace(' (deleted)', '') == wanted:
                    running.add(int(name))
    return next((pid for pid in sorted(running) if _process.parent(pid) not in running and _process.is_alive(pid)), None)
