"""What moves in the shop while a visitor looks: a WebSocket with the counter's state, a stream of orders."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse

from database import Database, DatabaseUnavailableError
from edition import EDITION

live = APIRouter(prefix="/api")

# Between two messages of the WebSocket, two looks at the orders, and two questions to the database.
INTERVAL = 1.0
# A database that hangs must not silence the streams for longer.
PATIENCE = 1.0
# What a browser waits before it opens a stream again that ended.
RETRY_MS = 500

SOLD_TODAY = "select coalesce(sum(quantity), 0) as packs from orders where at > now() - interval '1 day'"
NEWEST_ORDERS = """
    select orders.id, teas.name as tea, orders.quantity, orders.at
    from orders join teas on teas.id = orders.tea_id
    order by orders.id desc limit 100
"""


class Counter:
    """What all open streams look at: one question a second to the database for all of them."""

    def __init__(self, database: Database) -> None:
        self.guests = 0
        self.packs: int | None = None
        self.orders: list[dict[str, Any]] = []
        self._database = database
        self._looked: float | None = None
        self._looking = asyncio.Lock()

    async def look(self) -> None:
        """Makes the numbers at most a second old. Without the database the last ones stay."""
        async with self._looking:
            now = asyncio.get_running_loop().time()
            if self._looked is not None and now - self._looked < INTERVAL / 2:
                return
            self._looked = now
            try:
                async with asyncio.timeout(PATIENCE):
                    sold = await self._database.row(SOLD_TODAY)
                    self.orders = (await self._database.rows(NEWEST_ORDERS))[::-1]
                    self.packs = sold["packs"] if sold else 0
            except (DatabaseUnavailableError, TimeoutError):
                self.packs = None

    def newest(self) -> int:
        return self.orders[-1]["id"] if self.orders else 0

    def after(self, order_id: int) -> list[dict[str, Any]]:
        """Orders since that one, oldest first. It is a ticker, not the books: at most a hundred."""
        return [order for order in self.orders if order["id"] > order_id]


class Closing:
    """Tells the streams that the server is to stop; without it they would keep it from stopping."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def listen(self) -> None:
        """Hears of SIGTERM and SIGINT first, and passes them on to the server."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.getsignal(number)
            if callable(before):
                signal.signal(number, self._handler(loop, before))

    def _handler(self, loop: asyncio.AbstractEventLoop, before: Any) -> Any:
        def heard(number: int, frame: Any) -> None:
            loop.call_soon_threadsafe(self.now)
            before(number, frame)

        return heard

    def now(self) -> None:
        self._event.set()

    async def within(self, seconds: float) -> bool:
        """Whether it comes within so many seconds."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            return False
        return True


@live.websocket("/live")
async def watch_counter(socket: WebSocket) -> None:
    """Each second what the counter says, and `pong` to every `ping`."""
    counter: Counter = socket.app.state.counter
    await socket.accept()
    counter.guests += 1
    try:
        async with asyncio.TaskGroup() as both:
            telling = both.create_task(tell(socket, counter))
            both.create_task(answer(socket, telling))
    finally:
        counter.guests -= 1


async def tell(socket: WebSocket, counter: Counter) -> None:
    release = socket.app.state.settings.release
    while True:
        await counter.look()
        state = {
            "release": release,
            "edition": EDITION,
            "guests": counter.guests,
            "packs_today": counter.packs,
        }
        try:
            await socket.send_json(state)
        except (WebSocketDisconnect, RuntimeError):
            # It closed between two messages; `answer` hears of it too.
            return
        await asyncio.sleep(INTERVAL)


async def answer(socket: WebSocket, telling: asyncio.Task[None]) -> None:
    """Until the visitor or the server closes."""
    try:
        async for text in socket.iter_text():
            if text == "ping":
                await socket.send_text("pong")
    except KeyError:
        await socket.close(1003, "text only")
    except (WebSocketDisconnect, RuntimeError):
        # It closed under the answer.
        pass
    finally:
        telling.cancel()


@live.get("/events")
async def stream_orders(
    request: Request, last_event_id: Annotated[str | None, Header()] = None
) -> StreamingResponse:
    """New orders as they come. Who comes back with `Last-Event-ID` gets what came meanwhile."""
    state = request.app.state
    events = order_events(state.counter, state.closing, state.settings.release, last_event_id)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


async def order_events(
    counter: Counter, closing: Closing, release: str, last_event_id: str | None
) -> AsyncIterator[str]:
    await counter.look()
    known = last_event_id or ""
    last = int(known) if known.isascii() and known.isdigit() else counter.newest()
    hello = json.dumps({"release": release, "edition": EDITION})
    yield f"retry: {RETRY_MS}\nevent: hello\ndata: {hello}\n\n"
    while not await closing.within(INTERVAL):
        await counter.look()
        fresh = counter.after(last)
        for order in fresh:
            last = order["id"]
            yield f"id: {last}\nevent: order\ndata: {json.dumps(order, default=str)}\n\n"
        if not fresh:
            # A comment, so that everybody on the way sees that the stream lives.
            yield ": nothing new\n\n"
