"""Takes memory that belongs to no process (2 GiB at most).

Tries: shared mappings, memfd, shared memory of System V, and files in /dev/shm, each of which outlives its maker.
A correct grader: counts or refuses them.
"""

EXTRA = """
import ctypes
import mmap
import os

STEP, STEPS = 64 << 20, 8
libc = ctypes.CDLL(None)
kept, piece = [], b"x" * (1 << 20)


def fill(descriptor):
    for _ in range(STEP >> 20):
        os.write(descriptor, piece)


def in_shm(n):
    fill(os.open(f"/dev/shm/@TRACE@{n}", os.O_CREAT | os.O_WRONLY))


def in_memfd(n):
    fill(os.memfd_create(f"m{n}"))


def in_mapping(n):
    kept.append(mmap.mmap(-1, STEP))
    kept[-1].write(b"x" * STEP)


def in_system_v(n):
    number = libc.shmget(0, STEP, 0o1600)
    if number < 0:
        raise OSError
    libc.shmat.restype = ctypes.c_void_p
    ctypes.memset(libc.shmat(number, None, 0), 1, STEP)
    libc.shmctl(number, 0, None)


for way in (in_shm, in_memfd, in_mapping, in_system_v):
    try:
        for n in range(STEPS):
            way(n)
    except (OSError, MemoryError) as error:
        print(way.__name__, n, type(error).__name__)
"""
RUNS = False
EARNS = {"ema": {0, 4}, "steps_to": {0, 1}}
STATUS = {"graded", "died"}
LIMITS = {"memory_mebibytes": 512, "disk_mebibytes": 128}
AT_MOST = {"mebibytes": 1500}
