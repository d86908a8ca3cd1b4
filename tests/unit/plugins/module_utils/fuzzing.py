# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What holds for any bytes at all: a reader gives a result or raises what it says, an edit changes nothing else, and undoing it gives the bytes back.

test_fuzzing.py tries them on what was found once; tests/fuzz/fuzz.py on ever new input.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import typing as t

from ansible_collections.seamless.tls_alpn.plugins.module_utils import _acme_sh as acme_sh
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _apache_config as ac
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _haproxy_config as hc
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _haproxy_front as hf
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _nginx_config as nc
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _nginx_front as nf
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _spans
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed

WISHES = [hf.Wishes(), hf.Wishes(handoff='plain')]
DIRECTORY = tempfile.TemporaryDirectory(prefix='seamless-fuzzing-')
INCLUDE = re.compile(rb'include|lua_block|load_module')  # what leads to files that are not there is refused anyhow


def nginx(data: bytes) -> None:
    """Both readers agree or it is refused; words stand where they are said to; present, then absent, gives the bytes back."""
    try:
        statements = nc.parse(data)
    except Failed:
        return
    assert _rebuilt(data, statements, 0, len(data)) == data
    if INCLUDE.search(data):
        return
    main = os.path.join(DIRECTORY.name, 'nginx.conf')
    with open(main, 'wb') as stream:
        stream.write(data)
    try:
        config = nc.read(main)
        base = nf.base_of(config)
        can = nf.Abilities((1, 29, 0), True, True, None)
        for handoff in ('proxy_protocol', 'pass', 'plain'):
            files = nf.contents(base, nf.decide(base, nf.Wanted(443, 8443, '127.0.0.1', 10443, handoff), can, lambda host: host))
            there = config.with_files({path: content for path, content in files.items() if content is not None})
            back = nf.original(nf.base_of(there))
            assert back.get(main, data) == data
    except Failed:
        return


def _rebuilt(data: bytes, statements: list[nc.Statement], begin: int, end: int) -> bytes:
    """Put the file together from the places of its words, which follow one another."""
    pieces = []
    for statement in statements:
        for word in statement.words:
            assert begin <= word.begin < word.end <= end
            pieces += [data[begin : word.begin], data[word.begin : word.end]]
            begin = word.end
        if statement.block is not None:
            assert data[statement.body : statement.end] == b'}'
            pieces.append(_rebuilt(data, statement.block, begin, statement.body))
            begin = statement.body
        assert begin <= statement.end <= end
        pieces.append(data[begin : statement.end])
        begin = statement.end
    return b''.join([*pieces, data[begin:end]])


def haproxy(data: bytes) -> None:
    """Words stand where they are said to; present, and then absent, gives the bytes back."""
    sources = [hc.Source('/h.cfg', ['/h.cfg'], False)]
    environ = {'PORT': '443', 'BOTH': ':443,:8443'}
    try:
        config = hc.parse(sources, {'/h.cfg': data}, environ)
    except Failed:
        return
    for line in config.lines:
        position = line.begin
        for word in line.words:
            assert position <= word.begin <= word.end <= line.end
            position = word.begin if word.variable else word.end
    for wishes in WISHES:
        try:
            there = hf.decide(config, 'present', wishes, environ).stages[-1]['/h.cfg']
        except Failed:
            continue
        assert there is not None
        again = hf.decide(hc.parse(sources, {'/h.cfg': there}, environ), 'present', wishes, environ)
        assert again.stages == []
        back = hf.decide(hc.parse(sources, {'/h.cfg': there}, environ), 'absent', wishes, environ)
        assert back.stages[-1]['/h.cfg'] == data


def apache(data: bytes) -> None:
    """Lines follow one another and hold no white space at their ends; httpd's dumps may say what they like."""
    position = 0
    for line in ac.scan(data):
        text = data[line.begin : line.end]
        assert position <= line.begin < line.end <= len(data) and text == text.strip()
        assert data.count(b'\n', 0, line.end) <= line.number - 1
        ac.words(ac.text_of(data, line))
        position = line.end
    text = data.decode('utf-8', 'surrogateescape')
    ac.parse_directives(text)
    with contextlib.suppress(Failed):
        ac.parse_includes(text)


def settings(data: bytes) -> None:
    """What was set is read, and no other line changes."""
    before = acme_sh.read_settings(data)
    wanted = {'Le_TLSPort': '10443', 'Le_LocalAddress': 'ä $(touch x)', 'CA_BUNDLE': ''}
    edited = acme_sh.edit_settings(data, wanted)
    after = acme_sh.read_settings(edited)
    assert after == {**before, **wanted}
    assert acme_sh.edit_settings(edited, wanted) == edited
    ours = re.compile(rb'(?:Le_TLSPort|Le_LocalAddress|CA_BUNDLE)=')
    lines = [line for line in edited.split(b'\n') if not ours.match(line)]
    assert [line for line in data.split(b'\n') if not ours.match(line)] in (lines, lines[: -1 if lines[-1:] == [b''] else None])


def spans(data: bytes) -> None:
    """The first bytes say which edits to make in the rest; the record takes them back, wherever lines were put above since."""
    count, dummy, body = data.partition(b'\n')
    edits, position = [], 0
    for number in range(0, len(count) - 2, 3):
        begin = position + count[number]
        end = begin + count[number + 1] % 16
        if end > len(body):
            break
        edits.append(_spans.Edit(begin, end, b'<%d %s>' % (number, body[: count[number + 2] % 32])))
        position = end
    record = _spans.make_record('f', body, edits)
    edited = _spans.apply(body, edits)
    [read] = _spans.read_records(b'before\n' + _spans.render_record(record) + b'after\n')
    assert read == record
    undo, missing = _spans.undo(read, edited)
    assert (_spans.apply(edited, undo), missing) == (body, [])
    undo, missing = _spans.undo(read, b'x' + edited)
    _spans.apply(b'x' + edited, undo)


def records(data: bytes) -> None:
    """A front's file that somebody has damaged: its records are what they were made as, or are refused by ValueError."""
    try:
        found = _spans.read_records(data)
    except ValueError:
        return
    for record in found:
        for content in (b'', data, b''.join(after for dummy, dummy2, after in record.edits)):
            undo, dummy3 = _spans.undo(record._replace(sha256=_spans.digest(content)), content)
            _spans.apply(content, undo)
        assert _spans.read_records(_spans.render_record(record)) == [record]


PROPERTIES: dict[str, t.Callable[[bytes], None]] = {
    'nginx': nginx,
    'haproxy': haproxy,
    'apache': apache,
    'settings': settings,
    'spans': spans,
    'records': records,
}
# What to begin with, beside tests/corpus.
SEEDS: dict[str, list[bytes]] = {
    'nginx': [b'http { server { listen 443 ssl; listen [::]:443 ssl backlog=5; server_name a "b c"; } }\n'],
    'haproxy': [b'global\n  setenv A b\n.if 1\nfrontend f\n  bind :443,:8443 ssl crt "/a b" alpn h2 # x\n.endif\n  tcp-request connection accept\n'],
    'apache': [
        b'<VirtualHost *:443>\n  Protocols h2 \\\n   http/1.1\n  ServerName "a b"\n</VirtualHost>\n# c\nInclude x\n',
        b'# In file: /e/a.conf\n#   1:\n<VirtualHost *:443>\n  #   2:\n  Protocols h2\n</VirtualHost>\n'
        b'Included configuration files:\n  (*) /e/m\n    (1) /e/a\n',
    ],
    'settings': [b"Le_Domain='a.example'\nLe_TLSPort=\"443\"\r\nLe_ReloadCmd='__ACME_BASE64__START_YQ==__ACME_BASE64__END_'\nLe_LocalAddress=\n"],
    'spans': [b'\x01\x02\x03\x04\x05\x06\nsome words that are edited, and others that are not\n'],
    'records': [_spans.render_record(_spans.make_record('/f', b'one two', [_spans.Edit(0, 3, b'1'), _spans.Edit(4, 4, b'\xff')]))]
    + [
        _spans.RECORD + json.dumps(value).encode() + b'\n'
        for value in ([], {'file': 1, 'sha256': 2, 'edits': [[0, 1, 2]]}, {'file': 'f', 'sha256': '', 'edits': [[-1, 'a', 'b']]})
    ],
}
