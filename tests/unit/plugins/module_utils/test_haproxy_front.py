# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Deciding for HAProxy: which binds are public, what becomes of each, and that absent is the inverse of present."""

from __future__ import annotations

import pathlib
import re

import pytest
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _haproxy_config as hc
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _haproxy_front as hf
from ansible_collections.seamless.tls_alpn.plugins.module_utils._probe import Endpoint
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed
from hypothesis import given, settings
from hypothesis import strategies as st

ENVIRONMENT = {'PORT': '443', 'IP': '192.0.2.1', 'BOTH': ':443,:8443', 'WORDS': ':443 ssl'}
CORPUS = sorted((pathlib.Path(__file__).parents[3] / 'corpus' / 'haproxy').glob('*.cfg'))
ABNS = 'abns@seamless-fe_alpn accept-proxy'
PLAIN = '127.0.0.1:9443'

# A bind's arguments; what it has after; what the front's bind has.
MOVED = [
    (':443 ssl crt /a.pem', ABNS + ' ssl crt /a.pem', ':443'),
    ('*:443 ssl crt /a.pem', ABNS + ' ssl crt /a.pem', '*:443'),
    ('0.0.0.0:443 ssl crt /a.pem', ABNS + ' ssl crt /a.pem', '0.0.0.0:443'),
    ('192.0.2.1:443 ssl crt /a.pem', ABNS + ' ssl crt /a.pem', '192.0.2.1:443'),
    ('[::]:443 ssl crt /a.pem', ABNS + ' ssl crt /a.pem', '[::]:443'),
    (':::443 ssl crt /a.pem', ABNS + ' ssl crt /a.pem', ':::443'),
    ('2001:db8::1:443 ssl', ABNS + ' ssl', '2001:db8::1:443'),
    ('[2001:db8::1]:443 ssl', ABNS + ' ssl', '[2001:db8::1]:443'),
    ('ipv4@:443 ssl', ABNS + ' ssl', 'ipv4@:443'),
    ('ipv4@192.0.2.1:443 ssl', ABNS + ' ssl', 'ipv4@192.0.2.1:443'),
    ('ipv6@:443 ssl', ABNS + ' ssl', 'ipv6@:443'),
    ('ipv6@[::1]:443 ssl', ABNS + ' ssl', 'ipv6@[::1]:443'),
    ('tcp4@:443 ssl', ABNS + ' ssl', 'tcp4@:443'),
    ('tcp@192.0.2.1:443 ssl', ABNS + ' ssl', 'tcp@192.0.2.1:443'),
    ('www.example.org:443 ssl', ABNS + ' ssl', 'www.example.org:443'),
    (':443', ABNS, ':443'),
    ('":443" ssl', ABNS + ' ssl', '":443"'),
    ("':443' ssl", ABNS + ' ssl', "':443'"),
    (':4\\43 ssl', None, None),  # a backslash before a digit stands for itself: no port
    (':\\x34\\x343 ssl', ABNS + ' ssl', ':\\x34\\x343'),
    ('":${PORT}" ssl', ABNS + ' ssl', '":${PORT}"'),
    ('"$IP:$PORT" ssl', ABNS + ' ssl', '"$IP:$PORT"'),
    ('"${NOWHERE-192.0.2.9}:443" ssl', ABNS + ' ssl', '"${NOWHERE-192.0.2.9}:443"'),
    (':443,[::]:443 ssl', ABNS + ' ssl', ':443,[::]:443'),
    ('192.0.2.1:443,192.0.2.2:443 ssl crt /a', ABNS + ' ssl crt /a', '192.0.2.1:443,192.0.2.2:443'),
    (':443,:8443 ssl crt /a', ':8443 ssl crt /a\n  bind ' + ABNS + ' ssl crt /a', ':443'),
    (':8443,:443 ssl crt /a', ':8443 ssl crt /a\n  bind ' + ABNS + ' ssl crt /a', ':443'),
    ('":443,:8443" ssl', ':8443 ssl\n  bind ' + ABNS + ' ssl', ':443'),
    (':443,unix@/run/x ssl', 'unix@/run/x ssl\n  bind ' + ABNS + ' ssl', ':443'),
    (':443,quic4@:443 ssl', 'quic4@:443 ssl\n  bind ' + ABNS + ' ssl', ':443'),
    (':440-450 ssl', ':440-442,:444-450 ssl\n  bind ' + ABNS + ' ssl', ':443'),
    (':443-444 ssl', ':444 ssl\n  bind ' + ABNS + ' ssl', ':443'),
    ('192.0.2.1:442-443 ssl', '192.0.2.1:442 ssl\n  bind ' + ABNS + ' ssl', '192.0.2.1:443'),
    ('ipv4@:441-443,[::]:443 ssl', 'ipv4@:441-442 ssl\n  bind ' + ABNS + ' ssl', 'ipv4@:443,[::]:443'),
    (':443-443 ssl', ABNS + ' ssl', ':443-443'),
    (':443 v4v6 ssl', ABNS + ' ssl', ':443 v4v6'),
    (':::443 v4v6 ssl crt /a', ABNS + ' ssl crt /a', ':::443 v4v6'),
    (':::443 v6only ssl', ABNS + ' ssl', ':::443 v6only'),
    (':443 interface eth0 ssl', ABNS + ' ssl', ':443 interface eth0'),
    (':443 ssl crt /a interface eth0 alpn h2', ABNS + ' ssl crt /a alpn h2', ':443 interface eth0'),
    (':443 ssl transparent', ABNS + ' ssl', ':443 transparent'),
    (':443 tfo backlog 100 defer-accept mss 1400 tcp-ut 30s ssl', ABNS + ' ssl', ':443 tfo backlog 100 defer-accept mss 1400 tcp-ut 30s'),
    (':443 namespace blue ssl', ABNS + ' ssl', ':443 namespace blue'),
    (':443 shards by-thread ssl', ABNS + ' ssl', ':443 shards by-thread'),
    (':443 accept-proxy ssl', ABNS + ' ssl', ':443 accept-proxy'),
    (':443 ssl accept-proxy crt /a', ABNS + ' ssl crt /a', ':443 accept-proxy'),
    (':443 ssl crt interface v4v6', ABNS + ' ssl crt interface', ':443 v4v6'),  # a certificate named "interface"
    (':443 name tfo ssl', ABNS + ' name tfo ssl', ':443'),
    (':443 ssl crt-list /l.txt alpn h2,http/1.1 strict-sni', ABNS + ' ssl crt-list /l.txt alpn h2,http/1.1 strict-sni', ':443'),
    (':443 ssl crt "/a b.pem" ciphers A:B', ABNS + ' ssl crt "/a b.pem" ciphers A:B', ':443'),
    (':443 name https id 7 maxconn 100 nice 5 process 1 thread 1-4', ABNS + ' name https id 7 maxconn 100 nice 5 process 1 thread 1-4', ':443'),
    (':443   ssl  crt\t/a # comment :443', ABNS + '   ssl  crt\t/a # comment :443', ':443'),
    (':443 ssl#comment', ABNS + ' ssl#comment', ':443'),
    ('quic4@:443 ssl', None, None),
    ('quic6@[::]:443 ssl', None, None),
    ('udp@:443', None, None),
    ('unix@/run/haproxy/443', None, None),
    ('/run/haproxy:443', None, None),
    ('abns@web:443', None, None),
    ('abns@seamless-other accept-proxy', None, None),
    ('fd@443', None, None),
    ('sockpair@443', None, None),
    (':80', None, None),
    (':4430 ssl', None, None),
    (':8443 ssl', None, None),
    (':444-450 ssl', None, None),
    ('127.0.0.1:1443', None, None),
    ("':${PORT}' ssl", None, None),  # strong quotes: no variable, and no port
    (':80 # :443', None, None),
]

REFUSED = [
    ('frontend a\n  bind "$BOTH" ssl\n', r'/h\.cfg:2: ":443,:8443" has port 443 among others and comes from a variable'),
    ('frontend a\n  bind "${WORDS[*]}"\n', r'/h\.cfg:2: this bind gets several words from one variable'),
    ('frontend fe_alpn\n  bind :443\n', r'/h\.cfg:1: there is a frontend "fe_alpn" already; give frontend another name'),
    ('frontend a\n  bind :443\nbackend bk_acmesh\n', r'/h\.cfg:3: there is a backend "bk_acmesh" already; give acme_backend another name'),
    ('frontend a\n  bind :443\nlisten bk_https\n', r'/h\.cfg:3: there is a listen "bk_https" already; give https_backend another name'),
    ('frontend a\n  bind :443\n  bind :::443\nbackend bk_https_2\n', r'/h\.cfg:4: there is a backend "bk_https_2" already'),
    ('frontend a\n  bind :80\n', r'no bind on port 443 was found in /h\.cfg'),
    ('peers p\n  bind :443\n', r'no bind on port 443 was found'),
    ('frontend a\n  bind :443\n  use_backend b if { req.ssl_alpn acme-tls/1 }\n', r'/h\.cfg:3: this port has a front for acme-tls/1 already'),
    ('frontend a\n  bind :443\n  acl acme req.ssl_alpn acme-tls/1\n', r'/h\.cfg:3: this port has a front for acme-tls/1 already'),
    ('frontend a\n  bind :443\n  tcp-request connection expect-proxy layer4 if { src 10.0.0.1 }\n', r'/h\.cfg:3: this rule needs the client'),
    ('defaults d\n  tcp-request connection accept\nfrontend a\n  bind :443\n', r'/h\.cfg:2: this rule needs the client'),
    ('frontend a\n  bind "\n', r'/h\.cfg:2: a quote has no end'),
]


def config_of(files: dict[str, bytes], directory: str | None = None) -> hc.Config:
    """Give the configuration of these files: one `-f` each, or one `-f` of the directory for all that lie in it."""
    inside = sorted(path for path in files if directory is not None and path.startswith(directory + '/'))
    sources = [hc.Source(path, [path], False) for path in files if path not in inside]
    return hc.parse(sources + ([hc.Source(directory, inside, True)] if directory is not None else []), files, ENVIRONMENT)


def present(config: hc.Config, **wishes: object) -> hf.Decision:
    return hf.decide(config, 'present', hf.Wishes(**wishes), ENVIRONMENT)


def absent(config: hc.Config) -> hf.Decision:
    return hf.decide(config, 'absent', hf.Wishes(), ENVIRONMENT)


def applied(config: hc.Config, decision: hf.Decision, stage: int = -1, directory: str | None = None) -> hc.Config:
    """Give the configuration after one of the decision's stages."""
    changes = decision.stages[stage] if decision.stages else {}
    files = {path: data for path, data in {**config.data, **changes}.items() if data is not None}
    return config_of(files, directory)


def site(bind: str) -> bytes:
    return (
        'global\n  daemon\n\ndefaults\n  mode http\n\nfrontend www\n  bind %s\n  default_backend app\n\nbackend app\n  server a 127.0.0.1:8080\n' % bind
    ).encode()


def without_block(data: bytes) -> bytes:
    return re.sub(rb'# BEGIN seamless.*?# END seamless\.tls_alpn\n\n', b'', data, flags=re.S)


@pytest.mark.parametrize(('bind', 'after', 'front'), MOVED)
def test_bind(bind: str, after: str | None, front: str | None) -> None:
    """The line afterwards, byte for byte; the front's bind; nothing else changed; and back."""
    config = config_of({'/h.cfg': site(bind)})
    if after is None:
        with pytest.raises(Failed, match='no bind on port 443'):
            present(config)
        return
    decision = present(config)
    data = decision.stages[-1]['/h.cfg']
    assert len(decision.stages) == 1
    assert without_block(data) == site(after)
    assert b'\nfrontend fe_alpn\n    mode tcp\n    bind %s\n' % front.encode() in data
    assert b'    server https abns@seamless-fe_alpn send-proxy-v2\n' in data
    now = applied(config, decision)
    assert not present(now).stages
    assert applied(now, absent(now)).data == config.data


@pytest.mark.parametrize(('bind', 'after', 'front'), [case for case in MOVED if case[1]])
def test_plain_bind(bind: str, after: str, front: str) -> None:
    config = config_of({'/h.cfg': site(bind)})
    data = present(config, handoff='plain', backend_port=9443).stages[-1]['/h.cfg']
    assert without_block(data) == site(after.replace(ABNS, PLAIN))
    assert b'    server https 127.0.0.1:9443\n' in data
    assert b'\n    bind %s\n' % front.encode() in data


@pytest.mark.parametrize(('bind', 'after', 'front'), [case for case in MOVED if case[1]])
def test_middle(bind: str, after: str, front: str) -> None:
    """On the way down the public bind is back and the HTTPS side listens where the old workers hand over to."""
    config = config_of({'/h.cfg': site(bind)})
    now = applied(config, present(config))
    middle, last = absent(now).stages
    moved = re.search(r'^(?:  bind )?(abns@.*)$', after, re.M)[1]
    assert middle['/h.cfg'] == site('%s\n  bind %s' % (bind, moved))
    assert last['/h.cfg'] == site(bind)


@pytest.mark.parametrize(('text', 'message'), REFUSED)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(Failed, match=message):
        present(config_of({'/h.cfg': text.encode()}))


@pytest.mark.parametrize(
    ('wishes', 'message'),
    [
        ({'frontend': 'fe alpn'}, 'frontend: "fe alpn" is no name for HAProxy'),
        ({'https_backend': ''}, 'https_backend: "" is no name'),
        ({'acme_backend': 'bk_https'}, 'acme_backend and https_backend would both be named "bk_https"'),
        ({'frontend': 'www'}, r'/h\.cfg:7: there is a frontend "www" already; give frontend another name'),
        ({'inspect_delay': '5 s'}, 'inspect_delay: "5 s" is no time'),
        ({'handoff': 'plain', 'backend_port': 443}, None),
        ({'https_port': 8443}, 'no bind on port 8443'),
    ],
)
def test_refused_wishes(wishes: dict[str, object], message: str | None) -> None:
    config = config_of({'/h.cfg': site('192.0.2.1:443 ssl')})
    if message is None:
        assert present(config, **wishes).stages  # a specific public address leaves 127.0.0.1:443 free
        return
    with pytest.raises(Failed, match=message):
        present(config, **wishes)


@pytest.mark.parametrize('other', [':8443', '127.0.0.1:8443', '0.0.0.0:8440-8450', '[::]:8443'])
def test_plain_port_in_use(other: str) -> None:
    with pytest.raises(Failed, match=r'/h\.cfg:9: port 8443 is in use here.*choose another backend_port'):
        present(config_of({'/h.cfg': site(':443 ssl\n  bind %s' % other)}), handoff='plain')


def test_several_binds_keep_their_own_handoff() -> None:
    config = config_of({'/h.cfg': site(':443 ssl crt /a\n  bind [::]:443 ssl crt /b') + b'listen other\n bind 192.0.2.9:443 ssl crt /c\n'})
    decision = present(config)
    assert decision.handoffs == ['abns@seamless-fe_alpn', 'abns@seamless-fe_alpn_2', 'abns@seamless-fe_alpn_3']
    assert [(moved.before, moved.after) for moved in decision.binds] == [
        ('bind :443 ssl crt /a', 'bind %s accept-proxy ssl crt /a' % decision.handoffs[0]),
        ('bind [::]:443 ssl crt /b', 'bind %s accept-proxy ssl crt /b' % decision.handoffs[1]),
        ('bind 192.0.2.9:443 ssl crt /c', 'bind %s accept-proxy ssl crt /c' % decision.handoffs[2]),
    ]
    data = decision.stages[-1]['/h.cfg']
    for moved in decision.binds:
        assert data.split(b'\n')[moved.line - 1].strip() == moved.after.encode()
    for frontend, backend in (('fe_alpn', 'bk_https'), ('fe_alpn_2', 'bk_https_2'), ('fe_alpn_3', 'bk_https_3')):
        assert re.search(r'frontend %s\n(    .*\n)+    default_backend %s\n' % (frontend, backend), data.decode())
        assert re.search(r'backend %s\n(    .*\n)+    server https abns@seamless-%s send-proxy-v2\n' % (backend, frontend), data.decode())
    assert data.count(b'\nbackend bk_acmesh\n') == 1


def test_left_over_bind_is_moved_too() -> None:
    """Two frontends on one address share it by SO_REUSEPORT, and `haproxy -c` says nothing: half of the challenges would pass the front by."""
    config = config_of({'/h.cfg': site(':443 ssl crt /a') + b'frontend old\n  bind *:443 ssl crt /b\n'})
    now = applied(config, present(config))
    assert not [line for line in now.lines if line.values[0] == 'bind' and line.values[1].endswith(':443') and not line.section.name.startswith('fe_alpn')]


def test_front_inherits_nothing() -> None:
    """It stands before the first `defaults`, with the comments above that, and says all that it needs itself."""
    config = config_of({'/h.cfg': b'global\n  daemon\n\n# the defaults\n# of all\ndefaults\n  mode http\nfrontend a\n  bind :443 ssl\n'})
    data = present(config).stages[-1]['/h.cfg']
    assert data.startswith(b'global\n  daemon\n\n# BEGIN seamless.tls_alpn')
    assert b'# END seamless.tls_alpn\n\n# the defaults\n# of all\ndefaults\n' in data
    assert data.count(b'    mode tcp\n') == 3


def test_front_stands_outside_of_conditions() -> None:
    config = config_of({'/h.cfg': b'global\n.if A\n.if B\n# d\ndefaults\n  mode http\n.endif\n.endif\nfrontend a\n  bind :443 ssl\n'})
    data = present(config).stages[-1]['/h.cfg']
    assert data.startswith(b'global\n# BEGIN')
    assert b'# END seamless.tls_alpn\n\n.if A\n' in data


def test_condition_around_a_bind_is_around_its_front() -> None:
    config = config_of(
        {'/h.cfg': b'defaults\n mode http\nfrontend a\n .if feature(QUIC)\n  bind :80\n .else # old\n  bind :443 ssl\n .endif\n bind :::443 ssl\n'}
    )
    decision = present(config)
    data = decision.stages[-1]['/h.cfg'].decode()
    assert re.search(r'\n\.if feature\(QUIC\)\n\.else # old\nfrontend fe_alpn\n(.*\n)+?\.endif\n\nfrontend fe_alpn_2\n', data)
    now = applied(config, decision)
    assert [line.guards for line in now.lines if line.values[0] == 'server'] == [((b'.if feature(QUIC)', b'.else # old'),), (), ()]
    middle = absent(now).stages[0]['/h.cfg']
    assert b'  bind :443 ssl\n  bind %s ssl\n .endif\n' % ABNS.encode() in middle


def test_rules_of_the_connection_see_the_client() -> None:
    rules = b'  tcp-request connection track-sc0 src\n  tcp-request  connection reject if { sc0_conn_rate gt 20 } # flood\n'
    config = config_of({'/h.cfg': site(':443 ssl') + b'frontend b\n  bind :444\n  bind :::443\n' + rules + b'frontend c\n  bind :80\n' + rules})
    decision = present(config)
    data = without_block(decision.stages[-1]['/h.cfg'])
    assert data.count(rules.replace(b'connection', b'session')) == 1
    assert data.endswith(b'frontend c\n  bind :80\n' + rules)
    now = applied(config, decision)
    middle, last = absent(now).stages
    assert middle['/h.cfg'].count(rules.replace(b'connection', b'session')) == 1
    assert last['/h.cfg'] == config.data['/h.cfg']
    with pytest.raises(Failed, match='with the handoff "plain" this rule would see 127.0.0.1'):
        present(config, handoff='plain')


@pytest.mark.parametrize(
    ('lines', 'timeout'),
    [
        (b'', b'86400s'),
        (b'  timeout client 50000\n  timeout server 50s\n  timeout tunnel 1h\n', b'86400s'),
        (b'  timeout tunnel 2d\n', b'172800s'),
        (b'  timeout client 90000001\n', b'90001s'),
        (b'  timeout tunnel 30d\n', b'2073600s'),
    ],
)
def test_timeouts_are_not_shorter_than_the_sites(lines: bytes, timeout: bytes) -> None:
    config = config_of({'/h.cfg': site(':443 ssl') + b'backend slow\n' + lines})
    data = present(config).stages[-1]['/h.cfg']
    for name in (b'client', b'server', b'tunnel'):
        assert b'    timeout %s %s\n' % (name, timeout) in data


@pytest.mark.parametrize(
    ('host', 'server'),
    [
        ('127.0.0.1', b'127.0.0.1:10443'),
        ('::1', b'[::1]:10443'),
        ('acme.example.org', b'acme.example.org:10443 init-addr last,libc,none'),
    ],
)
def test_responder(host: str, server: bytes) -> None:
    data = present(config_of({'/h.cfg': site(':443 ssl')}), acme_host=host).stages[-1]['/h.cfg']
    assert b'\n    server responder %s\n' % server in data
    assert b' check' not in data.partition(b'# END')[0].replace(b'# No check', b'')


@pytest.mark.parametrize(
    ('bind', 'endpoints'),
    [
        (':443', [('127.0.0.1', False)]),
        ('*:443', [('127.0.0.1', False)]),
        ('192.0.2.1:443', [('192.0.2.1', False)]),
        (':::443', [('127.0.0.1', False), ('::1', False)]),
        ('[::]:443 v6only', [('::1', False)]),
        ('ipv6@:443 v6only', [('::1', False)]),
        ('[2001:db8::1]:443', [('2001:db8::1', False)]),
        (':443 accept-proxy', [('127.0.0.1', True)]),
        (':443 interface eth0', []),
        (':443 transparent', []),
        ('192.0.2.1:443,[2001:db8::1]:443,:444', [('192.0.2.1', False), ('2001:db8::1', False)]),
    ],
)
def test_endpoints(bind: str, endpoints: list[tuple[str, bool]]) -> None:
    decision = present(config_of({'/h.cfg': site(bind)}))
    assert decision.endpoints == [Endpoint(host, 443, proxied) for host, proxied in endpoints]


def test_several_files() -> None:
    """The front stands in the file with the first `defaults`; each file has its record."""
    files = {
        '/g.cfg': b'global\n  daemon\n',
        '/d.cfg': b'defaults\n  mode http\n',
        '/a.cfg': b'frontend a\n  bind :443 ssl\n',
        '/b.cfg': b'frontend b\n  bind :::443 v6only ssl\n',
    }
    config = config_of(files)
    decision = present(config)
    assert sorted(decision.stages[0]) == ['/a.cfg', '/b.cfg', '/d.cfg']
    assert decision.stages[0]['/d.cfg'].startswith(b'# BEGIN')
    assert decision.stages[0]['/a.cfg'] == b'frontend a\n  bind %s ssl\n' % ABNS.encode()
    now = applied(config, decision)
    assert not present(now).stages
    middle, last = absent(now).stages
    assert middle == {
        '/d.cfg': files['/d.cfg'],
        '/a.cfg': b'frontend a\n  bind :443 ssl\n  bind %s ssl\n' % ABNS.encode(),
        '/b.cfg': b'frontend b\n  bind :::443 v6only ssl\n  bind abns@seamless-fe_alpn_2 accept-proxy ssl\n',
    }
    assert {**now.data, **last} == files


@pytest.mark.parametrize(
    ('names', 'own'),
    [
        (['10-defaults.cfg', '20-site.cfg'], True),
        (['haproxy.cfg'], True),
        (['00-defaults.cfg', '20-site.cfg'], False),  # nothing of ours comes before that
    ],
)
def test_directory(names: list[str], own: bool) -> None:
    texts = [b'defaults\n  mode http\n', b'frontend a\n  bind :443 ssl\n']
    files = {'/conf.d/' + name: text for name, text in zip(names, texts if len(names) == 2 else [b''.join(texts)])}
    config = config_of({'/g.cfg': b'global\n', **files}, '/conf.d')
    decision = present(config)
    assert ('/conf.d/00-tls-alpn.cfg' in decision.stages[0]) == own
    now = applied(config, decision, directory='/conf.d')
    assert not present(now).stages
    down = absent(now)
    if own:
        assert [stage['/conf.d/00-tls-alpn.cfg'] for stage in down.stages] == [None, None]
    assert applied(now, down, directory='/conf.d').data == config.data


def test_defaults_before_a_directory() -> None:
    """A file of its own in the directory would inherit from the main file."""
    config = config_of({'/h.cfg': b'global\ndefaults\n  mode http\n', '/conf.d/site.cfg': b'frontend a\n  bind :443 ssl\n'}, '/conf.d')
    assert sorted(present(config).stages[0]) == ['/conf.d/site.cfg', '/h.cfg']


CHANGES = [
    ({'acme_port': 10444}, 1),
    ({'inspect_delay': '3s'}, 1),
    ({'acme_backend': 'other', 'https_backend': 'more'}, 1),
    ({'frontend': 'fe_other'}, 2),
    ({'handoff': 'plain'}, 2),
]


@pytest.mark.parametrize(('wishes', 'stages'), CHANGES)
def test_change(wishes: dict[str, object], stages: int) -> None:
    """Two stages where the handoff moves: the old one has to work until the old workers are done."""
    config = config_of({'/h.cfg': site(':443 ssl interface lo')})
    now = applied(config, present(config))
    decision = present(now, **wishes)
    assert len(decision.stages) == stages
    assert decision.stages[-1] == present(config, **wishes).stages[-1]
    if stages == 2:
        assert decision.stages[0]['/h.cfg'] == site(':443 ssl interface lo\n  bind %s ssl' % ABNS)
    assert decision.drain == 6


def test_bind_added_later_gets_its_front_in_one_stage() -> None:
    config = config_of({'/h.cfg': site(':443 ssl')})
    now = applied(config, present(config))
    edited = config_of({'/h.cfg': now.data['/h.cfg'] + b'frontend new\n  bind 192.0.2.7:443 ssl\n'})
    decision = present(edited)
    assert len(decision.stages) == 1
    assert decision.stages[0] == present(config_of({'/h.cfg': config.data['/h.cfg'] + b'frontend new\n  bind 192.0.2.7:443 ssl\n'})).stages[0]


def test_file_that_stays_as_it_is_is_public_half_way() -> None:
    """One file's handoff changes, the other's does not; half way there is no front, so that both need their public binds."""
    files = {'/d.cfg': b'defaults\n', '/a.cfg': site(':443 ssl'), '/b.cfg': b'frontend b\n  bind 192.0.2.2:443 ssl\n'}
    now = applied(config_of(files), present(config_of(files)))
    edited = config_of({**now.data, '/b.cfg': now.data['/b.cfg'] + b'  bind 192.0.2.1:443 interface eth0 ssl\n'})
    assert len(present(edited).stages) == 1
    moved = config_of({**now.data, '/b.cfg': b'frontend b\n  bind 192.0.2.1:443 ssl\n  bind abns@seamless-fe_alpn_2 accept-proxy ssl\n'})
    middle, last = present(moved).stages
    assert middle['/a.cfg'] == site(':443 ssl\n  bind %s ssl' % ABNS)
    assert last['/a.cfg'] == site(ABNS + ' ssl')


def test_moved_bind_that_is_gone_needs_no_second_stage() -> None:
    config = config_of({'/h.cfg': site(':443 ssl') + b'frontend b\n  bind 192.0.2.2:443 ssl\n  bind :80\n'})
    now = applied(config, present(config))
    assert len(present(edit(now.data['/h.cfg'], b'  bind abns@seamless-fe_alpn_2 accept-proxy ssl\n', b'')).stages) == 1


def edit(data: bytes, before: bytes, after: bytes) -> hc.Config:
    assert data.count(before) == 1
    return config_of({'/h.cfg': data.replace(before, after)})


def test_absent_in_a_file_edited_since() -> None:
    config = config_of({'/h.cfg': site(':443,:8443 ssl crt /a interface lo') + b'# abns@seamless-fe_alpn accept-proxy\n'})
    data = applied(config, present(config)).data['/h.cfg']
    edited = edit(data, b'server a 127.0.0.1:8080', b'server a 127.0.0.1:8081')
    assert absent(edited).stages[-1]['/h.cfg'] == config.data['/h.cfg'].replace(b':8080', b':8081')
    assert not absent(edited).warnings


def test_absent_where_the_moved_bind_is_gone() -> None:
    config = config_of({'/h.cfg': site(':443 ssl')})
    edited = edit(applied(config, present(config)).data['/h.cfg'], b'bind ' + ABNS.encode(), b'bind :443')
    decision = absent(edited)
    assert decision.stages[-1]['/h.cfg'] == config.data['/h.cfg']
    assert decision.warnings == ['/h.cfg: "%s" is not there any more; nothing was put back for it (it was ":443")' % ABNS]


@pytest.mark.parametrize('state', ['present', 'absent'])
def test_moved_bind_edited_beyond_recognition(state: str) -> None:
    """Taking the front away would leave this bind where nobody gets to."""
    config = config_of({'/h.cfg': site(':443 ssl')})
    edited = edit(applied(config, present(config)).data['/h.cfg'], b'bind ' + ABNS.encode(), b'bind ' + ABNS.replace(' ', '  ').encode())
    with pytest.raises(Failed, match=r'/h\.cfg:\d+: this bind is the front\'s and was edited since; give it the words "abns@seamless-fe_alpn accept-proxy"'):
        hf.decide(edited, state, hf.Wishes(), ENVIRONMENT)


@pytest.mark.parametrize(
    ('before', 'after', 'message'),
    [
        (b'# END seamless.tls_alpn\n', b'', 'the marked block is damaged'),
        (b'"edits"', b'"edit"', 'a record in the marked block is damaged'),
        (b'{"edits"', b'"edits"', 'a record in the marked block is damaged'),
    ],
)
def test_damaged_block(before: bytes, after: bytes, message: str) -> None:
    config = config_of({'/h.cfg': site(':443 ssl')})
    edited = edit(applied(config, present(config)).data['/h.cfg'], before, after)
    with pytest.raises(Failed, match=message):
        absent(edited)


def test_absent_without_a_front() -> None:
    decision = absent(config_of({'/h.cfg': site(':443 ssl')}))
    assert not decision.stages
    assert not decision.binds


def test_host_names() -> None:
    config = config_of(
        {
            '/h.cfg': site(':443 ssl crt /certs/www.example.org.pem')
            + b'frontend b\n acl x hdr(host) -i Shop.example.org req.len\n use_backend y if { req.ssl_sni a.example.net }\n'
            + b' errorfile 400 400.http\nbackend y\n server s backend.example.com:80\n'
        }
    )
    assert hf.host_names(config) == ['', 'www.example.org', 'shop.example.org', 'a.example.net']


def test_corpus_is_there() -> None:
    assert len(CORPUS) >= 15


@pytest.mark.parametrize('path', CORPUS, ids=lambda path: path.stem)
@pytest.mark.parametrize('handoff', ['abns', 'plain'])
@pytest.mark.parametrize('variant', ['as it is', 'CRLF', 'Latin-1'])
def test_corpus(path: pathlib.Path, handoff: str, variant: str) -> None:
    """Every bind on 443 is the front's afterwards, present is idempotent, and absent gives back every byte."""
    data = path.read_bytes()
    data = {'as it is': data, 'CRLF': data.replace(b'\n', b'\r\n'), 'Latin-1': data.replace(b'cafe', b'caf\xe9') + b'# \xe9\n'}[variant]
    config = config_of({str(path): data})
    if handoff == 'plain' and b'tcp-request connection' in config.data[str(path)]:
        with pytest.raises(Failed, match='tcp-request|127.0.0.1'):
            present(config, handoff=handoff, backend_port=9443)
        return
    decision = present(config, handoff=handoff, backend_port=9443)
    now = applied(config, decision)
    fronts = {line.section.name for line in now.lines if line.values[0] == 'bind' and hf.read_bind(line, 443, now.data[line.path])}
    assert fronts == {'fe_alpn' + suffix for suffix in ['', '_2', '_3', '_4', '_5'][: len(decision.binds)]}
    assert not present(now, handoff=handoff, backend_port=9443).stages
    assert applied(now, absent(now)).data == config.data


PIECES = st.sampled_from(
    [':443', '*:443', '[::]:443', '192.0.2.1:443', ':80', ':8080', ':440-445', 'quic4@:443', '":443"', '":${PORT}"', ':443,:444', 'unix@/x']
)
OPTIONS = st.sampled_from(
    [' ssl', ' crt /a', ' interface lo', ' v4v6', ' tfo', ' backlog 10', ' alpn h2,http/1.1', ' accept-proxy', '\tname  x', ' crt "/a b"']
)
NOISE = st.sampled_from(
    ['', '# bind :443', '  mode http', '\tacl x path_beg /a\\ b', "  acl y path '#'", '  option httplog # bind :443', '  timeout client 5s', '  caf\xe9']
)
LINES = st.one_of(NOISE, st.builds(lambda address, options: '  bind ' + address + ''.join(options), PIECES, st.lists(OPTIONS, max_size=4)))
SECTIONS = st.lists(st.tuples(st.sampled_from(['frontend', 'listen', 'backend', 'defaults', 'global']), st.lists(LINES, max_size=4)), min_size=1, max_size=5)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(SECTIONS, st.sampled_from(['\n', '\r\n']), st.booleans(), st.sampled_from(['abns', 'plain']))
def test_any_configuration(sections: list[tuple[str, list[str]]], newline: str, ends: bool, handoff: str) -> None:
    """Nothing but bind lines changes; present is idempotent; present then absent is the identity, byte for byte."""
    lines = [line for number, (kind, body) in enumerate(sections) for line in ['%s s%d' % (kind, number), *body]]
    data = newline.join(lines + ([''] if ends else [])).encode('latin-1')
    config = config_of({'/h.cfg': data})
    try:
        decision = present(config, handoff=handoff)
    except Failed as error:
        assert 'no bind on port 443' in str(error) or 'in use here' in str(error)
        return
    now = applied(config, decision)
    block = re.search(rb'# BEGIN seamless.*?# END seamless\.tls_alpn(\r?\n){2}', now.data['/h.cfg'], re.S)[0]
    rest = [line for line in now.data['/h.cfg'].replace(block, b'').split(b'\n') if b'bind ' not in line]
    assert rest == [line for line in data.split(b'\n') if b'bind ' not in line]
    assert not present(now, handoff=handoff).stages
    down = absent(now)
    assert applied(now, down).data == config.data
    public = [bind.public for bind in hf.public_binds(config, 443)]
    assert [bind.public for bind in hf.public_binds(applied(now, down, 0), 443)] == public


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        ('bind :443 accept-proxy ssl\n  tcp-request connection reject if { src 10.0.0.9 }', 'sees the load balancer'),
        ('bind :443 ssl\n  bind :8443 accept-proxy ssl\n  tcp-request connection reject if { src 10.0.0.9 }', 'sees the load balancer'),
        ('bind :443 ssl\n  tcp-request session accept if { src 10.0.0.0/8 }\n  tcp-request connection reject if { src 10.0.0.9 }', 'put it below'),
    ],
)
def test_connection_rules_that_would_mean_something_else(lines: str, message: str) -> None:
    data = site(':80').replace(b'bind :80', lines.encode())
    with pytest.raises(Failed, match=message):
        present(config_of({'/h.cfg': data}))


def test_own_file_comes_after_the_global_section() -> None:
    files = {'/d/10-global.cfg': b'global\n  nbthread 2\n', '/d/20-sites.cfg': site(':443 ssl').partition(b'\n\n')[2]}
    config = config_of(files, '/d')
    decision = present(config)
    assert list(decision.stages[-1]) and sorted(applied(config, decision, directory='/d').data) == [
        '/d/10-global.cfg',
        '/d/10-global.tls-alpn.cfg',
        '/d/20-sites.cfg',
    ]
    now = applied(config, decision, directory='/d')
    assert not present(now).stages
    assert applied(now, absent(now), directory='/d').data == files


def test_bind_that_was_moved_to_another_file() -> None:
    """Nothing may go on listening for a front that is no more, and no public address may get lost without a word."""
    files = {'/d/a.cfg': site(':443 ssl'), '/d/b.cfg': b'frontend other\n  bind :80\n  default_backend app\n'}
    now = applied(config_of(files, '/d'), present(config_of(files, '/d')), directory='/d')
    moved = {path: data for path, data in now.data.items() if path != '/d/a.cfg'}
    start = now.data['/d/a.cfg'].index(b'frontend www')
    end = now.data['/d/a.cfg'].index(b'backend app')
    moved['/d/a.cfg'] = now.data['/d/a.cfg'][:start] + now.data['/d/a.cfg'][end:]
    moved['/d/c.cfg'] = now.data['/d/a.cfg'][start:end]
    for state in (present, absent):
        with pytest.raises(Failed, match='c.cfg:2|no bind on port'):
            state(config_of(moved, '/d'))


def test_line_beside_the_front_that_was_taken_away() -> None:
    config = config_of({'/h.cfg': site(':443,:8443 ssl')})
    now = applied(config, present(config))
    edited = re.sub(rb'  bind :8443 ssl\n', b'', now.data['/h.cfg'])
    assert edited != now.data['/h.cfg']
    for state in (present, absent):
        with pytest.raises(Failed, match='was taken away'):
            state(config_of({'/h.cfg': edited}))


@pytest.mark.parametrize(('host', 'port'), [('', 10443), ('127.0.0.1 #', 10443), ('a\nb', 10443), ('127.0.0.1', 0), ('127.0.0.1', 443)])
def test_no_place_for_a_responder(host: str, port: int) -> None:
    with pytest.raises(Failed, match='no place for a responder'):
        present(config_of({'/h.cfg': site(':443 ssl')}), acme_host=host, acme_port=port)
