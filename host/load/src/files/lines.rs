//! NDJSON: lines are handed on as they are, without a look inside.

use std::io::BufRead;

use super::{Fault, Found, ROW_LIMIT, source::Input};

#[derive(Debug)]
pub(super) struct Lines {
    input: Input,
    line: u64,
}

impl Lines {
    pub(super) fn new(input: Input) -> Self {
        Self { input, line: 0 }
    }

    /// The next line that is not blank, without its end.
    pub(super) fn next_row(&mut self) -> Result<Option<Found>, Fault> {
        loop {
            let mut bytes = Vec::new();
            if !self.take_line(&mut bytes)? {
                return Ok(None);
            }
            self.line += 1;
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
            if !bytes.trim_ascii().is_empty() {
                return Ok(Some(Found { line: self.line, bytes, problem: None }));
            }
        }
    }

    /// Appends one line to `bytes`; false at the end of the input.
    fn take_line(&mut self, bytes: &mut Vec<u8>) -> Result<bool, Fault> {
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                return Ok(!bytes.is_empty());
            }
            let end = memchr::memchr(b'\n', buffer);
            let part = buffer.get(..end.unwrap_or(buffer.len())).unwrap_or_default();
            bytes.extend_from_slice(part);
            let consumed = part.len() + usize::from(end.is_some());
            self.input.consume(consumed);
            if bytes.len() > ROW_LIMIT {
                return Err(Fault::TooLarge);
            }
            if end.is_some() {
                return Ok(true);
            }
        }
    }
}
