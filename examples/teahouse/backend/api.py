"""What the shop's page asks: teas, orders, and who is logged in."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from pydantic import BaseModel, Field

from database import Database
from edition import EDITION
from passwords import hash_password, verify_password
from pricing import order_total
from search import TEA_COLUMNS, tea_query
from sessions import COOKIE, LIFETIME_SECONDS, Sessions, User

api = APIRouter(prefix="/api")

TEA_BY_ID = f"select {TEA_COLUMNS} from teas where id = $1"  # noqa: S608 (only constants)
ORDERS_OF_USER = """
    select orders.id, orders.tea_id, teas.name as tea, orders.quantity, orders.total_cents, orders.at
    from orders join teas on teas.id = orders.tea_id
    where orders.user_id = $1 order by orders.id desc limit 100
"""
NEW_ORDER = """
    insert into orders (user_id, tea_id, quantity, total_cents) values ($1, $2, $3, $4)
    returning id, tea_id, quantity, total_cents, at
"""
# Compared against when the user is unknown, so that the answer takes as long.
NOBODY = hash_password("nobody has this password")


class Credentials(BaseModel):
    name: str = Field(min_length=1, max_length=64)
    password: str = Field(min_length=1, max_length=256)


class NewOrder(BaseModel):
    tea_id: int = Field(ge=1, le=2**31 - 1)
    quantity: int = Field(ge=1, le=100)


def database(request: Request) -> Database:
    return request.app.state.database


def sessions(request: Request) -> Sessions:
    return request.app.state.sessions


Db = Annotated[Database, Depends(database)]
SessionStore = Annotated[Sessions, Depends(sessions)]


async def visitor(request: Request, store: SessionStore) -> User:
    """The logged-in user, or 401."""
    user = await store.user(request.cookies.get(COOKIE))
    if user is None:
        raise HTTPException(401, "log in first")
    return user


Visitor = Annotated[User, Depends(visitor)]


@api.get("/version")
async def version(request: Request) -> dict[str, str]:
    return {"release": request.app.state.settings.release, "edition": EDITION}


@api.get("/teas")
async def list_teas(db: Db, q: Annotated[str | None, Query(max_length=100)] = None) -> list[dict[str, Any]]:
    sql, words = tea_query(q)
    return await db.rows(sql, *words)


@api.get("/teas/{tea_id}")
async def show_tea(tea_id: int, db: Db) -> dict[str, Any]:
    tea = await db.row(TEA_BY_ID, tea_id) if 0 < tea_id < 2**31 else None
    if tea is None:
        raise HTTPException(404, f"there is no tea {tea_id}")
    return tea


@api.post("/orders", status_code=201)
async def place_order(order: NewOrder, user: Visitor, db: Db) -> dict[str, Any]:
    async with db.transaction() as connection:
        tea = await connection.fetchrow("select name, price_cents from teas where id = $1", order.tea_id)
        if tea is None:
            raise HTTPException(404, f"there is no tea {order.tea_id}")
        total = order_total(tea["price_cents"], order.quantity)
        placed = await connection.fetchrow(NEW_ORDER, user.id, order.tea_id, order.quantity, total)
    return {**dict(placed), "tea": tea["name"]}


@api.get("/orders")
async def list_orders(user: Visitor, db: Db) -> list[dict[str, Any]]:
    return await db.rows(ORDERS_OF_USER, user.id)


@api.post("/login")
async def login(
    credentials: Credentials, request: Request, response: Response, db: Db, store: SessionStore
) -> dict[str, str]:
    found = await db.row("select id, name, password_hash from users where name = $1", credentials.name)
    kept = found["password_hash"] if found else NOBODY
    # Hashing takes tens of milliseconds: in a thread, so that others are served meanwhile.
    right = await asyncio.to_thread(verify_password, credentials.password, kept)
    if found is None or not right:
        raise HTTPException(401, "wrong name or password")
    token = await store.begin(User(found["id"], found["name"]))
    response.set_cookie(
        COOKIE,
        token,
        max_age=LIFETIME_SECONDS,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return {"name": found["name"]}


@api.post("/logout")
async def logout(request: Request, response: Response, store: SessionStore) -> dict[str, bool]:
    await store.end(request.cookies.get(COOKIE))
    response.delete_cookie(COOKIE, httponly=True, samesite="lax")
    return {"ok": True}


@api.get("/me")
async def me(user: Visitor) -> dict[str, str]:
    return {"name": user.name}
