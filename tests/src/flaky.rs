//! A server that fails now and then: an HTTP proxy in front of one, which lets every so many calls go wrong.
//!
//! Calls go wrong in turns: refused with 500, refused with 503, and, which is worse, done by the server and never answered,
//! or answered by somebody on the way who says 503.
//! It speaks HTTP/1.1 as far as that needs: one call a connection.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use anyhow::{Context as _, ensure};

/// How often the thread at the door looks whether it is over.
const GLANCE: Duration = Duration::from_millis(1);

/// What somebody on the way says.
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Longest head of a call.
const HEAD: usize = 64 << 10;

/// A proxy in front of a port of this machine. Dropping it closes the door.
#[derive(Debug)]
pub struct Flaky {
    port: u16,
    state: Arc<State>,
    door: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    /// Each so many calls one goes wrong; 0: none.
    every: AtomicU64,
    calls: AtomicU64,
    failed: AtomicU64,
    has_ended: AtomicBool,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Answered,
    Refused(&'static str),
    /// Done, and the answer is lost.
    Lost,
    /// Done, and the answer says that it was not.
    Denied,
}

impl Flaky {
    /// Listens on a free port for calls to `target`; at first none goes wrong.
    ///
    /// # Errors
    /// When no port is to be had.
    pub fn start(target: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let state = Arc::<State>::default();
        let door = {
            let state = Arc::clone(&state);
            spawn(move || state.admit(&listener, target))
        };
        Ok(Self { port, state, door: Some(door) })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lets one of so many calls go wrong from now on; 0: none.
    pub fn fail_every(&self, calls: u64) {
        self.state.every.store(calls, SeqCst);
    }

    /// Calls that went wrong so far.
    pub fn failed(&self) -> u64 {
        self.state.failed.load(SeqCst)
    }
}

impl Drop for Flaky {
    fn drop(&mut self) {
        self.state.has_ended.store(true, SeqCst);
        if let Some(door) = self.door.take() {
            // A thread that panicked has closed its sockets too.
            drop(door.join());
        }
    }
}

impl State {
    fn admit(self: &Arc<Self>, listener: &TcpListener, target: u16) {
        while !self.has_ended.load(SeqCst) {
            match listener.accept() {
                Ok((client, _)) => {
                    let state = Arc::clone(self);
                    // What goes wrong here is one more call that failed.
                    spawn(move || drop(state.call(client, target)));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(GLANCE),
                Err(_) => sleep(GLANCE),
            }
        }
    }

    fn fate(&self) -> Fate {
        let call = self.calls.fetch_add(1, SeqCst) + 1;
        match self.every.load(SeqCst) {
            0 => Fate::Answered,
            every if !call.is_multiple_of(every) => Fate::Answered,
            _ => match self.failed.fetch_add(1, SeqCst) % 4 {
                0 => Fate::Lost,
                1 => Fate::Refused("500 Internal Server Error"),
                2 => Fate::Denied,
                _ => Fate::Refused("503 Slow Down"),
            },
        }
    }

    fn call(&self, mut client: TcpStream, target: u16) -> anyhow::Result<()> {
        client.set_nonblocking(false)?;
        client.set_nodelay(true)?;
        let Some((head, rest)) = head(&mut client)? else { return Ok(()) };
        let fate = self.fate();
        if let Fate::Refused(status) = fate {
            write!(client, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
            client.shutdown(Shutdown::Write)?;
            // What is still on its way would reset the connection, and the answer with it.
            std::io::copy(&mut client, &mut std::io::sink())?;
            return Ok(());
        }
        let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, target))?;
        server.set_nodelay(true)?;
        server.write_all(&closing(&head)?)?;
        server.write_all(&rest)?;
        let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
        // Ends when one of both ends.
        spawn(move || drop(std::io::copy(&mut from, &mut to)));
        let copied = match fate {
            Fate::Lost => std::io::copy(&mut server, &mut std::io::sink()),
            Fate::Denied => std::io::copy(&mut server, &mut std::io::sink()).and_then(|bytes| {
                client.write_all(UNAVAILABLE.as_bytes())?;
                Ok(bytes)
            }),
            _ => std::io::copy(&mut server, &mut client),
        };
        for socket in [&client, &server] {
            // Closed by its other end already is fine.
            drop(socket.shutdown(Shutdown::Both));
        }
        copied?;
        Ok(())
    }
}

/// The head of a call with the empty line after it, and what came behind; none when the client has nothing to ask.
fn head(client: &mut TcpStream) -> anyhow::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 8 << 10]);
    loop {
        let read = client.read(&mut buffer)?;
        if read == 0 {
            return Ok(None);
        }
        bytes.extend_from_slice(buffer.get(..read).unwrap_or_default());
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = bytes.split_off(at + 4);
            return Ok(Some((bytes, rest)));
        }
        ensure!(bytes.len() < HEAD, "a head without an end");
    }
}

/// The head with the wish that the connection ends with the answer.
fn closing(head: &[u8]) -> anyhow::Result<Vec<u8>> {
    let text = str::from_utf8(head).context("a head is text")?;
    let is_kept = |line: &&str| !line.is_empty() && !line.to_ascii_lowercase().starts_with("connection:");
    let mut lines: Vec<&str> = text.split("\r\n").filter(is_kept).collect();
    lines.extend(["connection: close", "", ""]);
    Ok(lines.join("\r\n").into_bytes())
}
