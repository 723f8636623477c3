//! HTTP, as short as tests want it.

use reqwest::Method;
use serde_json::Value;

use super::Host;

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body as it came.
    pub text: String,
    /// The body as JSON; null when it is none.
    pub json: Value,
    /// `Retry-After`, when it is there.
    pub retry_after: Option<u64>,
}

impl Answer {
    /// Whether the events were taken, also where all will be refused.
    pub fn is_taken(&self) -> bool {
        matches!(self.status, 202 | 422)
    }

    /// A text of the body.
    pub fn str(&self, pointer: &str) -> &str {
        self.json.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// A number of the body.
    pub fn number(&self, pointer: &str) -> Option<i64> {
        self.json.pointer(pointer).and_then(Value::as_i64)
    }

    /// Where the taken rows are: partition, first offset, count.
    pub fn ranges(&self) -> Vec<(i32, i64, u64)> {
        let items = self.json.get("ranges").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let range = |item: &Value| {
            let number = |key: &str| item.get(key).and_then(Value::as_i64);
            let partition = i32::try_from(number("partition")?).ok()?;
            Some((partition, number("first_offset")?, item.get("count").and_then(Value::as_u64)?))
        };
        items.iter().filter_map(range).collect()
    }
}

impl Host {
    /// Reads a document.
    ///
    /// # Errors
    /// When the host does not answer.
    pub fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.ask(Method::GET, path, &[], Vec::new())
    }

    /// Posts events of a stream.
    ///
    /// # Errors
    /// When the host does not answer.
    pub fn post(&self, stream: &str, body: impl Into<Vec<u8>>) -> anyhow::Result<Answer> {
        let lines = [("content-type", "application/x-ndjson")];
        self.ask(Method::POST, &format!("/v1/streams/{stream}/events"), &lines, body.into())
    }

    /// Changes something, as an operator does.
    ///
    /// # Errors
    /// When the host does not answer.
    pub fn put(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        let headers = [("content-type", "application/json"), ("x-phronis", "1")];
        self.ask(Method::PUT, path, &headers, body.to_string().into_bytes())
    }

    /// Asks anything.
    ///
    /// # Errors
    /// When the host does not answer.
    pub fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> anyhow::Result<Answer> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.body(body).send()?;
        let status = response.status().as_u16();
        let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let text = response.text()?;
        let json = serde_json::from_str(&text).unwrap_or_default();
        Ok(Answer { status, text, json, retry_after })
    }
}
