"""The backend with its real PostgreSQL and Redis: `python3 tests/integration.py`.

Asks BACKEND_HOST:BACKEND_PORT, or BASE_URL, or 127.0.0.1:8000.
"""

import http.client
import sys
import time

from shop import TIMEOUT, base_url_from_environment, buy_tea, check, run


def integration(visitor):
    health = visitor.get("/health").expect(200).json()
    check(
        "the backend reaches PostgreSQL and Redis", health["postgres"] == health["redis"] == "ok", str(health)
    )
    version = visitor.get("/api/version").expect(200).json()
    check("it says what it is", bool(version["release"] and version["edition"]), str(version))

    teas = visitor.get("/api/teas").expect(200).json()
    check("there are teas to sell", len(teas) >= 12, f"There are {len(teas)}.")
    one = visitor.get(f"/api/teas/{teas[0]['id']}").expect(200).json()
    check("a tea by its number is the one of the list", one == teas[0], f"{one} is not {teas[0]}.")
    visitor.get("/api/teas/2147483647").expect(404)
    visitor.get("/api/teas/99999999999999999999").expect(404)
    check("a tea that is not there is not found", True)
    check(
        "a search for a sign of LIKE finds nothing", visitor.get("/api/teas?q=%25").expect(200).json() == []
    )

    buy_tea(visitor)

    visitor.post("/api/login", {"name": "guest", "password": "guest"}).expect(200)
    sencha = visitor.get("/api/teas?q=sencha%20asatsuyu").expect(200).json()[0]
    bulk = visitor.post("/api/orders", {"tea_id": sencha["id"], "quantity": 10}).expect(201).json()
    check("ten packs cost a tenth less", bulk["total_cents"] == sencha["price_cents"] * 9, str(bulk))
    visitor.post("/api/orders", {"tea_id": 2147483647, "quantity": 1}).expect(404)
    visitor.post("/api/orders", {"tea_id": sencha["id"], "quantity": 0}).expect(422)
    check("senseless orders are refused", True)

    told_of_an_order(visitor, sencha)


def told_of_an_order(visitor, tea):
    """Listens to the stream of orders, orders, and hears of it."""
    listener = http.client.HTTPConnection(visitor.connection.host, visitor.connection.port, timeout=TIMEOUT)
    try:
        listener.request("GET", visitor.prefix + "/api/events", headers={"Host": visitor.netloc})
        lines = listener.getresponse()
        check("the stream of orders greets", next_line(lines, b"event: ") == b"event: hello\n")
        order = visitor.post("/api/orders", {"tea_id": tea["id"], "quantity": 1}).expect(201).json()
        wanted = b"id: %d\n" % order["id"]
        check("the stream tells of a new order", next_line(lines, wanted) == wanted)
    finally:
        listener.close()


def next_line(lines, start):
    """The next line with this start, of a stream that may say other things first."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        line = lines.readline()
        if not line or line.startswith(start):
            return line
    return b""


if __name__ == "__main__":
    sys.exit(run(integration, base_url_from_environment()))
