# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""acme.sh's files and its command line: what it has, what is to be issued or installed, what would not renew.

PRIVATE to the collection, may change at any time.

Rules come from acme.sh 3.1.1's source: a certificate NAME lives in ``HOME/NAME_ecc`` (or ``HOME/NAME`` with an RSA key; ``_initpath``),
its settings in ``NAME.conf`` there, which renewals source as shell (``renew``). The account's settings are in ``HOME/account.conf``,
which is sourced after the command line is read, so that it wins over ``--ca-bundle`` (``__initHome``).
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shlex
import typing as t

from ansible_collections.seamless.tls_alpn.plugins.module_utils._process import Run
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed, Stage, Transaction, content_of

HAPROXY_DEPLOY = '/usr/local/lib/seamless-tls-alpn/haproxy_deploy.py'
KEY_TYPES = ('ec-256', 'ec-384', 'ec-521', '2048', '3072', '4096')

# acme.sh's CA_NAMES and CA_SERVERS
SERVERS = {
    'letsencrypt': 'https://acme-v02.api.letsencrypt.org/directory',
    'letsencrypt_test': 'https://acme-staging-v02.api.letsencrypt.org/directory',
    'zerossl': 'https://acme.zerossl.com/v2/DV90',
    'buypass': 'https://api.buypass.com/acme/directory',
    'buypass_test': 'https://api.test4.buypass.no/acme/directory',
    'google': 'https://dv.acme-v02.api.pki.goog/directory',
    'google_test': 'https://dv.acme-v02.test-api.pki.goog/directory',
    'sslcom': 'https://acme.ssl.com/sslcom-dv-rsa',
}
SSLCOM_ECC = 'https://acme.ssl.com/sslcom-dv-ecc'

# CAs known to have no tls-alpn-01, by the host of their directory (ZeroSSL: acme.sh issues 3636, 4010, 4802)
WITHOUT_TLS_ALPN = {'acme.zerossl.com': 'ZeroSSL offers http-01 and dns-01 only'}

_BASE64 = re.compile(r'^__ACME_BASE64__START_(.*)__ACME_BASE64__END_$')
_SETTING = re.compile(rb"""^(?P<name>[A-Za-z_][A-Za-z0-9_]*)=(?P<quote>['"]?)(?P<value>[^\r\n]*?)(?P=quote)[ \t]*\r?$""", re.MULTILINE)


class Wanted(t.NamedTuple):
    """One certificate as it should be. ``server`` is a URL; ``install`` maps key, fullchain, cert, ca and combined to paths."""

    domains: tuple[str, ...]
    key_type: str
    server: str
    days: int
    tls_port: int
    local_address: str
    install: t.Mapping[str, str]
    reload: str
    ca_bundle: str | None = None
    openssl_bin: str | None = None


class Found(t.NamedTuple):
    """What is on the host: acme.sh's files and the installed ones (None: no such file)."""

    directory: str  # of the certificate
    account_path: str
    account: bytes | None
    conf: bytes | None
    names: set[str] | None  # in the certificate itself
    own: dict[str, bytes | None]  # acme.sh's copies, by the names of install
    installed: dict[str, bytes | None]  # by path
    others: dict[str, dict[str, str]]  # settings of all certificates, by the name of their directory


class Plan(t.NamedTuple):
    """What to do, in this order: files to write, whether and why to issue, whether and why to install, directories to end the renewal of."""

    files: dict[str, bytes]
    issue: list[str]
    install: list[str]
    remove: list[str]


class Finding(t.NamedTuple):
    """One setting of one certificate that would keep its renewal from working."""

    setting: str
    before: str
    after: str
    reason: str


def read_settings(data: bytes) -> dict[str, str]:
    """Give the settings of a configuration file of acme.sh (NAME='value' lines; the last of a name wins), base64 values decoded."""
    settings = {}
    for match in _SETTING.finditer(data):
        value = match.group('value').decode('utf-8', 'surrogateescape')
        encoded = _BASE64.match(value)
        if encoded:
            with contextlib.suppress(ValueError):  # a damaged one stays as it is written
                value = base64.b64decode(encoded.group(1)).decode('utf-8', 'surrogateescape')
        settings[match.group('name').decode('ascii')] = value
    return settings


def edit_settings(data: bytes, wanted: t.Mapping[str, str]) -> bytes:
    """Give ``data`` with these settings: only the bytes of the values that differ change; a setting that is not there is appended.

    Raises Failed for a value that single quotes can't hold.
    """
    for name, value in wanted.items():
        if "'" in value or '\n' in value:
            raise Failed("%s can't be %r: acme.sh keeps its settings between single quotes on one line" % (name, value))
    found = set()

    def replace(match: re.Match[bytes]) -> bytes:
        name = match.group('name').decode('ascii')
        if name not in wanted:
            return match.group()
        found.add(name)
        text = wanted[name].encode('utf-8', 'surrogateescape')
        if text == match.group('value'):
            return match.group()
        if not match.group('quote'):
            text = b"'" + text + b"'"
        begin, end = match.start('value') - match.start(), match.end('value') - match.start()
        return match.group()[:begin] + text + match.group()[end:]

    data = _SETTING.sub(replace, data)
    for name, value in wanted.items():
        if name not in found:
            data += (b'\n' if data and not data.endswith(b'\n') else b'') + ("%s='%s'\n" % (name, value)).encode('utf-8', 'surrogateescape')
    return data


def resolve_server(name: str, key_type: str = 'ec-256') -> str:
    """Give the directory URL of a CA named as acme.sh's --server takes it; raise Failed for one that is unknown or has no tls-alpn-01."""
    url = SERVERS.get(name.lower(), name)
    if url == SERVERS['sslcom'] and key_type.startswith('ec-'):
        return SSLCOM_ECC
    if not url.startswith(('https://', 'http://')):
        raise Failed('server %s: neither the URL of an ACME directory nor one of %s' % (name, ', '.join(sorted(SERVERS))))
    reason = why_unusable(url)
    if reason:
        raise Failed('server %s: %s, and not tls-alpn-01; choose another CA, for example letsencrypt' % (name, reason))
    return url


def why_unusable(url: str) -> str | None:
    """Give why the CA at this URL can't validate by tls-alpn-01, or None."""
    return WITHOUT_TLS_ALPN.get(url.partition('://')[2].partition('/')[0].lower())


def check_domains(domains: t.Sequence[str]) -> None:
    """Raise Failed for names that tls-alpn-01 can't validate or acme.sh would not renew."""
    for name in domains:
        if name.startswith('*.'):
            raise Failed("%s: tls-alpn-01 can't validate a wildcard (RFC 8737 section 3); name the hosts, or use dns-01" % name)
        if not re.match(r'[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)+\Z', name):
            raise Failed('%s: not a host name with a dot in it (acme.sh renews only directories *.*)' % name)
    if len({name.lower() for name in domains}) != len(domains):
        raise Failed('%s: a name is there twice' % ', '.join(domains))
    if not domains:
        raise Failed('domains: at least one name')


def check_values(wanted: Wanted) -> None:
    """Raise Failed for what is none of its kind, and for what would not stay a value in acme.sh's files, which its renewals run as shell."""
    if not re.match(r'[A-Za-z0-9.:-]+\Z', wanted.local_address):
        raise Failed('local_address: "%s" is no address' % wanted.local_address)
    if not 0 < wanted.tls_port < 65536:
        raise Failed('tls_port: %d is no port' % wanted.tls_port)
    if wanted.days < 1:
        raise Failed('days: %d is none' % wanted.days)
    for value in (wanted.server, wanted.ca_bundle, wanted.openssl_bin, *wanted.install.values()):
        if value is not None and re.search(r"['\x00-\x1f\x7f]", value):
            raise Failed("%r: acme.sh keeps its settings between single quotes on one line, so that this can't be one" % value)


def reload_command(reload: str, combined: str | None) -> str:
    """Give the shell command that lets a server use a new certificate, validated first: of nginx, apache or haproxy; others as they are."""
    if (reload == 'haproxy') != bool(combined):
        raise Failed('install.combined, the one file with key and chain that HAProxy reads, goes with reload: haproxy, and only with it')
    if reload == 'haproxy':
        return 'python3 %s %s' % (HAPROXY_DEPLOY, shlex.quote(combined or ''))
    return {'nginx': 'nginx -t -q && nginx -s reload', 'apache': 'apachectl configtest && apachectl graceful'}.get(reload, reload)


def domain_of(directory: str) -> str:
    """Give the certificate's name from the path of acme.sh's directory."""
    name = os.path.basename(directory)
    return name[:-4] if name.endswith('_ecc') else name


def conf_path(directory: str) -> str:
    """Give the path of a certificate's configuration."""
    return os.path.join(directory, domain_of(directory) + '.conf')


def sources(directory: str) -> dict[str, str]:
    """Give the paths of acme.sh's own copies of a certificate's files, by the names of the option install."""
    domain = domain_of(directory)
    names = {'key': domain + '.key', 'cert': domain + '.cer', 'fullchain': 'fullchain.cer', 'ca': 'ca.cer'}
    return {kind: os.path.join(directory, name) for kind, name in names.items()}


def read_names(text: str) -> set[str]:
    """Give the names of a certificate from ``openssl x509 -ext subjectAltName``."""
    return {name.lower() for name in re.findall(r'(?:DNS|IP Address):([^,\s]+)', text)}


def reasons_to_issue(wanted: Wanted, settings: t.Mapping[str, str], names: t.Collection[str] | None) -> list[str]:
    """Give why a certificate has to be issued: nothing if the one that is there is what is wanted.

    ``settings`` are those of its configuration; ``names`` are those in the certificate itself (None: there is none).
    """
    if not settings or names is None:
        return ['there is no certificate yet']
    reasons = []
    if set(names) != {name.lower() for name in wanted.domains}:
        reasons.append('the names were %s' % ', '.join(sorted(names)))
    if settings.get('Le_Keylength') != wanted.key_type:
        reasons.append('the key type was %s' % (settings.get('Le_Keylength') or '2048'))
    if settings.get('Le_API') != wanted.server:
        reasons.append('the CA was %s' % settings.get('Le_API'))
    if settings.get('Le_Webroot') != 'alpn':
        reasons.append('the challenge was not tls-alpn-01')
    return reasons


def _answers_on(settings: t.Mapping[str, str]) -> set[str]:
    """Give the addresses of the responder: acme.sh takes one for each name and writes a comma behind each."""
    return set(filter(None, settings.get('Le_LocalAddress', '').split(',')))


def wanted_settings(wanted: Wanted, settings: t.Mapping[str, str]) -> dict[str, str]:
    """Give what a renewal has to find in the certificate's configuration, which now holds ``settings``."""
    address = settings['Le_LocalAddress'] if _answers_on(settings) == {wanted.local_address} else wanted.local_address + ','
    return {'Le_TLSPort': str(wanted.tls_port), 'Le_LocalAddress': address, 'Le_RenewalDays': str(wanted.days)}


def wanted_account(wanted: Wanted) -> dict[str, str]:
    """Give what issuing and renewing have to find in the account's configuration; on the command line they would not last (or not win)."""
    settings = {'CA_BUNDLE': wanted.ca_bundle, 'ACME_OPENSSL_BIN': wanted.openssl_bin}
    return {name: value for name, value in settings.items() if value is not None}


def wanted_install(wanted: Wanted) -> dict[str, str]:
    """Give where acme.sh has to install the certificate to, and the reload, as its configuration holds them."""
    install = wanted.install
    return {
        'Le_RealKeyPath': install.get('key', ''),
        'Le_RealFullChainPath': install.get('fullchain', ''),
        'Le_RealCertPath': install.get('cert', ''),
        'Le_RealCACertPath': install.get('ca', ''),
        'Le_ReloadCmd': wanted.reload,
    }


def expected_contents(wanted: Wanted, contents: t.Mapping[str, bytes | None]) -> dict[str, bytes]:
    """Give what each installed file has to hold, by path, from acme.sh's own copies (``contents`` by the names of install)."""
    available = {kind: content or b'' for kind, content in contents.items()}
    available['combined'] = available['key'] + available['fullchain']
    return {path: available[kind] for kind, path in wanted.install.items()}


def rivals(wanted: Wanted, own: str, others: t.Mapping[str, t.Mapping[str, str]]) -> list[str]:
    """Give the directories of other certificates that renewals would install over this one's files (``others``: settings by directory name)."""
    mine = set(wanted.install.values())
    theirs = ('Le_RealKeyPath', 'Le_RealFullChainPath', 'Le_RealCertPath', 'Le_RealCACertPath')
    return sorted(
        name
        for name, settings in others.items()
        if name != own
        and (mine & {settings.get(setting, '') for setting in theirs} or ('combined' in wanted.install and settings.get('Le_ReloadCmd') == wanted.reload))
    )


def decide(wanted: Wanted, found: Found, force: bool) -> Plan:
    """Give what has to be done for the certificate to be there, to be installed and to renew."""
    settings = read_settings(found.conf or b'')
    issue = reasons_to_issue(wanted, settings, found.names) or (['forced'] if force else [])
    files = {found.account_path: edit_settings(found.account or b'', wanted_account(wanted))}
    if found.conf is not None and not issue:  # issuing writes these settings itself
        files[conf_path(found.directory)] = edit_settings(found.conf, wanted_settings(wanted, settings))
    before = {found.account_path: found.account or b'', conf_path(found.directory): found.conf}
    if issue:
        install = ['a new certificate']
    else:
        install = ['where to install to or how to reload'] if any(settings.get(name, '') != value for name, value in wanted_install(wanted).items()) else []
        install += ['%s differed' % path for path, content in expected_contents(wanted, found.own).items() if found.installed[path] != content]
    own = os.path.basename(found.directory)
    return Plan({path: data for path, data in files.items() if data != before[path]}, issue, install, rivals(wanted, own, found.others))


def describe(wanted: Wanted, plan: Plan) -> str:
    """Give what is done, in a sentence."""
    done = []
    if plan.issue:
        done.append('issued (%s)' % ', '.join(plan.issue))
    if plan.install:
        done.append('installed (%s)' % ', '.join(plan.install))
    done += ['%s put right' % path for path in sorted(plan.files)]
    done += ['renewal of %s ended, which installs to the same files' % name for name in plan.remove]
    return '%s: %s' % (wanted.domains[0], '; '.join(done) or 'nothing to do')


def difference(wanted: Wanted, found: Found, plan: Plan) -> dict[str, str]:
    """Give Ansible's diff: the settings that matter here, one a line, and nothing of what else acme.sh's files hold (tokens, say)."""
    account, settings = read_settings(found.account or b''), read_settings(found.conf or b'')
    renewal = {**wanted_settings(wanted, settings), 'Le_API': wanted.server, 'Le_Keylength': wanted.key_type, **wanted_install(wanted)}
    before = {**{name: account.get(name) for name in wanted_account(wanted)}, **{name: settings.get(name) for name in renewal}}
    after: dict[str, str | None] = {**wanted_account(wanted), **renewal}
    before['names'], after['names'] = ' '.join(sorted(found.names or [])) or None, ' '.join(sorted(wanted.domains))
    before['certificate'], after['certificate'] = ('as before' if found.names else None), ('new' if plan.issue else 'as before')

    def text(values: t.Mapping[str, str | None]) -> str:
        return ''.join('%s=%s\n' % (name, value) for name, value in sorted(values.items()) if value)

    return {'before_header': found.directory, 'after_header': found.directory, 'before': text(before), 'after': text(after)}


def audit(settings: t.Mapping[str, str], tls_port: int, local_address: str, server: str) -> list[Finding]:
    """Give what keeps a certificate that was issued by tls-alpn-01 from being renewed through the front; nothing for any other certificate."""
    if 'alpn' not in settings.get('Le_Webroot', '').split(','):
        return []
    findings = []
    port, address, ca = settings.get('Le_TLSPort', ''), settings.get('Le_LocalAddress', ''), settings.get('Le_API', '')
    if port != str(tls_port):
        reason = 'the front hands validations to port %d, acme.sh would answer on %s' % (tls_port, port or '443')
        findings.append(Finding('Le_TLSPort', port, str(tls_port), reason))
    if _answers_on(settings) != {local_address}:
        reason = 'acme.sh would answer on %s, the front asks %s' % (address.rstrip(',') or 'every address', local_address)
        findings.append(Finding('Le_LocalAddress', address, local_address + ',', reason))
    unusable = why_unusable(ca)
    if unusable:
        findings.append(Finding('Le_API', ca, server, unusable))
    return findings


def issue_arguments(wanted: Wanted) -> list[str]:
    """Give the arguments of acme.sh that issue the certificate."""
    arguments = ['--issue', '--alpn', '--tlsport', str(wanted.tls_port), '--local-address', wanted.local_address]
    arguments += ['--server', wanted.server, '--keylength', wanted.key_type, '--days', str(wanted.days)]
    for name in wanted.domains:
        arguments += ['--domain', name]
    return arguments + ['--force']  # L(decide) knows why, acme.sh would skip what is not due


def install_arguments(wanted: Wanted) -> list[str]:
    """Give the arguments of acme.sh that install the certificate and reload the server, now and after each renewal."""
    arguments = ['--install-cert', '--domain', wanted.domains[0]] + (['--ecc'] if wanted.key_type.startswith('ec-') else [])
    options = {'key': '--key-file', 'fullchain': '--fullchain-file', 'cert': '--cert-file', 'ca': '--ca-file'}
    for kind, option in options.items():
        if kind in wanted.install:
            arguments += [option, wanted.install[kind]]
    return arguments + ['--reloadcmd', wanted.reload]


def remove_arguments(directory: str) -> list[str]:
    """Give the arguments of acme.sh that end a certificate's renewal (its files stay)."""
    return ['--remove', '--domain', domain_of(directory)] + (['--ecc'] if directory.endswith('_ecc') else [])


def explain(output: str) -> str:
    """Give what acme.sh's error output says, without colours, time stamps and its pointers to the debug log."""
    lines = []
    for line in re.sub(r'\x1b\[[0-9;]*m', '', output).splitlines():
        line = re.sub(r'^\[[^\]]*\d\d:\d\d:\d\d[^\]]*\] ?', '', line).strip()
        if line and not line.startswith(('Please add', 'See: ', 'Please check log')):
            lines.append(line)
    return '; '.join(lines)


def _read(path: str) -> bytes | None:
    try:
        return content_of(path)
    except OSError as error:
        raise Failed('%s: %s' % (path, error.strerror)) from error


class _NoServer:
    """acme.sh's files are read by no running server."""

    def check(self, staged: t.Mapping[str, str | None]) -> None:
        pass

    def apply(self) -> None:
        pass

    def drain(self) -> None:
        pass

    def prove(self, expect: t.Any) -> None:
        pass


def write(transaction: Transaction, files: t.Mapping[str, bytes | None]) -> None:
    """Write files, all or none, with the owners and modes that they have."""
    transaction.change([Stage(dict(files))], _NoServer())


class Home:
    """acme.sh's home on this host: what is in it, and acme.sh run with it. ``run`` runs a command and gives status, output, errors."""

    def __init__(self, path: str, run: Run, program: str | None = None) -> None:
        self.path = path
        self._run = run
        self._program = program
        self.account_path = os.path.join(path, 'account.conf')
        self.account = _read(self.account_path)
        self._certificates = read_settings(self.account or b'').get('CERT_HOME') or path

    def directory(self, domain: str, key_type: str) -> str:
        """Give the path of acme.sh's directory for a certificate."""
        return os.path.join(self._certificates, domain + ('_ecc' if key_type.startswith('ec-') else ''))

    def confs(self) -> dict[str, bytes]:
        """Give the configurations of all certificates that renew, by the path of their directory."""
        try:
            names = sorted(os.listdir(self._certificates))
        except FileNotFoundError:
            return {}
        directories = [os.path.join(self._certificates, name) for name in names if '.' in name]
        contents = {directory: _read(conf_path(directory)) for directory in directories if os.path.isdir(directory)}
        return {directory: content for directory, content in contents.items() if content is not None}

    def read(self, wanted: Wanted) -> Found:
        """Give what there is of a certificate; raise Failed where it can't be installed to."""
        for path in wanted.install.values():
            if not os.path.isdir(os.path.dirname(path)):
                raise Failed('%s: there is no folder %s' % (path, os.path.dirname(path)))
        directory = self.directory(wanted.domains[0], wanted.key_type)
        confs = self.confs()
        own = {kind: _read(path) for kind, path in sources(directory).items()}
        return Found(
            directory,
            self.account_path,
            self.account,
            confs.get(directory),
            self._names(sources(directory)['cert']) if own['cert'] and own['key'] and own['fullchain'] else None,
            own,
            {path: _read(path) for path in wanted.install.values()},
            {os.path.basename(path): read_settings(content) for path, content in confs.items()},
        )

    def _names(self, path: str) -> set[str]:
        code, out, err = self._run(['openssl', 'x509', '-in', path, '-noout', '-ext', 'subjectAltName'])
        if code:
            raise Failed('%s: openssl can not read it: %s' % (path, err.strip()))
        return read_names(out)

    def files_of(self, found: Found) -> dict[str, bytes | None]:
        """Give the contents of everything that issuing and installing a certificate overwrite, to put it back if either fails."""
        paths = [os.path.join(found.directory, name) for name in os.listdir(found.directory)] if os.path.isdir(found.directory) else []
        files = {path: _read(path) for path in paths if os.path.isfile(path)}
        return {conf_path(found.directory): None, **files, **found.installed}

    def acme_sh(self, arguments: list[str]) -> None:
        """Run acme.sh; raise Failed with what it says if it fails."""
        if self._program is None:
            raise Failed('acme.sh is neither in %s nor on the search path; the role seamless.tls_alpn.acme_sh installs it' % self.path)
        code, dummy, err = self._run([self._program] + arguments + ['--home', self.path])
        if code:
            raise Failed('acme.sh %s: %s' % (arguments[0], explain(err) or 'ended with status %d' % code))


def carry_out(plan: Plan, wanted: Wanted, found: Found, home: Home, transaction: Transaction) -> None:
    """Do what was decided; if issuing or installing fails, put acme.sh's files and the installed ones back, and raise Failed."""
    os.makedirs(home.path, mode=0o700, exist_ok=True)
    if plan.files:
        write(transaction, plan.files)
    before = home.files_of(found)
    try:
        if plan.issue:
            home.acme_sh(issue_arguments(wanted))
        if plan.install:
            home.acme_sh(install_arguments(wanted))
    except Failed:
        write(transaction, before)
        raise
    for name in plan.remove:
        home.acme_sh(remove_arguments(name))
