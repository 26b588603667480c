"""The WebSocket and the stream of orders: from a real uvicorn without a database, and their rules."""

import asyncio
import json
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import live
from database import DatabaseUnavailableError
from live import Closing, Counter, order_events

pytestmark = pytest.mark.anyio

PATIENCE = 15


@pytest.fixture
def anyio_backend():
    return "asyncio"


@asynccontextmanager
async def shop():
    """A uvicorn on a free port; its databases are held ports at which nobody listens."""
    with socket.socket() as held, socket.socket() as listening:
        held.bind(("127.0.0.1", 0))
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.set_inheritable(True)
        nobody = f"127.0.0.1:{held.getsockname()[1]}"
        environment = {
            **os.environ,
            "DATABASE_URL": f"postgresql://shop:shop@{nobody}/shop",
            "REDIS_URL": f"redis://{nobody}/0",
            "RELEASE": "abc",
        }
        process = await asyncio.create_subprocess_exec(
            *[
                sys.executable,
                "-m",
                "uvicorn",
                "main:app",
                "--fd",
                str(listening.fileno()),
                "--no-access-log",
            ],
            cwd=Path(__file__).parent.parent,
            env=environment,
            pass_fds=[listening.fileno()],
        )
        try:
            yield process, f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_the_websocket_says_release_and_edition_each_second_and_answers_pings():
    async with asyncio.timeout(PATIENCE), shop() as (_, address), connect(f"ws://{address}/api/live") as one:
        first = json.loads(await one.recv())
        assert first["release"] == "abc"
        assert first["edition"]
        assert (first["guests"], first["packs_today"]) == (1, None)
        async with connect(f"ws://{address}/api/live") as two:
            assert json.loads(await two.recv())["guests"] == 2
        await one.send("ping")
        while await one.recv() != "pong":
            pass


async def test_a_binary_message_is_refused_with_its_code():
    async with asyncio.timeout(PATIENCE), shop() as (_, address), connect(f"ws://{address}/api/live") as one:
        await one.send(b"\x00")
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                await one.recv()
        assert closed.value.rcvd.code == 1003


async def test_a_stop_ends_both_politely_and_is_not_held_up_by_them():
    async with asyncio.timeout(PATIENCE), shop() as (process, address):
        async with (
            connect(f"ws://{address}/api/live") as one,
            httpx.AsyncClient() as client,
            client.stream("GET", f"http://{address}/api/events") as events,
        ):
            assert events.headers["content-type"].startswith("text/event-stream")
            lines = events.aiter_lines()
            assert await anext(lines) == "retry: 500"
            process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    await one.recv()
            assert closed.value.rcvd.code == 1012
            # A stream that is cut off raises here.
            [line async for line in lines]
        assert await process.wait() in (0, -signal.SIGTERM)


class Nothing(Counter):
    """A counter whose orders are put there by the test."""

    def __init__(self, *orders):
        super().__init__(None)
        self.orders = [{"id": number, "tea": "Sencha", "quantity": 1, "at": "now"} for number in orders]

    async def look(self):
        pass


async def told(counter, last_event_id):
    """The numbers of the orders of one round."""
    closing = Closing()
    events = order_events(counter, closing, "abc", last_event_id)
    assert "hello" in await anext(events)
    if last_event_id is None:
        counter.orders = [*counter.orders, {"id": 9, "tea": "Assam", "quantity": 2, "at": "now"}]
    text = await anext(events)
    closing.now()
    numbers = [line[4:] for line in text.splitlines() if line.startswith("id: ")]
    async for text in events:
        numbers += [line[4:] for line in text.splitlines() if line.startswith("id: ")]
    return [int(number) for number in numbers]


async def test_who_comes_back_gets_the_orders_that_came_meanwhile(monkeypatch):
    monkeypatch.setattr(live, "INTERVAL", 0.01)
    assert await told(Nothing(6, 7, 8), "7") == [8]
    assert await told(Nothing(6, 7, 8), None) == [9]
    assert await told(Nothing(6), "not a number") == []


class Away:
    def __init__(self):
        self.asked = 0

    async def row(self, _):
        self.asked += 1
        raise DatabaseUnavailableError("away")


async def test_many_who_look_ask_the_database_once_and_a_missing_one_stops_nobody():
    away = Away()
    counter = Counter(away)
    await asyncio.gather(*(counter.look() for _ in range(50)))
    assert (away.asked, counter.packs) == (1, None)
