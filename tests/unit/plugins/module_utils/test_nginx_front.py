# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Deciding nginx's front: tables of bytes in and bytes out, and properties that hold for every configuration."""

from __future__ import annotations

import json
import pathlib
import re

import pytest
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _nginx_config, _spans
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _nginx_front as front
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed
from hypothesis import given, settings
from hypothesis import strategies as st

MAIN = '/nonexistent/nginx.conf'
FRONT = '/nonexistent/seamless-tls-alpn.conf'
NEW = front.Abilities((1, 29, 7), True, True, None)
OLD = front.Abilities((1, 18, 0), False, True, None)
CORPUS = pathlib.Path(__file__).parents[4] / 'tests' / 'corpus' / 'nginx'


def config_of(files: dict[str, bytes], includes: dict[str, list[str]] | None = None) -> _nginx_config.Config:
    return _nginx_config.Config(MAIN, files, includes or {})


def wanted(handoff: str = 'plain', https_port: int = 443, backend_port: int = 8443, acme_port: int = 10443) -> front.Wanted:
    return front.Wanted(https_port, backend_port, '127.0.0.1', acme_port, handoff)


def resolve(host: str) -> str:
    return {'localhost': '127.0.0.1', 'host.name': '192.0.2.7'}[host]


def decided(text: str | bytes, want: front.Wanted, can: front.Abilities = NEW) -> tuple[bytes, str, front.Front]:
    """Give the main file and the front's file with the front in place."""
    data = text if isinstance(text, bytes) else text.encode()
    base = front.base_of(config_of({MAIN: data}))
    made = front.decide(base, want, can, resolve)
    files = front.contents(base, made)
    return files[MAIN] or b'', (files[FRONT] or b'').decode('utf-8', 'surrogateescape'), made


INCLUDE = 'include %s;\n' % FRONT

# What stands after `listen`, what has to stand there then, and the front's own `listen`.
LISTENS = [
    ('443', '127.0.0.1:8443', '443'),
    ('443 ssl', '127.0.0.1:8443 ssl', '443'),
    ('443 ssl http2', '127.0.0.1:8443 ssl http2', '443'),
    ('443 ssl spdy', '127.0.0.1:8443 ssl spdy', '443'),
    ('443 default_server', '127.0.0.1:8443 default_server', '443'),
    ('443 ssl default', '127.0.0.1:8443 ssl default', '443'),
    ('443 default_server ssl http2', '127.0.0.1:8443 default_server ssl http2', '443'),
    ('443 ssl some_parameter_of_tomorrow=1', '127.0.0.1:8443 ssl some_parameter_of_tomorrow=1', '443'),
    ('*:443 ssl', '127.0.0.1:8443 ssl', '*:443'),
    ('0.0.0.0:443 ssl', '127.0.0.1:8443 ssl', '0.0.0.0:443'),
    ('192.0.2.1:443 ssl', '127.0.0.1:8444 ssl', '192.0.2.1:443'),
    ('192.0.2.1:443 ssl default_server', '127.0.0.1:8444 ssl default_server', '192.0.2.1:443'),
    ('127.0.0.1:443 ssl', '127.0.0.1:8444 ssl', '127.0.0.1:443'),
    ('localhost:443 ssl', '127.0.0.1:8444 ssl', 'localhost:443'),
    ('host.name:443 ssl', '127.0.0.1:8444 ssl', 'host.name:443'),
    ('[::]:443 ssl', '[::1]:8443 ssl', '[::]:443'),
    ('[::]:443 ssl http2 default_server', '[::1]:8443 ssl http2 default_server', '[::]:443'),
    ('[2001:db8::1]:443 ssl', '[::1]:8444 ssl', '[2001:db8::1]:443'),
    ('[2001:DB8:0::1]:443 ssl', '[::1]:8444 ssl', '[2001:DB8:0::1]:443'),
    ('[::1]:443 ssl', '[::1]:8444 ssl', '[::1]:443'),
    ('443 ssl reuseport', '127.0.0.1:8443 ssl', '443 reuseport'),
    ('443 reuseport ssl', '127.0.0.1:8443 ssl', '443 reuseport'),
    ('443 ssl backlog=1024', '127.0.0.1:8443 ssl', '443 backlog=1024'),
    ('443 backlog=1024 ssl reuseport http2', '127.0.0.1:8443 ssl http2', '443 backlog=1024 reuseport'),
    ('443 ssl rcvbuf=64k sndbuf=64k', '127.0.0.1:8443 ssl', '443 rcvbuf=64k sndbuf=64k'),
    ('443 ssl so_keepalive=on', '127.0.0.1:8443 ssl', '443 so_keepalive=on'),
    ('443 ssl so_keepalive=30m::10', '127.0.0.1:8443 ssl', '443 so_keepalive=30m::10'),
    ('443 ssl fastopen=256', '127.0.0.1:8443 ssl', '443 fastopen=256'),
    ('443 ssl deferred', '127.0.0.1:8443 ssl', '443'),
    ('443 ssl bind', '127.0.0.1:8443 ssl', '443 bind'),
    ('443 ssl setfib=1', '127.0.0.1:8443 ssl', '443 setfib=1'),
    ('443 ssl multipath', '127.0.0.1:8443 ssl', '443 multipath'),
    ('443 ssl accept_filter=dataready', '127.0.0.1:8443 ssl', '443'),
    ('[::]:443 ssl ipv6only=on', '[::1]:8443 ssl', '[::]:443 ipv6only=on'),
    ('[::]:443 ssl ipv6only=off', '[::1]:8443 ssl', '[::]:443 ipv6only=off'),
    ('[::]:443 ipv6only=off ssl http2 reuseport', '[::1]:8443 ssl http2', '[::]:443 ipv6only=off reuseport'),
    ('"443" ssl', '127.0.0.1:8443 ssl', '443'),
    ("'443' ssl", '127.0.0.1:8443 ssl', '443'),
    ('"*:443" "ssl"', '127.0.0.1:8443 "ssl"', '*:443'),
    ('"[::]:443" ssl', '[::1]:8443 ssl', '[::]:443'),
    ('443 "reuseport" ssl', '127.0.0.1:8443 ssl', '443 reuseport'),
    ('443  ssl', '127.0.0.1:8443  ssl', '443'),
    ('\t443\tssl', '\t127.0.0.1:8443\tssl', '443'),
    ('443 ssl ', '127.0.0.1:8443 ssl ', '443'),
    ('443\n        ssl', '127.0.0.1:8443\n        ssl', '443'),
    ('443\r\n        ssl', '127.0.0.1:8443\r\n        ssl', '443'),
    ('443 # the public port\n        ssl', '127.0.0.1:8443 # the public port\n        ssl', '443'),
    ('# the public port\n        443 ssl', '# the public port\n        127.0.0.1:8443 ssl', '443'),
    ('443 ssl # ; } {\n', '127.0.0.1:8443 ssl # ; } {\n', '443'),
    ('443 # why\n  reuseport ssl', '127.0.0.1:8443 # why\n   ssl', '443 reuseport'),
    ('443 ssl\n   reuseport\n   backlog=9', '127.0.0.1:8443 ssl', '443 reuseport backlog=9'),
]
# What stays as it is, beside a `listen 443`.
UNTOUCHED = [
    'listen 80;',
    'listen [::]:80 default_server;',
    'listen 8080 ssl;',
    'listen 4430 ssl;',
    'listen 1443 ssl;',
    'listen 443 quic reuseport;',
    'listen [::]:443 quic;',
    'listen 192.0.2.1:443 quic;',
    'listen unix:/run/nginx.sock;',
    'listen unix:/run/443:443 ssl;',
    'listen localhost;',
    'listen [::1];',
    '# listen 443 ssl;',
    'set $listen "listen 443 ssl;";',
    'add_header Alt-Svc \'h3=":443"; ma=86400\';',
    'return 301 https://$host:443$request_uri;',
    'proxy_pass https://192.0.2.9:443;',
]


def test_there_are_sixty_cases() -> None:
    assert len(LISTENS) + len(UNTOUCHED) >= 60


@pytest.mark.parametrize(('before', 'after', 'public'), LISTENS)
def test_listen(before: str, after: str, public: str) -> None:
    text = 'http {\n    server {\n        listen %s;\n        port_in_redirect off;\n    }\n}\n'
    main, content, made = decided(text % before, wanted())
    assert main.decode() == text % after + (INCLUDE.replace('\n', '\r\n') if '\r' in before else INCLUDE)
    assert '\n        listen %s;\n' % public in content


@pytest.mark.parametrize('line', UNTOUCHED)
def test_untouched(line: str) -> None:
    text = 'http {\n    server {\n        %s\n        listen %s ssl; port_in_redirect off;\n    }\n}\n'
    assert decided(text % (line, '443'), wanted())[0].decode() == text % (line, '127.0.0.1:8443') + INCLUDE


# What a server says itself or inherits (http level, server level), the handoff, and what is put behind its `listen`.
REAL = ' set_real_ip_from 127.0.0.1; set_real_ip_from ::1;'
EXTRAS = [
    ('', '', 'plain', ' port_in_redirect off;'),
    ('', '', 'pass', ' port_in_redirect off;'),
    ('', '', 'proxy_protocol', ' port_in_redirect off;' + REAL + ' real_ip_header proxy_protocol;'),
    ('port_in_redirect off;', '', 'plain', ''),
    ('port_in_redirect on;', '', 'plain', ' port_in_redirect off;'),
    ('', 'port_in_redirect off;', 'plain', ''),
    ('', 'port_in_redirect on;', 'plain', ''),
    ('port_in_redirect off;', '', 'proxy_protocol', REAL + ' real_ip_header proxy_protocol;'),
    ('', 'real_ip_header proxy_protocol;', 'proxy_protocol', ' port_in_redirect off;' + REAL),
    ('real_ip_header proxy_protocol;', '', 'proxy_protocol', ' port_in_redirect off;' + REAL + ' real_ip_header proxy_protocol;'),
]


@pytest.mark.parametrize(('http', 'server', 'handoff', 'extras'), EXTRAS)
def test_extras(http: str, server: str, handoff: str, extras: str) -> None:
    main = decided('http { %s server { %s listen 443 ssl; } }\n' % (http, server), wanted(handoff))[0].decode()
    protocol = ' proxy_protocol' if handoff == 'proxy_protocol' else ''
    assert main == 'http { %s server { %s listen 127.0.0.1:8443 ssl%s;%s } }\n' % (http, server, protocol, extras) + INCLUDE


def test_redirects_of_a_server_with_another_port_beside_are_relative() -> None:
    main = decided('http { server { listen 8080; listen 443; } }', wanted())[0].decode()
    assert 'listen 8080; listen 127.0.0.1:8443; absolute_redirect off; }' in main


@pytest.mark.parametrize(('text', 'warning'), [('return 301 https://$host:$server_port/;', '$server_port is'), ('port_in_redirect on;', 'redirects will name')])
def test_warnings_of_the_port_behind(text: str, warning: str) -> None:
    made = decided('http {\n server { listen 443;\n %s } }' % text, wanted())[2]
    assert [one for one in made.warnings if warning in one and one.startswith(MAIN + ':3')]


def test_extras_once_a_server() -> None:
    main = decided('http { server { listen 443 ssl; listen [::]:443 ssl; } server { listen 443 ssl; } }', wanted())[0].decode()
    assert main.count('port_in_redirect off;') == 2
    assert 'listen 127.0.0.1:8443 ssl; port_in_redirect off; listen [::1]:8443 ssl; }' in main


def test_redirects_of_another_public_port_are_relative() -> None:
    main = decided('http { server { listen 4433 ssl; } }\n', wanted(https_port=4433))[0].decode()
    assert main == 'http { server { listen 127.0.0.1:8443 ssl; absolute_redirect off; } }\n' + INCLUDE


@pytest.mark.parametrize('own', ['absolute_redirect on;', 'absolute_redirect off;', 'port_in_redirect off;'])
def test_redirects_are_left_to_a_server_that_says(own: str) -> None:
    text = 'http { server { %s listen %s ssl; } }\n'
    assert decided(text % (own, '4433'), wanted(https_port=4433))[0].decode() == text % (own, '127.0.0.1:8443') + INCLUDE


def test_wildcards_have_the_first_port() -> None:
    text = 'http { port_in_redirect off; server { listen 192.0.2.1:443; listen [2001:db8::1]:443; listen [::]:443; listen 443; listen 192.0.2.2:443; } }\n'
    main, dummy, made = decided(text, wanted('pass'))
    assert re.findall('listen (.*?);', main.decode()) == ['127.0.0.1:8444', '[::1]:8445', '[::1]:8443', '127.0.0.1:8443', '127.0.0.1:8446']
    assert list(made.endpoints.items())[-1] == ('127.0.0.1:8447', 'responder')


def test_without_ipv6_on_loopback() -> None:
    main = decided('http { server { listen 443; listen [::]:443; } }', wanted(), NEW._replace(loopback6=False))[0].decode()
    assert 'listen 127.0.0.1:8443;' in main and 'listen 127.0.0.1:8444;' in main


@pytest.mark.parametrize(
    ('handoff', 'can', 'header', 'chosen'),
    [
        ('auto', NEW, '', 'proxy_protocol'),
        ('auto', OLD, '', 'proxy_protocol'),
        ('auto', NEW._replace(realip=False), '', 'pass'),
        ('auto', OLD._replace(realip=False), '', 'plain'),
        ('auto', NEW, 'real_ip_header CF-Connecting-IP;', 'pass'),
        ('plain', NEW, 'real_ip_header X-Forwarded-For;', 'plain'),
        ('pass', NEW, '', 'pass'),
    ],
)
def test_handoff(handoff: str, can: front.Abilities, header: str, chosen: str) -> None:
    made = decided('http { server { %s listen 443 ssl; } }' % header, wanted(handoff), can)[2]
    assert made.handoff == chosen
    assert bool(made.warnings) == (chosen == 'plain' and handoff == 'auto')


REFUSED = [
    ('http { server { listen 80; } }', wanted(), NEW, 'no http server listens on port 443'),
    ('stream {\n server { listen 443; }\n}\nhttp { server { listen 443; } }', wanted(), NEW, '%s:2: a stream server listens on port 443' % MAIN),
    ('mail { server { listen 443; } }', wanted(), NEW, '%s:1: a mail server' % MAIN),
    ('http {\n\n server { listen 440-450; } }', wanted(), NEW, '%s:3: split this port range' % MAIN),
    ('http { server { listen 443; listen 8443; } }', wanted(), NEW, '%s:1: port 8443 is used here' % MAIN),
    ('http { server { listen 443; listen 127.0.0.1:8444; } }', wanted('pass'), NEW, 'port 8444 is used here'),
    ('stream { server { listen 8440-8450; } } http { server { listen 443; } }', wanted(), NEW, 'port 8443 is used here'),
    ('http { server { listen 443; } }', wanted('pass'), OLD, 'needs nginx 1.25.5; this is 1.18.0'),
    ('http { server { listen 443; } }', wanted('proxy_protocol'), NEW._replace(realip=False), 'without the realip module'),
    ('http {\n real_ip_header X-Real-IP;\n server { listen 443; } }', wanted('proxy_protocol'), NEW, '%s:2: the client address is taken from X-Real-IP' % MAIN),
    ('http { real_ip_header X-Real-IP; server { listen 443; } }', wanted('auto'), OLD, 'Choose handoff: plain'),
    ('http { server { listen 443 proxy_protocol; } }', wanted('pass'), NEW, 'clients speak the PROXY protocol here'),
    ('http { server { listen 443 proxy_protocol; } }', wanted('plain'), NEW, 'clients speak the PROXY protocol here'),
    ('http { server { listen 443; } }', wanted(backend_port=443), NEW, 'choose another'),
    ('http { server { listen 443; } }', wanted(acme_port=8443), NEW, 'choose another'),
    ('http { server { listen 443; } }', wanted(acme_port=443), NEW, 'round in circles'),
    ('http { server { listen 443; } }', wanted(acme_port=0), NEW, 'from 1 to 65535'),
    ('http { server { listen 443; } }', wanted(acme_port=70000), NEW, 'from 1 to 65535'),
    ('http { set_real_ip_from 10.0.0.1; server { listen 443; } }', wanted('proxy_protocol'), NEW, 'taken from X-Real-IP already'),
    ('http { server { listen 443; location / { real_ip_header X-F; } } }', wanted('proxy_protocol'), NEW, 'taken from X-F already'),
    ('http { server { listen 443; location / { if ($a) { set_real_ip_from 10.0.0.1; } } } }', wanted('proxy_protocol'), NEW, 'already'),
    ('http { server { listen 443; } }', wanted(backend_port=65536), NEW, 'choose another'),
]


@pytest.mark.parametrize(('text', 'want', 'can', 'message'), REFUSED)
def test_refused(text: str, want: front.Wanted, can: front.Abilities, message: str) -> None:
    with pytest.raises(Failed, match=re.escape(message)):
        decided(text, want, can)


def test_include_that_would_load_the_front() -> None:
    base = front.base_of(config_of({MAIN: b'http { include *.conf; server { listen 443; } }'}, {'*.conf': []}))
    with pytest.raises(Failed, match=r'include \*.conf would load'):
        front.decide(base, wanted(), NEW, resolve)


def test_shared_listen_that_needs_two_ways() -> None:
    main = b'http { server { include ssl; } server { include ssl; port_in_redirect off; } }'
    base = front.base_of(config_of({MAIN: main, '/nonexistent/ssl': b'listen 443 ssl;'}, {'ssl': ['/nonexistent/ssl']}))
    with pytest.raises(Failed, match='/nonexistent/ssl:1: the servers that include this listen'):
        front.decide(base, wanted(), NEW, resolve)


def test_shared_listen() -> None:
    main = b'http { server { include ssl; } server { include ssl; } }'
    base = front.base_of(config_of({MAIN: main, '/nonexistent/ssl': b'listen 443 ssl;'}, {'ssl': ['/nonexistent/ssl']}))
    made = front.decide(base, wanted(), NEW, resolve)
    assert front.contents(base, made)['/nonexistent/ssl'] == b'listen 127.0.0.1:8443 ssl; port_in_redirect off;'
    assert made.listens == [front.Listen('/nonexistent/ssl', 1, '443', '127.0.0.1:8443')]


def test_existing_stream_is_used() -> None:
    stream = 'stream {\n    server { listen 993; proxy_pass mail; }\n}\n'
    main, content, dummy = decided(stream + 'http { server { listen 443; port_in_redirect off; } }\n', wanted())
    assert main.decode().startswith(stream[:-2] + '    ' + INCLUDE + '}\n')
    assert 'stream {' not in content
    assert decided('stream { } http { server { listen 443; } }', wanted())[0].startswith(b'stream {  include %s; }' % FRONT.encode())


@pytest.mark.parametrize('loads', [False, True])
def test_stream_module_is_loaded_first(loads: bool) -> None:
    text = 'load_module modules/ngx_stream_module.so;\n' * loads + '# mine\nuser www;\nhttp { server { listen 443; } }\n'
    main = decided(text, wanted(), NEW._replace(stream_module='/m/ngx_stream_module.so'))[0].decode()
    assert main.count('ngx_stream_module.so') == 1
    assert ('# mine\nload_module /m/ngx_stream_module.so;\nuser www;' in main) is not loads


def test_front_of_each_handoff() -> None:
    text = 'http { server { listen 443 ssl; } }'
    routes = {
        'pass': ['pass $seamless_tls_alpn_0;', 'listen 127.0.0.1:8444;', 'proxy_pass 127.0.0.1:10443;'],
        'proxy_protocol': ['proxy_protocol on;', 'listen 127.0.0.1:8444 proxy_protocol;', 'proxy_pass 127.0.0.1:10443;'],
        'plain': ['"~^acme-tls/1$" 127.0.0.1:10443;', 'proxy_pass $seamless_tls_alpn_0;'],
    }
    for handoff, lines in routes.items():
        content = decided(text, wanted(handoff))[1]
        assert [line for line in [*lines, 'default 127.0.0.1:8443;', 'ssl_preread on;'] if line not in content] == []
        assert ('proxy_protocol' in re.sub('(?m)^#.*', '', content)) == (handoff == 'proxy_protocol')


def test_options_that_an_old_stream_does_not_know() -> None:
    dummy, content, made = decided('http { server { listen 443 ssl setfib=1 fastopen=9 backlog=5; } }', wanted(), OLD)
    assert 'listen 443 backlog=5;' in content
    assert len(made.warnings) == 2


def test_behind_a_load_balancer_without_realip() -> None:
    """What the load balancer says is believed, as nginx itself believes it in $proxy_protocol_addr."""
    content = decided('http { server { listen 443 ssl proxy_protocol; } }', wanted('auto'))[1]
    assert 'set_real_ip_from 0.0.0.0/0;' in content and 'set_real_ip_from ::/0;' in content


def test_half_closed_connections_wait_for_their_answer() -> None:
    text = 'http { server { listen 443; } }'
    for handoff, can, there in [('plain', NEW, True), ('proxy_protocol', NEW, True), ('pass', NEW, False), ('plain', OLD, False)]:
        assert ('proxy_half_close on;' in decided(text, wanted(handoff), can)[1]) == there


def test_files_in_an_order_that_no_reload_in_between_can_harm() -> None:
    """The port is never without an owner: a reload in between finds two who want it (and nginx goes on as it was), not none."""
    site = '/nonexistent/site'
    base = front.base_of(config_of({MAIN: b'http { include site; }', site: b'server { listen 443; }'}, {'site': [site]}))
    made = front.decide(base, wanted(), NEW, resolve)
    [up] = front.steps(base.config, base, made, True)
    assert list(up) == [FRONT, MAIN, site]
    current = placed(base, made)
    between, original = front.steps(current, front.base_of(current), None, True)
    assert list(between) == [site, MAIN, FRONT] and list(original) == [site, MAIN, FRONT]


def test_long_records() -> None:
    """nginx refuses a comment of more than 4096 bytes."""
    text = 'http {\n' + 'server { listen 443 ssl; listen [::]:443 ssl; }\n' * 200 + '}\n'
    base = front.base_of(config_of({MAIN: text.encode()}))
    made = front.decide(base, wanted('proxy_protocol'), NEW, resolve)
    assert max(map(len, made.content.splitlines())) < 2048
    assert front.base_of(placed(base, made)).config.data[MAIN] == text.encode()


def test_behind_a_load_balancer() -> None:
    text = 'http { set_real_ip_from 10.0.0.0/8; real_ip_header proxy_protocol; server { listen 443 ssl proxy_protocol; } }'
    main, content, dummy = decided(text, wanted('auto'))
    assert 'listen 443 proxy_protocol;' in content and 'set_real_ip_from 10.0.0.0/8;' in content
    assert main.count(b'proxy_protocol;') == 3


def placed(base: front.Base, made: front.Front) -> _nginx_config.Config:
    """Give the configuration with the front in place, as it would be read again."""
    data = {path: content for path, content in base.config.data.items() if path != FRONT}
    data.update({path: content for path, content in front.contents(base, made).items() if content is not None})
    return config_of(data, {**base.config.includes, FRONT: [FRONT]})


SITES = b'http {\n    server { listen 443 ssl; server_name a; }\n    server { listen 443 ssl http2; server_name b; }\n}\n'


def edited(old: bytes, new: bytes) -> tuple[front.Base, bytes]:
    """Put the front up, let an operator edit the main file, and read that again; give also what stands there without the front."""
    base = front.base_of(config_of({MAIN: SITES}))
    current = placed(base, front.decide(base, wanted(), NEW, resolve))
    assert old in current.data[MAIN]
    again = front.base_of(config_of({**current.data, MAIN: current.data[MAIN].replace(old, new)}, current.includes))
    return again, again.config.data[MAIN]


def test_edited_beside() -> None:
    again, text = edited(b'server_name a;', b'server_name a www.a;')
    assert (text, again.warnings) == (SITES.replace(b'server_name a;', b'server_name a www.a;'), [])


def test_edited_listen_keeps_what_was_added() -> None:
    again, text = edited(b'127.0.0.1:8443 ssl http2;', b'127.0.0.1:8443 ssl http2 default_server;')
    assert (text, again.warnings) == (SITES.replace(b'443 ssl http2;', b'443 ssl http2 default_server;'), [])


# A configuration, what an operator changes in it while the front is there (old, new), and what has to be there without the front then.
SINCE = [
    ('http { server { listen 443; } }', 'http {', 'http { gzip on;', 'http { gzip on; server { listen 443; } }'),
    ('http { server { listen 443; } } # end', 'alpn.conf;\n', 'alpn.conf;\ninclude x;\n', 'http { server { listen 443; } } # end\ninclude x;\n'),
    ('# mine\nhttp { server { listen 443; } } # end', '# mine', '# ours', '# ours\nhttp { server { listen 443; } } # end'),
    ('stream {\n}\nhttp { server { listen 443; } }\n', 'http {', 'http { gzip on;', 'stream {\n}\nhttp { gzip on; server { listen 443; } }\n'),
    ('stream { }\nhttp { server { listen 443; } }\n', 'http {', 'http { gzip on;', 'stream { }\nhttp { gzip on; server { listen 443; } }\n'),
    ('stream {\n}\nhttp { server { listen 443; } }\n', '    include', '\tinclude', 'stream {\n\t\n}\nhttp { server { listen 443; } }\n'),
    ('http { server { listen 443 ssl reuseport; } }\n', ':8443 ssl;', ':8443 ssl http2;', 'http { server { listen 443 ssl http2 reuseport; } }\n'),
    ('http { server { listen 443 backlog=9 ssl; } }\n', ':8443 ssl; port', ':8443; port', 'http { server { listen 443 backlog=9; } }\n'),
    ('http { server { listen *:443 ssl; } }\n', 'port_in_redirect off;', '', 'http { server { listen *:443 ssl;  } }\n'),
    ('http { server { listen "[::]:443" ssl; } }\n', '[::1]:8443 ssl;', '[::1]:8443 ssl x;', 'http { server { listen "[::]:443" ssl x; } }\n'),
    (
        'http { server { listen 443 ssl; } }\n', 'http { ', 'http { # listen 127.0.0.1:8443 ssl; port_in_redirect off;\n',
        'http { # listen 127.0.0.1:8443 ssl; port_in_redirect off;\nserver { listen 443 ssl; } }\n',
    ),
]  # fmt: skip


@pytest.mark.parametrize(('text', 'old', 'new', 'expected'), SINCE)
def test_edited_since(text: str, old: str, new: str, expected: str) -> None:
    base = front.base_of(config_of({MAIN: text.encode()}))
    current = placed(base, front.decide(base, wanted(), NEW, resolve))
    data = current.data[MAIN].decode()
    assert data.count(old) == 1
    again = front.base_of(config_of({**current.data, MAIN: data.replace(old, new).encode()}, current.includes))
    assert (again.config.data[MAIN].decode(), again.warnings) == (expected, [])


def test_edited_since_with_the_proxy_protocol() -> None:
    base = front.base_of(config_of({MAIN: SITES}))
    current = placed(base, front.decide(base, wanted('proxy_protocol'), NEW, resolve))
    data = current.data[MAIN].replace(b':8443 ssl http2 proxy_protocol;', b':8443 ssl proxy_protocol http2 default_server;')
    assert data != current.data[MAIN]
    again = front.base_of(config_of({**current.data, MAIN: data}, current.includes))
    assert (again.config.data[MAIN], again.warnings) == (SITES.replace(b'443 ssl http2;', b'443 ssl http2 default_server;'), [])


def test_stream_module_is_unloaded_in_an_edited_file() -> None:
    base = front.base_of(config_of({MAIN: b'user www;\n' + SITES}))
    current = placed(base, front.decide(base, wanted(), NEW._replace(stream_module='/m/ngx_stream_module.so'), resolve))
    data = current.data[MAIN].replace(b'user www;', b'user www-data;')
    again = front.base_of(config_of({**current.data, MAIN: data}, current.includes))
    assert (again.config.data[MAIN], again.warnings) == (b'user www-data;\n' + SITES, [])


def test_addresses_that_are_trusted_already_stay_so() -> None:
    """A server's own set_real_ip_from takes the place of all those from outside, which its port 80 needs."""
    text = 'http { set_real_ip_from 10.0.0.0/8; real_ip_header proxy_protocol; server { listen 80 proxy_protocol; listen 443 ssl proxy_protocol;%s } }\n'
    main = decided(text % '', wanted('auto'))[0].decode()
    assert (
        main
        == text.replace('listen 443', 'listen 127.0.0.1:8443')
        % (' port_in_redirect off;' + REAL + ' set_real_ip_from 10.0.0.0/8; real_ip_header proxy_protocol;')
        + INCLUDE
    )


@pytest.mark.parametrize(('pattern', 'path'), [('sites/*', 'alias/x'), ('alias/*', 'sites/x'), ('sites/*', 'sites/x')])
def test_include_that_would_load_a_backup(pattern: str, path: str, tmp_path: pathlib.Path) -> None:
    """Also by way of a link."""
    (tmp_path / 'sites').mkdir()
    (tmp_path / 'alias').symlink_to('sites')
    (tmp_path / 'nginx.conf').write_text('http { include %s; }' % pattern)
    config = _nginx_config.read(str(tmp_path / 'nginx.conf'))
    with pytest.raises(Failed, match='include %s would load' % re.escape(pattern)):
        front.refuse_included(config, str(tmp_path / path))
    front.refuse_included(config, str(tmp_path / 'elsewhere' / 'x'))


def test_address_that_one_server_says_is_proxied_is_so_for_all() -> None:
    """`proxy_protocol` belongs to the address, whichever server says it (ngx_http_core_listen)."""
    for texts in (['443 proxy_protocol', '443'], ['443', '443 proxy_protocol']):
        content = decided('http { %s }' % ' '.join('server { listen %s; }' % text for text in texts), wanted('auto'))[1]
        assert '    listen 443 proxy_protocol;\n' in content


def test_disabled_site_is_put_back_as_well(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'nginx.conf').write_bytes(b'events {}\nhttp {\n include sites/*;\n server { listen 443; }\n}\n')
    (tmp_path / 'sites').mkdir()
    (tmp_path / 'site').write_bytes(b'server { listen 443; server_name a; }')
    (tmp_path / 'sites' / 'a').symlink_to('../site')
    main = str(tmp_path / 'nginx.conf')
    base = front.base_of(front.with_front(_nginx_config.read(main)))
    for path, content in front.contents(base, front.decide(base, wanted(), NEW, resolve)).items():
        pathlib.Path(path).write_bytes(content or b'')
    assert (tmp_path / 'site').read_bytes() == b'server { listen 127.0.0.1:8443; port_in_redirect off; server_name a; }'
    (tmp_path / 'sites' / 'a').unlink()
    current = front.with_front(_nginx_config.read(main))
    base = front.base_of(current)
    [files] = front.steps(current, base, front.decide(base, wanted(), NEW, resolve), True)
    assert files[str(tmp_path / 'site')] == b'server { listen 443; server_name a; }'
    (tmp_path / 'site').unlink()
    assert front.base_of(front.with_front(_nginx_config.read(main))).warnings == ['%s: this file is not there any more' % (tmp_path / 'site')]


def test_removed_site() -> None:
    again, text = edited(b'    server { listen 127.0.0.1:8443 ssl http2; port_in_redirect off; server_name b; }\n', b'')
    assert text == SITES.replace(b'    server { listen 443 ssl http2; server_name b; }\n', b'')
    assert len(again.warnings) == 1 and '127.0.0.1:8443 ssl http2' in again.warnings[0]


def test_added_site_joins() -> None:
    again, text = edited(b'http {\n', b'http {\n    server { listen 443 ssl; server_name c; }\n')
    made = front.decide(again, wanted(), NEW, resolve)
    assert len(made.listens) == 3 and not front.needs_handing_back(again, made)


def test_comment_with_the_same_words_is_left() -> None:
    comment = b'# listen 127.0.0.1:8443 ssl; port_in_redirect off;\n'
    again, text = edited(b'http {\n', comment + b'http {\n')
    assert text == comment + SITES


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda text: text.replace(b'"sha256"', b'"sha257"'), 'a record is damaged'),
        (lambda text: re.sub(rb'record: \{.*', b'record: {', text), 'a record is damaged'),
        (lambda text: b'# something else\n', 'not of this collection'),
    ],
)
def test_damaged_front(damage: object, message: str) -> None:
    base = front.base_of(config_of({MAIN: SITES}))
    current = placed(base, front.decide(base, wanted(), NEW, resolve))
    with pytest.raises(Failed, match=message):
        front.base_of(config_of({**current.data, FRONT: damage(current.data[FRONT])}, current.includes))  # type: ignore[operator]


def test_steps() -> None:
    base = front.base_of(config_of({MAIN: SITES}))
    made = front.decide(base, wanted(), NEW, resolve)
    assert len(front.steps(base.config, base, made, True)) == 1
    current = placed(base, made)
    base = front.base_of(current)
    assert front.steps(current, base, front.decide(base, wanted(), NEW, resolve), True) == []
    assert len(front.steps(current, base, front.decide(base, wanted(acme_port=10444), NEW, resolve), True)) == 1
    assert len(front.steps(current, base, front.decide(base, wanted('pass'), NEW, resolve), True)) == 3
    assert len(front.steps(current, base, front.decide(base, wanted('pass'), NEW, resolve), False)) == 1
    between, original = front.steps(current, base, None, True)
    assert original == {MAIN: SITES, FRONT: None}
    assert between == {
        MAIN: SITES.replace(b'listen 443 ssl;', b'listen 443 ssl; listen 127.0.0.1:8443 ssl; port_in_redirect off;').replace(
            b'listen 443 ssl http2;', b'listen 443 ssl http2; listen 127.0.0.1:8443 ssl http2; port_in_redirect off;'
        ),
        FRONT: None,
    }


PARAMETERS = st.lists(
    st.sampled_from(['ssl', 'http2', 'default_server', 'reuseport', 'backlog=9', '"ssl"', '# c\n', 'proxy_protocol', 'so_keepalive=on', 'new=1']),
    max_size=4,
    unique=True,
)
ADDRESSES = st.sampled_from(['443', '*:443', '[::]:443', '192.0.2.1:443', '[2001:db8::1]:443', 'localhost:443', '"443"', '80', '8080', 'unix:/x', '444'])
SPACE = st.sampled_from([' ', '\t', '\n  ', '\r\n', ' # x; }\n '])
FILLING = st.sampled_from(['', 'server_name a;', '# listen 443;\n', 'root "/a b";', 'if ($a = "}") { return 1; }', 'location / { return 200 "{"; }', 'x ${y};'])


@st.composite
def configurations(draw: st.DrawFn) -> bytes:
    servers = []
    for _number in range(draw(st.integers(1, 4))):
        listens = []
        for _other in range(draw(st.integers(0, 3))):
            space = draw(SPACE)
            listens.append('listen' + space + space.join([draw(ADDRESSES), *draw(PARAMETERS)]) + draw(st.sampled_from([';', ' ;', '\n;'])))
        servers.append('server {' + draw(SPACE) + draw(FILLING) + draw(SPACE).join(listens) + draw(FILLING) + '}')
    text = 'events { }' + draw(SPACE) + 'http {\n' + draw(SPACE).join(servers) + '\n}' + draw(st.sampled_from(['', '\n', '\r\n', '# end']))
    return text.encode()


@settings(deadline=None, derandomize=True, max_examples=300)
@given(configurations(), st.sampled_from(['plain', 'pass', 'proxy_protocol', 'auto']))
def test_properties(data: bytes, handoff: str) -> None:
    """No byte outside a listen changes; absent gives every byte back; a second run has nothing to do."""
    base = front.base_of(config_of({MAIN: data}))
    try:
        made = front.decide(base, wanted(handoff), NEW, resolve)
    except Failed:
        return
    for edit in made.edits[MAIN]:
        assert data[edit.begin : edit.end].startswith(b'listen') and data[edit.begin : edit.end].endswith(b';') or edit.begin == edit.end
    current = placed(base, made)
    again = front.base_of(current)
    assert again.config.data[MAIN] == data and again.warnings == []
    second = front.decide(again, wanted(handoff), NEW, resolve)
    assert front.steps(current, again, second, True) == []
    for files in front.steps(current, again, None, True):
        _nginx_config.parse(files[MAIN] or b'')


@settings(deadline=None, derandomize=True, max_examples=150)
@given(configurations(), st.sampled_from(['plain', 'pass', 'proxy_protocol']), st.integers(0, 100))
def test_what_an_operator_adds_stays(data: bytes, handoff: str, place: int) -> None:
    """A directive put anywhere beside what the front changed: it is there without the front, and every other byte is as it was."""
    base = front.base_of(config_of({MAIN: data}))
    try:
        made = front.decide(base, wanted(handoff), NEW, resolve)
    except Failed:
        return
    edits = made.edits[MAIN]
    places = [one.statement.begin for one in base.config.places() if not any(edit.begin <= one.statement.begin < edit.end for edit in edits)]
    offset = places[place % len(places)]
    moved = offset + sum(len(edit.text) - (edit.end - edit.begin) for edit in edits if edit.begin < offset)
    current = placed(base, made)
    text = current.data[MAIN][:moved] + b'gzip on; ' + current.data[MAIN][moved:]
    again = front.base_of(config_of({**current.data, MAIN: text}, current.includes))
    assert (again.config.data[MAIN], again.warnings) == (data[:offset] + b'gzip on; ' + data[offset:], [])


# How many `listen` directives move, counted by eye.
MOVES = {
    'addresses': 4, 'behind_load_balancer': 1, 'caching': 1, 'client_certificates': 1, 'cloudflare': 2, 'dual_stack_socket': 1,
    'gitlab_omnibus': 1, 'grpc': 1, 'http3': 2, 'lua': 1, 'mail_by_sni': 2, 'mail_proxy': 1, 'many_names': 2, 'nextcloud': 2, 'one_line': 1,
    'quoted': 2, 'rate_limits': 1, 'redirects': 2, 'regexes': 1, 'rejecting_default': 4, 'reverse_proxy': 1, 'scattered': 2,
    'tuned_sockets': 4, 'websockets': 1, 'wordpress': 2,
}  # fmt: skip


@pytest.mark.parametrize('path', sorted(CORPUS.glob('*.conf')), ids=lambda path: path.stem)
@pytest.mark.parametrize('handoff', ['plain', 'pass', 'proxy_protocol'])
@pytest.mark.parametrize('variant', ['as it is', 'CRLF', 'Latin-1', 'no final newline', 'BOM in a comment'])
def test_corpus(path: pathlib.Path, handoff: str, variant: str) -> None:
    """Realistic configurations: what is moved is what a person would move, every byte comes back, a second run finds nothing to do."""
    data = path.read_bytes()
    data = {
        'as it is': data,
        'CRLF': data.replace(b'\n', b'\r\n'),
        'Latin-1': b'# caf\xe9\n' + data,
        'no final newline': data.rstrip(b'\n'),
        'BOM in a comment': b'# \xef\xbb\xbf\n' + data,
    }[variant]
    base = front.base_of(config_of({MAIN: data}))
    for refused in re.finditer(rb'^# refused(?: with (\w+))?: (.*?)\r?$', data, re.M):
        if refused[1] is None or refused[1].decode() == handoff:
            with pytest.raises(Failed, match=re.escape(refused[2].decode())):
                front.decide(base, wanted(handoff), NEW, resolve)
            return
    made = front.decide(base, wanted(handoff), NEW, resolve)
    moved = [edit for edit in made.edits[MAIN] if edit.end > edit.begin]
    assert len(moved) == MOVES[path.stem]
    assert [edit for edit in moved if not re.match(rb'listen\b[^;]*443', data[edit.begin : edit.end])] == []
    current = placed(base, made)
    again = front.base_of(current)
    assert again.config.data[MAIN] == data
    assert front.steps(current, again, front.decide(again, wanted(handoff), NEW, resolve), True) == []


def test_corpus_is_large_enough() -> None:
    assert len(list(CORPUS.glob('*.conf'))) >= 25


def test_meta_is_json() -> None:
    content = decided('http { server { listen 443; listen 192.0.2.1:443; } }', wanted('pass'))[1]
    meta = json.loads(re.findall('front: (.*)', content)[0])
    assert meta['endpoints'] == {'127.0.0.1:8443': '0.0.0.0', '127.0.0.1:8444': '192.0.2.1', '127.0.0.1:8445': 'responder'}
    assert [record.path for record in _spans.read_records(content.encode())] == [MAIN]
