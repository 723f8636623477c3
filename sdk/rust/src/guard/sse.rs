//! Server-sent events out of bytes, within bounds.

/// Bytes of one event. A snapshot of 50 000 halted agents has about 10 MB.
pub(super) const MAX_EVENT: usize = 64 << 20;

/// One event: its name, and its data as it came.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) data: Vec<u8>,
}

/// An event is larger than it may be.
#[derive(Debug)]
pub(super) struct TooLong;

/// Takes pieces as they come and gives events.
#[derive(Debug)]
pub(super) struct Parser {
    max: usize,
    line: Vec<u8>,
    name: String,
    data: Vec<u8>,
    has_data: bool,
}

impl Parser {
    pub(super) fn new(max: usize) -> Self {
        Self { max, line: Vec::new(), name: String::new(), data: Vec::new(), has_data: false }
    }

    /// Events that end in this piece.
    pub(super) fn feed(&mut self, piece: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        let mut rest = piece;
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(at);
            self.line.extend_from_slice(line);
            rest = after.get(1..).unwrap_or_default();
            let line = std::mem::take(&mut self.line);
            self.take(line.strip_suffix(b"\r").unwrap_or(&line), &mut events);
            if self.data.len() > self.max {
                return Err(TooLong);
            }
        }
        self.line.extend_from_slice(rest);
        if self.line.len() + self.data.len() > self.max { Err(TooLong) } else { Ok(events) }
    }

    fn take(&mut self, line: &[u8], events: &mut Vec<Event>) {
        if line.is_empty() {
            let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
            if std::mem::take(&mut self.has_data) {
                events.push(Event { name, data });
            }
            return;
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (field, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => self.name = String::from_utf8_lossy(value.get(..64).unwrap_or(value)).into_owned(),
            b"data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_do_not_depend_on_where_the_bytes_are_cut() {
        let text = b": hi\n\nevent: beat\r\ndata: {\"a\":\ndata: 1}\nid: 5\n\n\ndata:[2]\n\nevent: x\n\ndata: 3\n\n";
        let event = |name: &str, data: &str| Event { name: name.to_owned(), data: data.into() };
        let wanted = [event("beat", "{\"a\":\n1}"), event("", "[2]"), event("", "3")];
        for size in 1..=text.len() {
            let mut parser = Parser::new(MAX_EVENT);
            let got: Vec<Event> = text.chunks(size).flat_map(|piece| parser.feed(piece).unwrap()).collect();
            assert_eq!(got, wanted, "{size}");
        }
    }

    #[test]
    fn an_event_without_end_is_refused_before_it_fills_memory() {
        for piece in [&b"x".repeat(100), &b"data: 1\n".repeat(20)] {
            let mut parser = Parser::new(1000);
            assert!((0..100).any(|_| parser.feed(piece).is_err()));
        }
        let mut parser = Parser::new(1000);
        assert!((0..1000).all(|_| parser.feed(b": alive\n").is_ok()));
    }
}
