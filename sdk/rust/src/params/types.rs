//! The types that a parameter may have.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::{Param, ParamError};
use crate::bindings::phronis::plugin::types::Severity;
use crate::params::object::{choice_schema, unknown_choice};

impl Param for bool {
    fn schema() -> Json {
        json!({"type": "boolean"})
    }

    fn parse(json: &Json) -> Result<Self, ParamError> {
        json.as_bool().ok_or_else(|| wrong("true or false", json))
    }

    fn to_json(&self) -> Json {
        Json::Bool(*self)
    }
}

impl Param for i64 {
    fn schema() -> Json {
        json!({"type": "integer"})
    }

    fn parse(json: &Json) -> Result<Self, ParamError> {
        json.as_i64().ok_or_else(|| wrong("an integer", json))
    }

    fn to_json(&self) -> Json {
        Json::from(*self)
    }

    #[expect(clippy::cast_precision_loss, reason = "compared with limits that are written as doubles")]
    fn as_number(&self) -> Option<f64> {
        Some(*self as f64)
    }
}

impl Param for f64 {
    fn schema() -> Json {
        json!({"type": "number"})
    }

    fn parse(json: &Json) -> Result<Self, ParamError> {
        json.as_f64().ok_or_else(|| wrong("a number", json))
    }

    fn to_json(&self) -> Json {
        Json::from(*self)
    }

    fn as_number(&self) -> Option<f64> {
        Some(*self)
    }
}

impl Param for String {
    fn schema() -> Json {
        json!({"type": "string"})
    }

    fn parse(json: &Json) -> Result<Self, ParamError> {
        json.as_str().map(str::to_owned).ok_or_else(|| wrong("a text", json))
    }

    fn to_json(&self) -> Json {
        Json::String(self.clone())
    }

    fn as_text(&self) -> Option<&str> {
        Some(self)
    }
}

impl<T: Param> Param for Option<T> {
    fn schema() -> Json {
        json!({"anyOf": [T::schema(), {"type": "null"}]})
    }

    fn parse(json: &Json) -> Result<Self, ParamError> {
        if json.is_null() { Ok(None) } else { T::parse(json).map(Some) }
    }

    fn to_json(&self) -> Json {
        self.as_ref().map_or(Json::Null, T::to_json)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    fn as_text(&self) -> Option<&str> {
        self.as_ref().and_then(T::as_text)
    }

    fn as_number(&self) -> Option<f64> {
        self.as_ref().and_then(T::as_number)
    }
}

impl<T: Param> Param for Vec<T> {
    fn schema() -> Json {
        json!({"type": "array", "items": T::schema()})
    }

    fn parse(json: &Json) -> Result<Self, ParamError> {
        let items = json.as_array().ok_or_else(|| wrong("a list", json))?;
        let parse = |(index, item)| T::parse(item).map_err(|error: ParamError| error.within(&index_name(index)));
        items.iter().enumerate().map(parse).collect()
    }

    fn to_json(&self) -> Json {
        self.iter().map(T::to_json).collect()
    }
}

impl<T: Param> Param for BTreeMap<String, T> {
    fn schema() -> Json {
        json!({"type": "object", "additionalProperties": T::schema()})
    }

    fn parse(json: &Json) -> Result<Self, ParamError> {
        let entries = json.as_object().ok_or_else(|| wrong("a map", json))?;
        let parse = |(key, value): (&String, &Json)| match T::parse(value) {
            Ok(value) => Ok((key.clone(), value)),
            Err(error) => Err(error.within(key)),
        };
        entries.iter().map(parse).collect()
    }

    fn to_json(&self) -> Json {
        Json::Object(self.iter().map(|(key, value)| (key.clone(), value.to_json())).collect())
    }
}

const SEVERITIES: [(&str, Severity); 3] =
    [("info", Severity::Info), ("warning", Severity::Warning), ("critical", Severity::Critical)];

impl Param for Severity {
    fn schema() -> Json {
        choice_schema(&SEVERITIES.map(|(name, _)| name))
    }

    fn parse(json: &Json) -> Result<Self, ParamError> {
        let found = SEVERITIES.iter().find(|(name, _)| json.as_str() == Some(name));
        found.map(|(_, severity)| *severity).ok_or_else(|| unknown_choice(json, &SEVERITIES.map(|(name, _)| name)))
    }

    fn to_json(&self) -> Json {
        let name = SEVERITIES.iter().find(|(_, severity)| severity == self).map(|(name, _)| *name);
        name.map_or(Json::Null, Json::from)
    }
}

pub(super) fn wrong(wanted: &str, got: &Json) -> ParamError {
    let got = match got {
        Json::Null => "null",
        Json::Bool(_) => "true or false",
        Json::Number(_) => "a number",
        Json::String(_) => "a text",
        Json::Array(_) => "a list",
        Json::Object(_) => "a map",
    };
    ParamError::new("", format!("must be {wanted}, not {got}"))
}

fn index_name(index: usize) -> String {
    index.to_string()
}
