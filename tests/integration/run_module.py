"""Run one module of the collection as Ansible would, with arguments from a file: run_module.py NAME ARGUMENTS.json

For fault tests it can kill itself: KILL_BEFORE_RENAME=N sends SIGKILL before the Nth rename, STOP_BEFORE_RENAME=N waits there
until the file named by GO_ON appears.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import time

from ansible.module_utils import basic

renames = 0
rename = os.rename


def counted(source, target):
    global renames
    renames += 1
    if renames == int(os.environ.get('KILL_BEFORE_RENAME', '0')):
        os.kill(os.getpid(), signal.SIGKILL)
    if renames == int(os.environ.get('STOP_BEFORE_RENAME', '0')):
        with open(os.environ['GO_ON'] + '.waiting', 'w', encoding='ascii'):
            pass
        while not os.path.exists(os.environ['GO_ON']):
            time.sleep(0.02)
    rename(source, target)


with open(sys.argv[2], encoding='utf-8') as stream:
    basic._ANSIBLE_ARGS = json.dumps({'ANSIBLE_MODULE_ARGS': json.load(stream)}).encode()
basic._ANSIBLE_PROFILE = 'legacy'  # how core 2.19 and later wants to be told; earlier ones do not look
os.rename = counted
runpy.run_module('ansible_collections.seamless.tls_alpn.plugins.modules.' + sys.argv[1], run_name='__main__')
