"""A private Apache httpd (Debian's package, laid out as Debian does) with HTTPS sites on unprivileged ports."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import typing as t

import harness

BINARY = '/usr/sbin/apache2'
MODULES = '/usr/lib/apache2/modules'
LOADED = ['mpm_event', 'authz_core', 'dir', 'socache_shmcb', 'ssl', 'http2']

ENVVARS = """\
export APACHE_RUN_USER=www-data
export APACHE_RUN_GROUP=www-data
export APACHE_PID_FILE=%(root)s/run/apache2.pid
export APACHE_RUN_DIR=%(root)s/run
export APACHE_LOG_DIR=%(root)s/log
"""

MAIN = """\
# The main file, with Debian's includes.
ServerRoot %(root)s/etc
DefaultRuntimeDir ${APACHE_RUN_DIR}
PidFile ${APACHE_PID_FILE}
User ${APACHE_RUN_USER}
Group ${APACHE_RUN_GROUP}
ServerName localhost
ErrorLog ${APACHE_LOG_DIR}/error.log
StartServers 2
IncludeOptional mods-enabled/*.load
IncludeOptional mods-enabled/*.conf
Include ports.conf
<Directory />
    Require all granted
</Directory>
IncludeOptional conf-enabled/*.conf
IncludeOptional sites-enabled/*.conf
"""

SITE = """\
<VirtualHost *:%(port)d>
    ServerName %(name)s
    DocumentRoot %(root)s/html/%(name)s
    SSLEngine on
    SSLCertificateFile %(root)s/%(name)s.crt
    SSLCertificateKeyFile %(root)s/%(name)s.key
%(extra)s</VirtualHost>
"""


class ApacheSite:
    """Two sites, a.example (the default, EC key, HTTP/2) and b.example (RSA key), in sites-available, linked from sites-enabled."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        root.chmod(0o755)
        self.conf = root / 'etc'
        self.main = self.conf / 'apache2.conf'
        self.port, self.plain = harness.free_ports(2)
        self.names = ['a.example', 'b.example']
        for directory in ('mods-enabled', 'conf-enabled', 'sites-available', 'sites-enabled'):
            (self.conf / directory).mkdir(parents=True)
        for directory in ('run', 'log'):
            (root / directory).mkdir()
        self.main.write_text(MAIN % {'root': root})
        (self.conf / 'envvars').write_text(ENVVARS % {'root': root})
        (self.conf / 'ports.conf').write_text('Listen %d\nListen %d\n' % (self.plain, self.port))
        for module in LOADED:
            (self.conf / 'mods-enabled' / (module + '.load')).write_text('LoadModule %s_module %s/mod_%s.so\n' % (module, MODULES, module))
        (self.conf / 'mods-enabled' / 'ssl.conf').write_text('SSLSessionCache shmcb:${APACHE_RUN_DIR}/cache(512000)\nSSLRandomSeed startup builtin\n')
        self.add_certificate('a.example', 'ec')
        self.add_certificate('b.example', 'rsa')
        self.write('a', self.site('a.example', '    Protocols h2 http/1.1\n'))
        self.write('b', self.site('b.example'))
        self.write('plain', '<VirtualHost *:%d>\n    DocumentRoot %s/html\n</VirtualHost>\n' % (self.plain, root))

    def add_certificate(self, name: str, key_type: str) -> None:
        harness.certificate(self.root, name, key_type)
        directory = self.root / 'html' / name
        directory.mkdir(parents=True, exist_ok=True)
        (directory / 'index.html').write_text(name + '\n')

    def site(self, name: str, extra: str = '') -> str:
        return SITE % {'port': self.port, 'name': name, 'root': self.root, 'extra': extra}

    def write(self, name: str, text: str | bytes) -> pathlib.Path:
        path = self.conf / 'sites-available' / (name + '.conf')
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        link = self.conf / 'sites-enabled' / (name + '.conf')
        if not link.is_symlink():
            link.symlink_to('../sites-available/%s.conf' % name)
        return path

    def command(self, *words: str) -> None:
        """Run httpd as apachectl does."""
        script = '. "$0"/envvars; exec %s -f "$0"/apache2.conf "$@"' % BINARY
        done = subprocess.run(['sh', '-c', script, str(self.conf), *words], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        self.command('-k', 'start')
        harness.wait_for(lambda: self.answers(self.names[0]), 'Apache does not answer')

    def graceful(self) -> None:
        """Reload as an operator would, and wait until only new workers are left."""
        old = set(self.workers())
        self.command('-k', 'graceful')
        harness.wait_for(lambda: self.workers() and not old & set(self.workers()), 'Apache does not reload')

    def answers(self, name: str) -> bool:
        try:
            return harness.get(self.port, name).body == name + '\n'
        except OSError:
            return False

    @property
    def master(self) -> int:
        return int((self.root / 'run' / 'apache2.pid').read_text())

    def workers(self) -> list[int]:
        return harness.children(self.master)

    def stop(self) -> None:
        try:
            pid = self.master
            os.kill(pid, signal.SIGTERM)
        except (OSError, ValueError):
            return
        harness.wait_for(lambda: not pathlib.Path('/proc/%d' % pid).exists(), 'Apache does not stop')

    def arguments(self, **more: t.Any) -> dict[str, t.Any]:
        return {'binary': BINARY, 'config': str(self.main), 'https_port': self.port, **more}

    def run(self, check: bool = False, **more: t.Any) -> harness.Result:
        return harness.run_module('apache_alpn_responder', self.arguments(**more), self.root, check)

    def picture(self) -> harness.Picture:
        """The files of the configuration (mod_md keeps its store below the server's root, too)."""
        picture = harness.Picture.of(self.conf)
        return harness.Picture({path: file for path, file in picture.files.items() if not path.startswith(str(self.conf / 'md'))})

    def fingerprint(self, name: str) -> str:
        return harness.fingerprint(self.root / (name + '.crt'))

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)
