//! The load generator against a small server on loopback.

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use control::load::{FailureKind, Load, LoadError, Target, Traffic, pair, run};
use domain::units::Rate;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

type Answer = Response<Full<Bytes>>;

/// A server that answers with what `answer` makes of the request and its number.
async fn serve<F, R>(answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>, usize) -> R + Send + Sync + 'static,
    R: Future<Output = Answer> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (answer, asked) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (answer, asked) = (Arc::clone(&answer), Arc::clone(&asked));
            let service = service_fn(move |request| {
                let number = asked.fetch_add(1, Ordering::SeqCst);
                let answer = answer(request, number);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

fn answer(status: u16) -> Answer {
    Response::builder().status(status).body(Full::from("tea")).unwrap()
}

async fn fine(_: Request<Incoming>, _: usize) -> Answer {
    answer(200)
}

fn load(connect: SocketAddr, per_second: f64, millis: u64) -> Load {
    let target = Target { connect, host: "shop.localhost".into() };
    let duration = Some(Duration::from_millis(millis));
    Load { duration, ..Load::new(target, Rate(per_second)) }
}

fn forever() -> CancellationToken {
    CancellationToken::new()
}

/// Waits until `done` or panics after ten seconds.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen within ten seconds");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rate_is_held_and_every_request_is_accounted_for() {
    let server = serve(fine).await;
    let report = run(&load(server, 200.0, 2_000), &forever()).await.unwrap();
    assert!((380..=400).contains(&report.sent), "{report:#?}");
    assert_eq!(
        (report.answered, report.classes[1], report.failed()),
        (report.sent, report.sent, 0)
    );
    assert_eq!(report.abandoned, 0);
    let summary = report.summary();
    assert!(summary.rate_reached.0 >= 190.0 && summary.rate_reached.0 <= 201.0, "{summary:?}");
    assert!(
        summary.p50 <= summary.p95 && summary.p95 <= summary.p99 && summary.p99 <= summary.p999
    );
}

/// Answers at once, but once half of `total` was asked it stands still for `stall`, for everybody.
async fn stalling(total: usize, stall: Duration) -> SocketAddr {
    let until: Arc<Mutex<Option<Instant>>> = Arc::default();
    serve(move |_, number| {
        if number == total / 2 {
            *until.lock().unwrap() = Some(Instant::now() + stall);
        }
        let until = *until.lock().unwrap();
        async move {
            if let Some(until) = until {
                tokio::time::sleep_until(until).await;
            }
            answer(200)
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_shows_in_the_tail_where_a_closed_loop_would_have_hidden_it() {
    let stall = Duration::from_secs(1);
    let server = stalling(600, stall).await;
    let open = run(&load(server, 200.0, 3_000), &forever()).await.unwrap();
    assert!(open.p99 > stall / 2, "the stall is hidden: {open:#?}");

    let server = stalling(600, stall).await;
    let mut times = closed_loop(server, 600).await;
    times.sort_unstable();
    let closed_p99 = times[times.len() * 99 / 100];
    assert!(closed_p99 < open.p99 / 4, "closed {closed_p99:?}, open {:?}", open.p99);
}

/// What most generators do: send, wait for the answer, send the next.
async fn closed_loop(server: SocketAddr, requests: usize) -> Vec<Duration> {
    let stream = TokioIo::new(TcpStream::connect(server).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut times = Vec::new();
    for _ in 0..requests {
        let begun = Instant::now();
        sender.ready().await.unwrap();
        let request = Request::get("/").header("host", "h").body(Empty::<Bytes>::new()).unwrap();
        sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
        times.push(begun.elapsed());
    }
    times
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_with_5xx_are_failures_and_4xx_are_shown_by_path() {
    let server = serve(|request: Request<Incoming>, _| async move {
        match request.uri().path() {
            "/bad" => answer(503),
            "/gone" => answer(404),
            _ => answer(200),
        }
    })
    .await;
    let paths = ["/", "/bad", "/gone?x=1"].map(String::from).to_vec();
    let load = Load { paths, ..load(server, 300.0, 500) };
    let report = run(&load, &forever()).await.unwrap();
    assert_eq!(report.failures.get(&FailureKind::Status), Some(&report.by_path[1].sent));
    assert_eq!(report.failed(), report.by_path[1].failed);
    assert_eq!(report.by_path[2].refused, report.by_path[2].sent);
    let first = &report.first_failures[0];
    assert_eq!((first.path.as_str(), first.status), ("/bad", Some(503)));
    assert!(first.ended >= first.due);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_connections_are_failures_and_the_rate_is_held_all_the_same() {
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let report = run(&load(nobody, 100.0, 500), &forever()).await.unwrap();
    assert_eq!(report.failures.get(&FailureKind::Connect), Some(&report.sent));
    assert_eq!(report.answered, 0);
    assert!(report.summary().rate_reached.0 >= 95.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_answered_in_time_fails_and_counts_as_at_least_so_slow() {
    let server = serve(|_, _| pending::<Answer>()).await;
    let limit = Duration::from_millis(100);
    let load = Load { timeout: limit, ..load(server, 50.0, 400) };
    let report = run(&load, &forever()).await.unwrap();
    assert_eq!(report.failures.get(&FailureKind::Timeout), Some(&report.sent));
    assert!(report.p50 >= limit.mul_f64(0.99), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_flight_are_bounded_and_the_rest_fail_with_the_reason() {
    let now = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let server = serve({
        let most = Arc::clone(&most);
        move |_, _| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            pending::<Answer>()
        }
    })
    .await;
    let load =
        Load { max_in_flight: 5, timeout: Duration::from_secs(1), ..load(server, 100.0, 500) };
    let report = run(&load, &forever()).await.unwrap();
    assert_eq!(most.load(Ordering::SeqCst), 5);
    assert_eq!(report.failures.get(&FailureKind::Timeout), Some(&5));
    assert_eq!(report.failures.get(&FailureKind::Overloaded), Some(&(report.sent - 5)));
    assert!(report.first_failures[0].why.contains("5 requests were still unanswered"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_is_asked_in_turn() {
    let order: Arc<Mutex<Vec<String>>> = Arc::default();
    let server = serve({
        let order = Arc::clone(&order);
        move |request: Request<Incoming>, _| {
            let host = request.headers()["host"].to_str().unwrap().to_owned();
            order.lock().unwrap().push(host);
            fine(request, 0)
        }
    })
    .await;
    let live = Target { connect: server, host: "live.localhost".into() };
    let pair = pair(&load(server, 100.0, 1_000), live, &forever()).await.unwrap();
    assert!(pair.live.sent.abs_diff(pair.candidate.sent) <= 1, "{pair:?}");
    assert_eq!((pair.live.failed(), pair.candidate.failed()), (0, 0));
    assert_eq!(pair.live.host, "live.localhost");
    let order = order.lock().unwrap();
    assert_eq!(order.len() as u64, pair.live.sent + pair.candidate.sent);
    let longest = order.chunk_by(|a, b| a == b).map(<[_]>::len).max();
    assert!(longest < Some(20), "one side was asked {longest:?} times in a row: {order:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_kept_alive_and_a_close_is_honoured() {
    for close in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let opened = Arc::new(AtomicUsize::new(0));
        tokio::spawn({
            let opened = Arc::clone(&opened);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    opened.fetch_add(1, Ordering::SeqCst);
                    let connection = http1::Builder::new().keep_alive(!close).serve_connection(
                        TokioIo::new(stream),
                        service_fn(|_| async { Ok::<_, Infallible>(answer(200)) }),
                    );
                    tokio::spawn(connection);
                }
            }
        });
        let report = run(&load(address, 100.0, 500), &forever()).await.unwrap();
        assert_eq!(report.failed(), 0, "{report:#?}");
        let opened = opened.load(Ordering::SeqCst) as u64;
        let kept = opened < report.sent / 2;
        assert_eq!(kept, !close, "{opened} connections for {} requests", report.sent);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_closed_upon_a_request_is_a_failure_and_is_not_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    tokio::spawn({
        let asked = Arc::clone(&asked);
        async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let asked = Arc::clone(&asked);
                // Answers the first request of each connection, and closes upon the second.
                tokio::spawn(async move {
                    let mut buffer = [0; 1024];
                    if stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                        asked.fetch_add(1, Ordering::SeqCst);
                        let _ =
                            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                    }
                    if stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                        asked.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        }
    });
    let report = run(&load(address, 50.0, 1_000), &forever()).await.unwrap();
    let stale = report.failures.get(&FailureKind::StaleConnection).copied().unwrap_or(0);
    assert!(stale > 0 && stale == report.failed(), "{report:#?}");
    assert_eq!(asked.load(Ordering::SeqCst) as u64, report.sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_is_counted_while_it_flows_and_stops_although_an_answer_is_missing() {
    let server = serve(|request: Request<Incoming>, number| async move {
        match number {
            10 => answer(500),
            20 => pending().await,
            _ => fine(request, number).await,
        }
    })
    .await;
    let endless = Load { duration: None, ..load(server, 200.0, 0) };
    let traffic = Traffic::start(endless).unwrap();
    until("the fiftieth request", || traffic.counters().sent >= 50).await;
    let now = traffic.counters();
    assert!(now.failed == 1 && now.in_flight >= 1 && now.answered >= 20, "{now:?}");
    assert_eq!(traffic.failures()[0].status, Some(500));

    let asked = Instant::now();
    let report = traffic.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(8), "it waited for the missing answer");
    assert_eq!(report.abandoned, 1);
    assert_eq!(report.sent, report.answered, "{report:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_is_heard_between_rare_requests() {
    let server = serve(fine).await;
    let stop = forever();
    let rare = Load { duration: None, ..load(server, 1.0 / 60.0, 0) };
    let stopped = {
        let stop = stop.clone();
        tokio::spawn(async move { run(&rare, &stop).await })
    };
    sleep(Duration::from_millis(50)).await;
    stop.cancel();
    let report = tokio::time::timeout(Duration::from_secs(10), stopped).await.unwrap().unwrap();
    assert_eq!(report.unwrap().sent, 1);
}

#[tokio::test]
async fn a_load_that_cannot_be_sent_is_refused_with_a_way_out() {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let with = |paths: &[&str]| Load {
        paths: paths.iter().map(ToString::to_string).collect(),
        ..load(nowhere, 1.0, 1)
    };
    let none = run(&with(&[]), &forever()).await.unwrap_err();
    assert!(matches!(none, LoadError::NoPath { .. }));
    for path in ["api", "http://elsewhere/", "/with space"] {
        let refused = run(&with(&[path]), &forever()).await.unwrap_err();
        assert!(matches!(refused, LoadError::Path { .. }), "{path}: {refused}");
    }
}
