"""Reaches local services.

Tries: a Unix socket in the file system, one in the abstract name space, and the sockets of usual daemons.
A correct grader: shows the process neither.
"""

EXTRA = """
import glob
import socket

usual = ["/var/run/docker.sock", "/run/dbus/system_bus_socket", "/run/systemd/private", "/run/user/0/bus"]
usual += glob.glob("/tmp/**/sock", recursive=True) + glob.glob("@TMP@/**/sock", recursive=True)
for address in ["@SOCKET@", chr(0) + "@ABSTRACT@", *usual]:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(2)
        try:
            caller.connect(address)
            print("trophy: reached", address)
        except OSError as error:
            print(repr(address), type(error).__name__)
"""
EARNS = {"ema": 4, "steps_to": 1}
