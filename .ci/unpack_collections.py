"""Unpack chosen collections from the wheel of the PyPI package ansible: unpack_collections.py WHEEL DESTINATION NAMESPACE.NAME ..."""

from __future__ import annotations

import sys
import zipfile

wheel, destination, *names = sys.argv[1:]
prefixes = tuple('ansible_collections/%s/' % name.replace('.', '/') for name in names)
with zipfile.ZipFile(wheel) as archive:
    members = [member for member in archive.namelist() if member.startswith(prefixes)]
    missing = [prefix for prefix in prefixes if not any(member.startswith(prefix) for member in members)]
    if missing:
        sys.exit('not in the wheel: %s' % missing)
    archive.extractall(destination, members)
