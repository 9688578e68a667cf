#!/bin/busybox sh
# The first process of a virtual machine for tests: mounts what a Linux system has mounted, loads the kernel's modules, runs
# the tests that the kernel's command line names, says how they ended, and turns the machine off.
/bin/busybox mkdir -p /bin /sbin /usr/bin /usr/sbin /proc /sys /dev /run /tmp /root
/bin/busybox --install -s
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root
# Interpreted by qemu, a processor takes ten times as long and more.
export LB_SLOWNESS=10

mount -t devtmpfs devtmpfs /dev
exec </dev/null >/dev/console 2>&1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
for module in /modules/*; do insmod "$module" || echo "cannot load $module"; done
# The console is the tests': from the kernel only what ends it.
echo 1 >/proc/sys/kernel/printk
ip link set lo up

cd /tmp
uname -a
/tests.sh
echo "lb-kernels: exit status $?"
poweroff -f
