# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading HAProxy's configuration: words, sections, conditions, and which files are loaded."""

from __future__ import annotations

import pytest
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _haproxy_config as hc
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed
from hypothesis import given, settings
from hypothesis import strategies as st

ENVIRONMENT = {'PORT': '443', 'LIST': '192.0.2.1:443 ssl', 'EMPTY': ''}

WORDS = [
    (b'', []),
    (b'   \t ', []),
    (b'# bind :443', []),
    (b'bind :443', ['bind', ':443']),
    (b'\tbind\t:443\r', ['bind', ':443']),
    (b'bind :443#comment', ['bind', ':443']),
    (b'bind ":443"', ['bind', ':443']),
    (b"bind ':443'", ['bind', ':443']),
    (b'bind :4"4"3', ['bind', ':443']),
    (b'bind ":$PORT"', ['bind', ':443']),
    (b'bind ":${PORT}"', ['bind', ':443']),
    (b"bind ':${PORT}'", ['bind', ':${PORT}']),
    (b'bind :${PORT}', ['bind', ':${PORT}']),
    (b'bind ":\\${PORT}"', ['bind', ':${PORT}']),
    (b'bind ":${OTHER-8443}"', ['bind', ':8443']),
    (b'bind ":${EMPTY-8443}"', ['bind', ':']),
    (b'bind ":${OTHER}"', ['bind', ':']),
    (b'bind "${LIST[*]}" alpn h2', ['bind', '192.0.2.1:443', 'ssl', 'alpn', 'h2']),
    (b'bind "${LIST}"', ['bind', '192.0.2.1:443 ssl']),
    (b'acl x path a\\ b', ['acl', 'x', 'path', 'a b']),
    (b'acl x path a\\#b', ['acl', 'x', 'path', 'a#b']),
    (b'acl x path a\\\\b', ['acl', 'x', 'path', 'a\\b']),
    (b'acl x path \\x41\\x4z', ['acl', 'x', 'path', 'A\\x4z']),
    (b'acl x path a\\tb\\n\\r', ['acl', 'x', 'path', 'a\tb\n\r']),
    (b'acl x path \\d+', ['acl', 'x', 'path', '\\d+']),
    (b"acl x path 'a\\n\"#b'", ['acl', 'x', 'path', 'a\\n"#b']),
    (b'acl x path "a\'#\\"b"', ['acl', 'x', 'path', 'a\'#"b']),
    (b'log-format "%{+Q}o %t"\' %s\'', ['log-format', '%{+Q}o %t %s']),
    (b'errorfile ""', ['errorfile', '']),
    (b'crt /caf\xc3\xa9.pem', ['crt', '/café.pem']),
    (b'crt /caf\xe9.pem', ['crt', '/caf\udce9.pem']),
]


@pytest.mark.parametrize(('line', 'words'), WORDS)
def test_words(line: bytes, words: list[str]) -> None:
    assert [word.value for word in hc.split(line, 0, len(line), ENVIRONMENT)] == words


def test_words_know_their_place() -> None:
    data = b'xx\n  bind ":443" crt \'/a b\' # c\n'
    words = hc.split(data, 3, data.index(b'\n', 3), {})
    assert [data[word.begin : word.end] for word in words] == [b'bind', b'":443"', b'crt', b"'/a b'"]


@pytest.mark.parametrize('line', [b'bind "', b"acl x path 'a", b'bind "\\"'])
def test_open_quote(line: bytes) -> None:
    with pytest.raises(Failed, match=r'/a\.cfg:2: a quote has no end'):
        parse(b'global\n' + line + b'\n')


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.lists(st.text(st.characters(codec='utf-8', exclude_characters='\n\0'), min_size=1, max_size=12), max_size=6))
def test_any_word_survives_quoting(words: list[str]) -> None:
    """Strong quotes keep every byte but their own (Manual 2.2)."""
    quoted = [b'"\'"'.join(b"'%s'" % part.encode() for part in word.split("'")) for word in words]
    line = b' \t'.join(quoted)
    assert [word.value for word in hc.split(line, 0, len(line), {})] == words


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    """Reading never fails but for an open quote, and words stand in order, within the line, and do not overlap."""
    line = data.replace(b'\n', b' ')
    try:
        words = hc.split(line, 0, len(line), {})
    except ValueError:
        return
    assert all(0 <= word.begin < word.end <= len(line) for word in words)
    assert all(one.end <= two.begin for one, two in zip(words, words[1:]))
    try:
        lines = parse(line).lines
    except Failed:
        return  # `.else` without an `.if`
    assert [line.values for line in lines] == [[word.value for word in line.words] for line in lines] == ([[word.value for word in words]] if words else [])


def parse(data: bytes, environ: dict[str, str] | None = None) -> hc.Config:
    return hc.parse([hc.Source('/a.cfg', ['/a.cfg'], False)], {'/a.cfg': data}, environ or {})


def test_sections() -> None:
    config = parse(b'# top\nglobal\n  daemon\n\ndefaults base\nfrontend a from base\n bind :1\nlisten b\nbackend c\npeers p\n  bind :443\n')
    assert [(section.kind, section.name, section.line) for section in config.sections] == [
        ('global', '', 2),
        ('defaults', 'base', 5),
        ('frontend', 'a', 6),
        ('listen', 'b', 8),
        ('backend', 'c', 9),
        ('peers', 'p', 10),
    ]
    assert [line.values for line in config.lines if line.section == config.sections[2]] == [['frontend', 'a', 'from', 'base'], ['bind', ':1']]


def test_guards() -> None:
    config = parse(b'frontend a\n.if A\n bind :1\n.elif B\n .if C\n bind :2\n .else\n bind :3\n .endif\n.endif\n bind :4\n')
    guards = {line.values[1]: line.guards for line in config.lines if line.values[0] == 'bind'}
    assert guards == {
        ':1': ((b'.if A',),),
        ':2': ((b'.if A', b'.elif B'), (b'.if C',)),
        ':3': ((b'.if A', b'.elif B'), (b'.if C', b'.else')),
        ':4': (),
    }


def test_endif_without_if() -> None:
    with pytest.raises(Failed, match=r'/a\.cfg:1: "\.endif" without "\.if"'):
        parse(b'.endif\n')


@pytest.mark.parametrize(
    ('lines', 'value'),
    [
        (b'', 'outer'),
        (b' setenv X inner\n', 'inner'),
        (b' presetenv X inner\n', 'outer'),
        (b' unsetenv X\n', ''),
        (b' unsetenv X\n presetenv X inner\n', 'inner'),
        (b' resetenv Y\n', ''),
        (b' resetenv X\n', 'outer'),
    ],
)
def test_environment_of_global(lines: bytes, value: str) -> None:
    config = parse(b'global\n' + lines + b'frontend a\n bind "$X"\n', {'X': 'outer', 'Y': 'y'})
    assert config.lines[-1].values == ['bind', value]


@pytest.mark.parametrize(
    ('text', 'value'), [('5s', 5), ('500', 0.5), ('500ms', 0.5), ('2m', 120), ('1h', 3600), ('1d', 86400), ('1s5', None), ('', None), ('x', None)]
)
def test_time(text: str, value: float | None) -> None:
    assert hc.seconds(text) == value


def test_directories_are_read_in_c_order(tmp_path: object) -> None:
    for name in ('b.cfg', 'B.cfg', 'a.cfg', '.hidden.cfg', 'c.cfg.bak', 'notes.txt'):
        with open('%s/%s' % (tmp_path, name), 'wb') as stream:
            stream.write(b'# %s\n' % name.encode())
    (source,) = hc.find_sources([str(tmp_path)])
    assert [path.rpartition('/')[2] for path in source.files] == ['B.cfg', 'a.cfg', 'b.cfg']
    assert source.directory


def test_missing_file() -> None:
    with pytest.raises(Failed, match=r'/nonexistent/haproxy\.cfg: can not be read: No such file'):
        hc.read(['/nonexistent/haproxy.cfg'], {})
