//! What a request to halt or to reset says, and what is wrong with it.

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use phronis_core::agent::TEXT_BYTES;
use phronis_core::{Time, code};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::access::Caller;
use crate::body;
use crate::plugins::{actor_of, text_of};
use crate::problem::{FieldProblem, Problem};
use crate::state::App;

/// What is wanted, and why.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    /// Why. Needed, here or in `X-Reason`: whoever reads the history later asks for it.
    reason: Option<String>,
    /// Who, beside the name of the key.
    actor: Option<String>,
    /// When a halt ends by itself: RFC 3339.
    expires_at: Option<String>,
    /// How long a halt holds, instead of `expires_at`: `30m`, `2h`.
    #[serde(rename = "for")]
    hold_for: Option<String>,
    /// The agent, where the path does not name it.
    agent_id: Option<String>,
    /// Its tenant, where the query does not name it.
    pub(super) tenant: Option<String>,
}

/// Reads the body of a request; an empty one says nothing.
pub(super) async fn read(app: &App, headers: &HeaderMap, body: Body) -> Result<Order, Problem> {
    let held = body::read(app, headers, body).await?;
    if held.bytes.trim_ascii().is_empty() {
        return Ok(Order::default());
    }
    serde_json::from_slice(&held.bytes).map_err(|error| {
        Problem::new(code::BAD_REQUEST, format!("the body is not a request to halt or reset: {error}; nothing changed"))
    })
}

/// A member of the request that cannot be taken.
pub(super) fn invalid(field: &str, reason: impl Into<String>) -> Problem {
    let reason = reason.into();
    Problem::new(code::BAD_REQUEST, format!("`{field}`: {reason}; nothing changed"))
        .status(StatusCode::UNPROCESSABLE_ENTITY)
        .problems(vec![FieldProblem { field: field.to_owned(), reason }])
}

/// The version that the agent must still have. `*` is any.
pub(super) fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let version = text.trim_start_matches("W/").strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let version = version.and_then(|version| version.parse().ok());
    version.map(Some).ok_or_else(|| {
        Problem::new(code::BAD_REQUEST, "If-Match is not valid").hint("send one ETag as it was received, like \"3\"")
    })
}

impl Order {
    /// Why; nobody halts or resets without saying so.
    pub(super) fn reason(&self, headers: &HeaderMap) -> Result<String, Problem> {
        let given = self.reason.clone().or_else(|| text_of(headers, "x-reason"));
        match given.as_deref().map(str::trim) {
            None | Some("") => Err(invalid("reason", "is missing: say why, the next person will ask")),
            Some(reason) if reason.len() > TEXT_BYTES => {
                Err(invalid("reason", format!("is longer than {TEXT_BYTES} bytes")))
            }
            Some(reason) => Ok(reason.to_owned()),
        }
    }

    /// Who: the name of the key, which is known, before the name that the request gives itself, which is not.
    pub(super) fn actor(&self, caller: &Caller, headers: &HeaderMap) -> String {
        let given = self.actor.as_deref().map(|actor| actor.chars().filter(|c| !c.is_control()).take(200).collect());
        let actor = match (caller.name(), given) {
            (Some(key), Some(given)) => Some(format!("{key} ({given})")),
            (None, given @ Some(_)) => given,
            (_, None) => actor_of(caller, headers),
        };
        actor.unwrap_or_else(|| "anyone".to_owned())
    }

    /// When the halt ends by itself.
    pub(super) fn expires_at(&self, now: Time) -> Result<Option<Time>, Problem> {
        let ends = match (&self.expires_at, &self.hold_for) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => return Err(invalid("for", "stands beside `expires_at`: give one of them")),
            (Some(at), None) => {
                at.parse::<Time>().map_err(|_| invalid("expires_at", "is not a time such as 2030-01-31T12:00:00Z"))?
            }
            (None, Some(text)) => {
                let span = text.parse::<jiff::SignedDuration>();
                let span = span.map_err(|_| invalid("for", "is not a time span such as 30m or 2h"))?;
                Time(now.0.saturating_add(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
            }
        };
        if ends <= now {
            let field = if self.hold_for.is_some() { "for" } else { "expires_at" };
            return Err(invalid(field, format!("{ends} is past: it is {now} here")));
        }
        Ok(Some(ends))
    }

    /// A reset has no end.
    pub(super) fn has_no_end(&self) -> Result<(), Problem> {
        match (&self.expires_at, &self.hold_for) {
            (None, None) => Ok(()),
            (Some(_), _) => Err(invalid("expires_at", "a reset has no end: halt anew when it shall not act later")),
            (None, Some(_)) => Err(invalid("for", "a reset has no end: halt anew when it shall not act later")),
        }
    }

    /// The agent, where the path does not name it.
    pub(super) fn agent(&self) -> Result<&str, Problem> {
        self.agent_id.as_deref().ok_or_else(|| invalid("agent_id", "is missing: the name of the agent"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(json: &str) -> Order {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn an_end_is_a_time_or_a_span_and_never_past() {
        let now = Time(1_000_000);
        for (json, ends) in [
            ("{}", Ok(None)),
            (r#"{"for":"30m"}"#, Ok(Some(Time(1_801_000_000)))),
            (r#"{"for":"1h 30m"}"#, Ok(Some(Time(5_401_000_000)))),
            (r#"{"expires_at":"1970-01-01T00:00:02Z"}"#, Ok(Some(Time(2_000_000)))),
            (r#"{"expires_at":"1970-01-01T00:00:01Z"}"#, Err("past")),
            (r#"{"for":"-5m"}"#, Err("past")),
            (r#"{"for":"soon"}"#, Err("30m")),
            (r#"{"expires_at":"tomorrow"}"#, Err("2030")),
            (r#"{"for":"1m","expires_at":"2100-01-01T00:00:00Z"}"#, Err("one of them")),
        ] {
            match (order(json).expires_at(now), ends) {
                (Ok(got), Ok(wanted)) => assert_eq!(got, wanted, "{json}"),
                (Err(problem), Err(word)) => assert!(problem.detail().contains(word), "{json}: {}", problem.detail()),
                (got, wanted) => panic!("{json}: {got:?} instead of {wanted:?}"),
            }
        }
        assert!(order(r#"{"for":"1m"}"#).has_no_end().is_err() && order("{}").has_no_end().is_ok());
    }

    #[test]
    fn nobody_halts_without_a_reason() {
        let mut headers = HeaderMap::new();
        for json in ["{}", r#"{"reason":""}"#, r#"{"reason":"  "}"#] {
            assert!(order(json).reason(&headers).is_err(), "{json}");
        }
        assert!(order(&format!(r#"{{"reason":"{}"}}"#, "x".repeat(TEXT_BYTES + 1))).reason(&headers).is_err());
        assert_eq!(order(r#"{"reason":" loops "}"#).reason(&headers).unwrap(), "loops");
        headers.insert("x-reason", "from the header".parse().unwrap());
        assert_eq!(order("{}").reason(&headers).unwrap(), "from the header");
        assert!(serde_json::from_str::<Order>(r#"{"reasn":"x"}"#).is_err());
    }

    #[test]
    fn an_etag_comes_back_as_it_went() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_MATCH, value.parse().unwrap());
            if_match(&headers).ok()
        };
        assert_eq!(of("\"3\""), Some(Some(3)));
        assert_eq!(of("W/\"3\""), Some(Some(3)));
        assert_eq!(of("*"), Some(None));
        for bad in ["3", "\"x\"", "\"1\", \"2\"", "\""] {
            assert_eq!(of(bad), None, "{bad}");
        }
        assert_eq!(if_match(&HeaderMap::new()).unwrap(), None);
    }
}
