# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which failure `make prove` blames on whom."""

from __future__ import annotations

import importlib.util
import pathlib
import typing as t

spec = importlib.util.spec_from_file_location('report', pathlib.Path(__file__).parents[1] / 'prove' / 'report.py')
assert spec is not None and spec.loader is not None
report = importlib.util.module_from_spec(spec)
spec.loader.exec_module(report)


def step(begin: int, part: str, kind: str, reloads: str) -> dict[str, t.Any]:
    return {'begin': begin, 'took': 5, 'part': part, 'kind': kind, 'reloads': reloads, 'what': 'reload 1', 'made': begin}


STEPS = [
    step(0, 'no front', 'reload', 'no front'),
    step(10, 'pass', 'change', 'no front'),
    step(20, 'pass', 'change', ''),
    step(30, 'pass', 'reload', 'pass'),
    step(40, 'plain', 'change', 'pass'),
    step(50, 'plain', 'reload', 'plain'),
]


def causes(*failures: tuple[float, float, str, str, str]) -> list[tuple[str, str]]:
    """Give the state and the cause of each failure (since, at, kind, point, error)."""
    names = ('since', 'at', 'kind', 'stage', 'error')
    listed = [{'network': 'loopback', **dict(zip(names, failure))} for failure in failures]
    groups = report.summary({'steps': STEPS, 'made': 60, 'counts': {}, 'failures': listed})['failures']
    return [(group[0], group[6]) for group in groups]


def test_what_pass_loses_at_reloads_is_known_and_nothing_else() -> None:
    reset = 'ConnectionResetError()'
    for at, part, cause in ((12, 'pass', 'unknown'), (22, 'pass', 'unknown'), (32, 'pass', 'pass'), (42, 'plain', 'pass'), (52, 'plain', 'unknown')):
        assert causes((at - 1, at, 'late', 'handshake', reset)) == [(part, cause)]
    assert causes((31, 32, 'late', 'request', reset)) == [('pass', 'unknown')]


def test_what_the_server_loses_with_no_front_is_its_own() -> None:
    alone = (51.0, 52.0, 'h2', 'streams', 'Lost()')
    assert causes(alone) == [('plain', 'unknown')]
    assert causes((1, 2, 'h2', 'streams', 'Lost()'), alone) == [('no front', 'server'), ('plain', 'server')]
    assert causes((1, 2, 'kept', 'streams', 'Lost()'), alone)[1] == ('plain', 'unknown')


def test_a_client_that_waited_in_vain_waited_through_a_change() -> None:
    for since, kind in ((43, 'change'), (47, 'reload')):
        assert report.step_of({'since': since, 'at': 59, 'error': 'TimeoutError()'}, STEPS)['kind'] == kind
    assert causes((31, 39, 'late', 'handshake', 'TimeoutError()')) == [('pass', 'unknown')]  # `pass` resets what it loses


def test_every_connection_is_counted_in_one_state() -> None:
    parts = report.summary({'steps': STEPS, 'made': 60, 'counts': {}, 'failures': []})['parts']
    assert {part: count['made'] for part, count in parts.items()} == {'no front': 10, 'pass': 30, 'plain': 20}
