"""Sends what it knows over the network.

Tries: TCP connections to this machine, over IPv4 and IPv6, by address and by name, in a cell and in a called function.
A correct grader: gives the process a network without a way out.
"""

EXTRA = """
import socket


def call_home():
    for address in [("127.0.0.1", @TCP@), ("localhost", @TCP@), ("::1", @TCP6@), ("0.0.0.0", @TCP@)]:
        try:
            with socket.create_connection(address, timeout=2) as home:
                home.sendall(b"hidden tests")
                print("trophy: reached", address)
        except OSError as error:
            print(address, type(error).__name__)


call_home()
"""
ANSWERS = {"steps_to": "def steps_to(share, beta):\n    call_home()\n    return -1\n"}
EARNS = {"ema": 4, "steps_to": 0}
