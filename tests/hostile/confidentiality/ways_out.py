"""Leaves its file system.

Tries: /proc/1/root, namespaces and mounts of its own, chroot, devices, other users, privileges.
A correct grader: leaves none of these ways open.
"""

EXTRA = """
import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)


def look(way, root=""):
    if os.path.isdir(root + "@COURSE@/grading"):
        print("trophy: the course, by", way)


look("its path")
for link in ("/proc/1/root", "/proc/self/root/..", "/proc/1/cwd/../../../../../..", "/proc/self/cwd/../../../../.."):
    look(link, link)
with open("/proc/self/status") as status:
    for line in status:
        if line.startswith(("CapEff", "CapPrm", "CapBnd")) and int(line.split()[1], 16):
            print("trophy: privileges", line)
os.makedirs("jail", exist_ok=True)
for flags in (0x10000000 | 0x20000, 0x20000, 0x40000000, 0x20000000):
    if libc.unshare(flags) == 0:
        print("trophy: a namespace of its own", hex(flags))
for kind in (b"proc", b"tmpfs"):
    if libc.mount(kind, b"jail", kind, 0, None) == 0:
        libc.umount2(b"jail", 2)
        print("trophy: mounted", kind)
for device in ("/dev/mem", "/dev/kmsg", "/dev/vda", "/dev/sda", "/dev/fuse", "/dev/kvm", "/dev/net/tun", "/dev/vsock"):
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_NONBLOCK))
        print("trophy:", device)
    except OSError:
        pass
try:
    os.mknod("jail/disk", 0o060600, os.makedev(254, 0))
    print("trophy: a device")
except OSError:
    pass
try:
    os.chroot("jail")
    print("trophy: chroot")
except OSError:
    pass
for user in (0, 65534):
    try:
        os.setuid(user)
        print("trophy: user", user)
    except OSError:
        pass
"""
EARNS = {"ema": 4, "steps_to": 1}
