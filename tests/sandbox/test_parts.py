"""Where a part of the sandbox is missing: on this machine, or because somebody took it out."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from autograder import kernel, sandbox, warden
from tests.conftest import ROOT
from tests.sandbox import inmates
from tests.sandbox.inmates import refusal, system_call

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is made of parts of Linux")


# When a part is missing


def refuse(*arguments, **named):
    raise OSError(errno.ENOSYS, "a part that this machine lacks")


PARTS = [
    "unshare",
    "mount",
    "make_read_only",
    "change_root",
    "no_new_privileges",
    "landlock",
    "drop_capabilities",
    "seccomp",
]


@pytest.mark.parametrize("part", PARTS)
def test_without_a_part_nothing_runs(start, part):
    # Root's stand-in needs some of them too, before.
    def prepare():
        sandbox.become_nobody()
        setattr(kernel, part, refuse)

    outcome = start(lambda: inmates.tell(b"it runs"), prepare=prepare).outcome()
    assert "a part that this machine lacks" in outcome.error
    assert outcome.error.startswith("CannotConfine")
    assert (outcome.value, outcome.ended) == (None, "")


def test_where_children_cannot_be_watched_nothing_runs(start):
    def prepare():
        warden.can_watch = lambda: False

    outcome = start(lambda: inmates.tell(b"it runs"), prepare=prepare).outcome()
    assert outcome.error.startswith("CannotConfine: this kernel does not list")
    assert (outcome.value, outcome.ended) == (None, "")


def test_without_landlock_in_the_kernel_nothing_runs(start):
    def prepare():
        sandbox.become_nobody()
        kernel._LANDLOCK_CREATE = 1023  # no such system call

    outcome = start(lambda: inmates.tell(b"it runs"), prepare=prepare).outcome()
    assert outcome.error.startswith("CannotConfine: OSError: [Errno 38] landlock")


def test_this_machine_is_told_to_lack_user_namespaces_where_it_does(complete):
    # A namespace of users in which no further ones may be made.
    program = (
        "from pathlib import Path\n"
        "import json\n"
        "from autograder import kernel, sandbox\n"
        "kernel.unshare(kernel.CLONE_NEWUSER)\n"
        "Path('/proc/sys/user/max_user_namespaces').write_text('0')\n"
        "print(json.dumps(sandbox.missing()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (lack,) = json.loads(done.stdout)
    assert "unshare" in lack or "user namespaces" in lack


# Every probe above sees what it is there to see


def no_more():
    """What the single layers alone keep from happening."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
        network = refusal(caller.connect, ("127.0.0.1", 9))
    status = Path("/proc/self/status").read_text()
    return {
        "landlock": refusal(Path("/proc/self/comm").write_text, "x"),
        "seccomp": system_call(kernel._SETSOCKOPT, 0, 1, 7, 0, 0),
        "drop_capabilities": "CapEff:\t0000000000000000" in status,
        "make_read_only": refusal(os.open, os.__file__, os.O_WRONLY),
        "network": network,
    }


LAYERS = {
    "landlock": lambda: setattr(kernel, "landlock", lambda *arguments: None),
    "seccomp": lambda: setattr(kernel, "seccomp", lambda: None),
    "drop_capabilities": lambda: setattr(kernel, "drop_capabilities", lambda: None),
    "network": lambda: setattr(kernel, "CLONE_NEWNET", 0),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_that_is_not_there_is_noticed(start, layer):
    def prepare():
        sandbox.become_nobody()
        LAYERS[layer]()

    whole, partial = start(no_more).outcome().value, start(no_more, prepare=prepare).outcome().value
    assert whole[layer] != partial[layer]
    assert {name: value for name, value in whole.items() if name != layer} == {
        name: value for name, value in partial.items() if name != layer
    }


# Before: root gives up being root


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can give up being root")
def test_root_becomes_somebody_who_owns_nothing(complete):
    program = (
        "import json, os\n"
        "from autograder import sandbox\n"
        "sandbox.become_nobody()\n"
        "caps = [line.split()[1] for line in open('/proc/self/status') if line.startswith(('CapPrm', 'CapEff'))]\n"
        "def reads(path):\n"
        "    try: return bool(os.listdir(path) if os.path.isdir(path) else open(path).read())\n"
        "    except OSError: return False\n"
        "print(json.dumps([os.getresuid(), os.getresgid(), os.getgroups(), caps, reads('/etc/shadow')]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    users, groups, more, caps, shadow = json.loads(done.stdout)
    assert users == groups == [sandbox.nobody()] * 3
    assert more == []
    assert {int(cap, 16) for cap in caps} == {0}
    assert shadow is False
