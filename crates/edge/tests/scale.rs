//! What 100,000 routes and 100,000 hosts cost. Bounds are ratios within one run; figures are printed, see them with
//! `cargo test --release -p edge --test scale -- --nocapture`.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::*;
use domain::Color::Blue;
use domain::route::{Route, Table};

/// Whether plain requests take the fast path.
pub const FAST: bool = true;

const MANY: usize = 100_000;
const ASKED: usize = 2_000;

/// A table with `count` routes beside `/`, and as many names.
fn with(epoch: u64, count: usize, backend: &Backend) -> Table {
    let mut table = simple(epoch, &[backend]);
    let environment = table.environments.values_mut().next().unwrap();
    let slot = environment.slots.get_mut(&Blue).unwrap();
    let plain = slot.routes[0].clone();
    let route = |n| Route { prefix: format!("/shop/{n}/basket"), ..plain.clone() };
    slot.routes.extend((0..count).map(route));
    environment.names = (0..count).map(|n| format!("shop{n}.tea.localhost")).collect();
    table
}

/// How long requests take, sorted, over one connection: their hosts and routes go round.
async fn ask(edge: &TestEdge, known: usize, requests: usize) -> Vec<Duration> {
    let mut session = Session::open(edge.address).await;
    let mut took = Vec::new();
    for n in 0..requests {
        let at = n * 7919 % known;
        let (host, path) = (format!("shop{at}.tea.localhost"), format!("/shop/{at}/basket/x"));
        let began = Instant::now();
        assert_eq!(session.get(&host, &path).await.status, 200);
        took.push(began.elapsed());
    }
    took.sort();
    took
}

fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_among_very_many_routes_and_hosts_costs_about_what_it_costs_among_few() {
    let backend = Backend::start("tea").await;
    let edge = TestEdge::start();
    edge.client.publish(&with(1, 10, &backend)).await.unwrap();
    ask(&edge, 10, ASKED).await;
    let few = ask(&edge, 10, ASKED).await[ASKED / 2];
    let large = with(2, MANY, &backend);
    let client = edge.client.clone().with_deadline(Duration::from_secs(60));
    let (before, began) = (memory(), Instant::now());
    client.publish(&large).await.unwrap();
    let (published, idle) = (began.elapsed(), memory());
    // Each of them is a route of its own, seen for the first time.
    ask(&edge, MANY, ASKED).await;
    let many = ask(&edge, MANY, ASKED).await[ASKED / 2];
    println!("a request among 10 routes and hosts: {few:?}, among {MANY}: {many:?}");
    println!("published in {published:?}");
    // What is held while the old table is still there, and what the allocator keeps, is part of it.
    println!("{} bytes for each route with its host", idle.saturating_sub(before) / MANY as u64);
    assert!(many < few * 4, "{many:?} among many, {few:?} among few");
    let began = Instant::now();
    let folder = edge.stop().await;
    let (stopped, began) = (began.elapsed(), Instant::now());
    let edge = TestEdge::in_folder(folder, limits());
    println!(
        "stopped in {stopped:?}, begun again with the table from the disk in {:?}",
        began.elapsed()
    );
    assert_eq!(edge.client.status().await.unwrap().epoch, large.epoch);
    ask(&edge, MANY, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_go_on_while_a_very_large_table_is_published() {
    let backend = Backend::start("tea").await;
    let edge = TestEdge::start();
    let client = edge.client.clone().with_deadline(Duration::from_secs(60));
    client.publish(&with(1, MANY, &backend)).await.unwrap();
    let quiet = ask(&edge, MANY, ASKED).await;
    let tables: Vec<_> = (2..5).map(|epoch| with(epoch, MANY, &backend)).collect();
    let over = Arc::new(AtomicBool::new(false));
    let publish = tokio::spawn({
        let over = over.clone();
        async move {
            let began = Instant::now();
            for table in &tables {
                client.publish(table).await.unwrap();
            }
            over.store(true, SeqCst);
            began.elapsed() / tables.len() as u32
        }
    });
    let mut during = Vec::new();
    while !over.load(SeqCst) {
        during.extend(ask(&edge, MANY, 50).await);
    }
    let publish = publish.await.unwrap();
    during.sort();
    let p99 = |took: &[Duration]| took[took.len() * 99 / 100];
    let (quiet, busy) = (p99(&quiet), p99(&during));
    println!(
        "p99 {quiet:?} in quiet, {busy:?} of {} requests while publishing, {publish:?} each",
        during.len()
    );
    assert!(busy < publish / 4, "p99 is {busy:?} while a publish takes {publish:?}");
}
