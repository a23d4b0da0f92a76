#!/bin/sh
# Install Debian packages into an empty tree and write the tree as a tar archive.
#
#   bootstrap.sh WORK EPOCH
#
# Runs as root of a mount and PID namespace of its own (and, for users, a user namespace), so that the
# tree, which is a RAM file system, and every mount are gone when the last process is, however it ends.
# WORK/essential/ and WORK/others/ hold the packages, WORK/tree is an empty directory; WORK/base.tar is
# written. No time after EPOCH (seconds since 1970) gets into the archive.
set -eu
work=$1
epoch=$2
tree=$work/tree

trap 'exit 143' TERM INT
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root TMPDIR=/tmp
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
export SOURCE_DATE_EPOCH="$epoch" PYTHONHASHSEED=0
# What Python compiles on import has times in it, and would depend on the caller's environment.
export PYTHONDONTWRITEBYTECODE=1
umask 022

mount --make-rprivate /
mount -t tmpfs -o size=2g,mode=755 tdxstack "$tree"

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

mount -t proc proc "$tree/proc" 2>/dev/null || mount --rbind /proc "$tree/proc"
mount -t tmpfs -o size=1m,mode=755 dev "$tree/dev"
for node in full null random tty urandom zero; do
    : >"$tree/dev/$node"
    mount --bind "/dev/$node" "$tree/dev/$node"
done
mount -t tmpfs -o size=16m,mode=755 run "$tree/run"
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

# What differs from one build to the next, is made on first use, or is a secret of this one tree.
umount "$tree/run/essential" "$tree/run/others" "$tree/run" "$tree/proc"
umount -R "$tree/dev"
rm -rf "$tree"/tmp/* "$tree"/var/tmp/* "$tree"/var/cache/* "$tree"/var/log/* "$tree"/run/*
rm -rf "$tree"/var/lib/dpkg/*-old "$tree"/var/lib/systemd/* "$tree"/etc/ssh/ssh_host_*
rm -f "$tree"/etc/machine-id "$tree"/var/lib/dbus/machine-id "$tree"/etc/*- "$tree/usr/sbin/policy-rc.d"
# The image gets an initial RAM file system that is the same every time.
rm -f "$tree"/boot/initrd.img-* "$tree"/initrd.img* "$tree"/vmlinuz.old
rm -rf "$tree"/usr/share/man "$tree"/usr/share/locale "$tree"/usr/share/info
mkdir -p "$tree/var/cache/apt/archives/partial"

tar --create --file "$work/base.tar" --directory "$tree" --format gnu --sort name --numeric-owner \
    --mtime "@$epoch" --clamp-mtime --one-file-system .
