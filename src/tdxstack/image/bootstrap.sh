#!/bin/sh
# Install Debian packages into an empty tree and write the tree as a tar archive.
#
#   bootstrap.sh WORK EPOCH
#
# WORK/essential/ and WORK/others/ hold the packages, WORK/tree is an empty directory; WORK/base.tar is
# written. EPOCH is in seconds since 1970.
set -eu
work=$1
epoch=$2
tree=$work/tree
. "${0%/*}/namespace.sh"

make_tree
mkdir -p "$tree/usr/bin" "$tree/usr/sbin" "$tree/usr/lib" "$tree/usr/lib64"
for name in bin sbin lib lib64; do
    ln -s "usr/$name" "$tree/$name"
done
for package in "$work"/essential/*.deb; do
    dpkg-deb --extract "$package" "$tree"
done

mkdir -p "$tree/dev" "$tree/proc" "$tree/run" "$tree/var/lib/dpkg/info" "$tree/var/lib/dpkg/updates"
: >"$tree/var/lib/dpkg/status"
mkdir -p "$tree/etc/dpkg/dpkg.cfg.d"
cat >"$tree/etc/dpkg/dpkg.cfg.d/tdxstack" <<'END'
# A small image: no documentation but the copyrights, no translations.
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/bug/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/lintian/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/man/*
END
printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
chmod 755 "$tree/usr/sbin/policy-rc.d"

mount_in_tree
mkdir "$tree/run/essential" "$tree/run/others"
mount --bind "$work/essential" "$tree/run/essential"
mount --bind "$work/others" "$tree/run/others"

# The order within each of the two steps is dpkg's; until all is unpacked, dependencies cannot hold.
chroot "$tree" /bin/sh -eu -c '
    ldconfig
    dpkg --force-depends --force-unsafe-io --install /run/essential/*.deb
    dpkg --force-depends --force-unsafe-io --unpack /run/others/*.deb
    dpkg --force-unsafe-io --configure --pending
    dpkg --audit
'

umount "$tree/run/essential" "$tree/run/others"
clean_tree
rm -f "$tree/etc/machine-id" "$tree/usr/sbin/policy-rc.d"
# The image gets an initial RAM file system that is the same every time.
rm -f "$tree"/boot/initrd.img-* "$tree"/initrd.img* "$tree"/vmlinuz.old
rm -rf "$tree"/usr/share/man "$tree"/usr/share/locale "$tree"/usr/share/info
write_tree "$work/base.tar"
