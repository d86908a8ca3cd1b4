# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Lends the controller's crossplane to the host for one task, so that nothing has to be installed there."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import zipfile

from ansible.plugins.action import ActionBase


def _write_archive(package: str, target: str) -> None:
    """Write the pure-Python package, without what is compiled, into an archive that Python can import from."""
    with zipfile.ZipFile(target, 'w', zipfile.ZIP_DEFLATED) as archive:
        for directory, dummy, names in os.walk(package):
            for name in names:
                if name.endswith('.py'):
                    path = os.path.join(directory, name)
                    archive.write(path, os.path.relpath(path, os.path.dirname(package)))


class ActionModule(ActionBase):
    """Runs the module of the same name with crossplane on its path."""

    _requires_connection = True

    def run(self, tmp=None, task_vars=None):
        """Give what the module gives; where the controller has no crossplane either, the module says so."""
        result = super().run(tmp, task_vars)
        found = importlib.util.find_spec('crossplane')
        if found is not None and found.submodule_search_locations:
            remote = self._connection._shell.join_path(self._make_tmp_path(), 'crossplane.zip')
            with tempfile.NamedTemporaryFile(suffix='.zip') as local:
                _write_archive(list(found.submodule_search_locations)[0], local.name)
                self._transfer_file(local.name, remote)
            self._fixup_perms2([os.path.dirname(remote), remote])
            environment = list(self._task.environment or [])
            self._task.environment = [*environment, {'PYTHONPATH': remote}]
        result.update(self._execute_module(task_vars=task_vars))
        return result
