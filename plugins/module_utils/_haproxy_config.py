# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading HAProxy's configuration, line by line as HAProxy does, with the place of every word.

PRIVATE to the collection, may change at any time.

"Manual" below is HAProxy's configuration manual (configuration.txt) of 2.6.
"""

from __future__ import annotations

import functools
import os
import re
import typing as t

from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed

PROXIES = ('frontend', 'listen', 'backend')
# What begins a section (cfgparse.c and the files that register sections).
SECTIONS = frozenset(
    (*PROXIES, 'defaults', 'global', 'peers', 'resolvers', 'userlist', 'mailers', 'cache', 'program', 'http-errors', 'ring', 'log-forward')
    + ('fcgi-app', 'crt-store', 'traces', 'acme', 'log-profile')
)
_SPACE = b' \t\r\v\f'
_VARIABLE = re.compile(rb'\$(?:\{(?P<braced>\.?\w+)(?P<list>\[\*\])?(?:-(?P<default>[^}]*))?\}|(?P<plain>\.?\w+))')
# What stands for itself: outside of quotes, inside of weak ones, inside of strong ones.
_RUN = {b'': re.compile(rb'[^ \t\r\v\f"\'#\\]+'), b'"': re.compile(rb'[^"\\$]+'), b"'": re.compile(rb"[^']+")}
# Most lines have words that stand for themselves and nothing else.
_PLAIN = re.compile(rb'[^"\'#\\]*')
_BARE = re.compile(rb'[^ \t\r\v\f]+')
_PLAIN_ASCII = re.compile(r'[\t\r\v\f !$%&(-\[\]-~]*')  # the same, of which str.split gives the words, too
_BRANCHES = frozenset(('.if', '.elif', '.else', '.endif'))
_CONDITIONS = 1000  # more than these around one line, or branches of one, are no configuration, but would take the square of their number
_ESCAPED = {b'n': b'\n', b'r': b'\r', b't': b'\t'}
_TIME = re.compile(r'(\d+)(us|ms|s|m|h|d)?\Z')
_SECONDS = {'us': 0.000001, 'ms': 0.001, None: 0.001, 's': 1, 'm': 60, 'h': 3600, 'd': 86400}


class Word(t.NamedTuple):
    """One word of a line: its meaning (unquoted, variables expanded), where it stands (quotes included), whether it names a variable."""

    value: str
    begin: int
    end: int
    variable: bool = False


class Section(t.NamedTuple):
    """A section: its keyword, its name ('' for none), and where it begins."""

    kind: str
    name: str
    path: str
    line: int


class Line(t.NamedTuple):
    """A line that has words, and what these mean. ``guards`` holds, for each `.if` around it, the `.if`, `.elif` and `.else` lines up to
    the branch that it is in.

    ``content`` is the file's, and ``found`` the words with their places, or None where they stand for themselves.
    """

    path: str
    number: int
    begin: int
    end: int
    values: list[str]
    section: Section | None
    guards: tuple[tuple[bytes, ...], ...]
    content: bytes
    found: list[Word] | None

    @property
    def words(self) -> list[Word]:
        """The words with their places, which few lines are asked for."""
        return split(self.content, self.begin, self.end, {}) if self.found is None else self.found

    @property
    def is_header(self) -> bool:
        return self.values[0] in SECTIONS

    def __str__(self) -> str:
        return '%s:%d' % (self.path, self.number)


class Source(t.NamedTuple):
    """One `-f` of HAProxy's command line: a file, or a directory with the files that are loaded from it."""

    path: str
    files: list[str]
    directory: bool


class Config(t.NamedTuple):
    """All that HAProxy loads: its sources, their bytes, and their lines in the order in which HAProxy meets them."""

    sources: list[Source]
    data: dict[str, bytes]
    lines: list[Line]

    @property
    def sections(self) -> list[Section]:
        return [line.section for line in self.lines if line.is_header and line.section is not None]


def _escape(data: bytes, position: int) -> tuple[bytes, int]:
    """Read what a backslash at ``position`` stands for; give it and where it ends (Manual 2.2)."""
    following = data[position + 1 : position + 2]
    if following == b'x':
        digits = re.compile(rb'[0-9A-Fa-f]{2}').match(data, position + 2)
        if digits:
            return bytes([int(digits[0], 16)]), digits.end()
    if following in _ESCAPED:
        return _ESCAPED[following], position + 2
    if following and following in b'\\"\'$# \t':
        return following, position + 2
    return b'\\', position + 1


def _expand(match: re.Match[bytes], environ: t.Mapping[str, str]) -> bytes:
    name = os.fsdecode(match['braced'] or match['plain'])
    if name in environ:
        return environ[name].encode('utf-8', 'surrogateescape')
    return match['default'] or b''


def split(data: bytes, begin: int, end: int, environ: t.Mapping[str, str]) -> list[Word]:
    """Give the words of the line ``data[begin:end]`` (Manual 2.2 and 2.3; tools.c, parse_line); raise ValueError for an open quote."""
    if _PLAIN.fullmatch(data, begin, end):
        return [Word(match[0].decode('utf-8', 'surrogateescape'), match.start(), match.end()) for match in _BARE.finditer(data, begin, end)]
    words: list[Word] = []
    position, closed = begin, data.rfind(b'}', begin, end)
    while position < end:
        if data[position] in _SPACE:
            position += 1
            continue
        if data[position] == ord('#'):
            break
        start, pieces, quote, variable, many = position, [b''], b'', False, False
        while position < end:
            run = _RUN[quote].match(data, position, end)
            if run:
                pieces.append(run[0])
                position = run.end()
                continue
            character = data[position : position + 1]
            if character == quote:
                quote, position = b'', position + 1
            elif not quote and character in (b'"', b"'"):
                quote, position = character, position + 1
            elif character == b'\\':
                piece, position = _escape(data, position)
                pieces.append(piece)
            elif not quote:
                break
            else:
                match = _VARIABLE.match(data, position, end) if data[position + 1 : position + 2] != b'{' or position < closed else None
                if match:
                    variable, many = True, many or match['list'] is not None
                pieces.append(_expand(match, environ) if match else character)
                position = match.end() if match else position + 1
        if quote:
            raise ValueError('a quote has no end')
        value = b''.join(pieces)
        texts = value.split() if many else [value]
        words += [Word(text.decode('utf-8', 'surrogateescape'), start, position, variable) for text in texts]
    return words


def _set_environment(values: t.Sequence[str], environ: dict[str, str]) -> None:
    """Carry out the keywords of `global` that change the environment (Manual 3.1)."""
    if values[0] == 'setenv' and len(values) > 2 or values[0] == 'presetenv' and len(values) > 2 and values[1] not in environ:
        environ[values[1]] = values[2]
    elif values[0] == 'unsetenv':
        for name in values[1:]:
            environ.pop(name, None)
    elif values[0] == 'resetenv':
        for name in set(environ) - set(values[1:]):
            del environ[name]


def _guarded(guards: tuple[tuple[bytes, ...], ...], keyword: str, text: bytes) -> tuple[tuple[bytes, ...], ...]:
    """Give the conditions that hold after a `.if`, `.elif`, `.else` or `.endif` (Manual 2.4)."""
    if keyword == '.if' and len(guards) < _CONDITIONS:
        return (*guards, (text,))
    if not guards:
        raise ValueError('"%s" without ".if"' % keyword)
    if keyword == '.endif':
        return guards[:-1]
    if keyword == '.if' or len(guards[-1]) >= _CONDITIONS:
        raise ValueError('more than %d conditions around one line' % _CONDITIONS)
    return (*guards[:-1], (*guards[-1], text))


Environment = frozenset[tuple[str, str]]  # keeps its hash


@functools.lru_cache(maxsize=2**15)  # one run reads the same files several times: with the front, without it, as they will be
def _parse_file(path: str, content: bytes, section: Section | None, environ: Environment) -> tuple[list[Line], Section | None, Environment]:
    """Give the lines of a file that begins in this section with these variables, and in which section with which variables it ends."""
    current, lines = dict(environ), []
    guards: tuple[tuple[bytes, ...], ...] = ()
    begin = 0
    texts = content.decode('utf-8', 'surrogateescape').split('\n')
    for number, (data, text) in enumerate(zip(content.split(b'\n'), texts), 1):
        end = begin + len(data)
        try:
            found = None if _PLAIN_ASCII.fullmatch(text) else split(content, begin, end, current)
            values = text.split() if found is None else [word.value for word in found]
            if values and values[0] in _BRANCHES:
                guards = _guarded(guards, values[0], data.strip())
        except ValueError as error:
            raise Failed('%s:%d: %s' % (path, number, error)) from error
        if values:
            if values[0] in SECTIONS:
                section = Section(values[0], values[1] if len(values) > 1 else '', path, number)
            elif section is not None and section.kind == 'global':
                _set_environment(values, current)
            lines.append(Line(path, number, begin, end, values, section, guards, content, found))
        begin = end + 1
    return lines, section, environ if current == dict(environ) else frozenset(current.items())


def parse(sources: t.Sequence[Source], data: t.Mapping[str, bytes], environ: t.Mapping[str, str]) -> Config:
    """Read the configuration from its bytes; raise Failed (file:line) for what is no HAProxy syntax."""
    lines: list[Line] = []
    section: Section | None = None
    current = frozenset(environ.items())
    for path in dict.fromkeys(path for source in sources for path in source.files):
        more, section, current = _parse_file(path, data[path], section, current)
        lines += more
    return Config(list(sources), dict(data), lines)


def find_sources(paths: t.Iterable[str]) -> list[Source]:
    """Give what HAProxy loads for these `-f`: of a directory all files `*.cfg` that are not hidden, in C order (management manual, 3)."""
    sources = []
    for path in paths:
        if os.path.isdir(path):
            with os.scandir(path) as entries:
                files = [entry.path for entry in entries if entry.name.endswith('.cfg') and not entry.name.startswith('.') and entry.is_file()]
            sources.append(Source(path, sorted(files, key=os.fsencode), True))
        else:
            sources.append(Source(path, [path], False))
    return sources


def read(paths: t.Iterable[str], environ: t.Mapping[str, str]) -> Config:
    """Read the configuration that HAProxy loads for these `-f`, with these variables; raise Failed."""
    sources, data = find_sources(paths), {}
    for path in (path for source in sources for path in source.files):
        try:
            with open(path, 'rb', buffering=0) as stream:  # read at once
                data[path] = stream.read()
        except OSError as error:
            raise Failed('%s: can not be read: %s' % (path, error.strerror)) from error
    return parse(sources, data, environ)


def seconds(text: str) -> float | None:
    """Give a time of HAProxy's in seconds (Manual 2.5; without a unit they are milliseconds), or None if it is none."""
    match = _TIME.match(text)
    return int(match[1]) * _SECONDS[match[2]] if match else None
