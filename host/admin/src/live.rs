//! What happens now: `GET /v1/events`, server-sent events.
//!
//! All listeners share one ring of events in the pipeline; a listener holds only its place in it.
//! One that falls behind loses the oldest events and is told how many; one that does not read at all is cut off
//! by its connection. Nothing here waits for a listener.

mod filter;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use phronis_pipeline::live::Event;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::timeout;

use crate::access::Caller;
use crate::live::filter::{Filter, Wanted};
use crate::problem::{Document, Problem};
use crate::state::{App, stopped};

/// Bytes of events that are put into one write.
const PIECE: usize = 16 << 10;

/// Follows alerts, plugins and settings as they change (`text/event-stream`).
///
/// Each event's name is its kind (`alert`, `plugin`, `config`, `agent`), its id is the alert's id, its data one JSON object.
/// An event `lagged` with `{"missed": n}` says that this client was too slow for `n` events; they are in the topics.
#[utoipa::path(
    get, path = "/v1/events", tag = "events", params(Wanted),
    responses(
        (status = 200, description = "events without end", body = String, content_type = "text/event-stream"),
        (status = 400, description = "a filter is not valid", body = Document),
        (status = 429, description = "too many listeners", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn follow(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Problem> {
    let filter = Filter::new(wanted, caller)?;
    let place = Arc::clone(&app.listeners).try_acquire_owned();
    let place = place.map_err(|_| Problem::busy("too many clients listen to live events"))?;
    let gauge = Listening::new();
    let events = stream(app.pipeline.live(), filter, app.options.heartbeat).map(move |piece| {
        let _held = (&place, &gauge);
        Ok::<_, std::convert::Infallible>(piece)
    });
    let events = events.take_until(stopped(app.stopping.clone()));
    Ok(([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response())
}

/// The events that pass, as bytes. Ends when the pipeline ends.
fn stream(live: Receiver<Arc<Event>>, filter: Filter, heartbeat: Duration) -> impl Stream<Item = Bytes> {
    // The first comment makes the answer begin at once, so that clients know that they are listening.
    let hello = futures::stream::once(async { Bytes::from_static(b": listening\n\n") });
    let events = futures::stream::unfold((live, filter), move |(mut live, filter)| async move {
        let piece = next_piece(&mut live, &filter, heartbeat).await?;
        Some((piece, (live, filter)))
    });
    hello.chain(events)
}

/// Waits for something to say: events that are there already go out together.
async fn next_piece(live: &mut Receiver<Arc<Event>>, filter: &Filter, heartbeat: Duration) -> Option<Bytes> {
    let mut piece = BytesMut::new();
    let first = async {
        while piece.is_empty() {
            match live.recv().await {
                Ok(event) => write(&mut piece, &event, filter),
                Err(RecvError::Lagged(missed)) => write_lagged(&mut piece, missed),
                Err(RecvError::Closed) => return false,
            }
        }
        true
    };
    match timeout(heartbeat, first).await {
        Err(_) => return Some(Bytes::from_static(b": alive\n\n")),
        Ok(false) => return None,
        Ok(true) => {}
    }
    while piece.len() < PIECE {
        match live.try_recv() {
            Ok(event) => write(&mut piece, &event, filter),
            Err(TryRecvError::Lagged(missed)) => write_lagged(&mut piece, missed),
            Err(TryRecvError::Empty | TryRecvError::Closed) => break,
        }
    }
    Some(piece.freeze())
}

fn write(piece: &mut BytesMut, event: &Event, filter: &Filter) {
    if !filter.passes(event) {
        return;
    }
    piece.put_slice(b"event: ");
    piece.put_slice(event.kind.as_str().as_bytes());
    piece.put_slice(b"\nid: ");
    piece.put_slice(event.id.as_bytes());
    // One JSON object has no bare line break inside strings; between tokens a break starts a new data line.
    for line in event.json.split(|byte| matches!(byte, b'\n' | b'\r')) {
        piece.put_slice(b"\ndata: ");
        piece.put_slice(line);
    }
    piece.put_slice(b"\n\n");
}

fn write_lagged(piece: &mut BytesMut, missed: u64) {
    metrics::counter!("phronis_live_events_missed_total").increment(missed);
    piece.put_slice(format!("event: lagged\ndata: {{\"missed\":{missed}}}\n\n").as_bytes());
}

/// Counts a listener while it lives.
struct Listening(metrics::Gauge);

impl Listening {
    fn new() -> Self {
        let gauge = metrics::gauge!("phronis_live_listeners");
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use phronis_pipeline::live::Kind;
    use tokio::sync::broadcast;

    use super::*;

    fn event(at: usize) -> Arc<Event> {
        Arc::new(Event {
            kind: Kind::Alert,
            stream: "sensors".parse().unwrap(),
            id: format!("id-{at}").into(),
            json: format!("{{\"at\":{at}}}").into(),
        })
    }

    fn all() -> Filter {
        Filter::new(Wanted::default(), Caller::Anyone).unwrap()
    }

    async fn text(pieces: impl Stream<Item = Bytes>) -> String {
        let pieces: Vec<Bytes> = pieces.collect().await;
        String::from_utf8(pieces.concat()).unwrap()
    }

    #[tokio::test]
    async fn a_listener_that_lags_learns_how_many_it_missed_and_goes_on() {
        let (sender, receiver) = broadcast::channel(4);
        let events = stream(receiver, all(), Duration::from_secs(3600));
        for at in 0..10 {
            sender.send(event(at)).unwrap();
        }
        drop(sender);
        let text = text(events).await;
        assert!(text.starts_with(": listening\n\nevent: lagged\ndata: {\"missed\":6}\n\n"), "{text}");
        assert!(
            !text.contains("id: id-5\n") && text.contains("event: alert\nid: id-6\ndata: {\"at\":6}\n\n"),
            "{text}"
        );
        assert!(text.ends_with("id: id-9\ndata: {\"at\":9}\n\n"), "{text}");
    }

    #[tokio::test]
    async fn a_silent_stream_sends_comments() {
        let (_sender, receiver) = broadcast::channel(4);
        let events = stream(receiver, all(), Duration::from_millis(1)).take(3);
        assert_eq!(text(events).await, ": listening\n\n: alive\n\n: alive\n\n");
    }

    #[tokio::test]
    async fn a_line_break_in_the_data_cannot_end_the_event() {
        let mut piece = BytesMut::new();
        let mut broken = Event::clone(&event(1));
        broken.json = Bytes::from_static(b"{\n\"a\":\r\n1}");
        write(&mut piece, &broken, &all());
        assert_eq!(&piece[..], b"event: alert\nid: id-1\ndata: {\ndata: \"a\":\ndata: \ndata: 1}\n\n");
    }
}
