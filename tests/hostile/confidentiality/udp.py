"""Sends what it knows in datagrams.

Tries: UDP to this machine, a broadcast, and a name server that could carry text in names.
A correct grader: gives the process a network without a way out.
"""

EXTRA = """
import socket

for address in [("127.0.0.1", @UDP@), ("255.255.255.255", @UDP@)]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        try:
            sender.sendto(b"hidden tests", address)
        except OSError as error:
            print(address, type(error).__name__)
try:
    print("trophy: resolved", socket.gethostbyname("example.org"))
except OSError as error:
    print(type(error).__name__)
"""
EARNS = {"ema": 4, "steps_to": 1}
