"""Brings the database's schema to what this release needs: `python migrate.py up|status`.

Files in migrations/ run in the order of their numbers, each once, each in a transaction together with
the note that it ran, all under one lock: two at the same time, or a death in the middle, do no harm.

Blue-green wants migrations that the release before still works with: add first (a nullable column, a
table, an index), remove in a later release, when nothing reads it any more. So a database that knows
more migrations than this release is fine: that is a rollback.
"""

import asyncio
import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from database import GONE, describe
from settings import Settings

FOLDER = Path(__file__).parent / "migrations"
NAME = re.compile(r"(\d{3})_[a-z0-9_]+\.sql")
# Any number will do, as long as everyone who migrates this database uses the same.
LOCK = 7_315_011
LOCK_PATIENCE = "60s"
# A change that waits for a lock makes everyone behind it wait too: rather fail and be run again.
TABLE_PATIENCE = "5s"
CONNECT_PATIENCE = 30.0

HISTORY = """
    create table if not exists schema_migrations (
        version    integer primary key,
        name       text not null,
        checksum   text not null,
        applied_at timestamptz not null default now()
    )
"""


class MigrationError(Exception):
    """Why the database cannot be brought to this release's schema."""


@dataclass(frozen=True)
class Migration:
    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def read_migrations(folder: Path = FOLDER) -> list[Migration]:
    """All migrations in order; a misnamed file or a number used twice is an error."""
    found: dict[int, Migration] = {}
    for path in sorted(folder.glob("*.sql")):
        match = NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"migrations/{path.name}: call it NNN_name.sql, like 004_ratings.sql")
        version = int(match[1])
        if version in found:
            raise MigrationError(
                f"migrations/{path.name}: {found[version].name} has the number {match[1]} already"
            )
        found[version] = Migration(version, path.name, path.read_text(encoding="utf-8"))
    return [found[version] for version in sorted(found)]


def pending(migrations: list[Migration], applied: dict[int, str]) -> list[Migration]:
    """What has not run yet; `applied` is version to checksum. An edited migration is an error."""
    for migration in migrations:
        if applied.get(migration.version, migration.checksum) != migration.checksum:
            raise MigrationError(
                f"migrations/{migration.name} was changed after it ran; put it back and write a new migration"
            )
    return [migration for migration in migrations if migration.version not in applied]


async def connect(url: str) -> asyncpg.Connection:
    """A connection, once the database takes one."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + CONNECT_PATIENCE
    while True:
        try:
            return await asyncpg.connect(url, timeout=5)
        except GONE as error:
            if clock() >= deadline:
                raise MigrationError(
                    f"cannot reach the database after {CONNECT_PATIENCE:.0f} s: {describe(error)}"
                ) from error
        await asyncio.sleep(0.2)


async def applied_versions(connection: asyncpg.Connection) -> dict[int, str]:
    if await connection.fetchval("select to_regclass('schema_migrations')") is None:
        return {}
    rows = await connection.fetch("select version, checksum from schema_migrations")
    return {row["version"]: row["checksum"] for row in rows}


async def up(connection: asyncpg.Connection) -> None:
    migrations = read_migrations()
    await take_lock(connection)
    await connection.execute(HISTORY)
    todo = pending(migrations, await applied_versions(connection))
    for migration in todo:
        await apply(connection, migration)
    if not todo:
        print(f"nothing to do: all {len(migrations)} migrations have run")
    await load_test_data(connection)


async def take_lock(connection: asyncpg.Connection) -> None:
    """Held until the connection ends, so a death cannot leave it behind."""
    await connection.execute(f"set lock_timeout = '{LOCK_PATIENCE}'")
    try:
        await connection.execute("select pg_advisory_lock($1)", LOCK)
    except asyncpg.LockNotAvailableError as error:
        raise MigrationError(
            f"another migration has been running for over {LOCK_PATIENCE}; look at pg_locks"
        ) from error
    await connection.execute(f"set lock_timeout = '{TABLE_PATIENCE}'")


async def apply(connection: asyncpg.Connection, migration: Migration) -> None:
    try:
        async with connection.transaction():
            await connection.execute(migration.sql)
            await connection.execute(
                "insert into schema_migrations (version, name, checksum) values ($1, $2, $3)",
                migration.version,
                migration.name,
                migration.checksum,
            )
    except asyncpg.PostgresError as error:
        raise MigrationError(
            f"migrations/{migration.name} failed and was undone: {describe(error)}"
        ) from error
    print(f"applied {migration.name}")


async def load_test_data(connection: asyncpg.Connection) -> None:
    """Where data/test.sql was loaded before there were tables, it left a procedure; call it once."""
    if await connection.fetchval("select to_regprocedure('load_test_data()')") is None:
        return
    async with connection.transaction():
        await connection.execute("call load_test_data()")
        await connection.execute("drop procedure load_test_data()")
    print("loaded the test data")


async def status(connection: asyncpg.Connection) -> None:
    migrations = read_migrations()
    todo = {migration.version for migration in pending(migrations, await applied_versions(connection))}
    for migration in migrations:
        print(f"{'pending' if migration.version in todo else 'applied'}  {migration.name}")


async def run(verb: str) -> None:
    connection = await connect(Settings.from_environment().database_url)
    try:
        await {"up": up, "status": status}[verb](connection)
    finally:
        await connection.close()


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in ("up", "status"):
        print("usage: python migrate.py up|status", file=sys.stderr)
        return 2
    try:
        asyncio.run(run(arguments[0]))
    except (MigrationError, asyncpg.PostgresError, OSError) as error:
        print(f"migrate {arguments[0]}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
