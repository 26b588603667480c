//! Real PostgreSQL and Redis under the process engine.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;

use common::*;
use domain::ServiceName;
use domain::slot::{BackingSpec, BackingStatus};
use engine::Engine;
use engine::process::ProcessEngine;

async fn status(engine: &ProcessEngine, service: &ServiceName) -> BackingStatus {
    engine.observe(&staging()).await.unwrap().backing[service].clone()
}

/// Asks the database as a client would: with the password, over TCP.
async fn sql(home: &Home, engine: &ProcessEngine, address: SocketAddr, text: &str) -> String {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let id = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let psql =
        "PATH=$(ls -d /usr/lib/postgresql/*/bin | tail -1):$PATH psql -XAtq -v ON_ERROR_STOP=1";
    let mut client = job(home, &format!("sql-{id}"), &format!("{psql} -c \"$SQL\""));
    let env = [
        ("PGHOST", address.ip().to_string()),
        ("PGPORT", address.port().to_string()),
        ("PGUSER", "tea".into()),
        ("PGPASSWORD", "sencha".into()),
        ("PGDATABASE", "teahouse".into()),
        ("SQL", text.to_owned()),
    ];
    client.env = env.map(|(name, value)| (name.to_owned(), value)).into();
    let outcome = engine.run(&client).await.unwrap();
    assert!(outcome.exit.success(), "{text}: {outcome:?}");
    outcome.tail.join("\n")
}

async fn until_replaced(engine: &ProcessEngine, service: &ServiceName, old: u32) -> BackingStatus {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let status = status(engine, service).await;
        if status.ready && status.pid != Some(old) {
            return status;
        }
        assert!(std::time::Instant::now() < deadline, "{status:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

fn postgres() -> BackingSpec {
    backing("postgres", "postgres:16-alpine")
}

#[tokio::test]
async fn postgresql_keeps_its_address_and_data_over_kills_and_stops() {
    let home = Home::new();
    let engine = home.engine();
    let spec = postgres();
    let address = engine.back(&spec).await.unwrap();
    sql(
        &home,
        &engine,
        address,
        "create table teas (name text); insert into teas values ('sencha')",
    )
    .await;
    let first = status(&engine, &spec.service).await;
    assert!(first.ready && first.address == address, "{first:?}");

    assert_eq!(engine.back(&spec).await.unwrap(), address);
    assert_eq!(status(&engine, &spec.service).await, first, "nothing was started again");

    kill(first.pid.unwrap(), "KILL");
    let second = until_replaced(&engine, &spec.service, first.pid.unwrap()).await;
    assert_eq!((second.address, second.restarts), (address, 1));
    assert_eq!(sql(&home, &engine, address, "select name from teas").await, "sencha");

    for shim in home.shims() {
        kill(shim, "KILL");
    }
    let third = until_replaced(&engine, &spec.service, second.pid.unwrap()).await;
    assert_eq!(third.address, address);
    assert_eq!(home.shims().len(), 1);
    assert_eq!(sql(&home, &engine, address, "select name from teas").await, "sencha");

    engine.down(&staging(), false).await.unwrap();
    assert_eq!(home.shims(), Vec::<u32>::new());
    let address = home.engine().back(&spec).await.unwrap();
    assert_eq!(sql(&home, &engine, address, "select name from teas").await, "sencha");

    let usage = engine.usage(&staging()).await.unwrap();
    assert!(usage[0].service == spec.service && usage[0].disk > 10 << 20, "{usage:?}");
    engine.down(&staging(), true).await.unwrap();
    assert!(!home.path().join("state/environments/staging").exists());
}

#[tokio::test]
async fn the_first_data_are_loaded_once_and_a_failed_load_leaves_nothing() {
    let home = Home::new();
    let engine = home.engine();
    let file = home.path().join("test.sql");
    fs::write(
        &file,
        "create table teas (name text);\ninsert into teas values ('sencha');\nselect 1/0;",
    )
    .unwrap();
    let spec = BackingSpec { load: Some(file.clone()), ..postgres() };
    let error = engine.back(&spec).await.unwrap_err();
    assert!(error.why.contains("division by zero"), "{error}");

    fs::write(&file, "create table teas (name text);\ninsert into teas values ('sencha');")
        .unwrap();
    let address = engine.back(&spec).await.unwrap();
    assert_eq!(sql(&home, &engine, address, "select count(*) from teas").await, "1");

    // As if we had died after the transaction and before our own record of it.
    let data = home.path().join("state/environments/staging/data/postgres");
    fs::write(data.join("load"), "").unwrap();
    engine.back(&spec).await.unwrap();
    home.engine().back(&spec).await.unwrap();
    assert_eq!(sql(&home, &engine, address, "select count(*) from teas").await, "1");
    engine.down(&staging(), true).await.unwrap();
}

#[tokio::test]
async fn a_half_made_cluster_is_made_again() {
    let home = Home::new();
    let engine = home.engine();
    let half = home.path().join("state/environments/staging/data/postgres~new/pg");
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join("PG_VERSION"), "15").unwrap();
    let address = engine.back(&postgres()).await.unwrap();
    assert_eq!(sql(&home, &engine, address, "show fsync").await, "on");
    engine.down(&staging(), true).await.unwrap();
}

#[tokio::test]
async fn a_changed_password_is_told_apart_from_a_broken_server() {
    let home = Home::new();
    let engine = home.engine();
    let mut spec = postgres();
    engine.back(&spec).await.unwrap();
    spec.env.insert("POSTGRES_PASSWORD".into(), "oolong".into());
    let error = engine.back(&spec).await.unwrap_err();
    assert!(error.why.contains("POSTGRES_PASSWORD") && !error.why.contains("oolong"), "{error}");
    engine.down(&staging(), true).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_run_is_refused_with_a_way_out() {
    let home = Home::new();
    let engine = home.engine();
    let error = engine.back(&backing("db", "mysql:8")).await.unwrap_err();
    assert!(error.why.contains("mysql") && error.why.contains("docker"), "{error}");
    let open = BackingSpec { env: BTreeMap::new(), ..postgres() };
    let error = engine.back(&open).await.unwrap_err();
    assert!(error.why.contains("POSTGRES_PASSWORD"), "{error}");
}

#[tokio::test]
async fn redis_keeps_its_address_and_sessions_over_a_stop() {
    let home = Home::new();
    let engine = home.engine();
    let spec = backing("sessions", "redis:7-alpine");
    let address = engine.back(&spec).await.unwrap();
    let ask = |id: &str, command: &str| {
        let command = format!("redis-cli -p {} {command}", address.port());
        let (engine, job) = (engine.clone(), job(&home, id, &command));
        async move { engine.run(&job).await.unwrap().tail.join("") }
    };
    assert_eq!(ask("set", "set session:1 ann").await, "OK");
    let first = status(&engine, &spec.service).await;
    assert_eq!(engine.back(&spec).await.unwrap(), address);
    assert_eq!(status(&engine, &spec.service).await, first);
    engine.down(&staging(), false).await.unwrap();
    assert_eq!(engine.back(&spec).await.unwrap(), address);
    assert_eq!(ask("get", "get session:1").await, "ann");
    engine.down(&staging(), true).await.unwrap();
}
