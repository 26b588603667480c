//! HTTP/2 frame by frame: what clients may do that libraries seldom do, and what no client may do.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use domain::Color::Blue;
use domain::units::Size;
use edge::Limits;

use super::fast::{Scripted, at};
use crate::common::frames::*;
use crate::common::tls::*;
use crate::common::*;

struct World {
    backend: Backend,
    edge: TestEdge,
    authority: Authority,
}

async fn world(limits: Limits) -> World {
    let (backend, edge) = (Backend::start("tea").await, TestEdge::with(limits));
    let authority = Authority::new();
    put(&edge, vec![authority.issue(&[HOST])]).await;
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    World { backend, edge, authority }
}

impl World {
    async fn open(&self, settings: &[(u16, u32)]) -> Framed {
        Framed::open(&self.edge, &self.authority, settings).await
    }
}

#[tokio::test]
async fn a_head_may_come_in_many_frames_and_nothing_else_between_them() {
    let world = world(limits()).await;
    let mut client = world.open(&[]).await;
    let head = head("GET", "/");
    client.send(HEADERS, END_STREAM, 1, &head[..1]).await;
    for byte in &head[1..head.len() - 1] {
        client.send(CONTINUATION, 0, 1, &[*byte]).await;
    }
    client.send(CONTINUATION, END_HEADERS, 1, &head[head.len() - 1..]).await;
    assert_eq!(client.answer(1).await, (OK, b"tea".to_vec()));
    client.send(HEADERS, END_STREAM, 3, &head).await;
    client.send(PING, 0, 0, &[0; 8]).await;
    assert_eq!(client.goaway().await, PROTOCOL_ERROR);
    assert_eq!(world.backend.requests(), 1);
}

#[tokio::test]
async fn a_head_that_never_ends_is_not_waited_for() {
    let short = Limits { head: Duration::from_millis(200), ..limits() };
    let world = world(short).await;
    let mut waiting = world.open(&[]).await;
    waiting.send(HEADERS, END_STREAM, 1, &head("GET", "/")).await;
    assert_eq!(waiting.goaway().await, ENHANCE_YOUR_CALM);
    let mut silent = Framed::silent(&world.edge, &world.authority).await;
    silent.write(b"PRI * HT").await;
    assert_eq!(silent.goaway().await, ENHANCE_YOUR_CALM);
    // Nor is one that is sent without an end.
    let mut endless = world.open(&[]).await;
    endless.send(HEADERS, END_STREAM, 1, &head("GET", "/")).await;
    for _ in 0..10 {
        endless.send(CONTINUATION, 0, 1, &[0; 16 * 1024]).await;
    }
    assert_eq!(endless.goaway().await, ENHANCE_YOUR_CALM);
    assert_eq!(world.backend.requests(), 0);
}

#[tokio::test]
async fn an_answer_comes_as_the_windows_of_its_client_allow() {
    let world = world(limits()).await;
    let mut client = world.open(&[(INITIAL_WINDOW_SIZE, 0)]).await;
    client.get(1, "/").await;
    assert!(!client.find(HEADERS).await.ends());
    for (byte, ends) in [(b't', false), (b'e', false), (b'a', true)] {
        client.send(WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes()).await;
        let data = client.find(DATA).await;
        assert_eq!((&data.content[..], data.ends()), (&[byte][..], ends));
    }
    // A larger window is one for streams that wait, too; a smaller one can be less than nothing.
    client.get(3, "/").await;
    client.find(HEADERS).await;
    client.send(SETTINGS, 0, 0, &settings(&[(INITIAL_WINDOW_SIZE, 2)])).await;
    assert_eq!(client.find(DATA).await.content, b"te");
    client.send(SETTINGS, 0, 0, &settings(&[(INITIAL_WINDOW_SIZE, 1)])).await;
    client.send(WINDOW_UPDATE, 0, 3, &1u32.to_be_bytes()).await;
    client.send(PING, 0, 0, &[7; 8]).await;
    assert_eq!(client.find(PING).await.content, [7; 8], "it must send nothing yet");
    client.send(WINDOW_UPDATE, 0, 3, &1u32.to_be_bytes()).await;
    assert_eq!(client.find(DATA).await.content, b"a");
}

#[tokio::test]
async fn answers_share_a_connection_evenly_and_all_come_to_their_end() {
    let world = world(limits()).await;
    // The window of the connection is the bound, and opens by a frame, or by more than all streams send in a turn.
    for step in [16 * 1024, 128 * 1024] {
        let mut client = world.open(&[(INITIAL_WINDOW_SIZE, 1 << 30)]).await;
        // 65,535 bytes are there from the beginning.
        client.send(WINDOW_UPDATE, 0, 0, &(step as u32).to_be_bytes()).await;
        let streams = [1, 3, 5];
        for stream in streams {
            client.get(stream, "/download/100").await;
        }
        let (mut came, mut first_end, mut ended, mut used) = ([0; 3], None, 0, 0);
        while ended < streams.len() {
            let frame = client.next().await.expect("the connection ended");
            assert_ne!(frame.kind, RST_STREAM, "{frame:?}");
            if frame.kind != DATA {
                continue;
            }
            came[(frame.stream / 2) as usize] += frame.content.len();
            used += frame.content.len();
            if frame.ends() {
                ended += 1;
                first_end.get_or_insert(came);
            }
            if used >= step {
                let more = std::mem::take(&mut used) as u32;
                client.send(WINDOW_UPDATE, 0, 0, &more.to_be_bytes()).await;
            }
        }
        assert_eq!(came, [100 * 64 * 1024; 3]);
        let least = first_end.unwrap().into_iter().min().unwrap();
        assert!(least > 50 * 64 * 1024, "step {step}: one had to wait: {first_end:?}");
    }
}

#[tokio::test]
async fn a_client_that_pauses_gets_the_rest_when_it_goes_on() {
    let world = world(limits()).await;
    let mut client = world.open(&[(INITIAL_WINDOW_SIZE, 1 << 30)]).await;
    client.send(WINDOW_UPDATE, 0, 0, &(1u32 << 30).to_be_bytes()).await;
    client.get(1, "/download/200").await;
    let mut last = 0;
    eventually("nothing moves any more", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = world.backend.state.uploaded.load(SeqCst);
        now > 0 && std::mem::replace(&mut last, now) == now
    })
    .await;
    assert_eq!(client.answer(1).await.1.len(), 200 * 64 * 1024);
}

#[tokio::test]
async fn an_answer_with_a_large_head_comes_in_several_frames() {
    let world = world(limits()).await;
    // Not to be compressed: most bytes of it have long codes.
    let long = "~".repeat(30_000);
    let answer = format!("HTTP/1.1 200 OK\r\nX-Long: {long}\r\ncontent-length: 2\r\n\r\nok");
    let replica = Scripted::start(&[answer.as_bytes()], false).await;
    world.edge.client.publish(&at(2, replica.address)).await.unwrap();
    let mut client = world.open(&[]).await;
    client.get(1, "/").await;
    let head = client.find(HEADERS).await;
    assert_eq!((head.flags & END_HEADERS, head.content.len()), (0, 16 * 1024));
    let rest = client.next().await.unwrap();
    assert_eq!((rest.kind, rest.flags & END_HEADERS), (CONTINUATION, END_HEADERS));
    let text = [head.content, rest.content].concat();
    assert!(text.windows(long.len()).any(|window| window == long.as_bytes()));
    let data = client.next().await.unwrap();
    assert_eq!((&data.content[..], data.ends()), (&b"ok"[..], true));
}

#[tokio::test]
async fn a_client_that_keeps_no_fields_understands_every_answer() {
    let world = world(limits()).await;
    let mut client = world.open(&[(HEADER_TABLE_SIZE, 0)]).await;
    let mut lengths = Vec::new();
    for stream in [1, 3, 5] {
        client.get(stream, "/").await;
        let head = client.find(HEADERS).await.content;
        // The table is said to be empty, once.
        let fields = if stream == 1 { head.strip_prefix(&[0x20]) } else { Some(&head[..]) };
        let fields = fields.expect("nothing was said of the table");
        assert_eq!(fields[0], OK);
        lengths.push(fields.len());
        assert_eq!(client.find(DATA).await.content, b"tea");
    }
    // Ids and dates have codes of almost the same lengths; a field that is only named takes a byte.
    let (shortest, longest) = (lengths.iter().min(), lengths.iter().max());
    assert!(longest.unwrap() - shortest.unwrap() < 16, "{lengths:?}");
}

#[tokio::test]
async fn padding_is_no_part_of_a_body_and_uses_up_no_window() {
    let world = world(limits()).await;
    let mut client = world.open(&[]).await;
    client.send(HEADERS, END_HEADERS, 1, &head("POST", "/upload")).await;
    let padded = [&[255][..], b"x", &[0; 255]].concat();
    let (mut all, mut own) = (65_535, 256 * 1024);
    // More than any window: they are given back as the body is read.
    const FRAMES: usize = 8_000;
    for n in 1..=FRAMES {
        while all < padded.len() || own < padded.len() {
            let more = client.find(WINDOW_UPDATE).await;
            let window = if more.stream == 0 { &mut all } else { &mut own };
            *window += more.number(0) as usize;
        }
        (all, own) = (all - padded.len(), own - padded.len());
        let flags = if n == FRAMES { PADDED | END_STREAM } else { PADDED };
        client.send(DATA, flags, 1, &padded).await;
    }
    assert_eq!(client.answer(1).await, (OK, b"8000".to_vec()));
    client.send(HEADERS, END_HEADERS, 3, &head("POST", "/upload")).await;
    client.send(DATA, PADDED, 3, &[9, b'x']).await;
    assert_eq!(client.goaway().await, PROTOCOL_ERROR);
}

#[tokio::test]
async fn a_body_is_as_long_as_it_said() {
    let world = world(limits()).await;
    let mut client = world.open(&[]).await;
    let promised = [head("POST", "/upload"), field("content-length", "3")].concat();
    for (stream, pieces) in [(1, &["ab", "cd"][..]), (3, &["ab"])] {
        client.send(HEADERS, END_HEADERS, stream, &promised).await;
        for (n, piece) in pieces.iter().enumerate() {
            let flags = if n + 1 == pieces.len() { END_STREAM } else { 0 };
            client.send(DATA, flags, stream, piece.as_bytes()).await;
        }
        let reset = client.find(RST_STREAM).await;
        assert_eq!((reset.stream, reset.number(0)), (stream, PROTOCOL_ERROR));
    }
    client.send(HEADERS, WHOLE, 5, &promised).await;
    let reset = client.find(RST_STREAM).await;
    assert_eq!((reset.stream, reset.number(0)), (5, PROTOCOL_ERROR));
    client.send(HEADERS, END_HEADERS, 7, &promised).await;
    client.send(DATA, END_STREAM, 7, b"abc").await;
    assert_eq!(client.answer(7).await.0, OK);
}

#[tokio::test]
async fn a_refused_upload_is_reset_only_when_its_client_had_time_to_read_why() {
    let world = world(limits()).await;
    let mut slot = all_to(1, &[&world.backend]);
    slot.routes[0].max_body = Some(Size(10));
    world.edge.client.publish(&table(2, Blue, &[(Blue, slot)])).await.unwrap();
    let mut client = world.open(&[]).await;
    let upload = [head("POST", "/upload"), field("content-length", "100000")].concat();
    client.send(HEADERS, END_HEADERS, 1, &upload).await;
    while !client.find(DATA).await.ends() {}
    // A reset beside the answer would be here before this one.
    client.send(DATA, 0, 1, &[b'a'; 1000]).await;
    client.get(3, "/").await;
    assert_eq!(client.answer(3).await, (OK, b"tea".to_vec()));
    let reset = client.find(RST_STREAM).await;
    assert_eq!((reset.stream, reset.number(0)), (1, NO_ERROR));
    assert_eq!(world.backend.requests(), 1);
}

#[tokio::test]
async fn an_upload_that_is_left_unread_after_its_answer_is_never_taken_for_the_whole() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\ntea";
    let mut replica = Scripted::start(&[answer], false).await;
    let world = world(limits()).await;
    world.edge.client.publish(&at(2, replica.address)).await.unwrap();
    let mut client = world.open(&[]).await;
    client.send(HEADERS, END_HEADERS, 1, &head("POST", "/upload")).await;
    while !client.find(DATA).await.ends() {}
    client.send(DATA, 0, 1, b"abc").await;
    client.send(DATA, END_STREAM, 1, b"").await;
    client.get(3, "/next").await;
    assert_eq!(client.answer(3).await, (OK, b"tea".to_vec()));
    assert!(replica.heads.recv().await.unwrap().starts_with("POST /upload "));
    // The end of the chunks would come here.
    let second = replica.heads.recv().await.unwrap();
    assert!(second.starts_with("GET /next "), "{second:?}");
}

#[tokio::test]
async fn more_requests_than_allowed_are_refused_and_may_be_sent_again() {
    let world = world(limits()).await;
    let mut client = world.open(&[]).await;
    for n in 0..129 {
        client.get(2 * n + 1, "/hold").await;
    }
    let reset = client.find(RST_STREAM).await;
    assert_eq!((reset.stream, reset.number(0)), (257, REFUSED_STREAM));
    eventually("the others are held", async || world.backend.requests() == 128).await;
    world.backend.go();
    for _ in 0..128 {
        while !client.find(DATA).await.ends() {}
    }
    client.get(259, "/").await;
    assert_eq!(client.answer(259).await.1, b"tea");
}

#[tokio::test]
async fn a_client_that_is_sent_away_has_what_it_sent_before_it_heard_of_that_answered() {
    let world = world(limits()).await;
    let mut client = world.open(&[]).await;
    client.get(1, "/hold").await;
    eventually("it is held", async || world.backend.requests() == 1).await;
    let World { backend, edge, .. } = world;
    let stopped = tokio::spawn(edge.stop());
    let first = client.find(GOAWAY).await;
    assert_eq!((first.number(0), first.number(4)), (u32::MAX >> 1, NO_ERROR));
    let ping = client.next().await.unwrap();
    assert_eq!(ping.kind, PING);
    client.get(3, "/").await;
    assert_eq!(client.answer(3).await.1, b"tea");
    client.send(PING, ACK, 0, &ping.content).await;
    let last = client.find(GOAWAY).await;
    assert_eq!((last.number(0), last.number(4)), (3, NO_ERROR));
    // Nothing that belongs to a request that is not answered is a fault.
    client.send(HEADERS, END_HEADERS, 5, &head("POST", "/upload")).await;
    client.send(DATA, 0, 5, b"leaves").await;
    client.send(WINDOW_UPDATE, 0, 5, &[0, 0, 0, 1]).await;
    client.send(RST_STREAM, 0, 5, &8u32.to_be_bytes()).await;
    client.send(PING, 0, 0, &[0; 8]).await;
    client.find(PING).await;
    backend.go();
    assert_eq!(client.answer(1).await.1, b"tea");
    assert!(client.next().await.is_none(), "more than that was answered");
    stopped.await.unwrap();
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_left_and_its_replicas_are_free() {
    let short = Limits { idle: Duration::from_millis(300), ..limits() };
    let world = world(short).await;
    let mut client = world.open(&[(INITIAL_WINDOW_SIZE, 1 << 30)]).await;
    client.send(WINDOW_UPDATE, 0, 0, &(1u32 << 30).to_be_bytes()).await;
    for stream in [1, 3, 5] {
        client.get(stream, "/download/1000").await;
    }
    eventually("they began", async || world.backend.requests() == 3).await;
    eventually("nothing is under way", async || {
        world.edge.facts(Blue, "backend").await.in_flight == 0
    })
    .await;
}

#[tokio::test]
async fn what_no_client_may_do_ends_its_connection_and_says_why() {
    let world = world(limits()).await;
    let get = frame(HEADERS, WHOLE, 1, &head("GET", "/"));
    let window = frame(SETTINGS, 0, 0, &settings(&[(INITIAL_WINDOW_SIZE, 1 << 31)]));
    let cases: Vec<(&str, Vec<u8>, u32)> = vec![
        ("a frame for no stream", frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
        ("a body before its head", frame(DATA, 0, 1, b"x"), PROTOCOL_ERROR),
        ("an even number", frame(HEADERS, WHOLE, 2, &head("GET", "/")), PROTOCOL_ERROR),
        (
            "a smaller number",
            [frame(HEADERS, WHOLE, 3, &head("GET", "/hold")), get.clone()].concat(),
            STREAM_CLOSED,
        ),
        ("an odd index", frame(HEADERS, WHOLE, 1, &[0x80]), COMPRESSION_ERROR),
        ("a push", frame(5, 0, 1, &[0; 4]), PROTOCOL_ERROR),
        (
            "a head that depends on itself",
            frame(HEADERS, WHOLE | 0x20, 1, &[0, 0, 0, 1, 0]),
            PROTOCOL_ERROR,
        ),
        (
            "more than a window holds",
            frame(WINDOW_UPDATE, 0, 0, &(u32::MAX >> 1).to_be_bytes()),
            FLOW_CONTROL_ERROR,
        ),
        ("a window that is too large", window, FLOW_CONTROL_ERROR),
        ("settings of half an entry", frame(SETTINGS, 0, 0, &[0; 3]), FRAME_SIZE_ERROR),
        (
            "an acknowledgement that says something",
            frame(SETTINGS, ACK, 0, &[0; 6]),
            FRAME_SIZE_ERROR,
        ),
        ("a short ping", frame(PING, 0, 0, &[0; 7]), FRAME_SIZE_ERROR),
        ("a frame that is too large", frame(DATA, 0, 1, &[0; 16 * 1024 + 1]), FRAME_SIZE_ERROR),
        ("more of nothing", frame(CONTINUATION, END_HEADERS, 1, b""), PROTOCOL_ERROR),
        ("pings without an end", frame(PING, 0, 0, &[0; 8]).repeat(11_000), ENHANCE_YOUR_CALM),
    ];
    for (what, bytes, code) in cases {
        let mut client = world.open(&[]).await;
        client.write(&bytes).await;
        assert_eq!(client.goaway().await, code, "{what}");
    }
    // What is no HTTP/2 at all, and one that does not say first how it wants to be spoken to.
    for hello in ["GET / HTTP/1.1\r\nhost: tea\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut client = Framed::silent(&world.edge, &world.authority).await;
        client.write(&[hello.as_bytes(), &get].concat()).await;
        assert_eq!(client.goaway().await, PROTOCOL_ERROR, "{hello}");
    }
}

#[tokio::test]
async fn a_client_that_has_its_requests_reset_again_and_again_is_sent_away() {
    let world = world(limits()).await;
    let mut client = world.open(&[]).await;
    for n in 0..1000 {
        client.get(2 * n + 1, "/hold").await;
        // No client may widen a window by nothing.
        client.send(WINDOW_UPDATE, 0, 2 * n + 1, &[0; 4]).await;
    }
    assert_eq!(client.goaway().await, ENHANCE_YOUR_CALM);
    assert!(world.backend.requests() < 500);
}

#[tokio::test]
async fn an_upload_beyond_its_windows_is_no_client_of_ours() {
    let world = world(limits()).await;
    let mut client = world.open(&[]).await;
    // `/hold` reads no body: what is on the way between stays below the window of the stream.
    client.send(HEADERS, END_HEADERS, 1, &head("POST", "/hold")).await;
    for _ in 0..200 {
        client.send(DATA, 0, 1, &[0; 16 * 1024]).await;
    }
    let reset = client.find(RST_STREAM).await;
    assert_eq!((reset.stream, reset.number(0)), (1, FLOW_CONTROL_ERROR));
}

#[tokio::test]
async fn what_comes_for_a_stream_that_was_refused_is_no_further_fault() {
    let world = world(limits()).await;
    let mut client = world.open(&[]).await;
    let odd = [head("POST", "/upload"), field("te", "gzip")].concat();
    client.send(HEADERS, END_HEADERS, 1, &odd).await;
    for _ in 0..300 {
        client.send(DATA, 0, 1, b"x").await;
    }
    client.send(HEADERS, WHOLE, 1, &field("x-sum", "7")).await;
    client.get(3, "/").await;
    let reset = client.find(RST_STREAM).await;
    assert_eq!((reset.stream, reset.number(0)), (1, PROTOCOL_ERROR));
    assert_eq!(client.answer(3).await.1, b"tea");
}

#[tokio::test]
async fn answers_may_be_given_up_in_their_middle_as_often_as_a_client_likes() {
    let world = world(limits()).await;
    let mut client = world.open(&[(INITIAL_WINDOW_SIZE, 1)]).await;
    for n in 0..400 {
        client.get(2 * n + 1, "/download/10").await;
        client.find(DATA).await;
        client.send(RST_STREAM, 0, 2 * n + 1, &8u32.to_be_bytes()).await;
    }
    client.get(801, "/status/204").await;
    assert!(client.find(HEADERS).await.ends());
}

#[tokio::test]
async fn padding_alone_uses_up_no_window_either() {
    let world = world(limits()).await;
    let mut client = world.open(&[]).await;
    client.send(HEADERS, END_HEADERS, 1, &head("POST", "/upload")).await;
    let padding = [&[255][..], &[0; 255]].concat();
    let mut window = 256 * 1024;
    for _ in 0..2_000 {
        while window < padding.len() {
            let more = client.find(WINDOW_UPDATE).await;
            window += if more.stream == 1 { more.number(0) as usize } else { 0 };
        }
        window -= padding.len();
        client.send(DATA, PADDED, 1, &padding).await;
    }
    client.send(DATA, END_STREAM, 1, b"").await;
    assert_eq!(client.answer(1).await, (OK, b"0".to_vec()));
}

#[tokio::test]
async fn a_client_that_waits_for_a_word_before_its_body_gets_it() {
    let world = world(limits()).await;
    let mut client = world.open(&[]).await;
    let asks = [head("POST", "/echo"), field("expect", "100-continue")].concat();
    client.send(HEADERS, END_HEADERS, 1, &asks).await;
    let go_on = client.find(HEADERS).await;
    assert_eq!((&go_on.content[..], go_on.ends()), (&b"\x08\x03100"[..], false));
    client.send(DATA, END_STREAM, 1, b"leaves").await;
    assert_eq!(client.answer(1).await, (OK, b"leaves".to_vec()));
}

#[tokio::test]
async fn a_path_is_a_path() {
    let world = world(limits()).await;
    let mut client = world.open(&[]).await;
    let addresses = [&format!("https://{HOST}/"), "tea", "/a b", "/ HTTP/1.1", "*", "?a"];
    for (stream, path) in (1..).step_by(2).zip(addresses) {
        client.get(stream, path).await;
        let (status, _) = client.answer(stream).await;
        // Indexed: 400.
        assert_eq!(status, 0x8c, "{path}");
    }
    assert_eq!(world.backend.requests(), 0);
}
