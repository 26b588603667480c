//! WebSocket frames as they pass by: where one ends, and the Close that is put in between.
//!
//! Only lengths are read (RFC 6455 section 5.2). Extensions change what a payload means and never where it
//! ends, so compressed messages are followed like any other.

/// Follows one direction of a WebSocket, however it is cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Framer {
    /// Bytes of the current frame's head that were seen.
    have: u8,
    /// How many its head has, and where in it the length ends; known from the second byte on.
    need: u8,
    length_end: u8,
    /// What is left of the payload.
    left: u64,
    close: bool,
    closed: bool,
}

const FINAL: u8 = 0x80;
const OPCODE: u8 = 0x0f;
const CLOSE: u8 = 0x08;
const MASKED: u8 = 0x80;

/// "Service Restart" in the IANA registry of close codes: the client may come back after a random short time.
const RESTART: u16 = 1012;
const REASON: &[u8] = b"service restart";

impl Framer {
    /// Takes bytes up to the end of the current frame; how many these are.
    pub fn advance(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() {
            if self.in_head() {
                self.head(bytes[taken]);
                taken += 1;
            } else {
                let part = self.left.min((bytes.len() - taken) as u64);
                self.left -= part;
                taken += part as usize;
            }
            if !self.in_head() && self.left == 0 {
                *self = Self { closed: self.closed || self.close, ..Self::default() };
                break;
            }
        }
        taken
    }

    /// Takes all of `bytes`.
    pub fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.advance(bytes)..];
        }
    }

    /// Whether a frame of our own may go out here.
    pub fn between_frames(&self) -> bool {
        self.have == 0
    }

    /// Whether a whole Close has passed, after which there may be nothing more.
    pub fn closed(&self) -> bool {
        self.closed
    }

    fn in_head(&self) -> bool {
        self.have < 2 || self.have < self.need
    }

    fn head(&mut self, byte: u8) {
        match self.have {
            0 => self.close = byte & OPCODE == CLOSE,
            1 => {
                let (longer, left) = match byte & !MASKED {
                    126 => (2, 0),
                    127 => (8, 0),
                    length => (0, u64::from(length)),
                };
                self.left = left;
                self.length_end = 2 + longer;
                self.need = self.length_end + if byte & MASKED == 0 { 0 } else { 4 };
            }
            at if at < self.length_end => self.left = self.left << 8 | u64::from(byte),
            _ => {}
        }
        self.have += 1;
    }
}

/// A Close for the client: a server's frames are not masked (RFC 6455 section 5.1).
pub fn close_for_client() -> Vec<u8> {
    let mut frame = vec![FINAL | CLOSE, 0];
    frame.extend(RESTART.to_be_bytes());
    frame.extend(REASON);
    frame[1] = (frame.len() - 2) as u8;
    frame
}

/// A Close for the replica, masked as a client's frames are.
pub fn close_for_replica(key: [u8; 4]) -> Vec<u8> {
    let mut frame = close_for_client();
    frame[1] |= MASKED;
    let payload = frame.split_off(2);
    frame.extend(key);
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, length: usize, masked: bool) -> Vec<u8> {
        let mut frame = vec![FINAL | opcode];
        let mask = if masked { MASKED } else { 0 };
        match length {
            0..=125 => frame.push(mask | length as u8),
            126..=65_535 => {
                frame.push(mask | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        // Neither a key nor a payload may be mistaken for a head.
        frame.extend(std::iter::repeat_n(0x88, length + if masked { 4 } else { 0 }));
        frame
    }

    fn stream(masked: bool) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for length in [0, 1, 125, 126, 300, 65_535, 65_536, 0] {
            bytes.extend(frame(2, length, masked));
            ends.push(bytes.len());
        }
        bytes.extend(close_for_client());
        if masked {
            bytes.truncate(*ends.last().unwrap());
            bytes.extend(close_for_replica([1, 2, 3, 4]));
        }
        ends.push(bytes.len());
        (bytes, ends)
    }

    #[test]
    fn the_end_of_every_frame_is_found_wherever_the_bytes_are_cut() {
        for masked in [false, true] {
            let (bytes, ends) = stream(masked);
            let last = *ends.last().unwrap();
            for cut in 0..=bytes.len() {
                let mut framer = Framer::default();
                framer.follow(&bytes[..cut]);
                assert_eq!(
                    framer.between_frames(),
                    cut == 0 || ends.contains(&cut),
                    "cut at {cut}"
                );
                assert_eq!(framer.closed(), cut == last, "cut at {cut}");
                framer.follow(&bytes[cut..]);
                assert!(framer.between_frames() && framer.closed(), "cut at {cut}");
            }
        }
    }

    #[test]
    fn bytes_one_by_one_are_followed_as_all_at_once_are() {
        let (bytes, ends) = stream(true);
        let mut framer = Framer::default();
        let boundaries = (1..=bytes.len()).filter(|at| {
            framer.follow(&bytes[at - 1..*at]);
            framer.between_frames()
        });
        assert_eq!(boundaries.collect::<Vec<_>>(), ends);
    }

    #[test]
    fn advancing_stops_at_the_end_of_the_frame() {
        let two = [frame(1, 300, false), frame(9, 5, false)].concat();
        let mut framer = Framer::default();
        assert_eq!(framer.advance(&two), 304);
        assert!(framer.between_frames());
        assert_eq!(framer.advance(&two[304..]), 7);
    }

    #[test]
    fn a_close_carries_its_code_and_reason() {
        assert_eq!(&close_for_client()[..4], [0x88, 17, 0x03, 0xf4]);
        let masked = close_for_replica([9, 8, 7, 6]);
        let payload: Vec<u8> =
            masked[6..].iter().zip([9, 8, 7, 6].iter().cycle()).map(|(b, k)| b ^ k).collect();
        assert_eq!((masked[1], &payload), (0x80 | 17, &close_for_client()[2..].to_vec()));
    }
}
