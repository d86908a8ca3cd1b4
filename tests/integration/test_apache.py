"""apache_alpn_responder against a real httpd: what clients see, what is on disk."""

from __future__ import annotations

import pathlib
import tempfile
import typing as t

import harness
import pytest
from apache_site import BINARY, ApacheSite

pytestmark = pytest.mark.skipif(not pathlib.Path(BINARY).exists(), reason='Debian package apache2 is not installed')


@pytest.fixture
def site() -> t.Iterator[ApacheSite]:
    one = ApacheSite(pathlib.Path(tempfile.mkdtemp(prefix='seamless-apache-')))
    try:
        one.start()
        yield one
    finally:
        one.remove()


def offered(site: ApacheSite, name: str) -> bool:
    """Whether a client that offers acme-tls/1 gets it; the certificate is that of the site in any case."""
    seen = harness.get(site.port, name, alpn=['acme-tls/1'])
    return seen.protocol == 'acme-tls/1'


def test_four_times_and_back(site: ApacheSite) -> None:
    before = site.picture()
    with harness.Traffic(site.port, site.names, site.root):
        planned = site.run(check=True)
        assert planned.changed
        assert site.picture() == before
        present = site.run()
        assert present.changed and present.value['reloaded']
        assert present.value['diff'] == planned.value['diff']
        there = site.picture()
        assert not site.run(check=True).changed
        assert not site.run().changed
        assert site.picture() == there

        assert present.value['public'] == ['127.0.0.1:%d' % site.port, '[::1]:%d' % site.port]
        assert [host['names'] for host in present.value['virtual_hosts']] == [['a.example'], ['b.example']]
        a, b = ((site.conf / 'sites-available' / name).read_text() for name in ('a.conf', 'b.conf'))
        assert '    Protocols h2 http/1.1 acme-tls/1\n' in a
        assert '<VirtualHost *:%d>\n    Protocols http/1.1 acme-tls/1\n    ServerName' % site.port in b
        for name in site.names:
            seen = harness.get(site.port, name)
            assert (seen.body, seen.certificate) == (name + '\n', site.fingerprint(name))
        assert harness.get(site.port, 'a.example', alpn=['h2', 'http/1.1']).protocol == 'h2'
        assert harness.get(site.port, 'b.example', alpn=['h2', 'http/1.1']).protocol == 'http/1.1'

        assert site.run(check=True, state='absent').changed
        assert site.picture() == there
        assert site.run(state='absent').changed
        assert site.picture().bytes == before.bytes
        assert not site.run(check=True, state='absent').changed
        assert not site.run(state='absent').changed
