# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an nginx can do, from `nginx -V` and what is on disk.

PRIVATE to the collection, may change at any time.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shlex
import typing as t

from ansible_collections.seamless.tls_alpn.plugins.module_utils import _process
from ansible_collections.seamless.tls_alpn.plugins.module_utils._capability import answer, version_tuple

SINCE = (1, 13, 10)  # $ssl_preread_alpn_protocols (CHANGES)
PASS_SINCE = (1, 25, 5)  # stream `pass` (CHANGES)
MODULE = 'ngx_stream_module.so'


def parse_version_output(text: str) -> tuple[str, dict[str, str]]:
    """Read `nginx -V`: the version and the configure arguments ('' for one without a value)."""
    version = re.search(r'^nginx version: \S+?/(\d+\.\d+\.\d+)', text, re.M)
    configured = re.search(r'^configure arguments: ?(.*)$', text, re.M)
    arguments = {}
    for word in shlex.split(configured[1]) if configured else []:
        name, dummy, value = word.partition('=')
        arguments[name] = value
    return version[1] if version else '', arguments


def _head(path: str) -> str:
    """Give what stands before the first block of a file: `load_module` is possible only there (ngx_module.c)."""
    with contextlib.suppress(OSError), open(path, encoding='utf-8', errors='replace') as stream:
        return re.sub(r'#[^\n]*', '', stream.read()).partition('{')[0]
    return ''


def loaded_modules(config: str) -> list[str]:
    """Give the names of the modules that the configuration loads."""
    texts = [_head(config)]
    for pattern in re.findall(r'\binclude\s+["\']?([^;"\']+)["\']?\s*;', texts[0]):
        texts += [_head(path) for path in sorted(glob.glob(os.path.join(os.path.dirname(config), pattern)))]
    return [os.path.basename(path) for text in texts for path in re.findall(r'\bload_module\s+["\']?([^;"\']+)["\']?\s*;', text)]


def _pid_file(config: str, default: str, prefix: str) -> str:
    with contextlib.suppress(OSError), open(config, encoding='utf-8', errors='replace') as stream:
        found = re.search(r'^\s*pid\s+["\']?([^;"\']+)["\']?\s*;', stream.read(), re.M)
        if found:
            return os.path.join(prefix, found[1])
    return default


def _is_running(pid_file: str) -> bool:
    try:
        with open(pid_file, encoding='ascii') as stream:
            return ' '.join(_process.command_line(int(stream.read()))).startswith('nginx: master')
    except (OSError, ValueError):
        return False


def nginx_capability(run: _process.Run, binary: str, config: str | None = None, prefix: str | None = None) -> dict[str, t.Any]:
    """Give the facts of this nginx; ``config`` and ``prefix`` are those that it is started with, where it was not built with them."""
    dummy, out, err = run([binary, '-V'])
    version, arguments = parse_version_output(err + out)
    prefix = prefix or os.path.abspath(arguments.get('--prefix') or '/usr/local/nginx')

    def path(argument: str, default: str) -> str:
        return os.path.join(prefix or '', arguments.get(argument) or default)

    config = config or path('--conf-path', 'conf/nginx.conf')
    module = os.path.join(path('--modules-path', 'modules'), MODULE)
    if '--with-stream' not in arguments:
        stream = 'missing'
    elif arguments['--with-stream'] != 'dynamic':
        stream = 'static'
    elif MODULE in loaded_modules(config):
        stream = 'loaded'
    else:
        stream = 'loadable' if os.path.exists(module) else 'missing'
    dynamic = arguments.get('--with-stream') == 'dynamic'
    preread = '--with-stream_ssl_preread_module' in arguments
    stream_pass = version_tuple(version) >= PASS_SINCE
    realip = '--with-http_realip_module' in arguments

    obstacle = None
    if version_tuple(version) < SINCE:
        obstacle = 'nginx %s is too old: 1.13.10 is the first that sees the ALPN protocols' % version
    elif stream == 'missing' and dynamic:
        obstacle = (
            'the stream module is a file of its own (%s) and is not there, whatever nginx -V says: '
            'install libnginx-mod-stream (Debian, Ubuntu) or nginx-mod-stream (RedHat family)' % module
        )
    elif stream == 'missing' or not preread:
        obstacle = 'this nginx is built without --with-stream and --with-stream_ssl_preread_module; install one that has them'
    return {
        'present': True,
        'binary': binary,
        'version': version,
        'config_path': config,
        'running': _is_running(_pid_file(config, path('--pid-path', 'logs/nginx.pid'), prefix)),
        'prefix': prefix,
        'pid_path': path('--pid-path', 'logs/nginx.pid'),
        'error_log_path': path('--error-log-path', 'logs/error.log'),
        'stream': stream,
        'stream_module': module if dynamic and os.path.exists(module) else None,
        'ssl_preread': preread,
        'stream_pass': stream_pass,
        'realip': realip,
        'tls_alpn': answer(obstacle, ['proxy_protocol'] * realip + ['pass'] * stream_pass + ['plain']),
    }
