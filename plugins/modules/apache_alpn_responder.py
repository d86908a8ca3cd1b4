#!/usr/bin/python
# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: apache_alpn_responder
short_description: Let Apache httpd answer tls-alpn-01 challenges itself
version_added: 0.1.0
description:
  - Loads mod_md and adds C(acme-tls/1) to C(Protocols) of the virtual hosts that speak TLS on the public port. Apache then answers
    tls-alpn-01 challenges (RFC 8737) for each of them with what it finds in mod_md's store. Nothing is moved off the port, and no
    certificate is managed by mod_md for it.
  - One task is one transaction. Apache checks the files before they are in place; after the graceful reload real TLS handshakes show
    that every site answers with the certificate that it had and that C(acme-tls/1) is offered. If anything does not hold, every file
    is put back and Apache is reloaded again.
  - Only C(Protocols) lines are changed or added, in the operator's own bytes. O(state=absent) gives every file back byte for byte.
  - An ACME client has to put its challenge certificates into the store; the role P(seamless.tls_alpn.apache#role) installs what does
    so for acme.sh.
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
requirements:
  - Apache httpd 2.4.37 or later, with mod_ssl loaded, and mod_md and mod_info installed
options:
  state:
    description: Whether Apache answers challenges.
    type: str
    choices: [present, absent]
    default: present
  config:
    description: Apache's main file. By default the one that it was built with.
    type: path
  binary:
    description:
      - The program (C(apache2) or C(httpd)). By default found as the shell would, and in C(/usr/sbin) and C(/usr/local/sbin).
    type: path
  virtual_hosts:
    description:
      - Names of the virtual hosts that answer challenges. By default all that speak TLS on the public port.
    type: list
    elements: str
  https_port:
    description: The public port.
    type: int
    default: 443
  reload:
    description:
      - How Apache is reloaded (gracefully). V(auto) uses its systemd unit, or the signal C(SIGUSR1) where it does not run under one.
        V(none) only changes the files.
      - A stopped Apache is never started.
    type: str
    choices: [auto, systemd, signal, none]
    default: auto
  verify:
    description: Whether TLS handshakes prove the change.
    type: bool
    default: true
  backup_dir:
    description: A directory (its absolute path) for copies of the files as they were; none of Apache's includes may look into it.
    type: path
author:
  - The seamless.tls_alpn authors (@seamless)
"""

EXAMPLES = r"""
- name: Let Apache answer challenges for all its sites
  seamless.tls_alpn.apache_alpn_responder:

- name: Let it answer for one site
  seamless.tls_alpn.apache_alpn_responder:
    virtual_hosts: [www.example.com]

- name: Give every file back as it was
  seamless.tls_alpn.apache_alpn_responder:
    state: absent
"""

RETURN = r"""
supported:
  description: Whether this Apache can answer challenges; if not, the message (in check mode a warning) says what it lacks.
  type: bool
  returned: always
virtual_hosts:
  description: The virtual hosts on the public port that answer challenges.
  type: list
  elements: dict
  returned: success
  contains:
    file:
      description: The file.
      type: str
    line:
      description: The line.
      type: int
    names:
      description: Its names.
      type: list
      elements: str
public:
  description: Where clients reach these virtual hosts, seen from this host.
  type: list
  elements: str
  returned: success
store:
  description: The directory of mod_md (C(MDStoreDir)); challenge certificates belong into C(challenges/NAME) in it.
  type: str
  returned: success
reloaded:
  description: Whether Apache was reloaded.
  type: bool
  returned: success
verified:
  description: The handshakes that were made after the reload.
  type: list
  elements: dict
  returned: success
  contains:
    address:
      description: Where to.
      type: str
    sni:
      description: The name asked for, empty for none.
      type: str
    alpn:
      description: The protocols offered.
      type: str
    negotiated:
      description: The protocol chosen.
      type: str
    result:
      description: Which certificate answered, or what else was seen.
      type: str
backup:
  description: The directory with the files as they were.
  type: str
  returned: when O(backup_dir) is given and files were changed
"""

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _apache_protocols, _apache_server, _capability, _probe, _spans
from ansible_collections.seamless.tls_alpn.plugins.module_utils._capability_apache import NAMES, apache_capability
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed, Stage, Transaction, Unsupported


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Read, decide, act, report; raise Failed."""
    params = module.params
    port = params['https_port']

    def command(argv: list[str]) -> tuple[int, str, str]:
        return module.run_command(argv, environ_update={'LC_ALL': 'C'}, handle_exceptions=False)

    binary = _capability.find_binary(NAMES, params['binary'])
    if binary is None:
        kind = Failed if params['binary'] else Unsupported  # one that is named has to be there
        raise kind('%s: there is no Apache httpd; install it, or say where it is with binary' % (params['binary'] or ' or '.join(NAMES)))
    capability = apache_capability(command, binary, params['config'])
    main = capability['config_path']
    server = _apache_server.ApacheServer(command, binary, main, params['reload'])

    with Transaction(main, params['backup_dir'], module.check_mode) as transaction:
        # Read
        config = _apache_protocols.with_recorded(server.read())
        base = _apache_protocols.base_of(config, port)
        warnings = list(base.warnings)
        store = os.path.normpath(os.path.join(config.root, (config.server.last('mdstoredir') or ['md'])[0]))

        # Decide
        chosen = None
        if params['state'] == 'present':
            if not capability['tls_alpn']['supported']:
                if not module.check_mode:
                    raise Unsupported(capability['tls_alpn']['reason'])
                warnings.append(capability['tls_alpn']['reason'])
            chosen = _apache_protocols.choose(base.hosts, params['virtual_hosts'], port)
        decision = _apache_protocols.decide(base, chosen)
        steps = [decision.files] if decision.files else []
        reached = _apache_protocols.endpoints(base.hosts, _probe.is_free('::1', 0))
        before, offered = [], {}
        answered = chosen is not None or base.loads_md  # without mod_md nobody does, whatever Protocols say
        if server.master() is not None and params['verify'] and params['reload'] != 'none':
            for address, names in reached.items():
                endpoint = _probe.Endpoint(address, port)
                seen = _probe.look([endpoint], list(names)) if _probe.is_reachable(endpoint) else []
                before += seen
                offered.update({(endpoint, one.sni): names[one.sni].place in decision.answering and answered for one in seen if one.certificate})
            now = _apache_server.offers(offered)
            if not steps and any((one.negotiated == _probe.ACME) != offered[one.endpoint, one.sni] for one in now):
                steps = [{}]  # the files are right; Apache has not loaded them
        if not steps and transaction.recovered:
            steps = [{}]  # nor perhaps what a killed run left
        expect = _apache_server.Expect(before, offered, _apache_server.certificates(config, store))

        # Act
        if steps and not module.check_mode:
            server.refuse_fatal(config)
            transaction.change([Stage(files, expect) for files in steps], server, config.data)

        # Report
        for warning in warnings:
            module.warn(warning)
        result: dict[str, t.Any] = {
            'changed': bool(steps),
            'diff': _spans.diff({path: (config.data.get(path), content) for path, content in decision.files.items()}),
            'supported': capability['tls_alpn']['supported'],
            'virtual_hosts': [
                {'file': host.section.file, 'line': host.section.line, 'names': host.names} for host in base.hosts if host.place in decision.answering
            ],
            'public': [
                str(_probe.Endpoint(address, port)) for address, names in reached.items() if any(host.place in decision.answering for host in names.values())
            ],
            'store': store,
            'reloaded': server.reloaded,
            'verified': [one.report() for one in server.verified],
        }
        if transaction.backup:
            result['backup'] = transaction.backup
        return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            'state': {'type': 'str', 'choices': ['present', 'absent'], 'default': 'present'},
            'config': {'type': 'path'},
            'binary': {'type': 'path'},
            'virtual_hosts': {'type': 'list', 'elements': 'str'},
            'https_port': {'type': 'int', 'default': 443},
            'reload': {'type': 'str', 'choices': ['auto', 'systemd', 'signal', 'none'], 'default': 'auto'},
            'verify': {'type': 'bool', 'default': True},
            'backup_dir': {'type': 'path'},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except (Failed, OSError) as error:
        module.fail_json(msg=str(error), supported=not isinstance(error, Unsupported))
    module.exit_json(**result)


if __name__ == '__main__':
    main()
