# Functions of the scripts that work on a tree of their own; they run as root of a mount and PID namespace (and,
# for users, a user namespace), so that the tree, which is a RAM file system, and every mount are gone when the
# last process is, however it ends. $tree, $work and $epoch are set.

trap 'exit 143' TERM INT
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root TMPDIR=/tmp
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
export SOURCE_DATE_EPOCH="$epoch" PYTHONHASHSEED=0
# What Python compiles on import has times in it, and would depend on the caller's environment.
export PYTHONDONTWRITEBYTECODE=1
umask 022

make_tree() {
    mount --make-rprivate /
    mount -t tmpfs -o size=75%,mode=755 tdxstack "$tree"
}

mount_in_tree() {
    mount -t proc proc "$tree/proc" 2>/dev/null || mount --rbind /proc "$tree/proc"
    mount -t tmpfs -o size=1m,mode=755 dev "$tree/dev"
    for node in full null random tty urandom zero; do
        : >"$tree/dev/$node"
        mount --bind "/dev/$node" "$tree/dev/$node"
    done
    mount -t tmpfs -o size=16m,mode=755 run "$tree/run"
}

# Leave out what differs from one build to the next, is made on first use, or is a secret of this one tree.
clean_tree() {
    umount "$tree/run" "$tree/proc"
    umount -R "$tree/dev"
    rm -rf "$tree"/tmp/* "$tree"/var/tmp/* "$tree"/run/*
    # Their directories belong to packages, whose services do not start without them.
    find "$tree/var/cache" "$tree/var/log" ! -type d -delete
    rm -rf "$tree"/var/lib/dpkg/*-old "$tree"/var/lib/systemd/* "$tree"/etc/ssh/ssh_host_*
    rm -f "$tree"/var/lib/dbus/machine-id "$tree"/etc/*-
    mkdir -p "$tree/var/cache/apt/archives/partial"
}

# No time after the epoch gets into the archive.
write_tree() {
    tar --create --file "$1" --directory "$tree" --format gnu --sort name --numeric-owner \
        --mtime "@$epoch" --clamp-mtime --one-file-system .
}
