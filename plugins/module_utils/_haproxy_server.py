# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The running HAProxy: let it check files that are not in place yet, reload it and see that it took them, and prove what clients get.

PRIVATE to the collection, may change at any time.
"Management guide" is HAProxy's management.txt of 2.6.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import typing as t

from ansible_collections.seamless.tls_alpn.plugins.module_utils import _haproxy_config as hc
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _haproxy_front as hf
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _listeners, _probe, _process
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed

RELOAD_TIMEOUT = 60  # seconds for a new generation of workers
DRAIN_LIMIT = 60  # seconds; what has not sent its ClientHello by then is not waited for
TRIES = 50  # acme-tls/1 handshakes for each public address: one that another socket takes now and then has to show
_LISTEN = '0A'  # TCP_LISTEN in /proc/net/tcp
_WITH_VALUE = ('-C', '-L', '-N', '-S', '-f', '-m', '-n', '-p', '-x')  # options that take the next word (management guide, 3)

_PROCESS_VARIABLE = re.compile(r'(?:HAPROXY_(?:MWORKER.*|PROCESSES|STARTUPLOGS_FD|LOAD_SUCCESS)|NOTIFY_SOCKET|LISTEN_(?:FDS|PID))\Z')


class Arguments(t.NamedTuple):
    """A command line of HAProxy's, taken apart: its `-f` (relative to ``directory``), and all words but those of a reload."""

    paths: list[str]
    directory: str
    words: list[str]

    @property
    def shared(self) -> list[str]:
        """Give the words that change how the files are read."""
        return [word for one, two in zip(self.words, self.words[1:]) if one in ('-C', '-L') for word in (one, two)]


class Process(t.NamedTuple):
    """A HAProxy that runs, by its master or, where there is none, by itself."""

    pid: int
    arguments: Arguments


class Expect(t.NamedTuple):
    """What clients must see after a stage: the sites as before, and with ``responder`` that acme-tls/1 reaches it."""

    before: list[_probe.Handshake]
    responder: tuple[str, int] | None
    renewed: set[str]


def read_arguments(argv: t.Sequence[str], directory: str) -> Arguments:
    """Take a command line apart (management guide, 3); ``directory`` is where the process was started."""
    paths: list[str] = []
    words: list[str] = []
    files_only, position = False, 1
    while position < len(argv):
        word = argv[position]
        position += 1
        if word in ('-sf', '-st') and not files_only:  # PIDs up to the next option
            while position < len(argv) and argv[position].isdigit():
                position += 1
            continue
        following = argv[position : position + 1] if word in _WITH_VALUE and not files_only else []
        position += len(following)
        if word == '-x':  # handed from one generation to the next
            continue
        if word == '-C' and following:
            directory = os.path.join(directory, following[0])
        elif word == '-f':
            paths += following
        elif files_only:
            paths.append(word)
        files_only = files_only or word == '--'
        words += [word, *following]
    return Arguments([os.path.join(directory, path) for path in paths], directory, words)


def environment(process: Process | None) -> dict[str, str]:
    """Give the variables that the configuration is read with, but for those by which HAProxy and systemd speak to the process itself."""
    if process is None:
        return dict(os.environ)
    try:
        with open('/proc/%d/environ' % process.pid, 'rb') as stream:
            pairs = [os.fsdecode(item).partition('=') for item in stream.read().split(b'\0') if item]
    except OSError as error:
        raise Failed('the environment of haproxy (process %d) can not be read: %s' % (process.pid, error.strerror)) from error
    return {name: value for name, dummy, value in pairs if not _PROCESS_VARIABLE.match(name)}


def _is_haproxy(pid: int) -> bool:
    words = _process.command_line(pid)
    return bool(words) and os.path.basename(words[0]) == 'haproxy' and '-c' not in words and _process.is_alive(pid)


def processes() -> list[Process]:
    """Give every HAProxy of this host (not those of containers on it)."""
    found = []
    for pid in _process.neighbours():
        if _is_haproxy(pid) and not _is_haproxy(_process.parent(pid)):
            with contextlib.suppress(FileNotFoundError):
                found.append(Process(pid, read_arguments(_process.command_line(pid), os.readlink('/proc/%d/cwd' % pid))))
    return found


def choose(running: t.Sequence[Process], wanted: t.Sequence[str]) -> Process | None:
    """Give the process that loads all the ``wanted`` files or directories, or None; raise Failed where several do.

    With no file wanted it is the one that runs. A process and its successor load the same; the newest counts.
    """
    real = {os.path.realpath(path) for path in wanted}

    def loaded(process: Process) -> set[str]:
        files = [os.path.join(path, name) for path in process.arguments.paths if os.path.isdir(path) for name in os.listdir(path)]
        return {os.path.realpath(path) for path in [*process.arguments.paths, *files]}

    matching = [process for process in running if real <= loaded(process)]
    if len({tuple(process.arguments.paths) for process in matching}) > 1:
        several = ', '.join('process %d (%s)' % (process.pid, ' '.join(process.arguments.paths)) for process in matching)
        raise Failed('several HAProxy run here: %s; name the files of the one that is meant with config' % several)
    return max(matching, key=lambda process: _process.started(process.pid), default=None)


def _sockets(pid: int) -> set[str]:
    """Give the inodes of a process's sockets, as far as this user may see them (proc(5))."""
    found = set()
    with contextlib.suppress(OSError):
        for name in os.listdir('/proc/%d/fd' % pid):
            with contextlib.suppress(OSError):
                link = os.readlink('/proc/%d/fd/%s' % (pid, name))
                if link.startswith('socket:['):
                    found.add(link[len('socket:[') : -1])
    return found


def _listens(pid: int) -> bool:
    """Whether a process has a listening TCP socket, as seen from its own network."""
    listening = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for name in ('tcp', 'tcp6'):
            with open('/proc/%d/net/%s' % (pid, name), encoding='ascii') as stream:
                listening |= {fields[9] for fields in map(str.split, stream) if fields[3] == _LISTEN}
    return not listening.isdisjoint(_sockets(pid))


def _is_plain_bind(line: hc.Line) -> bool:
    """Whether a line makes HAProxy listen in this host's network, whatever conditions say."""
    values = line.values
    return values[0] == 'bind' and len(values) > 1 and not line.guards and not {'interface', 'namespace', 'transparent'}.intersection(values)


def _abstract_holders(handoff: str) -> set[int]:
    """Give who has ``abns@NAME``. HAProxy fills the name up with zero bytes, which /proc/net/unix shows as "@" (unix(7))."""
    with open('/proc/net/unix', encoding='utf-8', errors='replace') as stream:
        inodes = {fields[6] for fields in map(str.split, stream) if fields[-1].rstrip('@') == '@' + handoff[len('abns@') :]}
    return {int(name) for name in os.listdir('/proc') if name.isdigit() and inodes & _sockets(int(name))} if inodes else set()


def _tcp_holders(text: str) -> set[int]:
    """Give who keeps HAProxy from listening on a TCP address; nobody for what is none, and for one that it can share (SO_REUSEPORT)."""
    address = hf.parse_address(text)
    if address is None:
        return set()
    holders: set[int] = set()
    for port in range(address.low, address.high + 1):
        if not _probe.is_free(address.host.strip('[]*') or '0.0.0.0', port, shared=True):
            holders |= {one.pid for one in _listeners.listeners(port) if one.pid is not None}
    return holders


class HaproxyServer:
    """One HAProxy: its program, its process or None, its configuration, and how it is reloaded ('auto', 'systemd', 'signal', 'none').

    ``run`` runs a command, with ``cwd`` and ``environ_update`` as AnsibleModule.run_command has them. ``drain_time`` is how many seconds
    a connection may wait in the front that is there now.
    """

    def __init__(self, run: t.Callable[..., tuple[int, str, str]], binary: str, process: Process | None, config: hc.Config, reload: str) -> None:
        self._run = run
        self._binary = binary
        self._process = process
        self._config = config
        self._reload = reload
        self._before_last: dict[int, int] = {}
        self.drain_time = 0.0
        self.reloaded = False
        self.verified: list[_probe.Handshake] = []

    def check(self, staged: t.Mapping[str, str | None]) -> None:
        """Run `haproxy -c` on what will be loaded, in the order in which it will be; raise Failed with what HAProxy says."""
        self._look_again()
        argv = [self._binary, '-c', *(self._process.arguments.shared if self._process else [])]
        for source in self._config.sources:
            files = dict.fromkeys(source.files)
            if source.directory:
                added = [path for path in staged if os.path.dirname(path) == source.path.rstrip('/') and path not in files]
                files = dict.fromkeys(sorted([*files, *added], key=os.fsencode))
            for path in files:
                copy = staged.get(path, path)
                argv += ['-f', copy] if copy is not None else []
        code, out, err = self._run(argv, **self._surroundings())
        if code:
            if staged:
                self.check({})  # if that is refused already, it is that what has to be told
            message = (err or out).strip()
            for path, copy in staged.items():
                message = message.replace(copy or path, path)
            raise Failed('HAProxy does not accept the configuration: %s' % message)

    def _look_again(self) -> None:
        """Find the process that serves where the one that was chosen has ended: somebody has restarted HAProxy, or stopped it."""
        if self._process is not None and not _process.is_alive(self._process.pid):
            self._process = choose(processes(), self._process.arguments.paths)

    def _surroundings(self) -> dict[str, t.Any]:
        if self._process is None:
            return {}
        # What the configuration sets itself is in the environment of a master that has reloaded; a fresh start does not have it.
        own = {line.values[1] for line in self._config.lines if line.values[0] in ('setenv', 'presetenv') and len(line.values) > 1}
        variables = {name: value for name, value in environment(self._process).items() if name not in own}
        return {'cwd': self._process.arguments.directory, 'environ_update': variables}

    def _workers(self, master: int) -> dict[int, int]:
        """Give the workers of all generations, with the time they started (`program` sections have children of the master, too)."""
        return {pid: _process.started(pid) for pid in _process.children(master) if _is_haproxy(pid)}

    def refuse_taken(self, config: hc.Config, handoffs: t.Sequence[str]) -> None:
        """Raise Failed if somebody else listens where the front is to hand over to, or where a reload makes HAProxy listen.

        HAProxy's own check does not look, and its reload then stops the old workers' listeners for two seconds before it gives up
        (haproxy.c, MAX_START_RETRIES). Binds inside of `.if` are left out, since they may not count.
        """
        own = {self._process.pid, *self._workers(self._process.pid)} if self._process else set()
        wanted = [('backend_port' if ':' in handoff else 'frontend', handoff) for handoff in handoffs]
        if self._process is not None:
            wanted += [(str(line), line.values[1]) for line in config.lines if _is_plain_bind(line)]
        for where, text in wanted:
            for piece in text.split(','):
                holders = _abstract_holders(piece) if piece.startswith('abns@') else _tcp_holders(piece)
                if holders and not holders & own:
                    names = ', '.join('%s (process %d)' % (os.path.basename((_process.command_line(pid) or ['?'])[0]), pid) for pid in sorted(holders))
                    raise Failed('%s: %s is in use by %s; choose another, or end that' % (where, piece, names))

    def apply(self) -> None:
        """Reload, and wait until new workers have taken over; a stopped HAProxy stays stopped.

        The signal's own success says nothing: the master keeps the old workers when it can't use the new configuration
        (management guide, 4).
        """
        self._look_again()
        if self._process is None or self._reload == 'none':
            return
        master = self._process.pid
        if self._workers(master):
            self._reload_master(master)
        else:
            self._replace(self._process)
        self.reloaded = True

    def _reload_master(self, master: int) -> None:
        _process.await_ready(master, signal.SIGUSR2)
        old = self._workers(master)
        unit = _process.unit_of(self._run, master) if self._reload in ('auto', 'systemd') else None
        if unit is not None:
            _process.reload_unit(self._run, unit)
        elif self._reload == 'systemd':
            raise Failed('haproxy (process %d) is not the main process of a systemd unit; choose reload: signal or auto' % master)
        else:
            os.kill(master, signal.SIGUSR2)
        refused: list[str] = []

        def is_decided() -> bool:
            ready = _process.is_ready(master, signal.SIGUSR2)  # asked before: a master that is ready has started its workers
            new = self._workers(master).items() - old.items()
            if not _process.is_alive(master):
                refused.append('haproxy ended')
            elif ready and not new:
                refused.append(self._reason(unit))
            return bool(refused) or bool(new) and not self._listening(old)

        if not _process.wait_for(is_decided, RELOAD_TIMEOUT) or refused:
            raise Failed('HAProxy did not take the new configuration and kept the old one: %s' % (refused or ['the old workers still listen'])[0])
        self._before_last = old

    def _reason(self, unit: str | None) -> str:
        """Give what HAProxy logged when it refused a configuration, where that is to be found."""
        alerts = [line for line in _process.journal(self._run, unit, 50).splitlines() if '[ALERT]' in line] if unit else []
        return '\n'.join(dict.fromkeys(alerts)) or 'its log tells why'

    def _listening(self, workers: t.Mapping[int, int]) -> bool:
        return any(_process.started(pid) == when and _listens(pid) for pid, when in workers.items())

    def _replace(self, process: Process) -> None:
        """Start a successor that takes over, where no master runs (management guide, 4: `-sf`, and `-x` where a socket hands listeners on)."""
        words = process.arguments.words
        globals_ = [line.values for line in self._config.lines if line.section is not None and line.section.kind == 'global']
        if '-db' in words or '-d' in words or not ('-D' in words or ['daemon'] in [values[:1] for values in globals_]):
            raise Failed(
                'haproxy (process %d) runs in the foreground without a master, so that nothing can reload it without ending it;'
                ' run it with -W, or use reload: none' % process.pid
            )
        if self._reload == 'systemd' or self._reload == 'auto' and _process.unit_of(self._run, process.pid):
            raise Failed('haproxy (process %d) runs without a master, so that systemd can not reload it; run it with -Ws' % process.pid)
        old = {one.pid: _process.started(one.pid) for one in processes() if one.arguments.words == words}
        sockets = [values[2] for values in globals_ if values[:2] == ['stats', 'socket'] and 'expose-fd' in values]
        handed = ['-x', sockets[0]] if sockets else []
        code, out, err = self._run([self._binary, *words, *handed, '-sf', *map(str, old)], **self._surroundings())
        if code:
            raise Failed('HAProxy did not take the new configuration and kept the old one: %s' % (err or out).strip())
        if not _process.wait_for(lambda: not self._listening(old), RELOAD_TIMEOUT):
            raise Failed('the HAProxy from before (process %s) still listens' % ', '.join(map(str, old)))
        self._before_last = old
        self._process = choose([one for one in processes() if one.pid not in old], process.arguments.paths) or process

    def drain(self) -> None:
        """Wait until the workers of earlier generations have ended, or can't have a connection left that waits for its ClientHello."""
        _process.wait_for(lambda: not any(_process.started(pid) == when for pid, when in self._before_last.items()), min(self.drain_time, DRAIN_LIMIT))

    def prove(self, expect: Expect) -> None:
        """Make the handshakes that a stage promises, where HAProxy runs and was reloaded; raise Failed."""
        if self.reloaded and expect.before:
            self.verified = _probe.prove(expect.before, list(dict.fromkeys(one.endpoint for one in expect.before)), expect.responder, expect.renewed, TRIES)


def certificates(config: hc.Config, directory: str) -> set[str]:
    """Give the SHA-256 of the certificates on disk, any of which a reload may begin to serve (renewed since the last one).

    ``directory`` is where HAProxy was started. A `crt` may be a bundle by key type (Manual 5.1, crt).
    """
    base = next((line.values[1] for line in config.lines if line.values[0] == 'crt-base' and len(line.values) > 1), '')
    paths: list[str] = []
    for values in (line.values for line in config.lines if 'crt' in line.values or 'crt-list' in line.values):
        for option, value in zip(values, values[1:]):
            if option == 'crt':
                paths.append(os.path.join(base, value))
            elif option == 'crt-list':
                with contextlib.suppress(OSError), open(value, encoding='utf-8', errors='replace') as stream:
                    paths += [os.path.join(base, text.split()[0]) for text in stream if text.strip() and not text.startswith('#')]
    files = []
    for path in paths:
        path = os.path.join(directory, path)
        files += [os.path.join(path, name) for name in os.listdir(path)] if os.path.isdir(path) else [path, path + '.rsa', path + '.ecdsa', path + '.dsa']
    return {found for found in map(_probe.certificate_in, files) if found is not None}
