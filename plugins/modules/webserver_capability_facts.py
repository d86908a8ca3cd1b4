#!/usr/bin/python
# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: webserver_capability_facts
short_description: Tell whether nginx, HAProxy or Apache httpd here can answer tls-alpn-01 on port 443
version_added: 0.1.0
description:
  - Answers for each server whether certificates can be validated over port 443 (ACME challenge tls-alpn-01, RFC 8737) while it goes on
    serving, by which handoffs, and if not, why not and what to do.
  - A capability is what really works. C(nginx -V) names C(ssl_preread) on a Debian without the stream module's package, for one.
  - Changes nothing, and does not fail because a server is not there.
extends_documentation_fragment:
  - seamless.tls_alpn._attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
    details: It changes nothing.
  idempotent:
    support: full
  platform:
    platforms: linux
options:
  servers:
    description: The servers to look at.
    type: list
    elements: str
    choices: [nginx, haproxy, apache]
    default: [nginx, haproxy, apache]
  nginx_binary:
    description: The nginx program. By default found as the shell would, and in C(/usr/sbin) and C(/usr/local/sbin).
    type: path
  haproxy_binary:
    description: The HAProxy program, found in the same way.
    type: path
  apache_binary:
    description: The Apache httpd program (C(apache2) or C(httpd)), found in the same way.
    type: path
  https_port:
    description: The public port whose listeners are told.
    type: int
    default: 443
author:
  - The seamless.tls_alpn authors (@seamless)
"""

EXAMPLES = r"""
- name: Look at all servers
  seamless.tls_alpn.webserver_capability_facts:

- name: Stop where nginx can't have a front
  ansible.builtin.assert:
    that: webserver_capability.nginx.tls_alpn.supported
    fail_msg: "{{ webserver_capability.nginx.tls_alpn.reason }}"
"""

RETURN = r"""
ansible_facts:
  description: The facts.
  returned: always
  type: dict
  contains:
    webserver_capability:
      description: A key for each server that was asked for, and who listens on the public port.
      returned: always
      type: dict
      contains:
        nginx:
          description:
            - C(present), C(binary), C(version), C(config_path), C(running) and C(tls_alpn), as for every server.
            - C(stream) is V(static), V(loaded) (by a C(load_module) in the configuration), V(loadable) (the file C(stream_module) is
              there) or V(missing); C(ssl_preread), C(stream_pass) and C(realip) tell whether these are built in.
            - C(prefix), C(pid_path) and C(error_log_path) are those that it was built with.
          type: dict
          returned: when asked for
          sample:
            present: true
            binary: /usr/sbin/nginx
            version: 1.26.3
            config_path: /etc/nginx/nginx.conf
            running: true
            stream: loaded
            ssl_preread: true
            stream_pass: true
            realip: true
            tls_alpn:
              supported: true
              reason: ""
              handoffs: [proxy_protocol, pass, plain]
              recommended: proxy_protocol
        haproxy:
          description:
            - What every server has; C(tls) and C(abns) tell whether TLS is built in and whether abstract sockets are there (Linux).
            - C(config_paths) are the files and directories that the running process or the systemd unit reads, C(pid) the main process.
          type: dict
          returned: when asked for
        apache:
          description:
            - What every server has, C(mpm), and C(mod_ssl) and C(mod_md), each V(loaded), V(loadable) or V(missing).
            - C(md_store_dir) is where mod_md looks for challenge certificates, C(root) the server's root, C(pid) the main process.
            - It has no handoffs, since nothing moves.
          type: dict
          returned: when asked for
        https_listeners:
          description: Who listens on the public port now.
          type: list
          elements: dict
          returned: always
          sample:
            - family: ipv4
              address: 0.0.0.0
              port: 443
              process: nginx
              pid: 812
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _capability, _listeners
from ansible_collections.seamless.tls_alpn.plugins.module_utils._capability_apache import NAMES, apache_capability
from ansible_collections.seamless.tls_alpn.plugins.module_utils._capability_haproxy import haproxy_capability
from ansible_collections.seamless.tls_alpn.plugins.module_utils._capability_nginx import nginx_capability

SERVERS: dict[str, tuple[list[str], t.Callable[..., dict[str, t.Any]]]] = {
    'nginx': (['nginx'], nginx_capability),
    'haproxy': (['haproxy'], haproxy_capability),
    'apache': (NAMES, apache_capability),
}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            'servers': {'type': 'list', 'elements': 'str', 'choices': ['nginx', 'haproxy', 'apache'], 'default': ['nginx', 'haproxy', 'apache']},
            'nginx_binary': {'type': 'path'},
            'haproxy_binary': {'type': 'path'},
            'apache_binary': {'type': 'path'},
            'https_port': {'type': 'int', 'default': 443},
        },
        supports_check_mode=True,
    )

    def command(argv: list[str]) -> tuple[int, str, str]:
        return module.run_command(argv, environ_update={'LC_ALL': 'C'}, errors='surrogate_then_replace')

    facts: dict[str, t.Any] = {}
    for server in module.params['servers']:
        names, look = SERVERS[server]
        binary = _capability.find_binary(names, module.params[server + '_binary'])
        facts[server] = _capability.absent() if binary is None else look(command, binary)
    facts['https_listeners'] = [one._asdict() for one in _listeners.listeners(module.params['https_port'])]
    module.exit_json(changed=False, ansible_facts={'webserver_capability': facts})


if __name__ == '__main__':
    main()
