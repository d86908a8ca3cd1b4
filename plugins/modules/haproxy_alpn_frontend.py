#!/usr/bin/python
# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: haproxy_alpn_frontend
short_description: Put a TLS-ALPN front before HAProxy's HTTPS frontends
version_added: 0.1.0
description:
  - Moves every C(bind) on the public port to an address that only HAProxy reaches, and puts a TCP frontend there that routes
    tls-alpn-01 challenges (RFC 8737) to the ACME client and everything else to the frontends as they were.
  - One task is one transaction. HAProxy checks exactly the files that it will load before they are in place; after the reload real TLS
    handshakes show that every site answers with the certificate that it had and that C(acme-tls/1) reaches the responder every time.
    If anything does not hold, every file is put back and HAProxy is reloaded again.
  - Only the address of each C(bind) and the options that belong to its socket are changed, beside one marked block (or a file of its
    own where HAProxy loads a directory). O(state=absent) gives every file back byte for byte.
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
  - HAProxy 1.9.1 or later, built with TLS
options:
  state:
    description: Whether the front is there.
    type: str
    choices: [present, absent]
    default: present
  config:
    description:
      - HAProxy's configuration files or directories, as it is started with them (its options C(-f)).
      - By default those of the HAProxy that runs, or of its systemd unit. Where several run, this says which one is meant; all that
        it loads is read then, not only what is named here.
    type: list
    elements: path
  binary:
    description: The haproxy program. By default found as the shell would, and in C(/usr/sbin) and C(/usr/local/sbin).
    type: path
  https_port:
    description: The public port.
    type: int
    default: 443
  acme_host:
    description: Where the ACME client answers challenges.
    type: str
    default: 127.0.0.1
  acme_port:
    description: The port where the ACME client answers challenges (acme.sh's C(--tlsport)).
    type: int
    default: 10443
  frontend:
    description:
      - The name of the front's frontend. Further ones (each public C(bind) has one of its own) get C(_2), C(_3) and so on behind it.
      - The handoff V(abns) uses these names, too, so that two HAProxy on one host need different ones.
    type: str
    default: fe_alpn
  acme_backend:
    description: The name of the backend that leads to the ACME client.
    type: str
    default: bk_acmesh
  https_backend:
    description: The name of the backend that leads to the HTTPS frontend; further ones as with O(frontend).
    type: str
    default: bk_https
  handoff:
    description:
      - How an ordinary connection gets to the HTTPS frontend.
      - V(abns) is a socket in Linux's abstract namespace with the PROXY protocol; the client's address is kept.
      - V(plain) is a port of 127.0.0.1; the client's address is lost.
      - V(auto) is V(abns).
    type: str
    choices: [auto, abns, plain]
    default: auto
  backend_port:
    description: The first port of 127.0.0.1 for the handoff V(plain); further frontends take the ones that follow.
    type: int
    default: 8443
  inspect_delay:
    description: How long the front waits for a ClientHello, as HAProxy writes times.
    type: str
    default: 5s
  reload:
    description:
      - How HAProxy is reloaded. V(auto) uses its systemd unit, or V(signal) where it does not run under one. V(signal) is SIGUSR2 to the
        master, or a successor started with C(-sf) where no master runs. V(none) only changes the files.
      - A stopped HAProxy is never started.
    type: str
    choices: [auto, systemd, signal, none]
    default: auto
  verify:
    description: Whether TLS handshakes prove the change.
    type: bool
    default: true
  backup_dir:
    description: A directory (its absolute path) for copies of the files as they were; HAProxy must not load it.
    type: path
author:
  - The seamless.tls_alpn authors (@seamless)
"""

EXAMPLES = r"""
- name: Put the front up
  seamless.tls_alpn.haproxy_alpn_frontend:

- name: Put it up for one of several HAProxy
  seamless.tls_alpn.haproxy_alpn_frontend:
    config:
      - /etc/haproxy-edge/haproxy.cfg
      - /etc/haproxy-edge/conf.d
    frontend: fe_edge_alpn

- name: Take the front down
  seamless.tls_alpn.haproxy_alpn_frontend:
    state: absent
"""

RETURN = r"""
supported:
  description: Whether this HAProxy can have a front; if not, the message says what it lacks.
  type: bool
  returned: always
handoff:
  description: How ordinary connections get to the HTTPS frontends; V(none) without a front.
  type: str
  returned: success
binds:
  description: The C(bind) lines that the front moves, or that O(state=absent) moves back.
  type: list
  elements: dict
  returned: success
  contains:
    file:
      description: The file.
      type: str
    line:
      description: The line, counted in the file as it is afterwards.
      type: int
    before:
      description: The line before.
      type: str
    after:
      description: The line after.
      type: str
public:
  description: The public addresses, as clients on this host connect to them.
  type: list
  elements: str
  returned: success
reloaded:
  description: Whether HAProxy was reloaded.
  type: bool
  returned: success
verified:
  description: The handshakes that were made after the last reload.
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

import gc
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _capability, _haproxy_config, _haproxy_front, _haproxy_server, _probe, _spans
from ansible_collections.seamless.tls_alpn.plugins.module_utils._capability_haproxy import haproxy_capability
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed, Stage, Transaction, Unsupported


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Read, decide, act, report; raise Failed."""
    params = module.params

    def command(argv: list[str], **surroundings: t.Any) -> tuple[int, str, str]:
        environment = {**surroundings.pop('environ_update', {}), 'LC_ALL': 'C'}
        return module.run_command(argv, environ_update=environment, handle_exceptions=False, **surroundings)

    binary = _capability.find_binary(['haproxy'], params['binary'])
    if binary is None:
        kind = Failed if params['binary'] else Unsupported  # one that is named has to be there
        raise kind('%s: there is no HAProxy; install it, or say where it is with binary' % (params['binary'] or 'haproxy'))
    capability = haproxy_capability(command, binary, params['config'])
    process = _haproxy_server.choose(_haproxy_server.processes(), params['config'] or ())
    paths = process.arguments.paths if process else capability['config_paths']

    with Transaction(min(map(os.path.realpath, paths)), params['backup_dir'], module.check_mode) as transaction:
        # Read
        environ = _haproxy_server.environment(process)
        config = _haproxy_config.read(paths, environ)
        server = _haproxy_server.HaproxyServer(command, binary, process, config, params['reload'])
        reloads = process is not None and params['reload'] != 'none'
        responder = (params['acme_host'], params['acme_port'])
        present = params['state'] == 'present'

        # Decide
        if present and not capability['tls_alpn']['supported']:
            raise Unsupported(capability['tls_alpn']['reason'])
        handoff = params['handoff'] if params['handoff'] != 'auto' else capability['tls_alpn']['recommended'] or 'plain'
        wishes = _haproxy_front.Wishes(*[handoff if name == 'handoff' else params[name] for name in _haproxy_front.Wishes._fields])
        try:
            decision = _haproxy_front.decide(config, params['state'], wishes, environ)
        except Failed:
            server.check({})  # HAProxy says better what is wrong with its configuration
            raise
        server.refuse_taken(decision.original, decision.handoffs)
        server.drain_time = decision.drain
        steps = decision.stages if reloads else decision.stages[-1:]
        before = []
        if reloads and params['verify']:
            endpoints = [endpoint for endpoint in decision.endpoints if _probe.is_reachable(endpoint)]
            before = _probe.look(endpoints, _haproxy_front.host_names(config))
            if present and not steps and not _probe.reaches(endpoints, responder):
                steps = [{}]  # the files are right; HAProxy has not loaded them
        if not steps and transaction.recovered:
            steps = [{}]  # nor perhaps what a killed run left
        renewed = _haproxy_server.certificates(config, process.arguments.directory if process else '/')

        def way_back() -> list[dict[str, bytes | None]]:
            down = _haproxy_front.decide(_haproxy_config.read(paths, environ), 'absent', wishes, environ)
            server.drain_time = down.drain
            return down.stages if decision.stands else down.stages[:-1]

        stages = [Stage(files, _haproxy_server.Expect(before, None, renewed)) for files in steps]
        if present and stages:
            stages[-1] = Stage(steps[-1], _haproxy_server.Expect(before, responder, renewed), way_back)

        # Act
        if stages and module.check_mode:
            server.check({})
        elif stages:
            transaction.change(stages, server, config.data)

        # Report
        for warning in decision.warnings if steps else ():
            module.warn(warning)
        result: dict[str, t.Any] = {
            'changed': bool(steps),
            'diff': _spans.diff({path: (decision.before.get(path), data) for path, data in (steps[-1] if steps else {}).items()}),
            'supported': capability['tls_alpn']['supported'],
            'handoff': handoff if present else 'none',
            'binds': [bind._asdict() for bind in decision.binds],
            'public': [str(endpoint) for endpoint in decision.endpoints],
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
            'config': {'type': 'list', 'elements': 'path'},
            'binary': {'type': 'path'},
            'https_port': {'type': 'int', 'default': 443},
            'acme_host': {'type': 'str', 'default': '127.0.0.1'},
            'acme_port': {'type': 'int', 'default': 10443},
            'frontend': {'type': 'str', 'default': 'fe_alpn'},
            'acme_backend': {'type': 'str', 'default': 'bk_acmesh'},
            'https_backend': {'type': 'str', 'default': 'bk_https'},
            'handoff': {'type': 'str', 'choices': ['auto', 'abns', 'plain'], 'default': 'auto'},
            'backend_port': {'type': 'int', 'default': 8443},
            'inspect_delay': {'type': 'str', 'default': '5s'},
            'reload': {'type': 'str', 'choices': ['auto', 'systemd', 'signal', 'none'], 'default': 'auto'},
            'verify': {'type': 'bool', 'default': True},
            'backup_dir': {'type': 'path'},
        },
        supports_check_mode=True,
    )
    gc.disable()  # the lines of thousands of sites, and no cycles in them: looking for these would take a third of the time, and more with each site
    try:
        result = run(module)
    except (Failed, OSError) as error:
        module.fail_json(msg=str(error), supported=not isinstance(error, Unsupported))
    gc.freeze()  # Python would look for cycles once more at its end
    module.exit_json(**result)


if __name__ == '__main__':
    main()
