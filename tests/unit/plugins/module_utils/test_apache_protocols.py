# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Deciding what has to change in Apache's configuration, on configurations as text."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _apache_protocols as protocols
from ansible_collections.seamless.tls_alpn.plugins.module_utils._apache_config import Config, Directive, Include, scan, text_of, words
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed
from hypothesis import given, settings
from hypothesis import strategies as st

MAIN = '/e/apache2.conf'
FRONT = '/e/conf-enabled/seamless-tls-alpn.conf'
LOAD = b'Listen 443\nLoadModule ssl_module /m/mod_ssl.so\n'


def read(files: dict[str, bytes], includes_front: bool = True, md: bool = False) -> Config:
    """Do for these files what httpd's dumps do for real ones; `Include /x` alone is followed."""
    server = Directive('', [], '', 0, [])
    includes: list[Include] = []

    def follow(path: str, into: list[Directive]) -> None:
        for line in scan(files[path]):
            name, *arguments = words(text_of(files[path], line).rstrip('>'))
            if name == 'Include':
                includes.append(Include(path, line.number, arguments[0]))
                follow(arguments[0], into)
            elif name.startswith('</'):
                into.pop()
            else:
                into[-1].children.append(Directive(name.lower(), arguments, path, line.number, []))
                if name.startswith('<'):
                    into.append(into[-1].children[-1])

    stack = [server]
    for path in sorted(files, key=lambda path: path != MAIN):
        if not path.endswith('.inc'):
            follow(path, stack)
    loaded = ['ssl'] + (['md'] if md or b'md_module' in b''.join(files.values()) else [])
    return Config(MAIN, '/e', '/run/pid', dict(files), includes, server, loaded, FRONT, includes_front)


def present(files: dict[str, bytes], names: list[str] | None = None, **more: t.Any) -> dict[str, bytes]:
    """Give the files as they are afterwards."""
    base = protocols.base_of(read(files, **more), 443)
    return changed(files, protocols.decide(base, protocols.choose(base.hosts, names, 443)))


def absent(files: dict[str, bytes]) -> dict[str, bytes]:
    return changed(files, protocols.decide(protocols.base_of(read(files), 443), None))


def changed(files: dict[str, bytes], decision: protocols.Decision) -> dict[str, bytes]:
    return {path: content for path, content in {**files, **decision.files}.items() if content is not None}


def host(*lines: str, address: str = '*:443') -> bytes:
    return '\n'.join(['<VirtualHost %s>' % address, *('    ' + line for line in lines), '</VirtualHost>', '']).encode()


@pytest.mark.parametrize(
    ('before', 'after'),
    [
        ('Protocols h2 http/1.1', 'Protocols h2 http/1.1 acme-tls/1'),
        ('Protocols h2 \\\n      http/1.1  ', 'Protocols h2 \\\n      http/1.1 acme-tls/1  '),
        ('protocols "h2" http/1.1', 'protocols "h2" http/1.1 acme-tls/1'),
        ('Protocols h2\n    Protocols http/1.1', 'Protocols h2\n    Protocols http/1.1 acme-tls/1'),
        ('Protocols acme-tls/1 http/1.1', 'Protocols acme-tls/1 http/1.1'),
    ],
)
def test_own_protocols(before: str, after: str) -> None:
    files = {MAIN: LOAD, '/e/a.conf': host('ServerName a.example', before)}
    there = present(files)
    assert there['/e/a.conf'] == host('ServerName a.example', after)
    assert present(there) == there
    assert absent(there) == files


@pytest.mark.parametrize(
    ('server', 'text', 'expected'),
    [
        (
            b'',
            b'<VirtualHost *:443>\n\tServerName a\n</VirtualHost>\n',
            b'<VirtualHost *:443>\n\tProtocols http/1.1 acme-tls/1\n\tServerName a\n</VirtualHost>\n',
        ),
        (b'', b'<VirtualHost *:443>\n</VirtualHost>', b'<VirtualHost *:443>\n    Protocols http/1.1 acme-tls/1\n</VirtualHost>'),
        (b'Protocols h2 http/1.1\n', b'<VirtualHost *:443>\n\n X\n', b'<VirtualHost *:443>\n Protocols h2 http/1.1 acme-tls/1\n\n X\n'),
        (b'', b'  <VirtualHost *:443>\r\n  </VirtualHost>\r\n', b'  <VirtualHost *:443>\r\n      Protocols http/1.1 acme-tls/1\r\n  </VirtualHost>\r\n'),
        (b'Protocols acme-tls/1 http/1.1\n', b'<VirtualHost *:443>\n</VirtualHost>\n', b'<VirtualHost *:443>\n</VirtualHost>\n'),
    ],
)
def test_inherited_protocols(server: bytes, text: bytes, expected: bytes) -> None:
    files = {MAIN: LOAD + server, '/e/a.conf': text}
    there = present(files)
    assert there['/e/a.conf'] == expected
    assert there[MAIN] == LOAD + server
    assert present(there) == there
    assert absent(there) == files


@pytest.mark.parametrize(
    ('address', 'engine', 'listen', 'is_meant'),
    [
        ('*:443', 'on', b'', True),
        ('*:443', '', b'', True),
        ('*:443', 'off', b'', False),
        ('*:443', '', b'Listen 443 http\n', True),  # the other Listen 443 implies https
        ('*:80 *:443', 'on', b'', True),
        ('_default_:443', 'on', b'', True),
        ('[::]:443', 'on', b'', True),
        ('[::]', 'on', b'', True),
        ('192.0.2.1:443', 'optional', b'', True),
        ('*:*', 'on', b'', True),
        ('*', 'on', b'', True),
        ('*:80', 'on', b'', False),
        ('*:8443', 'on', b'Listen 8443 https\n', False),
    ],
)
def test_which_hosts(address: str, engine: str, listen: bytes, is_meant: bool) -> None:
    lines = ['SSLEngine ' + engine] if engine else []
    assert bool(protocols.hosts_of(read({MAIN: LOAD + listen, '/e/a.conf': host(*lines, address=address)}).server, 443)) == is_meant


def test_https_is_implied_for_443_only() -> None:
    files = {MAIN: b'Listen 8443\nListen 8444 https\n', '/e/a.conf': host(address='*:8443 *:8444')}
    assert not protocols.hosts_of(read(files).server, 8443)
    assert protocols.hosts_of(read(files).server, 8444)


def test_front() -> None:
    files = {MAIN: LOAD, '/e/a.conf': host('Protocols acme-tls/1 http/1.1')}
    assert b'<IfModule !md_module>\nLoadModule md_module "/m/mod_md.so"\n</IfModule>\n' in present(files)[FRONT]
    assert FRONT not in present(files, md=True)  # mod_md is there, so is acme-tls/1: nothing to do, nothing to say
    with pytest.raises(Failed, match='no LoadModule'):
        present({MAIN: b'Listen 443\n', '/e/a.conf': host()})


def test_include_where_nothing_includes_the_front() -> None:
    for end in (b'', b'\n', b'\r\n'):
        files = {MAIN: LOAD + b'Listen 80' + end, '/e/a.conf': host()}
        there = present(files, includes_front=False)
        assert there[MAIN].rstrip().endswith(b'IncludeOptional "%s"' % FRONT.encode())
        assert absent(there) == files


def test_chosen_by_name() -> None:
    files = {MAIN: LOAD, '/e/a.conf': host('ServerName https://A.example:443') + host('ServerName b.example', 'ServerAlias *.b.example')}
    assert present(files, ['a.example'])['/e/a.conf'].count(b'acme-tls/1') == 1
    assert b'http/1.1 acme-tls/1\n    ServerName b' in present(files, ['x.b.example'])['/e/a.conf']
    with pytest.raises(Failed, match=r'c\.example: no virtual host .* \(there are: \*\.b\.example, a\.example, b\.example\)'):
        present(files, ['c.example'])
    with pytest.raises(Failed, match='no virtual host speaks TLS on port 443'):
        present({MAIN: LOAD})


def test_another_choice_takes_the_first_back() -> None:
    files = {MAIN: LOAD, '/e/a.conf': host('ServerName a') + host('ServerName b', 'Protocols h2')}
    first = present(files, ['a'])
    assert present(first, ['b']) == present(files, ['b'])
    assert absent(present(first, ['b'])) == files


def test_shared_line() -> None:
    files = {
        MAIN: LOAD,
        '/e/tls.inc': b'Protocols h2 http/1.1\n',
        '/e/a.conf': host('ServerName a', 'Include /e/tls.inc') + host('ServerName b', 'Include /e/tls.inc'),
    }
    there = present(files)
    assert there['/e/tls.inc'] == b'Protocols h2 http/1.1 acme-tls/1\n'
    assert there['/e/a.conf'] == files['/e/a.conf']
    assert absent(there) == files
    with pytest.raises(Failed, match=r'/e/tls\.inc:1: this line is also that of /e/a\.conf:5'):
        present(files, ['a'])


def test_macro_is_refused() -> None:
    config = read({MAIN: LOAD, '/e/a.conf': host()})
    section = config.server.find('<virtualhost')[0]
    place = 'macro \'vh\' (defined on line 3 of "/e/m.conf") used on line 13 of "/e/m.conf"'
    config.server.children[:] = [child for child in config.server.children if child is not section] + [section._replace(file=place)]
    base = protocols.base_of(config, 443)
    with pytest.raises(Failed, match=r'used on line 13 of "/e/m\.conf":1: .* by hand'):
        protocols.decide(base, base.hosts)


def test_edited_since() -> None:
    files = {MAIN: LOAD, '/e/a.conf': host('ServerName a', 'Protocols h2') + host('ServerName b')}
    there = present(files)
    there['/e/a.conf'] = b'# Protocols h2 acme-tls/1\n' + there['/e/a.conf'].replace(b'ServerName b', b'ServerName c')
    assert absent(there) == {MAIN: LOAD, '/e/a.conf': b'# Protocols h2 acme-tls/1\n' + files['/e/a.conf'].replace(b'ServerName b', b'ServerName c')}
    there['/e/a.conf'] = there['/e/a.conf'].replace(b'    Protocols h2 acme-tls/1', b'    Protocols h2 http/1.1 acme-tls/1')
    base = protocols.base_of(read(there), 443)
    assert base.warnings == ['/e/a.conf: "Protocols h2 acme-tls/1" is not there any more; what stands in its place is left']
    assert changed(there, protocols.decide(base, None))['/e/a.conf'].count(b'acme-tls/1') == 2  # the comment's, and the operator's


def test_front_of_somebody_else_and_damaged() -> None:
    files = {MAIN: LOAD, '/e/a.conf': host()}
    with pytest.raises(Failed, match='not of this collection'):
        protocols.base_of(read({**files, FRONT: b'Something 1\n'}), 443)
    damaged = present(files)
    damaged[FRONT] = damaged[FRONT].replace(b'"sha256"', b'sha256')
    with pytest.raises(Failed, match='damaged'):
        protocols.base_of(read(damaged), 443)


def test_endpoints() -> None:
    text = host('ServerName d.example', address='*:443')
    text += host('ServerName s.example', address='192.0.2.1:443 [2001:db8::1]:443')
    text += host('ServerName l.example', 'ServerAlias *.l.example 127.0.0.1', address='127.0.0.1:443 _default_:443')
    hosts = protocols.hosts_of(read({MAIN: LOAD, '/e/a.conf': text}).server, 443)
    seen = {address: {name: one.names[0] for name, one in names.items()} for address, names in protocols.endpoints(hosts, True).items()}
    assert seen == {
        '192.0.2.1': {'': 's.example', 's.example': 's.example'},
        '2001:db8::1': {'': 's.example', 's.example': 's.example'},
        '127.0.0.1': {'': 'l.example', 'l.example': 'l.example'},  # what has the address goes before what has all
        '::1': {'': 'd.example', 'd.example': 'd.example', 'l.example': 'l.example'},
    }
    assert '::1' not in protocols.endpoints(hosts, False)


PIECES = st.lists(
    st.sampled_from(
        [
            '<VirtualHost *:443>',
            '<VirtualHost \\\n  *:443 >',
            'ServerName x',
            'Protocols h2 http/1.1',
            'Protocols h2 \\\n\thttp/1.1',
            'Protocols http/1.1 acme-tls/1',
            '# Protocols h2',
            '',
            'X "a \\\n b"',
        ]
    ),
    max_size=12,
)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(PIECES, st.sampled_from(['\n', '\r\n']), st.booleans(), st.booleans())
def test_there_and_back(pieces: list[str], newline: str, ends: bool, tabs: bool) -> None:
    """Whatever stands in the virtual hosts: present is idempotent, each host answers then, absent gives each byte back."""
    rows: list[str] = []
    inside = False
    for piece in pieces:
        if piece.startswith('<'):
            rows += ['</VirtualHost>'] * inside + [piece]
            inside = True
        elif inside:
            rows.append(('\t' if tabs else '') + piece)
    rows += ['</VirtualHost>'] * inside
    text = '\n'.join(['<VirtualHost *:443>', '</VirtualHost>', *rows]) + ('\n' if ends else '')
    files = {MAIN: LOAD, '/e/a.conf': text.replace('\n', newline).encode()}
    there = present(files)
    assert all(one.answers for one in protocols.hosts_of(read(there).server, 443))
    assert present(there) == there
    assert absent(there) == files
