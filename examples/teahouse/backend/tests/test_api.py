"""The app without its servers: what it answers before it asks anyone, and when nobody is there."""

import socket

import httpx
import pytest

import database
from api import visitor
from main import app, lifespan
from sessions import User

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def nobody(monkeypatch):
    """URLs at which nothing answers: the port is held, but nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        monkeypatch.setenv("DATABASE_URL", f"postgresql://shop:hunter2@127.0.0.1:{port}/shop")
        monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{port}/0")
        monkeypatch.setattr(database, "PATIENCE", 0.3)
        yield


@pytest.fixture
async def client(nobody):
    async with lifespan(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            yield client


@pytest.fixture
def logged_in():
    app.dependency_overrides[visitor] = lambda: User(1, "guest")
    yield
    app.dependency_overrides.clear()


async def test_the_version_says_release_and_edition(client):
    answer = (await client.get("/api/version")).json()
    assert answer["release"] == "dev"
    assert answer["edition"]


async def test_health_names_each_service_that_is_away_and_tells_no_password(client):
    answer = await client.get("/health")
    assert answer.status_code == 503
    assert answer.json()["postgres"] != "ok"
    assert answer.json()["redis"] != "ok"
    assert "hunter2" not in answer.text


async def test_without_the_database_teas_are_unavailable_rather_than_broken(client):
    answer = await client.get("/api/teas")
    assert answer.status_code == 503
    assert "database" in answer.json()["detail"]
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("path", ["/api/me", "/api/orders"])
async def test_who_has_no_cookie_is_asked_to_log_in(client, path):
    assert (await client.get(path)).status_code == 401


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"tea_id": 1},
        {"tea_id": 1, "quantity": 0},
        {"tea_id": 1, "quantity": 101},
        {"tea_id": 0, "quantity": 1},
    ],
)
async def test_a_senseless_order_is_refused_before_anything_is_asked(client, logged_in, order):
    assert (await client.post("/api/orders", json=order)).status_code == 422


async def test_a_login_needs_a_name_and_a_password(client):
    assert (await client.post("/api/login", json={"name": "", "password": ""})).status_code == 422


async def test_a_search_has_a_limit(client):
    assert (await client.get("/api/teas", params={"q": "x" * 101})).status_code == 422
