"""The sessions that check the collection: those of antsibull-nox.toml, and what antsibull-nox has none for, or none without containers of its own."""

from __future__ import annotations

import functools
import os
import pathlib
import shutil
import sys

import antsibull_nox
import nox
from antsibull_nox.sessions.collections import prepare_collections

nox.options.envdir = '.cache/nox'
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = False
antsibull_nox.load_antsibull_nox_toml()

# pyenv's shims answer for every Python that it has, and then fail; nox and ansible-test need the Pythons themselves.
PYENV = pathlib.Path(os.environ.get('PYENV_ROOT', os.path.expanduser('~/.pyenv')))
PATHS = [path for path in os.environ['PATH'].split(os.pathsep) if path != str(PYENV / 'shims')]
os.environ['PATH'] = os.pathsep.join(PATHS + sorted(map(str, PYENV.glob('versions/3.*/bin'))))

# ansible-core and its Python: an early one with the Python that this runs in (3.11 to 3.13), and the latest.
CORES = {'2.19': '%d.%d' % sys.version_info[:2], '2.21': '3.13'}
COMMANDS = {
    'sanity': 'All sanity tests of ansible-test, on every Python that is here',
    'units': 'The unit and property tests',
    'integration': 'Each module through Ansible, on servers of this machine: check mode, for real, both once more, and back',
}


def ansible_test(core: str, command: str, session: nox.Session) -> None:
    session.install('ansible-core==%s.*' % core)
    session.run('.ci/seed-pip.sh', '%s/bin/python' % session.virtualenv.location, external=True)
    collections = prepare_collections(session, install_in_site_packages=False, install_out_of_tree=True)
    assert collections is not None
    options = ['--venv', '--color', 'no']
    if command != 'sanity':
        options += ['--python', str(session.python)]
    if command == 'integration':
        options += ['--allow-root']
    with session.chdir(collections.current_path):
        session.run('ansible-test', command, *options, *session.posargs)


for _core, _python in CORES.items():
    for _command, _description in COMMANDS.items():
        _session = functools.partial(ansible_test, _core, _command)
        _session.__doc__ = '%s (ansible-core %s).' % (_description, _core)
        nox.session(_session, name='%s-%s' % (_command, _core), python=_python)


@nox.session
def typing(session: nox.Session) -> None:
    """mypy, strict, on what modules share and on the responder."""
    session.install('mypy', 'ansible-core', 'crossplane')
    collections = prepare_collections(session, install_in_site_packages=False)
    assert collections is not None
    targets = [str(collections.current_path / path) for path in ('plugins/module_utils', 'roles/apache/files')]
    session.run('mypy', *targets, env={'MYPYPATH': str(collections.current_place)})


@nox.session
def changelog(session: nox.Session) -> None:
    """antsibull-changelog's fragments."""
    session.install('antsibull-changelog')
    session.run('antsibull-changelog', 'lint')


@nox.session
def galaxy(session: nox.Session) -> None:
    """The built tarball, as Galaxy imports it: no error, no warning."""
    session.install('ansible-core', 'galaxy-importer')
    (tarball,) = pathlib.Path('.cache/dist').glob('*.tar.gz')
    with session.chdir(tarball.parent):
        log = session.run('python', '-m', 'galaxy_importer.main', tarball.name, silent=True)
    if 'WARNING' in log or 'ERROR' in log:
        session.error(log)


# The system's Python, since one in root's home is of no use to anybody else.
@nox.session(python='/usr/bin/python3')
def installed(session: nox.Session) -> None:
    """From the tarball, from a git URL, and read-only for somebody who is not root, as in an execution environment; ansible-builder takes the example."""
    session.install('ansible-core', 'ansible-builder', '-r', 'tests/integration/requirements.txt')
    work = pathlib.Path(session.create_tmp()).resolve()
    shutil.rmtree(work)
    (work / 'home').mkdir(parents=True)
    (tarball,) = pathlib.Path('.cache/dist').resolve().glob('*.tar.gz')
    session.run('.ci/tree.sh', str(work), external=True)
    repository = work / 'ansible_collections' / 'seamless' / 'tls_alpn'
    session.run('git', '-C', str(repository), '-c', 'user.name=x', '-c', 'user.email=x', 'commit', '-qm', 'All of it', external=True)

    home = str(work / 'home')
    environment = {'HOME': home, 'ANSIBLE_HOME': home + '/.ansible', 'ANSIBLE_REMOTE_TEMP': home + '/.ansible/tmp'}
    host = ['--connection=local', '--inventory=testhost,', '--extra-vars=ansible_python_interpreter={{ ansible_playbook_python }}']
    site = ['python', 'tests/integration/with_site.py', 'nginx', 'ansible-playbook', *host]
    for name, source in (('git', 'git+file://%s' % repository), ('tarball', str(tarball))):
        environment['ANSIBLE_COLLECTIONS_PATH'] = str(work / name)
        session.run('ansible-galaxy', 'collection', 'install', '--collections-path', str(work / name), source, env=environment)
        session.run(*site, 'tests/integration/targets/nginx_alpn_stream/test.yml', env=environment)

    session.run('chmod', '-R', 'a-w', str(work / 'tarball'), external=True)
    somebody = []
    if os.geteuid() == 0:
        user = os.environ.get('SUDO_UID', '65534')
        somebody = ['setpriv', '--reuid=' + user, '--regid=' + user, '--clear-groups']
        session.run('chown', '-R', user, str(work / 'home'), external=True)
    session.run(*somebody, *site, 'tests/integration/targets/nginx_alpn_stream/test.yml', env=environment, external=True)

    session.run('ansible-builder', 'create', '--file', 'docs/environment/execution-environment.yml', '--context', str(work / 'context'))
    found = session.run('ansible-builder', 'introspect', '--sanitize', str(work / 'tarball'), silent=True)
    if "'crossplane  # from collection seamless.tls_alpn'" not in found:
        session.error(found)


if __name__ == '__main__':
    nox.main()
