"""A private HAProxy (the distribution's) with HTTPS sites on unprivileged ports, and a small web server behind it."""

from __future__ import annotations

import http.server
import os
import pathlib
import shutil
import signal
import subprocess
import threading
import typing as t

import harness

BINARY = '/usr/sbin/haproxy'

# Debian's own defaults, `mode http` among them, then two certificates by SNI, a `listen` section, and IPv6.
MAIN = """\
global
\tmaxconn 2000

defaults
\tlog\tglobal
\tmode\thttp
\toption\thttplog
\toption\tdontlognull
        timeout connect 5000
        timeout client  50000
        timeout server  50000

frontend www
\tbind 127.0.0.1:%(port)d,127.0.0.1:%(other)d ssl crt %(a)s crt %(b)s alpn h2,http/1.1
\tbind [::1]:%(port)d v6only ssl crt %(a)s crt %(b)s alpn h2,http/1.1 # the same for IPv6
\thttp-request set-header X-Forwarded-For %%[src]
\thttp-request set-header X-Port %%[dst_port]
\tuse_backend b if { ssl_fc_sni b.example }
\tdefault_backend a

listen c
\tbind 127.0.0.2:%(port)d ssl crt %(c)s
\thttp-request set-header X-Forwarded-For %%[src]
\thttp-request set-header X-Port %%[dst_port]
\thttp-request set-header X-Backend c
\tserver web 127.0.0.1:%(web)d

backend a
\thttp-request set-header X-Backend a
\tserver web 127.0.0.1:%(web)d

backend b
\thttp-request set-header X-Backend b
\tserver web 127.0.0.1:%(web)d
"""


class _Web(http.server.BaseHTTPRequestHandler):
    """Answers with what reached it: backend, client's address, public port."""

    protocol_version = 'HTTP/1.1'

    def do_GET(self) -> None:
        body = ' '.join(self.headers.get(name, '-') for name in ('X-Backend', 'X-Forwarded-For', 'X-Port')).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *arguments: object) -> None:
        """Say nothing: HAProxy ends its connections as it likes."""


class HaproxySite:
    """a.example (the default), b.example, and c.example on an address of its own."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        root.chmod(0o755)
        self.conf = root / 'conf'
        self.main = self.conf / 'haproxy.cfg'
        self.conf.mkdir()
        self.port, self.other, self.backend, dummy, dummy2, self.acme, web = harness.free_ports(7)
        self.certificates = {name: harness.certificate(root, name) for name in ('a.example', 'b.example', 'c.example')}
        self.values = {'root': root, 'port': self.port, 'other': self.other, 'web': web, **{name[0]: path for name, path in self.certificates.items()}}
        self.main.write_text(MAIN % self.values)
        self._web = _Server(('127.0.0.1', web), _Web)
        threading.Thread(target=self._web.serve_forever, daemon=True).start()
        self.log = root / 'log'
        self.process: subprocess.Popen[bytes] | None = None
        self.frontend = 'fe_%d' % self.port  # abstract sockets are the whole host's

    def start(self, *arguments: str, mode: t.Sequence[str] = ('-W', '-db'), **environment: str) -> None:
        """Start it, by default with a master, and wait until it serves."""
        argv = [BINARY, *mode, *(arguments or ('-f', str(self.main)))]
        with open(self.log, 'ab') as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **environment}, cwd=self.root)
        harness.wait_for(self.serves, 'HAProxy does not answer')

    def serves(self) -> bool:
        assert self.process.poll() in (None, 0), self.log.read_text()
        return self.answers('a.example')

    def answers(self, name: str, address: str = '127.0.0.1') -> bool:
        try:
            return harness.get(self.port, name, address=address).status == 200
        except OSError:
            return False

    def arguments(self, **more: t.Any) -> dict[str, t.Any]:
        return {
            'config': [str(self.main)],
            'binary': BINARY,
            'https_port': self.port,
            'backend_port': self.backend,
            'acme_port': self.acme,
            'frontend': self.frontend,
            'inspect_delay': '2s',
            **more,
        }

    def run(self, check: bool = False, environment: t.Mapping[str, str] | None = None, **more: t.Any) -> harness.Result:
        return harness.run_module('haproxy_alpn_frontend', self.arguments(**more), self.root, check, **self.environment(), **(environment or {}))

    def environment(self) -> dict[str, str]:
        return {'XDG_STATE_HOME': str(self.root / 'state')}

    def picture(self) -> harness.Picture:
        return harness.Picture.of(self.conf)

    def workers(self) -> set[int]:
        return set(harness.children(self.process.pid))

    def remove(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(harness.PATIENCE)
        self._web.shutdown()
        self._web.server_close()
        shutil.rmtree(self.root)
