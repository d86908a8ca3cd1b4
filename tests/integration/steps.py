"""The steps by which a process changes files and servers, one by one: told before each, which may then fail or be the last.

A step is one system call: a file is made, written, renamed, linked, unlinked or synchronised, a directory made or synchronised, a
program run (the server checks its configuration), a signal sent (it reloads), a connection made (the proof; several in a row are one).
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import socket
import stat
import subprocess
import threading
import typing as t

TAKES_ROOM = ('create', 'write', 'link', 'mkdir', 'fsync')
FILES = (*TAKES_ROOM, 'rename', 'unlink', 'rmdir', 'sync directory')

Told = t.Callable[[str, tuple[t.Any, ...]], None]


def _path_of(descriptor: int) -> str:
    return os.readlink('/proc/self/fd/%d' % descriptor)


def install(before: Told, after: Told = lambda kind, words: None) -> None:
    """Have ``before(kind, words)`` called before each step of this process from now on, and ``after`` when it is done."""

    def stepped(call: t.Callable[..., t.Any], kind: str, count: int) -> t.Callable[..., t.Any]:
        def one(*arguments: t.Any, **more: t.Any) -> t.Any:
            before(kind, arguments[:count])
            result = call(*arguments, **more)
            after(kind, arguments[:count])
            return result

        return one

    open_file, make_descriptor, fsync, kill, write_bytes = builtins.open, os.open, os.fsync, os.kill, os.write

    def create(path: t.Any, flags: int, *rest: t.Any, **more: t.Any) -> int:
        if not flags & os.O_CREAT or os.path.exists(path):
            return make_descriptor(path, flags, *rest, **more)
        before('create', (path,))
        descriptor = make_descriptor(path, flags, *rest, **more)
        after('create', (path,))
        return descriptor

    def synchronise(descriptor: int) -> None:
        kind = 'sync directory' if stat.S_ISDIR(os.fstat(descriptor).st_mode) else 'fsync'
        words = (_path_of(descriptor),)
        before(kind, words)
        fsync(descriptor)
        after(kind, words)

    def write(descriptor: int, data: t.Any) -> int:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return write_bytes(descriptor, data)
        words = (_path_of(descriptor), bytes(data))
        try:
            before('write', words)
        except BaseException:
            write_bytes(descriptor, bytes(data)[: len(data) // 2])  # a write that fails may have begun
            raise
        count = write_bytes(descriptor, data)
        after('write', words)
        return count

    class Raw(io.FileIO):
        def write(self, data: t.Any) -> int:
            return write(self.fileno(), data)

    def open_stream(file: t.Any, mode: str = 'r', *rest: t.Any, **more: t.Any) -> t.Any:
        if mode not in ('wb', 'ab'):
            return open_file(file, mode, *rest, **more)
        if not isinstance(file, int):
            file = create(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_APPEND if mode == 'ab' else os.O_TRUNC), 0o666)
        return io.BufferedWriter(Raw(file, mode))

    def send(pid: int, number: int) -> None:
        if number:
            before('signal', (number,))
        kill(pid, number)

    class Popen(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, argv: t.Any, *rest: t.Any, **more: t.Any) -> None:
            before('run', (argv,))
            super().__init__(argv, *rest, **more)

    class Socket(socket.socket):
        def connect(self, address: t.Any) -> None:
            before('connect', (address,))
            super().connect(address)

    for name, kind, count in [('rename', 'rename', 2), ('replace', 'rename', 2), ('link', 'link', 2), ('unlink', 'unlink', 1), ('remove', 'unlink', 1)]:
        setattr(os, name, stepped(getattr(os, name), kind, count))
    os.mkdir = stepped(os.mkdir, 'mkdir', 1)
    os.rmdir = stepped(os.rmdir, 'rmdir', 1)
    os.open, os.fsync, os.kill, os.write = create, synchronise, send, write  # type: ignore[assignment]
    os.fdopen = builtins.open = open_stream  # type: ignore[assignment]
    subprocess.Popen = Popen  # type: ignore[misc]
    socket.socket = Socket  # type: ignore[misc]


class Fault:
    """What goes wrong: ``KIND@NUMBER`` at that step (counted from 1), ``KIND@NUMBER:STEP`` at that one of the steps of this kind.

    ``kill`` is SIGKILL, ``stop`` waits until the file named by GO_ON appears; ``EIO`` is an error at this one step, ``EIO+`` at this and
    each later one that changes files (a disk that died), ``ENOSPC+`` at this and each later one that takes room.
    """

    def __init__(self, text: str, log: str) -> None:
        self._kind, dummy, place = text.partition('@')
        number, dummy, self._only = place.partition(':')
        self._number = int(number or 0)
        self._log = log
        self._count = 0
        self._last = ''
        self._lock = threading.Lock()

    def __call__(self, kind: str, words: tuple[t.Any, ...]) -> None:
        with self._lock:
            repeated = kind == self._last == 'connect'
            self._last = kind
            if repeated or self._only not in ('', kind):
                return
            self._count += 1
            with open(self._log, 'a', encoding='utf-8') as stream:
                stream.write('%d\t%s\t%.200r\n' % (self._count, kind, words))
            if self._count == self._number and self._kind == 'kill':
                signal.raise_signal(signal.SIGKILL)
            if self._count == self._number and self._kind == 'stop':
                self._wait()
            if self._kind == 'EIO' and self._count == self._number or self._kind == 'EIO+' and self._count >= self._number and kind in FILES:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            if self._kind == 'ENOSPC+' and self._count >= self._number and kind in TAKES_ROOM:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @staticmethod
    def _wait() -> None:
        go_on = os.environ['GO_ON']
        with open(go_on + '.waiting', 'w', encoding='ascii'):
            pass
        while not os.path.exists(go_on):
            threading.Event().wait(0.02)
