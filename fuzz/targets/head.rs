//! A request's head, read by our parser and by another.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| edge::fuzzing::head(bytes));
