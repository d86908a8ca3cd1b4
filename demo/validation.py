# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Both sides of a tls-alpn-01 validation (RFC 8737): the ACME client's responder, and the CA that looks."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import pathlib
import secrets
import socket
import ssl
import subprocess
import typing as t

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

ACME_IDENTIFIER = x509.ObjectIdentifier('1.3.6.1.5.5.7.1.31')  # id-pe-acmeIdentifier, RFC 8737 section 6.1
TIMEOUT = 20  # seconds


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip('=')


def key_authorization() -> str:
    """Give a key authorization (RFC 8555 section 8.1): the CA's token and the thumbprint (RFC 7638) of the client's account key."""
    numbers = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
    key = {'crv': 'P-256', 'kty': 'EC', 'x': _base64url(numbers.x.to_bytes(32, 'big')), 'y': _base64url(numbers.y.to_bytes(32, 'big'))}
    thumbprint = hashlib.sha256(json.dumps(key, sort_keys=True, separators=(',', ':')).encode()).digest()
    return '%s.%s' % (_base64url(secrets.token_bytes(32)), _base64url(thumbprint))


def challenge_certificate(directory: pathlib.Path, name: str, authorization: str) -> pathlib.Path:
    """Make the certificate that answers the challenge, as acme.sh does it: RSA, self-signed, the digest in a critical extension."""
    path = directory / ('challenge-%s' % name)
    digest = hashlib.sha256(authorization.encode()).hexdigest()
    extensions = ['subjectAltName=DNS:%s' % name, '%s=critical,DER:0420%s' % (ACME_IDENTIFIER.dotted_string, digest)]
    command = ['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '1', '-subj', '/CN=tls.acme.sh']
    command += [word for extension in extensions for word in ('-addext', extension)]
    subprocess.run([*command, '-keyout', '%s.key' % path, '-out', '%s.crt' % path], check=True, capture_output=True)
    return path


@contextlib.contextmanager
def responder(certificate: pathlib.Path, port: int) -> t.Iterator[None]:
    """Answer challenges on loopback, as `acme.sh --alpn --tlsport PORT --local-address 127.0.0.1` does."""
    files = ['-cert', '%s.crt' % certificate, '-key', '%s.key' % certificate]
    process = subprocess.Popen(
        ['openssl', 's_server', '-www', *files, '-accept', '127.0.0.1:%d' % port, '-alpn', 'acme-tls/1'],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said = ''
        while 'ACCEPT' not in said:  # printed as soon as it listens
            line = process.stdout.readline() if process.stdout else ''
            if not line:
                raise OSError('openssl s_server ended: %s' % said.strip())
            said += line
        yield
    finally:
        process.kill()
        process.communicate()


def problem(port: int, name: str, authorization: str) -> str | None:
    """Validate as a CA does (RFC 8737 section 3), on ``port`` of this host; give what does not hold, or None for a valid answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the certificate is self-signed; what it says is looked at below
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(['acme-tls/1'])
    try:
        with socket.create_connection(('127.0.0.1', port), TIMEOUT) as plain, context.wrap_socket(plain, server_hostname=name) as secured:
            protocol, der = secured.selected_alpn_protocol(), secured.getpeercert(True)
    except ssl.SSLError as error:
        return 'the handshake was refused: %s' % (error.reason or error)
    except OSError as error:
        return 'no handshake: %s' % error
    if protocol != 'acme-tls/1':
        return 'the server chose the protocol %s' % protocol
    certificate = x509.load_der_x509_certificate(der or b'')
    try:
        names = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        identifier = certificate.extensions.get_extension_for_oid(ACME_IDENTIFIER)
    except x509.ExtensionNotFound as error:
        return 'the certificate of the site answered: %s' % error
    if names != [x509.DNSName(name)]:
        return 'the certificate is not for exactly this name: %s' % names
    if not identifier.critical:
        return 'the acmeIdentifier extension is not critical'
    # An OCTET STRING (tag 4) of 32 bytes.
    if identifier.value.public_bytes() != b'\x04\x20' + hashlib.sha256(authorization.encode()).digest():
        return 'the acmeIdentifier extension holds another digest'
    return None
