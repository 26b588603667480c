-- Test data for development and staging: more teas, users and orders.
--
-- Load it as the app's own database user, as often as you like, before or after the migrations. When there are no
-- tables yet (PostgreSQL's image runs files of /docker-entrypoint-initdb.d before any migration), it only
-- leaves the procedure load_test_data(); `migrate.py up` calls that once, after the last migration, and
-- drops it. When the tables are there, it does the same at once. Nothing here repeats the schema.
--
-- Users: ada, ben, chi, dora, emil; the password of each is `guest`.

create or replace procedure load_test_data() language plpgsql as $procedure$
begin
    insert into users (name, password_hash)
    select name, (select password_hash from users where name = 'guest')
    from unnest(array['ada', 'ben', 'chi', 'dora', 'emil']) as name
    on conflict (name) do nothing;

    insert into teas (name, kind, origin, price_cents, description)
    select place || ' ' || kind || ' No. ' || number, kind, country, 400 + 70 * number, 'A tea to test with.'
    from (values ('Uji', 'Japan'), ('Nilgiri', 'India'), ('Fujian', 'China'), ('Alishan', 'Taiwan'), ('Uva', 'Sri Lanka'))
             as places (place, country),
         unnest(array['green', 'black', 'oolong']) as kind,
         generate_series(1, 4) as number
    on conflict (name) do nothing;

    -- Orders have no name to tell them by: a user who has any got them from here before, or placed them.
    insert into orders (user_id, tea_id, quantity, total_cents, at)
    select users.id, teas.id, quantity, teas.price_cents * quantity, now() - interval '37 minutes' * number
    from users
        cross join generate_series(1, 100) as number
        cross join lateral (select 1 + (users.id * 31 + number * 17) % 9 as quantity) as picked
        join lateral (
            select id, price_cents from teas order by id
            offset (users.id * 7 + number * 13) % (select count(*) from teas) limit 1
        ) as teas on true
    where users.name in ('ada', 'ben', 'chi', 'dora', 'emil')
      and not exists (select from orders where orders.user_id = users.id);
end
$procedure$;

do $$
begin
    if to_regclass('schema_migrations') is not null then
        call load_test_data();
        drop procedure load_test_data();
    end if;
end
$$;
