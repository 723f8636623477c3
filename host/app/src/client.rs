//! Talks to a running host over HTTP: finds its address, shows the key, turns refusals into failures.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::HeaderValue;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;

use crate::config::{self, Config, HostFile, Overrides, host_file};
use crate::failure::{Exit, Failure};

/// What is written as `%XX` in a path or a query: all but letters, digits and `-._~`, which mean nothing but themselves.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Items of a list that one answer brings at the most.
const PIECE: usize = 1000;

/// Where the host is and who asks.
#[derive(Debug, Clone, Default, Args)]
pub struct ClientArgs {
    /// Address of the host [default: that of the host that runs on the data folder, else http://127.0.0.1:8000]
    #[arg(long, value_name = "URL", env = "PHRONIS_ENDPOINT", help_heading = "Host", global = true)]
    pub endpoint: Option<String>,
    /// File with the key to show; the environment variable PHRONIS_KEY holds a key itself
    #[arg(long, value_name = "FILE", help_heading = "Host", global = true)]
    pub key_file: Option<PathBuf>,
    /// Configuration of the host, to find its data folder; may be given more than once
    #[arg(short, long = "config", value_name = "FILE", help_heading = "Host", global = true)]
    pub config: Vec<PathBuf>,
    /// Data folder of the host
    #[arg(long, value_name = "DIR", help_heading = "Host", global = true)]
    pub data_dir: Option<PathBuf>,
}

/// A way to a host.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<String>,
}

impl ClientArgs {
    /// The configuration of the host that these arguments mean.
    ///
    /// # Errors
    /// When it is not valid.
    pub fn config(&self) -> Result<Config, Failure> {
        let overrides =
            Overrides::from_env().flag("--data-dir", "data_dir", self.data_dir.as_ref().map(|dir| dir.display()));
        Ok(config::load(&self.config, &overrides)?)
    }

    /// The address that was given, or that a host left in its data folder.
    ///
    /// # Errors
    /// When the configuration is not valid.
    pub fn known_address(&self) -> Result<Option<String>, Failure> {
        if let Some(endpoint) = &self.endpoint {
            return Ok(Some(endpoint.trim_end_matches('/').to_owned()));
        }
        let text = std::fs::read(host_file(&self.config()?.data_dir)).ok();
        let host = text.and_then(|text| serde_json::from_slice::<HostFile>(&text).ok());
        Ok(host.map(|host| format!("http://{}", reachable(host.listen))))
    }

    /// A client for the host.
    ///
    /// # Errors
    /// When the configuration or the key cannot be read.
    pub fn client(&self) -> Result<Client, Failure> {
        let base = self.known_address()?.unwrap_or_else(|| "http://127.0.0.1:8000".to_owned());
        if base.starts_with("https:") {
            let next = "connect through a local proxy that speaks TLS, or use http:// on a trusted network";
            return Err(Failure::usage(format!("{base}: this program speaks plain HTTP only")).next(next));
        }
        let base = if base.contains("://") { base } else { format!("http://{base}") };
        let key = match &self.key_file {
            Some(path) => {
                let unreadable =
                    |error| Failure::usage(format!("cannot read the key file {}: {error}", path.display()));
                Some(std::fs::read_to_string(path).map_err(unreadable)?.trim().to_owned())
            }
            None => std::env::var("PHRONIS_KEY").ok().filter(|key| !key.is_empty()),
        };
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .user_agent(concat!("phronis/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Failure::new(Exit::NotReachable, format!("cannot make an HTTP client: {error}")))?;
        Ok(Client { http, base, key })
    }
}

/// A host that listens on all addresses is reached on this machine by loopback.
fn reachable(mut listen: std::net::SocketAddr) -> std::net::SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen {
            std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    listen
}

impl Client {
    /// The address of the host.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A request with key and the header that guards against web pages.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base)).header("x-phronis", "1");
        match &self.key {
            Some(key) => request.header("x-api-key", key),
            None => request,
        }
    }

    /// A request that changes something, with who asks for it and why.
    pub fn change(&self, method: Method, path: &str, reason: Option<&str>) -> RequestBuilder {
        let user = std::env::var("USER").ok();
        let texts = [("x-actor", user.as_deref()), ("x-reason", reason)];
        let given = texts.into_iter().filter_map(|(name, text)| Some((name, header_text(text?)?)));
        given.fold(self.request(method, path), |request, (name, text)| request.header(name, text))
    }

    /// Reads a JSON document.
    ///
    /// # Errors
    /// Not reachable, or refused.
    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.json(self.request(Method::GET, path)).await
    }

    /// Sends a request and reads the JSON document of a good answer.
    ///
    /// # Errors
    /// Not reachable, or refused.
    pub async fn json(&self, request: RequestBuilder) -> Result<Value, Failure> {
        let response = self.checked(request).await?;
        response.json().await.map_err(|error| self.unreachable(&error))
    }

    /// The items of a list that comes in pieces, `most` at the most.
    ///
    /// # Errors
    /// Not reachable, or refused.
    pub async fn list(&self, path: &str, query: &[(&str, Option<&str>)], most: usize) -> Result<Vec<Value>, Failure> {
        let mut all = Vec::new();
        let mut cursor: Option<String> = None;
        while all.len() < most {
            let limit = (most - all.len()).min(PIECE).to_string();
            let place = [("limit", Some(limit.as_str())), ("cursor", cursor.as_deref())];
            let piece = self.get(&with_query(path, query.iter().copied().chain(place))).await?;
            all.extend(items(&piece));
            cursor = piece.get("next").and_then(Value::as_str).map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        Ok(all)
    }

    /// Sends a request and takes only a good answer.
    ///
    /// # Errors
    /// Not reachable, or refused.
    pub async fn checked(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let response = self.send(request).await?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    }

    /// Sends a request and takes any answer.
    ///
    /// # Errors
    /// Not reachable.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        request.send().await.map_err(|error| self.unreachable(&error))
    }

    /// A failure of the way to the host.
    pub fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let what = if error.is_connect() { "no host answers" } else { "the connection to the host broke" };
        Failure::new(Exit::NotReachable, format!("{what} at {}: {cause}", self.base))
            .next("start one with `phronis run`, name it with --endpoint, or look with `phronis doctor`")
    }
}

/// A text as the value of a header: any letters of any language, on one line.
fn header_text(text: &str) -> Option<HeaderValue> {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    HeaderValue::from_bytes(line.as_bytes()).ok()
}

/// The items of a piece of a list.
pub fn items(piece: &Value) -> Vec<Value> {
    piece.get("items").and_then(Value::as_array).cloned().unwrap_or_default()
}

/// A text as part of a path or a query: it may hold `/`, `?` or a blank.
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// A path with those parts of a query that are given.
pub fn with_query<'a>(path: &str, query: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> String {
    let given = query.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", encoded(value?))));
    let given: Vec<String> = given.collect();
    if given.is_empty() { path.to_owned() } else { format!("{path}?{}", given.join("&")) }
}

/// Says of a host that is not there that events need one, whatever the log.
pub fn needs_host(failure: Failure) -> Failure {
    match failure.exit == Exit::NotReachable && failure.code.is_none() {
        true => failure.next(
            "events go in through a host, on Kafka too: start one with `phronis run`, or name one with --endpoint",
        ),
        false => failure,
    }
}

/// The failure that an answer stands for: a problem document (RFC 9457), or whatever came.
pub async fn refusal(response: Response) -> Failure {
    let status = response.status();
    let body = response.bytes().await.unwrap_or_default();
    let exit = if status.is_server_error() { Exit::NotReachable } else { Exit::Refused };
    let Ok(problem) = serde_json::from_slice::<Value>(&body) else {
        return Failure::new(exit, format!("the host answered {status}"));
    };
    let text = |key: &str| problem.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let mut message = match (text("title"), text("detail")) {
        (Some(title), Some(detail)) if title != detail => format!("{title}: {detail}"),
        (Some(one), _) | (_, Some(one)) => one.to_owned(),
        (None, None) => format!("the host answered {status}"),
    };
    let items = ["errors", "problems"].iter().find_map(|key| problem.get(*key)).and_then(Value::as_array);
    for item in items.into_iter().flatten() {
        let part = |key: &str| item.get(key).and_then(Value::as_str);
        let place = part("path").or_else(|| part("field")).or_else(|| part("pointer"));
        let reason = part("message").or_else(|| part("reason")).or_else(|| part("detail"));
        match (place, reason) {
            (Some(place), Some(reason)) => message.push_str(&format!("\n  {place}: {reason}")),
            (_, Some(one)) | (Some(one), _) => message.push_str(&format!("\n  {one}")),
            _ => message.push_str(&format!("\n  {item}")),
        }
    }
    let next = match status {
        StatusCode::UNAUTHORIZED => Some("show a key with --key-file FILE or PHRONIS_KEY"),
        StatusCode::FORBIDDEN => Some("use a key with a higher role"),
        _ => None,
    };
    let mut failure = Failure::new(exit, message);
    failure.code = text("code").map(str::to_owned);
    failure.next = next.map(str::to_owned);
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_may_be_written_in_any_language() {
        assert_eq!(header_text("läuft\nwieder").unwrap().as_bytes(), "läuft wieder".as_bytes());
    }

    #[test]
    fn whatever_is_in_a_value_stays_in_it() {
        assert_eq!(encoded("a1-._~"), "a1-._~");
        assert_eq!(encoded("a&b=c d+%ü/"), "a%26b%3Dc%20d%2B%25%C3%BC%2F");
        let query = [("class", Some("detect/PH2003/hot@1.0+b")), ("stage", None), ("limit", Some("5"))];
        assert_eq!(with_query("/v1/letters", query), "/v1/letters?class=detect%2FPH2003%2Fhot%401.0%2Bb&limit=5");
        assert_eq!(with_query("/v1/letters", [("stage", None)]), "/v1/letters");
    }
}
