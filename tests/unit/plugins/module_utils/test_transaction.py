# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All of a change or nothing, with real files; the server's side is played here."""

from __future__ import annotations

import os
import pathlib
import stat
import typing as t

import pytest
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _transaction
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed, Stage, Transaction


class Server:
    """Remembers what it was asked; fails at a step if told so."""

    def __init__(self, fails: str = '', at_stage: int = 1) -> None:
        self.asked: list[str] = []
        self._fails = fails
        self._at_stage = at_stage

    def _ask(self, step: str) -> None:
        self.asked.append(step)
        if step == self._fails and self.asked.count(step) == self._at_stage:
            raise Failed('%s failed' % step)

    def check(self, staged: t.Mapping[str, str | None]) -> None:
        self.staged = {path: None if copy is None else pathlib.Path(copy).read_bytes() for path, copy in staged.items()}
        self._ask('check')

    def apply(self) -> None:
        self._ask('apply')

    def drain(self) -> None:
        self._ask('drain')

    def prove(self, expect: object) -> None:
        self._ask('prove')


@pytest.fixture
def tree(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setattr(_transaction, 'state_directory', lambda: str(tmp_path / 'state'))
    directory = tmp_path / 'conf'
    directory.mkdir()
    (directory / 'a').write_bytes(b'old a')
    (directory / 'b').write_bytes(b'old b')
    os.chmod(directory / 'b', 0o640)
    (directory / 'link').symlink_to('b')
    return directory


def picture(tree: pathlib.Path) -> dict[str, tuple[bytes, int, int, int]]:
    found = {}
    for path in sorted(tree.iterdir()):
        status = path.lstat()
        found[path.name] = (path.read_bytes(), status.st_mode, status.st_mtime_ns, status.st_ino)
    return found


def stages(tree: pathlib.Path) -> list[Stage]:
    return [
        Stage({str(tree / 'a'): b'middle a', str(tree / 'link'): b'new b'}),
        Stage({str(tree / 'a'): None, str(tree / 'c'): b'new c'}),
    ]


def test_change(tree: pathlib.Path) -> None:
    server = Server()
    with Transaction(str(tree / 'a')) as transaction:
        transaction.change(stages(tree), server)
    assert server.asked == ['check', 'apply', 'prove', 'drain', 'check', 'apply', 'prove']
    assert {path.name: path.read_bytes() for path in tree.iterdir()} == {'b': b'new b', 'c': b'new c', 'link': b'new b'}
    assert (tree / 'link').is_symlink()
    assert stat.S_IMODE((tree / 'b').stat().st_mode) == 0o640


def test_server_sees_the_files_before_they_are_in_place(tree: pathlib.Path) -> None:
    before = picture(tree)

    class Looks(Server):
        def check(self, staged: t.Mapping[str, str | None]) -> None:
            super().check(staged)
            assert {name: value for name, value in picture(tree).items() if name[0] != '.'} == before

    server = Looks()
    with Transaction(str(tree / 'a')) as transaction:
        transaction.change(stages(tree)[:1], server)
    assert server.staged == {str(tree / 'a'): b'middle a', str(tree / 'link'): b'new b'}


@pytest.mark.parametrize('step', ['check', 'apply', 'prove'])
@pytest.mark.parametrize('at_stage', [1, 2])
def test_failure_puts_back_the_very_files(tree: pathlib.Path, step: str, at_stage: int) -> None:
    before = picture(tree)
    server = Server(step, at_stage)
    with Transaction(str(tree / 'a')) as transaction, pytest.raises(Failed, match='%s failed' % step):
        transaction.change(stages(tree), server)
    assert picture(tree) == before
    applied = server.asked.count('apply')
    assert applied == {('check', 1): 0, ('check', 2): 2, ('apply', 1): 2, ('prove', 1): 2}.get((step, at_stage), 3)
    with Transaction(str(tree / 'a')) as transaction:
        assert not transaction.recovered


def test_server_that_takes_neither(tree: pathlib.Path) -> None:
    class Stuck(Server):
        def apply(self) -> None:
            raise Failed('it does not reload')

    with Transaction(str(tree / 'a')) as transaction, pytest.raises(Failed, match='it does not reload; the files are as they were, but'):
        transaction.change(stages(tree)[:1], Stuck())
    assert (tree / 'a').read_bytes() == b'old a'


@pytest.mark.parametrize('last', ['check', 'apply', 'prove', 'drain'])
def test_killed(tree: pathlib.Path, last: str) -> None:
    """A process that ends at once in the middle; the next one puts the files back."""
    before = picture(tree)

    class Killed(Server):
        def _ask(self, step: str) -> None:
            if step == last:
                os._exit(9)

    child = os.fork()
    if not child:
        with Transaction(str(tree / 'a')) as transaction:
            transaction.change(stages(tree), Killed())
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    with Transaction(str(tree / 'a')) as transaction:
        assert transaction.recovered
        assert picture(tree) == before
    with Transaction(str(tree / 'a')) as transaction:
        assert not transaction.recovered


def test_lock(tree: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_transaction, 'LOCK_TIMEOUT', 0)
    with Transaction(str(tree / 'a')), pytest.raises(Failed, match='another run has held'), Transaction(str(tree / 'a')):
        pass
    with Transaction(str(tree / 'a')), Transaction(str(tree / 'b')):
        pass


def test_what_is_no_file_is_refused(tree: pathlib.Path) -> None:
    (tree / 'd').mkdir()
    before = picture(tree / 'd')
    with Transaction(str(tree / 'a')) as transaction, pytest.raises(Failed, match='d: not a regular file'):
        transaction.change([Stage({str(tree / 'd'): b''})], Server())
    assert picture(tree / 'd') == before


def test_backup(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with Transaction(str(tree / 'a'), str(tmp_path / 'backup')) as transaction:
        transaction.change(stages(tree), Server())
        assert transaction.backup is not None
        assert pathlib.Path(transaction.backup + str(tree / 'a')).read_bytes() == b'old a'
        assert stat.S_IMODE(pathlib.Path(transaction.backup + str(tree / 'b')).stat().st_mode) == 0o640


def test_damaged_journal_is_not_thrown_away(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with Transaction(str(tree / 'a')):
        pass
    [lock] = (tmp_path / 'state').glob('*.lock')
    lock.with_suffix('.json').write_text('{')
    with pytest.raises(Failed, match='not a journal'), Transaction(str(tree / 'a')):
        pass
    assert lock.with_suffix('.json').exists()
