# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Byte spans: edit a file's own bytes and nothing else. Pure; knows no server.

PRIVATE to the collection, may change at any time.
"""

from __future__ import annotations

import hashlib
import json
import typing as t

RECORD = b'# seamless.tls_alpn record: '
_CONTINUED = b'# seamless.tls_alpn ...: '
_WIDTH = 1000  # bytes of a comment line; nginx refuses more than 4096 (NGX_CONF_BUFFER in ngx_conf_file.c), old HAProxy more than 2048


class Edit(t.NamedTuple):
    """Replace the bytes from ``begin`` up to ``end`` (offsets) by ``text``."""

    begin: int
    end: int
    text: bytes


class Record(t.NamedTuple):
    """What was done to one file, enough to undo it.

    ``sha256`` is that of the file as it was left; each of ``edits`` is (offset in the original, before, after).
    """

    path: str
    sha256: str
    edits: tuple[tuple[int, bytes, bytes], ...]


def apply(data: bytes, edits: t.Iterable[Edit]) -> bytes:
    """Give ``data`` with ``edits`` made; raise ValueError if two overlap. Edits at one place keep their order."""
    pieces, position = [], 0
    for edit in sorted(edits, key=lambda edit: (edit.begin, edit.end)):
        if edit.begin < position or edit.end > len(data):
            raise ValueError('edits overlap at byte %d' % edit.begin)
        pieces += [data[position : edit.begin], edit.text]
        position = edit.end
    return b''.join(pieces) + data[position:]


def line_of(data: bytes, offset: int) -> int:
    """Give the line (counted from 1) of a byte offset."""
    return data.count(b'\n', 0, offset) + 1


def newline_of(data: bytes) -> bytes:
    """Give the line end that the file uses."""
    return b'\r\n' if b'\r\n' in data else b'\n'


def digest(data: bytes) -> str:
    """Give the SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def make_record(path: str, original: bytes, edits: t.Iterable[Edit]) -> Record:
    """Describe ``edits`` of the file ``path`` so that L(undo) can take them back."""
    ordered = sorted(edits, key=lambda edit: (edit.begin, edit.end))
    return Record(path, digest(apply(original, ordered)), tuple((edit.begin, original[edit.begin : edit.end], edit.text) for edit in ordered))


def render_comment(label: bytes, value: t.Any) -> bytes:
    """Give the comment lines that hold ``value`` as JSON behind ``label``."""
    text = json.dumps(value, sort_keys=True).encode('ascii')
    pieces = [text[start : start + _WIDTH] for start in range(0, len(text), _WIDTH)]
    return label + (b'\n' + _CONTINUED).join(pieces) + b'\n'


def read_comments(data: bytes, label: bytes) -> list[t.Any]:
    """Give the values that L(render_comment) put into ``data`` behind ``label``; raise ValueError for a damaged one."""
    texts: list[bytes] = []
    continues = False
    for line in data.splitlines():
        if line.startswith(label):
            texts.append(line[len(label) :])
        elif continues and line.startswith(_CONTINUED):
            texts[-1] += line[len(_CONTINUED) :]
        continues = line.startswith(label) or continues and line.startswith(_CONTINUED)
    try:
        return [json.loads(text) for text in texts]
    except RecursionError as error:
        raise ValueError('nested too deeply') from error


def render_record(record: Record) -> bytes:
    """Give the comment lines that hold a record."""
    edits = [[offset, before.decode('latin-1'), after.decode('latin-1')] for offset, before, after in record.edits]
    return render_comment(RECORD, {'file': record.path, 'sha256': record.sha256, 'edits': edits})


def read_records(data: bytes) -> list[Record]:
    """Give the records that stand in a front's file; raise ValueError for a damaged one."""
    try:
        records = [
            Record(
                value['file'],
                value['sha256'],
                tuple((offset, before.encode('latin-1'), after.encode('latin-1')) for offset, before, after in value['edits']),
            )
            for value in read_comments(data, RECORD)
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError('not a record: %s' % error) from error
    for record in records:
        position = 0
        for offset, before, dummy in record.edits:
            if not isinstance(offset, int) or isinstance(offset, bool) or offset < position:
                raise ValueError('edits overlap at %r' % (offset,))
            position = offset + len(before)
        if not isinstance(record.path, str) or not isinstance(record.sha256, str) or '\0' in record.path:
            raise ValueError('not a file: %r' % (record.path,))
    return records


def undo(record: Record, data: bytes, is_start: t.Callable[[int], bool] = lambda offset: True) -> tuple[list[Edit], list[tuple[bytes, bytes]]]:
    """Give the edits that take a record's changes back out of ``data``, and those (before, after) that are not there any more.

    A file that is as it was left is put back exactly. In one that somebody edited since, each text is looked for in order, at
    places where ``is_start`` says that it may begin (so that the same words in a comment are left alone).
    """
    edits: list[Edit] = []
    missing: list[tuple[bytes, bytes]] = []
    if digest(data) == record.sha256:
        moved = 0
        for offset, before, after in record.edits:
            edits.append(Edit(offset + moved, offset + moved + len(after), before))
            moved += len(after) - len(before)
        if all(edit.end <= len(data) and data[edit.begin : edit.end] == after for edit, (dummy, dummy2, after) in zip(edits, record.edits)):
            return edits, []
        edits = []  # the record is damaged

    def find(text: bytes, start: int) -> int:
        found = data.find(text, start)
        while found >= 0 and not (is_start(found) and all(found >= edit.end or found + len(text) <= edit.begin for edit in edits)):
            found = data.find(text, found + 1)
        return found

    position = 0
    for dummy, before, after in record.edits:
        found = find(after, position) if after else -1
        if found < 0 and after:
            found = find(after, 0)  # somebody has put it further up
        if found < 0:
            missing.append((before, after))
            continue
        edits.append(Edit(found, found + len(after), before))
        position = found + len(after)
    return edits, missing


def diff(changes: t.Mapping[str, tuple[bytes | None, bytes | None]]) -> list[dict[str, str]]:
    """Give Ansible's diff (one entry a file) of ``{path: (before, after)}``, where None is a file that is not there."""

    def text(data: bytes | None) -> str:
        return '' if data is None else data.decode('utf-8', 'replace')

    return [
        {
            'before_header': path if before is not None else '%s (absent)' % path,
            'after_header': path if after is not None else '%s (absent)' % path,
            'before': text(before),
            'after': text(after),
        }
        for path, (before, after) in sorted(changes.items())
        if before != after
    ]
