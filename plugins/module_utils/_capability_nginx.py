# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an nginx can do, from `nginx -V` and what is on disk.

PRIVATE to the collection, may change at any time.
"""

from __future__ import annotations

import os
import re
import shlex
import typing as t

from ansible_collections.seamless.tls_alpn.plugins.module_utils import _process
from ansible_collections.seamless.tls_alpn.plugins.module_utils._capability import answer, main_process, version_tuple
from ansible_collections.seamless.tls_alpn.plugins.module_utils._nginx_config import Statement, included_files, parse
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed

NAMES = ['nginx']
SINCE = (1, 13, 10)  # $ssl_preread_alpn_protocols (CHANGES)
PASS_SINCE = (1, 25, 5)  # stream `pass` (CHANGES)
MODULE = 'ngx_stream_module.so'


def parse_version_output(text: str) -> tuple[str, dict[str, str]]:
    """Read `nginx -V`: the version ('' if there is none), and the configure arguments ('' for one without a value)."""
    version = re.search(r'^nginx version: \S+?/(\d+\.\d+\.\d+)', text, re.M)
    configured = re.search(r'^configure arguments: ?(.*)$', text, re.M)
    arguments = {}
    for word in shlex.split(configured[1]) if configured else []:
        name, dummy, value = word.partition('=')
        arguments[name] = value
    return version[1] if version else '', arguments


def main_level(config: str) -> list[Statement]:
    """Give the statements outside all blocks, those of included files too; what can't be read or parsed is left out."""
    statements: list[Statement] = []
    pending, seen = [config], set()
    while pending:
        path = pending.pop(0)
        if path in seen:
            continue
        seen.add(path)
        try:
            with open(path, 'rb') as stream:
                found = parse(stream.read(), path)
        except (OSError, Failed):
            continue
        for statement in found:
            if statement.name == 'include' and statement.arguments:
                pending += included_files(config, statement.arguments[0])
            elif statement.block is None:
                statements.append(statement)
    return statements


def _last(statements: t.Iterable[Statement], name: str, ending: str = '') -> str | None:
    """Give the first argument of the last such directive whose first argument ends so."""
    values = [statement.arguments[0] for statement in statements if statement.name == name and statement.arguments]
    return next((value for value in reversed(values) if value.endswith(ending)), None)


def _has_preread(module: str) -> bool:
    """Whether a stream module's file has ssl_preread in it; `nginx -V` tells what nginx, not what the file was built with."""
    try:
        with open(module, 'rb') as stream:
            return b'ssl_preread_alpn_protocols' in stream.read()
    except OSError:
        return False


def nginx_capability(run: _process.Run, binary: str, config: str | None = None, prefix: str | None = None) -> dict[str, t.Any]:
    """Give the facts of this nginx; ``config`` and ``prefix`` are those that it is started with, where it was not built with them.

    ``pid_path`` and ``error_log_path`` are those that it was built with ('' for standard error): its configuration may say others.
    ``stream_module`` is the stream module's file where there is one.
    """
    dummy, out, err = run([binary, '-V'])
    version, arguments = parse_version_output(err + out)
    prefix = os.path.abspath(prefix or arguments.get('--prefix') or '/usr/local/nginx')

    def path(argument: str, default: str) -> str:
        return os.path.join(prefix or '', arguments.get(argument) or default)

    default_config = path('--conf-path', 'conf/nginx.conf')
    config = config or default_config
    statements = main_level(config)
    static = arguments.get('--with-stream') == ''
    separate = path('--modules-path', 'modules') + '/' + MODULE
    loaded = _last(statements, 'load_module', MODULE)
    module = os.path.join(prefix, loaded) if loaded else separate
    if static:
        stream = 'static'
    elif os.path.exists(module):
        stream = 'loaded' if loaded else 'loadable'
    else:
        stream = 'missing'
    preread = '--with-stream_ssl_preread_module' in arguments if static else _has_preread(module)
    stream_pass = version_tuple(version) >= PASS_SINCE and '--without-stream_pass_module' not in arguments
    realip = '--with-http_realip_module' in arguments
    pid_path = path('--pid-path', 'logs/nginx.pid')
    pid = main_process(os.path.join(prefix, _last(statements, 'pid') or pid_path), [*NAMES, os.path.basename(binary)])

    obstacle = None
    if not version:
        obstacle = '%s is no nginx: %s' % (binary, (err + out).strip() or '-V says nothing')
    elif version_tuple(version) < SINCE:
        obstacle = 'nginx %s is too old: 1.13.10 is the first that sees the ALPN protocols' % version
    elif stream == 'missing' and (arguments.get('--with-stream') == 'dynamic' or '--with-compat' in arguments):
        obstacle = (
            'the stream module is a file of its own (%s) and is not there, whatever nginx -V says: '
            'install libnginx-mod-stream (Debian, Ubuntu) or nginx-mod-stream (RedHat family)' % module
        )
    elif not preread:
        obstacle = 'this nginx is built without --with-stream and --with-stream_ssl_preread_module; install one that has them'
    return {
        'present': True,
        'binary': binary,
        'version': version,
        'config_path': config,
        'default_config': default_config,
        'running': pid is not None,
        'pid': pid,
        'prefix': prefix,
        'pid_path': pid_path,
        'error_log_path': '' if arguments.get('--error-log-path') == 'stderr' else path('--error-log-path', 'logs/error.log'),
        'stream': stream,
        'stream_module': module if stream in ('loaded', 'loadable') else None,
        'ssl_preread': preread,
        'stream_pass': stream_pass,
        'realip': realip,
        'tls_alpn': answer(obstacle, ['proxy_protocol'] * realip + ['pass'] * stream_pass + ['plain']),
    }
