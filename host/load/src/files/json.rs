//! JSON: an array of events, one event, or events one after the other, split without being held whole.
//!
//! Only brackets and quotes are followed. What stands between them is the gate's business,
//! so a broken element becomes one refused row and its neighbours go through.

use std::io::BufRead;

use super::{Fault, Found, ROW_LIMIT, source::Input};

#[derive(Debug)]
pub(super) struct Json {
    input: Input,
    row: u64,
    is_in_array: bool,
}

impl Json {
    pub(super) fn new(input: Input) -> Self {
        Self { input, row: 0, is_in_array: false }
    }

    /// The next element, with line breaks between its tokens made blanks.
    pub(super) fn next_row(&mut self) -> Result<Option<Found>, Fault> {
        if !self.find_value()? {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        self.take_value(&mut bytes)?;
        self.row += 1;
        bytes.truncate(bytes.trim_ascii_end().len());
        Ok(Some(Found { line: self.row, bytes, problem: None }))
    }

    /// Moves to the first byte of the next value; false at the end of the input.
    fn find_value(&mut self) -> Result<bool, Fault> {
        loop {
            let Some(&byte) = self.input.fill_buf()?.first() else {
                return if self.is_in_array { Err(Fault::Truncated("the JSON array")) } else { Ok(false) };
            };
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b',' => {}
                b'[' if !self.is_in_array => self.is_in_array = true,
                b']' if self.is_in_array => self.is_in_array = false,
                _ => return Ok(true),
            }
            self.input.consume(1);
        }
    }

    fn take_value(&mut self, bytes: &mut Vec<u8>) -> Result<(), Fault> {
        let mut split = Split { depth: 0, is_in_text: false, is_escaped: false, is_in_array: self.is_in_array };
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                let is_open = split.depth > 0 || split.is_in_text || self.is_in_array;
                return if is_open { Err(Fault::Truncated("a JSON value")) } else { Ok(()) };
            }
            let mut taken = 0;
            let mut is_whole = false;
            for &byte in buffer {
                match split.step(byte) {
                    Step::Inside => taken += 1,
                    Step::Last => {
                        taken += 1;
                        is_whole = true;
                    }
                    Step::Behind => is_whole = true,
                }
                if is_whole {
                    break;
                }
            }
            let part = buffer.get(..taken).unwrap_or_default();
            bytes.extend(part.iter().map(|&byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
            self.input.consume(taken);
            if is_whole {
                return Ok(());
            }
            if bytes.len() > ROW_LIMIT {
                return Err(Fault::TooLarge);
            }
        }
    }
}

enum Step {
    Inside,
    Last,
    Behind,
}

/// Where in a value the reader is.
struct Split {
    depth: u32,
    is_in_text: bool,
    is_escaped: bool,
    is_in_array: bool,
}

impl Split {
    fn step(&mut self, byte: u8) -> Step {
        if self.is_in_text {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.is_in_text = false,
                _ => {}
            }
            return Step::Inside;
        }
        match byte {
            b'"' => self.is_in_text = true,
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' if self.depth > 0 => {
                self.depth -= 1;
                if self.depth == 0 {
                    return Step::Last;
                }
            }
            b',' | b']' if self.depth == 0 && self.is_in_array => return Step::Behind,
            b'\n' if self.depth == 0 && !self.is_in_array => return Step::Behind,
            _ => {}
        }
        Step::Inside
    }
}
