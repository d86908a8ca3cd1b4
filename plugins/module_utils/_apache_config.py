# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading Apache httpd's configuration: what it means from httpd itself, where it stands from the files' own bytes.

PRIVATE to the collection, may change at any time.

httpd is the parser. Its dumps (`httpd -t -D DUMP_INCLUDES`, and DUMP_CONFIG of mod_info) tell which files it reads and give every
directive that is in force with file and line: conditions are decided, variables and macros expanded. Only the line syntax is known
here (ap_cfg_getline: a line that ends in a backslash goes on in the next), to find a directive's bytes in its file.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import re
import typing as t

from ansible_collections.seamless.tls_alpn.plugins.module_utils import _process
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed

FRONT = 'seamless-tls-alpn.conf'
_PLACES = ('conf-enabled', 'conf.d')  # where Debian and RedHat keep what is neither a module nor a site


class Directive(t.NamedTuple):
    """One directive in force. ``name`` is in lower case, a section's begins with "<"; ``line`` is the last of its lines in ``file``."""

    name: str
    arguments: list[str]
    file: str
    line: int
    children: list[Directive]

    def find(self, name: str) -> list[Directive]:
        """Give the directives of this name directly in this section."""
        return [child for child in self.children if child.name == name]

    def last(self, name: str) -> list[str]:
        """Give the arguments of the directive of this name that counts (the last), or an empty list."""
        return next((child.arguments for child in reversed(self.children) if child.name == name), [])


class Line(t.NamedTuple):
    """A line as httpd reads it: its bytes without white space around them, and the number (from 1) of its last physical line."""

    begin: int
    end: int
    number: int
    depth: int


class Include(t.NamedTuple):
    """A file that httpd reads, and the line of the file that includes it."""

    parent: str
    line: int
    path: str


class Config(t.NamedTuple):
    """What httpd reads: its main file, the content of each file (by real path), the includes in order, the directives in force.

    ``front`` is where the collection's own file belongs; ``includes_front`` tells whether the main file has an include that reads it.
    """

    main: str
    root: str
    pid_path: str
    data: dict[str, bytes]
    includes: list[Include]
    server: Directive
    modules: list[str]
    front: str
    includes_front: bool


def words(text: str) -> list[str]:
    """Split a directive's text as ap_getword_conf does: at white space, with quotes and backslashes in them."""
    found = []
    for match in re.finditer(r'"((?:\\.|[^"\\])*)"|\'((?:\\.|[^\'\\])*)\'|(\S+)', text):
        quoted = match[1] if match[1] is not None else match[2]
        found.append(match[3] if quoted is None else re.sub(r'\\(["\'\\])', r'\1', quoted))
    return found


def quoted(path: str) -> bytes:
    """Give a path as an argument (ap_getword_conf)."""
    return b'"%s"' % os.fsencode(path).replace(b'\\', b'\\\\').replace(b'"', b'\\"')


def parse_directives(dump: str) -> Directive:
    """Read what `-D DUMP_CONFIG` prints into a tree. Depth is told by the indent alone, since an empty section has no end there."""
    file, line = '', 0
    server = Directive('', [], '', 0, [])
    path = [server]
    for row in dump.splitlines():
        place = re.match(r'# In file: (.*)$', row)
        number = re.match(r' *# *(\d+):$', row)
        text = row.strip()
        if place:
            file = place[1]
        elif number:
            line = int(number[1])
        elif file and text and not text.startswith(('</', '#')):
            depth = (len(row) - len(row.lstrip(' '))) // 2
            if text.startswith('<') and text.endswith('>'):
                text = text[:-1]
            name, dummy, rest = text.partition(' ')
            directive = Directive(name.lower(), words(rest), file, line, [])
            del path[depth + 1 :]
            path[-1].children.append(directive)
            path.append(directive)
    return server


def parse_includes(dump: str) -> tuple[str, list[Include]]:
    """Read what `-D DUMP_INCLUDES` prints: the main file, and its includes in the order in which httpd reads them; raise Failed."""
    main, includes = '', []
    parents: list[str] = []
    for row in dump.splitlines():
        found = re.match(r'( +)\((\*|\d+)\) (.*)$', row)
        if not found:
            continue
        depth = len(found[1]) // 2 - 1
        if found[2] == '*':
            main = found[3]
        elif not 0 < depth <= len(parents):
            raise Failed('Apache lists the files that it includes in a way that is not understood: "%s"' % row)
        else:
            includes.append(Include(parents[depth - 1], int(found[2]), found[3]))
        parents[depth:] = [found[3]]
    return main, includes


def _stripped(text: bytes) -> bytes:
    """Take white space and continued line ends from the end of a line."""
    end = len(text)
    while True:
        stop = end
        while end and text[end - 1] in b' \t\n\r\v\f':
            end -= 1
        if text[end - 1 : end] != b'\\' or not text[end:stop].startswith((b'\n', b'\r\n')):
            return text[:end]
        end -= 1


def scan(data: bytes) -> t.Iterator[Line]:
    """Give the lines that httpd reads in a file: no empty ones, no comments; those that end in a backslash joined with the next."""
    depth, position, number = 0, 0, 0
    while position < len(data):
        begin = position
        while True:
            newline = data.find(b'\n', position)
            end = len(data) if newline < 0 else newline
            position = end + 1
            number += 1
            if data[end - 1 : end] == b'\r' and newline >= 0:
                end -= 1
            if data[end - 1 : end] != b'\\' or end <= begin or newline < 0:
                break
        text = data[begin:end]
        begin += len(text) - len(text.lstrip())
        text = _stripped(text.lstrip())
        end = begin + len(text)
        if text and not text.startswith(b'#'):
            if text.startswith(b'</'):
                depth -= 1
            yield Line(begin, end, number, depth)
            if text.startswith(b'<') and not text.startswith(b'</'):
                depth += 1


@functools.cache
def lines(data: bytes) -> tuple[Line, ...]:
    """Give all that L(scan) gives."""
    return tuple(scan(data))


@functools.cache
def _by_number(data: bytes) -> dict[int, Line]:
    return {line.number: line for line in lines(data)}


def text_of(data: bytes, line: Line) -> str:
    """Give the text of a line, joined where it was continued."""
    return re.sub(r'\\\r?\n', '', data[line.begin : line.end].decode('utf-8', 'surrogateescape'))


def include_lines(data: bytes) -> list[Line]:
    """Give the lines that include files, whether in force or not."""
    return [line for line in lines(data) if re.match(rb'include(optional)?\s', data[line.begin : line.end], re.I)]


def locate(config: Config, directive: Directive) -> tuple[str, Line]:
    """Give the real path and the line in which a directive stands; raise Failed where there is none (a macro), or another one."""
    real = os.path.realpath(directive.file)
    found = _by_number(config.data.get(real, b'')).get(directive.line)
    if found is None or words(text_of(config.data[real], found).lower())[:1] != [directive.name]:
        raise Failed(
            '%s:%d: "%s" can not be edited where it stands; add acme-tls/1 to Protocols there by hand'
            % (directive.file, directive.line, ' '.join([directive.name, *directive.arguments]))
        )
    return real, found


def _front_place(main: str, root: str, data: bytes) -> tuple[str, bool]:
    """Give where our file belongs: where an include of the main file reads it, or beside the main file."""
    directories = []
    for line in include_lines(data):
        pattern = os.path.join(root, words(text_of(data, line))[-1])
        directory, name = os.path.split(pattern)
        if line.depth == 0 and name != FRONT and fnmatch.fnmatch(FRONT, name) and os.path.isdir(directory):
            directories.append(os.path.realpath(directory))
    directories.sort(key=lambda directory: os.path.basename(directory) not in _PLACES)
    if directories:
        return os.path.join(directories[0], FRONT), True
    return os.path.join(os.path.realpath(os.path.dirname(main)), FRONT), False


def modules_directory(root: str, data: t.Iterable[bytes]) -> str | None:
    """Give the directory of loadable modules, from the first LoadModule (mod_so's manual: relative to ServerRoot)."""
    for content in data:
        found = re.search(rb'^\s*LoadModule\s+\w+\s+"?([^"\s]+)/[^/"\s]+\.so', content, re.M | re.I)
        if found:
            return os.path.join(root, os.fsdecode(found[1]))
    return None


def _dump(run: _process.Run, argv: t.Sequence[str], *dumps: str) -> str:
    code, out, err = run([*argv, '-t', *[word for dump in dumps for word in ('-D', dump)]])
    if code:
        raise Failed('Apache does not accept the configuration: %s' % err.strip())
    return out


def read(run: _process.Run, argv: t.Sequence[str]) -> Config:
    """Read the configuration that the command ``argv`` (with its options) would serve; raise Failed."""
    out = _dump(run, argv, 'DUMP_INCLUDES', 'DUMP_RUN_CFG', 'DUMP_MODULES')
    main, includes = parse_includes(out)
    settings = dict(re.findall(r'^(ServerRoot|PidFile): "(.*)"$', out, re.M))
    root = settings['ServerRoot'].rstrip('/') or '/'
    data = {}
    for path in [main, *[include.path for include in includes]]:
        if os.path.isfile(path):  # not: what a macro includes
            with open(path, 'rb') as stream:
                data[os.path.realpath(path)] = stream.read()
    directory = modules_directory(root, data.values())
    info = os.path.join(directory, 'mod_info.so') if directory else ''
    dump = _dump(run, [*argv, '-C', 'LoadModule info_module "%s"' % info] if os.path.exists(info) else argv, 'DUMP_CONFIG')
    if '# In file: ' not in dump:
        raise Failed('%s: mod_info, which dumps the configuration, is not there; install it' % (info or 'mod_info.so'))
    front, includes_front = _front_place(main, root, data[os.path.realpath(main)])
    modules = re.findall(r'^ (\w+)_module \(', out, re.M)
    return Config(main, root, os.path.join(root, settings['PidFile']), data, includes, parse_directives(dump), modules, front, includes_front)
