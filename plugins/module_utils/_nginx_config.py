# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading nginx's configuration: a lexer says which bytes mean what, and before anything is changed crossplane has to see the same.

PRIVATE to the collection, may change at any time.
"""

from __future__ import annotations

import ctypes
import functools
import ipaddress
import os
import re
import traceback
import typing as t

from ansible_collections.seamless.tls_alpn.plugins.module_utils import _spans
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed, RealPaths

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
# Each token takes the blanks behind it along.
_TOKEN = re.compile(
    rb'(?:(?P<comment>#[^\n]*)|(?P<mark>[;{}])|(?P<quoted>"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\')|(?P<bare>(?:[^ \t\r\n;{\\$]+|\\.|\$\{*)+))[ \t\r\n]*',
    re.S,
)
_BLANK = re.compile(rb'[ \t\r\n]*')
_ESCAPE = re.compile(rb'\\(["\'\\trn])')
_ESCAPED = {b't': b'\t', b'r': b'\r', b'n': b'\n'}
# In Lua a brace counts outside of comments and strings; the long ones of both begin alike (ngx_http_lua_lex.c).
_LUA = re.compile(rb'(?:--)?\[(?P<level>=*)\[|--[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|(?P<brace>[{}])', re.S)
_DEEPEST = 100  # blocks, or includes, in one another; nobody has that many, and Python could not follow without end


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


@functools.lru_cache(maxsize=10000)  # most words are everywhere the same
def _value(raw: bytes, quoted: bool) -> str:
    raw = raw[1:-1] if quoted else raw
    if b'\\' in raw:
        raw = _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), raw)
    return raw.decode('utf-8', 'surrogateescape')


def _end_of_lua(data: bytes, begin: int) -> int:
    depth = 1
    position = begin
    while True:
        match = _LUA.search(data, position)
        if match is None:
            raise ValueError('the Lua block has no end')
        position = match.end()
        if match['level'] is not None:
            end = b']%s]' % match['level']
            position = data.find(end, position) + len(end)
            if position < len(end):
                raise ValueError('a long string or comment in the Lua block has no end')
        elif match['brace']:
            depth += 1 if match['brace'] == b'{' else -1
            if not depth:
                return position


def parse(data: bytes, path: str = 'nginx.conf') -> list[Statement]:
    """Give the statements of one file; raise Failed (file:line) where nginx would find no syntax in it."""

    def failed(offset: int, problem: str) -> Failed:
        return Failed('%s:%d: %s' % (path, _spans.line_of(data, offset), problem))

    statements: list[Statement] = []
    stack: list[tuple[list[Word], int, list[Statement]]] = []
    words: list[Word] = []
    line = 1  # of the first of the words, which begins at `counted`
    counted = 0
    position = _BLANK.match(data).end()  # type: ignore[union-attr]
    while position < len(data):
        match = _TOKEN.match(data, position)
        if match is None:
            raise failed(position, 'a quoted word has no end')
        begin, position = position, match.end()
        kind = match.lastgroup or ''
        if kind == 'comment':
            continue
        if kind != 'mark':
            if kind == 'bare' and data[begin] in b'"\'':
                raise failed(begin, 'a quoted word has no end')
            if not words:
                line += data.count(b'\n', counted, begin)
                counted = begin
            end = match.end(kind)
            words.append(Word(_value(data[begin:end], kind == 'quoted'), begin, end))
        elif match['mark'] == b'}':
            if words or not stack:
                raise failed(begin, 'unexpected "}"')
            opened, number, outer = stack.pop()
            outer.append(Statement(opened, opened[0].begin, begin + 1, number, statements, begin))
            statements = outer
        elif not words:
            raise failed(begin, 'unexpected "%s"' % match['mark'].decode())
        elif match['mark'] == b';':
            statements.append(Statement(words, words[0].begin, begin + 1, line, None))
            words = []
        elif words[0].value.endswith('_by_lua_block'):
            try:
                end = _end_of_lua(data, begin + 1)
            except ValueError as error:
                raise failed(begin, str(error)) from error
            statements.append(Statement(words, words[0].begin, end, line, None))
            words = []
            position = _BLANK.match(data, end).end()  # type: ignore[union-attr]
        elif len(stack) == _DEEPEST:
            raise failed(words[0].begin, 'more than %d blocks in one another' % _DEEPEST)
        else:
            stack.append((words, line, statements))
            words, statements = [], []
    if words or stack:
        last = words or stack[-1][0]
        raise failed(last[0].begin, '"%s" has no end' % last[0].value)
    return statements


class Address(t.NamedTuple):
    """What a `listen` says of its address: host as written ('' for all IPv4), port; ``last`` is the end of a port range."""

    host: str
    port: int
    last: int

    def covers(self, port: int) -> bool:
        return self.port <= port <= self.last


@functools.lru_cache(maxsize=1000)
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


class Config:
    """All files that nginx reads from ``main``, each with its bytes, and which files each include names (by its argument, since nginx
    looks from the main file's directory wherever the include stands).
    """

    def __init__(self, main: str, data: dict[str, bytes], includes: dict[str, list[str]]) -> None:
        self.main = main
        self.data = data
        self.includes = includes
        self._statements: dict[str, list[Statement]] = {}
        self._starts: dict[str, set[int]] = {}
        self._real = RealPaths()

    def statements(self, path: str) -> list[Statement]:
        """Give the statements of one of the files."""
        if path not in self._statements:
            self._statements[path] = parse(self.data[path], path)
        return self._statements[path]

    def all_statements(self, path: str) -> t.Iterator[Statement]:
        """Give the statements of one of the files, and those in their blocks."""
        return _flat(self.statements(path))

    def starts(self, path: str) -> set[int]:
        """Give where the statements of one of the files begin."""
        if path not in self._starts:
            self._starts[path] = {statement.begin for statement in self.all_statements(path)}
        return self._starts[path]

    def real(self, path: str) -> str:
        """Give the real path of one of the files."""
        return self._real[path]

    @functools.cached_property
    def real_data(self) -> dict[str, bytes]:
        """The bytes of each file by its real path."""
        return {self.real(path): data for path, data in self.data.items()}

    def places(self, *names: str) -> list[Place]:
        """Give the statements with these names (all, if there are none), of each name in the order in which nginx meets them, through
        includes (a file included twice comes twice).
        """
        return [place for name in names or self._index for place in self._index.get(name, [])]

    def outermost(self, name: str) -> list[Place]:
        """Give the statements with this name outside of all blocks; they are found without looking into the sites."""
        found: list[Place] = []
        self._collect(self.main, self.statements(self.main), (), found, into=False)
        return [place for place in found if place.statement.name == name]

    @functools.cached_property
    def _index(self) -> dict[str, list[Place]]:
        found: list[Place] = []
        self._collect(self.main, self.statements(self.main), (), found)
        index: dict[str, list[Place]] = {}
        for place in found:
            index.setdefault(place.statement.name, []).append(place)
        return index

    def with_files(self, files: t.Mapping[str, bytes]) -> Config:
        """Give the configuration as it would be with other bytes in some files."""
        config = Config(self.main, {**self.data, **files}, self.includes)
        config._real = self._real
        config._statements = {path: statements for path, statements in self._statements.items() if path not in files}
        return config

    def _collect(self, path: str, statements: list[Statement], blocks: tuple[Statement, ...], found: list[Place], into: bool = True) -> None:
        for statement in statements:
            found.append(Place(path, statement, blocks))
            if statement.block:
                if into:
                    self._collect(path, statement.block, (*blocks, statement), found)
            elif statement.name == 'include' and statement.block is None:
                for included in self.includes.get(statement.words[1].value, []):
                    self._collect(included, self.statements(included), blocks, found, into)


def _flat(statements: list[Statement]) -> t.Iterator[Statement]:
    for statement in statements:
        yield statement
        if statement.block:
            yield from _flat(statement.block)


def includes(data: bytes, path: str) -> list[Statement]:
    """Give the `include` directives of a file; raise Failed as L(parse) does."""
    if b'include' not in data:  # most files, and parsing takes time
        return []
    found = [statement for statement in _flat(parse(data, path)) if statement.name == 'include' and statement.block is None]
    for statement in found:
        if len(statement.words) != 2:
            raise Failed('%s:%d: include takes one file or pattern' % (path, statement.line))
    return found


def read(main: str) -> Config:
    """Read the configuration that begins with the file ``main`` (raises Failed: a file is missing, or not understood)."""
    config = Config(main, {}, {})

    def follow(path: str, at: str, above: tuple[str, ...]) -> None:
        if path in above or len(above) > _DEEPEST:
            raise Failed('%s: the files include one another without end' % at)
        if path not in config.data:
            try:
                with open(path, 'rb') as stream:
                    config.data[path] = stream.read()
            except OSError as error:
                raise Failed('%s: %s: %s' % (at, path, error.strerror)) from error
        for statement in includes(config.data[path], path):
            pattern = statement.arguments[0]
            config.includes[pattern] = included_files(main, pattern)
            for included in config.includes[pattern]:
                follow(included, '%s:%d' % (path, statement.line), (*above, path))

    follow(main, main, ())
    return config


def included_files(main: str, pattern: str) -> list[str]:
    """Give the files that an include names, as nginx finds them: relative to the main file's directory, sorted (glob(3))."""
    path = os.path.join(os.path.dirname(main), pattern)
    return _glob(path) if re.search(r'[*?\[]', pattern) else [path]


class _Found(ctypes.Structure):
    """glob_t (glob(3)), with more than enough room for what else a C library keeps in it."""

    _fields_ = [('count', ctypes.c_size_t), ('paths', ctypes.POINTER(ctypes.c_char_p)), ('offset', ctypes.c_size_t), ('rest', ctypes.c_char * 256)]


def _glob(pattern: str) -> list[str]:
    """Give what glob(3) gives, which is what nginx asks (ngx_files.c); Python's own takes `[^`, `[[:alpha:]]` and a backslash otherwise."""
    found = _Found()
    library = ctypes.CDLL(None)
    library.glob(os.fsencode(pattern), 0, None, ctypes.byref(found))
    try:
        return [os.fsdecode(found.paths[number]) for number in range(found.count)]
    finally:
        library.globfree(ctypes.byref(found))


def is_included(main: str, pattern: str, path: str) -> bool:
    """Whether an include with this pattern might name ``path`` or a directory that is made on the way there; `*` takes `/` here (fnmatch(3))."""
    words = (os.fsencode(word) for word in (os.path.join(os.path.dirname(main), pattern), path))
    return bool(ctypes.CDLL(None).fnmatch(*words, 0) == 0)


def _is_same(ours: str, theirs: str) -> bool:
    """Whether both readers mean the same name; crossplane leaves escapes in it as they are (keys of a `map` have some)."""
    return ours.encode('utf-8', 'surrogateescape').decode('utf-8', 'replace') in (theirs, _value(theirs.encode(), False))


def _compare(path: str, ours: list[Statement], theirs: list[dict[str, t.Any]]) -> None:
    theirs = [statement for statement in theirs if statement['directive'] != '#']  # comments between words are there even so
    for number in range(max(len(ours), len(theirs))):
        one = ours[number] if number < len(ours) else None
        other = theirs[number] if number < len(theirs) else None
        if one is None or other is None or not _is_same(one.name, other['directive']):
            at = one.line if one is not None else other['line'] if other is not None else 0
            raise Failed('%s:%d: this statement is not understood; please report it with the lines around it' % (path, at))
        if one.block is not None:
            _compare(path, one.block, other.get('block', []))


def confirm(config: Config, front: str) -> None:
    """Raise Failed unless crossplane sees the same statements in every file of the operator's, since else neither reader is to be trusted.

    The front's own file is left out: its comments are megabytes where there are thousands of sites. crossplane's checks are off (its
    tables are older than today's nginx).
    """
    for path in config.data:
        if path == front:
            continue
        payload = crossplane.parse(path, single=True, comments=False, check_ctx=False, check_args=False)
        for error in payload['errors']:
            raise Failed('%s:%s: %s' % (error['file'], error['line'] or 0, error['error']))
        _compare(path, config.statements(path), payload['config'][0]['parsed'])
