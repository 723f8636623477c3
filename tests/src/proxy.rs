//! A bad network on demand: a TCP proxy between a client and a server on this machine.
//!
//! It knows nothing of what it carries, and loses no byte of a connection that lives: what it holds back it forwards
//! later, as TCP itself would do after an outage. Only [`Proxy::cut`] loses what is under way.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

/// How often a thread looks whether something was asked of it.
const GLANCE: Duration = Duration::from_millis(1);

/// How much is read at once.
const CHUNK: usize = 64 << 10;

/// Chunks that may be under way in one direction; then the sender has to wait, as it would for a full network.
const UNDER_WAY: usize = 512;

/// A proxy in front of a port of this machine. Dropping it closes everything.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: Arc<State>,
    door: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    target: AtomicU16,
    latency_us: AtomicU64,
    is_black_hole: AtomicBool,
    is_refusing: AtomicBool,
    /// Whether the listener is closed by now.
    is_closed: AtomicBool,
    has_ended: AtomicBool,
    links: Mutex<Vec<Weak<Link>>>,
}

/// A client's connection and the one that was made for it.
#[derive(Debug)]
struct Link {
    client: TcpStream,
    server: TcpStream,
    is_cut: AtomicBool,
}

impl Proxy {
    /// Listens on a free port for connections to `target`; [`Proxy::aim`] can say later where that is.
    ///
    /// # Errors
    /// When no port is to be had.
    pub fn start(target: u16) -> anyhow::Result<Self> {
        let listener = listen(0)?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State { target: AtomicU16::new(target), ..State::default() });
        let door = {
            let state = Arc::clone(&state);
            spawn(move || state.admit(port, listener))
        };
        Ok(Self { port, state, door: Some(door) })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where new connections lead.
    pub fn aim(&self, target: u16) {
        self.state.target.store(target, SeqCst);
    }

    /// Delays every byte by this much, each way; order and rate stay.
    pub fn latency(&self, each_way: Duration) {
        self.state.latency_us.store(u64::try_from(each_way.as_micros()).unwrap_or(u64::MAX), SeqCst);
    }

    /// Closes all connections at once; new ones are welcome.
    pub fn cut(&self) {
        self.state.live().iter().for_each(|link| link.cut());
    }

    /// Takes bytes and connections, and forwards nothing until it is over.
    pub fn black_hole(&self, on: bool) {
        self.state.is_black_hole.store(on, SeqCst);
    }

    /// Refuses new connections; returns when it is so. Those that are there stay.
    pub fn refuse(&self, on: bool) {
        self.state.is_refusing.store(on, SeqCst);
        while self.state.is_closed.load(SeqCst) != on && !self.state.has_ended.load(SeqCst) {
            sleep(GLANCE);
        }
    }

    /// A good network again.
    pub fn heal(&self) {
        self.latency(Duration::ZERO);
        self.black_hole(false);
        self.refuse(false);
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.state.live().len()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.has_ended.store(true, SeqCst);
        if let Some(door) = self.door.take() {
            // A thread that panicked has closed its sockets too.
            drop(door.join());
        }
        self.cut();
    }
}

fn listen(port: u16) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    // The thread at the door has other things to look at than the next client.
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl State {
    fn admit(self: Arc<Self>, port: u16, listener: TcpListener) {
        let mut listener = Some(listener);
        while !self.has_ended.load(SeqCst) {
            if self.is_refusing.load(SeqCst) {
                listener = None;
            } else if listener.is_none() {
                // Another program may hold the port for a moment: the next round tries again.
                listener = listen(port).ok();
            }
            self.is_closed.store(listener.is_none(), SeqCst);
            match listener.as_ref().map(TcpListener::accept) {
                // A target that is not there is a connection that closes at once.
                Some(Ok((client, _))) => drop(self.link(client)),
                Some(Err(error)) if error.kind() != ErrorKind::WouldBlock => sleep(GLANCE),
                _ => sleep(GLANCE),
            }
        }
    }

    fn link(self: &Arc<Self>, client: TcpStream) -> std::io::Result<()> {
        let server = TcpStream::connect((Ipv4Addr::LOCALHOST, self.target.load(SeqCst)))?;
        for socket in [&client, &server] {
            socket.set_nonblocking(false)?;
            socket.set_nodelay(true)?;
        }
        let link = Arc::new(Link { client, server, is_cut: AtomicBool::new(false) });
        self.carry(&link, |link| (&link.client, &link.server));
        self.carry(&link, |link| (&link.server, &link.client));
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|link| link.strong_count() > 0);
        links.push(Arc::downgrade(&link));
        Ok(())
    }

    /// Two threads for one direction: one reads and notes when each chunk is due, one waits and writes.
    fn carry(self: &Arc<Self>, link: &Arc<Link>, ends: fn(&Link) -> (&TcpStream, &TcpStream)) {
        let (sender, receiver) = sync_channel(UNDER_WAY);
        let (state, reading) = (Arc::clone(self), Arc::clone(link));
        spawn(move || state.take(ends(&reading).0, &sender));
        let (state, writing) = (Arc::clone(self), Arc::clone(link));
        spawn(move || {
            if state.give(&writing, ends(&writing).1, &receiver).is_err() {
                writing.cut();
            }
        });
    }

    fn take(&self, mut from: &TcpStream, chunks: &SyncSender<(Instant, Vec<u8>)>) {
        let mut buffer = vec![0; CHUNK];
        while let Ok(bytes @ 1..) = from.read(&mut buffer) {
            let due = Instant::now() + Duration::from_micros(self.latency_us.load(SeqCst));
            let chunk = buffer.get(..bytes).unwrap_or_default().to_vec();
            if chunks.send((due, chunk)).is_err() {
                return;
            }
        }
    }

    fn give(&self, link: &Link, mut to: &TcpStream, chunks: &Receiver<(Instant, Vec<u8>)>) -> std::io::Result<()> {
        for (due, chunk) in chunks {
            sleep(due.saturating_duration_since(Instant::now()));
            while self.is_black_hole.load(SeqCst) && !link.is_cut.load(SeqCst) {
                sleep(GLANCE);
            }
            if link.is_cut.load(SeqCst) {
                return Ok(());
            }
            to.write_all(&chunk)?;
        }
        to.shutdown(Shutdown::Write)
    }

    fn live(&self) -> Vec<Arc<Link>> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.iter().filter_map(Weak::upgrade).filter(|link| !link.is_cut.load(SeqCst)).collect()
    }
}

impl Link {
    fn cut(&self) {
        self.is_cut.store(true, SeqCst);
        for socket in [&self.client, &self.server] {
            // Closed by its other end already is fine.
            drop(socket.shutdown(Shutdown::Both));
        }
    }
}
