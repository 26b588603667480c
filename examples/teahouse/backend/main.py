"""The tea shop's backend: `uvicorn main:app`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from redis.exceptions import RedisError

from api import api
from database import Database, DatabaseUnavailableError, describe
from live import Closing, Counter, live
from sessions import Sessions
from settings import Settings

# Under the usual two seconds of whoever asks, so that the answer can name the service that hangs.
HEALTH_TIMEOUT = 1.5
# Checks that are still being cancelled; the event loop alone would not keep them.
given_up: set[asyncio.Future[None]] = set()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings = Settings.from_environment()
    app.state.settings = settings
    app.state.database = Database(settings.database_url)
    app.state.sessions = Sessions(settings.redis_url)
    await app.state.database.open()
    app.state.counter = Counter(app.state.database)
    app.state.closing = Closing()
    app.state.closing.listen()
    yield
    await app.state.sessions.close()
    await app.state.database.close()


app = FastAPI(title="Teahouse", lifespan=lifespan)
app.include_router(live)
app.include_router(api)


@app.exception_handler(DatabaseUnavailableError)
@app.exception_handler(RedisError)
async def unavailable(request: Request, error: Exception) -> JSONResponse:
    """A backing service is away: say so, and that it is worth asking again."""
    part = "sessions" if isinstance(error, RedisError) else "database"
    answer = {"detail": f"the {part} cannot be reached ({type(error).__name__}); try again shortly"}
    return JSONResponse(answer, status_code=503, headers={"Retry-After": "1"})


@app.get("/health")
async def health(request: Request) -> JSONResponse:
    """Asks both backing services; 503 names the one that failed."""
    state = request.app.state
    postgres, redis = await asyncio.gather(verdict(state.database.check), verdict(state.sessions.check))
    well = postgres == redis == "ok"
    answer = {"status": "ok" if well else "failed", "postgres": postgres, "redis": redis}
    return JSONResponse(answer, status_code=200 if well else 503)


async def verdict(check: Callable[[], Awaitable[None]]) -> str:
    """`ok`, or why not."""
    asking = asyncio.ensure_future(check())
    answered, _ = await asyncio.wait({asking}, timeout=HEALTH_TIMEOUT)
    if not answered:
        # Not awaited: giving up on a server that hangs can take seconds too.
        asking.cancel()
        given_up.add(asking)
        asking.add_done_callback(forget)
        return f"no answer within {HEALTH_TIMEOUT} s"
    error = asking.exception()
    return "ok" if error is None else describe(error)


def forget(check: asyncio.Future[None]) -> None:
    """A check that was given up has ended; how it ended is of no interest, but has to be looked at."""
    given_up.discard(check)
    if not check.cancelled():
        check.exception()
