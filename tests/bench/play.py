"""Wall time of the role beside a plain playbook that follows acme.sh's wiki: play.py --result FILE.json [--hosts N [N ...]] [--rounds N]

Hosts are containers with systemd and an nginx of five sites, reached by docker exec; packages are installed before. Each playbook runs twice on fresh
configuration, as `ansible-playbook` does it by default (five hosts at a time): the second run has nothing to change. Needs Docker and root.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time
import typing as t

HERE = pathlib.Path(__file__).parent
IMAGE = 'seamless-bench-play'
PLAYBOOKS = {'role': HERE / 'play' / 'role.yml', 'plain playbook': HERE / 'play' / 'plain.yml'}
SITES = 5

DOCKERFILE = r"""
FROM %(base)s
RUN apt-get update && apt-get install -y --no-install-recommends nginx-full && rm -rf /var/lib/apt/lists/*
RUN set -e; cd /etc/nginx; rm sites-enabled/default; \
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=site.test -keyout site.key -out site.crt; \
    for n in $(seq %(sites)d); do \
      echo "server {"; \
      echo "    listen 443 ssl http2;"; \
      echo "    listen [::]:443 ssl http2;"; \
      echo "    server_name site$n.test;"; \
      echo "    ssl_certificate site.crt;"; \
      echo "    ssl_certificate_key site.key;"; \
      echo "    root /var/www/html;"; \
      echo "}"; \
    done | split --lines=8 --numeric-suffixes=1 - sites-available/site; \
    (cd sites-enabled; ln -s ../sites-available/site* .); \
    cp -a /etc/nginx /srv/nginx-as-it-was
CMD ["/bin/sh", "-c", "if [ -e /sys/fs/cgroup/cgroup.controllers ]; then mount -o remount,rw /sys/fs/cgroup; fi; exec /sbin/init"]
"""

RESET = 'rm -rf /etc/nginx /var/lib/seamless-tls-alpn && cp -a /srv/nginx-as-it-was /etc/nginx && systemctl restart nginx'


def docker(*words: str, **options: t.Any) -> str:
    return subprocess.run(['docker', *words], check=True, stdout=subprocess.PIPE, text=True, **options).stdout.strip()


def build(base: str) -> None:
    text = DOCKERFILE % {'base': base, 'sites': SITES}
    docker('build', '--quiet', '--tag', IMAGE, '-', input=text, env={**os.environ, 'DOCKER_BUILDKIT': '0'})


def start(name: str) -> None:
    """Start a host, as extensions/molecule/shared/create.yml does."""
    words = ['--cap-add=SYS_ADMIN', '--cap-add=SYS_PTRACE', '--security-opt=seccomp=unconfined', '--security-opt=apparmor=unconfined']
    words += ['--tmpfs=/run', '--tmpfs=/run/lock', '--tmpfs=/tmp:exec', '--cgroupns=private', '--network=none', '--sysctl=net.ipv6.conf.all.disable_ipv6=0']
    if pathlib.Path('/sys/fs/cgroup/systemd').is_dir():
        words.append('--volume=/sys/fs/cgroup/systemd:/sys/fs/cgroup/systemd:rw')
    docker('run', '--detach', '--name=' + name, '--hostname=' + name, '--label=seamless.molecule=1', *words, IMAGE)
    docker('exec', name, 'timeout', '60', 'sh', '-c', 'until systemctl is-active -q nginx 2>/dev/null; do sleep 0.2; done')


def play(playbook: pathlib.Path, hosts: list[str], work: pathlib.Path) -> dict[str, float]:
    """Run a playbook, and give its wall seconds, the modules executed on a host, and the tasks that changed something there."""
    environment = {
        **os.environ,
        'ANSIBLE_CALLBACK_PLUGINS': str(HERE / 'play'),
        'ANSIBLE_CALLBACKS_ENABLED': 'count_modules',
        'ANSIBLE_STDOUT_CALLBACK': 'ansible.builtin.default',
        'COUNT_MODULES': str(work / 'count.json'),
    }
    inventory = work / 'inventory.json'
    variables = {'ansible_connection': 'community.docker.docker', 'ansible_python_interpreter': '/usr/bin/python3'}
    inventory.write_text(json.dumps({'all': {'hosts': dict.fromkeys(hosts, {}), 'vars': variables}}))
    began = time.monotonic()
    done = subprocess.run(['ansible-playbook', '-i', str(inventory), str(playbook)], env=environment, check=False, capture_output=True, text=True)
    wall = time.monotonic() - began
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    counts = json.loads((work / 'count.json').read_text())
    recap = done.stdout.rpartition('PLAY RECAP')[2]
    changed = [int(word.partition('=')[2]) for word in recap.split() if word.startswith('changed=')]
    assert len(changed) == len(hosts) and len(set(changed)) == 1, recap
    return {'wall s': wall, 'modules': max(counts.values()), 'changed': changed[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--result', type=pathlib.Path, required=True)
    parser.add_argument('--hosts', type=int, nargs='+', default=[1, 5, 20])
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--image', default='debian-systemd:bookworm')
    arguments = parser.parse_args()
    build(arguments.image)
    names: list[str] = []
    figures: dict[str, list[dict[str, dict[str, float]]]] = {}
    try:
        for count in sorted(arguments.hosts):
            while len(names) < count:
                names.append('seamless-bench-%d' % (len(names) + 1))
                start(names[-1])
            for dummy in range(arguments.rounds):
                figures.setdefault(str(count), []).append({})
                for label, playbook in PLAYBOOKS.items():
                    for name in names:
                        docker('exec', name, 'sh', '-ec', RESET)
                    with tempfile.TemporaryDirectory() as work:
                        for run in ('first run', 'no change'):
                            figure = play(playbook, names, pathlib.Path(work))
                            assert bool(figure['changed']) is (run == 'first run'), (label, run, figure)
                            figures[str(count)][-1]['%s, %s' % (label, run)] = figure
                print('%d hosts: %s' % (count, json.dumps(figures[str(count)][-1])), flush=True)
    finally:
        if names:
            docker('rm', '--force', '--volumes', *names)
    result = json.loads(arguments.result.read_text()) if arguments.result.exists() else {}
    result['play'] = figures
    arguments.result.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
