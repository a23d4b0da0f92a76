#!/bin/sh
# Run programs inside an installed tree and write what has become of it as a tar archive.
#
#   customise.sh WORK EPOCH
#
# WORK/root.tar is the tree, WORK/scripts/ has the programs, which run in the order of their names, without
# network; WORK/tree is an empty directory; WORK/customised.tar is written. EPOCH is in seconds since 1970.
set -eu
work=$1
epoch=$2
tree=$work/tree
. "${0%/*}/namespace.sh"

make_tree
tar --extract --file "$work/root.tar" --directory "$tree" --numeric-owner --same-permissions
mount_in_tree
mkdir "$tree/run/scripts"
mount --bind "$work/scripts" "$tree/run/scripts"
for script in "$work"/scripts/*; do
    echo "Running ${script##*/}"
    chroot "$tree" "/run/scripts/${script##*/}" </dev/null || {
        echo "tdxstack: script ${script##*/} has failed"
        exit 1
    }
done
umount "$tree/run/scripts"
clean_tree
write_tree "$work/customised.tar"
