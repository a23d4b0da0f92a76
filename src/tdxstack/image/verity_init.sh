#!/busybox sh
# Mount the root file system that the root hash on the kernel command line vouches for, with what is written
# kept in memory, and start its init. Runs as the first process, out of the initial RAM file system.
b=/busybox
stop() {
    echo "tdxstack: $1"
    $b sleep 2
    $b poweroff -f
}

$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t tmpfs run /run
for module in $($b cat /modules); do
    $b insmod "$module" || stop "module $module cannot be inserted"
done

hash=
for word in $($b cat /proc/cmdline); do
    case $word in
    roothash=*) hash=${word#roothash=} ;;
    esac
done
[ -n "$hash" ] || stop "there is no roothash= on the kernel command line"

# The names of partitions are nothing to trust; the root hash tells which is the one.
opened=
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    for tree in $($b grep -l '^PARTNAME=root-verity$' /sys/class/block/*/uevent 2>/dev/null); do
        hashes=${tree%/uevent}
        disk=${hashes##*/}
        for file in $($b grep -l '^PARTNAME=root$' "$($b readlink -f "$hashes")"/../*/uevent 2>/dev/null); do
            data=${file%/uevent}
            if DM_DISABLE_UDEV=1 /veritysetup open "/dev/${data##*/}" root "/dev/$disk" "$hash"; then
                opened=1
                break 3
            fi
        done
    done
    $b sleep 1
done
[ -n "$opened" ] || stop "no partition has the root file system of root hash $hash"

$b mount -o ro /dev/mapper/root /lower || stop "the root file system cannot be mounted"
$b mount -t tmpfs -o mode=755 write /write
$b mkdir /write/upper /write/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/write/upper,workdir=/write/work root /target ||
    stop "the root file system cannot be overlaid"
for mount in dev proc sys run; do
    $b mount --move "/$mount" "/target/$mount"
done
exec $b switch_root /target /sbin/init
