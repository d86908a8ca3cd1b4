# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The running Apache httpd: let it check files that are not in place yet, reload it and see that it took them, prove what clients get.

PRIVATE to the collection, may change at any time.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shlex
import shutil
import signal
import ssl
import tempfile
import typing as t

from ansible_collections.seamless.tls_alpn.plugins.module_utils import _listeners, _probe, _process, _spans
from ansible_collections.seamless.tls_alpn.plugins.module_utils._apache_config import Config, Directive, include_lines, quoted, read
from ansible_collections.seamless.tls_alpn.plugins.module_utils._capability_apache import environment
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed

RELOAD_TIMEOUT = 60  # seconds for a new generation of workers
SIGNAL_TIMEOUT = 10  # seconds after which a signal that showed no effect is sent again


class Expect(t.NamedTuple):
    """What clients must see: the sites as before, and for each (endpoint, name) whether acme-tls/1 is offered; or renewed certificates."""

    before: list[_probe.Handshake]
    offered: dict[tuple[_probe.Endpoint, str], bool]
    renewed: set[str]


class ApacheServer:
    """One httpd: its program and main file, and how it is reloaded ('auto', 'systemd', 'signal', 'none')."""

    def __init__(self, run: _process.Run, binary: str, main: str, reload: str) -> None:
        self._run = run
        self._binary = binary
        self._reload = reload
        variables = environment(run, os.path.dirname(main))
        self._environment = ['env', *['%s=%s' % item for item in sorted(variables.items())]]
        # The root as Debian's apachectl gives it, for several instances of one program; a ServerRoot in the configuration goes before.
        self._argv = [*self._environment, binary, *(['-d', os.path.dirname(main)] if variables else []), '-f', main]
        self._defines = _defines(shlex.split(variables.get('APACHE_ARGUMENTS', '')))
        self._pid_path = ''
        self._error_log = ''
        self._config: Config | None = None
        self._started_as: list[str] = []
        self._unit: str | None = None
        self.reloaded = False
        self.verified: list[_probe.Handshake] = []

    def read(self) -> Config:
        """Read the configuration as the running httpd would, or as it would be started; raise Failed."""
        config = read(self._run, [*self._argv, *self._defines])
        self._pid_path = config.pid_path
        master = self.master()
        if master is not None:
            self._started_as = _process.command_line(master)
            self._unit = _process.unit_of(self._run, master)
            defines = _defines(self._started_as)
            if defines != self._defines:
                self._defines = defines
                config = read(self._run, [*self._argv, *self._defines])
        log = config.server.last('errorlog')
        self._error_log = os.path.join(config.root, log[0]) if log and not log[0].startswith(('|', 'syslog')) else ''
        self._config = config
        return config

    def master(self) -> int | None:
        """Give the PID of the running main process, or None."""
        try:
            with open(self._pid_path, encoding='ascii') as stream:
                pid = int(stream.read())
            program = os.readlink('/proc/%d/exe' % pid).replace(' (deleted)', '')
        except (OSError, ValueError):
            return None
        return pid if program == os.path.realpath(self._binary) and _process.is_alive(pid) else None

    def refuse_fatal(self, config: Config) -> None:
        """Raise Failed where the running httpd would end at a reload, with our change or without; `httpd -t` does not look at these."""
        master = self.master()
        if master is not None and self._reload != 'none':
            _refuse_missing_certificates(config)
            _refuse_foreign_keys(config)
            _refuse_taken_ports(config, [master, *_process.children(master)])

    def check(self, staged: t.Mapping[str, str | None]) -> None:
        """Let httpd check the configuration with the staged files in place of the real ones (by real path); raise Failed.

        httpd is given copies of the files whose includes lead to a staged one, with the paths spelled out.
        """
        if self._config is None:
            raise ValueError('check() before read()')
        directory = tempfile.mkdtemp(prefix='seamless-')
        try:
            view = _View(self._config, staged, directory)
            main = view.of(self._config.main)
            front = staged.get(self._config.front)
            if front is not None:
                with open(main, 'ab') as stream:
                    stream.write(b'\nInclude %s\n' % quoted(front))
            code, dummy, err = self._run([*self._argv[:-1], main, *self._defines, '-t'])
            if code:
                for path, copy in view.copies.items():
                    err = err.replace(copy, path)
                raise Failed('Apache does not accept the changed configuration: %s' % err.strip())
        finally:
            shutil.rmtree(directory)

    def apply(self) -> None:
        """Reload the httpd that was running when the configuration was read, and wait for new workers; start it again if it ended."""
        if self._reload == 'none' or not self._started_as:
            return
        master = self.master()
        if master is None:
            self._start()
            return
        log = _process.log_size(self._error_log)
        old: dict[int, int] = {}

        def children() -> dict[int, int]:
            return {pid: _process.started(pid) for pid in _process.children(master)}

        def is_decided() -> bool:
            now = children()
            # Helpers (of mod_cgid, of logs) are new, too, before modules refuse and end httpd: not before it sleeps.
            return bool(now.items() - old.items()) and _process.is_ready(master, signal.SIGUSR1) or not _process.is_alive(master)

        for dummy in range(RELOAD_TIMEOUT // SIGNAL_TIMEOUT):
            # A signal that arrives while httpd reads its configuration is lost (mpm_common.c): not before it sleeps, and again if need be.
            _process.await_ready(master, signal.SIGUSR1)
            old = children()  # those of a reload that somebody else asked for among them
            if self._unit is not None and self._reload != 'signal':
                _process.reload_unit(self._run, self._unit)
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(master, signal.SIGUSR1)
            if _process.wait_for(is_decided, SIGNAL_TIMEOUT):
                break
        else:
            raise Failed('Apache did not take the new configuration: no new worker appeared; see %s' % (self._error_log or 'its log'))
        if not _process.is_alive(master):
            messages = _process.log_since(self._error_log, log, r'[:\[](emerg|alert|crit|error)\]')
            raise Failed('Apache ended when it was to reload: %s' % ('\n'.join(messages) or 'see its log'))
        self.reloaded = True

    def _start(self) -> None:
        """Start httpd again as it was started before. Workers that it left behind may hold the port for a while."""
        command = ['systemctl', 'start', self._unit] if self._unit is not None else [*self._environment, *self._started_as]
        said = ''

        def starts() -> bool:
            nonlocal said
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._pid_path)  # of a process that ended, but whose parent has not taken note
            code, dummy, said = self._run(command)
            return code == 0 and _process.wait_for(lambda: self.master() is not None, SIGNAL_TIMEOUT)

        started = _process.wait_for(starts, RELOAD_TIMEOUT, 2)
        if not started:
            if self._unit is not None:
                self._run(['systemctl', 'reset-failed', self._unit])  # else an operator's own start would be refused, too
            raise Failed('Apache had ended and can not be started again: %s' % said.strip())
        self.reloaded = True

    def drain(self) -> None:
        """Nothing: no connection is handed from one generation to the next."""

    def prove(self, expect: Expect) -> None:
        """Make the handshakes that a stage promises, where httpd runs and was reloaded; raise Failed."""
        if not self.reloaded or not expect.before:
            return
        try:
            made = _probe.prove(expect.before, [], None, expect.renewed)
        except Failed as error:
            if self.master() is None:
                raise Failed('Apache ended when it was to reload: see %s' % (self._error_log or 'its log')) from error
            raise
        answers: list[_probe.Handshake] = []

        def holds() -> bool:
            answers[:] = offers(expect.offered)
            return all((one.negotiated == _probe.ACME) == expect.offered[one.endpoint, one.sni] for one in answers)

        if not _process.wait_for(holds, RELOAD_TIMEOUT):  # workers of the old generation may answer for a while
            wrong = [one for one in answers if (one.negotiated == _probe.ACME) != expect.offered[one.endpoint, one.sni]]
            seen = ['%s, SNI %s: %s' % (one.endpoint, one.sni or 'none', one.error or one.negotiated or 'no protocol chosen') for one in wrong]
            raise Failed('acme-tls/1 handshakes after the reload are not as they should be: %s' % '; '.join(seen))
        self.verified = made + answers


def offers(pairs: t.Iterable[tuple[_probe.Endpoint, str]]) -> list[_probe.Handshake]:
    """Make an acme-tls/1 handshake with each endpoint for each name."""
    return [_probe.handshake(endpoint, name, [_probe.ACME]) for endpoint, name in pairs]


class _View:
    """The configuration with staged files in place of the real ones, as copies in a directory of their own."""

    def __init__(self, config: Config, staged: t.Mapping[str, str | None], directory: str) -> None:
        self._config = config
        self._staged = staged
        self._directory = directory
        self.copies: dict[str, str] = {}

    def of(self, path: str) -> str:
        """Give the path of a copy of this file whose includes name each file."""
        if path in self.copies:
            return self.copies[path]
        copy = self.copies[path] = os.path.join(self._directory, '%d-%s' % (len(self.copies), os.path.basename(path)))
        real = os.path.realpath(path)
        with open(self._staged.get(real) or real, 'rb') as stream:
            data = stream.read()
        # Our edits neither add nor remove an include, but one at the end of the main file: the nth is the nth.
        edits = []
        for before, line in zip(include_lines(self._config.data[real]), include_lines(data)):
            included = [one.path for one in self._config.includes if (one.parent, one.line) == (path, before.number)]
            if any(self._leads_to_staged(one) for one in included):
                targets = [self.of(one) for one in included if self._staged.get(os.path.realpath(one), '') is not None and not self._is_front(one)]
                edits.append(_spans.Edit(line.begin, line.end, b'\n'.join(b'Include %s' % quoted(target) for target in targets)))
        with open(copy, 'wb') as stream:
            stream.write(_spans.apply(data, edits))
        return copy

    def _is_front(self, path: str) -> bool:
        return os.path.realpath(path) == self._config.front

    def _leads_to_staged(self, path: str) -> bool:
        if os.path.realpath(path) in self._staged:
            return True
        return any(self._leads_to_staged(one.path) for one in self._config.includes if one.parent == path)


def _defines(command: t.Sequence[str]) -> list[str]:
    """Give the options of a command line that decide about the configuration (httpd(8)): -D, -C and -c with their values."""
    found: list[str] = []
    for word, following in zip(command, [*command[1:], '']):
        if word in ('-D', '-C', '-c'):
            found += [word, following]
        elif re.match(r'-[DCc].', word):
            found.append(word)
    return found


def _certificate_files(server: Directive) -> list[tuple[str, str | None]]:
    """Give the (certificate, key) files of every virtual host, as far as it can be told which belong together."""
    found: list[tuple[str, str | None]] = []
    for section in [server, *server.find('<virtualhost')]:
        certificates = [one.arguments[0] for one in section.find('sslcertificatefile')]
        keys: list[str | None] = [one.arguments[0] for one in section.find('sslcertificatekeyfile')]
        found += zip(certificates, keys if len(keys) == len(certificates) else [None] * len(certificates))
    return found


def _refuse_missing_certificates(config: Config) -> None:
    if config.server.find('mdomain') or config.server.find('<mdomainset') or config.server.find('<mdomain'):
        return  # mod_md has certificates for those that have none
    for section in config.server.find('<virtualhost'):
        engine = section.last('sslengine') or config.server.last('sslengine')
        if [word.lower() for word in engine] == ['on'] and not section.find('sslcertificatefile') and not config.server.find('sslcertificatefile'):
            raise Failed('%s:%d: this virtual host speaks TLS without a certificate; Apache would end at its next reload' % (section.file, section.line))


def _refuse_foreign_keys(config: Config) -> None:
    for certificate, key in _certificate_files(config.server):
        if key is None:
            continue
        certificate, key = os.path.join(config.root, certificate), os.path.join(config.root, key)
        if os.path.isfile(certificate) and os.path.isfile(key):
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: b'')
            except ssl.SSLError as error:
                if error.reason in ('KEY_VALUES_MISMATCH', 'KEY_TYPE_MISMATCH', 'NO_CERTIFICATE_ASSIGNED'):  # the last: no certificate of this type
                    raise Failed('%s is not the key of %s; Apache would end at its next reload' % (key, certificate)) from error


def _refuse_taken_ports(config: Config, own: t.Collection[int]) -> None:
    for listen in config.server.find('listen'):
        host, dummy, port = listen.arguments[0].rpartition(':')
        wild = ('', '*', '0.0.0.0', '::')
        clashing = [one for one in _listeners.listeners(int(port)) if host.strip('[]') in wild or one.address in wild or one.address == host.strip('[]')]
        if clashing and not any(one.pid in own for one in clashing):
            raise Failed(
                '%s:%d: port %s is in use by %s (process %s); Apache would end at its next reload'
                % (listen.file, listen.line, port, clashing[0].process or 'another program', clashing[0].pid)
            )


def certificates(config: Config, store: str) -> set[str]:
    """Give the SHA-256 of the certificates on disk, any of which a reload may begin to serve: the files', and mod_md's new ones."""
    paths = [os.path.join(config.root, certificate) for certificate, dummy in _certificate_files(config.server)]
    for group in ('domains', 'staging'):
        paths += glob.glob(os.path.join(glob.escape(store), group, '*', 'pubcert*.pem'))
    return {found for found in map(_probe.certificate_in, paths) if found is not None}
