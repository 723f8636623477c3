//! What a file's columns are, taken from the stream's contract as the host shows it.

use phronis_core::StreamId;
use phronis_core::plugin::FieldType;
use phronis_load::ColumnTypes;
use serde_json::Value;

use crate::client::Client;
use crate::failure::Failure;

/// Types by path, and the path of the event time.
#[derive(Debug, Default)]
pub(super) struct Columns {
    pub(super) types: ColumnTypes,
    pub(super) event_time: Option<String>,
}

/// Asks the host for a stream's schema.
pub(super) async fn of_stream(client: &Client, stream: &StreamId) -> Result<Columns, Failure> {
    let schema = client.get(&format!("/v1/streams/{stream}/schema")).await?;
    Ok(of_schema(&schema))
}

fn of_schema(schema: &Value) -> Columns {
    let mut found = Vec::new();
    collect(schema, "", &mut found);
    let event_time = schema.get("x-phronis-event-time").and_then(Value::as_str).map(str::to_owned);
    let first_time =
        || found.iter().find(|(_, of_type)| *of_type == FieldType::Timestamp).map(|(path, _)| path.clone());
    Columns { event_time: event_time.or_else(first_time), types: found.into_iter().collect() }
}

fn collect(schema: &Value, prefix: &str, found: &mut Vec<(String, FieldType)>) {
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match type_of(property) {
            Some(of_type) => found.push((path, of_type)),
            None => collect(property, &path, found),
        }
    }
}

/// The type of a column; `None` for an object or something without a type.
fn type_of(property: &Value) -> Option<FieldType> {
    if property.get("x-phronis-time").is_some() || property.get("anyOf").is_some() {
        return Some(FieldType::Timestamp);
    }
    let is = |wanted: &str| match property.get("type") {
        Some(Value::String(of_type)) => of_type == wanted,
        Some(Value::Array(types)) => types.iter().any(|of_type| of_type == wanted),
        _ => false,
    };
    let items_are = |wanted: &str| property.pointer("/items/type").is_some_and(|of_type| of_type == wanted);
    match () {
        () if is("integer") => Some(FieldType::Integer),
        () if is("number") => Some(FieldType::Number),
        () if is("boolean") => Some(FieldType::Boolean),
        () if is("string") => Some(FieldType::Text),
        () if is("array") && items_are("string") => Some(FieldType::Texts),
        () if is("array") => Some(FieldType::Numbers),
        () => None,
    }
}

/// The event time of a row, in milliseconds since 1970.
pub(super) fn time_of(row: &[u8], path: &str) -> Option<i64> {
    let event: Value = serde_json::from_slice(row).ok()?;
    let value = path.split('.').try_fold(&event, |at, name| at.get(name))?;
    super::super::time_ms(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn types_are_those_of_the_contract() {
        let columns = of_schema(&json!({"type": "object", "properties": {
            "sensor_id": {"type": "string"},
            "value": {"type": ["number", "null"]},
            "ts": {"anyOf": [{"type": "string"}, {"type": "number"}], "x-phronis-time": "…"},
            "metadata": {"type": ["object", "null"], "properties": {"tokens": {"type": ["integer", "null"]}}},
            "tags": {"type": "array", "items": {"type": "string"}},
        }}));
        for (path, of_type) in [
            ("sensor_id", Some(FieldType::Text)),
            ("value", Some(FieldType::Number)),
            ("ts", Some(FieldType::Timestamp)),
            ("metadata", None),
            ("metadata.tokens", Some(FieldType::Integer)),
            ("tags", Some(FieldType::Texts)),
        ] {
            assert_eq!(columns.types.get(path), of_type, "{path}");
        }
        assert_eq!(columns.event_time.as_deref(), Some("ts"));
    }

    #[test]
    fn event_times_are_texts_or_numbers() {
        assert_eq!(time_of(br#"{"a":{"t":"1970-01-01T00:00:01Z"}}"#, "a.t"), Some(1000));
        assert_eq!(time_of(br#"{"t":1767225600000}"#, "t"), Some(1_767_225_600_000));
        assert_eq!(time_of(b"{", "t"), None);
    }
}
