"""Unpack a collection, and those that it depends on, from the wheel of the PyPI package ansible: unpack_collections.py WHEEL DESTINATION NAMESPACE.NAME"""

from __future__ import annotations

import json
import sys
import zipfile

wheel, destination, name = sys.argv[1:]
names = [name]
with zipfile.ZipFile(wheel) as archive:
    for one in names:  # it grows meanwhile
        prefix = 'ansible_collections/%s/' % one.replace('.', '/')
        needed = json.loads(archive.read(prefix + 'MANIFEST.json'))['collection_info']['dependencies']
        names += [other for other in needed if other not in names]
        archive.extractall(destination, [member for member in archive.namelist() if member.startswith(prefix)])
