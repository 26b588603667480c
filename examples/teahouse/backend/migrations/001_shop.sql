create table users (
    id            integer generated always as identity primary key,
    name          text not null unique,
    password_hash text not null
);

create table teas (
    id          integer generated always as identity primary key,
    name        text not null unique,
    kind        text not null,
    price_cents integer not null check (price_cents >= 0),
    description text not null default ''
);

create table orders (
    id          bigint generated always as identity primary key,
    user_id     integer not null references users,
    tea_id      integer not null references teas,
    quantity    integer not null check (quantity between 1 and 100),
    total_cents integer not null check (total_cents >= 0),
    at          timestamptz not null default now()
);

create index orders_of_user on orders (user_id, id desc);
create index orders_by_time on orders (at);
