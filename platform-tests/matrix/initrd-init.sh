#!/bin/busybox sh
# The first program of the virtual machine: finds the disk, gives it the payload, and goes on there.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
while read -r module; do $b insmod "/modules/$module" || echo "insmod $module failed"; done </modules/list
n=0
while [ ! -b /dev/vda ] && [ $n -lt 100 ]; do
    $b sleep 0.1
    n=$((n + 1))
done
$b mount -t ext4 /dev/vda /mnt || $b poweroff -f
$b mount -t tmpfs -o size=80% payload /mnt/payload
$b mv /payload/* /payload/.init /mnt/payload/
for folder in dev proc sys; do $b mount --move /$folder /mnt/$folder; done
exec $b switch_root /mnt /bin/sh /payload/.init
