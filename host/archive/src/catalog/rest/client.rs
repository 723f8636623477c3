//! Requests to a REST catalog: its address, its configuration, and who we are.
//!
//! A token is fetched when there is none or when the server does not take it any more; no message holds it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{CatalogSettings, Error, Result};

/// Longest time for an answer; a catalog may have to write to slow storage.
const PATIENCE: Duration = Duration::from_secs(60);

/// Longest time for a connection.
const KNOCK: Duration = Duration::from_secs(10);

/// A client of one catalog.
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    properties: HashMap<String, String>,
    headers: HeaderMap,
    token: RwLock<Option<String>>,
    credential: Option<String>,
    oauth: String,
}

/// What the server says.
#[derive(Debug)]
pub(super) struct Answer {
    /// The status.
    pub status: StatusCode,
    bytes: Vec<u8>,
}

/// A request without an answer.
#[derive(Debug)]
pub(super) struct Failure {
    /// Why.
    pub error: Error,
    /// Whether the server may have got the request.
    pub was_sent: bool,
}

#[derive(Debug, Default, Deserialize)]
struct Config {
    #[serde(default)]
    defaults: HashMap<String, String>,
    #[serde(default)]
    overrides: HashMap<String, String>,
}

impl Client {
    /// Asks the server for its configuration, which says under which prefix the catalog is.
    pub(super) async fn open(settings: &CatalogSettings) -> Result<Self> {
        let CatalogSettings::Rest { uri, warehouse, token, credential, properties } = settings else {
            return Err(Error::Settings { key: "catalog", reason: "it is no REST catalog".to_owned() });
        };
        let http = reqwest::Client::builder().timeout(PATIENCE).connect_timeout(KNOCK).build();
        let uri = uri.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let mut client = Self {
            http: http.map_err(|error| Error::failed("preparing requests to the catalog", error))?,
            base: format!("{uri}/v1"),
            headers: headers(properties)?,
            properties: properties.clone().into_iter().collect(),
            token: RwLock::new(token.clone()),
            credential: credential.clone(),
            oauth: properties.get("oauth2-server-uri").cloned().unwrap_or_else(|| format!("{uri}/v1/oauth/tokens")),
        };
        let query: Vec<(&str, &str)> = warehouse.iter().map(|name| ("warehouse", name.as_str())).collect();
        let config: Config = client.send(Method::GET, "config", &query, None).await?.body("opening the catalog")?;
        let mut all = config.defaults;
        all.extend(client.properties);
        all.extend(config.overrides);
        let uri = all.get("uri").map_or(uri.as_str(), |uri| uri.trim_end_matches('/')).to_owned();
        client.base = match all.get("prefix").filter(|prefix| !prefix.is_empty()) {
            Some(prefix) => format!("{uri}/v1/{prefix}"),
            None => format!("{uri}/v1"),
        };
        client.properties = all;
        Ok(client)
    }

    /// What the server says about storage.
    pub(super) fn storage(&self) -> &HashMap<String, String> {
        &self.properties
    }

    /// Sends a request that may be repeated.
    pub(super) async fn send(
        &self,
        method: Method,
        path: impl AsRef<str>,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer> {
        self.attempt(method, path.as_ref(), query, body).await.map_err(|failure| failure.error)
    }

    /// Sends a request that is never repeated once the server may have got it.
    pub(super) async fn send_once(&self, method: Method, path: &str, body: &Value) -> Result<Answer, Failure> {
        self.attempt(method, path, &[], Some(body)).await
    }

    async fn attempt(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, Failure> {
        let token = match self.known_token() {
            None if self.credential.is_some() => Some(self.fetch_token().await?),
            token => token,
        };
        let answer = self.request(method.clone(), path, query, body, token.as_deref()).await?;
        // 401: it was looked at by nobody; 419 is what the specification says of an expired token.
        if !matches!(answer.status.as_u16(), 401 | 419) || self.credential.is_none() {
            return Ok(answer);
        }
        let token = self.fetch_token().await?;
        self.request(method, path, query, body, Some(&token)).await
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
        token: Option<&str>,
    ) -> Result<Answer, Failure> {
        let mut address = format!("{}/{path}", self.base);
        if !query.is_empty() {
            let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
            address = format!("{address}?{query}");
        }
        let mut request = self.http.request(method, address).headers(self.headers.clone());
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        answer(request).await
    }

    fn known_token(&self) -> Option<String> {
        self.token.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What asks for a token.
    fn token_form(&self) -> String {
        let credential = self.credential.as_deref().unwrap_or_default();
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        match credential.split_once(':') {
            Some((id, secret)) => form.append_pair("client_id", id).append_pair("client_secret", secret),
            None => form.append_pair("client_secret", credential),
        };
        let scope = self.properties.get("scope").map_or("catalog", String::as_str);
        form.append_pair("scope", scope);
        for key in ["audience", "resource"] {
            if let Some(value) = self.properties.get(key) {
                form.append_pair(key, value);
            }
        }
        form.finish()
    }

    async fn fetch_token(&self) -> Result<String, Failure> {
        #[derive(Deserialize)]
        struct Token {
            access_token: String,
        }
        let request = self.http.post(&self.oauth).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        let unsent = |error| Failure { error, was_sent: false };
        let answer = answer(request.body(self.token_form())).await.map_err(|failure| unsent(failure.error))?;
        if !answer.status.is_success() {
            // The answer may repeat what was sent.
            let reason = format!("it gives no token for the credential ({})", answer.status);
            return Err(unsent(Error::CatalogRefused { reason }));
        }
        let refused = |_| unsent(Error::CatalogRefused { reason: "it answers with no token".to_owned() });
        let token: Token = serde_json::from_slice(&answer.bytes).map_err(refused)?;
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = Some(token.access_token.clone());
        Ok(token.access_token)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base", &self.base).finish_non_exhaustive()
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Result<Answer, Failure> {
    let failed = |error: reqwest::Error| Failure {
        // A connection that was never made carried nothing.
        was_sent: !error.is_connect() && !error.is_builder(),
        error: Error::CatalogUnreachable { reason: innermost(&error) },
    };
    let response = request.send().await.map_err(failed)?;
    let status = response.status();
    let bytes = response.bytes().await.map_err(failed)?.to_vec();
    Ok(Answer { status, bytes })
}

/// reqwest says what it was doing and hides why it failed.
fn innermost(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn headers(properties: &std::collections::BTreeMap<String, String>) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (key, value) in properties {
        let Some(name) = key.strip_prefix("header.") else { continue };
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) else {
            return Err(Error::Settings { key: "catalog.properties", reason: format!("`{key}` is no HTTP header") });
        };
        headers.insert(name, value);
    }
    Ok(headers)
}

impl Answer {
    /// What the server sent, if it did what was asked.
    pub(super) fn body<T: DeserializeOwned>(&self, doing: &str) -> Result<T> {
        if !self.status.is_success() {
            return Err(self.error(doing));
        }
        serde_json::from_slice(&self.bytes).map_err(|error| Error::failed(doing, error))
    }

    /// What the server says is wrong.
    pub(super) fn error(&self, doing: &str) -> Error {
        #[derive(Deserialize)]
        struct Wrapped {
            error: Told,
        }
        #[derive(Deserialize)]
        struct Told {
            message: String,
        }
        let told = serde_json::from_slice::<Wrapped>(&self.bytes).map(|wrapped| wrapped.error.message);
        let message = told.unwrap_or_else(|_| "no reason is given".to_owned());
        let reason = format!("{} ({})", message.chars().take(500).collect::<String>(), self.status);
        match self.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::CatalogRefused { reason },
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Error::CatalogUnreachable { reason }
            }
            _ => Error::Failed { doing: doing.to_owned(), reason, source: None },
        }
    }
}
