# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a role says of its variables (argument_specs) and what they are (defaults) can't drift apart."""

from __future__ import annotations

import pathlib

import pytest
import yaml

ROLES = pathlib.Path(__file__).parents[2] / 'roles'


@pytest.mark.parametrize('role', sorted(path.name for path in ROLES.iterdir()))
def test_defaults_are_those_of_the_argument_specs(role: str) -> None:
    options = yaml.safe_load((ROLES / role / 'meta' / 'argument_specs.yml').read_text(encoding='utf-8'))['argument_specs']['main']['options']
    defaults = yaml.safe_load((ROLES / role / 'defaults' / 'main.yml').read_text(encoding='utf-8'))
    assert {name: option['default'] for name, option in options.items() if 'default' in option} == defaults
    assert not [name for name in options if not name.startswith(role + '_tls_alpn_')]


@pytest.mark.parametrize('role', sorted(path.name for path in ROLES.iterdir()))
def test_readme_names_every_variable(role: str) -> None:
    options = yaml.safe_load((ROLES / role / 'meta' / 'argument_specs.yml').read_text(encoding='utf-8'))['argument_specs']['main']['options']
    readme = (ROLES / role / 'README.md').read_text(encoding='utf-8')
    assert [name for name in options if '`%s`' % name not in readme] == []
