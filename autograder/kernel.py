"""The Linux calls that the sandbox needs and Python does not offer, one small function each.

Numbers are those of the kernel's headers (include/uapi/linux) for x86_64 and aarch64. Every function raises OSError
naming the call that failed.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

_libc = ctypes.CDLL(None, use_errno=True)
_X86 = platform.machine() in ("x86_64", "AMD64")

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 0x1, 0x2, 0x4, 0x8, 0x20
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MNT_DETACH = 2

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 1, 4, 24, 38, 22
_PIVOT_ROOT, _CAPSET = (155, 126) if _X86 else (41, 91)
# Landlock and mount_setattr have the same numbers everywhere.
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT, _MOUNT_SETATTR = 444, 445, 446, 442
_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000
_LANDLOCK_VERSION = 1
#: How many of the rights over files each version of Landlock knows, and which of them reading needs.
_LANDLOCK_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read a file, list a folder
_FOR_FILES = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15  # rights that make sense for what is no folder
_MAKE_CHARACTER_DEVICE, _MAKE_BLOCK_DEVICE = 1 << 6, 1 << 11

#: System calls that no notebook needs and that widen what the kernel exposes: (x86_64, aarch64); None: not there.
DENIED = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "personality": (135, 92),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    # Memory that belongs to no process and no file system, so no limit would see it.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "vmsplice": (278, 75),
    # Few of these exist for all processes of a user, or of the machine.
    "io_setup": (206, 0),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
}
_CLONE, _CLONE3, _SOCKET = (56, 435, 41) if _X86 else (220, 435, 198)
_PRCTL, _SETSOCKOPT, _MMAP = (157, 54, 9) if _X86 else (167, 208, 222)
_SO_SNDBUF = 7
_SHARED_ANONYMOUS = 0x01 | 0x20
_AUDIT_ARCH = 0xC000003E if _X86 else 0xC00000B7
#: Local, IPv4 and IPv6: in an empty network namespace they reach nothing. Others (vsock, netlink) are not all confined.
_SOCKET_FAMILIES = (1, 2, 10)
_ALL_NAMESPACES = 0x7E020080
_EPERM, _ENOSYS = 1, 38
#: The language of filters (include/uapi/linux/filter.h and seccomp.h).
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _LEAVE = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_KILL, _ALLOW, _ERROR = 0x80000000, 0x7FFF0000, 0x00050000
_REFUSE = (_LEAVE, 0, 0, _ERROR | _EPERM)
_Line = tuple[int, int, int, int]


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(what: str, number: int, *arguments: object) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *arguments), what)


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    texts = [text.encode() if text is not None else None for text in (source, target, kind, options)]
    result = _libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3])
    _check(result, f"mount {kind or source} on {target}")


def make_read_only(path: str) -> None:
    """Make the mount at ``path`` and all below it read-only, without devices and set-user-id programs."""
    attributes = struct.pack("QQQQ", MS_RDONLY | MS_NOSUID | MS_NODEV, 0, 0, 0)
    _syscall(f"mount_setattr {path}", _MOUNT_SETATTR, -1, path.encode(), _AT_RECURSIVE, attributes, ctypes.c_size_t(32))


def change_root(path: str) -> None:
    """Make ``path`` the root folder and detach everything that was mounted before."""
    os.chdir(path)
    _syscall("pivot_root", _PIVOT_ROOT, b".", b".")
    _check(_libc.umount2(b".", MNT_DETACH), "umount2 of the old root")
    os.chdir("/")


def die_with_parent() -> None:
    """Let the kernel kill this process when the thread that started it ends. A change of user clears this."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0), "prctl PDEATHSIG")


def be_inspectable() -> None:
    """After a change of user a process may not open its own /proc/self/uid_map until it is dumpable again."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0), "prctl DUMPABLE")


def drop_capabilities() -> None:
    """Give up all capabilities, for good."""
    number = 0
    while _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) == 0:
        number += 1
    header = struct.pack("Ii", 0x20080522, 0)
    _syscall("capset", _CAPSET, header, struct.pack("6I", *[0] * 6))


def no_new_privileges() -> None:
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl NO_NEW_PRIVS")


def landlock_version() -> int:
    """The kernel's Landlock version; 0 where there is none."""
    return max(_libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_LANDLOCK_VERSION)), 0)


def landlock(readable: list[str], writable: list[str]) -> None:
    """Allow reading below some paths and writing below others, and nothing else; no TCP; no signals to outside."""
    version = landlock_version()
    rights = (1 << _LANDLOCK_RIGHTS.get(version, 16)) - 1
    # Rights over files, then TCP (bind, connect) from version 4, then abstract sockets and signals from version 6.
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    attributes = struct.pack("QQQ", rights, 3 if version >= 4 else 0, 3 if version >= 6 else 0)[:size]
    rules = _syscall("landlock_create_ruleset", _LANDLOCK_CREATE, attributes, ctypes.c_size_t(size), 0)
    full = rights & ~(_MAKE_CHARACTER_DEVICE | _MAKE_BLOCK_DEVICE)
    for paths, allowed in ((readable, _READ), (writable, full)):
        for path in paths:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            mine = allowed if os.path.isdir(path) else allowed & _FOR_FILES
            _syscall(f"landlock_add_rule {path}", _LANDLOCK_ADD, rules, 1, struct.pack("=Qi", mine & rights, handle), 0)
            os.close(handle)
    _syscall("landlock_restrict_self", _LANDLOCK_RESTRICT, rules, 0)
    os.close(rules)


def seccomp() -> None:
    """Refuse the system calls in `DENIED`, and some others by their arguments. Needs no_new_privileges."""
    # A line is (operation, jump if true, jump if false, constant); the number is at offset 0, the architecture at 4.
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _AUDIT_ARCH), (_LEAVE, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    if _X86:  # the x32 interface has numbers of its own
        program += [(_AT_LEAST, 0, 1, 0x40000000), _REFUSE]
    for numbers in DENIED.values():
        number = numbers[0 if _X86 else 1]
        if number is not None:
            program += [(_EQUAL, 0, 1, number), _REFUSE]
    # The flags of clone3 lie in memory that a filter cannot read; without it libc falls back to clone.
    program += [(_EQUAL, 0, 1, _CLONE3), (_LEAVE, 0, 0, _ERROR | _ENOSYS)]
    program += _by_argument(_CLONE, 0, [(_ANY_BIT, 0, 1, _ALL_NAMESPACES), _REFUSE])
    families = [(_EQUAL, len(_SOCKET_FAMILIES) - i, 0, family) for i, family in enumerate(_SOCKET_FAMILIES)]
    program += _by_argument(_SOCKET, 0, [*families, _REFUSE])
    # The end of whoever watches has to be the end of this process, and what it uses has to be open to view.
    private = [(_EQUAL, 1, 0, _PR_SET_PDEATHSIG), (_EQUAL, 0, 1, _PR_SET_DUMPABLE), _REFUSE]
    program += _by_argument(_PRCTL, 0, private)
    # Shared memory without a file stays when nobody has it mapped, and then no process shows it as its own.
    program += _by_argument(_MMAP, 3, [(_AND, 0, 0, _SHARED_ANONYMOUS), (_EQUAL, 0, 1, _SHARED_ANONYMOUS), _REFUSE])
    # What waits in a socket is nobody's memory either; its size is bounded where it cannot be set.
    program += _by_argument(_SETSOCKOPT, 2, [(_EQUAL, 0, 1, _SO_SNDBUF), _REFUSE])
    program.append((_LEAVE, 0, 0, _ALLOW))
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code)
    filter_program = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(buffer))
    _check(_libc.prctl(_PR_SET_SECCOMP, 2, filter_program, 0, 0), "seccomp")


def _by_argument(number: int, argument: int, lines: list[_Line]) -> list[_Line]:
    """Decide about one system call by (the low half of) an argument: where no line leaves, it is allowed."""
    body = [(_LOAD, 0, 0, 16 + 8 * argument), *lines, (_LEAVE, 0, 0, _ALLOW)]
    return [(_EQUAL, 0, len(body), number), *body]
