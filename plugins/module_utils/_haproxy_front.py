# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Deciding for HAProxy: a configuration and wishes in, stages of file contents out. Pure.

PRIVATE to the collection, may change at any time.

Every `bind` line that has the public port gets a handoff of its own, so that lines with other certificates stay apart: a TCP frontend with
the line's public addresses, and a backend that leads to where the line listens now. The front stands before the first `defaults`, so that
it inherits nothing (Manual 4: `mode http` inherited there is what breaks the well-known recipe).
"Manual" is HAProxy's configuration manual (configuration.txt) of 2.6.
"""

from __future__ import annotations

import os
import re
import typing as t

from ansible_collections.seamless.tls_alpn.plugins.module_utils import _haproxy_config as hc
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _spans
from ansible_collections.seamless.tls_alpn.plugins.module_utils._probe import Endpoint
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed

OWN_FILE = '00-tls-alpn.cfg'
OWN_SUFFIX = '.tls-alpn.cfg'  # after the file before it, whose `global` has to come first
BEGIN = b'# BEGIN seamless.tls_alpn: written by the module haproxy_alpn_frontend, whose state absent takes it away again'
END = b'# END seamless.tls_alpn'
_BLOCK = re.compile(rb'^' + re.escape(BEGIN) + rb'\r?\n.*?^' + re.escape(END) + rb'\r?\n(?:\r?\n)?', re.M | re.S)

# Options of `bind` that belong to the public socket, with the number of their arguments (Manual 5.1); the front takes them over.
SOCKET_OPTIONS = {
    **{'accept-proxy': 0, 'accept-netscaler-cip': 1, 'backlog': 1, 'cc': 1, 'defer-accept': 0, 'interface': 1, 'mss': 1, 'namespace': 1},
    **{'shards': 1, 'tcp-md5sig': 1, 'tcp-ut': 1, 'tfo': 0, 'transparent': 0, 'v4v6': 0, 'v6only': 0},
}
# The other options of `bind` that have an argument: known so that the argument is not taken for an option.
_ONE_ARGUMENT = re.compile(
    r'(?:alpn|ca-file|ca-ignore-err|ca-sign-file|ca-sign-pass|ca-verify-file|ciphers|ciphersuites|client-sigalgs|crl-file|crt|crt-ignore-err'
    r'|crt-list|curves|default-crt|ecdhe|ech|expose-fd|gid|group|guid-prefix|id|idle-ping|label|level|maxconn|mode|name|nbconn|nice|npn'
    r'|ocsp-update|process|proto|severity-output|sigalgs|ssl-max-ver|ssl-min-ver|thread|tls-ticket-keys|uid|user|verify)\Z'
)
# Actions that `tcp-request session` knows as `tcp-request connection` does (Manual 4.2).
_SESSION_ACTION = re.compile(r'(?:accept|reject|silent-drop|track-sc\d|sc-.*|set-var.*|unset-var.*)\Z')
_ADDRESS = re.compile(r'(?P<family>(?:ipv4|ipv6|tcp|tcp4|tcp6|mptcp|mptcp4|mptcp6)@)?(?P<host>[^@/]*):(?P<low>\d+)(?:-(?P<high>\d+))?\Z')
_NAME = re.compile(r'[A-Za-z0-9_.:-]+\Z')  # Manual 4
_HOST_NAME = re.compile(r'(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}\Z', re.I)
_NO_HOST_NAME = re.compile(r'\A(?:req|res)\.|\.(?:pem|crt|lst|map|cfg|http|lua|txt)\Z')
NAMES = 10  # as many host names are tried; each costs a handshake with every public address
_DAY = 86400
# Longer than any timeout of the HTTPS side needs: that side closes what is idle, by its own timeouts, and this one follows at once.
_LONGEST = 24 * _DAY  # HAProxy's timeouts end at 2^31 milliseconds


class Wishes(t.NamedTuple):
    """What the module's options ask for. ``inspect_delay`` is a time as HAProxy writes it."""

    https_port: int = 443
    acme_host: str = '127.0.0.1'
    acme_port: int = 10443
    frontend: str = 'fe_alpn'
    acme_backend: str = 'bk_acmesh'
    https_backend: str = 'bk_https'
    handoff: str = 'abns'
    backend_port: int = 8443
    inspect_delay: str = '5s'


class Address(t.NamedTuple):
    """One address of a `bind`."""

    family: str
    host: str
    low: int
    high: int

    def ports(self, low: int, high: int) -> list[str]:
        """Write it with these ports instead; nothing for an empty range."""
        if low > high:
            return []
        return ['%s%s:%s' % (self.family, self.host, low if low == high else '%d-%d' % (low, high))]


class PublicBind(t.NamedTuple):
    """A `bind` line that has the public port: what of its address is public, what else it listens on, its socket options, the rest of the line."""

    line: hc.Line
    public: bytes
    rest: bytes
    options: list[hc.Word]
    remaining: list[hc.Word]
    endpoints: list[Endpoint]

    def moved(self, data: bytes, address: bytes) -> bytes:
        """Give the line as it is where it listens on ``address`` instead."""
        return b' '.join([data[self.line.begin : self.line.words[0].end], address, *(data[word.begin : word.end] for word in self.remaining)])


class Moved(t.NamedTuple):
    """One `bind` as the module reports it; ``line`` counts in the file as it is after the change."""

    file: str
    line: int
    before: str
    after: str


class Decision(t.NamedTuple):
    """What is to be done: the stages' files (none: nothing), what moves, and what the front is like.

    ``endpoints`` are where clients get to, ``handoffs`` where the HTTPS side listens; ``original`` is the configuration without a front;
    ``stands`` tells whether there is one now, and ``drain`` is how long (in seconds) a connection may wait in the front that is there now.
    """

    stages: list[dict[str, bytes | None]]
    before: dict[str, bytes | None]
    binds: list[Moved]
    endpoints: list[Endpoint]
    handoffs: list[str]
    original: hc.Config
    stands: bool
    drain: float
    warnings: list[str]


def parse_address(text: str) -> Address | None:
    """Read one address of a `bind`; None where it is no TCP address with a port (quic4@, unix@, abns@, fd@ …: Manual 4.2, bind)."""
    match = _ADDRESS.match(text)
    if match is None:
        return None
    return Address(match['family'] or '', match['host'], int(match['low']), int(match['high'] or match['low']))


def _options(line: hc.Line) -> tuple[list[hc.Word], list[hc.Word]]:
    """Part the words after the address into those that belong to the socket and the others."""
    socket_words: list[hc.Word] = []
    others: list[hc.Word] = []
    position = 2
    while position < len(line.words):
        name = line.words[position].value
        count = 1 + (SOCKET_OPTIONS[name] if name in SOCKET_OPTIONS else bool(_ONE_ARGUMENT.match(name)))
        (socket_words if name in SOCKET_OPTIONS else others).extend(line.words[position : position + count])
        position += count
    return socket_words, others


def _endpoints(addresses: t.Iterable[Address], port: int, options: t.Sequence[str]) -> list[Endpoint]:
    """Give where a client on this host reaches the addresses (nowhere for a socket that is bound to an interface, or not of this host)."""
    if {'accept-netscaler-cip', 'interface', 'namespace', 'transparent'}.intersection(options):
        return []
    proxied = 'accept-proxy' in options
    found = []
    for address in addresses:
        host = address.host.strip('[]')
        if host in ('', '*'):
            host = '::' if '6@' in address.family else '0.0.0.0'
        if host == '0.0.0.0' or host == '::' and 'v6only' not in options:
            found.append(Endpoint('127.0.0.1', port, proxied))
        if host != '0.0.0.0':
            found.append(Endpoint('::1' if host == '::' else host, port, proxied))
    return found


def read_bind(line: hc.Line, port: int, data: bytes) -> PublicBind | None:
    """Give the public bind that a `bind` line is, or None; raise Failed for one that can't be taken apart."""
    values = line.values
    if len(values) < 2 or line.section is None or line.section.kind not in ('frontend', 'listen'):
        return None
    word = line.words[1]
    if len(line.words) > 2 and line.words[2].begin == word.begin:
        raise Failed('%s: this bind gets several words from one variable ("[*]"), which is not understood; write its addresses out' % str(line))
    public, addresses, rest = [], [], []
    for piece in word.value.split(','):
        address = parse_address(piece)
        if address is None or not address.low <= port <= address.high:
            rest.append(piece)
            continue
        addresses.append(address)
        public += address.ports(port, port)
        rest += address.ports(address.low, port - 1) + address.ports(port + 1, address.high)
    if not public:
        return None
    if rest and word.variable:
        raise Failed('%s: "%s" has port %d among others and comes from a variable; write port %d on a bind line of its own' % (line, word.value, port, port))
    options, remaining = _options(line)
    text = data[word.begin : word.end] if not rest else ','.join(public).encode('utf-8', 'surrogateescape')
    endpoints = _endpoints(addresses, port, [option.value for option in options])
    return PublicBind(line, text, ','.join(rest).encode('utf-8', 'surrogateescape'), options, remaining, endpoints)


def public_binds(config: hc.Config, port: int) -> list[PublicBind]:
    """Give every `bind` line that has the port, in order; raise Failed (file:line) for one that can't be taken apart."""
    return [bind for bind in (read_bind(line, port, config.data[line.path]) for line in config.lines if line.values[0] == 'bind') if bind is not None]


def _check_routing(config: hc.Config, binds: t.Sequence[PublicBind]) -> None:
    """Raise Failed where somebody has put up a front by hand already."""
    sections = {bind.line.section for bind in binds}
    for line in (line for line in config.lines if line.section in sections):
        text = ' '.join(line.values)
        if 'acme-tls/1' in text and re.search(r'\breq[._]ssl_alpn\b', text):
            raise Failed('%s: this port has a front for acme-tls/1 already; take it away first, then this can put up its own' % str(line))


def host_names(config: hc.Config) -> list[str]:
    """Give host names that the configuration speaks of (in conditions and certificates' file names), to try as SNI beside none at all."""
    names: dict[str, None] = {'': None}
    for line in config.lines:
        if line.section is None or line.section.kind not in hc.PROXIES or line.values[0] in ('server', 'default-server', 'log'):
            continue
        for value in line.values[1:]:
            for name in (value, os.path.splitext(os.path.basename(value))[0] if value.endswith(('.pem', '.crt')) else ''):
                if _HOST_NAME.match(name) and not _NO_HOST_NAME.search(name):
                    names[name.lower()] = None
    return list(names)[:NAMES]


def _longest_timeout(config: hc.Config) -> str:
    """Give a timeout that no timeout of the configuration outlasts, and at least a day."""
    found = [hc.seconds(line.values[2]) or 0 for line in config.lines if line.values[0] == 'timeout' and len(line.values) > 2]
    return '%ds' % min(_LONGEST, max([_DAY, *(-(-value // 1) for value in found)]))


def _names(wishes: Wishes, count: int) -> list[tuple[str, str]]:
    """Give the names of each front's frontend and backend."""
    suffixes = [''] + ['_%d' % number for number in range(2, count + 1)]
    return [(wishes.frontend + suffix, wishes.https_backend + suffix) for suffix in suffixes[:count]]


def _check_names(config: hc.Config, wishes: Wishes, names: t.Sequence[tuple[str, str]]) -> None:
    """Raise Failed unless all names are new, different and names (Manual 4; since 3.3 no two proxies may share one)."""
    ours: dict[str, str] = {}
    for option, name in [('acme_backend', wishes.acme_backend)] + [pair for one in names for pair in zip(('frontend', 'https_backend'), one)]:
        if not _NAME.match(name):
            raise Failed('%s: "%s" is no name for HAProxy (letters, digits, and - _ . :)' % (option, name))
        if name in ours:
            raise Failed('%s and %s would both be named "%s"; give one of them another name' % (ours[name], option, name))
        ours[name] = option
    for section in config.sections:
        if section.kind in hc.PROXIES and section.name in ours:
            raise Failed(
                '%s:%d: there is a %s "%s" already; give %s another name' % (section.path, section.line, section.kind, section.name, ours[section.name])
            )


def _check_endpoints(config: hc.Config, wishes: Wishes, count: int) -> None:
    """Raise Failed where HAProxy listens on a handoff's port itself."""
    if wishes.handoff != 'plain':
        return
    for line in config.lines:
        for piece in line.values[1].split(',') if line.values[0] == 'bind' and len(line.values) > 1 else []:
            address = parse_address(piece)
            for port in range(wishes.backend_port, wishes.backend_port + count):
                if address is not None and address.low <= port <= address.high and address.host in ('', '*', '0.0.0.0', '127.0.0.1', '::', '[::]'):
                    raise Failed('%s: port %d is in use here, and the handoff needs it; choose another backend_port' % (line, port))


def _endpoint(wishes: Wishes, number: int, frontend: str) -> tuple[bytes, bytes]:
    """Give where the HTTPS side listens, as the words of its `bind` and of the `server` that leads there."""
    if wishes.handoff == 'plain':
        address = b'127.0.0.1:%d' % (wishes.backend_port + number)
        return address, address
    address = b'abns@seamless-%s' % frontend.encode()
    return address + b' accept-proxy', address + b' send-proxy-v2'


def _session_edits(config: hc.Config, binds: t.Sequence[PublicBind], wishes: Wishes) -> list[tuple[str, _spans.Edit]]:
    """Let rules that look at the client's address run when the PROXY protocol has told it (Manual 4.2, tcp-request session)."""
    sections = {bind.line.section for bind in binds}
    edits = []
    for line in config.lines:
        if line.values[0] != 'tcp-request' or line.values[1:2] != ['connection'] or len(line.values) < 3 or line.section is None:
            continue
        if line.section not in sections and line.section.kind != 'defaults':
            continue
        if wishes.handoff == 'plain':
            raise Failed('%s: with the handoff "plain" this rule would see 127.0.0.1 as the client of every connection; use the handoff "abns"' % str(line))
        if line.section.kind == 'defaults' or not _SESSION_ACTION.match(line.values[2]):
            raise Failed('%s: this rule needs the client\'s own TCP connection, which the front has; make it a "tcp-request session" rule' % str(line))
        beside = [other for other in config.lines if other.section is line.section]
        if any({'accept-proxy', 'accept-netscaler-cip'} & set(other.values) for other in beside if other.values[0] == 'bind'):
            raise Failed('%s: this rule sees the load balancer before this HAProxy, which only the front could; allow only it by other means' % str(line))
        if any(other.values[:2] == ['tcp-request', 'session'] and other.number < line.number for other in beside):
            raise Failed('%s: this rule would come after the "tcp-request session" rule above it; put it below that one' % str(line))
        word, last = line.words[1], line.words[-1]
        edits.append((line.path, _spans.Edit(word.begin, last.end, b'session' + config.data[line.path][word.end : last.end])))
    return edits


def _end(data: bytes, line: hc.Line) -> int:
    """Give where a line ends, before its line end."""
    return line.end - 1 if data[line.begin : line.end].endswith(b'\r') else line.end


def _text(data: bytes) -> str:
    return data.strip().decode('utf-8', 'replace')


def _bind_edits(data: bytes, bind: PublicBind, address: bytes) -> list[_spans.Edit]:
    """Move a bind to ``address``; what is not public of it stays where it was, on the line as it was."""
    word = bind.line.words[1]
    if bind.rest:
        end = _end(data, bind.line)
        return [_spans.Edit(word.begin, word.end, bind.rest), _spans.Edit(end, end, _spans.newline_of(data) + bind.moved(data, address))]
    if not bind.options:
        return [_spans.Edit(word.begin, word.end, address)]
    # One edit up to the last option that goes, so that its text can be found again in a file that was edited since.
    end = bind.options[-1].end
    kept = [data[one.begin : one.end] for one in bind.remaining if one.begin < end]
    return [_spans.Edit(word.begin, end, b' '.join([address, *kept]))]


def _guarded(bind: PublicBind, lines: t.Sequence[bytes]) -> list[bytes]:
    """Put the `.if` … around a bind around its front, too."""
    opening = [line for guard in bind.line.guards for line in guard]
    return [*opening, *lines, *([b'.endif'] * len(bind.line.guards))]


def _render(config: hc.Config, wishes: Wishes, binds: t.Sequence[PublicBind], records: t.Iterable[_spans.Record]) -> bytes:
    """Give the front's block."""
    longest = _longest_timeout(config).encode()
    lines = [BEGIN, *(_spans.render_record(record).rstrip(b'\n') for record in records)]
    for number, (bind, (frontend, backend)) in enumerate(zip(binds, _names(wishes, len(binds)))):
        data = config.data[bind.line.path]
        options = b''.join(b' ' + data[word.begin : word.end] for word in bind.options)
        front = [
            b'frontend %s' % frontend.encode(),
            b'    mode tcp',
            b'    bind %s%s' % (bind.public, options),
            b'    # The HTTPS side closes what is idle, by its own timeouts; this side must never be first.',
            b'    timeout client %s' % longest,
            b'    timeout client-fin 30s',
            b'    option clitcpka',
            b'    # Wait for the whole ClientHello, but not for what is no TLS.',
            b'    tcp-request inspect-delay %s' % wishes.inspect_delay.encode(),
            b'    tcp-request content accept if { req.ssl_hello_type 1 }',
            b'    tcp-request content accept if !{ req.payload(0,1) -m bin 16 }',
            b'    # RFC 8737: acme-tls/1 and nothing beside it.',
            b'    use_backend %s if { req.ssl_alpn acme-tls/1 } !{ req.ssl_alpn,regsub(^acme-tls/1$,) -m len 1: }' % wishes.acme_backend.encode(),
            b'    default_backend %s' % backend.encode(),
            b'',
            b'backend %s' % backend.encode(),
            b'    mode tcp',
            b'    timeout connect 5s',
            b'    timeout server %s' % longest,
            b'    timeout tunnel %s' % longest,
            b'    server https %s' % _endpoint(wishes, number, frontend)[1],
        ]
        lines += [*_guarded(bind, front), b'']
    host = '[%s]' % wishes.acme_host if ':' in wishes.acme_host else wishes.acme_host
    # A name that can't be resolved must not keep HAProxy from starting.
    resolve = '' if re.match(r'[0-9.]+\Z|\[', host) else ' init-addr last,libc,none'
    lines += [
        b'backend %s' % wishes.acme_backend.encode(),
        b'    mode tcp',
        b'    timeout connect 5s',
        b'    timeout server 30s',
        b'    timeout tunnel 30s',
        b'    # No check: the responder is there only while a certificate is issued.',
        b'    server responder %s:%d%s' % (host.encode(), wishes.acme_port, resolve.encode()),
        END,
    ]
    return b''.join(line + b'\n' for line in lines)


def _place(config: hc.Config) -> tuple[str, int]:
    """Give where the front's block goes: before the first `defaults` or proxy, outside of any `.if`, above the comments that belong to it."""
    first = next(line for line in config.lines if line.is_header and line.section is not None and line.section.kind in (*hc.PROXIES, 'defaults'))
    begin = first.begin
    if first.guards:
        depth = 0
        for line in (line for line in config.lines if line.path == first.path and line.begin < first.begin):
            if line.values[0] == '.if':
                begin, depth = (line.begin if not depth else begin), depth + 1
            elif line.values[0] == '.endif':
                depth -= 1
    data = config.data[first.path]
    while True:
        above = data.rfind(b'\n', 0, max(begin - 1, 0)) + 1
        if begin == 0 or not data[above:begin].lstrip().startswith(b'#'):
            return first.path, begin
        begin = above


def _own_file(config: hc.Config) -> str | None:
    """Give the front's own file, where the service loads a directory: right before the file with the first `defaults` or proxy."""
    path = _place(config)[0]
    for source in config.sources:
        if source.directory and path in source.files:
            before = source.files[: source.files.index(path)]
            own = before[-1][: -len('.cfg')] + OWN_SUFFIX if before else os.path.join(source.path, OWN_FILE)
            if own not in config.data and os.fsencode(own) < os.fsencode(path):
                return own
    return None


class _Current(t.NamedTuple):
    """What is there now: the front's file and block, the files without it, what undoes each, and what of the front is not found any more."""

    path: str | None
    block: bytes
    bodies: dict[str, bytes]
    undo: dict[str, list[_spans.Edit]]
    records: list[_spans.Record]
    missing: list[tuple[str, bytes, bytes]]

    def original(self, path: str) -> bytes:
        return _spans.apply(self.bodies[path], self.undo.get(path, []))

    def middle(self, path: str, lines: t.Sequence[hc.Line]) -> bytes:
        """Give a file that has its public binds back and listens where the front hands over to, too."""
        body, edits = self.bodies[path], []
        undo = self.undo.get(path, [])
        added = {edit.begin for edit in undo if not edit.text}  # lines that were added since a bind has other ports, too; they stay
        for edit in (edit for edit in undo if edit.text):
            line = next((line for line in lines if line.begin <= edit.begin < line.end), None)
            if line is None or line.values[0] != 'bind':
                continue  # a rule that serves both
            edits.append(edit)
            end = _end(body, line)
            if end not in added:
                edits.append(_spans.Edit(end, end, _spans.newline_of(body) + body[line.begin : end]))
        return _spans.apply(body, edits)

    def put_back(self, lines: t.Sequence[hc.Line]) -> list[Moved]:
        """Give the binds that get their addresses back."""
        moved = []
        for path, undo in self.undo.items():
            body, original = self.bodies[path], self.original(path)
            for edit in (edit for edit in undo if edit.text):
                line = next((line for line in lines if line.path == path and line.begin <= edit.begin < line.end), None)
                if line is not None and line.values[0] == 'bind':
                    number = line.number - sum(body[one.begin : one.end].count(b'\n') for one in undo if one.begin < edit.begin)
                    after = original.split(b'\n')[number - 1]
                    moved.append(Moved(path, number, _text(body[line.begin : line.end]), _text(after)))
        return moved


def _handoff_address(after: bytes) -> bytes | None:
    """Give the handoff's address that a recorded text leads with, if it does."""
    match = re.match(rb'(?:\s*bind )?(abns@seamless-\S+|127\.0\.0\.1:\d+)(?= |\Z)', after)
    return match[1] if match else None


def _read_current(config: hc.Config, environ: t.Mapping[str, str]) -> _Current:
    bodies, path, block = dict(config.data), None, b''
    undo: dict[str, list[_spans.Edit]] = {}
    missing: list[tuple[str, bytes, bytes]] = []
    for name, data in config.data.items():
        if BEGIN not in data and END not in data:
            continue
        match = _BLOCK.search(data)
        if match:
            if path is not None:
                raise Failed('%s and %s both hold a front; take one of the blocks away' % (path, name))
            path, block = name, match[0]
            bodies[name] = data[: match.start()] + data[match.end() :]
        else:
            raise Failed('%s: the marked block is damaged (its first or last line is not there any more)' % name)
    try:
        records = _spans.read_records(block)
    except (ValueError, KeyError) as error:
        raise Failed('%s: a record in the marked block is damaged: %s' % (path, error)) from error
    parsed = hc.parse(config.sources, bodies, environ)
    for record in records:
        if record.path not in bodies:
            missing += [(record.path, before, after) for dummy, before, after in record.edits]
            continue
        body = bodies[record.path]
        starts: set[int] = set()
        for line in (line for line in parsed.lines if line.path == record.path and line.values[0] in ('bind', 'tcp-request')):
            starts |= {word.begin for word in line.words[1:2]} | {_end(body, line), line.begin - len(_spans.newline_of(body))}
        undo[record.path], lost = _spans.undo(record, body, starts.__contains__)
        for first, second in zip(record.edits, record.edits[1:]):
            if first[1:] in lost and not second[1] and second[1:] not in lost:
                said = (_text(first[2]), record.path, _text(second[2]))
                raise Failed('the bind on "%s" in %s, which stood beside "%s", was taken away; put it back, then run this again' % said)
        missing += [(record.path, before, after) for before, after in lost]
        for line in (line for line in parsed.lines if line.path == record.path and line.values[0] == 'bind' and len(line.values) > 1):
            for dummy, after in lost:
                if line.values[1].encode('utf-8', 'surrogateescape') == _handoff_address(after):
                    words = after.strip().decode('latin-1')
                    raise Failed('%s: this bind is the front\'s and was edited since; give it the words "%s" again, then run this again' % (line, words))
    return _Current(path, block, bodies, undo, records, missing)


def _moves(records: t.Iterable[_spans.Record]) -> set[tuple[str, bytes, bytes]]:
    """Give what moves where, to see whether everything stays within reach of workers that have a front from before."""
    return {(record.path, before, after) for record in records for dummy, before, after in record.edits}


def _drain(block: bytes) -> float:
    """Give how long a connection that a front has taken may wait for its ClientHello, in seconds, and one more to be handed over."""
    delays = [hc.seconds(match[1].decode()) or 0 for match in re.finditer(rb'inspect-delay (\S+)', block)]
    return max(delays, default=0) + 1


def _report(config: hc.Config, binds: t.Sequence[PublicBind], wishes: Wishes, files: t.Mapping[str, bytes | None]) -> list[Moved]:
    moved = []
    for number, (bind, (frontend, dummy)) in enumerate(zip(binds, _names(wishes, len(binds)))):
        path, data = bind.line.path, config.data[bind.line.path]
        address = _endpoint(wishes, number, frontend)[0]
        words = [b'bind', address.split()[0]]
        line = next((line for line, text in enumerate((files[path] or b'').split(b'\n'), 1) if text.split()[:2] == words), bind.line.number)
        moved.append(Moved(path, line, _text(data[bind.line.begin : bind.line.end]), _text(bind.moved(data, address))))
    return moved


def decide(config: hc.Config, state: str, wishes: Wishes, environ: t.Mapping[str, str]) -> Decision:
    """Give the stages that bring the configuration to ``state``, ``present`` or ``absent``; raise Failed (file:line) where that can't be done.

    Present where no front is: one stage. Absent, and a front whose handoff changes: two, since the HTTPS side has to get its public
    binds back while the handoff still works.
    """
    current = _read_current(config, environ)
    parsed = hc.parse(config.sources, current.bodies, environ)
    originals = {**current.bodies, **{path: current.original(path) for path in current.undo}}
    sources = [source._replace(files=[path for path in source.files if path != current.path or originals[path]]) for source in config.sources]
    original = hc.parse(sources, {path: data for path, data in originals.items() if path != current.path or data}, environ)
    binds = public_binds(original, wishes.https_port)
    warnings = []
    wanted: dict[str, bytes | None] = {path: data if path != current.path or data else None for path, data in originals.items()}
    records: list[_spans.Record] = []
    if state == 'present':
        if not 0 < wishes.https_port < 65536:
            raise Failed('https_port: %d is no port' % wishes.https_port)
        if not binds:
            raise Failed('no bind on port %d was found in %s' % (wishes.https_port, ', '.join(source.path for source in config.sources)))
        wanted, records = _put_up(original, binds, wishes, wanted)
        if wishes.handoff == 'plain':
            warnings.append('with the handoff "plain" the site sees 127.0.0.1 as the address of every client')
        for line in original.lines:
            if line.values[0] == 'maxconn' and line.section is not None and line.section.kind == 'global':
                warnings.append('%s: each HTTPS connection counts twice towards this maxconn now' % str(line))
    for path, was, text in current.missing:
        if state == 'absent' or path in config.data:
            words = (text.strip().decode('latin-1'), was.strip().decode('latin-1'))
            warnings.append('%s: "%s" is not there any more; nothing was put back for it (it was "%s")' % (path, *words))
    handed = [_endpoint(wishes, number, frontend) for number, (frontend, dummy) in enumerate(_names(wishes, len(binds)))] if state == 'present' else []
    _refuse_orphans(config, wanted, {address for address, dummy in handed}, environ)
    before: dict[str, bytes | None] = dict(config.data)
    touched = {path for path in {**before, **wanted} if before.get(path) != wanted.get(path)}
    stages = []
    if touched:
        two = not _moves(current.records) - set(current.missing) <= _moves(records)
        if two:
            touched |= set(current.undo)  # half way, all of them have their public binds back
            lines = {path: [line for line in parsed.lines if line.path == path] for path in touched}
            stages.append({path: current.middle(path, lines[path]) or None if path in current.bodies else None for path in touched})
        stages.append({path: wanted.get(path) for path in touched})
    return Decision(
        stages=stages,
        before={path: before.get(path) for path in touched},
        binds=_report(original, binds, wishes, wanted) if state == 'present' else current.put_back(parsed.lines),
        endpoints=list(dict.fromkeys(endpoint for bind in binds for endpoint in bind.endpoints)),
        handoffs=[address.decode().split()[0] for address, dummy in handed],
        original=original,
        stands=current.path is not None,
        drain=_drain(current.block),
        warnings=warnings,
    )


def _refuse_orphans(config: hc.Config, wanted: t.Mapping[str, bytes | None], handed: set[bytes], environ: t.Mapping[str, str]) -> None:
    """Raise Failed if a bind would go on listening for a front that is no more (moved to another file since, say)."""
    sources = [source._replace(files=[path for path in source.files if wanted.get(path) is not None]) for source in config.sources]
    known = {address.split()[0].decode() for address in handed}
    for line in hc.parse(sources, {path: data for path, data in wanted.items() if data is not None}, environ).lines:
        if line.values[0] == 'bind' and len(line.values) > 1 and line.values[1].startswith('abns@seamless-') and line.values[1] not in known:
            raise Failed('%s: a front handed over to this bind, but it is not where it was; give it its public address again, then run this again' % str(line))


def _put_up(
    original: hc.Config, binds: t.Sequence[PublicBind], wishes: Wishes, files: t.Mapping[str, bytes | None]
) -> tuple[dict[str, bytes | None], list[_spans.Record]]:
    """Give all files with the front in place, and its records."""
    if not re.match(r'[A-Za-z0-9.:_-]+\Z', wishes.acme_host) or not 0 < wishes.acme_port < 65536 or wishes.acme_port == wishes.https_port:
        raise Failed('acme_host and acme_port: "%s", %d is no place for a responder' % (wishes.acme_host, wishes.acme_port))
    if not 0 < wishes.backend_port <= wishes.backend_port + len(binds) - 1 < 65536:
        raise Failed('backend_port: %d and the ports that follow it are no ports' % wishes.backend_port)
    if hc.seconds(wishes.inspect_delay) is None:
        raise Failed('inspect_delay: "%s" is no time for HAProxy (as 5s, or 500ms)' % wishes.inspect_delay)
    names = _names(wishes, len(binds))
    _check_routing(original, binds)
    _check_names(original, wishes, names)
    _check_endpoints(original, wishes, len(binds))
    edits: dict[str, list[_spans.Edit]] = {}
    for number, (bind, (frontend, dummy)) in enumerate(zip(binds, names)):
        edits.setdefault(bind.line.path, []).extend(_bind_edits(original.data[bind.line.path], bind, _endpoint(wishes, number, frontend)[0]))
    for path, edit in _session_edits(original, binds, wishes):
        edits.setdefault(path, []).append(edit)
    records = [_spans.make_record(path, original.data[path], some) for path, some in edits.items()]
    block = _render(original, wishes, binds, records)
    wanted = {**files, **{path: _spans.apply(original.data[path], some) for path, some in edits.items()}}
    own = _own_file(original)
    if own is not None:
        wanted[own] = block
        return wanted, records
    path, position = _place(original)
    newline = _spans.newline_of(original.data[path])
    inserted = block.replace(b'\n', newline) + newline
    # The place comes before every edit of its file: nothing that is edited stands before the first proxy.
    body = wanted[path] or b''
    wanted[path] = body[:position] + inserted + body[position:]
    return wanted, records
