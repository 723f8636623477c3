//! `Idempotency-Key`: a request that was carried out once is answered as before, and not carried out again.
//!
//! It is for a client whose answer was lost: it sends the same request with the same key, and learns what the first one did,
//! or waits for it while it is under way. A request that was refused changed nothing and is not kept.
//! The limit of the promise: answers stay in the memory of this host, 24 hours and [`MOST_BYTES`] at the most;
//! another host, or this one after a restart, knows nothing of them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use phronis_core::code;
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;
use utoipa::IntoParams;

use crate::access::Caller;
use crate::body;
use crate::problem::Problem;
use crate::state::App;

/// How long an answer is kept: a client that asks later has long been looked after by a person.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

/// Most bytes of all kept answers: some ten thousand halts, or forty redrives of as many letters as one may name.
const MOST_BYTES: usize = 4 << 20;

/// What an entry costs beside its answer's body.
const ENTRY_BYTES: usize = 384;

/// The longest key; what clients send is mostly a UUID.
const KEY_BYTES: usize = 255;

/// Says that an answer is the one of an earlier request.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The key of a request that is carried out once.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct Once {
    /// Any text of the client's own, 1 to 255 visible characters: the same request with the same key is carried out once.
    #[param(rename = "Idempotency-Key")]
    key: Option<String>,
}

impl Once {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let Some(value) = headers.get("idempotency-key") else { return Ok(Self { key: None }) };
        let key = value.to_str().ok().filter(|key| (1..=KEY_BYTES).contains(&key.len()));
        match key {
            Some(key) => Ok(Self { key: Some(key.to_owned()) }),
            None => {
                let detail = format!("the Idempotency-Key is not 1 to {KEY_BYTES} visible characters; nothing changed");
                Err(Problem::new(code::BAD_REQUEST, detail))
            }
        }
    }
}

/// Whose key, and the key.
type Id = (Option<String>, String);

/// Answers that are kept.
#[derive(Debug, Default)]
pub(crate) struct Answers(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    entries: HashMap<Id, Arc<Entry>>,
    /// The oldest first.
    order: VecDeque<Id>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    /// Of path, query, and body.
    request: [u8; 32],
    since: Instant,
    answer: OnceCell<Answer>,
}

#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// Layer: a POST that brings a key is carried out once.
pub(crate) async fn once(Extension(app): Extension<App>, request: Request, next: Next) -> Result<Response, Problem> {
    let key = match *request.method() {
        Method::POST => Once::of(request.headers())?.key,
        _ => None,
    };
    let Some(key) = key else { return Ok(next.run(request).await) };
    let (mut parts, body) = request.into_parts();
    let held = body::read(&app, &parts.headers, body).await?;
    parts.headers.remove(header::CONTENT_ENCODING);
    parts.headers.remove(header::CONTENT_LENGTH);
    let caller = parts.extensions.get::<Caller>().and_then(Caller::name);
    let id = (caller.map(str::to_owned), key);
    let entry = app.answers.entry(&id, digest(&parts, &held.bytes))?;
    // In a task of its own: it is carried out, and its answer kept, also when the client leaves.
    let carrying = tokio::spawn(async move {
        let mut is_first = false;
        let carry = || {
            is_first = true;
            carry_out(Request::from_parts(parts, Body::from(held.bytes.clone())), next)
        };
        let answered = entry.answer.get_or_try_init(carry).await;
        let answer = match answered {
            Ok(answer) => answer,
            Err(refused) => {
                app.answers.forget(&id, &entry);
                return refused;
            }
        };
        if is_first {
            app.answers.count(&id, &entry);
        }
        answer.response(!is_first)
    });
    carrying.await.map_err(|error| Problem::internal("carrying out the request", &error))
}

/// What is kept of a request that was carried out; else what refuses it.
async fn carry_out(request: Request, next: Next) -> Result<Answer, Response> {
    let response = next.run(request).await;
    if !response.status().is_success() {
        return Err(response);
    }
    let (parts, body) = response.into_parts();
    let read = to_bytes(body, usize::MAX).await;
    let body = read.map_err(|error| Problem::internal("keeping the answer", &error).into_response())?;
    Ok(Answer { status: parts.status, headers: parts.headers, body })
}

fn digest(parts: &Parts, body: &Bytes) -> [u8; 32] {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    // A target has no line breaks.
    Sha256::new().chain_update(target).chain_update("\n").chain_update(body).finalize().into()
}

impl Answers {
    /// The entry of a key; made when there is none.
    fn entry(&self, id: &Id, request: [u8; 32]) -> Result<Arc<Entry>, Problem> {
        let mut kept = self.lock();
        kept.drop_old();
        if let Some(entry) = kept.entries.get(id) {
            if entry.request == request {
                return Ok(Arc::clone(entry));
            }
            let detail = "this Idempotency-Key came with another path or body before; nothing changed";
            return Err(Problem::new(code::KEY_REUSED, detail));
        }
        let entry = Arc::new(Entry { request, since: Instant::now(), answer: OnceCell::new() });
        kept.entries.insert(id.clone(), Arc::clone(&entry));
        kept.order.push_back(id.clone());
        kept.bytes += ENTRY_BYTES;
        Ok(entry)
    }

    /// Counts the bytes of an answer that is there now.
    fn count(&self, id: &Id, entry: &Arc<Entry>) {
        let mut kept = self.lock();
        if kept.entries.get(id).is_some_and(|held| Arc::ptr_eq(held, entry)) {
            kept.bytes += entry.body_bytes();
            kept.drop_old();
        }
    }

    /// Drops the entry of a request that was refused: it may be sent anew with the same key.
    fn forget(&self, id: &Id, entry: &Arc<Entry>) {
        let mut kept = self.lock();
        if kept.entries.get(id).is_some_and(|held| Arc::ptr_eq(held, entry) && !held.answer.initialized()) {
            kept.order.retain(|other| other != id);
            kept.remove(id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn drop_old(&mut self) {
        while let Some(oldest) = self.order.front().cloned() {
            let is_old = self.entries.get(&oldest).is_none_or(|entry| entry.since.elapsed() > KEPT_FOR);
            if !is_old && self.bytes <= MOST_BYTES {
                break;
            }
            self.order.pop_front();
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, id: &Id) {
        if let Some(entry) = self.entries.remove(id) {
            self.bytes = self.bytes.saturating_sub(ENTRY_BYTES + entry.body_bytes());
        }
    }
}

impl Entry {
    fn body_bytes(&self) -> usize {
        self.answer.get().map_or(0, |answer| answer.body.len())
    }
}

impl Answer {
    fn response(&self, is_replayed: bool) -> Response {
        let mut response = (self.status, self.headers.clone(), self.body.clone()).into_response();
        if is_replayed {
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(key: &str) -> Id {
        (None, key.to_owned())
    }

    fn answer(answers: &Answers, key: &str, bytes: usize) {
        let entry = answers.entry(&id(key), [1; 32]).unwrap();
        let body = vec![b'x'; bytes].into();
        entry.answer.set(Answer { status: StatusCode::OK, headers: HeaderMap::new(), body }).unwrap();
        answers.count(&id(key), &entry);
    }

    #[test]
    fn the_oldest_answers_make_room_and_the_sum_of_bytes_stays_right() {
        let answers = Answers::default();
        for n in 0..100 {
            answer(&answers, &format!("key-{n}"), 1 << 16);
            let kept = answers.lock();
            let bytes = kept.entries.values().map(|entry| ENTRY_BYTES + entry.body_bytes()).sum::<usize>();
            assert_eq!((kept.bytes, kept.order.len()), (bytes, kept.entries.len()));
            assert!(bytes <= MOST_BYTES);
        }
        let kept = answers.lock();
        assert!(kept.entries.contains_key(&id("key-99")) && !kept.entries.contains_key(&id("key-0")));
    }

    #[test]
    fn a_key_belongs_to_one_request_of_one_caller() {
        let answers = Answers::default();
        answer(&answers, "k", 1);
        assert!(answers.entry(&id("k"), [1; 32]).unwrap().answer.initialized());
        assert_eq!(answers.entry(&id("k"), [2; 32]).unwrap_err().code(), code::KEY_REUSED);
        let other = (Some("ops".to_owned()), "k".to_owned());
        assert!(!answers.entry(&other, [2; 32]).unwrap().answer.initialized());
    }

    #[test]
    fn a_refused_request_leaves_its_key_free_and_an_answered_one_does_not() {
        let answers = Answers::default();
        let refused = answers.entry(&id("k"), [1; 32]).unwrap();
        answers.forget(&id("k"), &refused);
        assert!(answers.lock().bytes == 0);
        assert!(answers.lock().order.is_empty());
        let second = answers.entry(&id("k"), [2; 32]).unwrap();
        // The one that was refused long ago takes nothing from who has the key now.
        answers.forget(&id("k"), &refused);
        assert!(Arc::ptr_eq(&second, &answers.entry(&id("k"), [2; 32]).unwrap()));
    }
}
