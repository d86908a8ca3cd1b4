"""A power loss at every step of a transaction: every state that the disk may then hold is made, and the next run has to put it right.

What may be lost: of a file, what was written since its last fsync, all of it or the later half. Of a directory, the last of the changes
since its last fsync, any number of them. Every file and directory loses by itself. That is more than ext4, XFS and Btrfs lose, which
keep one order for all; changes of one directory are not taken to overtake each other.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pathlib
import pickle
import shutil
import typing as t

import pytest
import steps
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _transaction
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed, Stage, Transaction

REPORT = os.environ.get('FAULTS_REPORT')

Names = dict[str, int]  # what is in one directory: name -> inode (0 for a directory)


class Stub:
    """A server that takes everything, or (``fails``) shows nothing of it at the proof of the last stage."""

    def __init__(self, fails: bool = False) -> None:
        self._fails = fails
        self._proofs = 0

    def check(self, staged: t.Mapping[str, str | None]) -> None:
        pass

    def apply(self) -> None:
        pass

    def drain(self) -> None:
        pass

    def prove(self, expect: object) -> None:
        self._proofs += 1
        if self._fails and self._proofs == 2:
            raise Failed('not proven')


class Directory:
    """A directory as a process sees it after each of its changes, and how many of these are certain to be on the disk."""

    def __init__(self, names: Names) -> None:
        self.versions = [names]
        self.certain = 0

    def change(self, **changes: int | None) -> None:
        names = {**self.versions[-1], **{name: inode for name, inode in changes.items() if inode is not None}}
        self.versions.append({name: inode for name, inode in names.items() if changes.get(name, inode) is not None})

    @property
    def possible(self) -> list[Names]:
        return self.versions[self.certain :]


class Disk:
    """What a process did to files below ``root``, and what of it a power loss leaves."""

    def __init__(self, root: pathlib.Path) -> None:
        self.contents: dict[int, list[bytes]] = {}  # by inode: what it may hold, as it is at last first
        self.directories: dict[str, Directory] = {}
        for path, directories, files in os.walk(root):
            names = {name: os.stat(os.path.join(path, name)).st_ino for name in files}
            self.contents.update({inode: [pathlib.Path(path, name).read_bytes()] for name, inode in names.items()})
            self.directories[path] = Directory({**names, **dict.fromkeys(directories, 0)})
        self._next = -1

    def _at(self, path: str) -> tuple[Directory, str]:
        directory, name = os.path.split(path)
        return self.directories[directory], name

    def play(self, kind: str, words: t.Sequence[t.Any]) -> None:
        """Take one step of the process."""
        if kind == 'sync directory':
            directory = self.directories[words[0]]
            directory.certain = len(directory.versions) - 1
            return
        if kind == 'mkdir':
            self.directories[words[0]] = Directory({})
            parent, name = self._at(words[0])
            parent.change(**{name: 0})
            return
        directory, name = self._at(words[0])
        inode = directory.versions[-1].get(name)
        if kind == 'create':
            self.contents[self._next] = [b'']
            directory.change(**{name: self._next})
            self._next -= 1
        elif kind == 'write':
            before = self.contents[inode]
            self.contents[inode] = [before[0] + words[1], before[0] + words[1][: len(words[1]) // 2], *before]
        elif kind == 'fsync':
            self.contents[inode] = self.contents[inode][:1]
        elif kind == 'unlink':
            directory.change(**{name: None})
        elif kind in ('rename', 'link'):
            target, new = self._at(words[1])
            assert target is directory, words
            if kind == 'link':
                directory.change(**{new: inode})
            elif directory.versions[-1].get(new) != inode:  # rename(2) does nothing between two links of one file
                directory.change(**{name: None, new: inode})
        else:
            raise AssertionError(kind)

    def states(self) -> t.Iterator[dict[str, tuple[int, bytes]]]:
        """Give what the disk may hold: path -> inode and content."""
        uncertain = [inode for inode, contents in self.contents.items() if len(contents) > 1]
        for names in itertools.product(*[directory.possible for directory in self.directories.values()]):
            there = dict(zip(self.directories, names))
            # A directory whose own name was lost is lost with all that is in it.
            lost = {path for path in there if os.path.basename(path) not in there.get(os.path.dirname(path), [os.path.basename(path)])}
            files = {os.path.join(path, name): inode for path, found in there.items() if path not in lost for name, inode in found.items() if inode}
            held = [inode for inode in uncertain if inode in files.values()]
            for contents in itertools.product(*[self.contents[inode] for inode in held]):
                content = {**{inode: one[0] for inode, one in self.contents.items()}, **dict(zip(held, contents))}
                yield {path: (inode, content[inode]) for path, inode in files.items()}


@pytest.fixture
def root(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setattr(_transaction, 'state_directory', lambda: str(tmp_path / 'disk' / 'state'))
    disk = tmp_path / 'disk'
    make(disk, {str(disk / 'conf' / name): (number, b'old ' + name.encode()) for number, name in enumerate(('main', 'sites/a', 'sites/b'), 1)})
    return disk


def make(root: pathlib.Path, files: t.Mapping[str, tuple[int, bytes]]) -> None:
    """Make the files, and no others; those of one inode are one file with several names."""
    if root.exists():
        shutil.rmtree(root)
    (root / 'conf' / 'sites').mkdir(parents=True)
    first: dict[int, str] = {}
    for path, (inode, content) in files.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if inode in first:
            os.link(first[inode], path)
        else:
            pathlib.Path(path).write_bytes(content)
            first[inode] = path


def files_of(root: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in (root / 'conf').rglob('*') if path.is_file()}


def change(root: pathlib.Path, fails: bool = False) -> None:
    conf = root / 'conf'
    first: dict[str, bytes | None] = {str(conf / 'front'): b'middle front', str(conf / 'sites' / 'a'): b'middle a', str(conf / 'main'): b'new main'}
    second: dict[str, bytes | None] = {str(conf / 'sites' / 'a'): b'new a', str(conf / 'sites' / 'b'): None, str(conf / 'front'): b'new front'}

    def way_back() -> list[dict[str, bytes | None]]:
        return [{str(conf / 'sites' / 'a'): b'half a', str(conf / 'front'): None, str(conf / 'sites' / 'b'): b'half b'}, {str(conf / 'sites' / 'b'): b'old b'}]

    with Transaction(str(conf / 'main')) as transaction:
        transaction.change([Stage(first), Stage(second, way_back=way_back)], Stub(fails))


def recorded(act: t.Callable[[], None], log: pathlib.Path, last: int | None = None) -> list[tuple[str, t.Any]]:
    """Do something in a process of its own; give its steps, up to ``last``, before which it is killed."""
    child = os.fork()
    if not child:
        made: list[tuple[str, t.Any]] = []
        open_file = open

        def end() -> None:
            with open_file(log, 'wb', 0) as stream:
                stream.write(pickle.dumps(made))
            os._exit(0)

        def before(dummy: str, dummy2: t.Any) -> None:
            if len(made) == last:
                end()

        steps.install(before, lambda kind, words: made.append((kind, words)))
        with contextlib.suppress(Failed):
            act()
        end()
    assert os.waitpid(child, 0)[1] == 0
    return pickle.loads(log.read_bytes())


OLD = {'conf/main': b'old main', 'conf/sites/a': b'old sites/a', 'conf/sites/b': b'old sites/b'}
NEW = {'conf/main': b'new main', 'conf/sites/a': b'new a', 'conf/front': b'new front'}


@pytest.mark.parametrize('case', ['made', 'put back', 'killed and put right'])
def test_power_loss_at_every_step(root: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    def act() -> None:
        change(root, fails=case == 'put back')

    log = tmp_path / 'log'
    disk = Disk(root)
    if case == 'killed and put right':
        count = len(recorded(act, log))
        make(root, next(disk.states()))
        disk = Disk(root)
        made = recorded(act, log, count * 3 // 5)
        made += recorded(act, log)
    else:
        made = recorded(act, log)
    monkeypatch.setattr(os, 'fsync', lambda descriptor: None)  # what comes now happens to play only
    tried: set[str] = set()
    counts = {'steps': len(made), 'states': 0, 'journal': 0, 'none': 0}
    for kind, words in [('', ()), *made]:
        if kind:
            disk.play(kind, words)
        for state in disk.states():
            key = repr(sorted(state.items()))
            if key in tried:
                continue
            tried.add(key)
            make(root, state)
            with Transaction(str(root / 'conf' / 'main')) as transaction:
                counts['journal' if transaction.recovered else 'none'] += 1
            visible = {path: content for path, content in files_of(root).items() if not os.path.basename(path).startswith('.')}
            assert visible in (OLD, NEW), (kind, words, state)
            change(root)
            assert files_of(root) == NEW
            make(root, state)
            with pytest.raises(Failed, match='not proven'):
                change(root, fails=True)
            assert files_of(root) in (OLD, NEW), (kind, words, state)
            make(root, state)
            change(root)
            assert files_of(root) == NEW
            counts['states'] += 1
    assert counts['journal'] and counts['none']
    if REPORT:
        pathlib.Path(REPORT, 'power loss, %s.json' % case).write_text(json.dumps(counts))
