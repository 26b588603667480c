"""Where the shop finds its database and its sessions, from the environment."""

import os
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    # URLs carry passwords: they stay out of logs.
    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    release: str

    @classmethod
    def from_environment(cls) -> "Settings":
        return cls(
            database_url=os.environ.get(
                "DATABASE_URL", "postgresql://teahouse:teahouse@127.0.0.1:5432/teahouse"
            ),
            redis_url=os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"),
            release=os.environ.get("RELEASE") or "dev",
        )
