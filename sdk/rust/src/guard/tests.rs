//! The guard against a small host on a real socket: the decisions have tests of their own beside them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;

/// A wait that only a hanging test reaches.
const PATIENCE: Duration = Duration::from_secs(60);

/// A host that answers streams and posts; it tells what it is told to tell.
struct Fake {
    url: String,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    version: u64,
    epoch: &'static str,
    halted: Vec<Value>,
    listeners: Vec<TcpStream>,
    connected: usize,
    events: Vec<Value>,
    /// Statuses of the next posts; then 202.
    posts: Vec<u16>,
    /// Instead of the stream.
    refuse: Option<&'static str>,
    keys: Vec<String>,
}

impl Fake {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Mutex::new(Shared {
            version: 0,
            epoch: "e1",
            halted: Vec::new(),
            listeners: Vec::new(),
            connected: 0,
            events: Vec::new(),
            posts: Vec::new(),
            refuse: None,
            keys: Vec::new(),
        }));
        let own = Arc::clone(&shared);
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&own);
                std::thread::spawn(move || serve(&connection, &shared));
            }
        });
        Self { url, shared }
    }

    fn guard(&self) -> Guard {
        Guard::connect(Options { patience: PATIENCE, ..Options::new(&*self.url) }).unwrap()
    }

    fn with<T>(&self, what: impl FnOnce(&mut Shared) -> T) -> T {
        what(&mut self.shared.lock().unwrap())
    }

    fn change(&self, agent: Value, state: &str) {
        self.with(|host| {
            host.version += 1;
            let entry =
                json!({"agent": agent, "state": state, "reason": "r", "actor": "ops", "at": null, "expires_at": null});
            let mut data = entry.clone();
            (data["epoch"], data["version"]) = (json!(host.epoch), json!(host.version));
            host.halted.retain(|halted| halted["agent"] != agent);
            if state == "halted" {
                host.halted.push(entry);
            }
            host.tell("change", &data);
        });
    }

    fn beat(&self) {
        self.with(|host| host.tell("beat", &json!({"epoch": host.epoch, "version": host.version, "at": null})));
    }

    fn events(&self) -> Vec<Value> {
        self.with(|host| host.events.clone())
    }
}

impl Shared {
    fn tell(&mut self, name: &str, data: &Value) {
        let text = format!("event: {name}\ndata: {data}\n\n");
        self.listeners.retain_mut(|listener| write!(listener, "{:x}\r\n{text}\r\n", text.len()).is_ok());
    }
}

fn serve(connection: &TcpStream, shared: &Mutex<Shared>) {
    let mut reader = BufReader::new(connection);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            } else if let Some(key) = line.strip_prefix("x-api-key: ") {
                shared.lock().unwrap().keys.push(key.to_owned());
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let mut host = shared.lock().unwrap();
        let mut writer = connection;
        if first.starts_with("POST") {
            let status = if host.posts.is_empty() { 202 } else { host.posts.remove(0) };
            if status == 202 {
                let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                host.events.extend(lines.map(|line| serde_json::from_slice::<Value>(line).unwrap()));
            }
            write!(writer, "HTTP/1.1 {status} Word\r\ncontent-length: 2\r\n\r\n{{}}").unwrap();
        } else if let Some(refusal) = host.refuse {
            host.connected += 1;
            write!(writer, "HTTP/1.1 {refusal}\r\ncontent-length: 0\r\n\r\n").unwrap();
        } else {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            writer.write_all(head.as_bytes()).unwrap();
            host.connected += 1;
            let data = json!({"epoch": host.epoch, "version": host.version, "halted": host.halted});
            let text = format!("event: snapshot\ndata: {data}\n\n");
            write!(writer, "{:x}\r\n{text}\r\n", text.len()).unwrap();
            host.listeners.push(connection.try_clone().unwrap());
        }
    }
}

fn eventually(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "it did not come to be");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_halted_agents_tool_does_not_run() {
    let host = Fake::start();
    host.change(json!("a"), "halted");
    let guard = host.guard();
    let halted = guard.call("a", "tool", || panic!("it ran")).unwrap_err();
    assert_eq!((&*halted.agent_id, &*halted.reason, halted.actor.as_deref()), ("a", "r", Some("ops")));
    assert_eq!(guard.call("b", "tool", || 7), Ok(7));
    host.change(json!("b"), "halted");
    eventually(|| guard.check("b").is_err());
    host.change(json!("b"), "running");
    eventually(|| guard.check("b").is_ok());
    host.change(Value::Null, "halted");
    eventually(|| guard.check("z").is_err());
    assert!(guard.state().tenant_is_halted && guard.state().refused >= 3);
}

#[test]
fn a_gap_and_another_incarnation_lead_to_a_new_snapshot() {
    let host = Fake::start();
    let guard = host.guard();
    assert!(guard.check("a").is_ok());
    host.with(|host| {
        host.version += 1;
        host.halted.push(json!({"agent": "a", "state": "halted"}));
    });
    host.beat();
    eventually(|| guard.check("a").is_err());
    host.with(|host| (host.epoch, host.halted) = ("e2", Vec::new()));
    host.beat();
    eventually(|| guard.check("a").is_ok());
    assert!(host.with(|host| host.connected) >= 3);
}

#[test]
fn an_end_of_the_stream_keeps_the_last_state_until_it_is_back() {
    let host = Fake::start();
    host.change(json!("bad"), "halted");
    let guard = host.guard();
    assert!(guard.check("good").is_ok());
    host.with(|host| {
        host.refuse = Some("503 Away");
        host.listeners.drain(..).for_each(|listener| listener.shutdown(std::net::Shutdown::Both).unwrap());
    });
    eventually(|| guard.state().trouble.is_some_and(|trouble| trouble.contains("503")));
    assert!(guard.check("good").is_ok() && guard.check("bad").is_err());
    host.with(|host| host.refuse = None);
    eventually(|| guard.state().is_connected);
}

#[test]
fn without_a_state_nothing_runs_and_the_reason_is_told() {
    let host = Fake::start();
    for (refusal, said) in [
        ("401 No", "refuses the key (401)"),
        ("302 Away\r\nlocation: http://127.0.0.1:1/", "redirects (302)"),
        ("200 Fine\r\ncontent-type: text/html", "does not answer with the guard's stream"),
    ] {
        host.with(|host| host.refuse = Some(refusal));
        let options = Options { api_key: Some("s3cret".to_owned()), ..Options::new(&*host.url) };
        assert!(!format!("{options:?}").contains("s3cret"));
        let guard = Guard::connect(Options { patience: PATIENCE, ..options }).unwrap();
        let reason = guard.check("a").unwrap_err().reason;
        assert!(reason.contains(said) && !reason.contains("s3cret"), "{reason}");
        assert!(!format!("{guard:?}").contains("s3cret"));
    }
    let keys = host.with(|host| host.keys.clone());
    assert!(keys.len() >= 3 && keys.iter().all(|key| key == "s3cret"), "{keys:?}");
    let open = Options { when_unreachable: WhenUnreachable::FailOpen, ..Options::new(&*host.url) };
    assert!(Guard::connect(open).unwrap().check("a").is_ok());
}

#[test]
fn a_copy_in_a_forked_process_answers_as_if_it_had_never_heard_the_host() {
    let host = Fake::start();
    for (when_unreachable, is_allowed) in
        [(WhenUnreachable::LastKnown, false), (WhenUnreachable::FailClosed, false), (WhenUnreachable::FailOpen, true)]
    {
        let options = || Options { when_unreachable, ..Options::new(&*host.url) };
        // Its process is another one: that is all that a fork leaves of a guard.
        let copy = Guard::connect_as(options(), 0).unwrap();
        let checked = copy.check("a");
        assert_eq!(checked.is_ok(), is_allowed, "{when_unreachable:?}");
        if let Err(halted) = checked {
            assert!(halted.reason.contains("connect a new guard after fork"), "{halted}");
        }
        assert_eq!(copy.call("a", "tool", || 7).is_ok(), is_allowed);
        let state = copy.state();
        assert!(!state.is_connected && state.is_stale && state.trouble.is_some_and(|why| why.contains("forked")));
        assert_eq!((state.events_waiting, copy.flush(Duration::from_secs(60))), (0, false));
        // One of its own is as any other.
        let own = Guard::connect(Options { patience: Duration::from_secs(10), ..options() }).unwrap();
        assert!(own.check("a").is_ok());
    }
}

#[test]
fn a_call_that_began_before_a_fork_ends_in_the_child_by_the_policy() {
    use std::pin::pin;
    use std::task::{Context, Waker};

    let host = Fake::start();
    for (when_unreachable, is_allowed) in [(WhenUnreachable::LastKnown, false), (WhenUnreachable::FailOpen, true)] {
        let guard = Guard::connect_as(Options { when_unreachable, ..Options::new(&*host.url) }, 0).unwrap();
        let mut call = Call::new(guard, "a", "tool", 1);
        let waiting = call.until_halted();
        let is_ready = pin!(waiting).poll(&mut Context::from_waker(Waker::noop())).is_ready();
        assert_eq!((is_ready, call.halted().is_some()), (!is_allowed, !is_allowed), "{when_unreachable:?}");
    }
}

#[test]
fn calls_are_told_to_the_host() {
    let host = Fake::start();
    host.with(|host| host.posts = vec![503, 429]);
    let guard = host.guard();
    guard.call("a", "search", || ()).unwrap();
    let mut call = guard.begin("a", "crawl").unwrap();
    assert_eq!(call.halted(), None);
    call.usage(3, 4);
    host.change(json!("a"), "halted");
    eventually(|| guard.check("a").is_err());
    assert!(call.halted().is_some());
    drop(call);
    assert!(guard.flush(PATIENCE));
    let mut events = host.events();
    assert_eq!(events.len(), 2);
    let mut second = events.remove(1);
    let metadata = second["metadata"].as_object_mut().unwrap();
    assert!(metadata.remove("latency_ms").unwrap().as_f64().unwrap() >= 0.0);
    assert_ne!(metadata.remove("call_id").unwrap(), events[0]["metadata"]["call_id"]);
    assert!(second.as_object_mut().unwrap().remove("timestamp").unwrap().as_i64().unwrap() > 1_600_000_000_000);
    assert_eq!(
        second,
        json!({"agent_id": "a", "event_type": "TOOL_CALL", "status": "halted", "metadata": {
            "tool": "crawl", "outcome": "halted", "calls_in_minute": 2, "tokens": 7, "input_tokens": 3, "output_tokens": 4,
        }})
    );
}

#[test]
fn a_host_that_is_away_holds_no_tool_up_and_losses_are_counted() {
    // Nobody serves the first of all ports.
    let url = "http://127.0.0.1:1";
    let when_unreachable = WhenUnreachable::FailOpen;
    let guard = Guard::connect(Options { when_unreachable, queue_size: 10, ..Options::new(url) }).unwrap();
    for _ in 0..2000 {
        guard.call("a", "tool", || ()).unwrap();
    }
    let state = guard.state();
    assert!(state.events_waiting <= 10 + 500);
    assert_eq!(state.events_waiting as u64 + state.events_dropped, 2000);
}

#[test]
fn what_the_host_refuses_is_not_sent_for_ever() {
    let host = Fake::start();
    host.with(|host| host.posts = vec![422]);
    let guard = host.guard();
    for _ in 0..2 {
        guard.call("a", "tool", || ()).unwrap();
        assert!(guard.flush(PATIENCE));
    }
    assert_eq!((guard.state().events_dropped, guard.state().events_posted), (1, 1));
}

#[test]
fn options_that_cannot_be_are_refused() {
    for url in ["", "127.0.0.1:8000", "ftp://a", "http://", "http://u:p@h", "http://h?x=1"] {
        assert!(Guard::connect(Options::new(url)).is_err(), "{url}");
    }
    let fine = || Options::new("http://127.0.0.1:1");
    for options in [
        Options { api_key: Some("a\r\nb".to_owned()), ..fine() },
        Options { tenant: Some(String::new()), ..fine() },
        Options { stream: "a/b".to_owned(), ..fine() },
        Options { queue_size: 0, ..fine() },
        Options { stale_after: Some(Duration::ZERO), ..fine() },
    ] {
        assert!(matches!(Guard::connect(options), Err(Error::Option(_))));
    }
    let guard = Guard::connect(fine()).unwrap();
    assert!(guard.check("").is_err() && guard.check(&"x".repeat(257)).is_err());
}

#[test]
fn a_call_that_waits_hears_of_its_halt() {
    use std::pin::pin;
    use std::task::{Context, Poll, Wake};

    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let host = Fake::start();
    let guard = host.guard();
    let mut call = guard.begin("a", "tool").unwrap();
    let waiting = call.until_halted();
    let waiter = std::thread::spawn(move || {
        let waker = Arc::new(Unpark(std::thread::current())).into();
        let (mut context, mut waiting) = (Context::from_waker(&waker), pin!(waiting));
        loop {
            match waiting.as_mut().poll(&mut context) {
                Poll::Ready(halted) => return halted,
                Poll::Pending => std::thread::park(),
            }
        }
    });
    host.change(json!("b"), "halted");
    host.change(json!("a"), "halted");
    let halted = waiter.join().unwrap();
    assert_eq!((&*halted.agent_id, &*halted.reason), ("a", "r"));
    assert_eq!(call.halted(), Some(halted));
}
