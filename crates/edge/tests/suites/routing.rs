//! Which slot and service a request reaches, and what is written on it on the way.

use crate::common::*;
use domain::Color::{Blue, Green};
use domain::slot::Endpoint;

#[tokio::test]
async fn a_request_goes_by_host_and_by_the_longest_prefix_of_whole_segments() {
    let (shop, api, cart) =
        (Backend::start("shop").await, Backend::start("api").await, Backend::start("cart").await);
    let at = |b: &Backend| vec![Endpoint::Http(b.address)];
    let routes =
        [("/", "shop", at(&shop)), ("/api", "api", at(&api)), ("/api/cart", "cart", at(&cart))];
    let edge = TestEdge::start();
    edge.client.publish(&table(1, Blue, &[(Blue, slot(1, &routes))])).await.unwrap();
    for (path, name) in [
        ("/", "shop"),
        ("/x?/api", "shop"),
        ("/apix", "shop"),
        ("/api", "api"),
        ("/api/x", "api"),
        ("/api/carts", "api"),
        ("/api/cart/1", "cart"),
    ] {
        assert_eq!(edge.get(HOST, path).await.text(), name, "{path}");
    }
    assert_eq!(edge.get("STAGING.Tea.localhost:8080", "/api").await.text(), "api");
    assert_eq!(edge.get("other.localhost", "/").await.status, 404);
}

#[tokio::test]
async fn the_preview_host_answers_with_the_slot_that_is_not_live() {
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let edge = TestEdge::start();
    edge.client.publish(&simple(1, &[&blue])).await.unwrap();
    assert_eq!(edge.get(PREVIEW, "/").await.status, 404);
    let both = [(Blue, all_to(1, &[&blue])), (Green, all_to(2, &[&green]))];
    edge.client.publish(&table(2, Blue, &both)).await.unwrap();
    assert_eq!(edge.get(PREVIEW, "/").await.text(), "green");
    assert_eq!(edge.get(HOST, "/").await.text(), "blue");
    edge.client.publish(&table(3, Green, &both)).await.unwrap();
    assert_eq!(edge.get(PREVIEW, "/").await.text(), "blue");
    assert_eq!(edge.get(HOST, "/").await.text(), "green");
}

#[tokio::test]
async fn an_error_is_told_in_the_form_asked_for_and_says_nothing_about_the_inside() {
    let gone = Backend::start("gone").await;
    let edge = TestEdge::start();
    edge.client.publish(&simple(1, &[&gone])).await.unwrap();
    let address = gone.die().await;
    let mut session = Session::open(edge.address).await;
    let json = session.get(HOST, "/x").await;
    assert_eq!((json.status, json.header("retry-after")), (503, "2"));
    assert_eq!(json.header("content-type"), "application/json");
    let id = json.header("x-request-id");
    assert!(id.len() == 32 && json.text().contains(id), "{}", json.text());
    let accept = [("accept", "text/html,*/*")];
    let html = session.ask("GET", HOST, "/x", &accept, "").await;
    assert!(html.header("content-type").starts_with("text/html"));
    assert!(html.text().contains(html.header("x-request-id")));
    let nobody = session.get("nobody.localhost", "/").await;
    assert_eq!(nobody.status, 404);
    for text in [json.text(), html.text(), nobody.text()] {
        for secret in
            [&*address.port().to_string(), "127.0.0.1", "staging", "backend", "hyper", "refused"]
        {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

#[tokio::test]
async fn an_environment_without_a_live_slot_is_unavailable_for_now() {
    let green = Backend::start("green").await;
    let edge = TestEdge::start();
    edge.client.publish(&table(1, Blue, &[(Green, all_to(1, &[&green]))])).await.unwrap();
    let reply = edge.get(HOST, "/").await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, "2"));
}

#[tokio::test]
async fn a_replica_learns_who_asked_and_nothing_that_the_client_made_up() {
    let backend = Backend::start("backend").await;
    let edge = TestEdge::start();
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    let mut session = Session::open(edge.address).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let sent = [
        ("x-forwarded-for", "6.6.6.6"),
        ("forwarded", "for=6.6.6.6"),
        ("x-real-ip", "6.6.6.6"),
        ("connection", "x-private"),
        ("x-private", "1"),
        ("x-request-id", "mine-1"),
        ("traceparent", trace),
        ("cookie", "session=1"),
    ];
    let reply = session.ask("GET", HOST, "/headers?a=b", &sent, "").await;
    let text = reply.text();
    for line in [
        "/headers?a=b HTTP/1.1".to_owned(),
        format!("host: {HOST}"),
        "x-forwarded-for: 127.0.0.1".into(),
        "x-forwarded-proto: http".into(),
        format!("x-forwarded-host: {HOST}"),
        format!("forwarded: for=127.0.0.1;host=\"{HOST}\";proto=http"),
        "cookie: session=1".into(),
        format!("traceparent: {trace}"),
    ] {
        assert!(text.lines().any(|l| l == line), "no `{line}` in {text}");
    }
    for made_up in ["6.6.6.6", "x-private", "mine-1"] {
        assert!(!text.contains(made_up), "{made_up} in {text}");
    }
    assert_eq!((reply.header("x-hop"), reply.header("x-end")), ("", "2"));
    assert!(text.contains(&format!("x-request-id: {}", reply.header("x-request-id"))));
    let fresh = session.get(HOST, "/headers").await;
    assert!(fresh.text().contains("traceparent: 00-"), "{}", fresh.text());
}

#[tokio::test]
async fn answers_without_a_body_keep_the_connection_usable() {
    let backend = Backend::start("backend").await;
    let edge = TestEdge::start();
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    let mut session = Session::open(edge.address).await;
    for _ in 0..3 {
        let head = session.ask("HEAD", HOST, "/who", &[], "").await;
        assert_eq!((head.status, head.header("content-length"), head.text()), (200, "7", ""));
        assert_eq!(session.get(HOST, "/status/204").await.status, 204);
        assert_eq!(session.get(HOST, "/status/304").await.status, 304);
        assert_eq!(session.get(HOST, "/who").await.text(), "backend");
    }
}
