# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the stand-in for openssl understands; what it does is tested with a real httpd in tests/integration."""

from __future__ import annotations

import base64
import importlib.util
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

SOURCE = pathlib.Path(__file__).parents[4] / 'roles' / 'apache' / 'files' / 'responder.py'
spec = importlib.util.spec_from_file_location('responder', SOURCE)
assert spec is not None and spec.loader is not None
responder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(responder)


@pytest.mark.parametrize(
    ('kind', 'value', 'expected'),
    [
        ('DNS', 'a.example', 'a.example'),
        ('DNS', 'WWW.Example.COM', 'www.example.com'),
        ('DNS', 'xn--bcher-kva.example', 'xn--bcher-kva.example'),
        ('DNS', '_x.a-b.example', '_x.a-b.example'),
        ('IP', '192.0.2.1', '1.2.0.192.in-addr.arpa'),
        ('IP', '2001:DB8::1', '1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa'),
    ],
)
def test_sni(kind: str, value: str, expected: str) -> None:
    assert responder.sni_of(kind, value) == expected


@pytest.mark.parametrize(
    'value', ['', '.', '..', '../x', 'a/b', 'a..b', '.a', 'a.', '*.a.example', '-a.example', 'a\n', 'a\0b', 'ä.example', 'a' * 64, 'a.' * 127 + 'b']
)
def test_no_domain_name(value: str) -> None:
    with pytest.raises(responder.Refused):
        responder.sni_of('DNS', value)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.text(max_size=20))
def test_names_stay_in_their_directory(value: str) -> None:
    for kind in ('DNS', 'IP'):
        try:
            name = responder.sni_of(kind, value)
        except responder.Refused:
            continue
        assert '/' not in name and '\0' not in name and name.strip('.') == name and name


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('X509v3 Subject Alternative Name: \n    DNS:a.example\n', [('DNS', 'a.example')]),
        ('X509v3 Subject Alternative Name: critical\n    IP Address:192.0.2.1\n', [('IP', '192.0.2.1')]),
        ('[ v3_req ]\nsubjectAltName=DNS:a.example\n1.3.6.1.5.5.7.1.31=critical', [('DNS', 'a.example')]),
        ('subjectAltName=IP:2001:db8::1', [('IP', '2001:db8::1')]),
        ('DNS:a.example, DNS:b.example', [('DNS', 'a.example'), ('DNS', 'b.example')]),
        ('', []),
    ],
)
def test_identifiers(text: str, expected: list[tuple[str, str]]) -> None:
    assert responder.identifiers(text) == expected
    if len(expected) != 1:
        with pytest.raises(responder.Refused, match='has %d' % len(expected)):
            responder.the_identifier(text, 'x')


def test_key_authorization() -> None:
    def pem(der: bytes) -> str:
        return '-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n' % base64.encodebytes(der).decode()

    extension = bytes.fromhex('06082b0601050507011f0101ff04220420')
    assert responder.key_authorization(pem(b'x' + extension + bytes(range(32)) + b'y')) == bytes(range(32)).hex()
    for der in (b'x', extension + b'short', extension.replace(b'\x01\x01\xff', b'') + bytes(32)):  # the last is not critical
        with pytest.raises(responder.Refused):
            responder.key_authorization(pem(der))


def test_option() -> None:
    words = ['s_server', '-www', '-cert', 'C', '-alpn', 'acme-tls/1']
    assert responder.option(words, '-cert') == 'C'
    assert responder.option(words, '-alpn') == 'acme-tls/1'
    assert responder.option(words, '-key') is None
