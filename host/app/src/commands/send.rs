//! Posts rows to a stream: batch after batch in order, a few on the way, back-pressure respected.
//!
//! The next post goes out while the answer of the one before is awaited only when that keeps rows in order,
//! which HTTP over one connection does not promise: so one post of a sender is under way at a time,
//! and the next batch is made meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::client::{Client, refusal};
use crate::failure::Failure;

/// Rows of one post: large enough that the sync of the log is shared by many.
pub(super) const BATCH_ROWS: usize = 1_000;

/// Bytes of one post; far below what a host takes.
pub(super) const BATCH_BYTES: usize = 1 << 20;

/// Refused rows that are told one by one; the rest is counted.
const TOLD: usize = 10;

/// Longest wait between two tries under back-pressure.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Rows that go together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// One event a line.
    body: Vec<u8>,
    /// The line of each row in its file, or its number.
    lines: Vec<u64>,
}

impl Batch {
    pub(super) fn push(&mut self, line: u64, row: &[u8]) {
        // A blank line is no row for the host: an empty row goes as a text, which the gate refuses and keeps.
        let row = if row.trim_ascii().is_empty() { b"\"\"" } else { row };
        self.body.extend_from_slice(row);
        self.body.push(b'\n');
        self.lines.push(line);
    }

    pub(super) fn rows(&self) -> usize {
        self.lines.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.rows() >= BATCH_ROWS || self.body.len() >= BATCH_BYTES
    }
}

/// What became of the rows.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) accepted: u64,
    pub(super) refused: u64,
    /// Times that the host asked to wait.
    pub(super) waits: u64,
    /// Refused rows that were named, by code.
    by_code: BTreeMap<String, u64>,
    told: Vec<String>,
}

impl Tally {
    fn add(&mut self, answer: &Value, batch: &Batch, source: &str) {
        let count = |name: &str| answer.get(name).and_then(Value::as_u64).unwrap_or(0);
        self.accepted += count("accepted");
        self.refused += count("refused_count");
        for refused in answer.get("refused").and_then(Value::as_array).into_iter().flatten() {
            let text = |name: &str| refused.get(name).and_then(Value::as_str).unwrap_or_default();
            *self.by_code.entry(text("code").to_owned()).or_default() += 1;
            if self.told.len() < TOLD {
                let index = refused.get("index").and_then(Value::as_u64).and_then(|index| usize::try_from(index).ok());
                let line = index.and_then(|index| batch.lines.get(index)).copied().unwrap_or(0);
                let field = refused.get("field").and_then(Value::as_str).map(|name| format!("{name}: "));
                let field = field.unwrap_or_default();
                self.told.push(format!("{source}:{line}: {}: {field}{}", text("code"), text("reason")));
            }
        }
    }

    /// Adds what another sender counted.
    pub(super) fn merge(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.waits += other.waits;
        for (code, count) in other.by_code {
            *self.by_code.entry(code).or_default() += count;
        }
        let room = TOLD.saturating_sub(self.told.len());
        self.told.extend(other.told.into_iter().take(room));
    }

    /// The refused rows, in words; empty when there are none.
    pub(super) fn refusals(&self) -> String {
        if self.refused == 0 {
            return String::new();
        }
        let codes: Vec<_> = self.by_code.iter().map(|(code, count)| format!("{code} × {count}")).collect();
        let mut text = format!("{} refused and kept as letters: {}\n", self.refused, codes.join(", "));
        for line in &self.told {
            text.push_str(&format!("  {}\n", phronis_core::text::escape(line)));
        }
        let more = self.refused.saturating_sub(self.told.len() as u64);
        if more > 0 {
            text.push_str(&format!("  … and {more} more: phronis tail letters --from earliest\n"));
        }
        text
    }
}

/// Sends the rows of one source.
#[derive(Debug)]
pub(super) struct Sender {
    client: Client,
    path: String,
    source: String,
    pub(super) tally: Tally,
}

impl Sender {
    pub(super) fn new(client: &Client, stream: &phronis_core::StreamId, source: &str) -> Self {
        let path = format!("/v1/streams/{stream}/events");
        Self { client: client.clone(), path, source: source.to_owned(), tally: Tally::default() }
    }

    /// Posts a batch and waits until all of it is durable, however often the host asks to wait.
    pub(super) async fn post(&mut self, batch: &Batch) -> Result<(), Failure> {
        if batch.rows() == 0 {
            return Ok(());
        }
        let body = bytes::Bytes::copy_from_slice(&batch.body);
        let mut wait = Duration::from_millis(100);
        loop {
            let request = self.client.request(Method::POST, &self.path);
            let request = request.header("content-type", "application/x-ndjson").body(body.clone());
            let response = self.client.send(request).await?;
            match response.status() {
                StatusCode::ACCEPTED | StatusCode::OK | StatusCode::UNPROCESSABLE_ENTITY => {
                    let answer: Value = response.json().await.map_err(|error| self.client.unreachable(&error))?;
                    self.tally.add(&answer, batch, &self.source);
                    return Ok(());
                }
                // A host whose log is full, or away, says when to come again.
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE if asks_to_wait(&response) => {
                    let seconds =
                        response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
                    self.tally.waits += 1;
                    tokio::time::sleep(seconds.map_or(wait, Duration::from_secs).min(LONGEST_WAIT)).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                _ => return Err(refusal(response).await),
            }
        }
    }
}

fn asks_to_wait(response: &reqwest::Response) -> bool {
    response.status() == StatusCode::TOO_MANY_REQUESTS || response.headers().contains_key(RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn refused_rows_are_told_by_their_line_in_the_file() {
        let mut batch = Batch::default();
        for (line, row) in [(2, "{}"), (7, " "), (9, "{")] {
            batch.push(line, row.as_bytes());
        }
        assert_eq!(batch.body, b"{}\n\"\"\n{\n");
        let refused = json!([{"index": 2, "code": "PH1001", "field": null, "reason": "cut off"},
                             {"index": 0, "code": "PH1003", "field": "value", "reason": "is missing"}]);
        let mut tally = Tally::default();
        tally.add(&json!({"accepted": 0, "refused_count": 3, "refused": refused}), &batch, "a.csv");
        let expected = "3 refused and kept as letters: PH1001 × 1, PH1003 × 1\n  a.csv:9: PH1001: cut off\n  \
                        a.csv:2: PH1003: value: is missing\n  … and 1 more: phronis tail letters --from earliest\n";
        assert_eq!(tally.refusals(), expected);
    }
}
