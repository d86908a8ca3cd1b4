"""Configuration trees that nobody expects, with the real server: the module works and absent undoes it, or it refuses and nothing was touched."""

from __future__ import annotations

import os
import typing as t

import apache_site
import haproxy_site
import nginx_site
import pytest
from servers import SERVERS, site_of

LARGE = 10_000_000
NOTE = '# %s\n' % ('x' * 78)


def nginx_large(site: nginx_site.NginxSite) -> None:
    path = site.conf / 'sites-available' / 'b.example'
    path.write_text(NOTE * (LARGE // len(NOTE)) + path.read_text())


def nginx_long_line(site: nginx_site.NginxSite) -> None:
    path = site.conf / 'sites-available' / 'b.example'
    path.write_text(path.read_text() + '# ' + 'x' * LARGE)


def nginx_deep(site: nginx_site.NginxSite) -> None:
    path = site.conf / 'sites-available' / 'b.example'
    path.write_text(path.read_text().replace('    location = /away', 'location /d { ' * 3000 + '}' * 3000 + '    location = /away'))


def nginx_loop(site: nginx_site.NginxSite) -> None:
    site.write('loop', 'include sites-enabled/loop;\n')


def nginx_directory(site: nginx_site.NginxSite) -> None:
    (site.conf / 'sites-enabled' / 'directory').mkdir()


def nginx_device(site: nginx_site.NginxSite) -> None:
    (site.conf / 'sites-enabled' / 'null').symlink_to('/dev/null')


def nginx_gone(site: nginx_site.NginxSite) -> None:
    site.write('gone', 'include /nowhere/x.conf;\n')


def nginx_names(site: nginx_site.NginxSite) -> None:
    values = site.values('b.example')
    for name in ('a b', 'a\nb', "a'b", '$(touch x)', 'ä\udcff'):
        site.write(name, nginx_site.SITE % {**values, 'name': 'n%d.example' % len(os.listdir(site.conf / 'sites-enabled'))})


def nginx_pattern(site: nginx_site.NginxSite) -> None:
    """What nginx's glob(3) leaves out is not edited; that is shown by the reload, which would find the port taken."""
    site.write('x.disabled', nginx_site.SITE % {**site.values('b.example'), 'name': 'x.example'})
    site.main.write_text(site.main.read_text().replace('sites-enabled/*', '[^x]*-enabled/[^x[:digit:]]*'))


def nginx_twice(site: nginx_site.NginxSite) -> None:
    text = site.main.read_text()
    site.main.write_text(text.replace('sites-enabled/*;', 'sites-enabled/*; include %s/sites-enabled/b.example;' % site.conf))


def nginx_outside(site: nginx_site.NginxSite) -> None:
    outside = site.root / 'outside'
    outside.mkdir()
    (outside / 'file').write_text((site.conf / 'sites-available' / 'b.example').read_text())
    (site.conf / 'sites-available' / 'b.example').unlink()
    (site.conf / 'sites-available' / 'b.example').symlink_to(outside / 'file')


def nginx_of_others(site: nginx_site.NginxSite) -> None:
    path = site.conf / 'sites-available' / 'b.example'
    os.chown(path.parent, 1234, 4321)
    os.chown(path, 1234, 4321)
    path.chmod(0o600)


def nginx_empty(site: nginx_site.NginxSite) -> None:
    site.write('empty', '')
    site.write('bytes', b'# \xff\xfe\x00\n')


def haproxy_large(site: haproxy_site.HaproxySite) -> None:
    site.main.write_text(NOTE * (LARGE // len(NOTE)) + site.main.read_text())


def haproxy_conditions(site: haproxy_site.HaproxySite) -> None:
    site.main.write_text(site.main.read_text() + '.if 1\n' * 2000 + '.endif\n' * 2000)


def haproxy_bytes(site: haproxy_site.HaproxySite) -> None:
    site.main.write_bytes(site.main.read_bytes().replace(b'option dontlognull', b'option dontlognull # \xff\xfe'))


def haproxy_of_others(site: haproxy_site.HaproxySite) -> None:
    os.chown(site.main, 1234, 4321)
    site.main.chmod(0o600)


def apache_large(site: apache_site.ApacheSite) -> None:
    path = site.conf / 'sites-available' / 'b.conf'
    path.write_text(NOTE * (LARGE // len(NOTE)) + path.read_text())


def apache_names(site: apache_site.ApacheSite) -> None:
    for number, name in enumerate(('a b', "a'b", '$(touch x)', 'a"b')):
        site.write(name, site.site('b.example').replace('ServerName b.example', 'ServerName n%d.example' % number))


def apache_newline_in_a_name(site: apache_site.ApacheSite) -> None:
    """httpd reads it, but what it says of it breaks off there."""
    site.write('a\nb', site.site('b.example').replace('ServerName b.example', 'ServerName c.example'))


def apache_loop(site: apache_site.ApacheSite) -> None:
    site.write('loop', 'Include sites-enabled/loop.conf\n')


def apache_outside(site: apache_site.ApacheSite) -> None:
    outside = site.root / 'outside'
    (site.conf / 'sites-available' / 'b.conf').rename(outside)
    (site.conf / 'sites-available' / 'b.conf').symlink_to(outside)


TREES = [one for name, one in sorted(globals().items()) if name.startswith(('nginx_', 'haproxy_', 'apache_')) and not name.endswith('_site')]
# What the server itself refuses, so that nothing can be done; and what it takes, but this collection does not.
REFUSED = {
    'nginx_long_line': 'nginx does not accept the configuration',
    'nginx_deep': 'blocks in one another',
    'apache_newline_in_a_name': 'can not be edited where it stands',
    'nginx_loop': 'nginx does not accept the configuration',
    'nginx_directory': 'nginx does not accept the configuration',
    'nginx_gone': 'nginx does not accept the configuration',
    'haproxy_conditions': 'onditions',
    'apache_loop': 'Apache does not accept the configuration',
}


@pytest.mark.parametrize('tree', TREES, ids=lambda tree: tree.__name__)
def test_tree(tree: t.Callable[[t.Any], None]) -> None:
    if tree.__name__.endswith('of_others') and os.geteuid() != 0:
        pytest.skip('only root may give files away')
    server = tree.__name__.partition('_')[0]
    with site_of(next(module for module in SERVERS if module.startswith(server))) as site:
        if tree.__name__ in REFUSED:
            site.start()
            tree(site)
        else:
            tree(site)
            site.start()
        before = site.picture()
        owners = {path: (path.lstat().st_uid, path.lstat().st_gid) for path in site.conf.rglob('*')}
        result = site.run()
        assert 'Traceback' not in str(result.value)
        if tree.__name__ in REFUSED:
            assert REFUSED[tree.__name__] in result.message
            assert site.picture() == before
        else:
            assert result.changed
            assert not site.run().changed
            assert {path: (path.lstat().st_uid, path.lstat().st_gid) for path in owners} == owners
            assert site.run(state='absent').changed
            assert site.picture().bytes == before.bytes
        assert site.answers('a.example') and site.answers('b.example')
        assert not os.path.exists('x') and not (site.root / 'x').exists()
