# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an Apache httpd can do, from `httpd -V`, `httpd -M` and what is on disk.

PRIVATE to the collection, may change at any time.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import typing as t

from ansible_collections.seamless.tls_alpn.plugins.module_utils import _process
from ansible_collections.seamless.tls_alpn.plugins.module_utils._capability import answer, main_process, version_tuple

NAMES = ['apache2', 'httpd']  # Debian, RedHat
SINCE = (2, 4, 37)  # mod_md's first release that answers acme-tls/1 (its ChangeLog, 1.99.x)


def parse_version_output(text: str) -> dict[str, str]:
    """Read `httpd -V`: version, root, config and mpm ('' where it could not read its configuration)."""
    found = {
        'version': re.search(r'^Server version: \S+/(\d+\.\d+\.\d+)', text, re.M),
        'root': re.search(r'^ -D HTTPD_ROOT="(.*)"', text, re.M),
        'config': re.search(r'^ -D SERVER_CONFIG_FILE="(.*)"', text, re.M),
        'mpm': re.search(r'^Server MPM: *(\S*)', text, re.M),
    }
    return {name: match[1] if match else '' for name, match in found.items()}


def environment(run: _process.Run, directory: str) -> dict[str, str]:
    """Give the variables that Debian's configuration needs (its envvars file is a shell script; apachectl reads it in the same way).

    The run directory is made when httpd is started; where it has not been since the boot, the configuration's own stands in for reading.
    """
    path = os.path.join(directory, 'envvars')
    if not os.path.exists(path):
        return {}
    code, out, dummy = run(['env', '-i', 'APACHE_CONFDIR=' + directory, 'PATH=' + os.environ.get('PATH', os.defpath), 'sh', '-c', '. "$0" && env', path])
    if code:
        return {}
    variables = dict(line.partition('=')[::2] for line in out.splitlines() if re.match(r'APACHE_\w+=', line))
    if not os.path.isdir(variables.get('APACHE_RUN_DIR', directory)):
        variables['APACHE_RUN_DIR'] = directory
    return variables


def _modules(run: _process.Run, argv: t.Sequence[str]) -> list[str]:
    code, out, dummy = run([*argv, '-M'])
    return re.findall(r'^ (\w+)_module \(', out, re.M) if code == 0 else []


def _module(name: str, loaded: t.Collection[str], directories: t.Iterable[str]) -> str:
    """Give 'loaded', 'loadable' (its file is there) or 'missing'."""
    if name in loaded:
        return 'loaded'
    return 'loadable' if any(os.path.exists(os.path.join(path, 'mod_%s.so' % name)) for path in directories) else 'missing'


def _store(root: str) -> str:
    """Give MDStoreDir (default: md below the server's root, mod_md's manual)."""
    for path in sorted(glob.glob(os.path.join(root, '**', '*.conf'), recursive=True)):
        with contextlib.suppress(OSError), open(path, encoding='utf-8', errors='replace') as stream:
            found = re.search(r'^\s*MDStoreDir\s+"?([^"\n]+?)"?\s*$', stream.read(), re.M | re.I)
            if found:
                return os.path.join(root, found[1])
    return os.path.join(root, 'md')


def apache_capability(run: _process.Run, binary: str, config: str | None = None) -> dict[str, t.Any]:
    """Give the facts of this httpd; ``config`` is its main file, where it is not the one that it was built with."""
    dummy, out, err = run([binary, '-V'])
    built = parse_version_output(out + '\n' + err)
    config = config or os.path.join(built['root'], built['config'])
    root = os.path.dirname(config) if os.path.exists(os.path.join(os.path.dirname(config), 'envvars')) else built['root']
    variables = ['%s=%s' % item for item in sorted(environment(run, root).items())]
    argv = ['env', *variables, binary, '-f', config]
    loaded = _modules(run, argv)
    code, out, err = run([*argv, '-V'])
    mpm = parse_version_output(out + '\n' + err)['mpm']
    directories = [os.path.join(root, 'modules'), '/usr/lib/apache2/modules', '/usr/lib64/httpd/modules', '/usr/lib/httpd/modules', '/usr/libexec/apache2']
    ssl, md = (_module(name, loaded, directories) for name in ('ssl', 'md'))
    pid = main_process(binary)

    obstacle = None
    if version_tuple(built['version']) < SINCE:
        obstacle = (
            'Apache httpd %s is too old: 2.4.37 is the first whose mod_md answers acme-tls/1; '
            'upgrade it, or put nginx or HAProxy with a front before it' % built['version']
        )
    elif md == 'missing':
        obstacle = (
            'mod_md is not installed: install apache2-bin (Debian, Ubuntu) or mod_md (RedHat family), or put nginx or HAProxy with a front before it'
        )
    elif ssl != 'loaded':
        obstacle = 'mod_ssl is not loaded, so nothing here speaks HTTPS'
    return {
        'present': True,
        'binary': binary,
        'version': built['version'],
        'config_path': config,
        'root': root,
        'running': pid is not None,
        'pid': pid,
        'mpm': mpm.lower(),
        'mod_ssl': ssl,
        'mod_md': md,
        'md_store_dir': _store(root),
        'tls_alpn': answer(obstacle, []),
    }
