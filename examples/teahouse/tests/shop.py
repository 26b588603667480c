"""A visitor of the shop, for the tests beside this file: HTTP with a cookie, and checks with words.

Standard library only, so that these tests run wherever there is a Python.
"""

import http.client
import json
import os
import re
import sys
import urllib.parse

TIMEOUT = 10.0


class CheckFailedError(Exception):
    """The shop did something else than it should."""


class Answer:
    def __init__(self, request, response):
        self.request = request
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    def json(self):
        try:
            return json.loads(self.body)
        except ValueError:
            raise CheckFailedError(f"{self.request}: not JSON: {self.body[:200]!r}") from None

    def expect(self, status):
        if self.status != status:
            raise CheckFailedError(
                f"{self.request}: expected {status}, got {self.status}: {self.body[:300]!r}"
            )
        return self


class Visitor:
    """Asks `base_url`; keeps the session cookie."""

    def __init__(self, base_url):
        parts = urllib.parse.urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CheckFailedError(
                f"`{base_url}` is no address of a shop; write it like http://localhost:8000"
            )
        self.netloc = parts.netloc
        self.prefix = parts.path.rstrip("/")
        # Names under .localhost are this machine (RFC 6761), whatever the resolver knows about them.
        host = "127.0.0.1" if parts.hostname.endswith(".localhost") else parts.hostname
        secure = parts.scheme == "https"
        connection = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self.connection = connection(host, parts.port, timeout=TIMEOUT)
        self.cookie = None

    def get(self, path):
        return self._ask("GET", path)

    def post(self, path, body=None):
        return self._ask("POST", path, json.dumps(body if body is not None else {}).encode())

    def _ask(self, method, path, body=None):
        headers = {"Host": self.netloc, "Accept": "*/*"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self.cookie:
            headers["Cookie"] = self.cookie
        request = f"{method} {path}"
        try:
            self.connection.request(method, self.prefix + path, body=body, headers=headers)
            answer = Answer(request, self.connection.getresponse())
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            raise CheckFailedError(f"{request} to {self.netloc}: {type(error).__name__}: {error}") from error
        self._keep_cookie(answer)
        return answer

    def _keep_cookie(self, answer):
        set_cookie = answer.headers.get("Set-Cookie")
        if set_cookie is None:
            return
        pair = set_cookie.split(";", 1)[0]
        gone = re.search(r"max-age=0", set_cookie, re.IGNORECASE)
        self.cookie = None if gone else pair


def check(claim, true, seen=""):
    """Prints what holds; stops at what does not."""
    if not true:
        raise CheckFailedError(f"{claim}: not so. {seen}".rstrip())
    print(f"ok  {claim}", flush=True)


def run(test, base_url):
    """Runs `test(visitor)` against `base_url`; the exit status."""
    print(f"asking {base_url}", flush=True)
    try:
        test(Visitor(base_url))
    except CheckFailedError as error:
        print(f"FAILED  {error}", file=sys.stderr)
        return 1
    return 0


def base_url_from_environment():
    """BACKEND_HOST and BACKEND_PORT if they are there, else BASE_URL, else the usual port of a backend."""
    host, port = os.environ.get("BACKEND_HOST"), os.environ.get("BACKEND_PORT")
    if host and port:
        return f"http://{host}:{port}"
    return os.environ.get("BASE_URL", "http://127.0.0.1:8000")


def buy_tea(visitor):
    """Log in, search, order, find the order, log out, be refused."""
    visitor.get("/api/me").expect(401)
    check("a stranger is nobody", True)
    visitor.post("/api/login", {"name": "guest", "password": "wrong"}).expect(401)
    check("a wrong password is refused", True)
    visitor.post("/api/login", {"name": "guest", "password": "guest"}).expect(200)
    check("guest logs in and gets a session", visitor.cookie is not None)
    me = visitor.get("/api/me").expect(200).json()
    check("the session is guest's", me == {"name": "guest"}, f"It is {me}.")

    found = visitor.get("/api/teas?q=gyokuro%20japan").expect(200).json()
    names = [tea["name"] for tea in found]
    check("searching two words finds the tea that has both", names == ["Gyokuro Yame"], f"Found {names}.")
    tea = found[0]
    order = visitor.post("/api/orders", {"tea_id": tea["id"], "quantity": 2}).expect(201).json()
    total = 2 * tea["price_cents"]
    check(
        "two packs cost twice the price",
        order["total_cents"] == total,
        f"They cost {order['total_cents']}, not {total}.",
    )
    orders = visitor.get("/api/orders").expect(200).json()
    check("the order is in the list", order["id"] in [kept["id"] for kept in orders])

    cookie = visitor.cookie
    visitor.post("/api/logout").expect(200)
    visitor.cookie = cookie
    visitor.get("/api/orders").expect(401)
    visitor.post("/api/orders", {"tea_id": tea["id"], "quantity": 1}).expect(401)
    check("after logging out the old session is refused", True)
