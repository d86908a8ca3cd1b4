#!/usr/bin/python
# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: acme_sh_certificate
short_description: Have a certificate from acme.sh by tls-alpn-01
version_added: 0.1.0
description:
  - Has acme.sh issue one certificate by the challenge tls-alpn-01 (RFC 8737), install it, and reload the server that uses it.
  - Issues only if there is no certificate yet, or if names, key type or CA are not those wanted. Renewals are acme.sh's own
    (C(acme.sh --cron)); what they need is kept in the certificate's configuration.
  - A CA that has no tls-alpn-01 and names that it can't validate are refused before anything runs.
  - If issuing or installing fails, acme.sh's configuration and the installed files are put back.
author:
  - The seamless.tls_alpn authors (@seamless)
extends_documentation_fragment:
  - seamless.tls_alpn._attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: partial
    details:
      - With O(force=true), each run issues.
  platform:
    platforms: linux
    support: full
options:
  domains:
    description:
      - Names in the certificate. acme.sh names the certificate after the first.
    type: list
    elements: str
    required: true
  key_type:
    description:
      - Type and size of the key; a number is the length of an RSA key in bits.
    type: str
    default: ec-256
    choices: [ec-256, ec-384, ec-521, '2048', '3072', '4096']
  server:
    description:
      - The CA, by the URL of its ACME directory or by one of acme.sh's names V(letsencrypt), V(letsencrypt_test), V(google), V(google_test),
        V(buypass), V(buypass_test) and V(sslcom).
      - acme.sh's own default, ZeroSSL, has no tls-alpn-01.
    type: str
    default: letsencrypt
  ca_bundle:
    description:
      - File of the certificates that the CA's own HTTPS is verified with, for a private CA. acme.sh keeps one for the whole account.
    type: path
  days:
    description:
      - Renew so many days after issuing. Kept for the next issuing or renewal.
    type: int
    default: 30
  tls_port:
    description:
      - Port on which acme.sh answers the challenge; the front hands validations to it.
    type: int
    default: 10443
  local_address:
    description:
      - Address on which acme.sh answers the challenge.
    type: str
    default: 127.0.0.1
  openssl_bin:
    description:
      - Program that acme.sh runs as C(openssl). With Apache, the responder that the role P(seamless.tls_alpn.apache#role) installs.
        acme.sh keeps one for the whole account.
    type: path
  acme_sh:
    description:
      - The program. Without it, C(acme.sh) in O(home) or, if it is not there, on the search path.
    type: path
  home:
    description:
      - acme.sh's home, where it keeps certificates and configuration. Created if it is missing.
    type: path
    default: ~/.acme.sh
  install:
    description:
      - Where the certificate is installed to, now and by each renewal. Folders must exist.
    type: dict
    required: true
    suboptions:
      key:
        description: The private key.
        type: path
      fullchain:
        description: The certificate and its chain.
        type: path
      cert:
        description: The certificate alone.
        type: path
      ca:
        description: The chain alone.
        type: path
      combined:
        description: Key, certificate and chain in one file, as HAProxy reads them. Goes with O(reload=haproxy).
        type: path
      owner:
        description: Owner of the installed files.
        type: str
      group:
        description: Group of the installed files.
        type: str
      mode:
        description: Mode of the files that hold the key. The others have V(0644).
        type: raw
        default: '0600'
  reload:
    description:
      - How the server takes a new certificate, now and after each renewal.
      - V(nginx) and V(apache) check the configuration, then reload gracefully.
      - V(haproxy) updates the certificate through the runtime API, or checks the configuration and reloads where that can't be. It needs the
        program that the role P(seamless.tls_alpn.acme_sh#role) installs.
      - Anything else is a shell command.
    type: str
    required: true
  force:
    description:
      - Issue even if the certificate is the one wanted.
    type: bool
    default: false
seealso:
  - module: seamless.tls_alpn.acme_sh_audit
"""

EXAMPLES = r"""
- name: Have a certificate for nginx
  seamless.tls_alpn.acme_sh_certificate:
    domains: [example.org, www.example.org]
    install:
      key: /etc/nginx/tls/example.org.key
      fullchain: /etc/nginx/tls/example.org.pem
    reload: nginx

- name: Have a certificate for HAProxy
  seamless.tls_alpn.acme_sh_certificate:
    domains: [example.org]
    install:
      combined: /etc/haproxy/certs/example.org.pem
    reload: haproxy

- name: Have a certificate for Apache, which answers the challenge itself
  seamless.tls_alpn.acme_sh_certificate:
    domains: [example.org]
    openssl_bin: /usr/local/lib/seamless-tls-alpn/openssl
    install:
      key: /etc/ssl/private/example.org.key
      fullchain: /etc/ssl/certs/example.org.pem
    reload: apache
"""

RETURN = r"""
msg:
  description: What was done or, in check mode, would be done.
  returned: always
  type: str
  sample: 'example.org: issued (the names were example.org), installed'
issued:
  description: Whether a certificate was issued or, in check mode, would be.
  returned: success
  type: bool
directory:
  description: Where acme.sh keeps the certificate.
  returned: success
  type: str
  sample: /root/.acme.sh/example.org_ecc
"""

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _acme_sh
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed, Transaction

KINDS = ('key', 'fullchain', 'cert', 'ca', 'combined')


def argument_spec() -> dict[str, t.Any]:
    paths = {kind: {'type': 'path', 'no_log': False} for kind in KINDS}
    attributes = {'owner': {'type': 'str'}, 'group': {'type': 'str'}, 'mode': {'type': 'raw', 'default': '0600'}}
    return {
        'domains': {'type': 'list', 'elements': 'str', 'required': True},
        'key_type': {'type': 'str', 'default': 'ec-256', 'choices': list(_acme_sh.KEY_TYPES), 'no_log': False},
        'server': {'type': 'str', 'default': 'letsencrypt'},
        'ca_bundle': {'type': 'path'},
        'days': {'type': 'int', 'default': 30},
        'tls_port': {'type': 'int', 'default': 10443},
        'local_address': {'type': 'str', 'default': '127.0.0.1'},
        'openssl_bin': {'type': 'path'},
        'acme_sh': {'type': 'path'},
        'home': {'type': 'path', 'default': '~/.acme.sh'},
        'install': {'type': 'dict', 'required': True, 'options': {**paths, **attributes}},
        'reload': {'type': 'str', 'required': True},
        'force': {'type': 'bool', 'default': False},
    }


def wanted_of(params: dict[str, t.Any]) -> _acme_sh.Wanted:
    install = {kind: params['install'][kind] for kind in KINDS if params['install'][kind]}
    _acme_sh.check_domains(params['domains'])
    wanted = _acme_sh.Wanted(
        domains=tuple(params['domains']),
        key_type=params['key_type'],
        server=_acme_sh.resolve_server(params['server'], params['key_type']),
        days=params['days'],
        tls_port=params['tls_port'],
        local_address=params['local_address'],
        install=install,
        reload=_acme_sh.reload_command(params['reload'], install.get('combined')),
        ca_bundle=os.path.realpath(params['ca_bundle']) if params['ca_bundle'] else None,
        openssl_bin=params['openssl_bin'],
    )
    _acme_sh.check_values(wanted)
    return wanted


def set_attributes(module: AnsibleModule, install: dict[str, t.Any]) -> bool:
    """Set owner, group and mode of the installed files that exist; give whether that changed (or would change) anything."""
    changed = False
    for kind in KINDS:
        if install[kind] and os.path.exists(install[kind]):
            mode = install['mode'] if kind in ('key', 'combined') else '0644'
            changed = module.set_mode_if_different(install[kind], mode, changed)
            changed = module.set_owner_if_different(install[kind], install['owner'], changed)
            changed = module.set_group_if_different(install[kind], install['group'], changed)
    return changed


def ensure(module: AnsibleModule, wanted: _acme_sh.Wanted) -> dict[str, t.Any]:
    params = module.params
    program = os.path.join(params['home'], 'acme.sh')
    if not os.path.exists(program):
        program = module.get_bin_path('acme.sh')
    with Transaction(params['home'], check_mode=module.check_mode) as transaction:
        home = _acme_sh.Home(params['home'], lambda command: module.run_command(command, environ_update={'LC_ALL': 'C'}), params['acme_sh'] or program)
        found = home.read(wanted)
        plan = _acme_sh.decide(wanted, found, params['force'])
        changed = any(plan)
        changed = set_attributes(module, params['install']) or changed  # before installing: no new key into a file that others can read
        if not module.check_mode:
            _acme_sh.carry_out(plan, wanted, found, home, transaction)
            set_attributes(module, params['install'])
    return {
        'changed': changed,
        'msg': _acme_sh.describe(wanted, plan),
        'issued': bool(plan.issue),
        'directory': found.directory,
        'diff': _acme_sh.difference(wanted, found, plan),
    }


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    try:
        result = ensure(module, wanted_of(module.params))
    except Failed as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == '__main__':
    main()
