"""The figures as a page and a picture: report.py RESULT.json PAGE.md PICTURE.svg"""

from __future__ import annotations

import json
import pathlib
import statistics
import sys
import typing as t

import matplotlib

matplotlib.use('svg')
from matplotlib import pyplot

PAGE = """\
# Benchmarks

Made by `%(command)s` on %(date)s; the raw figures are in [benchmarks.json](benchmarks.json). Times are CPU time (kernel included), not asserted by any test.
Another machine gives other microseconds; the ratios are what to look at.

- machine: %(cpu)s, Linux %(kernel)s; load average during the rounds: %(load)s
- %(servers)s
- us: microseconds. Server pinned to one core with one worker; ApacheBench, and the plain web server behind HAProxy, on another

![CPU time by server and front](%(picture)s)

## Data path

CPU time of the server's workers: median of %(rounds)d rounds (lowest to highest), and the ratio to the same server with no front. The rounds go over all
servers in turn. The file has 50 MB. ApacheBench speaks HTTP/1.1.

%(data)s

## Module

`nginx_alpn_stream` on one file per virtual host, nginx stopped (reload and handshakes are not in it; the module's own `nginx -t` is): median of the rounds, and
the ratio to one `nginx -t` on the same tree in the same round. Peak memory is that of the largest process, `nginx -t` included; about 20 MB is the least that
can be seen (Linux counts what the measuring process had before exec).

%(module)s

## Targets

%(targets)s
"""


def table(head: t.Sequence[str], rows: t.Sequence[t.Sequence[str]]) -> str:
    return '\n'.join('| %s |' % ' | '.join(row) for row in [head, ['---'] * len(head), *rows])


def short(value: float) -> str:
    return '%.0f' % value if value >= 100 else '%.1f' % value


def data_rows(figures: dict[str, dict[str, list[float]]]) -> list[list[str]]:
    rows = []
    for label, measures in figures.items():
        base = figures['%s, no front' % label.partition(',')[0]]
        row = [label]
        for what, values in measures.items():
            ratio = statistics.median(values) / statistics.median(base[what])
            row.append('%s (%s-%s), %.2f' % (short(statistics.median(values)), short(min(values)), short(max(values)), ratio))
        rows.append(row)
    return rows


def module_rows(figures: dict[str, list[dict[str, dict[str, float]]]]) -> list[list[str]]:
    rows = []
    for sites, rounds in figures.items():
        for name in rounds[0]:
            row = [sites, name]
            for what in ('wall s', 'cpu s', 'peak MB'):
                value = statistics.median(one[name][what] for one in rounds)
                ratio = statistics.median(one[name][what] / one['nginx -t'][what] for one in rounds)
                row.append('%s, %.1f' % ('%.0f' % value if what == 'peak MB' else '%.2f' % value, ratio))
            rows.append(row)
    return rows


def target_rows(figures: dict[str, dict[str, list[float]]], module: dict[str, list[dict[str, dict[str, float]]]]) -> list[list[str]]:
    """Give what was aimed at, and what came out: the highest ratio over the measures, or over the virtual hosts."""

    def worst(label: str, base: str) -> float:
        return max(statistics.median(figures[label][what]) / statistics.median(values) for what, values in figures[base].items())

    aims = [
        ('nginx, pass', 'nginx, no front', 1.03),
        ('nginx, proxy_protocol', "nginx, wiki's recipe", 1.0),
        ('HAProxy, abns', 'HAProxy, no front', 1.4),
        ('HAProxy, abns', "HAProxy, wiki's recipe", 1.0),
        ('Apache, mod_md answers', 'Apache, no front', 1.0),
    ]
    rows: list[tuple[str, float, float]] = [('%s / %s' % (label, base), aim, worst(label, base)) for label, base, aim in aims]
    sites = max(module, key=int)
    for name, aim in (('first run', 3.0), ('no change', 1.0)):
        ratio = statistics.median(one[name]['wall s'] / one['nginx -t']['wall s'] for one in module[sites])
        rows.append(('nginx_alpn_stream, %s, %s virtual hosts / nginx -t, wall' % (name, sites), aim, ratio))
    return [[what, '%.2f' % aim, '%.2f' % ratio, 'yes' if round(ratio, 2) <= aim else '**no**'] for what, aim, ratio in rows]


def draw(figures: dict[str, dict[str, list[float]]], path: pathlib.Path) -> None:
    """Draw one panel per measure, one bar per subject, from the lowest to the highest round as the error bar."""
    measures = list(next(iter(figures.values())))
    colours = {'nginx': '#2a9d5c', 'HAProxy': '#3b76b8', 'Apache': '#c2473d'}
    pyplot.rcParams['svg.hashsalt'] = 'benchmarks'
    figure, axes = pyplot.subplots(1, len(measures), figsize=(13, 4.6), sharey=True, layout='constrained')
    labels = list(figures)
    for axis, what in zip(axes, measures):
        medians = [statistics.median(figures[label][what]) for label in labels]
        spread = [
            [median - min(figures[label][what]) for label, median in zip(labels, medians)],
            [max(figures[label][what]) - median for label, median in zip(labels, medians)],
        ]
        axis.barh(labels, medians, xerr=spread, color=[colours[label.partition(',')[0]] for label in labels], ecolor='#444', capsize=2)
        axis.set_title('CPU ' + what)
        axis.spines[['top', 'right']].set_visible(False)
    axes[0].invert_yaxis()
    figure.savefig(path, metadata={'Date': None})


def main() -> None:
    source, page, picture = (pathlib.Path(word) for word in sys.argv[1:])
    result = json.loads(source.read_text())
    figures = result['data path']
    draw(figures, picture)
    page.write_text(
        PAGE
        % {
            **result['machine'],
            'command': 'make bench',
            'servers': '\n- '.join(result['machine']['servers']),
            'load': '%.1f to %.1f' % (min(result['load averages']), max(result['load averages'])),
            'picture': picture.name,
            'rounds': len(result['load averages']),
            'data': table(['subject', *(what + ', ratio' for what in next(iter(figures.values())))], data_rows(figures)),
            'targets': table(['what', 'aim, at most', 'highest ratio measured', 'met'], target_rows(figures, result['module'])),
            'module': table(['virtual hosts', 'run', 'wall s, ratio', 'CPU s, ratio', 'peak MB, ratio'], module_rows(result['module'])),
        }
    )


if __name__ == '__main__':
    main()
