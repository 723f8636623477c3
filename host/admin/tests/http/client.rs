//! The plainest HTTP client: it sends what it is told to, byte for byte, also what no library would send.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A wait that only a hanging test reaches.
pub(crate) const HANGS: Duration = Duration::from_secs(60);

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Checks that it is a problem document of a code.
    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16, code: &str) -> &Self {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["type"], format!("/errors/{code}"));
        for member in ["title", "detail", "instance", "hint"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {problem}");
        }
        self
    }
}

/// Opens a connection.
pub(crate) fn connect(to: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(to).unwrap();
    socket.set_read_timeout(Some(HANGS)).unwrap();
    socket.set_write_timeout(Some(HANGS)).unwrap();
    socket
}

/// Sends bytes and reads until the other side closes.
pub(crate) fn raw(to: SocketAddr, request: &[u8]) -> Answer {
    let mut socket = connect(to);
    // A server that has heard enough may close before the end.
    drop(socket.write_all(request));
    finish(socket)
}

/// Reads until the other side closes.
pub(crate) fn finish(mut socket: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    drop(socket.read_to_end(&mut bytes));
    parse(&bytes)
}

/// Sends a request with these header lines and this body.
pub(crate) fn send(to: SocketAddr, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|line| line.to_ascii_lowercase().starts_with("host:")) {
        request.push_str(&format!("Host: {to}\r\n"));
    }
    headers.iter().for_each(|line| request.push_str(&format!("{line}\r\n")));
    request.push_str("\r\n");
    raw(to, &[request.as_bytes(), body].concat())
}

/// Begins to listen to an endless answer and waits for its head.
pub(crate) fn listen(to: SocketAddr, path: &str) -> TcpStream {
    let mut socket = connect(to);
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {to}\r\n\r\n").unwrap();
    read_until(&mut socket, b"\r\n\r\n");
    socket
}

/// Reads until something was seen; gives all that was read.
pub(crate) fn read_until(socket: &mut impl Read, wanted: &[u8]) -> String {
    let mut seen = Vec::new();
    let mut byte = [0; 1];
    while !seen.ends_with(wanted) {
        let read = socket.read(&mut byte).unwrap();
        assert!(read > 0, "closed after: {}", String::from_utf8_lossy(&seen));
        seen.push(byte[0]);
    }
    String::from_utf8(seen).unwrap()
}

/// Waits for what the host does in its own time, and leaves it a core to do it.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + HANGS;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Says that no more comes.
pub(crate) fn end(socket: &TcpStream) {
    drop(socket.shutdown(Shutdown::Write));
}

fn parse(bytes: &[u8]) -> Answer {
    let at = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, rest) = at.map_or((bytes, &[][..]), |at| (&bytes[..at], &bytes[at + 4..]));
    let head = String::from_utf8(head.to_vec()).unwrap();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if is_chunked { unchunk(rest) } else { rest.to_vec() };
    Answer { status, head, body }
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
        let length = usize::from_str_radix(str::from_utf8(&rest[..at]).unwrap(), 16).unwrap();
        if length == 0 {
            break;
        }
        body.extend_from_slice(&rest[at + 2..at + 2 + length]);
        rest = &rest[at + 2 + length + 2..];
    }
    body
}
