# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All of a change or nothing, with real files; the server's side is played here."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import pathlib
import resource
import signal
import stat
import subprocess
import threading
import typing as t

import pytest
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _transaction
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed, RealPaths, Stage, Transaction


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


def test_configurations_with_like_names_have_locks_of_their_own(tree: pathlib.Path) -> None:
    """So have those with long names: the name of a file has 255 bytes at most."""
    first, second = tree / 'x' / 'main', tree / 'x-main'
    deep = tree / ('d' * 200) / ('e' * 200)
    for path in (first, second, deep / 'main'):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'old')
    child = os.fork()
    if not child:
        with Transaction(str(first)) as transaction:
            transaction.change([Stage({str(first): b'new'})], KilledAtTheEnd('apply', 1))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    for path, recovered in ((second, False), (deep / 'main', False), (first, True)):
        with Transaction(str(path)) as transaction:
            assert transaction.recovered is recovered


def test_relative_backup_directory(tree: pathlib.Path) -> None:
    with pytest.raises(Failed, match='backup_dir: "backup" is no absolute path'):
        Transaction(str(tree / 'a'), 'backup')


@pytest.mark.parametrize('text', ['', '[]', 'null', '{}', '{"targets": [], "existed": [], "written": []}'])
def test_journal_that_is_none(tree: pathlib.Path, text: str) -> None:
    with Transaction(str(tree / 'a')):
        pass
    [lock] = (tree.parent / 'state').iterdir()
    lock.with_suffix('.json').write_text(text)
    with pytest.raises(Failed, match='not a journal'), Transaction(str(tree / 'a')):
        pass
    assert lock.with_suffix('.json').read_text() == text


def test_failed_reload_after_putting_back_is_not_forgotten(tree: pathlib.Path) -> None:
    """Killed between putting back and the reload that follows, the next run has to reload."""
    before = picture(tree)

    class Killed(Server):
        def apply(self) -> None:
            super().apply()
            if self.asked.count('apply') == 2:
                os._exit(9)

    child = os.fork()
    if not child:
        with Transaction(str(tree / 'a')) as transaction:
            transaction.change(stages(tree)[:1], Killed('prove'))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    for refused in (True, False):
        with contextlib.suppress(Failed), Transaction(str(tree / 'a')) as transaction:
            assert transaction.recovered
            if refused:
                raise Failed('a wrong option')
        assert picture(tree) == before
    with Transaction(str(tree / 'a')) as transaction:
        assert not transaction.recovered


def test_real_paths(tree: pathlib.Path) -> None:
    (tree.parent / 'linked').symlink_to('conf')
    (tree / 'loose').symlink_to('../nowhere/x')
    real = RealPaths()
    for directory in ('conf', 'linked', 'conf/../linked'):
        for name in ('a', 'link', 'loose', 'missing', ''):
            path = os.path.join(tree.parent, directory, name)
            assert real[path] == real[path] == os.path.realpath(path)


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


def with_way_back(tree: pathlib.Path) -> list[Stage]:
    """The stages, the last of which is not to be taken away at once; the way back leads over files that the change leaves alone."""
    first, second = stages(tree)
    way: list[dict[str, bytes | None]] = [
        {str(tree / 'a'): b'half a', str(tree / 'c'): None, str(tree / 'd'): b'half d'},
        {str(tree / 'a'): b'old a', str(tree / 'd'): None},
    ]
    return [first, second._replace(way_back=lambda: way)]


def test_way_back(tree: pathlib.Path) -> None:
    (tree / 'd').write_bytes(b'old d')
    before = picture(tree)
    served = []

    class Looks(Server):
        def apply(self) -> None:
            super().apply()
            served.append({path.name: path.read_bytes() for path in tree.iterdir() if not path.name.startswith('.')})

    server = Looks('prove', 2)
    with Transaction(str(tree / 'a')) as transaction, pytest.raises(Failed, match='^prove failed$'):
        transaction.change(with_way_back(tree), server)
    assert server.asked[:7] == ['check', 'apply', 'prove', 'drain', 'check', 'apply', 'prove']
    assert server.asked[7:] == ['check', 'apply', 'drain', 'check', 'apply', 'drain', 'apply']
    b = {'b': b'new b', 'link': b'new b'}
    assert served == [
        {'a': b'middle a', 'd': b'old d', **b},
        {'c': b'new c', 'd': b'old d', **b},
        {'a': b'half a', 'd': b'half d', **b},
        {'a': b'old a', **b},
        {'a': b'old a', 'd': b'old d', 'b': b'old b', 'link': b'old b'},
    ]
    assert picture(tree) == before


@pytest.mark.parametrize('number', range(1, 7))
def test_no_way_back_from_what_was_not_loaded(tree: pathlib.Path, number: int) -> None:
    before = picture(tree)
    forward = ['check', 'apply', 'prove', 'drain', 'check', 'apply'][:number]
    server = Server(forward[-1], forward.count(forward[-1]))
    with Transaction(str(tree / 'a')) as transaction, pytest.raises(Failed, match='%s failed' % forward[-1]):
        transaction.change(with_way_back(tree), server)
    assert server.asked == forward + ['apply'] * (number > 1)
    assert picture(tree) == before


@pytest.mark.parametrize('fails', ['check', 'apply', 'drain', 'way'])
@pytest.mark.parametrize('times', [1, 2])
def test_way_back_that_can_not_be_gone(tree: pathlib.Path, fails: str, times: int) -> None:
    """Then everything is put back at once; what went wrong first is told, and that connections may have failed."""
    before = picture(tree)

    class Unproven(Server):
        def prove(self, expect: object) -> None:
            super().prove(expect)
            if self.asked.count('prove') == 2:
                self._fails, self._at_stage = fails, self.asked.count(fails) + times
                raise Failed('not proven')

    def nowhere() -> list[dict[str, bytes | None]]:
        raise IndexError('way failed')

    changed = with_way_back(tree)
    if fails == 'way':
        changed[-1] = changed[-1]._replace(way_back=nowhere)
    server = Unproven()
    message = '^not proven; what was loaded was taken away at once, so that connections may have failed, since: %s failed$' % fails
    with Transaction(str(tree / 'a')) as transaction, pytest.raises(Failed, match=message):
        transaction.change(changed, server)
    assert server.asked[-1] == 'apply' and picture(tree) == before
    with Transaction(str(tree / 'a')) as transaction:
        assert not transaction.recovered


@pytest.mark.parametrize('at', [[('prove', 2)], [('drain', 2)], [('drain', 3)], [('check', 4)], [('prove', 2), ('drain', 2), ('drain', 3)]])
def test_edit_during_the_change_is_kept(tree: pathlib.Path, at: list[tuple[str, int]]) -> None:
    """Beside the file, which is put back: hidden, since an include may name every file of the directory."""
    before = picture(tree)
    edited: list[bytes] = []

    class Edited(Server):
        def _ask(self, step: str) -> None:
            self.asked.append(step)
            if (step, self.asked.count(step)) in at:
                edited.append(b'edited %d' % len(edited))
                (tree / 'new').write_bytes(edited[-1])
                (tree / 'new').rename(tree / 'a')
            if step == 'prove' and self.asked.count(step) == 2:
                raise Failed('not proven')

    with Transaction(str(tree / 'a')) as transaction, pytest.raises(Failed, match='^not proven') as failure:
        transaction.change(with_way_back(tree), Edited())
    kept = [tree / ('.a.seamless-edited-%d' % number) for number in range(1, len(at) + 1)]
    assert str(failure.value).split('; ')[1:] == ['somebody has edited %s meanwhile, which is in %s now' % (tree / 'a', path) for path in kept]
    assert [path.read_bytes() for path in kept] == edited
    for path in kept:
        path.unlink()
    assert picture(tree) == before


def test_edit_of_a_file_that_the_change_made_is_kept(tree: pathlib.Path) -> None:
    class Edited(Server):
        def prove(self, expect: object) -> None:
            super().prove(expect)
            if (tree / 'c').exists():
                (tree / 'c').write_bytes(b'edited')
                raise Failed('not proven')

    with Transaction(str(tree / 'a')) as transaction, pytest.raises(Failed, match='somebody has edited %s meanwhile' % (tree / 'c')):
        transaction.change(stages(tree), Edited())
    assert (tree / '.c.seamless-edited-1').read_bytes() == b'edited' and not (tree / 'c').exists()


def test_what_was_edited_since_it_was_read_is_not_written_over(tree: pathlib.Path) -> None:
    before = picture(tree)
    with Transaction(str(tree / 'a')) as transaction, pytest.raises(Failed, match='^%s: somebody has written to it meanwhile; run this again$' % (tree / 'b')):
        transaction.change(stages(tree), Server(), {str(tree / 'a'): b'old a', str(tree / 'link'): b'older b'})
    assert picture(tree) == before


@pytest.mark.parametrize('when', ['check', 'drain'])
def test_what_is_edited_before_its_turn_is_not_written_over(tree: pathlib.Path, when: str) -> None:
    """While the server checks the first stage, and while it drains before the second."""

    class Edited(Server):
        def _ask(self, step: str) -> None:
            super()._ask(step)
            if step == when and (tree / 'a').exists():
                (tree / 'a').write_bytes(b'edited')

    with Transaction(str(tree / 'a')) as transaction, pytest.raises(Failed, match='^%s: somebody has written to it meanwhile; run this again' % (tree / 'a')):
        transaction.change(stages(tree), Edited())
    kept = tree / ('a' if when == 'check' else '.a.seamless-edited-1')
    assert kept.read_bytes() == b'edited'
    assert (tree / 'b').read_bytes() == b'old b' and not (tree / 'c').exists()


def test_signals_reach_what_is_started_while_files_are_put_back(tree: pathlib.Path) -> None:
    """HAProxy without a master is; it would never end by SIGTERM again (execve(2) keeps what is ignored)."""
    ignored = []

    class Starts(Server):
        def apply(self) -> None:
            super().apply()
            text = subprocess.run(['grep', 'SigIgn', '/proc/self/status'], capture_output=True, text=True, check=True).stdout
            ignored.append(int(text.split()[1], 16))

    with Transaction(str(tree / 'a')) as transaction, pytest.raises(Failed):
        transaction.change(stages(tree), Starts('prove', 2))
    assert len(ignored) == 3 and ignored[0] == ignored[-1]


def test_server_that_takes_neither(tree: pathlib.Path) -> None:
    class Stuck(Server):
        def apply(self) -> None:
            raise Failed('it does not reload')

    with pytest.raises(Failed, match='it does not reload; the files are as they were, but'), Transaction(str(tree / 'a')) as transaction:
        transaction.change(stages(tree)[:1], Stuck())
    assert (tree / 'a').read_bytes() == b'old a'
    with Transaction(str(tree / 'a')) as transaction:
        assert transaction.recovered  # it has to be reloaded


def test_reason_is_told_where_the_journal_can_not_be_ended(tree: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(self: Transaction) -> None:
        raise OSError(errno.EIO, 'Input/output error')

    monkeypatch.setattr(Transaction, '_end', end)
    with pytest.raises(Failed, match='^prove failed; /.*: Input/output error$'), contextlib.suppress(OSError), Transaction(str(tree / 'a')) as transaction:
        transaction.change(stages(tree), Server('prove'))


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


class KilledAtTheEnd(Server):
    """Ends the process when all files are in place, before the server is told or after it was."""

    def _ask(self, step: str) -> None:
        self.asked.append(step)
        if step == self._fails and self.asked.count(step) == self._at_stage:
            os._exit(9)


@pytest.fixture(params=['apply', 'prove'])
def complete(request: pytest.FixtureRequest, tree: pathlib.Path) -> pathlib.Path:
    """The tree as a killed run left it that had all files in place."""
    child = os.fork()
    if not child:
        with Transaction(str(tree / 'a')) as transaction:
            transaction.change(stages(tree), KilledAtTheEnd(request.param, 2))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert {name: value[0] for name, value in visible(tree).items()} == {'b': b'new b', 'c': b'new c', 'link': b'new b'}
    return tree


ANY_END = [
    Stage({}),
    Stage({'a': b'old a', 'link': b'old b', 'c': None}),
    Stage({'a': b'other', 'd': b'new d'}),
]


def at(tree: pathlib.Path, stage: Stage) -> Stage:
    return Stage({str(tree / name): content for name, content in stage.files.items()})


@pytest.mark.parametrize('stage', ANY_END)
def test_next_run_goes_on_from_what_is_in_place(complete: pathlib.Path, stage: Stage) -> None:
    tree = complete
    wanted = {'b': b'new b', 'c': b'new c', 'link': b'new b', **stage.files}
    if 'link' in stage.files:
        wanted['b'] = wanted['link']
    server = Server()
    with Transaction(str(tree / 'a')) as transaction:
        assert transaction.recovered
        transaction.change([at(tree, stage)], server)
    assert server.asked == ['check', 'apply', 'prove']
    assert {path.name: path.read_bytes() for path in tree.iterdir()} == {name: content for name, content in wanted.items() if content is not None}
    with Transaction(str(tree / 'a')) as transaction:
        assert not transaction.recovered


@pytest.mark.parametrize('fails', ['check', 'prove'])
@pytest.mark.parametrize('stage', ANY_END)
def test_next_run_that_fails_leaves_what_is_in_place(complete: pathlib.Path, stage: Stage, fails: str) -> None:
    tree = complete
    before = visible(tree)
    with pytest.raises(Failed), Transaction(str(tree / 'a')) as transaction:
        transaction.change([at(tree, stage)], Server(fails))
    assert picture(tree) == before
    with Transaction(str(tree / 'a')) as transaction:
        assert not transaction.recovered


def test_next_run_that_is_refused_leaves_all_to_the_one_after_it(complete: pathlib.Path) -> None:
    tree = complete
    before = picture(tree)
    for dummy2 in range(2):
        with pytest.raises(Failed, match='a wrong option'), Transaction(str(tree / 'a')) as transaction:
            assert transaction.recovered
            raise Failed('a wrong option')
        assert picture(tree) == before


def test_what_was_edited_since_stays(complete: pathlib.Path) -> None:
    tree = complete
    (tree / 'c').write_bytes(b'edited')
    with Transaction(str(tree / 'a')) as transaction:
        assert transaction.recovered
        transaction.change([Stage({})], Server())
    assert {path.name: path.read_bytes() for path in tree.iterdir()} == {'b': b'new b', 'c': b'edited', 'link': b'new b'}


def test_edit_of_what_was_half_done_is_not_lost(tree: pathlib.Path) -> None:
    """Putting back would throw it away, and going on from there is not possible: a person has to look."""

    def act() -> None:
        with Transaction(str(tree / 'a')) as transaction:
            transaction.change(stages(tree), Server())

    refused = 0
    for number in itertools.count(1):
        for name, content in {'a': b'old a', 'b': b'old b'}.items():
            (tree / name).write_bytes(content)
        (tree / 'c').unlink(missing_ok=True)
        if not killed_at(number, act):
            break
        with open(tree / 'b', 'ab') as stream:
            stream.write(b', edited')
        edited = (tree / 'b').read_bytes()
        try:
            with Transaction(str(tree / 'a')) as transaction:
                transaction.change([Stage({})], Server())
        except Failed as error:
            assert str(error).startswith('%s (before the run: %s): edited since' % (tree / 'b', tree / '.b.seamless-old'))
            journal = str(error).rpartition(' ')[2]
            assert (tree / '.b.seamless-old').read_bytes() == b'old b'
            os.unlink(journal)
            refused += 1
        assert (tree / 'b').read_bytes() == edited
    assert refused


def killed_at(number: int, act: t.Callable[[], None]) -> bool:
    """Do something in a process that is killed before its ``number``-th rename, link or unlink; give whether it was."""
    child = os.fork()
    if not child:
        counter = itertools.count(1)

        def counted(call: t.Callable[..., None]) -> t.Callable[..., None]:
            def one(*arguments: str) -> None:
                if next(counter) == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                call(*arguments)

            return one

        for name in ('rename', 'link', 'unlink'):
            setattr(os, name, counted(getattr(os, name)))
        act()
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


def visible(tree: pathlib.Path) -> dict[str, tuple[bytes, int, int, int]]:
    return {name: value for name, value in picture(tree).items() if not name.startswith('.')}


@pytest.mark.parametrize('fails', ['', 'prove'])
def test_killed_between_any_two_changes_of_a_directory(tree: pathlib.Path, fails: str) -> None:
    """Also when the run that puts things right is killed in turn: all of the old files or all of the new, and nothing is left beside them.

    And while a front goes that was not proven.
    """

    def act() -> None:
        with contextlib.suppress(Failed), Transaction(str(tree / 'a')) as transaction:
            transaction.change(with_way_back(tree), Server(fails, 2))

    def recover() -> None:
        with Transaction(str(tree / 'a')) as transaction:
            transaction.change([Stage({})], Server())

    recovered = kept = 0
    killed = True
    for number in itertools.count(1):
        for name, content in {'a': b'old a', 'b': b'old b'}.items():
            (tree / name).write_bytes(content)
        (tree / 'c').unlink(missing_ok=True)
        before = picture(tree)
        killed = killed_at(number, act)
        if not killed:
            break
        second = 1
        while killed_at(second, recover):
            second += 1
        with Transaction(str(tree / 'a')) as transaction:
            assert not transaction.interrupted
        if visible(tree) == before:
            assert picture(tree) == before
            recovered += second > 1
        else:
            assert {path.name: path.read_bytes() for path in tree.iterdir()} == {'b': b'new b', 'c': b'new c', 'link': b'new b'}
            kept += 1
    assert recovered > 5 and kept > (1 if fails else 2)


def test_nothing_is_left_when_a_run_goes_on(tree: pathlib.Path) -> None:
    """A file that both stages want alike is in place before the second one renames it."""
    alike = [*stages(tree)[:1], Stage({str(tree / 'a'): None, str(tree / 'link'): b'new b'})]

    def act() -> None:
        with Transaction(str(tree / 'a')) as transaction:
            transaction.change(alike, Server())

    went_on = 0
    for number in itertools.count(1):
        for name, content in {'a': b'old a', 'b': b'old b'}.items():
            (tree / name).write_bytes(content)
        killed = killed_at(number, act)
        with Transaction(str(tree / 'a')) as transaction:
            transaction.change([Stage({})], Server())
            went_on += transaction.recovered and not (tree / 'a').exists()
        assert {path.name for path in tree.iterdir()} in ({'a', 'b', 'link'}, {'b', 'link'})
        if not killed:
            break
    assert went_on > 1


def test_file_that_an_earlier_stage_made_is_taken_away(tree: pathlib.Path) -> None:
    before = picture(tree)
    twice = [Stage({str(tree / 'c'): b'first'}), Stage({str(tree / 'c'): b'second'})]
    with Transaction(str(tree / 'a')) as transaction, pytest.raises(Failed, match='prove failed'):
        transaction.change(twice, Server('prove', 2))
    assert picture(tree) == before


def test_original_that_a_killed_run_kept_is_not_taken_for_ours(tree: pathlib.Path) -> None:
    before = picture(tree)
    (tree / '.a.seamless-old').write_bytes(b'from long ago')
    with Transaction(str(tree / 'a')) as transaction, pytest.raises(Failed, match='prove failed'):
        transaction.change(stages(tree), Server('prove'))
    assert picture(tree) == before


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize('last', ['check', 'apply', 'prove', 'drain'])
def test_signal_puts_everything_back(tree: pathlib.Path, number: signal.Signals, last: str) -> None:
    before = picture(tree)

    def mine(*dummy: object) -> None:
        pass

    class Interrupted(Server):
        def _ask(self, step: str) -> None:
            if step == last:
                os.kill(os.getpid(), number)

    handler = signal.signal(number, mine)
    try:
        with Transaction(str(tree / 'a')) as transaction, pytest.raises(Failed, match='interrupted by %s' % number.name):
            transaction.change(stages(tree), Interrupted())
        assert signal.getsignal(number) is mine
    finally:
        signal.signal(number, handler)
    assert picture(tree) == before


def test_signal_while_putting_back_is_too_late(tree: pathlib.Path) -> None:
    before = picture(tree)

    class Impatient(Server):
        def apply(self) -> None:
            if 'apply' in self.asked:
                os.kill(os.getpid(), signal.SIGTERM)
            super().apply()

    server = Impatient('prove')
    with Transaction(str(tree / 'a')) as transaction, pytest.raises(Failed, match='prove failed'):
        transaction.change(stages(tree), server)
    assert server.asked == ['check', 'apply', 'prove', 'apply']
    assert picture(tree) == before


@contextlib.contextmanager
def no_file_larger_than(size: int) -> t.Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(('limit', 'message'), [(16, 'nothing was changed'), (8192, 'can not be written: File too large')])
def test_no_space(tree: pathlib.Path, limit: int, message: str) -> None:
    before = picture(tree)
    server = Server()
    with Transaction(str(tree / 'a')) as transaction, pytest.raises(Failed, match=message), no_file_larger_than(limit):
        transaction.change([Stage({str(tree / 'a'): b'', str(tree / 'b'): b'x' * 10000})], server)
    assert picture(tree) == before and server.asked == []
    with Transaction(str(tree / 'a')) as transaction:
        assert not transaction.recovered
        transaction.change(stages(tree), Server())


def test_no_space_for_the_backup(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tree / 'a').write_bytes(b'x' * 10000)
    before = picture(tree)
    transaction = Transaction(str(tree / 'a'), str(tmp_path / 'backup'))
    with transaction, pytest.raises(Failed, match='backup can not be written'), no_file_larger_than(8192):
        transaction.change(stages(tree), Server())
    assert picture(tree) == before


def test_directory_that_is_not_there(tree: pathlib.Path) -> None:
    before = picture(tree)
    with Transaction(str(tree / 'a')) as transaction, pytest.raises(Failed, match='gone/c'):
        transaction.change([Stage({str(tree / 'a'): b'', str(tree / 'gone' / 'c'): b''})], Server())
    assert picture(tree) == before


@pytest.mark.skipif(os.geteuid() != 0, reason='only root may give files away')
def test_owner_stays(tree: pathlib.Path) -> None:
    os.chown(tree / 'b', 1234, 4321)
    with Transaction(str(tree / 'a')) as transaction:
        transaction.change(stages(tree)[:1], Server())
    status = (tree / 'b').stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 4321, 0o640)


def test_second_run_waits_for_the_first(tree: pathlib.Path) -> None:
    order: list[str] = []

    def second() -> None:
        with Transaction(str(tree / 'link')), Transaction(str(tree / 'a')):
            order.append('second')

    with Transaction(str(tree / 'a')) as transaction:
        thread = threading.Thread(target=second)
        thread.start()
        transaction.change(stages(tree), Server())
        order.append('first')
    thread.join()
    assert order == ['first', 'second']


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
