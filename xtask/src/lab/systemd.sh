#!/bin/bash
# Runs a program, named by an absolute path, as the only service of a systemd that is the first process of namespaces of its own.
# What it writes comes at its end. For the lab's machine and no other: systemd takes /tmp, /var and the kernel's settings for its own.
set -eu
[ -e /mnt/out/.start ] || { echo "this is not the lab" >&2; exit 2; }
[ -x /usr/lib/systemd/systemd ] || { echo "Install Debian's package systemd, which the lab has from this machine" >&2; exit 2; }
cat > /mnt/out/boot.sh <<'BOOT'
set -e
umount /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs run /run
mkdir -p /run/systemd/system
for unit in rescue emergency sysinit; do ln -s /dev/null /run/systemd/system/$unit.target; done
cat > /run/systemd/system/lab.service <<UNIT
[Unit]
DefaultDependencies=no
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
Delegate=yes
TasksMax=infinity
LimitNOFILE=65536
StandardOutput=truncate:/mnt/out/output
StandardError=append:/mnt/out/output
ExecStart=$*
UNIT
export container=kata-lab
exec /usr/lib/systemd/systemd --system --unit=lab.service --show-status=no --log-target=console --log-level=notice
BOOT
mkdir -p /sys/fs/cgroup/systemd
echo "+cpu +cpuset +io +memory +pids" > /sys/fs/cgroup/cgroup.subtree_control
status=0
unshare --mount --pid --ipc --fork --kill-child --mount-proc --propagation private bash -c \
  'echo 0 > /sys/fs/cgroup/systemd/cgroup.procs; exec unshare --cgroup bash /mnt/out/boot.sh "$@"' bash "$@" || status=$?
cat /mnt/out/output
exit $status
