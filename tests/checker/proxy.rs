//! The bad network: what it holds back it forwards later, and only a cut loses anything.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use phronis_tests::proxy::Proxy;

/// A wait that only a hanging test reaches.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that sends everything back, for as long as this process lives.
fn echo() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut socket.try_clone()?, &mut socket));
        }
    });
    Ok(port)
}

fn connect(proxy: &Proxy) -> std::io::Result<TcpStream> {
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port()))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Sends bytes and reads as many.
fn exchange(socket: &mut TcpStream, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    socket.write_all(bytes)?;
    let mut back = vec![0; bytes.len()];
    socket.read_exact(&mut back)?;
    Ok(back)
}

#[test]
fn bytes_come_back_in_order_however_many() -> anyhow::Result<()> {
    let proxy = Proxy::start(echo()?)?;
    let socket = connect(&proxy)?;
    // More than all buffers on the way hold, so that both directions must wait for each other.
    let sent: Vec<u8> = (0..50_000_000u32).map(|n| (n % 251) as u8).collect();
    let back = std::thread::scope(|scope| {
        let writer = scope.spawn(|| (&socket).write_all(&sent));
        let mut back = vec![0; sent.len()];
        (&socket).read_exact(&mut back)?;
        writer.join().unwrap()?;
        anyhow::Ok(back)
    })?;
    assert!(back == sent);
    // A client that has said everything still hears the rest: the end travels there and back.
    socket.shutdown(std::net::Shutdown::Write)?;
    assert_eq!((&socket).read(&mut [0; 1])?, 0);
    Ok(())
}

#[test]
fn latency_is_added_each_way() -> anyhow::Result<()> {
    let proxy = Proxy::start(echo()?)?;
    let mut socket = connect(&proxy)?;
    proxy.latency(Duration::from_millis(60));
    let started = Instant::now();
    assert_eq!(exchange(&mut socket, b"there and back")?, b"there and back");
    // A lower bound: nothing here can make it faster.
    assert!(started.elapsed() >= Duration::from_millis(120), "{:?}", started.elapsed());
    proxy.heal();
    assert_eq!(exchange(&mut socket, b"again")?, b"again");
    Ok(())
}

#[test]
fn a_black_hole_gives_back_what_it_took() -> anyhow::Result<()> {
    let proxy = Proxy::start(echo()?)?;
    let mut socket = connect(&proxy)?;
    assert_eq!(exchange(&mut socket, b"before")?, b"before");
    proxy.black_hole(true);
    socket.write_all(b"swallowed")?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let silence = socket.read(&mut [0; 1]).map_err(|error| error.kind());
    assert!(matches!(silence, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)), "{silence:?}");
    // New ones are let in too, and get no answer either.
    let other = connect(&proxy)?;
    other.set_read_timeout(Some(Duration::from_millis(50)))?;
    (&other).write_all(b"x")?;
    assert!((&other).read(&mut [0; 1]).is_err());

    proxy.heal();
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut back = [0; 9];
    socket.read_exact(&mut back)?;
    assert_eq!(&back, b"swallowed");
    Ok(())
}

#[test]
fn a_cut_ends_what_is_there_and_a_refusal_what_would_come() -> anyhow::Result<()> {
    let proxy = Proxy::start(echo()?)?;
    let mut socket = connect(&proxy)?;
    assert_eq!(exchange(&mut socket, b"x")?, b"x");
    assert_eq!(proxy.connections(), 1);
    proxy.refuse(true);
    assert_eq!(connect(&proxy).map(drop).map_err(|error| error.kind()), Err(ErrorKind::ConnectionRefused));
    assert_eq!(exchange(&mut socket, b"those that are there stay")?, b"those that are there stay");

    proxy.black_hole(true);
    socket.write_all(b"lost")?;
    proxy.cut();
    assert!(matches!(socket.read(&mut [0; 1]), Ok(0) | Err(_)));
    assert_eq!(proxy.connections(), 0);
    proxy.heal();
    assert_eq!(exchange(&mut connect(&proxy)?, b"new")?, b"new");
    Ok(())
}

#[test]
fn it_can_be_told_later_where_the_server_is() -> anyhow::Result<()> {
    // Nobody serves the first of all ports.
    let proxy = Proxy::start(1)?;
    assert!(exchange(&mut connect(&proxy)?, b"x").is_err());
    proxy.aim(echo()?);
    assert_eq!(exchange(&mut connect(&proxy)?, b"x")?, b"x");
    Ok(())
}
