//! Files of a slot: what is found, how it may be kept, and that nothing else can be reached.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::common::*;
use domain::Color::{Blue, Green};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn write(folder: &Path, name: &str, content: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// A folder with a page, an asset, and a secret beside it.
fn site(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "secret.txt", "secret");
    write(folder.path(), "dist/index.html", &format!("<p>{name}"));
    write(folder.path(), "dist/about/index.html", "about");
    write(folder.path(), "dist/robots.txt", "0123456789");
    write(folder.path(), &format!("dist/assets/app-{name}1234X.js"), name);
    write(folder.path(), "dist/.env", "secret");
    symlink("../secret.txt", folder.path().join("dist/leak.txt")).unwrap();
    symlink("/etc", folder.path().join("dist/etc")).unwrap();
    symlink("robots.txt", folder.path().join("dist/inside.txt")).unwrap();
    folder
}

fn served(release: u64, site: &tempfile::TempDir) -> domain::route::SlotRoutes {
    slot(release, &[("/", "frontend", files(&site.path().join("dist")))])
}

#[tokio::test]
async fn a_file_comes_with_its_type_and_how_long_it_may_be_kept() {
    let site = site("blue");
    let edge = TestEdge::start();
    edge.client.publish(&table(1, Blue, &[(Blue, served(1, &site))])).await.unwrap();
    let mut session = Session::open(edge.address).await;
    let page = session.get(HOST, "/").await;
    assert_eq!((page.status, page.text()), (200, "<p>blue"));
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(page.header("cache-control"), "no-cache");
    let asset = session.get(HOST, "/assets/app-blue1234X.js").await;
    assert_eq!(asset.header("content-type"), "text/javascript; charset=utf-8");
    assert_eq!(asset.header("cache-control"), "public, max-age=31536000, immutable");
    let head = session.ask("HEAD", HOST, "/robots.txt", &[], "").await;
    assert_eq!((head.header("content-length"), head.text()), ("10", ""));
    assert_eq!(session.get(HOST, "/inside.txt").await.text(), "0123456789");
    let post = session.ask("POST", HOST, "/", &[], "x").await;
    assert_eq!((post.status, post.header("allow")), (405, "GET, HEAD"));
    let moved = session.get(HOST, "/about?x=1").await;
    assert_eq!((moved.status, moved.header("location")), (308, "/about/?x=1"));
    assert_eq!(session.get(HOST, "/about/").await.text(), "about");
}

#[tokio::test]
async fn what_is_unchanged_is_not_sent_again_and_a_part_can_be_asked_for() {
    let site = site("blue");
    let edge = TestEdge::start();
    edge.client.publish(&table(1, Blue, &[(Blue, served(1, &site))])).await.unwrap();
    let mut session = Session::open(edge.address).await;
    let whole = session.get(HOST, "/robots.txt").await;
    let (etag, modified) =
        (whole.header("etag").to_owned(), whole.header("last-modified").to_owned());
    for condition in [("if-none-match", &*etag), ("if-modified-since", &*modified)] {
        let same = session.ask("GET", HOST, "/robots.txt", &[condition], "").await;
        assert_eq!((same.status, same.text(), same.header("etag")), (304, "", &*etag));
    }
    let other = [("if-none-match", "\"other\""), ("if-modified-since", &*modified)];
    assert_eq!(session.ask("GET", HOST, "/robots.txt", &other, "").await.status, 200);
    let ask = async |session: &mut Session, range: &str, having: &str| {
        let headers = [("range", range), ("if-range", having)];
        let count = if having.is_empty() { 1 } else { 2 };
        session.ask("GET", HOST, "/robots.txt", &headers[..count], "").await
    };
    let part = ask(&mut session, "bytes=2-4", "").await;
    assert_eq!((part.status, part.text()), (206, "234"));
    assert_eq!(part.header("content-range"), "bytes 2-4/10");
    assert_eq!(ask(&mut session, "bytes=-2", &etag).await.text(), "89");
    assert_eq!(ask(&mut session, "bytes=2-4", "\"old\"").await.status, 200);
    assert_eq!(ask(&mut session, "bytes=0-1,4-5", "").await.status, 200);
    let beyond = ask(&mut session, "bytes=10-", "").await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, "bytes */10"));
}

#[tokio::test]
async fn a_large_file_arrives_whole() {
    let site = site("blue");
    let content: String = (0..200_000).map(|n| format!("{n:07}\n")).collect();
    write(site.path(), "dist/large.txt", &content);
    // As after a restart of the machine: the disk must be asked.
    let file = fs::File::open(site.path().join("dist/large.txt")).unwrap();
    let forget = || {
        file.sync_all().unwrap();
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    };
    let edge = TestEdge::start();
    edge.client.publish(&table(1, Blue, &[(Blue, served(1, &site))])).await.unwrap();
    for _ in 0..2 {
        forget();
        assert!(edge.get(HOST, "/large.txt").await.text() == content);
        // And again, from memory.
        assert!(edge.get(HOST, "/large.txt").await.text() == content);
    }
    forget();
    let range = [("range", "bytes=100001-1500000")];
    let part = Session::open(edge.address).await.ask("GET", HOST, "/large.txt", &range, "").await;
    assert_eq!((part.status, part.header("content-length")), (206, "1400000"));
    assert!(part.text() == &content[100_001..=1_500_000]);
}

#[tokio::test]
async fn a_file_that_is_cut_while_it_is_sent_breaks_the_answer_off() {
    let site = site("blue");
    let path = site.path().join("dist/film.bin");
    // Larger than what the kernel takes for a client that does not read.
    let length = 64 * 1024 * 1024;
    fs::File::create(&path).unwrap().set_len(length).unwrap();
    let edge = TestEdge::start();
    edge.client.publish(&table(1, Blue, &[(Blue, served(1, &site))])).await.unwrap();
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    let request = format!("GET /film.bin HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut first = [0; 1000];
    stream.read_exact(&mut first).await.unwrap();
    let head = String::from_utf8_lossy(&first);
    assert!(head.starts_with("HTTP/1.1 200") && head.contains(&length.to_string()), "{head}");
    fs::File::options().write(true).open(&path).unwrap().set_len(1000).unwrap();
    let mut rest = Vec::new();
    // However the connection ends, it ends.
    let read = stream.read_to_end(&mut rest);
    let _ = tokio::time::timeout(std::time::Duration::from_secs(20), read).await.expect("it ends");
    assert!((rest.len() as u64) < length, "{} bytes of a file that has 1000", rest.len());
    eventually("it is counted", async || {
        let facts = edge.facts(Blue, "frontend").await;
        facts.reasons.get(&domain::route::Reason::BrokenOff) == Some(&1)
    })
    .await;
    assert_eq!(edge.get(HOST, "/robots.txt").await.text(), "0123456789");
}

#[tokio::test]
async fn a_compressed_variant_is_sent_to_who_takes_it() {
    let site = site("blue");
    write(site.path(), "dist/robots.txt.gz", "gzipped");
    write(site.path(), "dist/robots.txt.br", "brotli");
    let edge = TestEdge::start();
    edge.client.publish(&table(1, Blue, &[(Blue, served(1, &site))])).await.unwrap();
    let mut session = Session::open(edge.address).await;
    for (accept, encoding, text) in [
        ("gzip, br", "br", "brotli"),
        ("gzip", "gzip", "gzipped"),
        ("gzip;q=0", "", "0123456789"),
        ("identity", "", "0123456789"),
    ] {
        let headers = [("accept-encoding", accept)];
        let reply = session.ask("GET", HOST, "/robots.txt", &headers, "").await;
        assert_eq!((reply.header("content-encoding"), reply.text()), (encoding, text), "{accept}");
        assert_eq!(reply.header("content-type"), "text/plain; charset=utf-8");
        assert_eq!(reply.header("vary"), "accept-encoding");
    }
}

#[tokio::test]
async fn a_path_of_the_application_gets_its_page_and_a_missing_file_does_not() {
    let site = site("blue");
    let edge = TestEdge::start();
    edge.client.publish(&table(1, Blue, &[(Blue, served(1, &site))])).await.unwrap();
    let mut session = Session::open(edge.address).await;
    let browser = [("accept", "text/html,application/xhtml+xml,*/*;q=0.8")];
    let page = session.ask("GET", HOST, "/orders/7", &browser, "").await;
    assert_eq!((page.status, page.text()), (200, "<p>blue"));
    for path in ["/missing.js", "/assets/gone-12345678.js"] {
        assert_eq!(session.ask("GET", HOST, path, &browser, "").await.status, 404, "{path}");
    }
    let script = [("accept", "application/json")];
    assert_eq!(session.ask("GET", HOST, "/orders/7", &script, "").await.status, 404);
}

#[tokio::test]
async fn no_name_leads_out_of_the_folder() {
    let site = site("blue");
    let edge = TestEdge::start();
    edge.client.publish(&table(1, Blue, &[(Blue, served(1, &site))])).await.unwrap();
    for path in [
        "/../secret.txt",
        "/about/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/.%2e/secret.txt",
        "/%252e%252e/secret.txt",
        "/about/..%5c..%5csecret.txt",
        "/leak.txt",
        "/etc/passwd",
        "//etc/passwd",
        "/.env",
        "/robots.txt%00.html",
        "/robots.txt/",
        "/assets",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
        let answer = raw(edge.address, request.as_bytes()).await;
        let status = &answer[9..12];
        assert!(status == "404" || status == "400", "{path}: {answer}");
        assert!(!answer.contains("secret") && !answer.contains("root:"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn an_old_page_still_finds_its_assets_after_the_switch() {
    let (blue, green) = (site("blue"), site("green"));
    let edge = TestEdge::start();
    let both = [(Blue, served(1, &blue)), (Green, served(2, &green))];
    edge.client.publish(&table(1, Blue, &both)).await.unwrap();
    let mut session = Session::open(edge.address).await;
    let page = session.get(HOST, "/").await;
    edge.client.publish(&table(2, Green, &both)).await.unwrap();
    assert_eq!(session.get(HOST, "/assets/app-blue1234X.js").await.text(), "blue");
    assert_eq!(session.get(HOST, "/assets/app-green1234X.js").await.text(), "green");
    // The page itself is the new one, also for who has the old one.
    let tag = page.header("etag").to_owned();
    let known = [("if-none-match", &*tag)];
    assert_eq!(session.ask("GET", HOST, "/", &known, "").await.text(), "<p>green");
    edge.client.publish(&table(3, Green, &[(Green, served(2, &green))])).await.unwrap();
    assert_eq!(session.get(HOST, "/assets/app-blue1234X.js").await.status, 404);
}

#[tokio::test]
async fn a_text_is_compressed_on_its_way_and_the_same_file_looks_the_same_each_time() {
    use std::io::Read;
    let site = site("blue");
    let content: String = (0..40_000).map(|n| format!("line {n}\n")).collect();
    write(site.path(), "dist/long.txt", &content);
    write(site.path(), "dist/photo.png", &content);
    let edge = TestEdge::start();
    edge.client.publish(&table(1, Blue, &[(Blue, served(1, &site))])).await.unwrap();
    let mut session = Session::open(edge.address).await;
    let accept = ("accept-encoding", "br;q=0.1, gzip;q=0.5");
    let plain = session.get(HOST, "/long.txt").await;
    let mut tags = Vec::new();
    for _ in 0..3 {
        let reply = session.ask("GET", HOST, "/long.txt", &[accept], "").await;
        assert_eq!((reply.status, reply.header("content-encoding")), (200, "gzip"));
        assert_eq!((reply.header("vary"), reply.header("accept-ranges")), ("accept-encoding", ""));
        assert!(reply.body.len() < content.len() / 3, "{} bytes", reply.body.len());
        let mut text = String::new();
        flate2::read::GzDecoder::new(&reply.body[..]).read_to_string(&mut text).unwrap();
        assert!(text == content, "the content changed on its way");
        tags.push(reply.header("etag").to_owned());
    }
    tags.dedup();
    assert!(tags.len() == 1 && tags[0] != plain.header("etag"), "{tags:?}");
    let head = session.ask("HEAD", HOST, "/long.txt", &[accept], "").await;
    assert_eq!((head.status, head.header("content-encoding"), head.text()), (200, "gzip", ""));
    let known = [accept, ("if-none-match", &*tags[0])];
    assert_eq!(session.ask("GET", HOST, "/long.txt", &known, "").await.status, 304);
    let part = [accept, ("range", "bytes=0-3")];
    let part = session.ask("GET", HOST, "/long.txt", &part, "").await;
    assert_eq!((part.status, part.header("content-encoding"), part.text()), (206, "", "line"));
    let refused = [("accept-encoding", "*;q=0.5, gzip;q=0.0")];
    for (path, headers) in [("/long.txt", &refused), ("/photo.png", &[accept])] {
        let reply = session.ask("GET", HOST, path, headers, "").await;
        assert_eq!((reply.header("content-encoding"), reply.body.len()), ("", content.len()));
    }
    let facts = edge.facts(Blue, "frontend").await;
    assert!(facts.reasons.is_empty(), "nobody left: {facts:?}");
}

#[tokio::test]
async fn a_pipe_or_a_device_in_the_folder_is_no_file_and_holds_nobody_up() {
    let site = site("blue");
    let pipe = site.path().join("dist/pipe.txt");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let edge = TestEdge::start();
    edge.client.publish(&table(1, Blue, &[(Blue, served(1, &site))])).await.unwrap();
    assert_eq!(edge.get(HOST, "/pipe.txt").await.status, 404);
    assert_eq!(edge.get(HOST, "/robots.txt").await.status, 200);
}
