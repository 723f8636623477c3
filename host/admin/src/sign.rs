//! What the headers of a change say beside its body: who, why, and of which version it was made.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use phronis_core::code;
use utoipa::IntoParams;

use crate::access::Caller;
use crate::problem::Problem;

/// Long enough for a sentence and a link to a ticket.
const TEXT_CHARS: usize = 500;

/// Who changes something without saying who.
pub(crate) const ANYONE: &str = "anyone";

/// Who changes something, and why: for the audit.
#[derive(Debug, Clone, Default, IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct Sign {
    /// The name of the key, which is known.
    #[param(ignore)]
    key: Option<String>,
    /// Who, for the audit; the name of the key stands before it.
    #[param(rename = "X-Actor")]
    actor: Option<String>,
    /// Why, for the audit.
    #[param(rename = "X-Reason")]
    reason: Option<String>,
    /// Our CLI says who it is in its User-Agent; all else is `api`.
    #[param(ignore)]
    pub(crate) source: &'static str,
}

impl Sign {
    fn of(caller: Option<&Caller>, headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned());
        let agent = headers.get(header::USER_AGENT).map(HeaderValue::as_bytes).unwrap_or_default();
        Self {
            key: caller.and_then(Caller::name).map(str::to_owned),
            actor: text("x-actor"),
            reason: text("x-reason"),
            source: if agent.starts_with(b"phronis/") { "cli" } else { "api" },
        }
    }

    /// Who: the name of the key, before the name that the request gives itself in its body or in the header.
    pub(crate) fn actor(&self, said: Option<&str>) -> Option<String> {
        let given = said.or(self.actor.as_deref()).map(clean);
        match (&self.key, given) {
            (Some(key), Some(given)) => Some(format!("{key} ({given})")),
            (Some(key), None) => Some(key.clone()),
            (None, given) => given,
        }
    }

    /// Why: what the body says, else the header.
    pub(crate) fn reason(&self, said: Option<&str>) -> Option<String> {
        said.or(self.reason.as_deref()).map(clean).filter(|reason| !reason.is_empty())
    }
}

fn clean(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(TEXT_CHARS).collect()
}

impl<S: Sync> FromRequestParts<S> for Sign {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(parts.extensions.get(), &parts.headers))
    }
}

/// The version that the thing must still have. `*`, and no header, is any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct IfMatch {
    /// The `ETag` that it must still have.
    #[param(rename = "If-Match", value_type = Option<String>)]
    pub(crate) version: Option<u64>,
}

impl IfMatch {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let Some(value) = headers.get(header::IF_MATCH) else { return Ok(Self::default()) };
        let text = value.to_str().unwrap_or_default().trim();
        if text == "*" {
            return Ok(Self::default());
        }
        let version = text.trim_start_matches("W/").strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        match version.and_then(|version| version.parse().ok()) {
            Some(version) => Ok(Self { version: Some(version) }),
            None => Err(Problem::new(code::BAD_REQUEST, "If-Match is not valid")
                .hint("send one ETag as it was received, like \"3\"")),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::of(&parts.headers)
    }
}

/// The header that says which version an answer shows.
pub(crate) fn etag(version: u64) -> [(HeaderName, HeaderValue); 1] {
    let value = HeaderValue::from_str(&format!("\"{version}\"")).unwrap_or(HeaderValue::from_static("\"0\""));
    [(header::ETAG, value)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_comes_back_as_it_went() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_MATCH, value.parse().unwrap());
            IfMatch::of(&headers).ok().map(|matched| matched.version)
        };
        assert_eq!(of("\"3\""), Some(Some(3)));
        assert_eq!(of("W/\"3\""), Some(Some(3)));
        assert_eq!(of("*"), Some(None));
        for bad in ["3", "\"x\"", "\"1\", \"2\"", "\""] {
            assert_eq!(of(bad), None, "{bad}");
        }
        assert_eq!(IfMatch::of(&HeaderMap::new()).unwrap(), IfMatch::default());
    }

    #[test]
    fn the_body_speaks_before_the_header_and_the_key_before_both() {
        let mut headers = HeaderMap::new();
        headers.insert("x-actor", "ann".parse().unwrap());
        headers.insert("x-reason", " from the header".parse().unwrap());
        let sign = Sign::of(None, &headers);
        assert_eq!((sign.actor(None).unwrap(), sign.actor(Some("b\nob")).unwrap()), ("ann".into(), "bob".into()));
        assert_eq!(sign.reason(None).unwrap(), "from the header");
        assert_eq!((sign.reason(Some("body")), sign.reason(Some(" "))), (Some("body".into()), None));
        let known = Sign { key: Some("ops".to_owned()), ..sign };
        assert_eq!(known.actor(None).unwrap(), "ops (ann)");
        assert_eq!(Sign { actor: None, ..known }.actor(None).unwrap(), "ops");
    }
}
