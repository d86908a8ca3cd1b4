#!/usr/bin/env bash
# tree.sh DIRECTORY: put a real copy of this checkout (what git tracks or would) where ansible-test and the build expect a collection.
# It has a git index of its own, since ansible-test asks git which files there are.
set -euo pipefail
cd "$(dirname "$0")/.."
tree=$1/ansible_collections/seamless/tls_alpn
rm -rf "$tree"
mkdir -p "$tree"
git ls-files -z --cached --others --exclude-standard |
  while IFS= read -r -d '' file; do if [ -e "$file" ] || [ -L "$file" ]; then printf '%s\0' "$file"; fi; done |
  tar --null --no-recursion -T - -cf - | tar -xf - -C "$tree"
git -c init.defaultBranch=main init -q "$tree"
git -C "$tree" add -A
