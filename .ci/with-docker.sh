#!/usr/bin/env bash
# with-docker.sh COMMAND...: run COMMAND with a Docker daemon; one that is started for it is stopped afterwards.
# Exits with 3, saying why, where no daemon can be had.
set -euo pipefail
started="" child=""
# shellcheck disable=SC2317 # the trap calls it
cleanup() {
  local rc=$?
  trap - EXIT INT TERM
  if [ -n "$child" ]; then
    kill -TERM "$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
  fi
  if docker version >/dev/null 2>&1; then
    docker ps --all --quiet --filter label=seamless.molecule | xargs --no-run-if-empty docker rm --force --volumes >/dev/null || true
  fi
  if [ -n "$started" ]; then
    kill -TERM "$started" 2>/dev/null || true
    wait "$started" 2>/dev/null || true
  fi
  exit "$rc"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
if ! docker version >/dev/null 2>&1; then
  if [ "$(id -u)" != 0 ] || ! command -v dockerd >/dev/null; then
    echo "No Docker daemon answers, and none can be started here (that needs root and the package docker.io)." >&2
    exit 3
  fi
  log=$PWD/.cache/dockerd.log
  mkdir -p "$(dirname "$log")"
  dockerd >"$log" 2>&1 </dev/null &
  started=$!
  for _ in $(seq 240); do
    docker version >/dev/null 2>&1 && break
    if ! kill -0 "$started" 2>/dev/null; then
      started=""
      tail -n 20 "$log" >&2
      echo "The Docker daemon does not start (above is what it said)." >&2
      exit 3
    fi
    sleep 0.5
  done
  docker version >/dev/null
fi
"$@" &
child=$!
rc=0
wait "$child" || rc=$?
child=""
exit "$rc"
