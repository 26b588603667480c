//! The `Date` of answers that come without one (RFC 9110, 6.6.1), written once in a second.

use std::cell::{Cell, RefCell};

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

#[derive(Default)]
pub struct Dates {
    second: Cell<i64>,
    text: RefCell<String>,
}

impl Dates {
    /// Appends the field as a line of a head.
    pub fn write(&self, into: &mut Vec<u8>) {
        self.with(|date| {
            for part in [b"date: ", date, b"\r\n"] {
                into.extend_from_slice(part);
            }
        });
    }

    /// Gives `take` the value of the field.
    pub fn with(&self, take: impl FnOnce(&[u8])) {
        let now = Timestamp::now();
        if self.second.replace(now.as_second()) != now.as_second() {
            // Every date of our time can be written so.
            let text = DateTimePrinter::new().timestamp_to_rfc9110_string(&now);
            *self.text.borrow_mut() = text.unwrap_or_default();
        }
        take(self.text.borrow().as_bytes());
    }
}
