//! What a request to halt or to reset says, and what is wrong with it.

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use phronis_core::agent::TEXT_BYTES;
use phronis_core::{Time, code};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::body;
use crate::problem::{FieldProblem, Problem};
use crate::sign::{ANYONE, Sign};
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

impl Order {
    /// Why; nobody halts or resets without saying so.
    pub(super) fn reason(&self, sign: &Sign) -> Result<String, Problem> {
        let given = self.reason.clone().or_else(|| sign.reason(None));
        match given.as_deref().map(str::trim) {
            None | Some("") => Err(invalid("reason", "is missing: say why, the next person will ask")),
            Some(reason) if reason.len() > TEXT_BYTES => {
                Err(invalid("reason", format!("is longer than {TEXT_BYTES} bytes")))
            }
            Some(reason) => Ok(reason.to_owned()),
        }
    }

    /// Who.
    pub(super) fn actor(&self, sign: &Sign) -> String {
        sign.actor(self.actor.as_deref()).unwrap_or_else(|| ANYONE.to_owned())
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
        let sign = Sign::default();
        for json in ["{}", r#"{"reason":""}"#, r#"{"reason":"  "}"#] {
            assert!(order(json).reason(&sign).is_err(), "{json}");
        }
        assert!(order(&format!(r#"{{"reason":"{}"}}"#, "x".repeat(TEXT_BYTES + 1))).reason(&sign).is_err());
        assert_eq!(order(r#"{"reason":" loops "}"#).reason(&sign).unwrap(), "loops");
        assert!(serde_json::from_str::<Order>(r#"{"reasn":"x"}"#).is_err());
    }
}
