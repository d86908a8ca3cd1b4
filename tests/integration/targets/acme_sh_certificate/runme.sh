#!/usr/bin/env bash
set -eu
python ../../with_site.py acme ansible-playbook -i "$INVENTORY_PATH" test.yml
