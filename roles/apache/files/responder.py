# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stands in for openssl, so that Apache httpd answers the tls-alpn-01 challenges (RFC 8737) of acme.sh.

PRIVATE to the collection, may change at any time. The role `apache` installs it as a program of its own (it needs nothing but Python's
standard library and openssl); acme.sh runs it through its option ``--openssl-bin``.

Every command becomes the real openssl, but for two:

``s_server ... -alpn acme-tls/1``
    acme.sh's responder. Nothing is listened to here. The challenge certificate goes, minted anew in the key type of the virtual host
    that answers for the name, into the store of mod_md, which serves it to acme-tls/1 handshakes on the public port (mod_md.c,
    md_answer_challenge). It is removed when this program ends.
``req ... -config FILE`` where FILE has an acmeIdentifier
    acme.sh prepares a challenge. What would go wrong later is said now, since acme.sh shows the error output of this command and
    throws away that of the responder.

``responder.json`` beside the program says: ``openssl`` (the real one), ``store`` (MDStoreDir), ``endpoints`` (where clients reach the
virtual hosts from this host: ["127.0.0.1:443"]).
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import json
import os
import pwd
import re
import signal
import subprocess
import sys
import syslog
import tempfile
import time
import typing as t

ACME = 'acme-tls/1'
IDENTIFIER = '1.3.6.1.5.5.7.1.31'  # id-pe-acmeIdentifier, RFC 8737 section 6.1
# DER of the extension up to its 32 bytes: the OID, critical, an OCTET STRING in an OCTET STRING (RFC 8737 section 3).
IDENTIFIER_DER = bytes.fromhex('06082b0601050507011f0101ff04220420')
# As mod_md names them in its group "challenges" (md_acme_authz.c, tls_alpn01_fnames): it looks for those of each key type of MDPrivateKeys.
KEY_TYPES = ('', '.secp256r1', '.secp384r1', '.secp521r1')
CERTIFICATES = ['acme-tls-alpn-01-pubcert%s.pem' % suffix for suffix in KEY_TYPES]
KEYS = ['acme-tls-alpn-01-privkey%s.pem' % suffix for suffix in KEY_TYPES]
MARKER = '.seamless-tls-alpn'  # beside them: a symbolic link to "PID.START", the process whose challenge this is
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
TIMEOUT = 30  # seconds until a certificate in the store has to be served, or a challenge before us to end
KEY_OPTIONS = {
    'rsaEncryption': ['rsa:2048'],
    'id-ecPublicKey': ['ec', '-pkeyopt', 'ec_paramgen_curve:P-256'],
    'ED25519': ['ed25519'],
}
# The order of Go's crypto/tls, as CAs are written in Go: a virtual host with certificates of two key types chooses by it.
SIGNATURES = 'RSA-PSS+SHA256:ECDSA+SHA256:ed25519:RSA-PSS+SHA384:RSA-PSS+SHA512:RSA+SHA256:RSA+SHA384:RSA+SHA512:ECDSA+SHA384:ECDSA+SHA512'


class Refused(Exception):
    """A challenge that can't be answered, and why."""


FAILURES = (Refused, OSError, subprocess.SubprocessError)


class Config(t.NamedTuple):
    """What ``responder.json`` says."""

    openssl: str
    store: str
    endpoints: list[str]


class Answer(t.NamedTuple):
    """What one endpoint answered to an acme-tls/1 handshake: whether it was reached, the protocol chosen, the certificate (PEM)."""

    endpoint: str
    reached: bool = False
    protocol: str | None = None
    certificate: str | None = None


def read_config(path: str) -> Config:
    """Read ``responder.json``; raise Refused where it is not there or not right."""
    try:
        with open(path, encoding='utf-8') as stream:
            value = json.load(stream)
        return Config(value['openssl'], value['store'], list(value['endpoints']))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused('%s: %s; run the role seamless.tls_alpn.apache again' % (path, error)) from error


def option(argv: t.Sequence[str], name: str) -> str | None:
    """Give the value of an option on openssl's command line."""
    return dict(zip(argv, argv[1:])).get(name)


def sni_of(kind: str, value: str) -> str:
    """Give the name that a CA puts into the SNI for an identifier; raise Refused for what is no domain name or address.

    An address is asked for by its reverse name (RFC 8738 section 6). Only what comes out of here becomes a path.
    """
    if kind == 'IP':
        try:
            return ipaddress.ip_address(value).reverse_pointer
        except ValueError as error:
            raise Refused(str(error)) from error
    name = value.lower()
    if len(name) > 253 or not re.fullmatch(r'(?!-)[a-z0-9_-]{1,63}(\.(?!-)[a-z0-9_-]{1,63})*', name):
        raise Refused('%r is not a domain name for which tls-alpn-01 can be answered' % value)
    return name


def identifiers(text: str) -> list[tuple[str, str]]:
    """Give the (kind, value) of a subjectAltName, as openssl prints it or as a configuration file has it."""
    return [('IP' if kind.startswith('IP') else 'DNS', value) for kind, value in re.findall(r'\b(DNS|IP(?: Address)?):([^\s,]+)', text)]


def the_identifier(text: str, where: str) -> tuple[str, str]:
    """Give the one identifier of a challenge; raise Refused if there is not exactly one (RFC 8737 section 3)."""
    found = identifiers(text)
    if len(found) != 1:
        raise Refused('%s: a challenge certificate has exactly one name, this has %d' % (where, len(found)))
    return found[0]


def pem_blocks(text: str) -> list[str]:
    """Give the PEM blocks in a text."""
    return [block + '\n' for block in re.findall(r'-----BEGIN [^-]+-----.*?-----END [^-]+-----', text, re.DOTALL)]


def key_authorization(certificate: str) -> str:
    """Give the digest in a challenge certificate's critical acmeIdentifier, in hexadecimal; raise Refused if there is none."""
    der = base64.b64decode(''.join(certificate.splitlines()[1:-1]))
    begin = der.find(IDENTIFIER_DER)
    digest = der[begin + len(IDENTIFIER_DER) :][:32]
    if begin < 0 or len(digest) != 32:
        raise Refused('the challenge certificate has no critical acmeIdentifier')
    return digest.hex()


def openssl(config: Config, *words: str, stdin: str = '', codes: t.Collection[int] = (0,)) -> str:
    """Run the real openssl and give its output; raise Refused with what it says where it ends with none of ``codes``."""
    done = subprocess.run([config.openssl, *words], input=stdin, capture_output=True, text=True, errors='replace', timeout=TIMEOUT, check=False)
    if done.returncode not in codes:
        raise Refused('openssl %s: %s' % (words[0], done.stderr.strip()))
    return done.stdout


def ask(config: Config, endpoint: str, sni: str) -> Answer:
    """Make an acme-tls/1 handshake as a CA does (RFC 8737 section 3)."""
    client = [config.openssl, 's_client', '-connect', endpoint, '-servername', sni, '-alpn', ACME, '-sigalgs', SIGNATURES]
    try:
        # Its exit code says how the connection ended, which is not of interest.
        out = subprocess.run(client, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors='replace', timeout=10, check=False).stdout
    except subprocess.TimeoutExpired:
        return Answer(endpoint)
    protocol = re.search(r'^ALPN protocol: (\S+)', out, re.MULTILINE)
    return Answer(endpoint, 'CONNECTED' in out, protocol.group(1) if protocol else None, next(iter(pem_blocks(out)), None))


def site(config: Config, kind: str, value: str) -> Answer:
    """Give the answer of the virtual host that the CA will meet; raise Refused if none would answer the challenge.

    Where several addresses answer, it is the one whose certificate is for the name, else the first.
    """
    answers = [ask(config, endpoint, sni_of(kind, value)) for endpoint in config.endpoints]
    able = [answer for answer in answers if answer.certificate and answer.protocol == ACME]
    if not able:
        seen = ['%s %s' % (one.endpoint, 'does not offer it' if one.reached else 'can not be reached') for one in answers]
        raise Refused(
            'no virtual host answers %s for %s (%s): run the role seamless.tls_alpn.apache, which adds it to Protocols' % (ACME, value, ', '.join(seen))
        )
    check = '-checkip' if kind == 'IP' else '-checkhost'
    for answer in able:
        # OpenSSL 3.5 ends with 1 where the name is another, earlier ones with 0.
        if 'does match' in openssl(config, 'x509', '-noout', check, value, stdin=answer.certificate or '', codes=(0, 1)):
            return answer
    return able[0]


def mint(config: Config, like: str, kind: str, value: str, digest: str) -> tuple[str, str]:
    """Give a challenge certificate and its key (PEM) in the key type of the certificate ``like``; raise Refused for one that is not known."""
    algorithm = re.search(r'Public Key Algorithm: (\S+)', openssl(config, 'x509', '-noout', '-text', stdin=like))
    options = KEY_OPTIONS.get(algorithm.group(1) if algorithm else '')
    if options is None or algorithm is None:
        raise Refused('the virtual host of %s has a key of a type that is not known (%s)' % (value, algorithm and algorithm.group(1)))
    request = '[req]\ndistinguished_name=dn\nx509_extensions=v3\n[dn]\n[v3]\nsubjectAltName=%s:%s\n%s=critical,DER:0420%s\n' % (kind, value, IDENTIFIER, digest)
    with tempfile.TemporaryDirectory() as directory:
        paths = [os.path.join(directory, name) for name in ('config', 'key', 'certificate')]
        with open(paths[0], 'w', encoding='utf-8') as stream:
            stream.write(request)
        files = ['-config', paths[0], '-keyout', paths[1], '-out', paths[2]]
        openssl(config, 'req', '-x509', '-nodes', '-sha256', '-days', '2', '-subj', '/CN=%s challenge' % ACME.replace('/', '-'), *files, '-newkey', *options)
        contents = []
        for path in paths[:0:-1]:
            with open(path, encoding='utf-8') as stream:
                contents.append(stream.read())
        return contents[0], contents[1]


def start_of(pid: str) -> str:
    """Give when a process started (proc(5), stat field 22), '' if it is gone; with it a PID is unique."""
    try:
        with open('/proc/%d/stat' % int(pid), encoding='utf-8', errors='replace') as stream:
            return stream.read().rpartition(')')[2].split()[19]
    except (OSError, ValueError):
        return ''


def is_alive(marker: str) -> bool:
    """Whether the process that a marker names still runs."""
    pid, dummy, start = marker.partition('.')
    return bool(start) and start_of(pid) == start


class Challenge:
    """One challenge certificate in mod_md's store: put there, kept there, and removed."""

    def __init__(self, store: str, sni: str, certificate: str, key: str) -> None:
        self._directory = os.path.join(store, 'challenges', sni)
        # In this order, since mod_md looks for the certificate first.
        self._contents = {**dict.fromkeys(KEYS, key), **dict.fromkeys(CERTIFICATES, certificate)}
        self._me = '%d.%s' % (os.getpid(), start_of(str(os.getpid())))

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def _holder(self) -> str:
        with contextlib.suppress(OSError):
            return os.readlink(self._path(MARKER))
        return ''

    def _is_there(self, name: str) -> bool:
        try:
            with open(self._path(name), encoding='utf-8') as stream:
                return stream.read() == self._contents[name]
        except (OSError, ValueError):
            return False

    def keep(self) -> None:
        """Put into the store what is not there: everything at first, and again after a graceful restart has purged it.

        Raises BlockingIOError while another process holds the name, Refused if mod_md has a challenge of its own for it.
        """
        if self._holder() == self._me and all(self._is_there(name) for name in self._contents):
            return
        with contextlib.suppress(FileNotFoundError):  # purged at this very moment; the next call puts it back
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._directory)
            with contextlib.suppress(FileExistsError):
                os.symlink(self._me, self._path(MARKER))
            if self._holder() not in (self._me, ''):
                raise BlockingIOError
            for name, content in self._contents.items():
                if self._is_there(name):
                    continue
                with open(self._path(MARKER + '.new'), 'w', encoding='utf-8') as stream:
                    stream.write(content)
                try:
                    os.link(stream.name, self._path(name))
                except FileExistsError as error:
                    raise Refused('%s: mod_md itself is answering a challenge for this name' % self._directory) from error
                finally:
                    os.unlink(stream.name)

    def remove(self) -> None:
        """Take out of the store what this process put there."""
        if self._holder() == self._me:
            remove_from(self._directory, [name for name in self._contents if self._is_there(name)])
        with contextlib.suppress(OSError):  # ended before the marker was there, or gone, or somebody else's
            os.rmdir(self._directory)


def remove_from(directory: str, names: t.Iterable[str]) -> None:
    """Remove files of a challenge, the marker last, and the directory if nothing else is in it."""
    for name in [*names, MARKER + '.new', MARKER]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))
    with contextlib.suppress(OSError):  # gone, or with files of mod_md's own
        os.rmdir(directory)


def sweep(store: str) -> None:
    """Remove what runs have left that were killed before they could do so themselves."""
    challenges = os.path.join(store, 'challenges')
    for name in os.listdir(challenges):
        with contextlib.suppress(OSError):
            if not is_alive(os.readlink(os.path.join(challenges, name, MARKER))):
                remove_from(os.path.join(challenges, name), CERTIFICATES + KEYS)


def become_owner(store: str) -> None:
    """Go on as the user of httpd's workers, to whom mod_md gives its folder for challenges; raise Refused if that can't be.

    The files are then readable by that user and nobody else, and a worker that was broken into can't lead root astray by links.
    """
    challenges = os.path.join(store, 'challenges')
    try:
        owner = os.stat(challenges).st_uid
    except OSError as error:
        raise Refused('%s: %s; is mod_md loaded, and httpd started?' % (challenges, error.strerror)) from error
    if os.geteuid() == 0 and owner != 0:
        os.setgroups([])
        os.setgid(pwd.getpwuid(owner).pw_gid)
        os.setuid(owner)
    if not os.access(challenges, os.R_OK | os.W_OK | os.X_OK):
        raise Refused('%s: may not be written by the user that runs acme.sh; run acme.sh as root' % challenges)


def check_request(config: Config, path: str) -> None:
    """Raise Refused if the challenge for which acme.sh has written this request would not be answered."""
    with open(path, encoding='utf-8', errors='replace') as stream:
        text = stream.read()
    if IDENTIFIER not in text:
        return
    kind, value = the_identifier(text, path)
    pid = os.fork()  # which gives the rights up that the command itself still needs
    if pid == 0:
        code = 1
        try:
            site(config, kind, value)
            become_owner(config.store)
            code = 0
        except FAILURES as error:
            complain(error)
        finally:
            os._exit(code)
    if os.waitpid(pid, 0)[1]:
        raise SystemExit(1)


def respond(config: Config, path: str) -> None:
    """Answer the challenge whose certificate is in the file ``path`` until this process is terminated, or its parent is gone."""
    parent = os.getppid()
    with open(path, encoding='utf-8', errors='replace') as stream:
        given = next(iter(pem_blocks(stream.read())), None)
    if given is None:
        raise Refused('%s: no certificate' % path)
    become_owner(config.store)
    os.umask(0o077)
    sweep(config.store)
    kind, value = the_identifier(openssl(config, 'x509', '-noout', '-ext', 'subjectAltName', stdin=given), path)
    certificate, key = mint(config, site(config, kind, value).certificate or '', kind, value, key_authorization(given))
    challenge = Challenge(config.store, sni_of(kind, value), certificate, key)
    deadline: float | None = time.monotonic() + TIMEOUT
    try:
        while os.getppid() == parent:
            try:
                challenge.keep()
                if deadline and any(ask(config, endpoint, sni_of(kind, value)).certificate == certificate for endpoint in config.endpoints):
                    deadline = None  # served
            except BlockingIOError:
                pass
            if deadline and time.monotonic() > deadline:
                raise Refused('the certificate in %s for %s is not served' % (config.store, value))
            time.sleep(0.1)
    finally:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        challenge.remove()


def end(number: int, dummy: t.Any) -> None:
    """Turn a signal into the way out, past every ``finally``."""
    raise SystemExit(128 + number)


def complain(error: Exception) -> None:
    """Say what is wrong where acme.sh shows it, and in the system's log."""
    sys.stderr.write('seamless.tls_alpn: %s\n' % error)
    syslog.openlog('seamless-tls-alpn')
    syslog.syslog(syslog.LOG_ERR, str(error))


def main(argv: list[str]) -> None:
    try:
        config = read_config(os.path.join(os.path.dirname(os.path.realpath(argv[0])), 'responder.json'))
        words = argv[1:]
        if words[:1] == ['s_server'] and option(words, '-alpn') == ACME:
            for number in ENDING:
                signal.signal(number, end)
            respond(config, option(words, '-cert') or '')
        else:
            if words[:1] == ['req'] and option(words, '-config'):
                check_request(config, option(words, '-config') or '')
            os.execv(config.openssl, [config.openssl, *words])
    except FAILURES as error:
        complain(error)
        raise SystemExit(1) from error


if __name__ == '__main__':
    main(sys.argv)
