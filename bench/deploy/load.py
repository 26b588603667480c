"""Constant open-loop load: a request is due each so often, whatever became of those before it."""

import asyncio
import json
import time

TIMEOUT = 10.0
# Each other request asks the database; the rest say which release answered.
PATHS = ("/api/version", "/api/teas")


class Load:
    """Sends `rate` requests a second to `port` while it is entered, half of them on connections of their own.

    A request is lost if it is not answered with 200 within ten seconds. Nothing is tried twice.
    """

    def __init__(self, port, host, rate):
        self.port, self.host, self.rate = port, host, rate
        self.sent, self.lost = 0, []
        self.slowest = 0.0
        self.idle = []
        self.open = set()

    async def __aenter__(self):
        self.sender = asyncio.create_task(self.send())
        return self

    async def __aexit__(self, *_):
        self.sender.cancel()
        await asyncio.gather(self.sender, return_exceptions=True)
        await asyncio.gather(*self.open, return_exceptions=True)
        for _, writer in self.idle:
            writer.close()

    async def send(self):
        began = time.monotonic()
        while True:
            due = began + self.sent / self.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self.one(self.sent))
            self.open.add(task)
            task.add_done_callback(self.open.discard)
            self.sent += 1

    async def one(self, number):
        began = time.time()
        try:
            status, _ = await asyncio.wait_for(self.ask(PATHS[number % 2], number % 4 < 2), TIMEOUT)
            why = None if status == 200 else f"status {status}"
        except (OSError, EOFError, ValueError, IndexError, TimeoutError, asyncio.TimeoutError) as error:
            why = type(error).__name__
        self.slowest = max(self.slowest, time.time() - began)
        if why is not None:
            self.lost.append((began, why))

    async def ask(self, path, keep):
        reader, writer = self.idle.pop() if keep and self.idle else await self.connect()
        try:
            answer = await exchange(reader, writer, self.host, path, keep)
        except BaseException:
            writer.close()
            raise
        if keep and not reader.at_eof():
            self.idle.append((reader, writer))
        else:
            writer.close()
        return answer

    async def connect(self):
        return await asyncio.open_connection("127.0.0.1", self.port)


async def exchange(reader, writer, host, path, keep):
    connection = "keep-alive" if keep else "close"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: {connection}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    if fields.get("transfer-encoding") == "chunked":
        body = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
    else:
        body = await reader.readexactly(int(fields["content-length"]))
    return int(lines[0].split(" ")[1]), body


async def edition(port, host):
    """Which edition answers on a fresh connection now; None if none does."""
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 2)
        try:
            status, body = await asyncio.wait_for(exchange(reader, writer, host, "/api/version", False), 2)
        finally:
            writer.close()
        return json.loads(body)["edition"] if status == 200 else None
    except (OSError, EOFError, ValueError, IndexError, KeyError, asyncio.TimeoutError):
        return None


async def until_edition(port, host, wanted, limit):
    """The time of the first answer of this edition, asked for every ten milliseconds."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if await edition(port, host) == wanted:
            return time.time()
        await asyncio.sleep(0.01)
    return None
