"""The tea shop's backend: `uvicorn main:app`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from redis.exceptions import RedisError

from api import api
from database import Database, DatabaseUnavailableError, describe
from sessions import Sessions
from settings import Settings

HEALTH_TIMEOUT = 3.0


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings = Settings.from_environment()
    app.state.settings = settings
    app.state.database = Database(settings.database_url)
    app.state.sessions = Sessions(settings.redis_url)
    await app.state.database.open()
    yield
    await app.state.sessions.close()
    await app.state.database.close()


app = FastAPI(title="Teahouse", lifespan=lifespan)
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
    try:
        await asyncio.wait_for(check(), HEALTH_TIMEOUT)
    except Exception as error:  # Whatever goes wrong is the verdict.
        return describe(error)
    return "ok"
