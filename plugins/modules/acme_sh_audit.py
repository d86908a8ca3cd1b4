#!/usr/bin/python
# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: acme_sh_audit
short_description: Put acme.sh's tls-alpn-01 certificates right, so that they renew
version_added: 0.1.0
description:
  - Looks at every certificate that acme.sh has issued by tls-alpn-01 (C(--alpn)) and puts right what would keep its renewal from working through
    the front, since renewals take it from there - the port and the address on which acme.sh answers, and a CA that has no tls-alpn-01.
  - Only the bytes of those values change. Certificates issued by another challenge are left alone.
  - In check mode it only reports.
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
    support: full
  platform:
    platforms: linux
    support: full
options:
  home:
    description:
      - acme.sh's home.
    type: path
    default: ~/.acme.sh
  tls_port:
    description:
      - Port to which the front hands validations.
    type: int
    default: 10443
  local_address:
    description:
      - Address to which the front hands validations.
    type: str
    default: 127.0.0.1
  server:
    description:
      - CA to renew from where the one before has no tls-alpn-01, as in M(seamless.tls_alpn.acme_sh_certificate).
    type: str
    default: letsencrypt
seealso:
  - module: seamless.tls_alpn.acme_sh_certificate
"""

EXAMPLES = r"""
- name: Put certificates right that were issued by hand
  seamless.tls_alpn.acme_sh_audit:
"""

RETURN = r"""
findings:
  description: What was wrong, one entry a setting.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: The certificate's configuration.
      type: str
      sample: /root/.acme.sh/example.org_ecc/example.org.conf
    setting:
      description: acme.sh's name of the setting.
      type: str
      sample: Le_TLSPort
    before:
      description: The value found; empty if it was not set.
      type: str
      sample: '443'
    after:
      description: The value that it has now or, in check mode, would have.
      type: str
      sample: '10443'
    reason:
      description: Why the renewal would have failed.
      type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _acme_sh
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed, Transaction


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            'home': {'type': 'path', 'default': '~/.acme.sh'},
            'tls_port': {'type': 'int', 'default': 10443},
            'local_address': {'type': 'str', 'default': '127.0.0.1'},
            'server': {'type': 'str', 'default': 'letsencrypt'},
        },
        supports_check_mode=True,
    )
    params = module.params
    findings, files = [], {}
    try:
        server = _acme_sh.resolve_server(params['server'])
        with Transaction(params['home'], check_mode=module.check_mode) as transaction:
            for directory, content in _acme_sh.Home(params['home'], module.run_command).confs().items():
                found = _acme_sh.audit(_acme_sh.read_settings(content), params['tls_port'], params['local_address'], server)
                path = _acme_sh.conf_path(directory)
                findings += [{'path': path, **finding._asdict()} for finding in found]
                if found:
                    files[path] = _acme_sh.edit_settings(content, {finding.setting: finding.after for finding in found})
            if files and not module.check_mode:
                _acme_sh.write(transaction, files)
    except Failed as error:
        module.fail_json(msg=str(error))
    # of the files, only these settings are shown: others (Le_PFXPassword) may be secret
    before, after = (''.join('%(path)s: %(setting)s=' % finding + finding[side] + '\n' for finding in findings) for side in ('before', 'after'))
    module.exit_json(changed=bool(files), findings=findings, diff={'before': before, 'after': after})


if __name__ == '__main__':
    main()
