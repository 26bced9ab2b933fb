"""Messages between two processes that do not trust each other, over a socket; `autograder.wire` makes what is in them.

A message is four bytes of length, a JSON header, and the buffers whose lengths the header lists.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

from autograder import wire

#: Bytes of a header.
MAX_HEADER = 8 << 20


class Closed(wire.WireError):
    """The other process has ended, or has broken the protocol so badly that nothing it says can be used."""


class Channel:
    """Messages over a connected socket, with a deadline for each."""

    def __init__(self, connection: socket.socket):
        self.connection = connection

    def send(self, header: dict[str, Any], buffers: list[bytes], deadline: float | None = None) -> None:
        """Send one message.

        Raises:
            Closed: if nobody listens (any more), or does not take it in time.
            WireError: if it is too large; nothing was sent.
        """
        sizes = [len(buffer) for buffer in buffers]
        text = json.dumps(header | {"buffers": sizes}).encode()
        if len(text) > MAX_HEADER or sum(sizes) > wire.MAX_BUFFERS:
            raise wire.WireError(f"a value of {len(text) + sum(sizes)} bytes is too large to cross")
        try:
            self._time(deadline)
            self.connection.sendall(struct.pack(">I", len(text)) + text)
            for buffer in buffers:
                self._time(deadline)
                self.connection.sendall(buffer)
        except OSError as error:
            raise Closed(f"nobody takes what is sent: {error}") from None

    def receive(self, deadline: float | None = None) -> tuple[dict[str, Any], list[bytes]]:
        """Receive one message.

        Raises:
            Closed: if the other end is gone, is late, or sends what is no message.
        """
        (length,) = struct.unpack(">I", self._read(4, deadline))
        if length > MAX_HEADER:
            raise Closed(f"a message came with a header of {length} bytes")
        try:
            header = json.loads(self._read(length, deadline))
            sizes = [wire.natural(size) for size in header.pop("buffers")]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError, wire.WireError):
            raise Closed("what came is no message") from None
        if sum(sizes) > wire.MAX_BUFFERS:
            raise Closed(f"a message came with {sum(sizes)} bytes")
        return header, [self._read(size, deadline) for size in sizes]

    def _read(self, size: int, deadline: float | None) -> bytes:
        pieces, missing = [], size
        while missing:
            try:
                self._time(deadline)
                piece = self.connection.recv(min(missing, 1 << 20))
            except OSError as error:
                raise Closed(f"no answer: {error}") from None
            if not piece:
                raise Closed("the other process has ended")
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def _time(self, deadline: float | None) -> None:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError("the time is over")
        self.connection.settimeout(left)
