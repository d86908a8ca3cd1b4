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
    support: full
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
          description: What nginx can do here. Where it is not C(present), there is nothing from C(prefix) to C(realip).
          returned: when asked for
          type: dict
          contains:
            present:
              description: Whether the program is there.
              type: bool
            binary:
              description: The program.
              type: str
            version:
              description: Its version, numbers only.
              type: str
            config_path:
              description: The main configuration file.
              type: str
            running:
              description: Whether it runs. Without privileges, processes of other users may not be seen.
              type: bool
            pid:
              description: Its main process.
              type: int
            prefix:
              description: What relative paths begin with (C(nginx -p)), as built.
              type: str
            pid_path:
              description: The PID file, as built.
              type: str
            error_log_path:
              description: The error log, as built; empty for the standard error output.
              type: str
            stream:
              description:
                - V(static) is built in, V(loaded) by a C(load_module) in the configuration, V(loadable) not loaded, but the file is there,
                  V(missing) not there.
              type: str
            stream_module:
              description: The stream module's file, where it is one.
              type: str
            ssl_preread:
              description: Whether the stream module that is there can read a ClientHello.
              type: bool
            stream_pass:
              description: Whether the stream module of this version has C(pass) (since 1.25.5).
              type: bool
            realip:
              description: Whether it takes client addresses from the PROXY protocol.
              type: bool
            tls_alpn:
              description: Whether it can have a front, and how.
              type: dict
              contains:
                supported:
                  description: Whether it can.
                  type: bool
                reason:
                  description: If it can't, why not and what to do. Empty if it can.
                  type: str
                handoffs:
                  description: How a front can hand connections over, the best first; those of the server's module in this collection.
                  type: list
                  elements: str
                recommended:
                  description: The best of the handoffs, none if there is none.
                  type: str
          sample:
            present: true
            binary: /usr/sbin/nginx
            version: 1.26.3
            config_path: /etc/nginx/nginx.conf
            running: true
            pid: 812
            prefix: /usr/share/nginx
            pid_path: /run/nginx.pid
            error_log_path: ""
            stream: loaded
            stream_module: /usr/share/nginx/modules/ngx_stream_module.so
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
            - What HAProxy can do here. It has C(present), C(binary), C(version), C(config_path), C(running), C(pid) and C(tls_alpn) as
              nginx has, and what follows where it is present.
            - C(pid) is none where several run that read different files.
          returned: when asked for
          type: dict
          contains:
            config_paths:
              description: The files and directories that the running process reads, or that the systemd unit would start it with.
              type: list
              elements: str
            tls:
              description: Whether TLS is built in.
              type: bool
            abns:
              description: Whether it has abstract sockets (on Linux).
              type: bool
          sample:
            present: true
            binary: /usr/sbin/haproxy
            version: 3.0.11
            config_path: /etc/haproxy/haproxy.cfg
            config_paths: [/etc/haproxy/haproxy.cfg]
            running: true
            pid: 813
            tls: true
            abns: true
            tls_alpn:
              supported: true
              reason: ""
              handoffs: [abns, plain]
              recommended: abns
        apache:
          description:
            - What Apache httpd can do here. It has C(present), C(binary), C(version), C(config_path), C(running), C(pid) and C(tls_alpn) as
              nginx has, and what follows where it is present.
            - It has no handoffs, as it answers tls-alpn-01 itself and nothing moves.
          returned: when asked for
          type: dict
          contains:
            config_paths:
              description: All files that it reads.
              type: list
              elements: str
            root:
              description: The server's root (C(ServerRoot)).
              type: str
            mpm:
              description: The multi-processing module, none if it does not accept its configuration.
              type: str
            mod_ssl:
              description: V(static), V(loaded), V(loadable) or V(missing), as for nginx's C(stream).
              type: str
            mod_md:
              description: The same for mod_md, which answers the challenges.
              type: str
            md_store_dir:
              description: Where mod_md looks for challenge certificates (C(MDStoreDir)).
              type: str
          sample:
            present: true
            binary: /usr/sbin/apache2
            version: 2.4.71
            config_path: /etc/apache2/apache2.conf
            config_paths: [/etc/apache2/apache2.conf, /etc/apache2/ports.conf, /etc/apache2/sites-enabled/000-default.conf]
            root: /etc/apache2
            running: true
            pid: 814
            mpm: event
            mod_ssl: loaded
            mod_md: loadable
            md_store_dir: /etc/apache2/md
            tls_alpn:
              supported: true
              reason: ""
              handoffs: []
              recommended: null
        https_listeners:
          description:
            - Who listens on the public port now.
            - C(process) and C(pid) are none where the one who asks may not see whose the socket is. Root may, but for containers without
              C(CAP_SYS_PTRACE).
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
from ansible_collections.seamless.tls_alpn.plugins.module_utils import (
    _capability,
    _capability_apache,
    _capability_haproxy,
    _capability_nginx,
    _listeners,
)

SERVERS: dict[str, tuple[list[str], t.Callable[..., dict[str, t.Any]]]] = {
    'nginx': (_capability_nginx.NAMES, _capability_nginx.nginx_capability),
    'haproxy': (_capability_haproxy.NAMES, _capability_haproxy.haproxy_capability),
    'apache': (_capability_apache.NAMES, _capability_apache.apache_capability),
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
        given = module.params[server + '_binary']
        binary = _capability.find_binary(names, given)
        facts[server] = look(command, binary) if binary else _capability.absent(given)
    facts['https_listeners'] = [one._asdict() for one in _listeners.listeners(module.params['https_port'])]
    module.exit_json(changed=False, ansible_facts={'webserver_capability': facts})


if __name__ == '__main__':
    main()
