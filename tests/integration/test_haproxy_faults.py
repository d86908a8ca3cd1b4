"""What goes wrong with HAProxy: the sites go on, the files are as they were, and the next run converges."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import typing as t

import harness
import pytest
from haproxy_site import BINARY, HaproxySite
from servers import as_before, site_of

pytestmark = pytest.mark.skipif(not os.path.exists(BINARY), reason='HAProxy is not installed')


@pytest.fixture
def stopped() -> t.Iterator[HaproxySite]:
    """A private HAProxy that is not started yet."""
    with site_of('haproxy_alpn_frontend') as one:
        yield one


@pytest.fixture
def site(stopped: HaproxySite) -> HaproxySite:
    """A private HAProxy that serves."""
    stopped.start()
    return stopped


def test_broken_before(site: HaproxySite) -> None:
    with open(site.main, 'a', encoding='ascii') as stream:
        stream.write('nonsense here\n')
    before = site.picture()
    for check in (True, False):
        assert "unknown keyword 'nonsense'" in site.run(check=check).message
    as_before(site, before)


def test_broken_behind_the_front(site: HaproxySite) -> None:
    assert site.run().changed
    site.main.write_text(site.main.read_text().replace('\tdefault_backend a\n', '\tdefault_backend a\n\tnonsense here\n', 1))
    before = site.picture()
    for state in ('present', 'absent'):
        for check in (True, False):
            message = site.run(check=check, state=state).message
            assert '[%s:' % site.main in message and "unknown keyword 'nonsense'" in message
    as_before(site, before)


def test_refused_by_haproxy(site: HaproxySite) -> None:
    """What only HAProxy knows; it speaks of the file by its own name."""
    before = site.picture()
    message = site.run(inspect_delay='99999999d').message
    assert 'overflow' in message
    assert '[%s:' % site.main in message
    as_before(site, before)


def test_address_taken(site: HaproxySite) -> None:
    """`haproxy -c` says nothing about it, and the reload would make the old workers stop listening for two seconds: refused before."""
    other = harness.free_ports(1)[0]
    with socket.create_server(('127.0.0.1', other)):
        with open(site.main, 'a', encoding='ascii') as stream:
            stream.write('\nfrontend other\n\tbind 127.0.0.1:%d\n\tdefault_backend a\n' % other)
        before = site.picture()
        with harness.Traffic(site.port, ['a.example', 'b.example'], site.root):
            message = site.run().message
        assert '127.0.0.1:%d is in use by' % other in message
        assert '%s:' % site.main in message
        as_before(site, before)
    assert site.run().changed
    assert harness.get(site.port, 'a.example', source='127.0.0.9').body == 'a 127.0.0.9 %d' % site.port


def test_reload_not_applied(site: HaproxySite) -> None:
    """What no check sees: the address is in a branch that is taken. The master keeps the old workers, and the files are put back."""
    other = harness.free_ports(1)[0]
    with socket.create_server(('127.0.0.1', other)):
        with open(site.main, 'a', encoding='ascii') as stream:
            stream.write('\nfrontend other\n.if 1\n\tbind 127.0.0.1:%d\n.endif\n\tdefault_backend a\n' % other)
        before = site.picture()
        assert 'HAProxy did not take the new configuration and kept the old one' in site.run().message
        harness.wait_for(lambda: site.answers('a.example'), 'the old workers do not serve')
        as_before(site, before)
    assert site.run().changed
    assert harness.get(site.port, 'a.example', source='127.0.0.9').body == 'a 127.0.0.9 %d' % site.port


def test_backend_port_taken(site: HaproxySite) -> None:
    before = site.picture()
    with socket.create_server(('127.0.0.1', site.backend)):
        message = site.run(handoff='plain').message
    assert '127.0.0.1:%d is in use by' % site.backend in message
    assert '(process %d)' % os.getpid() in message
    as_before(site, before)
    assert site.run(handoff='plain').changed


def test_abstract_name_taken(site: HaproxySite) -> None:
    before = site.picture()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(('\0seamless-%s' % site.frontend).ljust(108, '\0'))  # as another HAProxy would
        other.listen()
        assert 'abns@seamless-%s is in use by ' % site.frontend in site.run().message
    as_before(site, before)
    assert site.run().changed


def test_no_unit(site: HaproxySite) -> None:
    before = site.picture()
    assert 'not the main process of a systemd unit' in site.run(reload='systemd').message
    assert site.picture() == before
    assert site.answers('a.example')


@harness.needs_root
def test_directory_that_can_not_be_written(site: HaproxySite) -> None:
    before = site.picture()
    subprocess.run(['mount', '--bind', str(site.conf), str(site.conf)], check=True)
    try:
        subprocess.run(['mount', '-o', 'remount,ro,bind', str(site.conf)], check=True)
        assert 'Read-only' in site.run().message
        as_before(site, before)
        assert site.run(check=True).changed  # there is no journal to put right first
    finally:
        subprocess.run(['umount', str(site.conf)], check=True)
    assert site.run().changed


def spread(site: HaproxySite) -> list[pathlib.Path]:
    """Spread the configuration over three files, all of which a front changes."""
    text = site.main.read_text()
    defaults, www, c = text.index('defaults'), text.index('frontend www'), text.index('listen c')
    parts = [text[:www], text[www:c], text[c:]]
    assert defaults < www
    files = [site.conf / ('%d.cfg' % number) for number in range(3)]
    for file, part in zip(files, parts):
        file.write_text(part)
    site.main.unlink()
    site.main = files[0]
    return files


@pytest.mark.parametrize('state', ['present', 'absent'])
def test_killed_at_each_rename(stopped: HaproxySite, state: str) -> None:
    """SIGKILL before each of the renames (the journal's two, and each file's in each stage); the next run puts it right, and the site serves throughout."""
    files = spread(stopped)
    stopped.start(*[word for file in files for word in ('-f', str(file))])
    back = 'absent' if state == 'present' else 'present'
    if back == 'present':
        assert stopped.run().changed
    before = stopped.picture().bytes
    with harness.Traffic(stopped.port, ['a.example', 'b.example'], stopped.root):
        for number in range(1, 20):
            killed = stopped.run(state=state, environment={'FAULT': 'kill@%d:rename' % number})
            if killed.code == 0:
                break
            assert killed.code == -signal.SIGKILL
            stopped.run(state=back)
            assert stopped.picture().bytes == before
    assert number == (6 if state == 'present' else 9)  # one more than there are renames


def test_two_at_once(site: HaproxySite) -> None:
    runs = [harness.start_module('haproxy_alpn_frontend', site.arguments(), site.root, **site.environment()) for dummy in range(2)]
    assert sorted(harness.end_module(run).changed for run in runs) == [False, True]
    assert not site.run().changed


def test_foreground_without_master(stopped: HaproxySite) -> None:
    """Nothing can reload it without ending it: refused, and the files are put back."""
    stopped.start(mode=['-db'])
    before = stopped.picture()
    assert 'runs in the foreground without a master' in stopped.run().message
    as_before(stopped, before)
    assert stopped.run(reload='none').changed


def test_daemon_without_master(stopped: HaproxySite) -> None:
    """The old way: a successor takes over with -sf, from the same command line, listeners handed on through the stats socket."""
    pids = stopped.root / 'pid'
    try:
        text = stopped.main.read_text()
        stopped.main.write_text(text.replace('global\n', 'global\n\tstats socket %s/stats mode 600 level admin expose-fd listeners\n' % stopped.root, 1))
        before = stopped.picture()
        stopped.start('-f', str(stopped.main), '-p', str(pids), mode=['-D'])
        with harness.Traffic(stopped.port, ['a.example', 'b.example'], stopped.root):
            first = pids.read_text()
            assert stopped.run().changed
            assert pids.read_text() != first
            assert not stopped.run().changed
            assert stopped.run(state='absent').changed
        assert stopped.picture().bytes == before.bytes
        assert stopped.answers('a.example')
    finally:
        os.kill(int(pids.read_text()), signal.SIGTERM)
