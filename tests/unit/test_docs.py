# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the documentation names is there."""

from __future__ import annotations

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]


def test_every_test_that_the_reliability_page_names_exists() -> None:
    named = set(re.findall(r'\btest_\w+\b(?!\.py)', (ROOT / 'docs' / 'reliability.md').read_text(encoding='utf-8')))
    source = '\n'.join(path.read_text(encoding='utf-8') for path in (ROOT / 'tests').rglob('test_*.py'))
    assert named and {name for name in named if 'def %s(' % name not in source} == set()
