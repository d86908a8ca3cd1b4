"""What prove.py saw as a page: report.py RESULT.json PAGE.md SUMMARY.json (which keeps those servers that were not run now)

Ends with 1 if a connection failed that neither the server itself nor the handoff `pass` is known to lose.
"""

from __future__ import annotations

import collections
import json
import pathlib
import re
import sys
import typing as t

PAGE = """\
# No failed connection

Made by `make prove` on %(date)s; the figures are in [no-failed-connection.json](no-failed-connection.json). A run of one server
(`make prove PROVE='--servers nginx'`) leaves the figures of the others as they are. (`make prove-quick` makes such a page in `.cache`; its few plain
reloads with no front seldom show what a server itself loses now and then, so that it may call not known what the whole run knows.)

- machine: %(cpu)s, Linux %(kernel)s
- %(servers)s
- clients: %(networks)s, all at the same time, as fast as the machine makes them

## Result

%(verdict)s

%(result)s

- **During changes**: front put up, run again, handoff changed, challenge answered, front taken away, put up again, taken away; until the next step begins.
- **During plain reloads**: %(reloads)d with each state (with a front one more, with a renewed certificate). Nothing of this collection runs in them.
- **Known**: failures that are the server's own, since the same kind of client fails at the same point on plain reloads of this server with no front
  (during changes: with the same error, too); and late ClientHellos that the handoff `pass` loses at a reload ([why](how-it-works.md#pass)), also at the
  one that changes to another handoff. Everything else counts.

## Every connection, by kind

%(kinds)s

- new: one request. resumed: one request, TLS 1.2, a session resumed. late: the ClientHello comes after a pause of up to 1.5 s. split: the ClientHello comes in
  two segments, a round trip apart. kept: HTTP/1.1, 20 requests of 0.4 s one after the other. h2: 40 such requests, four at a time. acme: a CA's handshake,
  while a challenge is answered. download and websocket: open from one of the steps to the very end, with data twice a second; every byte is compared.
- Closed while idle: by the server, between two requests, which it may (RFC 9112, section 9.5): the next request had not arrived at the application. Refused by
  GOAWAY: requests that the server named as not processed, so that clients send them again (RFC 9113, section 6.8). Neither is a failure, nor due to a front.

## Failures

%(failures)s
"""

BEFORE_HELLO = ('pause before ClientHello', 'between two halves of ClientHello', 'handshake')


def table(head: t.Sequence[str], rows: t.Sequence[t.Sequence[object]]) -> str:
    return '\n'.join('| %s |' % ' | '.join(map(str, row)) for row in [head, ['---'] * len(head), *rows])


def step_of(failure: dict[str, t.Any], steps: list[dict[str, t.Any]]) -> dict[str, t.Any]:
    """Give the step that a failure belongs to: the last that had begun; of a client that waited in vain, the first change that it waited through."""
    begun = [step for step in steps if step['begin'] <= failure['at']] or steps[:1]
    if 'imeout' in failure['error']:
        during = [step for step in begun if step.get('took', 0) + step['begin'] >= failure['since']]
        return next((step for step in during if step['kind'] == 'change'), begun[-1])
    return begun[-1]


def wording(failure: dict[str, t.Any]) -> str:
    """Give a failure's error without its numbers, as in "3 streams"; an errno stays."""
    return re.sub(r'(?<=[ \'"])\d+\b', 'N', failure['error']).replace('|', '/')


def summary(result: dict[str, t.Any]) -> dict[str, t.Any]:
    """Give, for one server, the connections and failures of each state, by what was going on, and the failures by kind with their cause."""
    steps = result['steps']
    parts: dict[str, collections.Counter[str]] = {}
    for step, until in zip(steps, [one['made'] for one in steps[1:]] + [result['made']]):
        part = parts.setdefault(step['part'], collections.Counter())
        part['made'] += until - step['made']
        part[step['kind'] + ' steps'] += 1
    parts[steps[0]['part']]['made'] += steps[0]['made']
    placed = [(failure, step_of(failure, steps)) for failure in result['failures']]
    control = [failure for failure, step in placed if step['part'] == 'no front']
    alike = {(one['kind'], one['stage']) for one in control}
    same = {(one['kind'], one['stage'], wording(one)) for one in control}
    groups: collections.Counter[tuple[str, ...]] = collections.Counter()
    for failure, step in placed:
        what = (failure['kind'], failure['stage'])
        if step['part'] == 'no front' or (what in alike if step['kind'] == 'reload' else (*what, wording(failure)) in same):
            cause = 'server'
        elif step['reloads'] == 'pass' and what[0] != 'acme' and what[1] in BEFORE_HELLO and 'ConnectionReset' in failure['error']:
            cause = 'pass'
        else:
            cause = 'unknown'
        parts[step['part']][step['kind']] += 1
        parts[step['part']][cause] += 1
        groups[step['part'], re.sub(r' \d+$', '', step['what']), failure['network'], failure['kind'], failure['stage'], wording(failure), cause] += 1
    return {'parts': parts, 'counts': result['counts'], 'failures': [[*group, count] for group, count in sorted(groups.items())]}


def main() -> None:
    source, page, figures = (pathlib.Path(word) for word in sys.argv[1:])
    result = json.loads(source.read_text())
    servers = json.loads(figures.read_text())['servers'] if figures.exists() else {}
    for one in servers.values():
        one['parts'] = {name: collections.Counter(part) for name, part in one['parts'].items()}
    servers.update({label: summary(one) for label, one in result['servers'].items()})
    figures.write_text(json.dumps({'machine': result['machine'], 'servers': servers}, indent=1) + '\n')
    fronts = {label: [part for name, part in one['parts'].items() if name != 'no front'] for label, one in servers.items()}
    unknown = sum(part['unknown'] for parts in fronts.values() for part in parts)
    verdict = ['%s: %s connections with a front' % (label, '{:,}'.format(sum(part['made'] for part in parts))) for label, parts in fronts.items()]
    verdict.append('failed, and not known: **%d**' % unknown)
    kinds = []
    for label, one in servers.items():
        for kind in next(iter(one['counts'].values())):
            counts = [network[kind] for network in one['counts'].values()]
            columns = ('made', 'served', 'failed', 'requests', 'closed while idle', 'refused by GOAWAY')
            kinds.append([label, kind, *(sum(count[column] for count in counts) for column in columns)])
    causes = {'server': "the server's own", 'pass': '`pass`, at a reload', 'unknown': '**not known**'}
    failures = [
        [label, part, what, network, kind, stage, '`%s`' % error, causes[cause], count]
        for label, one in servers.items()
        for part, what, network, kind, stage, error, cause, count in one['failures']
    ]
    head = ['server', 'state', 'when', 'clients', 'kind', 'point', 'error', 'cause', 'connections']
    page.write_text(
        PAGE
        % {
            **result['machine'],
            'servers': '\n- '.join(result['machine']['servers']),
            'networks': ' and '.join(next(iter(servers.values()))['counts']),
            'verdict': '; '.join(verdict) + '.',
            'result': table(
                ['server', 'state', 'connections made', 'failed during changes', 'failed during plain reloads', 'of these known'],
                [
                    [label, name, part['made'], part['change'] if part['change steps'] else '', part['reload'], part['server'] + part['pass']]
                    for label, one in servers.items()
                    for name, part in one['parts'].items()
                ],
            ),
            'reloads': next(iter(servers.values()))['parts']['no front']['reload steps'],
            'kinds': table(['server', 'kind', 'made', 'served', 'failed', 'requests answered', 'closed while idle', 'refused by GOAWAY'], kinds),
            'failures': table(head, failures) if failures else 'None.',
        }
    )
    print(page.read_text())
    sys.exit(1 if unknown else 0)


if __name__ == '__main__':
    main()
