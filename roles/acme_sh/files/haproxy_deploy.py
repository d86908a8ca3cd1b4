# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Give HAProxy a new certificate: through the runtime API, or by a validated reload where that can't be.

Run by acme.sh (--reloadcmd), which names key and chain by CERT_KEY_PATH and CERT_FULLCHAIN_PATH.
"""

import argparse
import glob
import os
import re
import signal
import socket
import stat
import subprocess
import sys


class Failed(Exception):
    """What went wrong; the certificate that HAProxy had is still in place."""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--config', help='a configuration that the running HAProxy was started with (default: %(default)s)', default='/etc/haproxy/haproxy.cfg')
    parser.add_argument('certificate', help='file with key, certificate and chain, as HAProxy reads it')
    arguments = parser.parse_args()
    try:
        print('haproxy_deploy: %s' % deploy(os.path.realpath(arguments.certificate), arguments.config))
    except (Failed, OSError) as error:
        sys.exit('haproxy_deploy: %s' % error)


def deploy(target, config):
    """Put the new certificate in place, and in use if HAProxy runs; give how."""
    content = b''.join(read(os.environ[name]) for name in ('CERT_KEY_PATH', 'CERT_FULLCHAIN_PATH'))
    pid, command = running(config)
    configs = configs_of(command)
    if pid and any(update(path, target, content) for path in sockets_of(configs)):
        write(target, content)
        return '%s updated through the runtime API' % target
    before = read(target) if os.path.exists(target) else None
    write(target, content)
    try:
        check(command[0], configs)
        return '%s written, %s' % (target, reload_haproxy(pid, command) if pid else 'HAProxy does not run')
    except Failed:
        if before is None:
            os.unlink(target)
        else:
            write(target, before)
        raise


def read(path):
    with open(path, 'rb') as stream:
        return stream.read()


def write(path, content):
    """Replace a file at once, keeping owner and mode (only root may read a new one). HAProxy ignores names that begin with a dot."""
    temporary = os.path.join(os.path.dirname(path), '.%s.seamless-new' % os.path.basename(path))
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, 'wb') as stream:
        if os.path.exists(path):
            status = os.stat(path)
            os.fchown(stream.fileno(), status.st_uid, status.st_gid)
            os.fchmod(stream.fileno(), stat.S_IMODE(status.st_mode))
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(temporary, path)


def running(config):
    """Give PID and command line of the HAProxy that was started with this configuration (its master, if it has one)."""
    found = {}
    for directory in glob.glob('/proc/[0-9]*'):
        try:
            command = [os.fsdecode(word) for word in read(directory + '/cmdline').rstrip(b'\0').split(b'\0')]
            parent = int(read(directory + '/stat').rpartition(b')')[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if os.path.basename(command[0]) == 'haproxy' and config in command:
            found[int(os.path.basename(directory))] = (parent, command)
    for pid, (parent, command) in sorted(found.items()):
        if parent not in found:
            return pid, command
    return None, ['haproxy', '-f', config]


def configs_of(command):
    """Give the files that a command line names by -f (of a directory, its *.cfg; management manual, section 3)."""
    names = [word for option, word in zip(command, command[1:]) if option == '-f']
    names += command[command.index('--') + 1 :] if '--' in command else []
    return [path for name in names for path in (sorted(glob.glob(os.path.join(name, '*.cfg'))) if os.path.isdir(name) else [name])]


def sockets_of(configs):
    """Give the UNIX sockets at which an administrator may command HAProxy (``stats socket PATH … level admin``)."""
    found = []
    for config in configs:
        for line in read(config).decode('utf-8', 'replace').splitlines():
            words = line.split('#')[0].split()
            if words[:2] == ['stats', 'socket'] and 'admin' in words[3:]:
                found.append(re.sub('^unix@', '', words[2]))
    return [path for path in found if os.path.exists(path)]


def ask(path, command):
    """Give the runtime API's answer to one command."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(path)
        connection.sendall(command + b'\n')
        answer = b''
        while True:
            part = connection.recv(65536)
            if not part:
                return answer.decode('utf-8', 'replace').strip()
            answer += part


def update(path, target, content):
    """Replace a certificate that HAProxy has in memory (since 2.2; management manual, "set ssl cert"); give whether it could."""
    try:
        names = [line for line in ask(path, b'show ssl cert').splitlines() if os.path.isabs(line) and os.path.realpath(line) == target]
        for name in map(os.fsencode, names):
            lines = b'\n'.join(line for line in content.splitlines() if line)  # an empty line would end the payload
            answer = ask(path, b'set ssl cert %s <<\n%s\n' % (name, lines))
            if 'Transaction' not in answer:
                raise Failed(answer)
            answer = ask(path, b'commit ssl cert ' + name)
            if 'Success' not in answer:
                ask(path, b'abort ssl cert ' + name)
                raise Failed(answer)
    except ConnectionError:
        return False
    return bool(names)


def check(program, configs):
    done = subprocess.run([program, '-c', '-q'] + [word for path in configs for word in ('-f', path)], stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise Failed('HAProxy refuses its configuration with the new certificate: %s' % done.stderr.strip())


def reload_haproxy(pid, command):
    """Reload by systemd if it runs HAProxy, else by the master's signal."""
    if b'haproxy.service' in read('/proc/%d/cgroup' % pid):
        done = subprocess.run(['systemctl', 'reload', 'haproxy'], stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise Failed('systemctl reload haproxy: %s' % done.stderr.strip())
    elif any(word.startswith('-W') for word in command):
        os.kill(pid, signal.SIGUSR2)
    else:
        raise Failed('process %d has no master (-W) to reload it' % pid)
    return 'HAProxy reloaded'


if __name__ == '__main__':
    main()
