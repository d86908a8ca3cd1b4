#!/usr/bin/python
# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nginx_alpn_stream
short_description: Put a TLS-ALPN front before nginx's HTTPS sites
version_added: 0.1.0
description:
  - Moves every C(listen) on the public port to loopback and puts a C(stream) server there that routes tls-alpn-01 challenges
    (RFC 8737) to the ACME client and everything else to the sites.
  - One task is one transaction. nginx checks the files before they are in place; after the reload real TLS handshakes show that every
    site answers with the certificate that it had and that C(acme-tls/1) reaches the responder. If anything does not hold, every file
    is put back and nginx is reloaded again.
  - Only the bytes of the C(listen) directives that have to change are changed. O(state=absent) gives every file back byte for byte.
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
  - crossplane on the controller, which lends it, or on the host
options:
  state:
    description: Whether the front is there.
    type: str
    choices: [present, absent]
    default: present
  config:
    description: nginx's main file. By default the one that it was built with.
    type: path
  binary:
    description: The nginx program. By default found as the shell would, and in C(/usr/sbin) and C(/usr/local/sbin).
    type: path
  prefix:
    description: nginx's prefix (its option C(-p)).
    type: path
  https_port:
    description: The public port.
    type: int
    default: 443
  backend_port:
    description:
      - The first loopback port for the sites; C(listen) directives with an address of their own and the way to the responder take
        the ones that follow.
    type: int
    default: 8443
  acme_host:
    description: Where the ACME client answers challenges.
    type: str
    default: 127.0.0.1
  acme_port:
    description: The port where the ACME client answers challenges (acme.sh's C(--tlsport)).
    type: int
    default: 10443
  handoff:
    description:
      - How an ordinary connection gets to the site.
      - V(proxy_protocol) keeps the client's address by the PROXY protocol on loopback, and loses no connection at any reload.
      - V(pass) (nginx 1.25.5 and later) costs nothing and keeps the client's address, but a later reload of nginx loses connections
        whose ClientHello has not arrived at that moment.
      - V(plain) loses the client's address.
      - V(auto) is V(proxy_protocol) where the realip module is there, else V(pass), else V(plain).
    type: str
    choices: [auto, pass, proxy_protocol, plain]
    default: auto
  reload:
    description:
      - How nginx is reloaded. V(auto) uses its systemd unit, or the signal of C(nginx -s reload) where it does not run under one. V(none) only
        changes the files.
      - A stopped nginx is never started.
    type: str
    choices: [auto, systemd, signal, none]
    default: auto
  verify:
    description: Whether TLS handshakes prove the change.
    type: bool
    default: true
  backup_dir:
    description: A directory (its absolute path) for copies of the files as they were; none of nginx's includes may look into it.
    type: path
author:
  - The seamless.tls_alpn authors (@seamless)
"""

EXAMPLES = r"""
- name: Put the front up
  seamless.tls_alpn.nginx_alpn_stream:

- name: Take the front down
  seamless.tls_alpn.nginx_alpn_stream:
    state: absent
"""

RETURN = r"""
supported:
  description: Whether this nginx can have a front; if not, the message (in check mode a warning) says what it lacks.
  type: bool
  returned: always
handoff:
  description: How ordinary connections get to the sites; V(none) without a front.
  type: str
  returned: success
listens:
  description: The C(listen) directives that the front moves.
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
    before:
      description: The public address.
      type: str
    after:
      description: The address on loopback.
      type: str
public:
  description: The public addresses, as clients connect to them.
  type: list
  elements: str
  returned: success
reloaded:
  description: Whether nginx was reloaded.
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
import re
import socket
import typing as t

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _capability, _listeners, _nginx_front, _probe, _process, _spans
from ansible_collections.seamless.tls_alpn.plugins.module_utils._capability_nginx import nginx_capability
from ansible_collections.seamless.tls_alpn.plugins.module_utils._nginx_config import CROSSPLANE_ERROR, HAS_CROSSPLANE, Config, read
from ansible_collections.seamless.tls_alpn.plugins.module_utils._nginx_server import Expect, NginxServer, certificates
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed, Stage, Transaction, Unsupported


def resolve(host: str) -> str:
    """Give the address of a host name, as nginx would when it starts."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError) as error:  # "..": no name for DNS
        raise Failed('no address is known for %s: %s' % (host, error)) from error


def endpoints(config: Config, port: int) -> dict[_probe.Endpoint, list[str]]:
    """Give where clients reach the sites from this host (as far as it has the address), and names to ask for there."""
    loopback = {'0.0.0.0': '127.0.0.1', '::': '::1'}
    publics = _nginx_front.public_names(config, port, resolve)
    found = {_probe.Endpoint(loopback.get(key, key), port, proxied): names for key, (dummy, proxied, names) in publics.items()}
    return {endpoint: names for endpoint, names in found.items() if _probe.is_free(endpoint.address, 0)}


def refuse_taken(wanted: t.Collection[str], master: int | None) -> None:
    """Raise Failed if somebody else than this nginx listens on an endpoint that the front needs."""
    for endpoint in wanted:
        host, dummy, port = endpoint.rpartition(':')
        if _probe.is_free(host.strip('[]'), int(port)):
            continue
        owners = [one for one in _listeners.listeners(int(port)) if one.address in (host.strip('[]'), '0.0.0.0', '::')]
        foreign = [one for one in owners if master is None or one.pid is None or master not in (one.pid, _process.parent(one.pid))]
        others = ', '.join(sorted({'%s (process %s)' % (one.process, one.pid) for one in foreign}))
        if others or not owners:
            raise Failed('%s is in use by %s; choose another backend_port' % (endpoint, others or 'another process'))


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Read, decide, act, report; raise Failed."""
    params = module.params

    def command(argv: list[str]) -> tuple[int, str, str]:
        return module.run_command(argv, environ_update={'LC_ALL': 'C'}, handle_exceptions=False)

    binary = _capability.find_binary(['nginx'], params['binary'])
    if binary is None:
        kind = Failed if params['binary'] else Unsupported  # one that is named has to be there
        raise kind('%s: there is no nginx; install it, or say where it is with binary' % (params['binary'] or 'nginx'))
    capability = nginx_capability(command, binary, params['config'], params['prefix'])
    main = os.path.join(params['prefix'] or capability['prefix'], params['config'] or capability['config_path'])
    server = NginxServer(command, capability, main, params['prefix'], params['reload'])

    with Transaction(main, params['backup_dir'], module.check_mode) as transaction:
        # Read
        try:
            current = _nginx_front.with_front(read(main))
        except Failed:
            server.test()  # nginx says it better
            raise
        if params['backup_dir']:
            _nginx_front.refuse_included(current, os.path.join(params['backup_dir'], 'backup'))
        base = _nginx_front.base_of(current)
        server.learn(current, base.config)
        if transaction.recovered:
            server.sweep()
        warnings = list(base.warnings)
        running = server.master() is not None

        # Decide
        front = None
        port = params['https_port']
        if not re.fullmatch('[A-Za-z0-9.:_-]+', params['acme_host']):
            raise Failed('acme_host: "%s" is no host' % params['acme_host'])
        responder = (resolve(params['acme_host']), params['acme_port'])
        if params['state'] == 'present':
            if not capability['tls_alpn']['supported']:
                if not module.check_mode:
                    raise Unsupported(capability['tls_alpn']['reason'])
                warnings.append(capability['tls_alpn']['reason'])
            can = _nginx_front.Abilities(
                _capability.version_tuple(capability['version']),
                capability['stream_pass'],
                capability['realip'],
                capability['stream_module'],
                _probe.is_free('::1', 0),
            )
            wanted = _nginx_front.Wanted(port, params['backend_port'], *responder, params['handoff'])
            front = _nginx_front.decide(base, wanted, can, resolve)
            warnings += front.warnings
            refuse_taken(front.endpoints, server.master())
        elif base.front is not None:
            port = base.front['https_port']
        server.refuse(port)
        steps = _nginx_front.steps(current, base, front, running)
        places: dict[_probe.Endpoint, list[str]] = {}
        if running and params['verify'] and (front or base.front):
            places = endpoints(base.config, port)
            if front and not steps and not _probe.reaches(places, responder):
                steps = [{}]  # the files are right; nginx has not loaded them
        if not steps and transaction.recovered:
            steps = [{}]  # nor perhaps what a killed run left
        before = [one for endpoint, names in places.items() if _probe.is_reachable(endpoint) for one in _probe.look([endpoint], names)] if steps else []
        renewed = certificates(base.config) if places else set()

        def way_back() -> list[dict[str, bytes | None]]:
            now = _nginx_front.with_front(read(main))
            up = _nginx_front.base_of(now)
            server.learn(now, up.config)
            down = _nginx_front.steps(now, up, None, running)
            return down if base.front else down[:-1]

        stages = [Stage(files, Expect(before, list(places), None, renewed)) for files in steps]
        if front and stages:
            stages[-1] = Stage(steps[-1], Expect(before, list(places), responder, renewed), way_back)

        # Act
        if stages and module.check_mode:
            server.check({})
        elif stages:
            try:
                transaction.change(stages, server, current.real_data)
            except Failed:
                server.sweep()  # a signal may have come in the middle of it
                raise

    # Report
    for warning in warnings:
        module.warn(warning)
    result: dict[str, t.Any] = {
        'changed': bool(steps),
        'diff': _spans.diff(_nginx_front.compared(current, steps[-1] if steps and module._diff else {})),
        'supported': capability['tls_alpn']['supported'],
        'handoff': front.handoff if front else 'none',
        'listens': [listen._asdict() for listen in front.listens] if front else [],
        'public': [public.word for public in front.publics] if front else [],
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
            'prefix': {'type': 'path'},
            'https_port': {'type': 'int', 'default': 443},
            'backend_port': {'type': 'int', 'default': 8443},
            'acme_host': {'type': 'str', 'default': '127.0.0.1'},
            'acme_port': {'type': 'int', 'default': 10443},
            'handoff': {'type': 'str', 'choices': ['auto', 'pass', 'proxy_protocol', 'plain'], 'default': 'auto'},
            'reload': {'type': 'str', 'choices': ['auto', 'systemd', 'signal', 'none'], 'default': 'auto'},
            'verify': {'type': 'bool', 'default': True},
            'backup_dir': {'type': 'path'},
        },
        supports_check_mode=True,
    )
    if not HAS_CROSSPLANE:
        module.fail_json(msg=missing_required_lib('crossplane'), exception=CROSSPLANE_ERROR)
    gc.disable()  # the statements of thousands of sites, and no cycles in them: looking for these would take a third of the time
    try:
        result = run(module)
    except (Failed, OSError) as error:
        module.fail_json(msg=str(error), supported=not isinstance(error, Unsupported))
    module.exit_json(**result)


if __name__ == '__main__':
    main()
