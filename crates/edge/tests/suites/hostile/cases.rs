//! The hostile requests, and what the edge must make of each.
//!
//! In a request `@P` is a path of its own, `@H` the right host line, `@N` that host's name, and `@S` a whole
//! request that nobody meant to send: what a smuggler hides.

/// One hostile connection.
pub struct Case {
    pub name: &'static str,
    pub sent: &'static str,
    /// What the first answer may be; 0 is no answer, only the end of the connection.
    pub answer: &'static [u16],
    /// How many answers there may be.
    pub answers: usize,
    /// The backend may see the request itself, as far as it goes.
    pub seen: bool,
    /// The backend may see `@S` too: it was meant as a request of its own.
    pub pipelined: bool,
    /// The client ends its side after it sent everything.
    pub closes: bool,
    /// Why we let through what nginx refuses.
    pub laxer: &'static str,
}

/// A request that must be refused with one of these statuses before the backend hears of it.
const fn refused(name: &'static str, answer: &'static [u16], sent: &'static str) -> Case {
    let (answers, laxer) = (1, "");
    Case { name, sent, answer, answers, seen: false, pipelined: false, closes: false, laxer }
}

/// A request that is odd but has one meaning: carried.
const fn carried(name: &'static str, sent: &'static str) -> Case {
    Case { seen: true, ..refused(name, &[200], sent) }
}

/// A request whose body turns out to be hostile when the backend has its head already.
const fn cut(name: &'static str, answer: &'static [u16], sent: &'static str) -> Case {
    Case { seen: true, ..refused(name, answer, sent) }
}

impl Case {
    const fn pipelined(self) -> Self {
        Self { pipelined: true, answers: 2, ..self }
    }

    const fn closing(self) -> Self {
        Self { closes: true, ..self }
    }
}

/// What an odd chunked body is answered with.
const BROKEN: &[u16] = &[400];

/// What a body may be answered with whose client left within it, if at all.
const LEFT: &[u16] = &[0, 502];

pub const CASES: &[Case] = &[
    // Two lengths, or none that is clear.
    refused(
        "CL.TE",
        &[400],
        "POST @P HTTP/1.1\r\n@Hcontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n@S",
    ),
    refused(
        "TE.CL",
        &[400],
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n5c\r\n@S0\r\n\r\n",
    ),
    refused(
        "TE.CL with a length of 0",
        &[400],
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n0\r\n\r\n@S",
    ),
    refused(
        "TE.TE, twice the field",
        &[400],
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n@S",
    ),
    refused(
        "TE.TE, chunked and identity",
        &[400, 501],
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n@S",
    ),
    refused(
        "TE: chunked, chunked",
        &[501],
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n@S",
    ),
    refused(
        "TE: identity, chunked",
        &[501],
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: identity, chunked\r\n\r\n0\r\n\r\n@S",
    ),
    refused(
        "TE: gzip, chunked",
        &[501],
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n@S",
    ),
    refused(
        "TE: xchunked",
        &[501],
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: xchunked\r\n\r\n0\r\n\r\n@S",
    ),
    refused("TE: identity", &[501], "POST @P HTTP/1.1\r\n@Htransfer-encoding: identity\r\n\r\n@S"),
    refused(
        "TE: \"chunked\" in quotes",
        &[501],
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: \"chunked\"\r\n\r\n0\r\n\r\n@S",
    ),
    refused(
        "TE: empty",
        &[400, 501],
        "POST @P HTTP/1.1\r\n@Htransfer-encoding:\r\n\r\n0\r\n\r\n@S",
    ),
    refused(
        "TE: chunked behind a vertical tab",
        &[400],
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: \u{b}chunked\r\n\r\n0\r\n\r\n@S",
    ),
    refused(
        "TE: chunked; with a parameter",
        &[501],
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: chunked;q=1\r\n\r\n0\r\n\r\n@S",
    ),
    refused(
        "TE in HTTP/1.0",
        &[400],
        "POST @P HTTP/1.0\r\n@Htransfer-encoding: chunked\r\n\r\n0\r\n\r\n@S",
    ),
    refused(
        "TE with a space before the colon",
        &[400],
        "POST @P HTTP/1.1\r\n@Htransfer-encoding : chunked\r\n\r\n0\r\n\r\n@S",
    ),
    refused(
        "CL with a tab before the colon",
        &[400],
        "POST @P HTTP/1.1\r\n@Hcontent-length\t: 3\r\n\r\nabc@S",
    ),
    refused(
        "CL twice, equal",
        &[400],
        "POST @P HTTP/1.1\r\n@Hcontent-length: 3\r\ncontent-length: 3\r\n\r\nabc@S",
    ),
    refused(
        "CL twice, different",
        &[400],
        "POST @P HTTP/1.1\r\n@Hcontent-length: 3\r\ncontent-length: 30\r\n\r\nabc@S",
    ),
    refused("CL as a list", &[400], "POST @P HTTP/1.1\r\n@Hcontent-length: 3, 3\r\n\r\nabc@S"),
    refused("CL with a plus", &[400], "POST @P HTTP/1.1\r\n@Hcontent-length: +3\r\n\r\nabc@S"),
    refused("CL negative", &[400], "POST @P HTTP/1.1\r\n@Hcontent-length: -3\r\n\r\nabc@S"),
    refused("CL in hexadecimal", &[400], "POST @P HTTP/1.1\r\n@Hcontent-length: 0x3\r\n\r\nabc@S"),
    refused(
        "CL beyond 64 bits",
        &[400],
        "POST @P HTTP/1.1\r\n@Hcontent-length: 18446744073709551619\r\n\r\nabc@S",
    ),
    refused("CL empty", &[400], "POST @P HTTP/1.1\r\n@Hcontent-length:\r\n\r\n@S"),
    refused(
        "CL with a space inside",
        &[400],
        "POST @P HTTP/1.1\r\n@Hcontent-length: 1 3\r\n\r\nabc@S",
    ),
    carried(
        "Content_Length beside the right one",
        "POST @P HTTP/1.1\r\n@Hcontent_length: 0\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc@S",
    ),
    // Chunks.
    cut(
        "chunk size with a plus",
        BROKEN,
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n@S",
    ),
    cut(
        "chunk size negative",
        BROKEN,
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n@S",
    ),
    cut(
        "chunk size 0x3",
        BROKEN,
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n@S",
    ),
    cut(
        "chunk size beyond 64 bits",
        BROKEN,
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n@S",
    ),
    cut(
        "chunk size with a space behind",
        BROKEN,
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n@S",
    ),
    cut(
        "chunk size empty",
        BROKEN,
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: chunked\r\n\r\n\r\nabc\r\n0\r\n\r\n@S",
    ),
    cut(
        "chunk longer than its size",
        BROKEN,
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n@S",
    ),
    cut(
        "chunk ends with a bare LF",
        BROKEN,
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n@S",
    ),
    cut(
        "chunk size ends with a bare LF",
        BROKEN,
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n@S",
    ),
    cut(
        "last chunk ends with a bare LF",
        BROKEN,
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\n\n@S",
    ),
    cut(
        "chunk extension with a bare LF (TERM.EXT)",
        BROKEN,
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: chunked\r\n\r\n3;x\nxx\r\nabc\r\n0\r\n\r\n@S",
    ),
    cut(
        "chunk extension with a bare CR",
        BROKEN,
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: chunked\r\n\r\n3;a\rb\r\nabc\r\n0\r\n\r\n@S",
    ),
    cut(
        "chunk extension without end",
        BROKEN,
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: chunked\r\n\r\n3;@LONG\r\nabc\r\n0\r\n\r\n@S",
    ),
    cut(
        "trailers without end",
        BROKEN,
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: chunked\r\n\r\n0\r\n@MANY@MANY@MANY@MANY@MANY@MANY@MANY@MANY@MANY\r\n@S",
    ),
    cut(
        "trailer with a NUL",
        BROKEN,
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: chunked\r\n\r\n0\r\nx: \0\r\n\r\n@S",
    ),
    Case {
        answers: 2,
        pipelined: true,
        ..carried(
            "trailers that smuggle fields",
            "POST @P HTTP/1.1\r\n@Htransfer-encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\ncontent-length: 99\r\nhost: evil\r\n\r\n@S",
        )
    },
    // Lines and characters.
    refused("bare LF everywhere", &[400], "GET @P HTTP/1.1\nhost: @N\n\n@S"),
    refused("bare LF in a field", &[400], "GET @P HTTP/1.1\r\n@Hx: a\nx-b: c\r\n\r\n@S"),
    refused("bare CR in a field", &[400], "GET @P HTTP/1.1\r\n@Hx: a\rx-b: c\r\n\r\n@S"),
    refused("bare LF before the empty line", &[400], "GET @P HTTP/1.1\r\n@Hx: a\n\r\n@S"),
    refused("obs-fold", &[400], "GET @P HTTP/1.1\r\n@Hx: a\r\n b\r\n\r\n@S"),
    refused(
        "obs-fold of a framing field",
        &[400, 501],
        "POST @P HTTP/1.1\r\n@Htransfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n@S",
    ),
    refused("first field begins with a space", &[400], "GET @P HTTP/1.1\r\n x: a\r\n@H\r\n@S"),
    refused("NUL in a value", &[400], "GET @P HTTP/1.1\r\n@Hx: a\0b\r\n\r\n@S"),
    refused("NUL in a name", &[400], "GET @P HTTP/1.1\r\n@Hx\0y: a\r\n\r\n@S"),
    refused("a name with a space", &[400], "GET @P HTTP/1.1\r\n@Hx y: a\r\n\r\n@S"),
    refused("a field without a name", &[400], "GET @P HTTP/1.1\r\n@H: a\r\n\r\n@S"),
    refused("a line without a colon", &[400], "GET @P HTTP/1.1\r\n@Hnothing\r\n\r\n@S"),
    refused("a name beyond ASCII", &[400], "GET @P HTTP/1.1\r\n@Hx\u{e9}: a\r\n\r\n@S"),
    // Hosts.
    refused("no host", &[400], "GET @P HTTP/1.1\r\nx: y\r\n\r\n@S"),
    refused("two hosts", &[400], "GET @P HTTP/1.1\r\n@Hhost: evil\r\n\r\n@S"),
    refused("two equal hosts", &[400], "GET @P HTTP/1.1\r\n@H@H\r\n@S"),
    refused("an empty host", &[400], "GET @P HTTP/1.1\r\nhost:\r\n\r\n@S"),
    refused("a host with a path", &[400], "GET @P HTTP/1.1\r\nhost: @N/x\r\n\r\n@S"),
    refused("a host with a user", &[400], "GET @P HTTP/1.1\r\nhost: evil@@N\r\n\r\n@S"),
    refused("a host with two names", &[400], "GET @P HTTP/1.1\r\nhost: @N, evil\r\n\r\n@S"),
    refused(
        "a host with two ports",
        &[400],
        "GET @P HTTP/1.1\r\nhost: @N:80:80\r\nconnection: close\r\n\r\n@S",
    ),
    refused(
        "a host with letters as port",
        &[400],
        "GET @P HTTP/1.1\r\nhost: @N:evil\r\nconnection: close\r\n\r\n@S",
    ),
    refused("another host in the target", &[400], "GET http://evil@P HTTP/1.1\r\n@H\r\n@S"),
    refused("a user in the target's host", &[400], "GET http://@N@evil@P HTTP/1.1\r\n@H\r\n@S"),
    // Versions and methods.
    refused("HTTP/0.9", &[400], "GET @P\r\n\r\n"),
    refused("HTTP/1.2", &[505], "GET @P HTTP/1.2\r\n@Hconnection: close\r\n\r\n@S"),
    refused("HTTP/2.0", &[505], "GET @P HTTP/2.0\r\n@H\r\n@S"),
    refused("HTTP/1.10", &[400], "GET @P HTTP/1.10\r\n@H\r\n@S"),
    refused("http/1.1", &[400], "GET @P http/1.1\r\n@H\r\n@S"),
    refused("the preface of HTTP/2 without TLS", &[400, 505], "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    refused(
        "TLS on the plain port",
        &[400],
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}\r\n\r\n",
    ),
    refused("CONNECT", &[400, 405], "CONNECT @N:80 HTTP/1.1\r\n@H\r\n@S"),
    refused("TRACE", &[405], "TRACE @P HTTP/1.1\r\n@Hconnection: close\r\n\r\n@S"),
    refused("a method with odd characters", &[400], "G(T @P HTTP/1.1\r\n@H\r\n@S"),
    refused("two spaces in the request line", &[400], "GET  @P HTTP/1.1\r\n@H\r\n@S"),
    refused("a tab in the request line", &[400], "GET\t@P HTTP/1.1\r\n@H\r\n@S"),
    refused("a space in the target", &[400], "GET @P x HTTP/1.1\r\n@H\r\n@S"),
    refused("a space behind the version", &[400], "GET @P HTTP/1.1 \r\n@H\r\n@S"),
    // Sizes.
    refused("a target of 9,000 bytes", &[414], "GET @P@LONG HTTP/1.1\r\n@H\r\n@S"),
    refused("a field of 40,000 bytes", &[431], "GET @P HTTP/1.1\r\n@Hx: @BIG\r\n\r\n@S"),
    refused("a name of 40,000 bytes", &[400, 431], "GET @P HTTP/1.1\r\n@H@BIG: x\r\n\r\n@S"),
    refused("450 fields", &[431], "GET @P HTTP/1.1\r\n@H@MANY@MANY@MANY\r\n@S"),
    refused("a target without end", &[414, 431], "GET @P@BIG"),
    // Paths.
    refused("a path with ..", &[400], "GET @P/../x HTTP/1.1\r\n@H\r\n@S"),
    refused("a path with .. encoded", &[400], "GET @P/%2e%2E/x HTTP/1.1\r\n@H\r\n@S"),
    refused("a path with .. half encoded", &[400], "GET @P/.%2e/x HTTP/1.1\r\n@H\r\n@S"),
    refused("a path with ..%2f", &[400], "GET @P/..%2fx HTTP/1.1\r\n@H\r\n@S"),
    refused("a path with ..%5c", &[400], "GET @P/..%5cx HTTP/1.1\r\n@H\r\n@S"),
    refused("a path with ..;", &[400], "GET @P/..;x=1/y HTTP/1.1\r\n@H\r\n@S"),
    refused("a path with a backslash", &[400], "GET @P\\..\\x HTTP/1.1\r\n@H\r\n@S"),
    refused("a path with %00", &[400], "GET @P/a%00.html HTTP/1.1\r\n@H\r\n@S"),
    refused("a path with an encoded line end", &[400], "GET @P/%0d%0ax:%20y HTTP/1.1\r\n@H\r\n@S"),
    refused("a path with an overlong ..", &[400], "GET @P/%c0%ae%c0%ae/x HTTP/1.1\r\n@H\r\n@S"),
    refused("a path with a broken %", &[400], "GET @P/%zz HTTP/1.1\r\n@H\r\n@S"),
    refused("a path with a fragment", &[400], "GET @P#/../x HTTP/1.1\r\n@H\r\n@S"),
    refused("a path beyond ASCII", &[400], "GET @P/\u{e9} HTTP/1.1\r\n@H\r\n@S"),
    refused("a path that does not begin with /", &[400], "GET x@P HTTP/1.1\r\n@H\r\n@S"),
    carried(
        "a path with .. encoded twice",
        "GET @P/%252e%252e/x HTTP/1.1\r\n@Hconnection: close\r\n\r\n@S",
    ),
    // Requests behind a request.
    carried(
        "a request in the body of a GET",
        "GET @P HTTP/1.1\r\n@Hcontent-length: @L\r\nconnection: close\r\n\r\n@S",
    ),
    carried("two requests, pipelined", "GET @P HTTP/1.1\r\n@H\r\n@S").pipelined(),
    carried("empty lines before a request", "\r\n\r\nGET @P HTTP/1.1\r\n@H\r\n@S").pipelined(),
    refused(
        "a prefix of a request behind a refused one",
        &[400],
        "GET @P HTTP/1.1\r\n@Hx y: z\r\n\r\nGET /s HTTP/1.1\r\nx: ",
    ),
    // Leaving HTTP.
    carried(
        "an upgrade with a body",
        "POST @P HTTP/1.1\r\n@Hupgrade: websocket\r\nconnection: upgrade, close\r\ncontent-length: @L\r\n\r\n@S",
    ),
    Case {
        answers: 1,
        ..carried(
            "an upgrade that is not granted, and a request behind it",
            "GET @P HTTP/1.1\r\n@Hupgrade: websocket\r\nconnection: upgrade\r\n\r\n@S",
        )
    },
    carried(
        "h2c",
        "GET @P HTTP/1.1\r\n@Hupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nconnection: upgrade, http2-settings\r\n\r\n@S",
    ),
    Case {
        answer: &[100, 200, 417],
        answers: 2,
        ..carried(
            "Expect: something odd",
            "POST @P HTTP/1.1\r\n@Hexpect: 200-maybe\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc",
        )
    },
    // Time.
    refused("a head that never ends", &[408], "GET @P HTTP/1.1\r\n@Hx:"),
    refused("a head that ends half way", &[0, 400], "GET @P HTTP/1.1\r\n@Hx:").closing(),
    cut("a body that never ends", &[408], "POST @P HTTP/1.1\r\n@Hcontent-length: 10\r\n\r\nabc"),
    cut("a body that ends half way", LEFT, "POST @P HTTP/1.1\r\n@Hcontent-length: 10\r\n\r\nabc")
        .closing(),
    cut(
        "a chunked body that never ends",
        &[408],
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ),
    cut(
        "a chunked body that ends half way",
        LEFT,
        "POST @P HTTP/1.1\r\n@Htransfer-encoding: chunked\r\n\r\n3\r\nab",
    )
    .closing(),
    refused("a client that says nothing", &[0], ""),
];
