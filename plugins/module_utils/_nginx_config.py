# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading nginx's configuration: crossplane says which files nginx reads and what they mean, a lexer says which bytes that is.

PRIVATE to the collection, may change at any time.
"""

from __future__ import annotations

import bisect
import glob
import ipaddress
import os
import re
import traceback
import typing as t

from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed

try:
    import crossplane
except ImportError:
    HAS_CROSSPLANE = False
    CROSSPLANE_ERROR: str | None = traceback.format_exc()
else:
    HAS_CROSSPLANE = True
    CROSSPLANE_ERROR = None

# The parameters of `listen` that belong to the socket, not to the virtual host (ngx_http_core_module.c, ngx_http_core_listen).
SOCKET_OPTIONS = re.compile(r'(?:(?:setfib|fastopen|backlog|rcvbuf|sndbuf|accept_filter|ipv6only|so_keepalive)=.*|deferred|bind|reuseport|multipath)\Z', re.S)
# A word is quoted or bare; in a bare one `\` takes the next byte along and `${` opens no block (ngx_conf_file.c, ngx_conf_read_token).
_TOKEN = re.compile(
    rb'[ \t\r\n]+|#[^\n]*|(?P<mark>[;{}])|(?P<double>"(?:\\.|[^"\\])*")|(?P<single>\'(?:\\.|[^\'\\])*\')|(?P<bare>(?:\\.|\$\{|[^ \t\r\n;{\\])+)',
    re.S,
)
_ESCAPE = re.compile(rb'\\(["\'\\ trn])')
_ESCAPED = {b't': b'\t', b'r': b'\r', b'n': b'\n'}
_LUA = re.compile(
    rb'--\[(?P<equal1>=*)\[.*?\](?P=equal1)\]|--[^\n]*|\[(?P<equal2>=*)\[.*?\](?P=equal2)\]|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|(?P<brace>[{}])',
    re.S,
)


class Word(t.NamedTuple):
    """One word of a statement: its meaning (unquoted) and where it stands (quotes included)."""

    value: str
    begin: int
    end: int


class Statement(t.NamedTuple):
    """A directive: its words, from where up to where it goes (with its `;` or its whole block), and its block (None: it has none).

    ``body`` is where the block's content ends, that is the offset of its `}`.
    """

    words: list[Word]
    begin: int
    end: int
    line: int
    block: list[Statement] | None
    body: int = -1

    @property
    def name(self) -> str:
        return self.words[0].value

    @property
    def arguments(self) -> list[str]:
        return [word.value for word in self.words[1:]]


class Place(t.NamedTuple):
    """A statement where nginx meets it: in which file, inside which blocks (outermost first)."""

    path: str
    statement: Statement
    blocks: tuple[Statement, ...]

    @property
    def context(self) -> tuple[str, ...]:
        return tuple(block.name for block in self.blocks)

    def __str__(self) -> str:
        return '%s:%d' % (self.path, self.statement.line)


def _value(raw: bytes, quoted: bool) -> str:
    raw = raw[1:-1] if quoted else raw
    return _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), raw).decode('utf-8', 'surrogateescape')


def _end_of_lua(data: bytes, begin: int) -> int:
    depth = 1
    for match in _LUA.finditer(data, begin):
        if match['brace']:
            depth += 1 if match['brace'] == b'{' else -1
            if not depth:
                return match.end()
    raise ValueError('the Lua block has no end')


def parse(data: bytes, path: str = 'nginx.conf') -> list[Statement]:
    """Give the statements of one file; raise Failed (file:line) where nginx would find no syntax in it."""
    starts = [0] + [match.end() for match in re.finditer(b'\n', data)]

    def line(offset: int) -> int:
        return bisect.bisect_right(starts, offset)

    statements: list[Statement] = []
    stack: list[tuple[list[Word], list[Statement]]] = []
    words: list[Word] = []
    position = 0
    while position < len(data):
        match = _TOKEN.match(data, position)
        if match is None:
            raise Failed('%s:%d: a quoted word has no end' % (path, line(position)))
        position = match.end()
        kind = match.lastgroup
        if kind is None:
            continue
        if kind == 'bare' and match[0][:1] in b'"\'':
            raise Failed('%s:%d: a quoted word has no end' % (path, line(match.start())))
        if kind != 'mark':
            words.append(Word(_value(match[0], kind != 'bare'), match.start(), match.end()))
        elif match[0] == b'}':
            if words or not stack:
                raise Failed('%s:%d: unexpected "}"' % (path, line(match.start())))
            opened, outer = stack.pop()
            outer.append(Statement(opened, opened[0].begin, match.end(), line(opened[0].begin), statements, match.start()))
            statements = outer
        elif not words:
            raise Failed('%s:%d: unexpected "%s"' % (path, line(match.start()), match[0].decode()))
        elif match[0] == b';':
            statements.append(Statement(words, words[0].begin, match.end(), line(words[0].begin), None))
            words = []
        elif words[0].value.endswith('_by_lua_block'):
            try:
                position = _end_of_lua(data, match.end())
            except ValueError as error:
                raise Failed('%s:%d: %s' % (path, line(match.start()), error)) from error
            statements.append(Statement(words, words[0].begin, position, line(words[0].begin), None))
            words = []
        else:
            stack.append((words, statements))
            words, statements = [], []
    if words or stack:
        last = words or stack[-1][0]
        raise Failed('%s:%d: "%s" has no end' % (path, line(last[0].begin), last[0].value))
    return statements


class Address(t.NamedTuple):
    """What a `listen` says of its address: host as written ('' for all IPv4), port; ``last`` is the end of a port range."""

    host: str
    port: int
    last: int

    def covers(self, port: int) -> bool:
        return self.port <= port <= self.last


def parse_address(word: str) -> Address | None:
    """Read the address of an http `listen` (ngx_inet.c, ngx_parse_url); None for a unix socket or what is no address."""
    match = re.fullmatch(r'(?:(?P<host>\[[^\]]+\]|[^:\[\]]+):)?(?P<port>\d+)(?:-(?P<last>\d+))?|(?P<alone>\[[^\]]+\]|[^:\[\]/]+)', word)
    if match is None or word.startswith('unix:'):
        return None
    host = match['host'] or match['alone'] or ''
    port = int(match['port'] or 80)
    return Address('' if host == '*' else host.lower(), port, int(match['last'] or port))


def public_key(host: str, resolve: t.Callable[[str], str]) -> str:
    """Give the one spelling of a host by which equal addresses are recognised: '0.0.0.0', '::', an address, or what a name resolves to."""
    if not host:
        return '0.0.0.0'
    try:
        return str(ipaddress.ip_address(host.strip('[]')))
    except ValueError:
        return resolve(host)


class Config(t.NamedTuple):
    """All files that nginx reads from ``main``, each with its bytes and statements, and which files each include names (by its argument,
    since nginx looks from the main file's directory wherever the include stands).
    """

    main: str
    data: dict[str, bytes]
    parsed: dict[str, list[Statement]]
    includes: dict[str, list[str]]

    def places(self) -> t.Iterator[Place]:
        """Give every statement in the order in which nginx meets them, through includes (a file included twice comes twice)."""
        return self._walk(self.main, self.parsed[self.main], ())

    def with_files(self, files: t.Mapping[str, bytes]) -> Config:
        """Give the configuration as it would be with other bytes in some files."""
        return self._replace(data={**self.data, **files}, parsed={**self.parsed, **{path: parse(data, path) for path, data in files.items()}})

    def _walk(self, path: str, statements: list[Statement], blocks: tuple[Statement, ...]) -> t.Iterator[Place]:
        for statement in statements:
            yield Place(path, statement, blocks)
            if statement.block is not None:
                yield from self._walk(path, statement.block, (*blocks, statement))
            elif statement.name == 'include':
                for included in self.includes.get(statement.words[1].value, []):
                    yield from self._walk(included, self.parsed[included], blocks)


def _is_same(ours: str, theirs: str) -> bool:
    """Whether both readers mean the same name; crossplane leaves escapes in it as they are (keys of a `map` have some)."""
    return ours.encode('utf-8', 'surrogateescape').decode('utf-8', 'replace') in (theirs, _value(theirs.encode(), False))


def _agree(path: str, ours: list[Statement], theirs: list[dict[str, t.Any]]) -> t.Iterator[tuple[Statement, dict[str, t.Any]]]:
    """Go through what both readers found, side by side; raise Failed where they differ, since then neither is to be trusted."""
    theirs = [statement for statement in theirs if statement['directive'] != '#']  # comments between words are there even so
    for number in range(max(len(ours), len(theirs))):
        one = ours[number] if number < len(ours) else None
        other = theirs[number] if number < len(theirs) else None
        if one is None or other is None or not _is_same(one.name, other['directive']):
            at = one.line if one is not None else other['line'] if other is not None else 0
            raise Failed('%s:%d: this statement is not understood; please report it with the lines around it' % (path, at))
        yield one, other
        if one.block is not None:
            yield from _agree(path, one.block, other.get('block', []))


def read(main: str) -> Config:
    """Read the configuration that begins with the file ``main`` (raises Failed: a file is missing, or not understood).

    crossplane's checks are off (its tables are older than today's nginx), and `combine` is, since it names wrong files.
    """
    payload = crossplane.parse(main, comments=False, combine=False, check_ctx=False, check_args=False)
    for error in payload['errors']:
        raise Failed('%s:%s: %s' % (error['file'], error['line'] or 0, error['error']))
    names = [entry['file'] for entry in payload['config']]
    config = Config(main, {}, {}, {})
    for entry in payload['config']:
        path = entry['file']
        with open(path, 'rb') as stream:
            config.data[path] = stream.read()
        config.parsed[path] = parse(config.data[path], path)
        for ours, theirs in _agree(path, config.parsed[path], entry['parsed']):
            if ours.name == 'include':
                config.includes[ours.words[1].value] = [names[index] for index in theirs['includes']]
    return config


def included_files(main: str, pattern: str) -> list[str]:
    """Give the files that an include names, as nginx finds them: relative to the main file's directory, sorted (glob(3))."""
    path = os.path.join(os.path.dirname(main), pattern)
    return sorted(glob.glob(path)) if re.search(r'[*?\[]', pattern) else [path]
