"""A callback that counts the modules executed on hosts: one JSON object, host to number, in the file that COUNT_MODULES names."""

from __future__ import annotations

import collections
import json
import os
import pathlib

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: count_modules
type: aggregate
short_description: Count the modules executed on hosts
description: [Writes how many there were for each host to the file that the environment's COUNT_MODULES names.]
"""


class CallbackModule(CallbackBase):
    """What a module gives has its arguments in it (invocation), what an action on the controller gives does not."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = 'aggregate'
    CALLBACK_NAME = 'count_modules'

    def __init__(self):
        super().__init__()
        self._counts = collections.Counter()

    def v2_runner_on_ok(self, result):
        for one in result._result.get('results', [result._result]):
            self._counts[result._host.get_name()] += isinstance(one, dict) and 'invocation' in one

    def v2_playbook_on_stats(self, stats):
        pathlib.Path(os.environ['COUNT_MODULES']).write_text(json.dumps(self._counts))
