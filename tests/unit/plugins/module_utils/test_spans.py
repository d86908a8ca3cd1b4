# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Byte spans: edits, records, undoing them."""

from __future__ import annotations

import pytest
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _spans
from ansible_collections.seamless.tls_alpn.plugins.module_utils._spans import Edit
from hypothesis import given, settings
from hypothesis import strategies as st

APPLIED = [
    (b'', [], b''),
    (b'abc', [], b'abc'),
    (b'abc', [Edit(1, 2, b'X')], b'aXc'),
    (b'abc', [Edit(0, 0, b'X'), Edit(3, 3, b'Y')], b'XabcY'),
    (b'abc', [Edit(2, 3, b''), Edit(0, 1, b'')], b'b'),
    (b'abc', [Edit(1, 1, b'X'), Edit(1, 1, b'Y')], b'aXYbc'),
    (b'a\xff\r\n', [Edit(0, 1, b'\x00')], b'\x00\xff\r\n'),
]


@pytest.mark.parametrize(('data', 'edits', 'expected'), APPLIED)
def test_apply(data: bytes, edits: list[Edit], expected: bytes) -> None:
    assert _spans.apply(data, edits) == expected


@pytest.mark.parametrize('edits', [[Edit(0, 2, b''), Edit(1, 3, b'')], [Edit(2, 4, b'')]])
def test_apply_refuses_overlap(edits: list[Edit]) -> None:
    with pytest.raises(ValueError, match='overlap'):
        _spans.apply(b'abc', edits)


@pytest.mark.parametrize(('data', 'offset', 'line'), [(b'a\nb', 0, 1), (b'a\nb', 2, 2), (b'a\r\nb', 3, 2), (b'\n\n', 2, 3)])
def test_line_of(data: bytes, offset: int, line: int) -> None:
    assert _spans.line_of(data, offset) == line


@pytest.mark.parametrize(('data', 'newline'), [(b'', b'\n'), (b'a\n', b'\n'), (b'a\r\nb\n', b'\r\n')])
def test_newline_of(data: bytes, newline: bytes) -> None:
    assert _spans.newline_of(data) == newline


def test_undo_in_an_edited_file() -> None:
    original = b'one two three two'
    record = _spans.make_record('f', original, [Edit(4, 7, b'2'), Edit(14, 17, b'ii')])
    assert _spans.apply(original, [Edit(4, 7, b'2'), Edit(14, 17, b'ii')]) == b'one 2 three ii'
    edits, missing = _spans.undo(record, b'zero one 2 three ii four')
    assert (_spans.apply(b'zero one 2 three ii four', edits), missing) == (b'zero one two three two four', [])
    edits, missing = _spans.undo(record, b'# 2\none 2 three', lambda offset: offset > 3)
    assert (_spans.apply(b'# 2\none 2 three', edits), missing) == (b'# 2\none two three', [(b'two', b'ii')])


def test_undo_of_equal_texts_in_an_edited_file() -> None:
    record = _spans.make_record('f', b'one two', [Edit(0, 3, b'x'), Edit(4, 7, b'x')])
    edits, missing = _spans.undo(record, b'x and x')
    assert (_spans.apply(b'x and x', edits), missing) == (b'one and two', [])
    assert _spans.undo(record, b'x and y')[1] == [(b'two', b'x')]


def test_long_comments() -> None:
    """Two kinds of comments, both over several lines, are told apart."""
    first, second = {'a': 'x' * 3000}, {'b': ['\u00e9' * 2000]}
    text = b'# head\n' + _spans.render_comment(b'# one: ', first) + _spans.render_comment(b'# two: ', second) + b'stream {}\n'
    assert max(map(len, text.splitlines())) < 2048
    assert _spans.read_comments(text, b'# one: ') == [first]
    assert _spans.read_comments(text, b'# two: ') == [second]
    assert _spans.read_comments(text, b'# three: ') == []
    with pytest.raises(ValueError, match='Unterminated'):
        _spans.read_comments(b'\n'.join(text.splitlines()[:3]), b'# one: ')


def test_diff_leaves_out_what_is_the_same() -> None:
    found = _spans.diff({'b': (b'x', b'x'), 'a': (None, b'\xff'), 'c': (b'y', None)})
    assert [(entry['before_header'], entry['after_header'], entry['before'], entry['after']) for entry in found] == [
        ('a (absent)', 'a', '', '\ufffd'),
        ('c', 'c (absent)', 'y', ''),
    ]


@st.composite
def edited(draw: st.DrawFn) -> tuple[bytes, list[Edit]]:
    data = draw(st.binary(max_size=40))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return data, [Edit(begin, end, draw(st.binary(max_size=5))) for begin, end in zip(cuts[::2], cuts[1::2])]


@settings(deadline=None, derandomize=True)
@given(edited())
def test_undo_is_the_inverse(case: tuple[bytes, list[Edit]]) -> None:
    data, edits = case
    changed = _spans.apply(data, edits)
    [record] = _spans.read_records(b'# else\n' + _spans.render_record(_spans.make_record('/a b', data, edits)) + b'more\n')
    back, missing = _spans.undo(record, changed)
    assert (_spans.apply(changed, back), missing, record.path) == (data, [], '/a b')


def test_undo_of_what_was_put_in_another_order() -> None:
    record = _spans.make_record('f', b'one\ntwo\n', [Edit(0, 3, b'1'), Edit(4, 7, b'2')])
    edits, missing = _spans.undo(record, b'2\n1\n')
    assert (_spans.apply(b'2\n1\n', edits), missing) == (b'two\none\n', [])
