"""What goes wrong: the sites go on, the files are as they were, and the next run converges."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess

import harness
import pytest
from nginx_site import NginxSite
from servers import as_before


def test_broken_before(site: NginxSite) -> None:
    site.write('broken', 'server { listen 80; nonsense; }\n')
    before = site.picture()
    assert 'unknown directive "nonsense"' in site.run().message
    as_before(site, before)


def test_refused_before_anything_is_written(site: NginxSite) -> None:
    before = site.picture()
    assert 'port' in site.run(acme_port=site.backend).message
    as_before(site, before)


def test_backend_port_taken(site: NginxSite) -> None:
    before = site.picture()
    with socket.create_server(('127.0.0.1', site.backend)):
        assert str(site.backend) in site.run().message
    as_before(site, before)
    assert site.run().changed


def test_reload_not_applied(site: NginxSite) -> None:
    """`nginx -t` and the reload both succeed; nginx keeps the old configuration, since an address of a new one is taken."""
    other = harness.free_ports(1)[0]
    with socket.create_server(('127.0.0.1', other)):
        site.write('other', 'server { listen 127.0.0.1:%d; return 204; }\n' % other)
        before = site.picture()
        with harness.Traffic(site.port, ['a.example', 'b.example'], site.root):
            message = site.run().message
        assert 'Address already in use' in message or 'still could not bind' in message
        as_before(site, before)
    assert site.run().changed
    assert harness.get(site.port, 'a.example', source='127.0.0.9').body == 'a.example 127.0.0.9\n'


def test_copy_of_a_file_that_was_moved(site: NginxSite) -> None:
    """`sed -i` makes one of a link: without the front nobody would listen to that site any more."""
    before = site.picture()
    assert site.run().changed
    link = site.conf / 'sites-enabled' / 'b.example'
    subprocess.run(['sed', '-i', '$a # edited', str(link)], check=True)
    assert not link.is_symlink()
    with_front = site.picture()
    for state in ('present', 'absent'):
        for check in (True, False):
            assert '%s:2: the front hands over to "127.0.0.1:%d"' % (link, site.backend) in site.run(check=check, state=state).message
    as_before(site, with_front)
    link.unlink()
    link.symlink_to('../sites-available/b.example')
    assert site.run(state='absent').changed
    assert site.picture().bytes == before.bytes


@harness.needs_root
def test_directory_that_can_not_be_written(site: NginxSite) -> None:
    before = site.picture()
    directory = site.conf / 'sites-available'
    subprocess.run(['mount', '--bind', str(directory), str(directory)], check=True)
    try:
        subprocess.run(['mount', '-o', 'remount,ro,bind', str(directory)], check=True)
        assert 'Read-only' in site.run().message
        as_before(site, before)
        assert site.run(check=True).changed  # there is no journal to put right first
    finally:
        subprocess.run(['umount', str(directory)], check=True)
    assert site.run().changed


def test_killed_while_nginx_checks(site: NginxSite) -> None:
    """Before `nginx -t` (`nginx -V` comes first), when what it is given lies beside the files: taken away, whatever is run next."""
    include = 'include %s/sites-enabled/*;' % site.conf
    (site.conf / 'mid').mkdir()
    (site.conf / 'mid' / 'mid.conf').write_text(include)
    text = site.main.read_text()
    assert include in text
    site.main.write_text(text.replace(include, 'include mid/*.conf;'))
    before = site.picture()
    assert site.run(environment={'FAULT': 'kill@2:run'}).code == -signal.SIGKILL
    assert list(site.conf.glob('.*.seamless-view')) and list(site.conf.glob('mid/.*.seamless-view'))
    site.run(state='absent')
    as_before(site, before)


@harness.needs_root
def test_disk_full(site: NginxSite) -> None:
    directory = site.conf / 'sites-available'
    text = {path.name: path.read_bytes() for path in directory.iterdir()}
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=512k', 'tmpfs', str(directory)], check=True)
    try:
        for name, content in text.items():
            (directory / name).write_bytes(content)
        with contextlib.suppress(OSError), open(directory / 'filler', 'wb', buffering=0) as filler:
            while True:
                filler.write(b'x' * 4096)
        before = site.picture()
        assert 'No space left' in site.run().message
        as_before(site, before)
        (directory / 'filler').unlink()
        assert site.run().changed
        assert site.run(state='absent').changed
        assert {path.name: path.read_bytes() for path in directory.iterdir()} == text
    finally:
        site.stop()
        subprocess.run(['umount', str(directory)], check=True)


@pytest.mark.parametrize('state', ['present', 'absent'])
def test_killed_between_renames(site: NginxSite, state: str) -> None:
    """SIGKILL before each rename: the sites serve throughout, and the next run puts things right."""
    original = site.picture()
    if state == 'absent':
        assert site.run().changed
    with harness.Traffic(site.port, ['a.example', 'b.example'], site.root):
        for number in range(1, 30):
            killed = site.run(environment={'FAULT': 'kill@%d:rename' % number}, state=state)
            if killed.code != -signal.SIGKILL:
                break
        else:
            pytest.fail('it never came to its end')
        assert number > 4
        assert not site.run(state=state).changed
    if state == 'present':
        assert harness.get(site.port, 'b.example', source='127.0.0.9').body == 'b.example 127.0.0.9\n'
        assert site.run(state='absent').changed
    assert site.picture().bytes == original.bytes


def test_terminated(site: NginxSite, tmp_path: pathlib.Path) -> None:
    """SIGTERM in the middle puts everything back at once."""
    before = site.picture()
    go_on = tmp_path / 'go-on'
    process = harness.start_module('nginx_alpn_stream', site.arguments(), site.root, FAULT='stop@3:rename', GO_ON=str(go_on))
    harness.wait_for((tmp_path / 'go-on.waiting').exists, 'the module did not come to its third rename')
    os.kill(process.pid, signal.SIGTERM)
    assert 'SIGTERM' in harness.end_module(process).message
    as_before(site, before)
    assert site.run().changed


def test_terminated_while_what_nginx_checked_is_taken_away(site: NginxSite, tmp_path: pathlib.Path) -> None:
    before = site.picture()
    go_on = tmp_path / 'go-on'
    process = harness.start_module('nginx_alpn_stream', site.arguments(), site.root, FAULT='stop@2:unlink', GO_ON=str(go_on))
    harness.wait_for((tmp_path / 'go-on.waiting').exists, 'the module did not come to its second unlink')
    assert (site.conf / '.nginx.conf.seamless-view').exists()
    os.kill(process.pid, signal.SIGTERM)
    assert 'SIGTERM' in harness.end_module(process).message
    as_before(site, before)


def test_two_at_once(site: NginxSite, tmp_path: pathlib.Path) -> None:
    """The second waits for the first and finds nothing to do."""
    go_on = tmp_path / 'go-on'
    first = harness.start_module('nginx_alpn_stream', site.arguments(), site.root, FAULT='stop@3:rename', GO_ON=str(go_on))
    harness.wait_for((tmp_path / 'go-on.waiting').exists, 'the first run did not come to its third rename')
    second = harness.start_module('nginx_alpn_stream', site.arguments(), site.root)
    go_on.touch()
    assert harness.end_module(first).changed
    assert not harness.end_module(second).changed


def test_reload_of_somebody_else_is_under_way(site: NginxSite) -> None:
    """A master that has not taken an earlier SIGHUP yet: its workers are not taken for ours."""
    os.kill(site.master, signal.SIGSTOP)
    os.kill(site.master, signal.SIGHUP)
    process = harness.start_module('nginx_alpn_stream', site.arguments(), site.root)
    harness.wait_for(lambda: 'seamless-tls-alpn.conf' in site.main.read_text(), 'the module did not change the files')
    os.kill(site.master, signal.SIGCONT)
    assert harness.end_module(process).changed
    assert harness.get(site.port, 'a.example', source='127.0.0.9').body == 'a.example 127.0.0.9\n'


def test_backup(site: NginxSite) -> None:
    text = site.main.read_bytes()
    backup = site.run(backup_dir=str(site.root / 'backup')).value['backup']
    assert pathlib.Path(backup + str(site.main)).read_bytes() == text


def test_backup_where_an_include_looks(site: NginxSite) -> None:
    before = site.picture()
    assert 'sites-enabled' in site.run(backup_dir=str(site.conf / 'sites-enabled')).message
    as_before(site, before)


def test_reload_by_systemd_that_can_not_be(site: NginxSite) -> None:
    before = site.picture()
    assert 'not the main process of a systemd unit' in site.run(reload='systemd').message
    as_before(site, before)


def test_check_after_a_kill_says_so(site: NginxSite) -> None:
    assert site.run(environment={'FAULT': 'kill@3:rename'}).code == -signal.SIGKILL
    assert 'a run was killed here' in site.run(check=True).message
    assert site.run().changed
    assert not site.run(check=True).changed
