//! Takes a request's body into memory, within bounds.
//!
//! Three bounds: the size of one body after decompression, the bytes of all bodies together, and the time between two
//! pieces. Memory is paid for as it fills, so that a client which announces much and sends nothing holds nothing.
//! Decompression runs off the async threads and stops at the limit: a bomb never unfolds.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use futures::StreamExt;
use phronis_core::code;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::problem::Problem;
use crate::state::App;

/// How long one body may take in all: the largest one over a line of 1 Mbit/s.
const WHOLE_BODY: Duration = Duration::from_secs(300);

/// How long a refused body is still read (and forgotten): a client that writes without reading would see
/// a broken connection instead of the answer.
const DRAIN: Duration = Duration::from_secs(5);

/// Decompressed bytes paid for at a time.
const INFLATE_STEP: usize = 256 << 10;

/// A body in memory; its place in the budget is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    /// The body, decompressed.
    pub(crate) bytes: Bytes,
    _place: Place,
}

/// Reads a body.
///
/// # Errors
/// 413 too large, 429 too much in memory already, 415 unknown encoding, 400 broken gzip or a broken connection,
/// 408 too slow. Nothing of the body was taken then, and the problem says so.
pub(crate) async fn read(app: &App, headers: &HeaderMap, body: Body) -> Result<Held, Problem> {
    let limit = app.options.max_body;
    let is_gzip = is_gzip(headers)?;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let announced: Option<usize> = announced.and_then(|value| value.parse().ok());
    let mut pieces = body.into_data_stream();
    let outcome = match announced {
        Some(announced) if announced > limit => Err(too_large(limit)),
        _ => collect(app, &mut pieces, limit).await,
    };
    let held = match outcome {
        Ok(held) => held,
        Err(problem) => {
            // A client that asked first (`Expect: 100-continue`) has not sent the body and gets its answer anyway;
            // one that stopped sending has nothing to drain.
            if !headers.contains_key(header::EXPECT) && problem.code() != code::TOO_SLOW {
                drain(pieces, limit.saturating_mul(4)).await;
            }
            return Err(problem);
        }
    };
    if is_gzip { inflate(app, held).await } else { Ok(held) }
}

async fn collect(app: &App, pieces: &mut BodyDataStream, limit: usize) -> Result<Held, Problem> {
    let mut place = Place::new(&app.body_bytes);
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    let deadline = Instant::now() + WHOLE_BODY;
    loop {
        let next = timeout_at(deadline, timeout(app.options.body_timeout, pieces.next())).await;
        let Ok(Ok(next)) = next else {
            return Err(Problem::new(code::TOO_SLOW, "the body stopped arriving: nothing was taken"));
        };
        let Some(piece) = next else { break };
        let piece = piece.map_err(|_| {
            Problem::new(code::BAD_REQUEST, "the body broke off or is not well-formed: nothing was taken")
        })?;
        if place.held() + piece.len() > limit {
            return Err(too_large(limit));
        }
        place.pay(piece.len())?;
        if first.is_empty() && whole.is_empty() {
            first = piece;
        } else {
            if whole.is_empty() {
                whole.extend_from_slice(&std::mem::take(&mut first));
            }
            whole.extend_from_slice(&piece);
        }
    }
    let bytes = if whole.is_empty() { first } else { whole.freeze() };
    Ok(Held { bytes, _place: place })
}

async fn drain(mut pieces: BodyDataStream, at_most: usize) {
    let mut seen = 0_usize;
    let draining = async {
        while let Some(Ok(piece)) = pieces.next().await {
            seen = seen.saturating_add(piece.len());
            if seen > at_most {
                break;
            }
        }
    };
    // Too slow or too much: the client may then see a broken connection, which is its own doing.
    drop(timeout(DRAIN, draining).await);
}

async fn inflate(app: &App, packed: Held) -> Result<Held, Problem> {
    let limit = app.options.max_body;
    let budget = Arc::clone(&app.body_bytes);
    let unpacking = tokio::task::spawn_blocking(move || unpack(&packed.bytes, limit, Place::new(&budget)));
    unpacking.await.map_err(|error| Problem::internal("decompressing the body", &error))?
}

fn unpack(packed: &[u8], limit: usize, mut place: Place) -> Result<Held, Problem> {
    let mut whole = Vec::new();
    let mut decoder = MultiGzDecoder::new(packed);
    loop {
        place.pay(INFLATE_STEP)?;
        let step = decoder.by_ref().take(INFLATE_STEP as u64).read_to_end(&mut whole);
        let step = step.map_err(|_| {
            Problem::new(code::BAD_REQUEST, "the body is not valid gzip, or is cut off: nothing was taken")
        })?;
        if whole.len() > limit {
            return Err(too_large(limit));
        }
        if step < INFLATE_STEP {
            return Ok(Held { bytes: whole.into(), _place: place });
        }
    }
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, Problem> {
    let encodings: Vec<_> = headers.get_all(header::CONTENT_ENCODING).iter().collect();
    match encodings.as_slice() {
        [] => Ok(false),
        [one] if one.as_bytes().eq_ignore_ascii_case(b"identity") => Ok(false),
        [one] if one.as_bytes().eq_ignore_ascii_case(b"gzip") || one.as_bytes().eq_ignore_ascii_case(b"x-gzip") => {
            Ok(true)
        }
        _ => {
            Err(Problem::new(code::UNSUPPORTED_CONTENT, "only gzip is accepted as Content-Encoding: nothing was taken")
                .hint("send the body as it is, or compress it once with gzip"))
        }
    }
}

fn too_large(limit: usize) -> Problem {
    let detail = format!("the body is larger than {limit} bytes (decompressed): nothing was taken");
    Problem::new(code::BODY_TOO_LARGE, detail).members(&serde_json::json!({ "limit_bytes": limit }))
}

/// A place in the budget of body bytes.
#[derive(Debug)]
struct Place {
    budget: Arc<Semaphore>,
    paid: Option<OwnedSemaphorePermit>,
}

impl Place {
    fn new(budget: &Arc<Semaphore>) -> Self {
        Self { budget: Arc::clone(budget), paid: None }
    }

    fn held(&self) -> usize {
        self.paid.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Takes more of the budget; never waits, since those who wait would hold what they have.
    fn pay(&mut self, bytes: usize) -> Result<(), Problem> {
        let full = || Problem::busy("too many bytes of requests are under way: nothing was taken");
        let more = u32::try_from(bytes).map_err(|_| full())?;
        let more = Arc::clone(&self.budget).try_acquire_many_owned(more).map_err(|_| full())?;
        match &mut self.paid {
            Some(paid) => paid.merge(more),
            None => self.paid = Some(more),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn unpacked(packed: &[u8], limit: usize, budget: usize) -> Result<Held, Problem> {
        unpack(packed, limit, Place::new(&Arc::new(Semaphore::new(budget))))
    }

    #[test]
    fn gzip_in_one_or_several_members_is_unpacked() {
        let mut packed = gzip(b"{\"a\":1}\n");
        packed.extend(gzip(b"{\"a\":2}\n"));
        assert_eq!(unpacked(&packed, 1 << 20, 1 << 20).unwrap().bytes, &b"{\"a\":1}\n{\"a\":2}\n"[..]);
        let exact = vec![b'x'; INFLATE_STEP];
        assert_eq!(unpacked(&gzip(&exact), INFLATE_STEP, 1 << 20).unwrap().bytes, exact);
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let bomb = gzip(&vec![0; 64 << 20]);
        assert!(bomb.len() < 1 << 20);
        assert_eq!(unpacked(&bomb, 1 << 20, 64 << 20).unwrap_err().code(), code::BODY_TOO_LARGE);
    }

    #[test]
    fn a_bomb_stops_at_the_budget_and_gives_it_back() {
        let budget = Arc::new(Semaphore::new(1 << 20));
        let refused = unpack(&gzip(&vec![0; 8 << 20]), 32 << 20, Place::new(&budget)).unwrap_err();
        assert_eq!(refused.code(), code::BACK_PRESSURE);
        assert_eq!(budget.available_permits(), 1 << 20);
    }

    #[test]
    fn broken_gzip_is_refused() {
        let packed = gzip(b"{\"a\":1}");
        for broken in [&b"no gzip"[..], &packed[..packed.len() - 3], &[0x1f, 0x8b]] {
            assert_eq!(unpacked(broken, 1 << 20, 1 << 20).unwrap_err().code(), code::BAD_REQUEST);
        }
    }
}
