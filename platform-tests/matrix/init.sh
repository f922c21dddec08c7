# The first program on the disk: what an init system would set up, then the payload's `run`, then the power goes off.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
chmod 1777 /tmp
mount -t cgroup2 cgroup /sys/fs/cgroup 2>/dev/null
# As udev does.
modprobe tun
chmod 666 /dev/net/tun
ip link set lo up
hostname vm
# What systemd sets for everybody.
echo '0 2147483647' >/proc/sys/net/ipv4/ping_group_range
stty -F /dev/ttyS1 raw
cd /payload || exit 1
./run </dev/null
status=$?
echo
echo "VM-STATUS $status"
sync
echo o >/proc/sysrq-trigger
sleep 5
