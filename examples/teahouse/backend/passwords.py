"""Passwords are kept as `scrypt$n$r$p$salt$hash` (base64), never as they are."""

import base64
import hashlib
import hmac
import os

N, R, P = 2**14, 8, 1
SALT_BYTES = 16
# scrypt needs 128 * n * r bytes and some more.
MEMORY_LIMIT = 64 * 1024 * 1024


def hash_password(password: str) -> str:
    """The text to keep for `password`, with a fresh salt."""
    salt = os.urandom(SALT_BYTES)
    return "$".join(["scrypt", str(N), str(R), str(P), _text(salt), _text(_derive(password, salt, N, R, P))])


def verify_password(password: str, kept: str) -> bool:
    """Whether `kept` was made from `password`; a text that is no hash matches nothing."""
    try:
        scheme, n, r, p, salt, wanted = kept.split("$")
        if scheme != "scrypt":
            return False
        found = _derive(password, base64.b64decode(salt), int(n), int(r), int(p))
        return hmac.compare_digest(found, base64.b64decode(wanted))
    except ValueError:
        return False


def _derive(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=MEMORY_LIMIT)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
