#!/usr/bin/env bash
# ext4.sh COMMAND...: run COMMAND with TMPDIR on a new ext4 with a journal, as hosts have it; that takes root.
# An ext4 without one, as some virtual machines have, takes no inode again for minutes after its file was removed, and searches for others all that time:
# what replaces thousands of files is then measured together with what ran before it.
set -euo pipefail
work=$(mktemp -d)
cleanup() {
  umount "$work/mounted" || true
  rm -rf --one-file-system "$work"
}
trap cleanup EXIT
mkdir "$work/mounted"
truncate --size=4G "$work/image"
mkfs.ext4 -q "$work/image"
mount -o loop "$work/image" "$work/mounted"
TMPDIR=$work/mounted "$@"
