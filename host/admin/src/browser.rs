//! What protects the host from web pages: which Host may be named, which Origin may ask, which headers all answers carry.
//!
//! A page that a person visits can make their browser send requests to 127.0.0.1.
//! The Host rule stops DNS rebinding (a foreign name that resolves to us), the Origin rule everything else;
//! both hold for all routes, live streams included.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use phronis_core::code;

use crate::problem::Problem;
use crate::state::App;

/// Which Host and Origin are ours.
#[derive(Debug)]
pub(crate) struct Rules {
    hosts: Vec<String>,
    origins: Vec<String>,
    listen: IpAddr,
}

impl Rules {
    pub(crate) fn new(listen: SocketAddr, hosts: &[String], origins: &[String]) -> Self {
        let mut own: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
        own.push(listen.ip().to_string());
        own.extend(hosts.iter().map(|host| name_of(host).to_ascii_lowercase()));
        let origins = origins.iter().map(|origin| origin.trim_end_matches('/').to_ascii_lowercase()).collect();
        Self { hosts: own, origins, listen: listen.ip() }
    }

    /// Checks that the request means this host.
    pub(crate) fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        let mut named = headers.get_all(header::HOST).iter();
        let (first, second) = (named.next(), named.next());
        if second.is_some() {
            return Err(Problem::new(code::BAD_REQUEST, "the request has two Host headers"));
        }
        let host = first.and_then(|value| value.to_str().ok());
        let Some(host) = host else { return Err(Problem::new(code::FOREIGN_HOST, "the request names no host")) };
        for named in std::iter::once(host).chain(uri.authority().map(|authority| authority.as_str())) {
            if !self.is_ours(named) {
                let detail = format!("this host does not answer to the name `{}`", clipped(named));
                return Err(Problem::new(code::FOREIGN_HOST, detail));
            }
        }
        Ok(())
    }

    fn is_ours(&self, named: &str) -> bool {
        let name = name_of(named).to_ascii_lowercase();
        // Listening everywhere, any address may be the one we were reached by; rebinding needs a name, never an address.
        let is_address = self.listen.is_unspecified() && name.parse::<IpAddr>().is_ok();
        is_address || self.hosts.contains(&name)
    }

    /// Checks that no foreign web page sends the request. Gives the allowed foreign origin, if it is one.
    pub(crate) fn check_origin<'a>(&self, headers: &'a HeaderMap) -> Result<Option<&'a HeaderValue>, Problem> {
        let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut allowed = None;
        for origin in headers.get_all(header::ORIGIN) {
            let text = origin.to_str().unwrap_or_default().to_ascii_lowercase();
            let authority = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
            if authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host)) {
                continue;
            }
            if !self.origins.contains(&text) {
                let detail = format!("a page of `{}` may not use this host", clipped(&text));
                return Err(Problem::new(code::FOREIGN_ORIGIN, detail));
            }
            allowed = Some(origin);
        }
        let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        // `same-site` is another port or a sister name: not us either.
        if allowed.is_none() && matches!(site, Some(b"cross-site" | b"same-site")) {
            return Err(Problem::new(code::FOREIGN_ORIGIN, "another web page sent this request"));
        }
        Ok(allowed)
    }
}

/// Layer: lets requests in that mean this host and come from no foreign page.
pub(crate) async fn guard(State(app): State<App>, request: Request, next: Next) -> Result<Response, Problem> {
    app.browsers.check_host(request.uri(), request.headers())?;
    let allowed = app.browsers.check_origin(request.headers())?.cloned();
    let Some(origin) = allowed else { return Ok(next.run(request).await) };
    let mut response = if request.method() == Method::OPTIONS { preflight() } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("cross-origin"));
    Ok(response)
}

fn preflight() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, DELETE"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, content-type, content-encoding, x-api-key, if-match, x-phronis, x-reason, x-actor, idempotency-key",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Layer: headers of all answers. Those that a handler or the guard set stay.
pub(crate) async fn secure(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// The name in `name:port`, `[::1]:port`, `name`.
fn name_of(host: &str) -> &str {
    let host = host.trim();
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').map_or(rest, |(name, _)| name);
    }
    match host.split_once(':') {
        // More than one colon is a bare IPv6 address.
        Some((_, port)) if port.contains(':') => host,
        Some((name, _)) => name,
        None => host,
    }
}

fn clipped(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(listen: &str) -> Rules {
        let hosts = ["phronis.example.com".to_owned()];
        Rules::new(listen.parse().unwrap(), &hosts, &["https://ops.example.com/".to_owned()])
    }

    fn headers(of: &[(&'static str, &str)]) -> HeaderMap {
        of.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_our_own_names_are_answered_to() {
        for (listen, host, is_ours) in [
            ("127.0.0.1:8000", "localhost:8000", true),
            ("127.0.0.1:8000", "LOCALHOST", true),
            ("127.0.0.1:8000", "127.0.0.1:8000", true),
            ("127.0.0.1:8000", "[::1]:8000", true),
            ("127.0.0.1:8000", "phronis.example.com", true),
            ("127.0.0.1:8000", "evil.example.com:8000", false),
            ("127.0.0.1:8000", "localhost.evil.example.com", false),
            ("127.0.0.1:8000", "10.0.0.7", false),
            ("127.0.0.1:8000", "", false),
            ("10.0.0.7:80", "10.0.0.7", true),
            ("0.0.0.0:8000", "10.0.0.7:8000", true),
            ("0.0.0.0:8000", "evil.example.com", false),
            ("[::]:8000", "[2001:db8::1]:8000", true),
        ] {
            let got = rules(listen).check_host(&Uri::from_static("/"), &headers(&[("host", host)]));
            assert_eq!(got.is_ok(), is_ours, "{listen} {host}");
        }
    }

    #[test]
    fn a_foreign_name_in_the_request_line_or_no_name_or_two_are_refused() {
        let ours = headers(&[("host", "localhost")]);
        assert!(rules("127.0.0.1:1").check_host(&Uri::from_static("http://evil.example.com/"), &ours).is_err());
        assert!(rules("127.0.0.1:1").check_host(&Uri::from_static("/"), &HeaderMap::new()).is_err());
        let mut two = ours;
        two.append("host", HeaderValue::from_static("localhost"));
        assert!(rules("127.0.0.1:1").check_host(&Uri::from_static("/"), &two).is_err());
    }

    #[test]
    fn only_our_own_page_and_allowed_ones_may_ask() {
        for (origin, site, is_let_in) in [
            (None, None, true),
            (Some("http://localhost:8000"), Some("same-origin"), true),
            (Some("http://localhost:3000"), Some("same-site"), false),
            (Some("https://evil.example.com"), None, false),
            (Some("null"), None, false),
            (Some("https://ops.example.com"), Some("cross-site"), true),
            (Some("http://ops.example.com"), None, false),
            (None, Some("cross-site"), false),
            (None, Some("same-site"), false),
            (None, Some("none"), true),
        ] {
            let mut of = vec![("host", "localhost:8000")];
            of.extend(origin.map(|origin| ("origin", origin)));
            of.extend(site.map(|site| ("sec-fetch-site", site)));
            let got = rules("127.0.0.1:8000").check_origin(&headers(&of)).is_ok();
            assert_eq!(got, is_let_in, "{origin:?} {site:?}");
        }
    }
}
