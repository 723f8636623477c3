//! Listens to the host: one thread, one long-lived stream.
//!
//! A gap in the versions, another incarnation of the host, three seconds of silence: it connects anew and hears all
//! halts again. Nothing that comes in ends the thread; what is wrong stands in the guard's state.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::cache::{Cache, SILENCE};
use super::options::{Place, jittered};
use super::sse::{MAX_EVENT, Parser};

/// The longest pause between two attempts: a kill switch should be back soon after its host.
const MOST: Duration = Duration::from_secs(3);

/// The pause after the host refused us: a person has to do something first.
const REFUSED: Duration = Duration::from_secs(10);

/// Time without a whole event while the snapshot comes in, which may be large.
const SNAPSHOT: Duration = Duration::from_secs(30);

/// Listens until it is dropped or stopped.
#[derive(Debug)]
pub(super) struct Feed(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    place: Place,
    cache: Arc<Cache>,
    is_connected: AtomicBool,
    is_settled: AtomicBool,
    is_stopping: Mutex<bool>,
    changed: Condvar,
}

/// Why there is no stream, and how long to wait; without a time, as long as attempts like this one do.
struct Trouble(String, Option<Duration>);

impl Feed {
    pub(super) fn start(place: &Place, cache: Arc<Cache>) -> Self {
        let shared = Arc::new(Shared {
            place: place.clone(),
            cache,
            is_connected: AtomicBool::new(false),
            is_settled: AtomicBool::new(false),
            is_stopping: Mutex::new(false),
            changed: Condvar::new(),
        });
        let own = Arc::clone(&shared);
        let started = std::thread::Builder::new().name("phronis-guard".to_owned()).spawn(move || own.run());
        if let Err(error) = started {
            shared.cache.trouble(format!("no thread can be started: {error}"));
            shared.settle();
        }
        Self(shared)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.0.is_connected.load(Ordering::Relaxed)
    }

    /// Whether the host was tried at least once.
    pub(super) fn is_settled(&self) -> bool {
        self.0.is_settled.load(Ordering::Acquire)
    }

    /// Waits for the first attempt.
    pub(super) fn wait(&self, at_most: Duration) {
        let stopping = self.0.lock();
        drop(self.0.changed.wait_timeout_while(stopping, at_most, |_| !self.is_settled()));
    }

    /// Tells the thread to end; it does so with the host's next word, or its silence.
    pub(super) fn stop(&self) {
        *self.0.lock() = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn run(&self) {
        let client = self.place.client(SILENCE, SILENCE, None);
        let mut failures = 0;
        while !*self.lock() {
            let Trouble(trouble, pause) = self.follow(&client, &mut failures);
            self.is_connected.store(false, Ordering::Relaxed);
            self.cache.trouble(trouble);
            self.settle();
            let growing = Duration::from_millis(50).saturating_mul(1 << failures.min(10)).min(MOST);
            failures = failures.saturating_add(1);
            let pause = pause.unwrap_or_else(|| jittered(growing));
            drop(self.changed.wait_timeout_while(self.lock(), pause, |stopping| !*stopping));
        }
    }

    fn follow(&self, client: &ureq::Agent, failures: &mut u32) -> Trouble {
        let origin = &self.place.origin;
        let mut request = client.get(&self.place.listen).header("accept", "text/event-stream");
        if let Some(key) = &self.place.api_key {
            request = request.header("x-api-key", key);
        }
        let mut response = match request.call() {
            Ok(response) => response,
            Err(error) => return Trouble(format!("{origin} is not reachable: {error}"), None),
        };
        if let Some(trouble) = refusal(origin, &response) {
            return trouble;
        }
        let (mut parser, mut heard) = (Parser::new(MAX_EVENT), Instant::now());
        let mut body = response.body_mut().as_reader();
        let mut piece = vec![0; 64 << 10];
        while !*self.lock() {
            let read = match body.read(&mut piece) {
                Ok(0) => return Trouble(format!("{origin} ended the stream"), None),
                Ok(read) => read,
                Err(error) => return Trouble(format!("{origin} is not heard any more: {error}"), None),
            };
            let Ok(events) = parser.feed(piece.get(..read).unwrap_or_default()) else {
                return Trouble(format!("{origin} sends an event of more than {MAX_EVENT} bytes"), None);
            };
            for event in events {
                let is_first = !self.is_connected.load(Ordering::Relaxed);
                if is_first && matches!(&*event.name, "change" | "beat") {
                    return Trouble(format!("{origin}: the stream does not begin with a snapshot"), None);
                }
                let now = Instant::now();
                match self.cache.take(&event.name, &event.data, now) {
                    Err(unfit) => return Trouble(format!("{origin}: {}", unfit.0), None),
                    Ok(false) => continue,
                    Ok(true) => heard = now,
                }
                match &*event.name {
                    "snapshot" => {
                        self.is_connected.store(true, Ordering::Relaxed);
                        self.settle();
                    }
                    "beat" => *failures = 0,
                    _ => {}
                }
            }
            // Bytes alone are no sign of life.
            let most = if self.is_connected.load(Ordering::Relaxed) { SILENCE } else { SNAPSHOT };
            if heard.elapsed() > most {
                return Trouble(format!("{origin} does not beat"), None);
            }
        }
        Trouble("the guard is stopped".to_owned(), None)
    }

    fn settle(&self) {
        self.is_settled.store(true, Ordering::Release);
        // Whoever is about to wait holds the lock until it does.
        drop(self.lock());
        self.changed.notify_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, bool> {
        self.is_stopping.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an answer is not the stream.
fn refusal(origin: &str, response: &ureq::http::Response<ureq::Body>) -> Option<Trouble> {
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let status = response.status().as_u16();
    Some(match status {
        200 if header("content-type").starts_with("text/event-stream") => return None,
        200 => Trouble(format!("{origin} does not answer with the guard's stream"), Some(REFUSED)),
        401 | 403 => Trouble(format!("{origin} refuses the key ({status}): check it and its tenant"), Some(REFUSED)),
        404 => Trouble(format!("{origin} has no agents to guard (404): check the URL and the tenant"), Some(REFUSED)),
        300..=399 => {
            let detail = "redirects are not followed, give the guard the right URL";
            Trouble(format!("{origin} redirects ({status}): {detail}"), Some(REFUSED))
        }
        _ => {
            let asked = header("retry-after").parse().map(Duration::from_secs).ok();
            Trouble(format!("{origin} answers {status}"), asked.map(|asked| asked.min(MOST)))
        }
    })
}
