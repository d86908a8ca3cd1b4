"""Fixtures of the integration tests."""

from __future__ import annotations

import typing as t

import pytest
from nginx_site import NginxSite
from servers import site_of


@pytest.fixture
def site() -> t.Iterator[NginxSite]:
    """A private nginx that serves two sites."""
    with site_of('nginx_alpn_stream') as one:
        one.start()
        yield one
