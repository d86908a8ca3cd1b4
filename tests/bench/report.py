"""The figures as a page and a picture: report.py RESULT.json PAGE.md PICTURE.svg"""

from __future__ import annotations

import json
import math
import pathlib
import statistics
import sys
import typing as t

import matplotlib

matplotlib.use('svg')
from matplotlib import pyplot

PAGE = """\
# Benchmarks

Made by `make bench` (or `make bench-quick`: one short round, which judges nothing) on %(date)s; the raw figures are in [%(raw)s](%(raw)s).
No test asserts them.
Another machine gives other microseconds; the ratios are what to look at.

- machine: %(cpu)s, Linux %(kernel)s; load average during the rounds of the data path: %(load)s
- %(servers)s

![CPU time by server and front, wall time by virtual hosts and hosts](%(picture)s)

## Targets

Median of the rounds (and its interval at 95 %%); of the three measures of the data path, the worst. "Not told apart": the median is above the aim, and its
interval reaches it.

%(targets)s
"""

DATA = """
## Data path

CPU time (kernel included) of all processes of the server and its front, pinned to one core with one worker each: median of %(rounds)d rounds (lowest to
highest), and the median ratio to the same server with no front in the same round; then what one ApacheBench on another core got out of it. The rounds go over
all servers in turn, each of which is started anew for it. us: microseconds. The file has 50 MB. ApacheBench speaks HTTP/1.1; the plain web server behind
HAProxy is on ApacheBench's core. Before nginx, ualpn sends the PROXY protocol, sslh (sslh-select) does not. Nothing of this collection is in Apache's data
path: how far its ratios are from 1 is how far two equal servers come out from one another here. strace shows what a front adds: `pass` one recvfrom for each
connection; `abns`, which relays within HAProxy, two recvfrom and two sendto for each kept-alive request, and nothing that could be left out.

%(table)s
"""

MODULE = """
## Modules

Servers stopped (reload and handshakes are not in it; the module's own `nginx -t` or `haproxy -c` is): median of %(rounds)s rounds (lowest to highest),
and the median ratio to that check on the same tree in the same round. nginx: one file with one `listen` for each virtual host; HAProxy: one `bind`, and for
each virtual host a rule in its frontend and a file with a backend. The files are on %(system)s. Peak memory is that of the module's process (or the check's).

%(table)s
"""

PLAY = """
## Playbooks

Wall time of `ansible-playbook` with its defaults (five hosts at a time, no pipelining), median of %(rounds)s rounds (lowest to highest), and the
modules executed on each host. Hosts are Debian 12 containers with an nginx of five sites, reached by `docker exec`. The
[plain playbook](https://github.com/seamless/tls_alpn/blob/main/tests/bench/play/plain.yml) follows acme.sh's wiki with `replace`, `blockinfile` and handlers;
it neither keeps the client's address nor proves or undoes anything.

%(table)s
"""

Rounds = list[dict[str, dict[str, float]]]
CHECKS = {'nginx': 'nginx -t', 'haproxy': 'haproxy -c'}
MODULES = {'nginx': 'nginx_alpn_stream', 'haproxy': 'haproxy_alpn_frontend'}
RUNS = ('first run', 'no change')
PLAYS = ('role', 'plain playbook')
COLOURS = {'nginx': '#2a9d5c', 'HAProxy': '#3b76b8', 'Apache': '#c2473d'}


def table(head: t.Sequence[str], rows: t.Sequence[t.Sequence[str]]) -> str:
    return '\n'.join('| %s |' % ' | '.join(row) for row in [head, ['---'] * len(head), *rows])


def short(value: float) -> str:
    return '%.0f' % value if value >= 100 else '%.1f' % value if value >= 10 else '%.2f' % value


def spread(values: t.Sequence[float]) -> str:
    return '%s (%s-%s)' % (short(statistics.median(values)), short(min(values)), short(max(values)))


def ratio(values: t.Sequence[float], base: t.Sequence[float]) -> float:
    """Give the median over the rounds of the ratio in each."""
    return statistics.median(value / one for value, one in zip(values, base))


class Target(t.NamedTuple):
    """What was aimed at, at most, and what came out; with the interval that holds the median in 19 of 20 cases, where it is a ratio."""

    what: str
    aim: float
    found: float
    interval: tuple[float, float] | None = None

    @classmethod
    def of_ratio(cls, what: str, aim: float, values: t.Sequence[float], base: t.Sequence[float]) -> Target:
        ratios = sorted(value / one for value, one in zip(values, base))
        middle, reach = (len(ratios) - 1) / 2, 0.98 * len(ratios) ** 0.5  # of the sign test, by the normal distribution
        low, high = max(math.floor(middle - reach), 0), min(math.ceil(middle + reach), len(ratios) - 1)
        return cls(what, aim, statistics.median(ratios), (ratios[low], ratios[high]))

    def row(self) -> list[str]:
        found = '%.2f' % self.found if self.aim < 100 else '%.0f' % self.found
        interval = ' (%.2f-%.2f)' % self.interval if self.interval else ''
        if self.interval and self.interval[0] == self.interval[1]:
            return [self.what, '%g' % self.aim, found, 'one round']
        missed = 'not told apart' if self.interval and round(self.interval[0], 2) <= self.aim else '**no**'
        return [self.what, '%g' % self.aim, found + interval, 'yes' if round(self.found, 2) <= self.aim else missed]


def column(rounds: Rounds, name: str, what: str) -> list[float]:
    return [one[name][what] for one in rounds]


def count_rounds(sizes: t.Iterable[dict[str, Rounds]]) -> str:
    counts = {len(rounds) for by_size in sizes for rounds in by_size.values()}
    return ' or '.join(map(str, sorted(counts)))


def data_page(result: dict[str, t.Any]) -> str:
    figures, rates = result['data path'], result['requests a second']
    rows = []
    for label, measures in figures.items():
        base = figures['%s, no front' % label.partition(',')[0]]
        row = [label, *('%s, %.2f' % (spread(values), ratio(values, base[what])) for what, values in measures.items())]
        rows.append([*row, *('%.0f' % statistics.median(values) for values in rates[label].values())])
    measures = list(next(iter(figures.values())))
    units = ['kept-alive requests/s', 'new connections/s', '50 MB files/s']
    return DATA % {'rounds': len(result['load averages']), 'table': table(['subject', *('%s, ratio' % what for what in measures), *units], rows)}


def module_page(modules: dict[str, dict[str, Rounds]], system: str) -> str:
    rows = []
    for server, by_sites in modules.items():
        for sites, rounds in by_sites.items():
            for name in rounds[0]:
                measures = [(column(rounds, name, what), column(rounds, CHECKS[server], what)) for what in ('wall s', 'cpu s', 'peak MB')]
                rows.append([MODULES[server], sites, name, *('%s, %.2f' % (spread(values), ratio(values, base)) for values, base in measures)])
    head = ['module', 'virtual hosts', 'run', 'wall s, ratio', 'CPU s, ratio', 'peak MB, ratio']
    return MODULE % {'rounds': count_rounds(modules.values()), 'system': system, 'table': table(head, rows)}


def play_page(plays: dict[str, Rounds]) -> str:
    rows = []
    for hosts, rounds in plays.items():
        for label in PLAYS:
            row = [hosts, label]
            for run in RUNS:
                name = '%s, %s' % (label, run)
                row += [spread(column(rounds, name, 'wall s')), '%.0f' % rounds[0][name]['modules']]
            rows.append(row)
    head = ['hosts', 'playbook', 'first run, s', 'modules a host', 'no change, s', 'modules a host']
    return PLAY % {'rounds': count_rounds([plays]), 'table': table(head, rows)}


def data_targets(figures: dict[str, dict[str, list[float]]]) -> list[Target]:
    """Give what was aimed at, and what came out: the highest ratio over the measures."""
    aims = [
        ('nginx, pass', 'nginx, no front', 1.03),
        ('nginx, proxy_protocol', "nginx, wiki's recipe", 1.0),
        ('HAProxy, abns', 'HAProxy, no front', 1.4),
        ('HAProxy, abns', "HAProxy, wiki's recipe", 1.0),
        ('Apache, mod_md answers', 'Apache, no front', 1.0),
    ]
    found = []
    for label, base, aim in (one for one in aims if one[0] in figures):
        each = [Target.of_ratio('%s / %s: CPU %s' % (label, base, what), aim, figures[label][what], values) for what, values in figures[base].items()]
        found.append(max(each, key=lambda target: target.found))
    return found


def module_targets(server: str, by_sites: dict[str, Rounds]) -> list[Target]:
    """Give the aims at 10,000 virtual hosts (or the most there are). Linear: a CPU time for each further one (without the server's check) no higher with
    the most than with fewer, spread aside.
    """
    module, check = MODULES[server], CHECKS[server]
    sites = sorted(by_sites, key=int)
    number = '10000' if '10000' in by_sites else sites[-1]
    many = by_sites[number]
    rows = [
        Target.of_ratio('%s, %s, %s virtual hosts / %s: wall' % (module, run, number, check), aim, column(many, run, 'wall s'), column(many, check, 'wall s'))
        for run, aim in zip(RUNS, (3.0, 1.0))
    ]
    if len(sites) > 3:
        low, mid, high = ((int(one), statistics.median(column(by_sites[one], 'first run', 'own cpu s'))) for one in sites[-3:])
        growth = (high[1] - mid[1]) / (high[0] - mid[0]) / ((mid[1] - low[1]) / (mid[0] - low[0]))
        span = '%d to %d / %d to %d' % (mid[0], high[0], low[0], mid[0])
        rows.append(Target('%s, first run: own CPU for each further virtual host, %s' % (module, span), 1.2, growth))
    peak = max(max(column(many, name, 'peak MB')) for name in many[0] if name != check)
    rows.append(Target('%s, %s virtual hosts: peak MB' % (module, number), 300, peak))
    return rows


def play_targets(plays: dict[str, Rounds]) -> list[Target]:
    return [
        Target.of_ratio('role / plain playbook, no change, hosts: %s: wall' % hosts, 0.5, *(column(rounds, label + ', no change', 'wall s') for label in PLAYS))
        for hosts, rounds in plays.items()
    ]


def draw(result: dict[str, t.Any], path: pathlib.Path) -> None:
    """Draw one panel per measure of the data path with a bar per subject (error bars: lowest to highest round), below them one per module, and playbooks."""
    figures, modules, plays = result['data path'], result['module'], result.get('play', {})
    pyplot.rcParams['svg.hashsalt'] = 'benchmarks'
    figure, (upper, lower) = pyplot.subplots(2, 3, figsize=(13, 9), layout='constrained')
    for number, what in enumerate(next(iter(figures.values()), {})):
        medians = [statistics.median(figures[label][what]) for label in figures]
        spreads = [
            [median - min(figures[label][what]) for label, median in zip(figures, medians)],
            [max(figures[label][what]) - median for label, median in zip(figures, medians)],
        ]
        axis = upper[number]
        axis.barh(list(figures), medians, xerr=spreads, color=[COLOURS[label.partition(',')[0]] for label in figures], ecolor='#444', capsize=2)
        axis.set_title('CPU ' + what)
        axis.invert_yaxis()
        if number:
            axis.set_yticklabels([])
    for axis, (server, by_sites) in zip(lower, modules.items()):
        for name in next(iter(by_sites.values()))[0]:
            style = {'color': '#444', 'linestyle': '--'} if name == CHECKS[server] else {}
            medians = [statistics.median(column(rounds, name, 'wall s')) for rounds in by_sites.values()]
            axis.loglog([int(one) for one in by_sites], medians, marker='o', label=name, **style)
        axis.set_title(MODULES[server])
        axis.set_xlabel('virtual hosts')
        axis.set_ylabel('wall s')
        axis.legend()
    for number, (label, run) in enumerate((label, run) for run in RUNS for label in PLAYS):
        heights = [statistics.median(column(rounds, '%s, %s' % (label, run), 'wall s')) for rounds in plays.values()]
        style = {'color': COLOURS['nginx'] if label == 'role' else '#888', 'hatch': '//' if run == 'first run' else ''}
        lower[2].bar([place + (number - 1.5) * 0.2 for place in range(len(plays))], heights, 0.19, label='%s, %s' % (label, run), **style)
    lower[2].set_xticks(range(len(plays)), ['%s host%s' % (hosts, '' if hosts == '1' else 's') for hosts in plays])
    lower[2].set_title('ansible-playbook')
    lower[2].set_ylabel('wall s')
    lower[2].legend(loc='upper left')
    for axis in (*upper, *lower):
        axis.spines[['top', 'right']].set_visible(False)
        axis.set_visible(axis.has_data())
    figure.savefig(path, metadata={'Date': None})


def main() -> None:
    source, page, picture = (pathlib.Path(word) for word in sys.argv[1:])
    result = json.loads(source.read_text())
    draw(result, picture)
    aims: list[Target] = []
    pages = []
    if result['data path']:
        aims += data_targets(result['data path'])
        pages.append(data_page(result))
    for server, by_sites in result['module'].items():
        aims += module_targets(server, by_sites)
    pages.append(module_page(result['module'], result['file system']))
    if 'play' in result:
        aims += play_targets(result['play'])
        pages.append(play_page(result['play']))
    loads = result['load averages'] or [0]
    head = PAGE % {
        **result['machine'],
        'servers': '\n- '.join(result['machine']['servers']),
        'load': '%.1f to %.1f' % (min(loads), max(loads)),
        'raw': source.name,
        'picture': picture.name,
        'targets': table(['what', 'aim, at most', 'measured', 'met'], [target.row() for target in aims]),
    }
    page.write_text(head + ''.join(pages))


if __name__ == '__main__':
    main()
