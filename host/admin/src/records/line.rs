//! A record as a line of JSON.
//!
//! What is JSON is embedded as it is, byte for byte but for line breaks between its tokens; all else is base64,
//! so that nothing of a record is lost or changed on the way to a reader.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use phronis_core::records::{Headers, Records};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// A record.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Record)]
pub struct Line<'a> {
    /// The topic.
    topic: &'a str,
    /// The partition.
    partition: i32,
    /// The offset.
    offset: i64,
    /// The producer's time, RFC 3339.
    timestamp: Option<String>,
    /// The key, when it is text; null when there is none.
    #[serde(skip_serializing_if = "is_binary")]
    #[schema(value_type = Option<String>)]
    key: Key<'a>,
    /// The key, when it is not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    /// Headers by name: text, `{"base64": …}`, or an array of these where a name repeats.
    #[serde(serialize_with = "headers")]
    #[schema(value_type = Object)]
    headers: Headers<'a>,
    /// The value, when it is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    value: Option<Cow<'a, RawValue>>,
    /// The value, when it is not JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    /// Present for a record without a value.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_tombstone: bool,
}

/// A key that may be text.
#[derive(Debug)]
enum Key<'a> {
    None,
    Text(&'a str),
    Binary,
}

impl Serialize for Key<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            _ => serializer.serialize_none(),
        }
    }
}

fn is_binary(key: &Key<'_>) -> bool {
    matches!(key, Key::Binary)
}

impl<'a> Line<'a> {
    /// The record of a row; `None` past the end.
    pub fn of(records: &'a Records, row: usize) -> Option<Self> {
        let offset = *records.offsets.values().get(row)?;
        let (key, key_base64) = match records.body.key(row) {
            None => (Key::None, None),
            Some(key) => match str::from_utf8(key) {
                Ok(text) => (Key::Text(text), None),
                Err(_) => (Key::Binary, Some(STANDARD.encode(key))),
            },
        };
        let bytes = records.body.value(row);
        let value = bytes.and_then(embedded);
        Some(Self {
            topic: &records.topic,
            partition: records.partition,
            offset,
            timestamp: records.body.timestamps.values().get(row).copied().and_then(rfc3339),
            key,
            key_base64,
            headers: records.body.headers(row),
            value_base64: bytes.filter(|_| value.is_none()).map(|bytes| STANDARD.encode(bytes)),
            value,
            is_tombstone: bytes.is_none(),
        })
    }

    /// The record's offset.
    pub(crate) fn offset(&self) -> i64 {
        self.offset
    }
}

/// The value as one line of JSON, if it is JSON.
fn embedded(bytes: &[u8]) -> Option<Cow<'_, RawValue>> {
    let value: &RawValue = serde_json::from_slice(bytes).ok()?;
    if !value.get().contains(['\n', '\r']) {
        return Some(Cow::Borrowed(value));
    }
    // In valid JSON a bare line break stands only between tokens.
    RawValue::from_string(value.get().replace(['\n', '\r'], " ")).ok().map(Cow::Owned)
}

fn headers<S: Serializer>(headers: &Headers<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    let all: Vec<(&str, &[u8])> = headers.collect();
    for (at, (name, value)) in all.iter().enumerate() {
        let same = |(other, _): &&(&str, &[u8])| other == name;
        if all.iter().take(at).any(|other| same(&other)) {
            continue;
        }
        let values: Vec<_> = all.iter().filter(same).map(|(_, value)| HeaderValue(value)).collect();
        match values.as_slice() {
            [_, _, ..] => map.serialize_entry(name, &values)?,
            _ => map.serialize_entry(name, &HeaderValue(value))?,
        }
    }
    map.end()
}

struct HeaderValue<'a>(&'a [u8]);

impl Serialize for HeaderValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Ok(text) = str::from_utf8(self.0) {
            return serializer.serialize_str(text);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("base64", &STANDARD.encode(self.0))?;
        map.end()
    }
}

/// A time in RFC 3339, in UTC with milliseconds; `None` beyond the years that it can write.
pub(crate) fn rfc3339(milliseconds: i64) -> Option<String> {
    jiff::Timestamp::from_millisecond(milliseconds).ok().map(|time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use phronis_core::records::{HeadersBuilder, RecordsBuilder};

    use super::*;

    fn line(key: Option<&[u8]>, value: Option<&[u8]>, headers: &HeadersBuilder) -> String {
        let mut builder = RecordsBuilder::default();
        builder.push(1_500, key, value, headers.as_bytes());
        let records = Records { topic: "t".into(), partition: 3, offsets: vec![7].into(), body: builder.finish() };
        serde_json::to_string(&Line::of(&records, 0).unwrap()).unwrap()
    }

    #[test]
    fn json_is_embedded_and_all_else_is_base64() {
        let head = r#"{"topic":"t","partition":3,"offset":7,"timestamp":"1970-01-01T00:00:01.500Z""#;
        for (key, value, expected) in [
            (
                Some(&b"k"[..]),
                Some(&br#"{"a":1.50,"a":2}"#[..]),
                r#","key":"k","headers":{},"value":{"a":1.50,"a":2}}"#,
            ),
            (None, Some(b"{\n\"a\": \"\\n\"\r\n}"), r#","key":null,"headers":{},"value":{ "a": "\n"  }}"#),
            (Some(&[0xff]), Some(b"no json"), r#","key_base64":"/w==","headers":{},"value_base64":"bm8ganNvbg=="}"#),
            (None, Some(&[0xc3, 0x28]), r#","key":null,"headers":{},"value_base64":"wyg="}"#),
            (None, Some(b""), r#","key":null,"headers":{},"value_base64":""}"#),
            (None, Some(b"null"), r#","key":null,"headers":{},"value":null}"#),
            (None, None, r#","key":null,"headers":{},"is_tombstone":true}"#),
        ] {
            assert_eq!(line(key, value, &HeadersBuilder::default()), format!("{head}{expected}"));
        }
    }

    #[test]
    fn headers_keep_bytes_and_repeated_names() {
        let mut headers = HeadersBuilder::default();
        headers.push("a", b"1").push("b", &[0xff]).push("a", b"\x1b[31m");
        let line = line(None, Some(b"1"), &headers);
        assert!(line.contains(r#""headers":{"a":["1","\u001b[31m"],"b":{"base64":"/w=="}}"#), "{line}");
    }

    #[test]
    fn a_deeply_nested_value_is_still_one_line() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(!line(None, Some(deep.as_bytes()), &HeadersBuilder::default()).contains('\n'));
    }
}
