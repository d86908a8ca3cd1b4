#!/usr/bin/env bash
# debian.sh COMMAND...: run COMMAND in a container with the servers of Debian 13, which are built with glibc; this checkout is where it is here, and its
# .venv's packages are for the container's own Python; /tmp there is TMPDIR, or in memory. Needs Docker and the image debian-systemd:trixie.
set -euo pipefail
docker build --quiet --tag seamless-bench-servers - >/dev/null <<'DOCKERFILE'
FROM debian-systemd:trixie
RUN apt-get update \
 && apt-get install -y --no-install-recommends apache2 apache2-utils haproxy nginx-full sslh uacme \
 && rm -rf /var/lib/apt/lists/*
DOCKERFILE
packages=$(echo "$PWD"/.venv/lib/python3*/site-packages)
if [ -n "${TMPDIR:-}" ]; then files=--volume=$TMPDIR:/tmp; else files=--tmpfs=/tmp:exec; fi
exec docker run --rm --init --network=none "$files" --security-opt=seccomp=unconfined --security-opt=apparmor=unconfined --cap-add=SYS_PTRACE \
  --volume="$PWD:$PWD" --workdir="$PWD" --env=PYTHONPATH="${PYTHONPATH:-}:$packages" --env=PYTHONDONTWRITEBYTECODE=1 seamless-bench-servers "$@"
