"""Run a command beside a private server, or acme.sh and its CA: with_site.py KIND COMMAND...; it gets what the modules need as extra variables."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import typing as t


@contextlib.contextmanager
def server(kind: str, root: pathlib.Path) -> t.Iterator[tuple[dict[str, t.Any], list[str]]]:
    """Start it; give the modules' arguments, and the folders that hold what the modules change."""
    if kind == 'acme':
        import acme_ca

        programs = acme_ca.programs()
        assert programs is not None, 'acme.sh and Pebble are neither installed nor to be had as Debian packages'
        home, tls = root / 'home', root / 'tls'
        tls.mkdir()
        with acme_ca.CA(root).run(programs) as ca:
            names = {'domains': ['a.example'], 'install': {'key': str(tls / 'key.pem'), 'fullchain': str(tls / 'chain.pem')}, 'reload': 'true'}
            where = {'home': str(home), 'acme_sh': programs['acme.sh'], 'server': ca.url, 'ca_bundle': ca.bundle, 'tls_port': ca.tls_port}
            yield {**where, **names}, [str(home), str(tls)]
        return
    site: t.Any
    if kind == 'nginx':
        from nginx_site import NginxSite

        site = NginxSite(root)
    elif kind == 'haproxy':
        from haproxy_site import HaproxySite

        site = HaproxySite(root)
        os.environ.update(site.environment())
    else:
        from apache_site import ApacheSite

        site = ApacheSite(root)
    try:
        site.start()
        # Not the folder itself: mod_md keeps its store there.
        yield site.arguments(), [str(path) for path in site.conf.iterdir()]
    finally:
        site.remove()


kind, *command = sys.argv[1:]
with tempfile.TemporaryDirectory(prefix='seamless-%s-' % kind) as work, server(kind, pathlib.Path(work)) as (arguments, folders):
    variables = pathlib.Path(work, 'site.json')
    variables.write_text(json.dumps({'site': arguments, 'folders': folders}))
    code = subprocess.run([*command, '--extra-vars', '@%s' % variables], check=False).returncode
sys.exit(code)
