# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Deciding what nginx's front looks like: a configuration and wishes go in, stages of file contents come out. Pure.

PRIVATE to the collection, may change at any time.
"""

from __future__ import annotations

import functools
import os
import re
import typing as t

from ansible_collections.seamless.tls_alpn.plugins.module_utils import _spans
from ansible_collections.seamless.tls_alpn.plugins.module_utils._nginx_config import (
    SOCKET_OPTIONS,
    Address,
    Config,
    Place,
    Statement,
    is_included,
    parse,
    parse_address,
    public_key,
)
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed, content_of

FRONT = 'seamless-tls-alpn.conf'  # beside the main file
_META = b'# seamless.tls_alpn front: '
# Socket options that http's `listen` has had for longer than stream's (CHANGES; ngx_stream_core_module.c).
_STREAM_SINCE = {'fastopen': (1, 21, 0), 'setfib': (1, 25, 5), 'multipath': (1, 29, 7)}
# With these, nginx takes a new connection for readable as long as reading it has not failed once, and does not ask to be told when there is more; but
# ssl_preread only peeks, so that a ClientHello in two segments is never seen whole (ngx_stream_core_module.c, ngx_stream_preread_peek).
_NOT_FOR_PREREAD = ('deferred', 'accept_filter')


_HALF_CLOSE_SINCE = (1, 21, 4)  # proxy_half_close (CHANGES)


class Wanted(t.NamedTuple):
    """What the operator asks for (the module's options)."""

    https_port: int
    backend_port: int
    acme_host: str
    acme_port: int
    handoff: str


class Abilities(t.NamedTuple):
    """What this nginx can do. ``stream_module`` is the stream module's file where it is not built in."""

    version: tuple[int, ...]
    stream_pass: bool
    realip: bool
    stream_module: str | None
    loopback6: bool = True


class Public(t.NamedTuple):
    """A public listen: the one spelling of its host, the address as written, its socket options, and where it hands connections."""

    key: str
    word: str
    options: tuple[str, ...]
    proxied: bool
    backend: str
    names: tuple[str, ...]


class Listen(t.NamedTuple):
    """A `listen` that moves, for the report."""

    file: str
    line: int
    before: str
    after: str


class Base(t.NamedTuple):
    """The operator's own configuration: without our front, if there is one (then ``front`` says what stands there now)."""

    config: Config
    front: dict[str, t.Any] | None
    undone: dict[str, list[_spans.Edit]]
    warnings: list[str]


class Front(t.NamedTuple):
    """A front, decided: the edits of the operator's files (by real path), the front's own file, and what to report.

    ``endpoints`` are the loopback listens that it needs, each with what it is for (a public listen's key, or 'responder').
    """

    handoff: str
    publics: list[Public]
    edits: dict[str, list[_spans.Edit]]
    content: bytes
    listens: list[Listen]
    endpoints: dict[str, str]
    warnings: list[str]


def front_path(main: str) -> str:
    """Give the file that holds the front."""
    return os.path.join(os.path.realpath(os.path.dirname(main)), FRONT)


def with_front(config: Config) -> Config:
    """Add what the front's file names but nginx does not read (now): the file itself, sites that were disabled since."""
    missing: dict[str, bytes] = {}
    content = content_of(front_path(config.main))
    if content is not None:
        paths = [front_path(config.main), *(record.path for record in _read_records(config.main, content))]
        missing = {path: data for path in paths if path not in config.real_data for data in [content_of(path)] if data is not None}
    return config.with_files(missing) if missing else config


def base_of(config: Config) -> Base:
    """Take the front out of a configuration (with L(with_front))."""
    content = config.data.get(front_path(config.main))
    if content is None:
        return Base(config, None, {}, [])
    undone, warnings, files = {}, [], {}
    spellings: dict[str, list[str]] = {}
    for path in config.data:
        spellings.setdefault(config.real(path), []).append(path)
    for record in _read_records(config.main, content):
        paths = spellings.get(record.path, [])
        if not paths:
            warnings.append('%s: this file is not there any more' % record.path)
            continue
        data = config.data[paths[0]]
        edits, missing = _spans.undo(record, data, functools.partial(_begins_statement, config, paths[0]))
        for before, after in missing:
            edit = _undo_edited(data, list(config.all_statements(paths[0])), before, after, {edit.begin for edit in edits})
            if edit is not None:
                edits.append(edit)
            else:
                warnings.append('%s: "%s" is not there any more; what stands in its place is left' % (record.path, after.decode('utf-8', 'replace').strip()))
        # A line end that ours brought along stays where somebody has written on behind it.
        ends = {edit: re.match(rb'\r?\n' if edit.end < len(data) else b'', data[edit.begin : edit.end]) for edit in edits}
        edits = [edit._replace(begin=edit.begin + end.end()) if end and end.end() else edit for edit, end in ends.items()]
        undone[record.path] = edits
        files.update({path: _spans.apply(data, edits) for path in paths})
    base = Base(config.with_files(files), _read_meta(config.main, content), undone, warnings)
    _refuse_orphans(base)
    return base


def _refuse_orphans(base: Base) -> None:
    """Raise Failed for a `listen` that would wait for a front that is no more: in a copy of a file that was moved (`sed -i` makes one of a link)."""
    endpoints = {} if base.front is None else {endpoint.encode(): endpoint for endpoint in base.front['endpoints']}
    for path, data in base.config.data.items():
        if path == front_path(base.config.main) or not any(endpoint in data for endpoint in endpoints):
            continue
        for statement in base.config.all_statements(path):
            if statement.name == 'listen' and statement.arguments[:1] and statement.arguments[0] in endpoints.values():
                said = 'the front hands over to "%s", but did not move this listen (a copy?); give it its public address, then run this again'
                raise Failed('%s:%d: %s' % (path, statement.line, said % statement.arguments[0]))


def _begins_statement(config: Config, path: str, offset: int) -> bool:
    """Whether a statement begins there, perhaps after blanks (what we put in may begin on a line of its own)."""
    return offset + len(re.match(rb'\s*', config.data[path][offset : offset + 100])[0]) in config.starts(path)  # type: ignore[index]


@functools.lru_cache(maxsize=1)
def _read_records(main: str, content: bytes) -> list[_spans.Record]:
    try:
        return _spans.read_records(content)
    except (ValueError, KeyError, TypeError) as error:
        raise Failed('%s: a record is damaged (%s); restore the file from a backup' % (front_path(main), error)) from error


def _read_meta(main: str, content: bytes) -> dict[str, t.Any]:
    try:
        metas: list[dict[str, t.Any]] = _spans.read_comments(content, _META)
    except ValueError as error:
        raise Failed('%s: it is damaged (%s); restore it from a backup' % (front_path(main), error)) from error
    if not metas:
        raise Failed('%s: this file is not of this collection; move it away' % front_path(main))
    return metas[0]


def _undo_edited(data: bytes, statements: list[Statement], before: bytes, after: bytes, taken: set[int]) -> _spans.Edit | None:
    """Find a moved `listen` that somebody has edited since, and give it its public address and socket options back; the rest stays as edited."""
    if not before:  # a directive of ours that is indented otherwise now, or stands elsewhere
        ours = [statement for statement in statements if data[statement.begin : statement.end] == after.strip() and statement.begin not in taken]
        return _spans.Edit(ours[0].begin, ours[0].end, b'') if ours else None
    old, (new, *dummy) = parse(before)[0], parse(after)
    extras = after[new.end :]
    for statement in statements:
        if statement.name != 'listen' or statement.begin in taken or statement.arguments[:1] != new.arguments[:1]:
            continue
        words = [before[old.words[1].begin : old.words[1].end]]
        words += [data[word.begin : word.end] for word in statement.words[2:] if word.value != 'proxy_protocol' or word.value in old.arguments]
        words += [before[word.begin : word.end] for word in old.words[2:] if SOCKET_OPTIONS.match(word.value)]
        end = statement.end + (len(extras) if data.startswith(extras, statement.end) else 0)
        return _spans.Edit(statement.begin, end, b'listen ' + b' '.join(words) + b';')
    return None


class _Moved(t.NamedTuple):
    place: Place
    address: Address
    key: str


class _Settings:
    """What is set directly in each block, found through includes."""

    def __init__(self, config: Config, names: t.Collection[str]) -> None:
        self._found: dict[str, dict[tuple[int, ...], list[Place]]] = {}
        for place in config.places(*names):
            self._found.setdefault(place.statement.name, {}).setdefault(tuple(map(id, place.blocks)), []).append(place)

    def own(self, blocks: tuple[Statement, ...], name: str) -> list[Place]:
        """Give what is set in the innermost of ``blocks``."""
        return self._found[name].get(tuple(map(id, blocks)), []) if name in self._found else []

    def effective(self, blocks: tuple[Statement, ...], name: str) -> list[Place]:
        """Give what holds there: set in the block itself, or inherited."""
        if name not in self._found:
            return []
        return next((own for own in (self.own(blocks[:depth], name) for depth in range(len(blocks), -1, -1)) if own), [])


def _is_listen(place: Place, port: int) -> Address | None:
    if len(place.statement.words) < 2 or place.statement.block is not None or place.context[-1:] != ('server',):
        return None
    if {'quic', 'udp'} & set(place.statement.arguments[1:]):  # UDP stays where it is
        return None
    address = parse_address(place.statement.arguments[0])
    return address if address is not None and address.covers(port) else None


def _moved(config: Config, port: int, resolve: t.Callable[[str], str]) -> list[_Moved]:
    found = []
    for place in config.places('listen'):
        address = _is_listen(place, port)
        if address is None:
            continue
        if place.context[0] != 'http':
            raise Failed('%s: a %s server listens on port %d already; route acme-tls/1 there, or move it first' % (place, place.context[0], port))
        if address.port != address.last:
            raise Failed('%s: split this port range so that port %d has a listen of its own' % (place, port))
        found.append(_Moved(place, address, public_key(address.host, resolve)))
    if not found:
        raise Failed('%s: no http server listens on port %d, so there is nothing to put a front before' % (config.main, port))
    return found


def public_names(config: Config, port: int, resolve: t.Callable[[str], str]) -> dict[str, tuple[str, bool, list[str]]]:
    """Give the public listens as the sites have them: key -> (address as written, PROXY protocol, some names to prove it by).

    At most 10 names a listen, and '' (no SNI) first; of a wildcard one that it matches; patterns are left out.
    """
    return _names(config, _moved(config, port, resolve))


def _names(config: Config, moved: list[_Moved]) -> dict[str, tuple[str, bool, list[str]]]:
    settings = _Settings(config, ['server_name'])
    publics: dict[str, tuple[str, bool, list[str]]] = {}
    for one in moved:
        word, proxied, names = publics.get(one.key, (one.place.statement.arguments[0], False, ['']))
        for name in (name for place in settings.own(one.place.blocks, 'server_name') for name in place.statement.arguments):
            plain = 'tls-alpn-probe' + name[1:] if name.startswith('*.') else name.lstrip('.')
            if len(names) <= 10 and plain not in names and all(c.isascii() and (c.isalnum() or c in '-.') for c in plain):
                names.append(plain)
        publics[one.key] = (word, proxied or 'proxy_protocol' in one.place.statement.arguments, names)
    return publics


def _choose_handoff(wanted: str, can: Abilities, obstacle: str | None, proxied: Place | None) -> tuple[str, list[str]]:
    """Give the handoff and warnings; ``obstacle`` says why sites can't take the client's address from the PROXY protocol."""
    without = {
        'proxy_protocol': None if can.realip and obstacle is None else obstacle or 'this nginx is built without the realip module',
        'pass': None if can.stream_pass else 'stream "pass" needs nginx 1.25.5; this is %s' % '.'.join(map(str, can.version)),
        'plain': None,
    }
    if proxied is not None:
        for handoff in ('pass', 'plain'):
            without[handoff] = '%s: clients speak the PROXY protocol here, which only the handoff proxy_protocol carries on' % (proxied,)
    if wanted != 'auto':
        if without[wanted]:
            raise Failed('handoff %s is not possible: %s' % (wanted, without[wanted]))
        return wanted, []
    for handoff in ('proxy_protocol', 'pass'):
        if not without[handoff]:
            return handoff, []
    if obstacle is not None or proxied is not None:
        raise Failed('%s; and %s. Choose handoff: plain if the sites may lose the client address' % (without['proxy_protocol'], without['pass']))
    return 'plain', ['handoff plain: the sites see 127.0.0.1 as the client, since %s and %s' % (without['proxy_protocol'], without['pass'])]


def _obstacle(config: Config, moved: list[_Moved], settings: _Settings) -> str | None:
    """Say why a moved site can't take the client's address from the PROXY protocol: it takes it from elsewhere, perhaps for one location."""
    message = '%s: the client address is taken from %s already, and nginx takes it from one place only'
    for one in moved:
        headers = settings.effective(one.place.blocks, 'real_ip_header')
        trusted = settings.effective(one.place.blocks, 'set_real_ip_from')
        for header in headers:
            if header.statement.arguments != ['proxy_protocol']:
                return message % (header, header.statement.arguments[0])
        if trusted and not headers:
            return message % (trusted[0], 'X-Real-IP')  # the default (ngx_http_realip_module.c)
    servers = {tuple(map(id, one.place.blocks)) for one in moved}
    for place in config.places('real_ip_header', 'set_real_ip_from'):
        if any(tuple(map(id, place.blocks[:depth])) in servers for depth in range(2, len(place.blocks))):
            return message % (place, place.statement.arguments[0])
    return None


def _backends(moved: list[_Moved], port: int, can: Abilities) -> tuple[dict[str, tuple[str, int]], int]:
    """Give each public listen its own (host, port) on loopback, wildcards first, and the next free port."""
    keys = list(dict.fromkeys(one.key for one in moved))
    backends: dict[str, tuple[str, int]] = {}
    following = port + 1
    for key in sorted(keys, key=lambda key: (key not in ('0.0.0.0', '::'), keys.index(key))):
        host = '[::1]' if ':' in key and can.loopback6 else '127.0.0.1'
        if key == '0.0.0.0' or (key == '::' and can.loopback6):
            backends[key] = (host, port)
        else:
            backends[key] = (host, following)
            following += 1
    return backends, following


def _stream_options(options: t.Iterable[str], version: tuple[int, ...]) -> tuple[tuple[str, ...], list[str]]:
    kept: list[str] = []
    dropped: list[str] = []
    for option in dict.fromkeys(options):
        name = option.partition('=')[0]
        if name not in _NOT_FOR_PREREAD:
            (kept if version >= _STREAM_SINCE.get(name, (0,)) else dropped).append(option)
    return tuple(kept), dropped


def _directive(place: Place, data: bytes, backend: str, add: str, extras: str) -> bytes:
    """Give the bytes of a moved `listen`: another address, no socket options, perhaps one parameter more; the rest as it was."""
    statement = place.statement
    edits = [_spans.Edit(statement.words[1].begin, statement.words[1].end, backend.encode())]
    for previous, word in zip(statement.words[1:], statement.words[2:]):
        if SOCKET_OPTIONS.match(word.value):
            between = data[previous.end : word.begin]
            edits.append(_spans.Edit(previous.end if not between.strip() else word.begin, word.end, b''))
    if add and add not in statement.arguments:
        edits.append(_spans.Edit(statement.words[-1].end, statement.words[-1].end, b' ' + add.encode()))
    shifted = [_spans.Edit(edit.begin - statement.begin, edit.end - statement.begin, edit.text) for edit in edits]
    return _spans.apply(data[statement.begin : statement.end], shifted) + extras.encode('utf-8', 'surrogateescape')


def _extras(blocks: tuple[Statement, ...], settings: _Settings, handoff: str, port: int, can: Abilities) -> str:
    """Give the directives that a moved server needs beside its `listen` (nothing that it sets itself)."""
    extras = []
    # Redirects name the port that the connection came in on, unless told otherwise (ngx_http_header_filter_module.c). Where a port has
    # to be named (another public one, or one that the server has beside), they can only be relative.
    others = [parse_address(place.statement.arguments[0]) for place in settings.own(blocks, 'listen') if place.statement.arguments]
    if port != 443 or any(address is not None and address.port not in (80, port) for address in others):
        redirect = ('absolute_redirect', 'off')
    else:
        redirect = ('port_in_redirect', 'off')
    hidden = ['off'] in [place.statement.arguments for name in ('port_in_redirect', redirect[0]) for place in settings.effective(blocks, name)]
    if not hidden and not settings.own(blocks, 'port_in_redirect') and not settings.own(blocks, redirect[0]):
        extras.append(' '.join(redirect))
    if handoff == 'proxy_protocol':
        extras += ['set_real_ip_from 127.0.0.1'] + ['set_real_ip_from ::1'] * can.loopback6
        if not settings.own(blocks, 'set_real_ip_from'):  # then those from outside hold no more, which other listens of this server need
            extras += ['set_real_ip_from %s' % place.statement.arguments[0] for place in settings.effective(blocks, 'set_real_ip_from')]
        if not settings.own(blocks, 'real_ip_header'):
            extras.append('real_ip_header proxy_protocol')
    return ''.join(' %s;' % extra for extra in extras)


def _load_module(config: Config, can: Abilities) -> str | None:
    for place in config.outermost('load_module'):
        if os.path.basename(place.statement.arguments[0]) == 'ngx_stream_module.so':
            return None
    return can.stream_module


def _main_edits(config: Config, main: str, stream: Place | None, can: Abilities) -> list[tuple[str, _spans.Edit]]:
    include = os.fsencode('include %s;' % _quoted(front_path(main)))
    edits = []
    if _load_module(config, can) is not None:
        # Modules are counted at the first block; later is too late (ngx_module.c).
        first = config.statements(main)[0].begin
        load = os.fsencode('load_module %s;' % _quoted(str(can.stream_module)))
        edits.append((main, _spans.Edit(first, first, load + _spans.newline_of(config.data[main]))))
    if stream is None:
        data = config.data[main]
        newline = _spans.newline_of(data)
        edits.append((main, _spans.Edit(len(data), len(data), (b'' if data.endswith(b'\n') else newline) + include + newline)))
    else:
        data, end = config.data[stream.path], stream.statement.body
        start = data.rfind(b'\n', 0, end) + 1
        if data[start:end].strip():
            edits.append((stream.path, _spans.Edit(end, end, b' ' + include + b' ')))
        else:
            edits.append((stream.path, _spans.Edit(start, start, b'    ' + include + _spans.newline_of(data))))
    return edits


def _quoted(path: str) -> str:
    return '"%s"' % path.replace('\\', '\\\\').replace('"', '\\"') if any(character in path for character in ' \t;{}"\'\\') else path


def refuse_included(config: Config, path: str) -> None:
    """Raise Failed if an include (other than by its very name) would load a file that is about to be written, by whatever links lead there."""

    def real(name: str) -> str:
        return os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))

    for pattern in config.includes:
        whole = os.path.join(os.path.dirname(config.main), pattern)
        if pattern != path and (is_included(config.main, pattern, path) or is_included(config.main, real(whole), real(path))):
            raise Failed('include %s would load %s, too; narrow it, or choose another place' % (pattern, path))


def decide(base: Base, wanted: Wanted, can: Abilities, resolve: t.Callable[[str], str]) -> Front:
    """Decide the front for the operator's own configuration; raise Failed (file:line, and what to do) where it can't be."""
    config = base.config
    if not all(0 < port < 65536 for port in (wanted.https_port, wanted.backend_port, wanted.acme_port)):
        raise Failed('ports go from 1 to 65535; choose another https_port, backend_port or acme_port')
    refuse_included(config, front_path(config.main))
    moved = _moved(config, wanted.https_port, resolve)
    settings = _Settings(config, ['listen', 'port_in_redirect', 'absolute_redirect', 'real_ip_header', 'set_real_ip_from'])
    proxied = next((one.place for one in moved if 'proxy_protocol' in one.place.statement.arguments), None)
    handoff, warnings = _choose_handoff(wanted.handoff, can, _obstacle(config, moved, settings), proxied)
    backends, following = _backends(moved, wanted.backend_port, can)
    endpoints = {'%s:%d' % backend: key for key, backend in backends.items()}
    if handoff != 'plain':
        endpoints['127.0.0.1:%d' % following] = 'responder'
    _refuse_taken(config, wanted, endpoints)

    edits: dict[str, dict[int, tuple[_spans.Edit, Place]]] = {}
    listens: dict[Listen, None] = {}  # in order, each once
    extended: set[tuple[int, ...]] = set()
    for one in moved:
        server = tuple(map(id, one.place.blocks))
        known = edits.setdefault(config.real(one.place.path), {})
        earlier = known.get(one.place.statement.begin)
        if earlier is not None and tuple(map(id, earlier[1].blocks)) == server:
            continue  # a file that nginx includes twice
        extras = '' if server in extended else _extras(one.place.blocks, settings, handoff, wanted.https_port, can)
        extended.add(server)
        statement, data = one.place.statement, config.data[one.place.path]
        backend = '%s:%d' % backends[one.key]
        text = _directive(one.place, data, backend, 'proxy_protocol' if handoff == 'proxy_protocol' else '', extras)
        edit = _spans.Edit(statement.begin, statement.end, text)
        if known.setdefault(statement.begin, (edit, one.place))[0] != edit:
            raise Failed('%s: the servers that include this listen need it to be changed in different ways; write it in each of them' % (one.place,))
        listens[Listen(one.place.path, statement.line, statement.arguments[0], backend)] = None
    warnings += _leaks(config, moved, settings, wanted.backend_port)
    stream = next(iter(config.outermost('stream')), None)
    plain = {file: [edit for edit, dummy in known.values()] for file, known in edits.items()}
    for file, edit in _main_edits(config, config.main, stream, can):
        plain.setdefault(config.real(file), []).append(edit)

    names = _names(config, moved)
    publics = []
    for key, (host, port) in backends.items():
        options, dropped = _stream_options(
            (word for one in moved if one.key == key for word in one.place.statement.arguments[1:] if SOCKET_OPTIONS.match(word)), can.version
        )
        warnings += ['listen %s: %s is left out of the front, since stream of this nginx does not know it' % (names[key][0], word) for word in dropped]
        publics.append(Public(key, names[key][0], options, names[key][1], '%s:%d' % (host, port), tuple(names[key][2])))
    trusted = [place.statement.arguments[0] for one in moved for place in settings.effective(one.place.blocks, 'set_real_ip_from') if proxied is not None]
    content = _render(config, wanted, handoff, publics, following, plain, stream is None, can, list(dict.fromkeys(trusted)) or ['0.0.0.0/0', '::/0'], endpoints)
    return Front(handoff, publics, plain, content, list(listens), endpoints, warnings)


def _leaks(config: Config, moved: list[_Moved], settings: _Settings, port: int) -> list[str]:
    """Give warnings of what shows the sites' own port behind the front."""
    warnings = []
    files = {path for path, data in config.data.items() if b'server_port' in data}
    used = [
        place
        for place in (config.places() if files else [])
        if place.path in files and place.context[:1] == ('http',) and any(re.search(r'\$\{?server_port\b', word) for word in place.statement.arguments)
    ]
    if used:
        warnings.append('%s: $server_port is %d and so on behind the front' % (', '.join(map(str, used[:3])), port))
    shown = {str(place) for one in moved for place in settings.own(one.place.blocks, 'port_in_redirect') if place.statement.arguments == ['on']}
    warnings += ['%s: redirects will name the port behind the front; take this away' % place for place in sorted(shown)]
    return warnings


def _refuse_taken(config: Config, wanted: Wanted, endpoints: t.Collection[str]) -> None:
    ports = [(host, int(port)) for host, dummy, port in (endpoint.rpartition(':') for endpoint in endpoints)]
    for place in config.places('listen'):
        if place.context[-1:] != ('server',) or len(place.statement.words) < 2:
            continue
        address = parse_address(place.statement.arguments[0])
        for host, port in ports:
            if address is not None and address.covers(port) and address.host in ('', '0.0.0.0', '[::]', host, 'localhost'):
                raise Failed('%s: port %d is used here already; choose another backend_port' % (place, port))
    if wanted.acme_port == wanted.https_port:
        raise Failed('acme_port %d is the public port itself, so that challenges would go round in circles; choose another' % wanted.acme_port)
    if wanted.https_port in [port for dummy, port in ports]:
        raise Failed('backend_port %d reaches into the public port %d; choose another' % (wanted.backend_port, wanted.https_port))
    if (wanted.acme_host, wanted.acme_port) in ports or ports[-1][1] > 65535:
        raise Failed('the front needs the ports %d to %d; choose another backend_port or acme_port' % (wanted.backend_port, ports[-1][1]))


def _render(
    config: Config,
    wanted: Wanted,
    handoff: str,
    publics: list[Public],
    strip: int,
    edits: dict[str, list[_spans.Edit]],
    own_stream: bool,
    can: Abilities,
    trusted: list[str],
    endpoints: dict[str, str],
) -> bytes:
    host = '[%s]' % wanted.acme_host if ':' in wanted.acme_host else wanted.acme_host
    responder = '%s:%d' % (host, wanted.acme_port)
    meta = {
        'handoff': handoff,
        'https_port': wanted.https_port,
        'responder': responder,
        'endpoints': endpoints,
    }
    # A client may end its side and still wait for the answer; idle connections are for the site to end. Twice the usual buffer for what
    # the site sends spares CPU time with large files (measured with `make bench`).
    proxied = ['proxy_timeout 24d;', 'proxy_buffer_size 32k;'] + ['proxy_half_close on;'] * (can.version >= _HALF_CLOSE_SINCE)
    lines = []
    for number, public in enumerate(publics):
        hands_over = {
            'pass': ['pass $seamless_tls_alpn_%d;'],
            'proxy_protocol': ['proxy_protocol on;', 'proxy_pass $seamless_tls_alpn_%d;', *proxied],
            'plain': ['proxy_pass $seamless_tls_alpn_%d;', *proxied],
        }[handoff]
        lines += [
            'map $ssl_preread_alpn_protocols $seamless_tls_alpn_%d {' % number,
            '    "~^acme-tls/1$" %s;' % (responder if handoff == 'plain' else '127.0.0.1:%d' % strip),
            '    default %s;' % public.backend,
            '}',
            'server {',
            '    listen %s;' % ' '.join([public.word, *public.options, *(['proxy_protocol'] if public.proxied else [])]),
            *['    set_real_ip_from %s;' % address for address in trusted if public.proxied],
            '    ssl_preread on;',
            '    preread_timeout 60s;',
            *['    ' + line.replace('%d', str(number)) for line in hands_over],
            '}',
        ]
    if handoff != 'plain':
        listen = '127.0.0.1:%d%s' % (strip, ' proxy_protocol' if handoff == 'proxy_protocol' else '')
        lines += ['# The responder is told nothing but what the client sent.', 'server {', '    listen %s;' % listen, '    proxy_pass %s;' % responder, '}']
    if own_stream:
        lines = ['stream {', *['    ' + line for line in lines], '}']
    head = [
        '# Put here by seamless.tls_alpn.nginx_alpn_stream; state: absent takes it away and gives back each listen exactly.',
        '# It owns port %d and routes tls-alpn-01 challenges (RFC 8737) to the ACME client, all else to the sites.' % wanted.https_port,
    ]
    data = config.real_data
    records = [_spans.render_record(_spans.make_record(file, data[file], some)) for file, some in sorted(edits.items())]
    return b''.join(
        [
            '\n'.join(head).encode() + b'\n',
            _spans.render_comment(_META, meta),
            *records,
            '\n'.join(lines).encode('utf-8', 'surrogateescape') + b'\n',
        ]
    )


def contents(base: Base, front: Front) -> dict[str, bytes | None]:
    """Give the files with the front in them, by real path.

    The front comes first and the sites last: a reload by somebody else in between is then refused by nginx for the port that two want,
    not taken with nobody on it.
    """
    data, main = base.config.real_data, base.config.real(base.config.main)
    files: dict[str, bytes | None] = {front_path(base.config.main): front.content, main: data[main]}
    files.update({path: data[path] for path in base.undone})
    files.update({path: _spans.apply(data[path], edits) for path, edits in front.edits.items()})
    return files


def original(base: Base) -> dict[str, bytes | None]:
    """Give the files without a front, by real path; the front goes last."""
    data, main = base.config.real_data, base.config.real(base.config.main)
    files: dict[str, bytes | None] = {path: data[path] for path in base.undone if path != main}
    files.update({main: data[main], front_path(base.config.main): None})
    return files


def handing_back(base: Base, current: Config) -> dict[str, bytes | None]:
    """Give the files for between: the sites have their public listens back, and those that the front hands to still, for its last connections."""
    data, main = current.real_data, current.real(current.main)
    files: dict[str, bytes | None] = {}
    for path, edits in sorted(base.undone.items(), key=lambda item: item[0] == main):
        both = [edit._replace(text=edit.text + b' ' + data[path][edit.begin : edit.end]) if edit.text else edit for edit in edits]
        files[path] = _spans.apply(data[path], both)
    files[front_path(current.main)] = None
    return files


def changes(current: Config, files: t.Mapping[str, bytes | None]) -> dict[str, bytes | None]:
    """Give those of ``files`` that differ from what stands on disk."""
    return {path: content for path, content in files.items() if current.real_data.get(path) != content}


def needs_handing_back(base: Base, front: Front) -> bool:
    """Whether the new front uses an endpoint of the one that stands for something else, or not at all.

    For a moment workers of both generations accept on an endpoint, so what arrives there has to mean the same to both.
    """
    return base.front is not None and (
        base.front['handoff'] != front.handoff or any(front.endpoints.get(endpoint) != use for endpoint, use in base.front['endpoints'].items())
    )


def steps(current: Config, base: Base, front: Front | None, running: bool) -> list[dict[str, bytes | None]]:
    """Give the sets of files to put in place one after the other, each with only what changes; none where everything stands."""
    final = changes(current, contents(base, front) if front else original(base) if base.front else {})
    if not final:
        return []
    if running and base.front is not None and (front is None or needs_handing_back(base, front)):
        down = [handing_back(base, current), original(base)]
        return [*down, contents(base, front)] if front else down
    return [final]


def compared(current: Config, files: t.Mapping[str, bytes | None]) -> dict[str, tuple[bytes | None, bytes | None]]:
    """Give (before, after) of the files, for a diff."""
    return {path: (current.real_data.get(path), content) for path, content in files.items()}
