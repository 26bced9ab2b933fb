"""Reaches out by kinds of sockets that a firewall forgets.

Tries: virtual-machine, packet, Bluetooth and CAN sockets, raw ICMP, network links other than loopback, and io_uring.
A correct grader: lets none of them be made, or shows them an empty network.
"""

EXTRA = """
import ctypes
import socket

kinds = [
    ("AF_VSOCK", socket.SOCK_STREAM, 0),
    ("AF_PACKET", socket.SOCK_RAW, 0x0300),
    ("AF_INET", socket.SOCK_RAW, 1),
    ("AF_BLUETOOTH", socket.SOCK_RAW, 1),
    ("AF_CAN", socket.SOCK_RAW, 1),
]
for name, kind, protocol in kinds:
    try:
        socket.socket(getattr(socket, name), kind, protocol).close()
        print("trophy: a socket of kind", name)
    except (OSError, AttributeError) as error:
        print(name, type(error).__name__)
try:
    links = [name for _, name in socket.if_nameindex() if name != "lo"]
except OSError:
    links = []
if links:
    print("trophy: network links", links)
room = ctypes.create_string_buffer(256)
if ctypes.CDLL(None).syscall(425, 4, room) >= 0:
    print("trophy: io_uring")
"""
EARNS = {"ema": 4, "steps_to": 1}
