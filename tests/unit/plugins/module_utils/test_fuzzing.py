# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What fuzzing found once (tests/fuzz/found), and input so large or deep that anything but linear work would not end."""

from __future__ import annotations

import base64
import pathlib
import typing as t

import pytest
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _acme_sh, _apache_config, _nginx_config, _spans
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _haproxy_config as hc
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed
from ansible_collections.seamless.tls_alpn.tests.unit.plugins.module_utils import fuzzing

FOUND = sorted((pathlib.Path(__file__).parents[3] / 'fuzz' / 'found').glob('*/*'))
SIZE = 500_000


@pytest.mark.parametrize('path', FOUND, ids=lambda path: '%s-%s' % (path.parent.name, path.name))
def test_found(path: pathlib.Path) -> None:
    fuzzing.PROPERTIES[path.parent.name](base64.b64decode(path.read_bytes()))


@pytest.mark.parametrize(('name', 'number'), [(name, number) for name, seeds in fuzzing.SEEDS.items() for number in range(len(seeds))])
def test_seeds(name: str, number: int) -> None:
    fuzzing.PROPERTIES[name](fuzzing.SEEDS[name][number])


def _nginx(data: bytes) -> None:
    _nginx_config.parse(data)


def _haproxy(data: bytes) -> None:
    hc.parse([hc.Source('h', ['h'], False)], {'h': data}, {})


def _apache(data: bytes) -> None:
    list(_apache_config.scan(data))
    text = data.decode('latin-1')
    _apache_config.words(text)
    _apache_config.parse_directives('# In file: /a\n' + text)
    _apache_config.parse_includes(text)


def _settings(data: bytes) -> None:
    _acme_sh.edit_settings(data, {'Le_TLSPort': '1'})


def _records(data: bytes) -> None:
    _spans.read_records(data)


LARGE = [
    *((_nginx, begin, piece) for begin, piece in [(b'', b'a'), (b'', b'a b;\n'), (b'', b'a{'), (b'"', b'x'), (b'"', b'\\"'), (b'', b'#'), (b'', b'${')]),
    *((_haproxy, begin, piece) for begin, piece in [(b'', b'a'), (b'"', b'$'), (b'a "', b'${A-'), (b'', b'\\'), (b'', b"'"), (b'', b'.if a\n')]),
    *((_apache, b'', piece) for piece in [b'a', b'\\\n', b' \n', b'<a>\n', b'"', b'\\"', b'  (1) a\n', b'a \\\n']),
    *((_settings, b'', piece) for piece in [b'a', b"Le_TLSPort=''\n", b"a='", b'A=']),
    *((_records, b'', piece) for piece in [_spans.RECORD, b'# seamless.tls_alpn ...: \n', b'[']),
    (_records, _spans.RECORD, b'['),
]


@pytest.mark.parametrize(('read', 'begin', 'piece'), LARGE, ids=lambda value: value.__name__ if callable(value) else repr(value))
def test_large(read: t.Callable[[bytes], None], begin: bytes, piece: bytes) -> None:
    """No size makes a reader stop with anything but its own message; what takes the square of it would not end."""
    try:
        read(begin + piece * (SIZE // len(piece)))
    except (Failed, ValueError) as error:
        assert str(error)
