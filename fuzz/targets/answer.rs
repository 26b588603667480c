//! The head of a replica's answer, read for HTTP/1 and HTTP/2 and by another parser.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| edge::fuzzing::answer(bytes));
