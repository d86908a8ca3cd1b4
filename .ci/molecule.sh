#!/usr/bin/env bash
# molecule.sh SCENARIO...: run these scenarios one after the other, on images that are pulled, or made by debootstrap where they can't be.
set -euo pipefail
for release in bullseye bookworm trixie; do
  variable=SEAMLESS_IMAGE_${release^^}
  if [ -z "${!variable:-}" ]; then
    if ! docker image inspect "debian-systemd:$release" >/dev/null 2>&1 && timeout 60 docker pull -q "docker.io/library/debian:$release" >/dev/null 2>&1; then
      export "$variable=docker.io/library/debian:$release"
    else
      .ci/image.sh "$release" .cache/images
      export "$variable=debian-systemd:$release"
    fi
  fi
done
for scenario in "$@"; do
  echo "== molecule: $scenario"
  molecule test --scenario-name "$scenario"
done
