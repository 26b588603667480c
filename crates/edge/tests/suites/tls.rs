//! TLS: certificates by name, changed while connections stay, kept through a restart; challenges; HTTPS only.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use edge::{Certificates, Challenge, Challenges, Limits};
use http::StatusCode;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::HandshakeKind;

use crate::common::tls::*;
use crate::common::*;

#[tokio::test]
async fn a_client_chooses_http_2_or_http_1() {
    let (backend, (edge, authority)) = (Backend::start("tea").await, secured(&[HOST]).await);
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    for tls12 in [false, true] {
        let both = authority.client(&["h2", "http/1.1"], tls12);
        assert_eq!(protocol(&connect(edge.https(), &both, HOST).await.unwrap()), Some(&b"h2"[..]));
        for offered in [&["http/1.1"][..], &[]] {
            let config = authority.client(offered, tls12);
            let stream = connect(edge.https(), &config, HOST).await.unwrap();
            assert_eq!(protocol(&stream), offered.first().map(|p| p.as_bytes()));
            let reply = Session::over(stream).await.get(HOST, "/headers").await;
            assert!(reply.text().contains("x-forwarded-proto: https\n"), "{}", reply.text());
            assert!(reply.text().contains("proto=https\n"), "{}", reply.text());
        }
    }
    let streams = Streams::open(&edge, &authority, HOST).await;
    let reply = streams.get(HOST, "/headers").await;
    assert!(reply.text().starts_with("/headers HTTP/1.1\n"), "{}", reply.text());
    assert!(reply.text().contains("x-forwarded-proto: https\n"), "{}", reply.text());
}

#[tokio::test]
async fn each_name_gets_its_own_certificate() {
    let (edge, authority) = (TestEdge::start(), Authority::new());
    let first = authority.issue(&["tea.example"]);
    let wild = authority.issue(&["*.tea.example", "coffee.example"]);
    put(&edge, vec![first, wild]).await;
    let config = authority.client(&[], false);
    let shown = async |name: &str| {
        connect(edge.https(), &config, name).await.map(|stream| presented(&stream))
    };
    let (first, wild) =
        (shown("tea.example").await.unwrap(), shown("coffee.example").await.unwrap());
    assert_ne!(first, wild);
    assert_eq!(shown("shop.tea.example").await.unwrap(), wild);
    // A wildcard stands for one label.
    assert!(shown("a.shop.tea.example").await.is_err());
    // Any other name gets the first one, which does not cover it.
    assert!(shown("other.example").await.is_err());
    let other = connect(edge.https(), &blind(&[]), "other.example").await.unwrap();
    assert_eq!(presented(&other), first);
    let info = edge.client.certificates().await.unwrap();
    assert_eq!(info[0].names, ["tea.example"]);
    assert_eq!(info[1].names, ["*.tea.example", "coffee.example"]);
    assert!(info[0].not_after.ends_with('Z') && info[0].fingerprint.len() == 64, "{info:?}");
}

#[tokio::test]
async fn without_a_certificate_the_handshake_is_refused() {
    let (edge, authority) = (TestEdge::start(), Authority::new());
    let config = authority.client(&[], false);
    let refused = connect(edge.https(), &config, HOST).await.unwrap_err();
    assert!(refused.to_string().contains("UnrecognisedName"), "{refused}");
}

#[tokio::test]
async fn certificates_change_without_touching_open_connections() {
    let (backend, (edge, authority)) = (Backend::start("tea").await, secured(&[HOST]).await);
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    let config = authority.client(&[], false);
    let stream = connect(edge.https(), &config, HOST).await.unwrap();
    let before = presented(&stream);
    let mut session = Session::over(stream).await;
    let streams = Streams::open(&edge, &authority, HOST).await;
    assert_eq!(session.get(HOST, "/").await.text(), "tea");
    assert_eq!(streams.get(HOST, "/").await.text(), "tea");
    put(&edge, vec![authority.issue(&["first.example"]), authority.issue(&[HOST])]).await;
    // They were shown another certificate, but one that covers the host.
    assert_eq!(session.get(HOST, "/").await.text(), "tea");
    assert_eq!(streams.get(HOST, "/").await.text(), "tea");
    let fresh = authority.client(&[], false);
    assert_ne!(presented(&connect(edge.https(), &fresh, HOST).await.unwrap()), before);
}

#[tokio::test]
async fn a_certificate_with_the_key_of_another_is_refused_and_the_old_one_stays() {
    let (edge, authority) = secured(&[HOST]).await;
    let before = edge.client.certificates().await.unwrap();
    let (good, mut wrong) = (authority.issue(&["a.example"]), authority.issue(&["b.example"]));
    wrong.key = authority.issue(&["b.example"]).key;
    let mut garbled = authority.issue(&["c.example"]);
    garbled.key = edge::PrivateKey::new("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n");
    let mut empty = authority.issue(&["d.example"]);
    empty.chain = String::new();
    for (bad, says) in [(wrong, "keys"), (garbled, "PEM private key"), (empty, "chain")] {
        let certificates = Certificates {
            certificates: vec![good.clone(), bad],
            challenges: Challenges::default(),
        };
        let error = edge.client.put_certificates(&certificates).await.unwrap_err().to_string();
        assert!(error.contains("certificate 2") && error.contains(says), "{error}");
        assert!(!error.contains("c2VjcmV0") && !error.contains("PRIVATE KEY"), "{error}");
        assert_eq!(edge.client.certificates().await.unwrap(), before);
    }
    connect(edge.https(), &authority.client(&[], false), HOST).await.unwrap();
}

#[tokio::test]
async fn a_session_is_resumed_on_any_worker() {
    let (edge, authority) = secured(&[HOST]).await;
    for tls12 in [false, true] {
        let config = authority.client(&["http/1.1"], tls12);
        let mut resumed = 0;
        for _ in 0..8 {
            let mut stream = connect(edge.https(), &config, HOST).await.unwrap();
            resumed +=
                u32::from(stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed));
            // Tickets come after the handshake, with the first bytes that are read.
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                .await
                .unwrap();
            stream.read_u8().await.unwrap();
        }
        assert_eq!(resumed, 7, "TLS 1.2: {tls12}");
    }
}

#[tokio::test]
async fn a_restarted_edge_serves_its_last_certificates_alone() {
    let (backend, (edge, authority)) = (Backend::start("tea").await, secured(&[HOST]).await);
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    let before = edge.client.certificates().await.unwrap();
    let edge = TestEdge::in_folder(edge.stop().await, limits());
    let streams = Streams::open(&edge, &authority, HOST).await;
    assert_eq!(streams.get(HOST, "/").await.text(), "tea");
    assert_eq!(edge.client.certificates().await.unwrap(), before);
}

#[tokio::test]
async fn plain_requests_are_sent_to_https_where_it_is_wanted() {
    let (backend, (edge, authority)) = (Backend::start("tea").await, secured(&[HOST]).await);
    let mut table = simple(1, &[&backend]);
    table.environments.get_mut(&staging()).unwrap().https = true;
    edge.client.publish(&table).await.unwrap();
    let mut session = Session::open(edge.address).await;
    for (method, path) in [("GET", "/a?b=c"), ("POST", "/a"), ("HEAD", "/")] {
        let reply = session.ask(method, &format!("{HOST}:80"), path, &[], "").await;
        assert_eq!(reply.status, StatusCode::PERMANENT_REDIRECT);
        let port = edge.https().port();
        assert_eq!(reply.header("location"), format!("https://{HOST}:{port}{path}"));
        assert!(!reply.headers.contains_key("strict-transport-security"));
    }
    assert_eq!(backend.requests(), 0);
    // Nobody is believed to have come over TLS because he says so.
    let lying = [("x-forwarded-proto", "https")];
    let sent = session.ask("GET", HOST, "/", &lying, "").await;
    assert_eq!(sent.status, 308);
    assert!(sent.text().contains("reached over HTTPS only"), "{}", sent.text());
    let streams = Streams::open(&edge, &authority, HOST).await;
    assert_eq!(streams.get(HOST, "/").await.text(), "tea");
}

#[tokio::test]
async fn a_request_for_a_host_with_another_certificate_is_misdirected() {
    let (backend, edge) = (Backend::start("tea").await, TestEdge::start());
    let authority = Authority::new();
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    put(&edge, vec![authority.issue(&[HOST, "third.example"]), authority.issue(&[PREVIEW])]).await;
    let streams = Streams::open(&edge, &authority, PREVIEW).await;
    assert_eq!(streams.get(HOST, "/").await.status, 421);
    let stream = connect(edge.https(), &authority.client(&[], false), PREVIEW).await.unwrap();
    assert_eq!(Session::over(stream).await.get(HOST, "/").await.status, 421);
    // The same certificate serves all its names.
    let streams = Streams::open(&edge, &authority, "third.example").await;
    assert_eq!(streams.get(HOST, "/").await.text(), "tea");
    assert_eq!(backend.requests(), 1);
}

#[tokio::test]
async fn a_request_may_name_the_whole_address_if_it_came_that_way() {
    let (backend, (edge, authority)) = (Backend::start("tea").await, secured(&[HOST]).await);
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    let request = |scheme: &str, host: &str| {
        let line = format!("GET {scheme}://{host}/headers?a=b HTTP/1.1");
        format!("{line}\r\nhost: {HOST}\r\nconnection: close\r\n\r\n")
    };
    let mut stream = connect(edge.https(), &authority.client(&[], false), HOST).await.unwrap();
    stream.write_all(request("https", HOST).as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("\r\n\r\n/headers?a=b HTTP/1.1\n"), "{answer}");
    for (scheme, host, status) in
        [("http", HOST, "200"), ("https", HOST, "421"), ("https", "other.example", "400")]
    {
        let answer = raw(edge.address, request(scheme, host).as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{scheme} {host}: {answer}");
    }
}

#[tokio::test]
async fn challenges_are_answered_only_while_they_are_pending() {
    let (backend, (edge, authority)) = (Backend::start("tea").await, secured(&[HOST]).await);
    let mut table = simple(1, &[&backend]);
    table.environments.get_mut(&staging()).unwrap().https = true;
    edge.client.publish(&table).await.unwrap();
    let acme = authority.client(&["acme-tls/1"], false);
    assert!(connect(edge.https(), &acme, HOST).await.is_err(), "there is no challenge yet");

    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&[7; 32])];
    let proof = params.self_signed(&key).unwrap();
    let challenge =
        Challenge { chain: proof.pem(), key: edge::PrivateKey::new(key.serialize_pem()) };
    let challenges = Challenges {
        http: BTreeMap::from([("token-1".into(), "token-1.thumbprint".into())]),
        tls_alpn: BTreeMap::from([(HOST.into(), challenge)]),
    };
    let certificates = vec![authority.issue(&[HOST])];
    let pending = Certificates { certificates: certificates.clone(), challenges };
    edge.client.put_certificates(&pending).await.unwrap();

    let found = edge.get("any.example", "/.well-known/acme-challenge/token-1").await;
    assert_eq!((found.status, found.text()), (200, "token-1.thumbprint"));
    let other = edge.get(HOST, "/.well-known/acme-challenge/token-2").await;
    assert_eq!(other.status, 308);
    // A client that proves nothing but that it sees the proof: as ACME servers do, it trusts no authority.
    let stream = connect(edge.https(), &blind(&["acme-tls/1"]), HOST).await.unwrap();
    assert_eq!(protocol(&stream), Some(&b"acme-tls/1"[..]));
    assert_eq!(presented(&stream), proof.der().to_vec());
    // Everybody else still gets the real one.
    connect(edge.https(), &authority.client(&["http/1.1"], false), HOST).await.unwrap();

    put(&edge, certificates).await;
    let gone = edge.get("any.example", "/.well-known/acme-challenge/token-1").await;
    assert_eq!(gone.status, 404);
    assert!(connect(edge.https(), &acme, HOST).await.is_err(), "the challenge is over");
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_cut_off() {
    let short = Limits { head: Duration::from_millis(100), ..limits() };
    let (edge, authority) = (TestEdge::with(short), Authority::new());
    put(&edge, vec![authority.issue(&[HOST])]).await;
    let mut silent = TcpStream::connect(edge.https()).await.unwrap();
    let mut buffer = Vec::new();
    let started = Instant::now();
    // However it ends, it ends.
    let _ = tokio::time::timeout(Duration::from_secs(20), silent.read_to_end(&mut buffer))
        .await
        .expect("the edge waits for ever");
    assert!(started.elapsed() >= Duration::from_millis(90));
    let mut garbage = TcpStream::connect(edge.https()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut garbage, b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _ = garbage.read_to_end(&mut buffer).await;
    assert!(!buffer.windows(4).any(|four| four == b"HTTP"), "plain HTTP was answered");
    connect(edge.https(), &authority.client(&[], false), HOST).await.unwrap();
}
