# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One change of several files and of the server that reads them: all of it, proven, or nothing.

PRIVATE to the collection, may change at any time.

Originals are kept as hidden hard links beside the files (``.NAME.seamless-old``), so that putting them back needs no space and gives
back the very files, times included. Names that begin with a dot are matched by no include glob (glob(7)). A journal in the state
directory names them from before the first rename until the proof; the next run finds it. If all files were in place, the server may
have loaded them: that run starts from there, as if they had always been. Else it puts the files back first.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import re
import signal
import stat
import time
import typing as t

LOCK_TIMEOUT = 300  # seconds to wait for another run on this host
_SYNCERS = 16  # threads that wait for the disk


class Failed(Exception):
    """A run that can't be done: what, where (file:line) and what to do about it."""


class Unsupported(Failed):
    """A server that can't have a front: it is not there, or lacks something."""


class Stage(t.NamedTuple):
    """One complete set of file contents (None: no such file), and what a client must see afterwards (for the server's ``prove``).

    ``way_back`` gives what has to be in place for a while, one after the other, if this stage was loaded and is to be put back, so that
    nobody fails whom it serves.
    """

    files: dict[str, bytes | None]
    expect: t.Any = None
    way_back: t.Callable[[], list[dict[str, bytes | None]]] | None = None


class Server(t.Protocol):
    """What a change needs to know of a server."""

    def check(self, staged: t.Mapping[str, str | None]) -> None:
        """Let the server check its configuration with these files in place of the real ones (path -> staged copy); raise Failed."""

    def apply(self) -> None:
        """Reload, and wait until the new configuration is in use; nothing where the server does not run. Raise Failed."""

    def drain(self) -> None:
        """Wait until connections that only the configuration before can serve are handed over."""

    def prove(self, expect: t.Any) -> None:
        """Raise Failed unless clients see what the stage promises."""


def state_directory() -> str:
    """Give the directory for locks and journals: system-wide for root, of the user otherwise."""
    if os.geteuid() == 0:
        return '/var/lib/seamless-tls-alpn'
    return os.path.join(os.environ.get('XDG_STATE_HOME') or os.path.expanduser('~/.local/state'), 'seamless-tls-alpn')


class RealPaths(dict[str, str]):
    """The real path of each path asked for. Thousands of files are in few directories, whose way up is looked at once."""

    def __init__(self) -> None:
        super().__init__()
        self._directories: dict[str, str] = {}

    def __missing__(self, path: str) -> str:
        directory, name = os.path.split(path)
        if os.path.islink(path) or not name:
            real = os.path.realpath(path)
        else:
            if directory not in self._directories:
                self._directories[directory] = os.path.realpath(directory)
            real = os.path.join(self._directories[directory], name)
        self[path] = real
        return real


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _begin_sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # Linux then begins to write what is not on disk (mm/fadvise.c)
    finally:
        os.close(descriptor)


def _sync_all(paths: t.Iterable[str]) -> None:
    """Wait until these files and directories are on disk; side by side, since a file system writes what waits together together."""
    queue = list(paths)

    def sync(lot: list[str]) -> None:
        for path in lot:
            _begin_sync(path)
        for path in lot:
            _sync(path)

    with concurrent.futures.ThreadPoolExecutor(_SYNCERS) as pool:
        list(pool.map(sync, [queue[number::_SYNCERS] for number in range(_SYNCERS)]))


def _sibling(target: str, suffix: str) -> str:
    directory, dummy, name = target.rpartition('/')
    return '%s/.%s.seamless-%s' % (directory, name, suffix)


def _remove(path: str) -> None:
    if os.path.lexists(path):  # of what is not there, a read-only file system says that it is read-only
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def content_of(path: str) -> bytes | None:
    """Give a file's content, or None where there is no such file; raise OSError."""
    try:
        with open(path, 'rb') as stream:
            return stream.read()
    except FileNotFoundError:
        return None


def _digest(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def _make_private(directory: str) -> None:
    """Make a directory, and those above it that are not there, for the owner alone, whatever the umask is."""
    umask = os.umask(0o077)
    try:
        os.makedirs(directory, exist_ok=True)
    finally:
        os.umask(umask)


def _write(path: str, content: bytes, like: str | None, mode: int = 0o644) -> None:
    """Write a new file with owner, mode and extended attributes (SELinux label, ACL) of ``like``."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError:
        _remove(path)
        descriptor = os.open(path, flags, 0o600)
    with os.fdopen(descriptor, 'wb') as stream:
        stream.write(content)
        if like is not None:
            status = os.stat(like)
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(stream.fileno(), status.st_uid, status.st_gid)
            mode = stat.S_IMODE(status.st_mode)
            for name in os.listxattr(like):
                with contextlib.suppress(OSError):  # not every file system or user may set every attribute
                    os.setxattr(stream.fileno(), name, os.getxattr(like, name))
        os.fchmod(stream.fileno(), mode)


_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextlib.contextmanager
def _interruptible() -> t.Iterator[None]:
    """Turn the signals that end a run into exceptions, so that a change is put back."""

    def interrupt(number: int, dummy: t.Any) -> None:
        raise Failed('interrupted by %s' % signal.Signals(number).name)

    before = [signal.signal(number, interrupt) for number in _ENDING]
    try:
        yield
    finally:
        for number, handler in zip(_ENDING, before):
            signal.signal(number, handler)


def _ignore_signals() -> None:
    """From here on a signal is too late. A server that is started would go on ignoring what is SIG_IGN (execve(2))."""
    for number in _ENDING:
        signal.signal(number, lambda dummy, dummy2: None)


class Transaction:
    """The right to change one server's configuration, named by ``key`` (its main file): lock, journal, change.

    With ``check_mode`` nothing may be changed, and nothing is locked. ``recovered`` tells that a run before this one was killed, so that
    nobody knows which configuration the server has loaded.
    """

    def __init__(self, key: str, backup_dir: str | None = None, check_mode: bool = False) -> None:
        real = os.path.realpath(key)
        name = '%s-%s' % (re.sub(r'[^A-Za-z0-9.]+', '-', real).strip('-')[-100:], hashlib.sha256(os.fsencode(real)).hexdigest()[:12])
        self._directory = state_directory()
        self._lock_path = os.path.join(self._directory, name + '.lock')
        self._journal = os.path.join(self._directory, name + '.json')
        self._done = os.path.join(self._directory, name + '.done')
        if backup_dir is not None and not os.path.isabs(backup_dir):
            raise Failed('backup_dir: "%s" is no absolute path' % backup_dir)
        self._backup_dir = backup_dir
        self._check_mode = check_mode
        self._lock: int | None = None
        self._targets: dict[str, str] = {}
        self._existed: dict[str, bool] = {}
        self._written: dict[str, list[str | None]] = {}
        self._seen: dict[str, str | None] = {}
        self.recovered = False
        self.backup: str | None = None

    @property
    def interrupted(self) -> bool:
        """Whether there is the journal of a run that was killed (or is at work)."""
        return os.path.exists(self._journal)

    def __enter__(self) -> Transaction:
        if self._check_mode:
            if self.interrupted:
                raise Failed(
                    'a run was killed here, could not reload, or is at work; the next one not in check mode puts that right first; nothing can be foretold'
                )
            return self
        if not os.path.isdir(self._directory):
            _make_private(self._directory)
            _sync(os.path.dirname(self._directory))
        self._lock = lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(lock)
                    raise Failed('another run has held %s for %d seconds; wait for it to end' % (self._lock_path, LOCK_TIMEOUT)) from None
                time.sleep(0.1)
        try:
            if os.path.exists(self._done):
                self._read(self._done)
                self._clear()
            if self.interrupted:
                self._recover()
        except BaseException:
            os.close(lock)
            raise
        return self

    def __exit__(self, kind: object, *dummy: object) -> None:
        if self._lock is not None:
            try:
                if kind is None and self.interrupted:  # by a run before; this one found nothing to change
                    self._end()
            finally:
                os.close(self._lock)

    def _read(self, path: str) -> None:
        try:
            with open(path, encoding='utf-8') as stream:
                journal = json.load(stream)
            if not all(isinstance(journal[name], dict) for name in ('targets', 'existed', 'written')):
                raise ValueError('it does not name files')
            self._targets, self._existed, self._written = journal['targets'], journal['existed'], journal['written']
        except (ValueError, KeyError, TypeError) as error:
            raise Failed('%s: not a journal (%s); look at the files that it should name, then remove it' % (path, error)) from error

    def _recover(self) -> None:
        """Put the files of a killed run back, unless all were in place; raise Failed where an edit that was made since would be lost.

        The journal stays: what the server has loaded is not known before this run, or another, has reloaded it.
        """
        self._read(self._journal)
        self.recovered = True
        edited, behind = [], False
        for target, digests in self._written.items():
            digest, old = _digest(content_of(target)), _sibling(target, 'old')
            if digest in digests:
                behind = behind or digest != digests[-1]
            elif digest == _digest(content_of(old)) if os.path.exists(old) else self._existed[target] == (digest is not None):
                behind = True
            else:
                edited.append(target)
        if behind and edited:
            places = ', '.join('%s (before the run: %s)' % (target, _sibling(target, 'old')) for target in edited)
            raise Failed('%s: edited since a run was killed between its files; put right what is to stay, then remove %s' % (places, self._journal))
        self._sweep()
        if behind:
            self._restore()

    def change(self, stages: t.Sequence[Stage], server: Server, read: t.Mapping[str, bytes | None] | None = None) -> None:
        """Carry the stages out one after the other; whatever goes wrong, put everything back, apply that, and raise.

        ``read`` is what the files held that the stages were made from (where it is not given, what they hold now): one that somebody has
        written to since is not written over.
        """
        with _interruptible():
            self._begin(stages, read)
            applied = loaded = False
            try:
                for number, stage in enumerate(stages):
                    loaded = False
                    if number:
                        server.drain()
                    staged = self._stage(stage.files)
                    server.check(staged)
                    applied = True
                    self._commit(staged)
                    server.apply()
                    loaded = True
                    server.prove(stage.expect)
                _ignore_signals()
            except BaseException as error:
                _ignore_signals()
                said = self._put_back(server if applied else None, stage.way_back if loaded and stage.files else None)
                if said:
                    raise Failed('; '.join([str(error), *said])) from error
                raise
            self._end()

    def _begin(self, stages: t.Sequence[Stage], read: t.Mapping[str, bytes | None] | None) -> None:
        real = RealPaths()
        killed = self._existed  # of a run that was killed, whose journal is replaced by this one's
        self._targets = {path: real[path] for path in sorted({path for stage in stages for path in stage.files})}
        self._existed = {target: os.path.exists(target) for target in self._targets.values()}
        for path, target in self._targets.items():
            if self._existed[target] and not os.path.isfile(target):
                raise Failed('%s: not a regular file' % path)
        self._seen = {target: _digest(content_of(target) if read is None else read.get(path)) for path, target in self._targets.items()}
        self._written = {target: [] for target in self._existed}
        for path, content in ((path, content) for stage in stages for path, content in stage.files.items()):
            self._written[self._targets[path]].append(_digest(content))
        olds = {_sibling(target, 'old') for target in [*self._existed, *killed]}
        for directory in filter(os.path.isdir, {os.path.dirname(old) for old in olds}):
            for name in os.listdir(directory):
                if os.path.join(directory, name) in olds:  # the killed run's, or nobody's: a copy of the directory was put back, perhaps
                    _remove(os.path.join(directory, name))
        self._keep_backup()
        try:
            self._write_journal()
        except OSError as error:
            raise Failed('%s: %s; nothing was changed' % (self._journal, error.strerror)) from error

    def _write_journal(self) -> None:
        temporary = self._journal + '.new'
        try:
            _write(temporary, json.dumps({'targets': self._targets, 'existed': self._existed, 'written': self._written}).encode(), None, 0o600)
            _sync(temporary)
            os.rename(temporary, self._journal)
            _sync(self._directory)
        except OSError:
            _remove(temporary)
            raise

    def _keep_backup(self) -> None:
        if self._backup_dir is None or not any(self._existed.values()):
            return
        self.backup = os.path.join(self._backup_dir, time.strftime('%Y-%m-%dT%H%M%S') + '.%d' % os.getpid())
        copies = {target: self.backup + target for target, existed in self._existed.items() if existed}
        try:
            for target, copy in copies.items():
                _make_private(os.path.dirname(copy))
                with open(target, 'rb') as stream:
                    _write(copy, stream.read(), target)
            _sync_all(copies.values())
        except OSError as error:
            raise Failed('%s: the backup can not be written (%s); nothing was changed' % (self.backup, error.strerror)) from error

    def _stage(self, files: t.Mapping[str, bytes | None]) -> dict[str, str | None]:
        staged: dict[str, str | None] = {}
        for path, content in files.items():
            target = self._targets[path]
            if content is None:
                staged[path] = None
                continue
            temporary = _sibling(target, 'new')
            try:
                _write(temporary, content, target if os.path.exists(target) else None)
            except OSError as error:
                raise Failed('%s: can not be written: %s' % (target, error.strerror)) from error
            staged[path] = temporary
        try:
            _sync_all(temporary for temporary in staged.values() if temporary is not None)
        except OSError as error:
            raise Failed('the new files can not be written: %s' % error.strerror) from error
        return staged

    def _commit(self, staged: t.Mapping[str, str | None]) -> None:
        for path, temporary in staged.items():
            target = self._targets[path]
            if _digest(content_of(target)) not in (self._seen[target], *self._written[target]):
                raise Failed('%s: somebody has written to it meanwhile; run this again' % target)
            try:
                if self._existed[target] and not os.path.exists(_sibling(target, 'old')):
                    os.link(target, _sibling(target, 'old'))
                if temporary is not None:
                    os.rename(temporary, target)
                else:
                    _remove(target)
            except OSError as error:
                raise Failed('%s: can not be replaced: %s' % (target, error.strerror)) from error
        _sync_all({os.path.dirname(self._targets[path]) for path in staged})

    def _restore(self) -> None:
        """Give every file back as it was; one that existed and has no kept original has not been touched yet."""
        for target, existed in self._existed.items():
            old = _sibling(target, 'old')
            if os.path.exists(old):
                os.rename(old, target)
                _remove(old)  # rename(2) does nothing between two links of one file
            elif not existed:
                _remove(target)
        self._sweep()
        _sync_all(filter(os.path.isdir, {os.path.dirname(target) for target in self._existed}))

    def _sweep(self) -> None:
        """Take away what was staged and is in place nowhere."""
        for target in self._existed:
            _remove(_sibling(target, 'new'))

    def _put_back(self, server: Server | None, way_back: t.Callable[[], list[dict[str, bytes | None]]] | None) -> list[str]:
        """Give every file back, and have the server take them; give what else went wrong, or is to be known."""
        said: list[str] = []
        try:
            self._keep_edits(said)
        except OSError as problem:
            said.append('what somebody has written meanwhile can not be kept: %s' % problem)
        try:
            if server is not None and way_back is not None:
                self._retreat(way_back(), server, said)
        except Exception as problem:  # whatever it is, the files have to be put back
            said.append('what was loaded was taken away at once, so that connections may have failed, since: %s' % problem)
        try:
            self._restore()
        except OSError as problem:
            return [*said, 'and putting the files back failed: %s (the next run tries again)' % problem]
        try:
            if server is not None:
                server.apply()
        except (Failed, OSError) as problem:  # the journal stays: the next run has to reload
            return [*said, 'the files are as they were, but the server does not take them either: %s' % problem]
        try:
            self._end()
        except OSError as problem:
            said.append('%s: %s' % (self._journal, problem.strerror))
        return said

    def _keep_edits(self, said: list[str]) -> None:
        """Keep what somebody else has written meanwhile beside the files that are put back, and say where it is."""
        for target, digests in self._written.items():
            digest = _digest(content_of(target))
            is_put_back = os.path.exists(_sibling(target, 'old')) or not self._existed[target]
            if digest is None or not is_put_back or digest in (self._seen[target], *digests):
                continue
            names = (_sibling(target, 'edited-%d' % number) for number in itertools.count(1))
            kept = next(name for name in names if not os.path.lexists(name))
            os.link(target, kept)
            digests.insert(0, digest)
            said.append('somebody has edited %s meanwhile, which is in %s now' % (target, kept))

    def _retreat(self, way: t.Iterable[t.Mapping[str, bytes | None]], server: Server, said: list[str]) -> None:
        """Have the server serve each of these for as long as connections need it."""
        for files in way:
            for path, content in files.items():
                target = self._targets.setdefault(path, os.path.realpath(path))
                if target not in self._existed:  # a front that came back to more places than were changed
                    self._existed[target] = os.path.exists(target)
                    self._seen[target] = _digest(content_of(target))
                    self._written[target] = [self._seen[target]]
                    _remove(_sibling(target, 'old'))
                self._written[target].insert(0, _digest(content))
            self._write_journal()
            staged = self._stage(files)
            server.check(staged)
            self._keep_edits(said)
            self._commit(staged)
            server.apply()
            server.drain()
            self._keep_edits(said)

    def _end(self) -> None:
        os.rename(self._journal, self._done)  # from here on the change stands
        _sync(self._directory)
        self._clear()

    def _clear(self) -> None:
        """Take away the originals that are kept no longer, and then what names them."""
        for target in self._existed:
            _remove(_sibling(target, 'old'))
        _remove(self._done)
        self._targets, self._existed, self._written = {}, {}, {}
