# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an HAProxy can do, from `haproxy -vv`, and which files it reads, from its process or its systemd unit.

PRIVATE to the collection, may change at any time.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import string
import typing as t

from ansible_collections.seamless.tls_alpn.plugins.module_utils import _process
from ansible_collections.seamless.tls_alpn.plugins.module_utils._capability import answer, main_process, version_tuple

SINCE = (1, 9, 1)  # req.ssl_alpn (CHANGELOG)
DEFAULT_CONFIG = '/etc/haproxy/haproxy.cfg'


def parse_version_output(text: str) -> tuple[str, bool, bool]:
    """Read `haproxy -vv`: the version, whether TLS is built in, whether it is for Linux (abstract sockets)."""
    version = re.search(r'^HA-?Proxy version (\d+(?:\.\d+)*)', text, re.M)
    tls = re.search(r'^Built with OpenSSL version|\+OPENSSL|USE_OPENSSL=(?!0)', text, re.M) is not None
    return version[1] if version else '', tls, re.search(r'^\s*TARGET\s*=\s*linux', text, re.M) is not None


def config_arguments(argv: t.Sequence[str]) -> list[str]:
    """Give the files and directories that a command line names with -f and after -- (management guide, section 3)."""
    paths: list[str] = []
    words = list(argv[1:])
    while words:
        word = words.pop(0)
        if word == '--':
            return paths + words
        if word == '-f' and words:
            paths.append(words.pop(0))
    return paths


def expand_directories(paths: t.Iterable[str]) -> list[str]:
    """Give the files; of a directory those whose names end with .cfg and begin with no dot, in C order (management guide, section 3)."""
    files = []
    for path in paths:
        if os.path.isdir(path):
            files += [os.path.join(path, name) for name in sorted(os.listdir(path), key=os.fsencode) if name.endswith('.cfg') and name[0] != '.']
        else:
            files.append(path)
    return files


def unit_arguments(text: str) -> list[str]:
    """Give the command line of a unit from `systemctl show`, with the variables of its Environment and EnvironmentFiles in place."""
    properties = dict(line.partition('=')[::2] for line in text.splitlines())
    variables = dict(word.partition('=')[::2] for word in shlex.split(properties.get('Environment', '')))
    for path in re.findall(r'(\S+) \(ignore_errors=\w+\)', properties.get('EnvironmentFiles', '')):
        with contextlib.suppress(OSError), open(path, encoding='utf-8') as stream:
            for line in stream:
                if re.match(r'\s*\w+=', line):
                    with contextlib.suppress(ValueError):
                        variables.update(word.partition('=')[::2] for word in shlex.split(line, comments=True)[:1])
    command = re.search(r'argv\[\]=(.*?) ;', properties.get('ExecStart', ''))
    # A variable that is not set is no word at all (systemd.service(5), command lines).
    return shlex.split(string.Template(command[1]).safe_substitute({**dict.fromkeys(re.findall(r'\$\{?(\w+)', command[1]), ''), **variables})) if command else []


def haproxy_capability(run: _process.Run, binary: str, config: t.Sequence[str] | None = None) -> dict[str, t.Any]:
    """Give the facts of this HAProxy; ``config`` are the files and directories that it is started with, where they are not to be found out."""
    dummy, out, err = run([binary, '-vv'])
    version, tls, linux = parse_version_output(out + err)
    pid = main_process(binary)
    paths = list(config or [])
    if not paths and pid is not None:
        paths = config_arguments(_process.command_line(pid))
    if not paths and os.path.isdir('/run/systemd/system'):
        code, out, dummy = run(['systemctl', 'show', 'haproxy.service', '--property', 'Environment,EnvironmentFiles,ExecStart'])
        paths = config_arguments(unit_arguments(out)) if code == 0 else []
    paths = paths or [DEFAULT_CONFIG]

    obstacle = None
    if version_tuple(version) < SINCE:
        obstacle = 'HAProxy %s is too old: 1.9.1 is the first that sees the ALPN protocols' % version
    elif not tls:
        obstacle = 'this HAProxy is built without TLS'
    return {
        'present': True,
        'binary': binary,
        'version': version,
        'config_path': paths[0],
        'config_paths': paths,
        'running': pid is not None,
        'pid': pid,
        'tls': tls,
        'abns': linux,
        'tls_alpn': answer(obstacle, ['abns'] * linux + ['plain']),
    }
