#!/usr/bin/env bash
set -eu
python ../../with_site.py apache ansible-playbook -i "$INVENTORY_PATH" test.yml
