#!/usr/bin/env bash
# seed-pip.sh PYTHON: ansible-test bootstraps pip by a script from a site that may be out of reach; make that script from pip's wheel.
set -euo pipefail
python=$1
version=$("$python" - <<'P'
import pathlib, re, ansible_test
source = pathlib.Path(ansible_test.__path__[0], '_internal/python_requirements.py').read_text()
print(re.search(r"\bpip='([0-9.]+)'", source).group(1))
P
)
cache=$HOME/.ansible/test/cache
script=$cache/get_pip_${version//./_}.py
[ -s "$script" ] && exit 0
mkdir -p "$cache"
"$python" -m pip download -qq --no-deps -d "$cache" "pip==$version"
cat >"$script" <<P
import os, sys
wheel = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'pip-$version-py3-none-any.whl')
sys.path.insert(0, wheel)
from pip._internal.cli.main import main
sys.exit(main(['install', '--disable-pip-version-check', '--no-index', '--no-deps', '-q', wheel]))
P
