"""PostgreSQL behind a pool that comes back by itself.

A database that restarts costs its callers a wait, not an error: whatever is safe to ask again is asked
again until `PATIENCE` is over. A write is only repeated while it cannot have reached the database.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg

CONNECT_TIMEOUT = 2.0
COMMAND_TIMEOUT = 5.0
PATIENCE = 5.0
PAUSE = 0.1

T = TypeVar("T")

# The connection is gone or could not be made; the question itself was not at fault.
GONE = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
)


class DatabaseUnavailableError(Exception):
    """The database did not answer within the patience of a request."""


class Database:
    def __init__(self, url: str, size: int = 8) -> None:
        self._url = url
        self._size = size
        self._pool: asyncpg.Pool | None = None

    async def open(self) -> None:
        """Makes the pool. No connection is needed yet, so the shop starts without its database."""
        self._pool = await asyncpg.create_pool(
            self._url,
            min_size=0,
            max_size=self._size,
            timeout=CONNECT_TIMEOUT,
            command_timeout=COMMAND_TIMEOUT,
        )

    async def close(self) -> None:
        """Waits for what is in flight, then cuts."""
        if self._pool is None:
            return
        try:
            await asyncio.wait_for(self._pool.close(), COMMAND_TIMEOUT)
        except TimeoutError:
            self._pool.terminate()

    async def rows(self, sql: str, *args: Any) -> list[dict[str, Any]]:
        """Reads; asked again when the connection breaks underneath."""

        async def read() -> list[dict[str, Any]]:
            async with self.pool.acquire(timeout=CONNECT_TIMEOUT) as connection:
                return [dict(row) for row in await connection.fetch(sql, *args)]

        return await patiently(read)

    async def row(self, sql: str, *args: Any) -> dict[str, Any] | None:
        """The first row of a read."""
        rows = await self.rows(sql, *args)
        return rows[0] if rows else None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[asyncpg.Connection]:
        """For writes: getting a working connection is repeated, what is done on it is not."""
        connection = await patiently(self._working_connection)
        try:
            async with connection.transaction():
                yield connection
        except GONE as error:
            raise DatabaseUnavailableError(describe(error)) from error
        finally:
            await self.pool.release(connection)

    async def _working_connection(self) -> asyncpg.Connection:
        connection = await self.pool.acquire(timeout=CONNECT_TIMEOUT)
        try:
            await connection.fetchval("select 1")
        except BaseException:
            await self.pool.release(connection)
            raise
        return connection

    async def check(self) -> None:
        """One question, without patience: for the health check."""
        async with self.pool.acquire(timeout=CONNECT_TIMEOUT) as connection:
            await connection.fetchval("select 1")

    @property
    def pool(self) -> asyncpg.Pool:
        if self._pool is None:
            raise DatabaseUnavailableError("the pool is not open")
        return self._pool


async def patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """Repeats `attempt` while the database is gone, at most for `PATIENCE` seconds."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + PATIENCE
    while True:
        try:
            return await attempt()
        except GONE as error:
            if clock() + PAUSE >= deadline:
                raise DatabaseUnavailableError(describe(error)) from error
        await asyncio.sleep(PAUSE)


def describe(error: BaseException) -> str:
    """The error in one line, by its name when it has no words of its own."""
    return f"{type(error).__name__}: {error}".rstrip(": ")
