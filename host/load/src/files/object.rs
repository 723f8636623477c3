//! A JSON object whose members can be moved and added while every value keeps its text, digit for digit.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::text::write_text;

/// Members in their order; a name may stand twice, which is for the gate to refuse.
#[derive(Debug, Default)]
pub(super) struct Object<'a>(Vec<(String, Value<'a>)>);

#[derive(Debug)]
enum Value<'a> {
    Text(&'a [u8]),
    Object(Object<'a>),
}

impl<'a> Object<'a> {
    /// The members of an event, or nothing when it is not a JSON object.
    pub(super) fn parse(event: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(event).ok()
    }

    /// Takes the first member at a dotted path out and returns its JSON text.
    pub(super) fn remove(&mut self, path: &str) -> Option<&'a [u8]> {
        if let Some(at) = self.0.iter().position(|(name, value)| name == path && matches!(value, Value::Text(_))) {
            return match self.0.remove(at).1 {
                Value::Text(text) => Some(text),
                Value::Object(_) => None,
            };
        }
        let (name, inner) = path.split_once('.')?;
        self.below(name)?.remove(inner)
    }

    /// Adds a member at a dotted path; objects on the way are made where they are missing.
    pub(super) fn insert(&mut self, path: &str, json: &'a [u8]) {
        let Some((name, inner)) = path.split_once('.') else {
            self.0.push((path.to_owned(), Value::Text(json)));
            return;
        };
        if let Some(below) = self.below(name) {
            below.insert(inner, json);
            return;
        }
        let mut below = Self::default();
        below.insert(inner, json);
        self.0.push((name.to_owned(), Value::Object(below)));
    }

    /// Appends the object as JSON.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (index, (name, value)) in self.0.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write_text(out, name.as_bytes());
            out.push(b':');
            match value {
                Value::Text(text) => out.extend_from_slice(text),
                Value::Object(below) => below.write(out),
            }
        }
        out.push(b'}');
    }

    /// The object at a name, opened if it was still text.
    fn below(&mut self, name: &str) -> Option<&mut Self> {
        let (_, value) = self.0.iter_mut().find(|(known, _)| known == name)?;
        if let Value::Text(text) = value {
            *value = Value::Object(Self::parse(text)?);
        }
        match value {
            Value::Object(below) => Some(below),
            Value::Text(_) => None,
        }
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
            members.push((name, Value::Text(value.get().as_bytes())));
        }
        Ok(Object(members))
    }
}
