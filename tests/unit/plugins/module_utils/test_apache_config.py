# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading httpd's dumps and its line syntax."""

from __future__ import annotations

import pytest
from ansible_collections.seamless.tls_alpn.plugins.module_utils._apache_config import (
    Include,
    include_lines,
    modules_directory,
    parse_directives,
    parse_includes,
    scan,
    text_of,
    words,
)
from hypothesis import given, settings
from hypothesis import strategies as st

# As httpd 2.4.71 printed it (shortened).
INCLUDES = """\
Included configuration files:
  (*) /etc/apache2/apache2.conf
    (146) /etc/apache2/mods-enabled/ssl.load
    (225) /etc/apache2/sites-enabled/a.conf
      (20) /etc/apache2/tls.inc
    (225) /etc/apache2/sites-enabled/b.conf
ServerRoot: "/etc/apache2"
"""
CONFIG = """\
# In file: /etc/apache2/apache2.conf
#  87:
PidFile /run/apache2.pid
# 213:
LogFormat "%h %l \\"%r\\" %>s" common
# In file: /etc/apache2/sites-enabled/a.conf
#   2:
<VirtualHost *:443 [::]:443>
  #   5:
  ServerAlias www.a.example \t   other.a.example
# In file: /etc/apache2/tls.inc
  #   3:
  Protocols "h2"    http/1.1
# In file: /etc/apache2/sites-enabled/a.conf
  #  10:
  <Location /x>
    #  11:
    Require all granted
  </Location>
  #  21:
  <If "%{HTTP_HOST} == 'x'">
  #  24:
  SetEnv foo "a \\" b"
</VirtualHost>
# In file: macro 'vh' (defined on line 3 of "/etc/m.conf") used on line 13 of "/etc/m.conf"
#   1:
<VirtualHost "*:8443">
  # 1002:
  ServerName m1.example
</VirtualHost>
"""


def test_includes() -> None:
    main, includes = parse_includes(INCLUDES)
    assert main == '/etc/apache2/apache2.conf'
    assert includes == [
        Include(main, 146, '/etc/apache2/mods-enabled/ssl.load'),
        Include(main, 225, '/etc/apache2/sites-enabled/a.conf'),
        Include('/etc/apache2/sites-enabled/a.conf', 20, '/etc/apache2/tls.inc'),
        Include(main, 225, '/etc/apache2/sites-enabled/b.conf'),
    ]


def test_directives() -> None:
    server = parse_directives(CONFIG)
    assert [child.name for child in server.children] == ['pidfile', 'logformat', '<virtualhost', '<virtualhost']
    assert server.last('logformat') == ['%h %l "%r" %>s', 'common']
    first, second = server.find('<virtualhost')
    assert (first.arguments, first.file, first.line) == (['*:443', '[::]:443'], '/etc/apache2/sites-enabled/a.conf', 2)
    # The empty <If> has no end in the dump: what follows it is not in it.
    assert [child.name for child in first.children] == ['serveralias', 'protocols', '<location', '<if', 'setenv']
    protocols = first.find('protocols')[0]
    assert (protocols.arguments, protocols.file, protocols.line) == (['h2', 'http/1.1'], '/etc/apache2/tls.inc', 3)
    assert first.last('serveralias') == ['www.a.example', 'other.a.example']
    assert first.last('setenv') == ['foo', 'a " b']
    assert second.arguments == ['*:8443'] and second.file.startswith("macro 'vh'")
    assert second.find('servername')[0].line == 1002


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('a b', ['a', 'b']),
        ('  "a b"\t\'c d\' e', ['a b', 'c d', 'e']),
        ('"a \\" b"', ['a " b']),
        ("'it\\'s'", ["it's"]),
        ('C:\\path', ['C:\\path']),
        ('', []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ('data', 'expected'),
    [
        (b'A 1\nB 2\n', [('A 1', 1, 0), ('B 2', 2, 0)]),
        (b'A 1', [('A 1', 1, 0)]),
        (b'\n\n  A 1  \r\n', [('A 1', 3, 0)]),
        (b'# A\n#B \\\nC\nD\n', [('D', 4, 0)]),
        (b'A \\\n 1 \\\r\n 2\nB\n', [('A  1  2', 3, 0), ('B', 4, 0)]),
        (b'A 1 \\\n \n\\\nB', [('A 1', 2, 0), ('B', 4, 0)]),
        (b'A \\', [('A \\', 1, 0)]),
        (b'<V *>\n  A\n  <L>\n B\n</L>\n</V>\nC', [('<V *>', 1, 0), ('A', 2, 1), ('<L>', 3, 1), ('B', 4, 2), ('</L>', 5, 1), ('</V>', 6, 0), ('C', 7, 0)]),
        (b'A \xe4\xff', [('A \udce4\udcff', 1, 0)]),
        (b'', []),
    ],
)
def test_scan(data: bytes, expected: list[tuple[str, int, int]]) -> None:
    assert [(text_of(data, line), line.number, line.depth) for line in scan(data)] == expected


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.text('aA# \\\r\n<>/', max_size=40))
def test_scan_never_overlaps(text: str) -> None:
    data = text.encode()
    position = 0
    for line in scan(data):
        assert position <= line.begin < line.end <= len(data)
        assert data[line.begin : line.end] == data[line.begin : line.end].strip()
        assert line.number > data.count(b'\n', 0, line.end)
        position = line.end


def test_include_lines() -> None:
    data = b'Include a\n# Include b\nINCLUDEOPTIONAL "c/*"\n<IfModule x>\ninclude \\\n d\n</IfModule>\nIncluded e\n'
    assert [(line.number, line.depth) for line in include_lines(data)] == [(1, 0), (3, 0), (6, 1)]


def test_modules_directory() -> None:
    assert modules_directory('/etc/httpd', [b'# nothing', b'x\nLoadModule ssl_module modules/mod_ssl.so\n']) == '/etc/httpd/modules'
    assert modules_directory('/etc/apache2', [b'LoadModule ssl_module "/usr/lib/apache2/modules/mod_ssl.so"']) == '/usr/lib/apache2/modules'
    assert modules_directory('/etc/apache2', [b'#LoadModule ssl_module /x/mod_ssl.so']) is None


def test_line_numbers_of_a_large_file() -> None:
    """mod_info leaves out the blank before a number of five digits or more."""
    server = parse_directives('# In file: /e/a.conf\n#  99:\n<VirtualHost *:443>\n  #10001:\n  Protocols h2\n</VirtualHost>\n')
    assert [(one.line, [child.line for child in one.children]) for one in server.children] == [(99, [10001])]
