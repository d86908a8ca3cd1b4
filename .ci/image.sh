#!/usr/bin/env bash
# image.sh RELEASE CACHE: have the image debian-systemd:RELEASE, from debootstrap; its root file system is kept in CACHE.
set -euo pipefail
release=$1 cache=$2
tag=debian-systemd:$release tarball=$cache/rootfs-$release.tar
docker image inspect "$tag" >/dev/null 2>&1 && exit 0
mkdir -p "$cache"
if [ ! -s "$tarball" ]; then
  root=$(mktemp -d "$cache/rootfs-$release.XXXXXX")
  trap 'rm -rf "$root" "$tarball.part"' EXIT
  include=systemd,systemd-sysv,dbus,python3,iproute2,ca-certificates,procps,openssl,curl
  debootstrap --variant=minbase --include="$include" "$release" "$root" >"$cache/debootstrap-$release.log" 2>&1 ||
    { tail -n 20 "$cache/debootstrap-$release.log" >&2; exit 1; }
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
  tar -C "$root" --numeric-owner --one-file-system -cf "$tarball.part" .
  mv "$tarball.part" "$tarball"
fi
docker import -c 'CMD ["/sbin/init"]' "$tarball" "$tag" >/dev/null
