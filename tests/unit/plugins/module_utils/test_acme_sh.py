# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import subprocess

import pytest
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _acme_sh
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed
from hypothesis import given, settings
from hypothesis import strategies as st

CONF = b"""\
Le_Domain='a.example'
Le_Alt='b.example'
Le_Webroot='alpn'
Le_LocalAddress='127.0.0.1,'
Le_API='https://ca.example/dir'
Le_TLSPort='10443'
Le_Keylength='ec-256'
Le_RenewalDays='30'
Le_RealKeyPath='/tls/site.key'
Le_RealFullChainPath='/tls/site.pem'
Le_ReloadCmd='__ACME_BASE64__START_c3lzdGVtY3RsIHJlbG9hZCBuZ2lueA==__ACME_BASE64__END_'
"""
WANTED = _acme_sh.Wanted(
    domains=('a.example', 'b.example'),
    key_type='ec-256',
    server='https://ca.example/dir',
    days=30,
    tls_port=10443,
    local_address='127.0.0.1',
    install={'key': '/tls/site.key', 'fullchain': '/tls/site.pem'},
    reload='systemctl reload nginx',
)
FOUND = _acme_sh.Found(
    directory='/home/a.example_ecc',
    account_path='/home/account.conf',
    account=None,
    conf=CONF,
    names={'a.example', 'b.example'},
    own={'key': b'KEY', 'cert': b'CERT', 'fullchain': b'CHAIN', 'ca': b'CA'},
    installed={'/tls/site.key': b'KEY', '/tls/site.pem': b'CHAIN'},
    others={'a.example_ecc': _acme_sh.read_settings(CONF)},
)
CONF_PATH = '/home/a.example_ecc/a.example.conf'


@pytest.mark.parametrize(
    ('data', 'expected'),
    [
        (b'', {}),
        (b"A='one two'\nB=\"three\"\nC=four\nD=''\n", {'A': 'one two', 'B': 'three', 'C': 'four', 'D': ''}),
        (b"A='1'\nA='2'\n", {'A': '2'}),
        (b"#A='1'\n  B='2'\n\nexport C='3'\n", {}),
        (b"A='1'\r\nB='2'", {'A': '1', 'B': '2'}),
        (b"A='__ACME_BASE64__START_ZWNobyAnaGkn__ACME_BASE64__END_'\n", {'A': "echo 'hi'"}),
        (b"A='\xe9'\n", {'A': '\udce9'}),
    ],
)
def test_read_settings(data: bytes, expected: dict[str, str]) -> None:
    assert _acme_sh.read_settings(data) == expected


@pytest.mark.parametrize(
    ('data', 'wanted', 'expected'),
    [
        (b"A='1'\nB='2'\n", {'B': '3'}, b"A='1'\nB='3'\n"),
        (b"A='1'\n", {'A': '1'}, b"A='1'\n"),
        (b'A="1"\r\nB=2\r\n', {'A': 'x', 'B': 'y z'}, b'A="x"\r\nB=\'y z\'\r\n'),
        (b"A='1'", {'B': '2'}, b"A='1'\nB='2'\n"),
        (b'', {'B': '2'}, b"B='2'\n"),
        (b"A='1'\nA='2'\n", {'A': '3'}, b"A='3'\nA='3'\n"),
        (b"# A='1'\n\xe9\n", {'A': '3'}, b"# A='1'\n\xe9\nA='3'\n"),
    ],
)
def test_edit_settings(data: bytes, wanted: dict[str, str], expected: bytes) -> None:
    assert _acme_sh.edit_settings(data, wanted) == expected


@pytest.mark.parametrize('value', ["it's", 'two\nlines'])
def test_edit_settings_refuses_what_quotes_can_not_hold(value: str) -> None:
    with pytest.raises(Failed, match='single quotes'):
        _acme_sh.edit_settings(b'', {'A': value})


_names = st.sampled_from(['A', 'Le_TLSPort', 'Le_API'])
_values = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='\'"$`\\'), max_size=12)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.tuples(_names, _values), max_size=4), st.dictionaries(_names, _values))
def test_the_shell_reads_what_was_edited(lines: list[tuple[str, str]], wanted: dict[str, str]) -> None:
    """acme.sh sources its files: a shell must see the wanted values, and the others as they were."""
    data = ''.join("%s='%s'\n" % line for line in lines).encode()
    edited = _acme_sh.edit_settings(data, wanted)
    expected = {**dict(lines), **wanted}
    script = edited + b''.join(b'printf "%%s\\n" "$%s"\n' % name.encode() for name in sorted(expected))
    seen = subprocess.run(['sh'], input=script, capture_output=True, check=True).stdout.decode().splitlines()
    assert seen == [expected[name] for name in sorted(expected)]
    assert _acme_sh.edit_settings(edited, wanted) == edited


@pytest.mark.parametrize(
    ('name', 'key_type', 'url'),
    [
        ('letsencrypt', 'ec-256', 'https://acme-v02.api.letsencrypt.org/directory'),
        ('LetsEncrypt_Test', 'ec-256', 'https://acme-staging-v02.api.letsencrypt.org/directory'),
        ('https://ca.example/dir', 'ec-256', 'https://ca.example/dir'),
        ('sslcom', '2048', 'https://acme.ssl.com/sslcom-dv-rsa'),
        ('sslcom', 'ec-256', 'https://acme.ssl.com/sslcom-dv-ecc'),
    ],
)
def test_resolve_server(name: str, key_type: str, url: str) -> None:
    assert _acme_sh.resolve_server(name, key_type) == url


@pytest.mark.parametrize(
    ('name', 'message'),
    [('nobody', 'neither the URL'), ('zerossl', 'http-01 and dns-01 only'), ('https://ACME.zerossl.com/v2/DV90', 'http-01 and dns-01 only')],
)
def test_resolve_server_refuses(name: str, message: str) -> None:
    with pytest.raises(Failed, match=message):
        _acme_sh.resolve_server(name)


@pytest.mark.parametrize(
    ('domains', 'message'),
    [
        ([], 'at least one'),
        (['*.a.example'], 'wildcard'),
        (['localhost'], 'a dot in it'),
        (['a.example b.example'], 'a dot in it'),
        (['a.example', 'A.example'], 'twice'),
        (["a.example';reboot'"], 'a dot in it'),
    ],
)
def test_check_domains_refuses(domains: list[str], message: str) -> None:
    with pytest.raises(Failed, match=message):
        _acme_sh.check_domains(domains)


@pytest.mark.parametrize(
    ('reload', 'combined', 'command'),
    [
        ('nginx', None, 'nginx -t -q && nginx -s reload'),
        ('apache', None, 'apachectl configtest && apachectl graceful'),
        ('haproxy', '/etc/my certs/site.pem', "python3 /usr/local/lib/seamless-tls-alpn/haproxy_deploy.py '/etc/my certs/site.pem'"),
        ('systemctl reload lighttpd', None, 'systemctl reload lighttpd'),
    ],
)
def test_reload_command(reload: str, combined: str | None, command: str) -> None:
    assert _acme_sh.reload_command(reload, combined) == command


@pytest.mark.parametrize(('reload', 'combined'), [('haproxy', None), ('nginx', '/tls/site.pem')])
def test_reload_command_refuses(reload: str, combined: str | None) -> None:
    with pytest.raises(Failed, match='combined'):
        _acme_sh.reload_command(reload, combined)


def test_nothing_to_do() -> None:
    assert _acme_sh.decide(WANTED, FOUND, force=False) == _acme_sh.Plan({}, [], [], [])


@pytest.mark.parametrize(
    ('wanted', 'found', 'reason'),
    [
        ({}, {'names': None}, 'there is no certificate yet'),
        ({}, {'conf': None}, 'there is no certificate yet'),
        ({'domains': ('a.example',)}, {}, 'the names were a.example, b.example'),
        ({}, {'names': {'a.example'}}, 'the names were a.example'),  # the certificate counts, not acme.sh's record of it
        ({'key_type': 'ec-384'}, {}, 'the key type was ec-256'),
        ({'server': 'https://other.example/dir'}, {}, 'the CA was https://ca.example/dir'),
        ({}, {'conf': CONF.replace(b"'alpn'", b"'/var/www'")}, 'the challenge was not tls-alpn-01'),
    ],
)
def test_issue(wanted: dict[str, object], found: dict[str, object], reason: str) -> None:
    plan = _acme_sh.decide(WANTED._replace(**wanted), FOUND._replace(**found), force=False)
    assert (plan.issue, plan.install) == ([reason], ['a new certificate'])
    assert not plan.files


def test_order_and_case_of_names_do_not_matter() -> None:
    assert not any(_acme_sh.decide(WANTED._replace(domains=('a.example', 'B.example')), FOUND, force=False))


def test_force() -> None:
    assert _acme_sh.decide(WANTED, FOUND, force=True).issue == ['forced']


@pytest.mark.parametrize(
    ('wanted', 'before', 'after'),
    [
        ({'tls_port': 943}, b"Le_TLSPort='10443'", b"Le_TLSPort='943'"),
        ({'days': 5}, b"Le_RenewalDays='30'", b"Le_RenewalDays='5'"),
        ({'local_address': '127.0.0.2'}, b"'127.0.0.1,'", b"'127.0.0.2,'"),
    ],
)
def test_settings_change_without_a_new_certificate(wanted: dict[str, object], before: bytes, after: bytes) -> None:
    plan = _acme_sh.decide(WANTED._replace(**wanted), FOUND, force=False)
    assert plan == _acme_sh.Plan({CONF_PATH: CONF.replace(before, after)}, [], [], [])


def test_account_settings_come_before_issuing() -> None:
    """account.conf wins over the command line, so what it says is put right first; the rest of it stays."""
    wanted = WANTED._replace(ca_bundle='/new.pem', openssl_bin='/responder')
    plan = _acme_sh.decide(wanted, FOUND._replace(account=b"SAVED_Token='hush'\nCA_BUNDLE='/old.pem'\n"), force=True)
    assert plan.files == {'/home/account.conf': b"SAVED_Token='hush'\nCA_BUNDLE='/new.pem'\nACME_OPENSSL_BIN='/responder'\n"}


@pytest.mark.parametrize(
    ('wanted', 'installed', 'reason'),
    [
        ({'reload': 'true'}, {}, 'where to install to or how to reload'),
        ({}, {'/tls/site.pem': b'OLD'}, '/tls/site.pem differed'),
        ({}, {'/tls/site.key': None}, '/tls/site.key differed'),
    ],
)
def test_install(wanted: dict[str, object], installed: dict[str, bytes | None], reason: str) -> None:
    plan = _acme_sh.decide(WANTED._replace(**wanted), FOUND._replace(installed={**FOUND.installed, **installed}), force=False)
    assert plan == _acme_sh.Plan({}, [], [reason], [])


def test_combined_is_key_and_chain() -> None:
    wanted = WANTED._replace(install={'combined': '/tls/both.pem'})
    assert _acme_sh.expected_contents(wanted, FOUND.own) == {'/tls/both.pem': b'KEYCHAIN'}


@pytest.mark.parametrize(
    ('other', 'rivals'),
    [
        ({'Le_RealKeyPath': '/tls/site.key'}, ['old.example']),
        ({'Le_RealFullChainPath': '/tls/site.pem'}, ['old.example']),
        ({'Le_RealKeyPath': '/tls/other.key', 'Le_ReloadCmd': WANTED.reload}, []),
        ({}, []),
    ],
)
def test_rivals(other: dict[str, str], rivals: list[str]) -> None:
    assert _acme_sh.decide(WANTED, FOUND._replace(others={**FOUND.others, 'old.example': other}), force=False).remove == rivals


def test_rivals_of_a_combined_file() -> None:
    wanted = WANTED._replace(install={'combined': '/tls/both.pem'}, reload=_acme_sh.reload_command('haproxy', '/tls/both.pem'))
    others = {'old.example': {'Le_ReloadCmd': wanted.reload}, 'new.example': {'Le_ReloadCmd': 'true'}}
    assert _acme_sh.rivals(wanted, 'a.example_ecc', others) == ['old.example']


@pytest.mark.parametrize(
    ('change', 'expected'),
    [
        ({}, []),
        ({'Le_LocalAddress': '127.0.0.1'}, []),
        ({'Le_TLSPort': '443'}, [('Le_TLSPort', '443', '10443')]),
        ({'Le_TLSPort': ''}, [('Le_TLSPort', '', '10443')]),
        ({'Le_LocalAddress': ''}, [('Le_LocalAddress', '', '127.0.0.1,')]),
        ({'Le_LocalAddress': '127.0.0.1,192.0.2.1'}, [('Le_LocalAddress', '127.0.0.1,192.0.2.1', '127.0.0.1,')]),
        ({'Le_API': 'https://acme.zerossl.com/v2/DV90'}, [('Le_API', 'https://acme.zerossl.com/v2/DV90', 'https://new.example/dir')]),
        ({'Le_Webroot': '/var/www', 'Le_TLSPort': '', 'Le_API': 'https://acme.zerossl.com/v2/DV90'}, []),
        ({'Le_Webroot': 'dns_cf,alpn', 'Le_TLSPort': '443'}, [('Le_TLSPort', '443', '10443')]),
    ],
)
def test_audit(change: dict[str, str], expected: list[tuple[str, str, str]]) -> None:
    found = _acme_sh.audit({**_acme_sh.read_settings(CONF), **change}, 10443, '127.0.0.1', 'https://new.example/dir')
    assert [(finding.setting, finding.before, finding.after) for finding in found] == expected


def test_arguments() -> None:
    assert _acme_sh.issue_arguments(WANTED) == (
        ['--issue', '--alpn', '--tlsport', '10443', '--local-address', '127.0.0.1', '--server', 'https://ca.example/dir', '--keylength', 'ec-256']
        + ['--days', '30', '--domain', 'a.example', '--domain', 'b.example', '--force']
    )
    assert _acme_sh.install_arguments(WANTED) == (
        ['--install-cert', '--domain', 'a.example', '--ecc', '--key-file', '/tls/site.key', '--fullchain-file', '/tls/site.pem']
        + ['--reloadcmd', 'systemctl reload nginx']
    )
    assert _acme_sh.remove_arguments('old.example') == ['--remove', '--domain', 'old.example']
    assert _acme_sh.remove_arguments('old.example_ecc') == ['--remove', '--domain', 'old.example', '--ecc']


def test_difference_shows_only_what_matters() -> None:
    account = b"SAVED_Token='hush'\n"
    found = FOUND._replace(account=account, conf=CONF + b"Le_PFXPassword='hush'\n")
    wanted = WANTED._replace(days=5)
    diff = _acme_sh.difference(wanted, found, _acme_sh.decide(wanted, found, force=False))
    assert 'hush' not in diff['before'] + diff['after']
    assert set(diff['after'].splitlines()) - set(diff['before'].splitlines()) == {'Le_RenewalDays=5'}


def test_explain() -> None:
    said = (
        '[Sat Nov 28 16:16:56 UTC 2026] \x1b[1;31;32ma.example: Invalid status. Verification error details: refused\x1b[0m\n'
        "[Sat Nov 28 16:16:56 UTC 2026] Please add '--debug' or '--log' to see more information.\n"
        '[Sat Nov 28 16:16:56 UTC 2026] See: https://example.org/wiki\n'
    )
    assert _acme_sh.explain(said) == 'a.example: Invalid status. Verification error details: refused'


def test_read_names() -> None:
    assert _acme_sh.read_names('X509v3 Subject Alternative Name: \n    DNS:A.example, DNS:b.example, IP Address:192.0.2.1\n') == {
        'a.example',
        'b.example',
        '192.0.2.1',
    }


def test_damaged_base64_stays_as_it_is_written() -> None:
    text = b"Le_Webroot='__ACME_BASE64__START_a__ACME_BASE64__END_'\nLe_Domain='a.example'\n"
    assert _acme_sh.read_settings(text) == {'Le_Webroot': '__ACME_BASE64__START_a__ACME_BASE64__END_', 'Le_Domain': 'a.example'}
