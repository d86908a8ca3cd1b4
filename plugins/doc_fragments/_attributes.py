# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """The attributes that every module here describes."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in check mode and tell what it would do without doing it.
  diff_mode:
    description: Tells what changes, or would change, in diff mode.
  idempotent:
    description: When run twice in a row with the same arguments, the second run tells that nothing changed.
  platform:
    description: The operating systems that it runs on.
"""
