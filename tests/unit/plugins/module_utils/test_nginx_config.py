# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading nginx's configuration: words and where they stand, blocks, includes, and that both readers see the same."""

from __future__ import annotations

import os
import pathlib
import re

import pytest
from ansible_collections.seamless.tls_alpn.plugins.module_utils._nginx_config import (
    Address,
    confirm,
    included_files,
    is_included,
    parse,
    parse_address,
    public_key,
    read,
)
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed

CORPUS = pathlib.Path(__file__).parents[4] / 'tests' / 'corpus' / 'nginx'

WORDS = [
    (b'a;', [['a']]),
    (b'a b\tc\r\nd;', [['a', 'b', 'c', 'd']]),
    (b'a "b c" \'d;e\';', [['a', 'b c', 'd;e']]),
    (b'a "\\"" \'\\\'\';', [['a', '"', "'"]]),
    (b'a b\\;c\\ d;', [['a', 'b\\;c\\ d']]),
    (b'a ${{b;', [['a', '${{b']]),
    (b'a ${b}c;', [['a', '${b}c']]),
    (b'a b"c;', [['a', 'b"c']]),
    (b'a b#c;', [['a', 'b#c']]),
    (b'a # b;\n c;', [['a', 'c']]),
    (b'a }b;', None),
    (b'a b}c;', [['a', 'b}c']]),
    (b'a \xe9;', [['a', '\udce9']]),
    (b'a {} b { c; }', [['a'], ['b']]),
    (b'\xef\xbb\xbfa;', [['\ufeffa']]),
    (b'x_by_lua_block { if "}" then --[[ } ]] end -- }\n } b;', [['x_by_lua_block'], ['b']]),
    (b"x_by_lua_block { a = [==[ } ]] ]==] .. '}' } b;", [['x_by_lua_block'], ['b']]),
]


@pytest.mark.parametrize(('data', 'expected'), WORDS)
def test_words(data: bytes, expected: list[list[str]] | None) -> None:
    if expected is None:
        with pytest.raises(Failed):
            parse(data)
        return
    statements = parse(data)
    assert [[word.value for word in statement.words] for statement in statements] == expected
    for statement in statements:
        assert data[statement.begin : statement.end].startswith(data[statement.words[0].begin : statement.words[0].end])
        assert data[statement.end - 1 : statement.end] in (b';', b'}')


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (b'a\n', 'f:1: "a" has no end'),
        (b'\na {\n b;', 'f:2: "a" has no end'),
        (b'a;\n}', 'f:2: unexpected "}"'),
        (b'a;\n;', 'f:2: unexpected ";"'),
        (b'{ a; }', 'f:1: unexpected "{"'),
        (b'a\n"b;', 'f:2: a quoted word has no end'),
        (b"a 'b;", 'f:1: a quoted word has no end'),
        (b'a {\n b }', 'f:2: unexpected "}"'),
        (b'\nx_by_lua_block { a = "}"', 'f:2: the Lua block has no end'),
    ],
)
def test_no_syntax(data: bytes, message: str) -> None:
    with pytest.raises(Failed, match=re.escape(message)):
        parse(data, 'f')


ADDRESSES = [
    ('443', Address('', 443, 443)),
    ('*:443', Address('', 443, 443)),
    ('192.0.2.1:443', Address('192.0.2.1', 443, 443)),
    ('[::]:443', Address('[::]', 443, 443)),
    ('[2001:DB8::1]', Address('[2001:db8::1]', 80, 80)),
    ('host.name', Address('host.name', 80, 80)),
    ('Host.Name:8080', Address('host.name', 8080, 8080)),
    ('440-450', Address('', 440, 450)),
    ('127.0.0.1:440-450', Address('127.0.0.1', 440, 450)),
    ('unix:/run/x', None),
    ('unix:/run/x:443', None),
    ('[::]:x', None),
]


@pytest.mark.parametrize(('word', 'address'), ADDRESSES)
def test_address(word: str, address: Address | None) -> None:
    assert parse_address(word) == address


@pytest.mark.parametrize(
    ('host', 'key'),
    [('', '0.0.0.0'), ('0.0.0.0', '0.0.0.0'), ('[::]', '::'), ('[2001:db8:0:0::1]', '2001:db8::1'), ('[::ffff:192.0.2.1]', '::ffff:192.0.2.1'), ('x', 'X')],
)
def test_public_key(host: str, key: str) -> None:
    assert public_key(host, str.upper).replace('c000:201', '192.0.2.1') == key


@pytest.mark.parametrize('path', sorted(CORPUS.glob('*.conf')), ids=lambda path: path.stem)
def test_both_readers_agree(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """crossplane is the oracle of the lexer (it follows includes, which the corpus names but does not have)."""
    main = tmp_path / 'nginx.conf'
    main.write_bytes(re.sub(rb'(?m)^\s*include .*;', b'', path.read_bytes()))
    config = read(str(main))
    confirm(config, '')
    assert [place for place in config.places() if place.context == ('http', 'server') and place.statement.name == 'listen']


@pytest.mark.parametrize(
    'key',
    [
        r'"~*\n"', r'"~*\r\n"', r'~\t', r'"~*Bolt\ 0"', r'~*Bolt\ 0', r'"~\"x\""', r"'~\"x\"'", r'"~\\x"', r'~\\x', r'\"x', r'"~^a{2}"', r'"${x}"', '"a;b"',
        r'~a\;b', '"it\'s"', '""', '"#x"',
    ],
)  # fmt: skip
def test_keys_of_maps(key: str, tmp_path: pathlib.Path) -> None:
    """What looks like a directive's name and is a pattern."""
    (tmp_path / 'nginx.conf').write_text('http {\n map $uri $z {\n default 0;\n %s 1;\n }\n}\n' % key)
    config = read(str(tmp_path / 'nginx.conf'))
    confirm(config, '')
    assert [place.statement.arguments for place in config.places()][2:] == [['0'], ['1']]


def test_readers_that_differ(tmp_path: pathlib.Path) -> None:
    """crossplane takes what follows `${x}` in a name along with it: refused, with the line, rather than half understood."""
    (tmp_path / 'nginx.conf').write_text('http {\n map $uri $z {\n ~${x} 1;\n }\n}\n')
    with pytest.raises(Failed, match='nginx.conf:3: this statement is not understood'):
        confirm(read(str(tmp_path / 'nginx.conf')), '')


def test_the_front_is_not_confirmed(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'nginx.conf').write_text('events { }\ninclude front.conf;\n')
    (tmp_path / 'front.conf').write_text('stream {\n map $x $z {\n ~${x} 1;\n }\n}\n')
    config = read(str(tmp_path / 'nginx.conf'))
    confirm(config, str(tmp_path / 'front.conf'))
    with pytest.raises(Failed, match='front.conf:3: this statement is not understood'):
        confirm(config, '')


def test_lua_that_crossplane_does_not_understand(tmp_path: pathlib.Path) -> None:
    """A lone brace in a long Lua string: refused, with the line, rather than half understood."""
    (tmp_path / 'nginx.conf').write_text('http {\n  init_by_lua_block {\n x = [[ { ]]\n }\n  server { listen 443; }\n}\n')
    with pytest.raises(Failed, match=r'nginx.conf:\d+: '):
        confirm(read(str(tmp_path / 'nginx.conf')), '')


def test_includes(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'sites').mkdir()
    (tmp_path / 'nginx.conf').write_text('http { include sites/*; server { include "listen.inc"; } server { include listen.inc; } }')
    (tmp_path / 'listen.inc').write_text('listen 443;')
    (tmp_path / 'sites' / 'b').write_text('server { listen 1; }')
    (tmp_path / 'sites' / 'a').write_text('server { listen 2; }')
    (tmp_path / 'sites' / '.hidden').write_text('broken')
    config = read(str(tmp_path / 'nginx.conf'))
    found = [(place.path, place.context, place.statement.arguments) for place in config.places() if place.statement.name == 'listen']
    assert found == [
        (str(tmp_path / 'sites' / 'a'), ('http', 'server'), ['2']),
        (str(tmp_path / 'sites' / 'b'), ('http', 'server'), ['1']),
        (str(tmp_path / 'listen.inc'), ('http', 'server'), ['443']),
        (str(tmp_path / 'listen.inc'), ('http', 'server'), ['443']),
    ]


def test_missing_include(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'nginx.conf').write_text('events {}\ninclude gone.conf;')
    with pytest.raises(Failed, match=r'nginx.conf:2: .*gone.conf'):
        read(str(tmp_path / 'nginx.conf'))


def test_large_file(tmp_path: pathlib.Path) -> None:
    server = 'server { listen 443 ssl; server_name %d.example; location / { return 200 "%s"; } }\n'
    (tmp_path / 'nginx.conf').write_text('http {\n' + ''.join(server % (number, 'x' * 40) for number in range(5000)) + '}\n')
    assert (tmp_path / 'nginx.conf').stat().st_size > 510 * 1024
    config = read(str(tmp_path / 'nginx.conf'))
    assert sum(place.statement.name == 'listen' for place in config.places()) == 5000


@pytest.mark.parametrize('text', ['include nginx.conf;', 'include a.conf;', 'http { include a*.conf; }'])
def test_include_without_end(text: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / 'nginx.conf').write_text(text)
    (tmp_path / 'a.conf').write_text('events { }\ninclude nginx.conf;')
    with pytest.raises(Failed, match='include one another without end'):
        read(str(tmp_path / 'nginx.conf'))


def test_chain_of_includes(tmp_path: pathlib.Path) -> None:
    for number in range(2000):
        (tmp_path / ('%d.conf' % number)).write_text('include %d.conf;' % (number + 1))
    with pytest.raises(Failed, match='include one another without end'):
        read(str(tmp_path / '0.conf'))


def test_deep_nesting() -> None:
    with pytest.raises(Failed, match='nginx.conf:2: more than 100 blocks in one another'):
        parse(b'http {' * 100 + b'\n' + b'location / {' * 100_000)


@pytest.mark.parametrize('text', [b'[[', b'--[[', b'--[==[ ]=] ', b'[=[ { ]]'])
def test_long_lua_string_without_end(text: bytes) -> None:
    """A megabyte of them is looked at once, not once for each."""
    with pytest.raises(Failed, match='in the Lua block has no end'):
        parse(b'init_by_lua_block {' + text * 500_000 + b'}')


@pytest.mark.parametrize(
    ('pattern', 'expected'),
    [
        ('s/[^x]*', ['a', 'b[']),
        ('s/[!x]*', ['a', 'b[']),
        ('s/[[:alpha:]]*', ['a', 'b[', 'x']),
        ('s/?\\[', ['b[']),
        ('s/*', ['a', 'b[', 'x']),
        ('s/.*', ['.', '..', '.hidden']),
        ('t/*', []),
    ],
)
def test_included_files_are_those_of_glob_3(tmp_path: pathlib.Path, pattern: str, expected: list[str]) -> None:
    (tmp_path / 's').mkdir()
    for name in ('a', 'b[', 'x', '.hidden'):
        (tmp_path / 's' / name).touch()
    found = included_files(str(tmp_path / 'nginx.conf'), pattern)
    assert [os.path.basename(path) for path in found] == expected


@pytest.mark.parametrize(
    ('pattern', 'path', 'matches'),
    [
        ('[^x]*.conf', 'front.conf', True),
        ('[^f]*.conf', 'front.conf', False),
        ('*', 'front.conf', True),
        ('s/*', 'front.conf', False),
        ('.*', 'front.conf', False),
        ('s/*', 's/new/backup', True),  # nginx would meet the directory `new`
    ],
)
def test_is_included(pattern: str, path: str, matches: bool) -> None:
    assert is_included('/etc/nginx/nginx.conf', pattern, '/etc/nginx/' + path) is matches
