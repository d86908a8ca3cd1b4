"""Option values that try to break out into configuration or a shell, and numbers that are no ports: refused, and nothing was touched."""

from __future__ import annotations

import os
import pathlib
import typing as t

import harness
import pytest
from servers import SERVERS, site_of

HOSTS = ['x; }', '127.0.0.1 {', '127.0.0.1;', '127.0.0.1\n', '127.0.0.1\n}', 'unix:/run/x', '/run/x', '', '$(touch x)', '"', '127.0.0.1 #']
NAMES = ['a b', 'a\n', 'a\nbackend b', 'a #', 'a"', '', 'a;b', '${HOME}']
PORTS = [0, -1, 65536, 2**31, 10**30]
VALUES = {
    'nginx_alpn_stream': [
        *(('acme_host', host) for host in HOSTS),
        *((name, port) for name in ('https_port', 'backend_port', 'acme_port') for port in PORTS),
        ('backend_port', 65535),
        ('backend_port', '8443; }'),
    ],
    'haproxy_alpn_frontend': [
        *(('acme_host', host) for host in HOSTS),
        *((name, value) for name in ('frontend', 'https_backend', 'acme_backend') for value in NAMES),
        *((name, port) for name in ('https_port', 'acme_port') for port in PORTS),
        ('inspect_delay', '5s\n'),
        ('inspect_delay', '5s }'),
        ('inspect_delay', '-5s'),
    ],
    'apache_alpn_responder': [
        *(('https_port', port) for port in PORTS),
        *(('virtual_hosts', [name]) for name in ('a b', '*', 'a\n</VirtualHost>', '', '$(touch x)')),
    ],
}


@pytest.fixture(scope='module', params=SERVERS)
def site(request: pytest.FixtureRequest) -> t.Iterator[tuple[str, t.Any]]:
    with site_of(request.param) as one:
        one.start()
        yield request.param, one


def test_value_is_refused(site: tuple[str, t.Any]) -> None:
    name, one = site
    before = one.picture()
    wrong = []
    for option, value in VALUES[name]:
        result = harness.run_module(name, one.arguments(**{option: value}), one.root)
        if not result.value.get('failed') or 'Traceback' in str(result.value) or one.picture() != before:
            wrong.append((option, value, result.value.get('msg', 'not refused')))
            one.run(state='absent')
    assert wrong == []
    for path in ('x', str(one.root / 'x')):
        assert not os.path.exists(path)


@pytest.mark.parametrize('port', PORTS)
def test_handoff_port_is_refused(port: int) -> None:
    """HAProxy's, where the handoff has one."""
    with site_of('haproxy_alpn_frontend') as one:
        one.start()
        before = one.picture()
        assert 'backend_port' in one.run(handoff='plain', backend_port=port).message
        assert one.picture() == before


CERTIFICATE = {'domains': ['a.example'], 'install': {'key': '/nowhere/key'}, 'reload': 'true', 'server': 'https://ca.example/'}


@pytest.mark.parametrize(
    ('option', 'value'),
    [
        *(
            ('domains', [name])
            for name in ('a.example; touch x', '$(touch x).example', "a.example'", 'a.example\n', '`touch x`.example', '-a.example', 'a/../b.c', '')
        ),
        *(('local_address', host) for host in (*HOSTS, "127.0.0.1'; touch x; '")),
        *(('tls_port', port) for port in PORTS),
        *(('days', days) for days in (0, -1)),
        *(('install', {'key': path}) for path in ("/tmp/a'; touch x; '", '/tmp/a\nb')),
        ('server', 'file:///etc/passwd'),
        ('server', "https://ca.example/'; touch x; '"),
        ('ca_bundle', "/tmp/a'b"),
        ('openssl_bin', "/tmp/a'; touch x; '"),
    ],
)
def test_certificate_is_refused(tmp_path: pathlib.Path, option: str, value: object) -> None:
    """Before acme.sh is started, which would keep the value in files that its renewals run as shell."""
    program = tmp_path / 'acme.sh'
    program.write_text('#!/bin/sh\ntouch "%s/started"\n' % tmp_path)
    program.chmod(0o755)
    home = tmp_path / 'home'
    arguments = {'home': str(home), 'acme_sh': str(program), **CERTIFICATE, 'install': {'key': str(tmp_path / 'key')}, option: value}
    result = harness.run_module('acme_sh_certificate', arguments, tmp_path)
    assert 'Traceback' not in result.message
    assert not (tmp_path / 'started').exists() and not home.exists()
    assert not pathlib.Path('x').exists()
