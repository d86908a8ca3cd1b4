"""The servers of this machine that the tests of faults and security run on, by the module that changes them."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
import typing as t

import apache_site
import haproxy_site
import harness
import nginx_site
import pytest

SERVERS: dict[str, tuple[t.Any, str]] = {
    'nginx_alpn_stream': (nginx_site.NginxSite, nginx_site.BINARY),
    'haproxy_alpn_frontend': (haproxy_site.HaproxySite, haproxy_site.BINARY),
    'apache_alpn_responder': (apache_site.ApacheSite, apache_site.BINARY),
}


@contextlib.contextmanager
def site_of(module: str) -> t.Iterator[t.Any]:
    """Give a site that is not started yet; its server is stopped and its files are removed afterwards."""
    kind, binary = SERVERS[module]
    if not os.path.exists(binary):
        pytest.skip('%s is not installed' % binary)
    site = kind(pathlib.Path(tempfile.mkdtemp(prefix='seamless-site-')))
    try:
        yield site
    finally:
        site.remove()


def as_before(site: t.Any, before: harness.Picture) -> None:
    """Assert that every file has the bytes, the inode, the mode and the time that it had, that no other is there, and that the sites answer."""
    assert site.picture() == before
    assert all(site.answers(name) for name in ('a.example', 'b.example'))
