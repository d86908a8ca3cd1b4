# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an Apache httpd can do, from `httpd -V`, from what it tells of its configuration, and from what is on disk.

PRIVATE to the collection, may change at any time.
"""

from __future__ import annotations

import contextlib
import os
import re
import string
import typing as t

from ansible_collections.seamless.tls_alpn.plugins.module_utils import _process
from ansible_collections.seamless.tls_alpn.plugins.module_utils._capability import answer, main_process, version_tuple

NAMES = ['apache2', 'httpd']  # Debian, RedHat
SINCE = (2, 4, 37)  # the first whose mod_md answers acme-tls/1 (mod_md's ChangeLog, 1.99)
# Where distributions have the modules, beside `modules` below the server's root.
MODULES = ['/usr/lib/apache2/modules', '/usr/lib64/httpd/modules', '/usr/lib/httpd/modules', '/usr/libexec/apache2']


class Built(t.NamedTuple):
    """What `httpd -V` says of how it was built ('' for what it does not say)."""

    version: str
    root: str
    config: str
    pid_file: str


class Loaded(t.NamedTuple):
    """What httpd says of the configuration that it reads: ``modules`` gives 'static' or 'shared' for each, ``files`` are all it includes."""

    root: str
    pid_file: str
    files: list[str]
    modules: dict[str, str]


def parse_version_output(text: str) -> Built:
    """Read `httpd -V`."""

    def find(pattern: str) -> str:
        found = re.search(pattern, text, re.M)
        return found[1] if found else ''

    return Built(
        find(r'^Server version: \S+/(\d+\.\d+\.\d+)'),
        find(r'^ -D HTTPD_ROOT="(.*)"'),
        find(r'^ -D SERVER_CONFIG_FILE="(.*)"'),
        find(r'^ -D DEFAULT_PIDLOG="(.*)"'),
    )


def parse_dump(text: str) -> Loaded:
    """Read `httpd -t -D DUMP_INCLUDES -D DUMP_MODULES -D DUMP_RUN_CFG`."""
    root, pid_file = (re.search(r'^%s: "(.*)"' % name, text, re.M) for name in ('ServerRoot', 'PidFile'))
    files = re.findall(r'^ *\((?:\*|\d+)\) (.+)$', text, re.M)
    return Loaded(
        root[1] if root else '',
        pid_file[1] if pid_file else '',
        list(dict.fromkeys(files)),
        dict(re.findall(r'^ (\w+)_module \((static|shared)\)', text, re.M)),
    )


def environment(run: _process.Run, directory: str) -> dict[str, str]:
    """Give the variables that Debian's configuration needs, from its envvars file: a shell script, read here as apache2ctl reads it.

    The run directory is made when httpd is started; where it has not been since the boot, the configuration's own stands in for reading.
    """
    path = os.path.join(directory, 'envvars')
    if not os.path.exists(path):
        return {}
    code, out, dummy = run(['env', '-i', 'APACHE_CONFDIR=' + directory, 'PATH=' + os.environ.get('PATH', os.defpath), 'sh', '-c', '. "$0" && env', path])
    variables = dict(line.partition('=')[::2] for line in out.splitlines() if re.match(r'APACHE_\w+=', line)) if code == 0 else {}
    if not os.path.isdir(variables.get('APACHE_RUN_DIR', directory)):
        variables['APACHE_RUN_DIR'] = directory
    return variables


def find_module(name: str, loaded: t.Mapping[str, str], directories: t.Iterable[str]) -> str:
    """Give 'static', 'loaded', 'loadable' (its file is there) or 'missing'."""
    if name in loaded:
        return 'static' if loaded[name] == 'static' else 'loaded'
    return 'loadable' if any(os.path.exists(os.path.join(path, 'mod_%s.so' % name)) for path in directories) else 'missing'


def find_store(files: t.Iterable[str], root: str, variables: t.Mapping[str, str]) -> str:
    """Give MDStoreDir as the last of these files says (default: md below the server's root, mod_md's manual)."""
    store = 'md'
    for path in files:
        with contextlib.suppress(OSError), open(path, encoding='utf-8', errors='surrogateescape') as stream:
            for value in re.findall(r'^[ \t]*MDStoreDir[ \t]+"?([^"\r\n]+?)"?[ \t\r]*$', stream.read(), re.M | re.I):
                store = string.Template(value).safe_substitute(variables)
    return os.path.join(root, store)


def apache_capability(run: _process.Run, binary: str, config: str | None = None) -> dict[str, t.Any]:
    """Give the facts of this httpd; ``config`` is its main file, where it is not the one that it was built with.

    A configuration that httpd does not accept is an obstacle, with httpd's own message.
    """
    dummy, out, err = run([binary, '-V'])
    built = parse_version_output(out)
    config = config or os.path.join(built.root, built.config)
    variables = environment(run, os.path.dirname(config))
    dumps = [word for name in ('INCLUDES', 'MODULES', 'RUN_CFG') for word in ('-D', 'DUMP_' + name)]
    instance = ['-d', os.path.dirname(config)] if variables else []  # as apache2ctl starts each of Debian's instances
    code, dump, errors = run(['env', *('%s=%s' % item for item in sorted(variables.items())), binary, *instance, '-f', config, '-t', *dumps])
    loaded = parse_dump(dump)
    root = loaded.root or built.root
    ssl, md = (find_module(name, loaded.modules, [os.path.join(root, 'modules'), *MODULES]) for name in ('ssl', 'md'))
    pid_file = loaded.pid_file or variables.get('APACHE_PID_FILE') or built.pid_file
    pid = main_process(os.path.join(root, pid_file), [*NAMES, os.path.basename(binary)])

    obstacle = None
    if not built.version:
        obstacle = '%s is no Apache httpd: %s' % (binary, (err + out).strip() or '-V says nothing')
    elif version_tuple(built.version) < SINCE:
        obstacle = (
            'Apache httpd %s is too old: 2.4.37 is the first whose mod_md answers acme-tls/1; '
            'upgrade it, or put nginx or HAProxy with a front before it' % built.version
        )
    elif code:
        obstacle = 'Apache httpd does not accept its configuration: %s' % errors.strip()
    elif md == 'missing':
        obstacle = 'mod_md is not there: install apache2-bin (Debian, Ubuntu) or mod_md (RedHat family), or put nginx or HAProxy with a front before it'
    elif ssl in ('loadable', 'missing'):
        obstacle = 'mod_ssl is not loaded, so nothing here speaks HTTPS: enable it (Debian, Ubuntu: a2enmod ssl), or install mod_ssl (RedHat family)'
    return {
        'present': True,
        'binary': binary,
        'version': built.version,
        'config_path': config,
        'config_paths': loaded.files or [config],
        'root': root,
        'running': pid is not None,
        'pid': pid,
        'mpm': next((name[len('mpm_') :] for name in loaded.modules if name.startswith('mpm_')), None),
        'mod_ssl': ssl,
        'mod_md': md,
        'md_store_dir': find_store(loaded.files, root, variables),
        'tls_alpn': answer(obstacle, []),
    }
