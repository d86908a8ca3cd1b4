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
import typing as t

from ansible_collections.seamless.tls_alpn.plugins.module_utils import _haproxy_server, _process
from ansible_collections.seamless.tls_alpn.plugins.module_utils._capability import answer, version_tuple
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed

NAMES = ['haproxy']
SINCE = (1, 9, 1)  # req.ssl_alpn (CHANGELOG)
DEFAULT_CONFIG = '/etc/haproxy/haproxy.cfg'


def parse_version_output(text: str) -> tuple[str, bool, bool]:
    """Read `haproxy -vv`: the version ('' if there is none), whether TLS is built in, whether it is for Linux (abstract sockets)."""
    version = re.search(r'^HA-?Proxy version (\d+(?:\.\d+)*)', text, re.M)
    tls = re.search(r'^Built with (?:OpenSSL|SSL library) version', text, re.M) is not None
    return version[1] if version else '', tls, re.search(r'^\s*TARGET\s*=\s*linux', text, re.M) is not None


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def parse_environment(text: str) -> dict[str, str]:
    """Read an environment file as systemd does: a value goes to the end of its line (systemd.exec(5), EnvironmentFile)."""
    lines = [line.partition('=') for line in text.replace('\\\n', '').splitlines() if re.match(r'\s*\w+=', line)]
    return {name.strip(): ' '.join(_words(value)) for name, dummy, value in lines}


def unit_command(text: str) -> list[str]:
    """Give the command line of a unit from `systemctl show`, its variables in place (systemd.service(5), command lines).

    `$NAME` as a word of its own becomes as many words as its value has, `${NAME}` stays within its word.
    """
    variables = dict(word.partition('=')[::2] for line in re.findall(r'^Environment=(.*)', text, re.M) for word in _words(line))
    for path in re.findall(r'^EnvironmentFiles=(.*) \(ignore_errors=\w+\)$', text, re.M):
        with contextlib.suppress(OSError), open(path, encoding='utf-8', errors='surrogateescape') as stream:
            variables.update(parse_environment(stream.read()))
    command = re.search(r'^ExecStart=.*? argv\[\]=(.*?) ;', text, re.M)
    words = []
    for word in command[1].split() if command else []:
        alone = re.fullmatch(r'\$(\w+)', word)
        words += _words(variables.get(alone[1], '')) if alone else [re.sub(r'\$\{(\w+)\}', lambda match: variables.get(match[1], ''), word)]
    return words


def _configured(run: _process.Run) -> list[str]:
    """Give the files and directories that the systemd unit would start HAProxy with, or those that are usual."""
    if os.path.isdir('/run/systemd/system'):
        code, out, dummy = run(['systemctl', 'show', 'haproxy.service', '--property', 'Environment,EnvironmentFiles,ExecStart'])
        paths = _haproxy_server.read_arguments(unit_command(out), '/').paths if code == 0 else []
        if paths:
            return paths
    return [DEFAULT_CONFIG]


def haproxy_capability(run: _process.Run, binary: str, config: t.Sequence[str] | None = None) -> dict[str, t.Any]:
    """Give the facts of this HAProxy; ``config`` are the files and directories that it is started with, where they are not to be found out.

    ``pid`` is None where several run that read different files.
    """
    dummy, out, err = run([binary, '-vv'])
    version, tls, linux = parse_version_output(out + err)
    processes: list[_haproxy_server.Process] = []
    process = None
    with contextlib.suppress(OSError, Failed):  # a process of another user's; several that read different files
        processes = _haproxy_server.processes()
        process = _haproxy_server.choose(processes, config or ())
    paths = list(config or (process.arguments.paths if process else []) or _configured(run))

    obstacle = None
    if not version:
        obstacle = '%s is no HAProxy: %s' % (binary, (err + out).strip() or '-vv says nothing')
    elif version_tuple(version) < SINCE:
        obstacle = 'HAProxy %s is too old: 1.9.1 is the first that sees the ALPN protocols' % version
    elif not tls:
        obstacle = 'this HAProxy is built without TLS (USE_OPENSSL), so nothing here speaks HTTPS; install one that has it'
    return {
        'present': True,
        'binary': binary,
        'version': version,
        'config_path': paths[0],
        'config_paths': paths,
        'running': bool(processes),
        'pid': process.pid if process else None,
        'tls': tls,
        'abns': linux,
        'tls_alpn': answer(obstacle, ['abns'] * linux + ['plain']),
    }
