# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Deciding what has to change so that Apache httpd answers acme-tls/1: a configuration and wishes go in, file contents come out. Pure.

PRIVATE to the collection, may change at any time.

mod_md answers acme-tls/1 handshakes with what is in its store, for virtual hosts whose Protocols has acme-tls/1. So each of them gets
that word, and mod_md is loaded where it is not. What stands in the file that loads it, as comments, undoes all of it.
"""

from __future__ import annotations

import fnmatch
import os
import re
import typing as t

from ansible_collections.seamless.tls_alpn.plugins.module_utils import _spans
from ansible_collections.seamless.tls_alpn.plugins.module_utils._apache_config import Config, Directive, Line, lines, locate, modules_directory, scan
from ansible_collections.seamless.tls_alpn.plugins.module_utils._probe import ACME
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed

_DEFAULT = ['http/1.1']  # httpd's core manual, Protocols
_HEAD = b'# Written by Ansible (seamless.tls_alpn.apache_alpn_responder), which needs what stands here to undo its changes.\n'


class Host(t.NamedTuple):
    """A virtual host that speaks TLS on the public port. ``hosts`` are the addresses of it that have this port, as written."""

    section: Directive
    hosts: list[str]
    names: list[str]
    protocols: list[str]
    own: list[Directive]

    @property
    def answers(self) -> bool:
        """Whether it offers acme-tls/1."""
        return ACME in self.protocols

    @property
    def place(self) -> str:
        """Where it stands."""
        return '%s:%d' % (self.section.file, self.section.line)


class Base(t.NamedTuple):
    """The operator's own configuration, without what we did to it: file contents, edits that lead there, and the virtual hosts."""

    config: Config
    data: dict[str, bytes]
    undone: dict[str, list[_spans.Edit]]
    hosts: list[Host]
    loads_md: bool
    warnings: list[str]


class Decision(t.NamedTuple):
    """The contents of files that shall be (None: no such file), and the places of the virtual hosts that offer acme-tls/1 then."""

    files: dict[str, bytes | None]
    answering: set[str]


def _has_port(address: str, port: int) -> bool:
    """Whether an address of <VirtualHost> takes connections on the port; one without a port takes any (vhost.c, get_addresses)."""
    found = re.search(r':(\d+|\*)$', address)
    return not found or (address.startswith('[') and address.endswith(']')) or found[1] in ('*', str(port))


def _host_of(address: str) -> str:
    """Give the host of an address of <VirtualHost>: "*", a name, or an IP address without brackets."""
    host = address if address.startswith('[') and address.endswith(']') else re.sub(r':(\d+|\*)$', '', address)
    return '*' if host == '_default_' else host.strip('[]')


def _speaks_tls(server: Directive, section: Directive, port: int) -> bool:
    """Whether SSLEngine is on there, or left to the Listen directive's protocol (ssl_engine_init.c; https is implied for 443 only)."""
    engine = section.last('sslengine') or server.last('sslengine')
    if engine:
        return engine[0].lower() != 'off'
    listens = [words for words in (one.arguments for one in server.find('listen')) if words[0].rpartition(':')[2] == str(port)]
    return any((words[1].lower() if len(words) > 1 else 'https' if port == 443 else 'http') == 'https' for words in listens)


def hosts_of(server: Directive, port: int) -> list[Host]:
    """Give the virtual hosts that speak TLS on the port, in httpd's order, with their effective Protocols.

    A virtual host's directives add up, and replace the server's (core.c, set_protocols and merge_core_server_configs).
    """
    inherited = [word for one in server.find('protocols') for word in one.arguments] or _DEFAULT
    found = []
    for section in server.find('<virtualhost'):
        here = [_host_of(address) for address in section.arguments if _has_port(address, port)]
        if here and _speaks_tls(server, section, port):
            own = section.find('protocols')
            # ServerName may have a scheme and a port.
            names = [re.sub(r'^\w+://|:\d+$', '', name).lower() for name in section.last('servername')]
            names += [name.lower() for one in section.find('serveralias') for name in one.arguments]
            found.append(Host(section, here, names, [word for one in own for word in one.arguments] or inherited, own))
    return found


def _span(config: Config, directive: Directive) -> tuple[str, Line] | None:
    try:
        return locate(config, directive)
    except Failed:
        return None


def with_recorded(config: Config) -> Config:
    """Add the files that our records name but Apache does not read now (sites that were disabled since), so that they are undone, too."""
    content = config.data.get(config.front)
    if content is None or not content.startswith(_HEAD):
        return config
    data = dict(config.data)
    for record in _read_records(config, content):
        if record.path not in data and os.path.isfile(record.path):
            with open(record.path, 'rb') as stream:
                data[record.path] = stream.read()
    return config._replace(data=data)


def _read_records(config: Config, content: bytes) -> list[_spans.Record]:
    try:
        return _spans.read_records(content)
    except (ValueError, KeyError, TypeError) as error:
        raise Failed('%s: a record is damaged (%s); restore the file from a backup' % (config.front, error)) from error


def _undo(config: Config) -> tuple[dict[str, list[_spans.Edit]], list[str]]:
    """Give the edits (by real path) that take our changes back out of the files as they are, and warnings."""
    content = config.data.get(config.front)
    undone: dict[str, list[_spans.Edit]] = {}
    warnings: list[str] = []
    if content is None:
        return undone, warnings
    if not content.startswith(_HEAD):
        raise Failed('%s: this file is not of this collection; move it away' % config.front)
    for record in _read_records(config, content):
        data = config.data.get(record.path)
        if data is None:
            warnings.append('%s: this file is not there any more' % record.path)
            continue
        # Our texts begin where a line does, or (those that were put in between) where one ends.
        starts = {offset for line in lines(data) for offset in (line.begin, line.end)}
        edits, missing = _spans.undo(record, data, lambda offset, known=starts: offset in known)  # type: ignore[misc]
        undone[record.path] = edits
        for dummy, after in missing:
            warnings.append('%s: "%s" is not there any more; what stands in its place is left' % (record.path, after.decode('utf-8', 'replace').strip()))
    return undone, warnings


def _without_ours(config: Config, undone: t.Mapping[str, list[_spans.Edit]], section: Directive) -> Directive:
    """Give a section as it was before our edits."""
    children = []
    for child in section.children:
        place = _span(config, child) if child.name == 'protocols' else None
        edit = None
        if place is not None:
            edit = next((one for one in undone.get(place[0], ()) if one.begin <= place[1].begin and place[1].end <= one.end), None)
        if edit is None:
            children.append(child)
        elif edit.text:
            children.append(child._replace(arguments=[word for word in child.arguments if word != ACME]))
    return section._replace(children=children)


def base_of(config: Config, port: int) -> Base:
    """Take our changes out of a configuration that was read from disk."""
    undone, warnings = _undo(config)
    data = {path: _spans.apply(content, undone.get(path, ())) for path, content in config.data.items() if path != config.front}
    server = config.server._replace(
        children=[_without_ours(config, undone, child) if child.name == '<virtualhost' else child for child in config.server.children]
    )
    loads_md = 'md' in config.modules and (
        config.front not in config.data or any(re.search(rb'^\s*LoadModule\s+md_module\s', content, re.M | re.I) for content in data.values())
    )
    return Base(config, data, undone, hosts_of(server, port), loads_md, warnings)


def choose(hosts: t.Sequence[Host], names: t.Sequence[str] | None, port: int) -> list[Host]:
    """Give the virtual hosts that are meant: those with one of the names, or all; raise Failed where there is none."""
    if not hosts:
        raise Failed('no virtual host speaks TLS on port %d; there is nothing that could answer a challenge' % port)
    if names is None:
        return list(hosts)
    for name in names:
        if not any(_is_called(host, name) for host in hosts):
            known = ', '.join(sorted({one for host in hosts for one in host.names})) or 'none has a name'
            raise Failed('%s: no virtual host on port %d has this name (there are: %s)' % (name, port, known))
    return [host for host in hosts if any(_is_called(host, name) for name in names)]


def _is_called(host: Host, name: str) -> bool:
    return any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in host.names)


def _moved(offset: int, edits: t.Iterable[_spans.Edit]) -> int:
    """Give where a byte of the file as it is stands in the file without our edits."""
    return offset + sum(len(edit.text) - (edit.end - edit.begin) for edit in edits if edit.end <= offset)


def _edit(base: Base, host: Host) -> tuple[str, _spans.Edit]:
    """Give the smallest edit that adds acme-tls/1 to what a virtual host offers; raise Failed where it can't be made."""
    real, line = locate(base.config, host.own[-1] if host.own else host.section)
    undone = base.undone.get(real, [])
    data = base.data[real]
    if host.own:
        # Its last Protocols line, with the word at its end: what is offered first stays first. Whole, so that it is found again.
        begin = _moved(line.begin, undone)
        end = begin + _length(data, begin)
        return real, _spans.Edit(begin, end, data[begin:end] + b' ' + ACME.encode())
    end = _moved(line.begin, undone)
    end += _length(data, end)
    text = ' '.join(['Protocols', *host.protocols, ACME]).encode()
    return real, _spans.Edit(end, end, _spans.newline_of(data) + _indent(data, line_begin=_moved(line.begin, undone), after=end) + text)


def _length(data: bytes, begin: int) -> int:
    """Give the length of the line (with those that continue it) that begins there."""
    return next(scan(data[begin:])).end


def _indent(data: bytes, line_begin: int, after: int) -> bytes:
    """Give the indent for a line that is put in after a section's first: that of the next line, or the section's own and four spaces."""
    own = re.search(rb'[ \t]*$', data[:line_begin])
    following = re.match(rb'\s*\n([ \t]*)(?!</)\S', data[after:])
    return following[1] if following else (own[0] if own else b'') + b'    '


def _refuse_shared(base: Base, chosen: t.Sequence[Host]) -> None:
    """Raise Failed if a Protocols line that has to change is also that of a virtual host that is not meant."""
    meant = {host.place for host in chosen}
    others = {(line.file, line.line): host.place for host in base.hosts if host.place not in meant for line in host.own}
    for host in chosen:
        if host.own and not host.answers:
            line = host.own[-1]
            other = others.get((line.file, line.line))
            if other is not None:
                raise Failed('%s:%d: this line is also that of %s; name that one, too, or none' % (line.file, line.line, other))


def render_front(base: Base, edits: t.Mapping[str, t.Sequence[_spans.Edit]]) -> bytes | None:
    """Give our own file: it loads mod_md where nothing else does, and holds the records; None if there is nothing to say."""
    content = b''
    if not base.loads_md:
        directory = modules_directory(base.config.root, base.data.values())
        if directory is None:
            raise Failed('%s: no LoadModule shows where modules are; load mod_md there' % base.config.main)
        path = os.path.join(directory, 'mod_md.so')
        content += b'<IfModule !md_module>\nLoadModule md_module "%s"\n</IfModule>\n' % os.fsencode(path)
    for path, ones in sorted(edits.items()):
        content += _spans.render_record(_spans.make_record(path, base.data[path], ones))
    return _HEAD + content if content else None


def decide(base: Base, chosen: t.Sequence[Host] | None) -> Decision:
    """Give the files that have to change for ``chosen`` to answer acme-tls/1, or (None) for everything to be as it was; raise Failed."""
    config = base.config
    edits: dict[str, dict[tuple[int, int], _spans.Edit]] = {}
    front: bytes | None = None
    if chosen is not None:
        _refuse_shared(base, chosen)
        for host in chosen:
            if not host.answers:
                real, edit = _edit(base, host)
                edits.setdefault(real, {})[edit[:2]] = edit  # one line may be that of several (a file that is included twice)
        front = render_front(base, {path: list(ones.values()) for path, ones in edits.items()})
        if front is not None and not config.includes_front:
            main = os.path.realpath(config.main)
            edits.setdefault(main, {})[len(base.data[main]), len(base.data[main])] = _include(base.data[main], config.front)
            front = render_front(base, {path: list(ones.values()) for path, ones in edits.items()})
    wanted: dict[str, bytes | None] = {path: _spans.apply(content, edits.get(path, {}).values()) for path, content in base.data.items()}
    wanted[config.front] = front
    files = {path: content for path, content in wanted.items() if content != config.data.get(path)}
    answering = {host.place for host in base.hosts if host.answers} | {host.place for host in chosen or ()}
    return Decision(files, answering)


def _include(data: bytes, front: str) -> _spans.Edit:
    newline = _spans.newline_of(data)
    text = b'IncludeOptional "%s"' % os.fsencode(front)
    return _spans.Edit(len(data), len(data), text + newline if data.endswith(b'\n') or not data else newline + text)


def endpoints(hosts: t.Sequence[Host], loopback6: bool) -> dict[str, dict[str, Host]]:
    """Give the addresses of this host where clients reach the virtual hosts, and which of them answers for a name ('': for none).

    httpd first takes the virtual hosts with the address itself, only without any those for all addresses; then the first that has
    the name, else the first (its manual, "Matching rules"). Addresses come first in what is given, loopback last.
    """
    found: dict[str, dict[str, Host]] = {}
    for wild in (False, True):
        already = set(found)
        for host in hosts:
            for address in host.hosts:
                is_wild = address in ('*', '0.0.0.0', '::')
                if is_wild != wild:
                    continue
                targets = {'0.0.0.0': ['127.0.0.1'], '::': ['::1']}.get(address, ['127.0.0.1', '::1']) if wild else [address]
                for target in targets:
                    if target not in already and (target != '::1' or loopback6):
                        for name in ['', *[name for name in host.names if re.fullmatch(r'[\w.-]*[a-z][\w-]*\.?', name)]]:  # no patterns, no addresses
                            found.setdefault(target, {}).setdefault(name, host)
    return found
