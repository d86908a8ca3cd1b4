# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The running nginx: let it check files that are not in place yet, reload it and see that it took them, and prove what clients get.

PRIVATE to the collection, may change at any time.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import typing as t

from ansible_collections.seamless.tls_alpn.plugins.module_utils import _listeners, _probe, _process, _spans
from ansible_collections.seamless.tls_alpn.plugins.module_utils._nginx_config import Config, confirm, included_files, includes
from ansible_collections.seamless.tls_alpn.plugins.module_utils._nginx_front import front_path
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed

RELOAD_TIMEOUT = 60  # seconds for a new generation of workers
DRAIN_TIMEOUT = 65  # seconds; longer than the front's preread_timeout, after which no connection waits to be handed over

_VIEW = '.seamless-view'


class Expect(t.NamedTuple):
    """What clients must see after a stage: the sites as before, and with ``responder`` that acme-tls/1 reaches it."""

    before: list[_probe.Handshake]
    endpoints: list[_probe.Endpoint]
    responder: tuple[str, int] | None
    renewed: set[str]


class NginxServer:
    """One nginx: its program, main file and prefix, and how it is reloaded ('auto', 'systemd', 'signal', 'none')."""

    def __init__(self, run: _process.Run, capability: t.Mapping[str, t.Any], main: str, prefix: str | None, reload: str) -> None:
        self._run = run
        self._argv = [capability['binary']] + (['-p', prefix] if prefix else [])
        self._main = main
        self._prefix = prefix or capability['prefix']
        self._default = os.path.join(self._prefix, capability['default_config'])
        self._error_log = capability['error_log_path']
        self._reload = reload
        self._before_last: dict[int, int] = {}
        self._confirmed = False
        self.reloaded = False
        self.verified: list[_probe.Handshake] = []

    def learn(self, current: Config, base: Config) -> None:
        """Take the configuration as it stands, and where the operator's own says that the error log is (main context)."""
        self._current = current
        for place in base.outermost('error_log'):
            if place.statement.arguments:
                self._error_log = os.path.join(self._prefix, place.statement.arguments[0])

    def sweep(self) -> None:
        """Take away the copies that a killed run had nginx check."""
        for directory in {os.path.dirname(path) for path in self._current.data}:
            for name in os.listdir(directory):
                if name.startswith('.') and name.endswith(_VIEW):
                    os.unlink(os.path.join(directory, name))

    def test(self, main: str | None = None) -> None:
        """Run `nginx -t` on the configuration as it is (or on another main file); raise Failed with what nginx says."""
        code, dummy, err = self._run([*self._argv, '-t', '-q', '-c', main or self._main])
        if code:
            raise Failed('nginx does not accept the configuration: %s' % err.strip())

    def master(self) -> int | None:
        """Give the PID of the master that runs with this main file, or None. Its title has its command line (ngx_process_cycle.c)."""
        found = []
        for pid in _process.neighbours():
            title = ' '.join(_process.command_line(pid)).split()
            if title[:3] == ['nginx:', 'master', 'process']:
                options = dict(zip(title[4:], title[5:]))
                config = os.path.join(options.get('-p', self._prefix), options.get('-c', self._default))
                if os.path.realpath(config) == os.path.realpath(self._main):
                    found.append(pid)
        return max(found, key=_process.started, default=None)

    def refuse(self, port: int) -> None:
        """Raise Failed where a reload could not be what it should be."""
        master = self.master()
        if master is None:
            others = sorted({one.pid for one in _listeners.listeners(port) if one.process == 'nginx' and one.pid is not None})
            if others:
                title = ' '.join(_process.command_line(others[0])).strip()
                raise Failed(
                    'port %d belongs to an nginx that does not run with %s (process %d, %s); say config and prefix as it was started'
                    % (port, self._main, others[0], title)
                )
        elif self._reload == 'systemd' and _process.unit_of(self._run, master) is None:
            raise Failed('nginx (process %d) is not the main process of a systemd unit; choose reload: signal or auto' % master)

    def check(self, staged: t.Mapping[str, str | None]) -> None:
        """Let nginx check the configuration with the staged files in place of the real ones (by real path).

        nginx is given hidden copies of the files whose includes lead to a staged one, with the paths spelled out. Meanwhile crossplane
        reads the files as they are.
        """
        copies: list[str] = []
        try:
            view = self._view(self._main, staged, copies)
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                confirmed = None if self._confirmed else pool.submit(confirm, self._current, front_path(self._main))
                self.test(view)
            if confirmed is not None:
                confirmed.result()
                self._confirmed = True
        except Failed:
            self.test()  # if that is refused already, it is that what has to be told
            raise
        finally:
            for copy in copies:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(copy)

    def _view(self, path: str, staged: t.Mapping[str, str | None], copies: list[str]) -> str:
        stands = staged.get(self._current.real(path)) or path
        with open(stands, 'rb') as stream:
            data = stream.read()
        edits = []
        for statement in includes(data, path):
            pattern = statement.arguments[0]
            found = self._current.includes.get(pattern)
            found = included_files(self._main, pattern) if found is None else found
            files = [file for file in found if staged.get(self._current.real(file), '') is not None]
            views = [self._view(file, staged, copies) if self._current.real(file) in staged or os.path.isfile(file) else file for file in files]
            if views != files:
                edits.append(_spans.Edit(statement.begin, statement.end, b' '.join(b'include "%s";' % os.fsencode(view) for view in views)))
        if not edits and (stands == path or path != self._main):
            return stands
        # Beside the main file, since nginx takes relative paths from its directory.
        copy = os.path.join(os.path.dirname(path), '.%s%s' % (os.path.basename(path), _VIEW))
        copies.append(copy)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(copy)
        with open(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), 'wb') as stream:  # not through a link that somebody put there
            stream.write(_spans.apply(data, edits))
        return copy

    def _workers(self, master: int) -> dict[int, int]:
        """Give the workers that take connections, with the time they started."""
        workers = {}
        for pid in _process.children(master):
            title = ' '.join(_process.command_line(pid))
            if title.startswith('nginx: worker process') and 'shutting down' not in title:
                workers[pid] = _process.started(pid)
        return workers

    def apply(self) -> None:
        """Reload, and wait until new workers have taken over; a stopped nginx stays stopped.

        The reload's own success says nothing: nginx keeps the old configuration when it can't use the new one (ngx_cycle.c).
        """
        master = self.master()
        if master is None or self._reload == 'none':
            return
        _process.await_ready(master, signal.SIGHUP)
        old = self._workers(master)
        log = _process.log_size(self._error_log)
        unit = _process.unit_of(self._run, master) if self._reload in ('auto', 'systemd') else None
        if unit is not None:
            _process.reload_unit(self._run, unit)
        else:
            os.kill(master, signal.SIGHUP)  # what `nginx -s reload` does, but for looking for the PID in a file
        refused: list[str] = []

        def is_decided() -> bool:
            now = self._workers(master)
            if now.items() - old.items() and not now.items() & old.items():
                return True
            if not _process.is_alive(master):
                refused.append('nginx ended')
            elif not now.items() - old.items():
                # A bind is tried five times, half a second apart, before "still could not bind()".
                refused[:] = _process.log_since(self._error_log, log, r'\[emerg\](?!.* bind\(\) to )')
            return bool(refused)

        if not _process.wait_for(is_decided, RELOAD_TIMEOUT) or refused:
            messages = _process.log_since(self._error_log, log, r'\[(emerg|alert)\]')
            reason = '\n'.join(messages) or 'no new worker appeared; see %s' % self._error_log
            raise Failed('nginx did not take the new configuration and kept the old one: %s' % reason)
        self._before_last = old
        self.reloaded = True

    def drain(self) -> None:
        """Wait until the workers of the generation before have ended, or can't have a connection left that waits for its ClientHello."""
        _process.wait_for(lambda: not any(_process.started(pid) == when for pid, when in self._before_last.items()), DRAIN_TIMEOUT)

    def prove(self, expect: Expect) -> None:
        """Make the handshakes that a stage promises, where nginx runs and was reloaded; raise Failed."""
        if self.reloaded and expect.endpoints:
            self.verified = _probe.prove(expect.before, expect.endpoints, expect.responder, expect.renewed)


def certificates(config: Config) -> set[str]:
    """Give the SHA-256 of the certificates on disk, any of which a reload may begin to serve (renewed since the last one)."""
    directory = os.path.dirname(config.main)
    paths = {place.statement.arguments[0] for place in config.places('ssl_certificate') if place.statement.arguments}
    return {found for found in (_probe.certificate_in(os.path.join(directory, path)) for path in paths) if found is not None}
