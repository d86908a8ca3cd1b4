"""Run one module of the collection as Ansible would, with arguments from a file: run_module.py NAME ARGUMENTS.json

FAULT makes one of its steps fail (see steps.Fault); STEPS names a file to write each step to.
"""

from __future__ import annotations

import json
import os
import runpy
import sys

import steps
from ansible.module_utils import basic

with open(sys.argv[2], encoding='utf-8') as stream:
    basic._ANSIBLE_ARGS = json.dumps({'ANSIBLE_MODULE_ARGS': json.load(stream)}).encode()
basic._ANSIBLE_PROFILE = 'legacy'  # how core 2.19 and later wants to be told; earlier ones do not look
if 'FAULT' in os.environ:
    steps.install(steps.Fault(os.environ['FAULT'], os.environ.get('STEPS', os.devnull)))
runpy.run_module('ansible_collections.seamless.tls_alpn.plugins.modules.' + sys.argv[1], run_name='__main__')
