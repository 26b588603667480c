"""Exchanges of WebSocket frames (RFC 6455) with a strict server, directly and through the edge: the same, frame by frame.

The cases follow the chapters of Autobahn's test suite: framing, pings, reserved bits, opcodes, fragments, UTF-8,
closing, sizes, and each of them sent whole and in pieces.
"""

import asyncio
import logging
import os
import struct

import websockets
from websockets.asyncio.server import serve

# It tells of every frame that it refuses, and it is here to refuse.
logging.getLogger("websockets").setLevel(logging.CRITICAL)

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
TRIES = 5
QUIET = 1.0  # seconds without a byte that end an exchange which nobody closed


def frame(opcode, payload=b"", fin=True, rsv=0, mask=True):
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    length, bit = len(payload), 0x80 if mask else 0
    if length < 126:
        head += bytes([bit | length])
    elif length < 65536:
        head += bytes([bit | 126]) + struct.pack(">H", length)
    else:
        head += bytes([bit | 127]) + struct.pack(">Q", length)
    if not mask:
        return head + payload
    key = os.urandom(4)
    pad = (key * (length // 4 + 1))[:length]
    return head + key + (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(length, "big")


def close(code=1000, reason=b""):
    return frame(CLOSE, struct.pack(">H", code) + reason)


def cases():
    end = close()
    for size in [0, 1, 125, 126, 127, 128, 65535, 65536, 1 << 20]:
        yield f"text of {size}", frame(TEXT, b"*" * size) + end
        yield f"binary of {size}", frame(BINARY, b"\xfe" * size) + end
    for size in [0, 1, 125, 126]:
        yield f"ping of {size}", frame(PING, b"p" * size) + end
    yield "pong that nobody asked for", frame(PONG, b"x") + end
    yield "ten pings", b"".join(frame(PING, str(n).encode()) for n in range(10)) + end
    for rsv in range(1, 8):
        yield f"reserved bits {rsv}", frame(TEXT, b"x", rsv=rsv) + end
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15]:
        yield f"opcode {opcode}", frame(opcode, b"x") + end
    yield "unmasked", frame(TEXT, b"x", mask=False) + end
    yield "two fragments", frame(TEXT, b"a", fin=False) + frame(0, b"b") + end
    yield "a ping between fragments", frame(TEXT, b"a", fin=False) + frame(PING, b"p") + frame(0, b"b") + end
    yield "a text between fragments", frame(TEXT, b"a", fin=False) + frame(TEXT, b"b") + end
    yield "a fragment of nothing", frame(0, b"b") + end
    yield "a ping in fragments", frame(PING, b"a", fin=False) + frame(0, b"b") + end
    yield "hundred fragments", frame(TEXT, b"a", fin=False) + frame(0, b"b", fin=False) * 98 + frame(0, b"c") + end
    for name, text in [("kosme", "κόσμε".encode()), ("four bytes", "😀".encode()), ("a surrogate", b"\xed\xa0\x80"),
                       ("overlong", b"\xc0\xaf"), ("cut", b"\xce"), ("beyond", b"\xf4\x90\x80\x80"), ("0xff", b"a\xff")]:
        yield f"UTF-8: {name}", frame(TEXT, text) + end
    yield "UTF-8 over two fragments", frame(TEXT, b"\xce", fin=False) + frame(0, b"\xba") + end
    for code in [1000, 1001, 1002, 1003, 1007, 1011, 1012, 3000, 4999, 0, 999, 1004, 1005, 1006, 1016, 2999, 5000]:
        yield f"close with {code}", close(code)
    yield "close with nothing", frame(CLOSE)
    yield "close with one byte", frame(CLOSE, b"x")
    yield "close with a reason of 123", close(1000, b"r" * 123)
    yield "close with a reason of 124", close(1000, b"r" * 124)
    yield "close with a reason that is no UTF-8", close(1000, b"\xff")
    yield "text behind a close", end + frame(TEXT, b"late")
    yield "half a frame, then silence", frame(TEXT, b"hello")[:4]


async def exchange(host, port, sent, piece):
    """What comes back, to its end: the head's status line, then every byte."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (f"GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
    writer.write(head.encode())
    answer = (await reader.readuntil(b"\r\n\r\n")).decode()
    wanted = ("http/1.1", "sec-websocket-accept", "upgrade")
    said = sorted(line.lower() for line in answer.split("\r\n") if line.lower().startswith(wanted))
    back, ended = b"", True

    async def send():
        try:
            for at in range(0, len(sent), piece):
                writer.write(sent[at : at + piece])
                await writer.drain()
        except OSError:
            pass  # Cut off: what came back tells.

    sending = asyncio.create_task(send())
    try:
        while more := await asyncio.wait_for(reader.read(65536), QUIET):
            back += more
    except (asyncio.TimeoutError, OSError) as fault:
        ended = not isinstance(fault, asyncio.TimeoutError)
    sending.cancel()
    writer.close()
    return said, back, ended


def told(exchanged):
    said, back, ended = exchanged
    return f"{said[0]}, {len(back)} bytes ending in {back[-8:].hex()}, {'ended' if ended else 'left open'}"


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def compare(host, server_port, edge_port):
    differ, count = [], 0
    limit = asyncio.Semaphore(20)

    async def one(name, sent, piece):
        async with limit:
            through = await exchange(host, edge_port, sent, piece)
            # The edge is asked once. The server's own answer varies: a Close right behind a message may overtake the
            # echo. It gets some tries to give the answer that came through the edge.
            for _ in range(TRIES):
                direct = await exchange(host, server_port, sent, piece)
                if direct == through:
                    break
            # Otherwise two refusals would count as the same.
            if not any(line.startswith("http/1.1 101") for line in direct[0]) or not (direct[1] or "silence" in name):
                raise SystemExit(f"the WebSocket server itself does not answer to `{name}`: {direct}")
            if direct != through:
                differ.append(f"{name}, in pieces of {piece}: {told(direct)} without the edge, {told(through)} through it")

    async with serve(echo, "127.0.0.1", server_port, compression=None, max_size=1 << 22):
        asking = []
        for name, sent in cases():
            for piece in [1 << 30, 7] if len(sent) < 100_000 else [1 << 30, 997]:
                asking.append(one(name, sent, piece))
        count = len(asking)
        await asyncio.gather(*asking)
    return {"cases": count, "same": count - len(differ), "differ": sorted(differ), "server": websockets.__version__}
