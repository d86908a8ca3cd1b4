#!/usr/bin/env bash
# packages.sh [PACKAGE...]: install what the tests need of Debian's packages, without starting any server. Needs root; says so and goes on without.
set -euo pipefail
wanted=(apache2 curl debootstrap haproxy iptables openssl procps shellcheck "$@")
# An engine of another package is as good; the client alone is not enough.
command -v dockerd >/dev/null || wanted+=(docker.io)
# Debian's Python makes virtual environments with this package only.
python3 -c 'import ensurepip' 2>/dev/null || wanted+=(python3-venv)
missing=()
for package in "${wanted[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ "${#missing[@]}" -eq 0 ]; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "Not installed (this needs root and apt): ${missing[*]}. Tests that need them will fail or say so." >&2
  exit 0
fi
# Installing a server's package starts it, unless this says no (invoke-rc.d(8)).
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
