"""Fixtures of the integration tests."""

from __future__ import annotations

import pathlib
import tempfile
import typing as t

import pytest
from nginx_site import NginxSite


@pytest.fixture
def site() -> t.Iterator[NginxSite]:
    """A private nginx that serves two sites."""
    one = NginxSite(pathlib.Path(tempfile.mkdtemp(prefix='seamless-nginx-')))
    try:
        one.start()
        yield one
    finally:
        one.remove()
