"""Who is logged in: a random token in a cookie, its owner in Redis."""

import hashlib
import json
import secrets
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

COOKIE = "session"
LIFETIME_SECONDS = 7 * 24 * 3600
TIMEOUT = 2.0


@dataclass(frozen=True)
class User:
    id: int
    name: str


class Sessions:
    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(
            url,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            health_check_interval=30,
            max_connections=32,
            # A Redis that restarts costs a wait of at most about a second, not an error.
            retry=Retry(ExponentialBackoff(base=0.05, cap=0.4), retries=4),
            retry_on_error=[RedisConnectionError, RedisTimeoutError],
        )

    async def begin(self, user: User) -> str:
        """A new session; its token goes into the cookie."""
        token = secrets.token_urlsafe(32)
        await self._redis.set(
            key_of(token), json.dumps({"id": user.id, "name": user.name}), ex=LIFETIME_SECONDS
        )
        return token

    async def user(self, token: str | None) -> User | None:
        """The owner of a session that has not ended."""
        if not token:
            return None
        kept = await self._redis.get(key_of(token))
        return User(**json.loads(kept)) if kept else None

    async def end(self, token: str | None) -> None:
        if token:
            await self._redis.delete(key_of(token))

    async def check(self) -> None:
        """One question: for the health check."""
        await self._redis.ping()

    async def close(self) -> None:
        await self._redis.aclose()


def key_of(token: str) -> str:
    """Redis keeps only the token's hash, so that reading Redis does not give away sessions."""
    return f"session:{hashlib.sha256(token.encode()).hexdigest()}"
