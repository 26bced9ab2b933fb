"""Messages between the learner's process and the referee: whatever comes, it gives a message or the end, in time."""

from __future__ import annotations

import collections
import copy
import json
import math
import random
import socket
import struct
import threading
import time

import numpy as np
import pytest
import torch

from autograder import channel, wire
from autograder.channel import Channel, Closed
from autograder.wire import WireError
from tests.test_wire import Point, coded, no_object, numbers

INF, NAN = math.inf, math.nan


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Channel(ours), theirs


def soon(seconds=5.0):
    return time.monotonic() + seconds


def message(header, *buffers):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack(">I", len(text)) + text + b"".join(buffers)


def test_messages_arrive_one_by_one(ends):
    ours, theirs = ends
    other = Channel(theirs)
    for number in range(3):
        ours.send({"number": number}, [b"abc" * number, b""], soon())
    assert [other.receive(soon()) for _ in range(3)] == [({"number": n}, [b"abc" * n, b""]) for n in range(3)]


NO_SIZES = ("5", "null", "[-1]", "[1.0]", "[true]", "[NaN]", "[Infinity]", '["1"]', "[null]", "[[1]]", '{"a":1}')
MESSAGES = {
    "nothing": b"",
    "half a length": b"\0\0",
    "half a header": message({"buffers": []})[:-3],
    "half a buffer": message({"buffers": [10]}, b"12345"),
    "a giant header": struct.pack(">I", channel.MAX_HEADER + 1) + b"{" * 1000,
    "the longest header there is": b"\xff" * 1000,
    "no JSON": message(b"garbage"),
    "no text": message(b"\xff\xfe\0"),
    "an empty header": message(b""),
    "a list": message([]),
    "a number": message(5),
    "null": message(None),
    "a text": message("buffers"),
    "no list of buffers": message({}),
    "deep nesting": message(b'{"buffers":[],"value":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "a number of a million digits": message(b'{"buffers":[],"value":' + b"9" * 1_000_000 + b"}"),
    **{f"buffers {sizes}": message(b'{"buffers":' + sizes.encode() + b"}") for sizes in NO_SIZES},
    "buffers of terabytes": message({"buffers": [1 << 40]}),
    "many buffers of terabytes": message({"buffers": [wire.MAX_BUFFERS // 2] * 3}),
    "a number beyond all": message(b'{"buffers":[' + b"9" * 400 + b"]}"),
}


@pytest.mark.parametrize("raw", MESSAGES.values(), ids=MESSAGES.keys())
def test_what_is_no_message_closes_the_line(ends, raw):
    ours, theirs = ends
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, len(raw) + 4096)
    writer = threading.Thread(target=lambda: (theirs.sendall(raw), theirs.shutdown(socket.SHUT_WR)))
    writer.start()
    start = time.monotonic()
    try:
        with pytest.raises(Closed):
            ours.receive(soon(20))
    finally:
        ours.connection.shutdown(socket.SHUT_RD)
        writer.join()
    assert time.monotonic() - start < 10


GIANTS = {
    "header": struct.pack(">I", channel.MAX_HEADER + 1),
    "buffer": message({"buffers": [wire.MAX_BUFFERS + 1]}),
    "buffers": message({"buffers": [wire.MAX_BUFFERS // 2] * 3}),
}


@pytest.mark.parametrize("raw", GIANTS.values(), ids=GIANTS.keys())
def test_a_giant_is_refused_before_it_comes(ends, raw):
    ours, theirs = ends
    theirs.sendall(raw)
    with pytest.raises(Closed, match="a message came with"):
        ours.receive(soon(1))


def test_of_a_field_that_stands_twice_one_counts(ends):
    ours, theirs = ends
    theirs.sendall(message(b'{"value":1,"buffers":[9],"value":2,"buffers":[]}'))
    assert ours.receive(soon()) == ({"value": 2}, [])


def test_a_slow_drip_ends_at_the_deadline(ends):
    ours, theirs = ends
    done = threading.Event()

    def drip():
        for byte in message({"buffers": [], "value": "x" * 1000}):
            if done.wait(0.02):
                return
            theirs.sendall(bytes([byte]))

    writer = threading.Thread(target=drip)
    writer.start()
    start = time.monotonic()
    with pytest.raises(Closed):
        ours.receive(soon(0.2))
    done.set()
    writer.join()
    assert 0.15 < time.monotonic() - start < 5


def test_silence_ends_at_the_deadline(ends):
    ours, _ = ends
    with pytest.raises(Closed):
        ours.receive(soon(0.05))


def test_a_deadline_that_has_passed_is_over_at_once(ends):
    ours, theirs = ends
    Channel(theirs).send({}, [])
    with pytest.raises(Closed):
        ours.receive(time.monotonic() - 1)


@pytest.mark.parametrize("sizes", [[1 << 22], [100] * 50_000], ids=["one buffer", "many"])
def test_one_who_does_not_listen_is_not_waited_for(ends, sizes):
    ours, _ = ends
    with pytest.raises(Closed):
        ours.send({}, [bytes(size) for size in sizes], soon(0.1))


def test_what_is_too_large_is_not_sent_and_the_line_stays_open(ends, monkeypatch):
    ours, theirs = ends
    monkeypatch.setattr(wire, "MAX_BUFFERS", 100)
    monkeypatch.setattr(channel, "MAX_HEADER", 100)
    for header, buffers in (({}, [bytes(60)] * 2), ({"text": "x" * 100}, [])):
        with pytest.raises(WireError) as refused:
            ours.send(header, buffers, soon())
        assert not isinstance(refused.value, Closed)
    ours.send({"a": 1}, [bytes(100)], soon())
    assert Channel(theirs).receive(soon()) == ({"a": 1}, [bytes(100)])


# Garbage of all kinds

VALUES = [
    [1, 2.5, "text", None, True, 1 << 70, 3j],
    {"a": (numbers(2, 3), numbers(3, 2).T), "b": [np.arange(3), np.float32(1)], (1, 2): {3, 4}},
    [Point(numbers(2), slice(1, 2)), range(3), torch.Size([1]), torch.float32, torch.device("cpu"), b"abc", int],
    [torch.tensor([True]), np.array(["abc"]), numbers(4).requires_grad_(), numbers(3).expand(2, 3), ...],
]
JUNK = [
    "",
    "0",
    "float32",
    "O",
    "\ud800",
    [],
    {},
    [0],
    None,
    True,
    -1,
    0,
    1,
    7,
    1 << 31,
    1 << 62,
    10**400,
    0.5,
    NAN,
    INF,
]


def pieces(node, path=()):
    """All places within some JSON."""
    yield path
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        yield from pieces(value, (*path, key))


def mutated(header, choose):
    """Some JSON with one to three places exchanged, removed, doubled or renamed."""
    header = copy.deepcopy(header)
    for _ in range(choose.randint(1, 3)):
        path = choose.choice([path for path in pieces(header) if path])
        parent = header
        for key in path[:-1]:
            parent = parent[key]
        key, how = path[-1], choose.random()
        if how < 0.6:
            parent[key] = copy.deepcopy(choose.choice(JUNK))
        elif how < 0.8:
            del parent[key]
        elif isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        else:
            parent[choose.choice(["list", "tensor", "at", "shape", "of", "handle", "x"])] = parent.pop(key)
        if not list(pieces(header))[1:]:
            break
    return header


class Script:
    """A connection on which some bytes come."""

    def __init__(self, raw):
        self.raw = raw

    def settimeout(self, seconds):
        assert seconds > 0

    def recv(self, size):
        piece, self.raw = self.raw[:size], self.raw[size:]
        return piece


def outcome(raw):
    """What becomes of some bytes; anything else than a value or a WireError is raised."""
    try:
        header, buffers = Channel(Script(raw)).receive(soon())
        if "value" not in header:
            return "no value"
        wire.decode(header["value"], buffers, no_object)
    except Closed:
        return "closed"
    except WireError:
        return "refused"
    return "a value"


def test_no_mutation_of_a_message_gives_anything_but_a_value_or_a_refusal():
    choose = random.Random(3)
    messages = [coded(value) for value in VALUES]
    seen = collections.Counter()
    start = time.monotonic()
    for _ in range(3000):
        value, buffers = choose.choice(messages)
        header = {"value": value, "buffers": [len(buffer) for buffer in buffers]}
        seen[outcome(message(mutated(header, choose), *buffers))] += 1
    assert min(seen[kind] for kind in ("a value", "refused", "closed")) > 50, seen
    assert time.monotonic() - start < 60


def test_no_noise_on_the_line_gives_anything_but_a_value_or_a_refusal():
    choose = random.Random(4)
    messages = []
    for value in VALUES:
        text, buffers = coded(value)
        header = {"value": text, "buffers": [len(buffer) for buffer in buffers]}
        messages.append(message(header, *buffers))
    seen = collections.Counter()
    for _ in range(3000):
        raw = bytearray(choose.choice(messages))
        for _ in range(choose.randint(1, 8)):
            place = choose.randrange(4 if choose.random() < 0.1 else len(raw))
            how = choose.random()
            if how < 0.5:
                raw[place] = choose.randrange(256)
            elif how < 0.75:
                del raw[place : place + choose.randint(1, 9)]
            else:
                raw[place:place] = choose.randbytes(choose.randint(1, 9))
            if len(raw) < 10:
                break
        seen[outcome(bytes(raw))] += 1
    assert seen["closed"] > 50, seen
