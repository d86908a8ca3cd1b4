#!/usr/bin/env bash
set -eu
python ../../with_site.py haproxy ansible-playbook -i "$INVENTORY_PATH" test.yml
