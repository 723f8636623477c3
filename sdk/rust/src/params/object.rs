//! What `#[derive(Params)]` calls: schemas of objects and choices, and an object that is read field by field.

use serde_json::{Map, Value as Json, json};

use super::types::wrong;
use super::{Param, ParamError};

/// One parameter in the schema of an object.
#[derive(Debug)]
pub struct Property {
    /// Its name.
    pub name: &'static str,
    /// The schema of its type.
    pub schema: Json,
    /// What it means.
    pub doc: &'static str,
    /// Its value where none is given; none: it must be given.
    pub default: Option<Json>,
    /// The least allowed number.
    pub min: Option<f64>,
    /// The greatest allowed number.
    pub max: Option<f64>,
}

/// The schema of an object with these properties and no others.
pub fn object_schema(properties: Vec<Property>) -> Json {
    let mut required = Vec::new();
    let mut schemas = Map::new();
    for Property { name, schema, doc, default, min, max } in properties {
        let mut schema = schema;
        if let Some(object) = schema.as_object_mut() {
            if !doc.is_empty() {
                object.insert("description".to_owned(), doc.into());
            }
            if let Some(min) = min {
                object.insert("minimum".to_owned(), number(min));
            }
            if let Some(max) = max {
                object.insert("maximum".to_owned(), number(max));
            }
            match default {
                Some(default) => drop(object.insert("default".to_owned(), default)),
                None => required.push(Json::from(name)),
            }
        }
        schemas.insert(name.to_owned(), schema);
    }
    json!({"type": "object", "properties": schemas, "required": required, "additionalProperties": false})
}

/// A declared default or limit. The conversion lets a text stand for a `String`, and a whole number for a double.
pub fn given<T>(value: impl Into<T>) -> Option<T> {
    Some(value.into())
}

/// The schema of a text that is one of `names`.
pub fn choice_schema(names: &[&str]) -> Json {
    json!({"type": "string", "enum": names})
}

/// The error for a text that is none of `names`.
pub fn unknown_choice(json: &Json, names: &[&str]) -> ParamError {
    match json.as_str() {
        Some(text) => ParamError::new("", format!("must be one of {}, not `{text}`", names.join(", "))),
        None => wrong(&format!("one of {}", names.join(", ")), json),
    }
}

/// An object that is read field by field.
#[derive(Debug)]
pub struct Object<'a>(&'a Map<String, Json>);

impl<'a> Object<'a> {
    /// Opens an object that has no other fields than `names`.
    ///
    /// # Errors
    /// The JSON is not an object, or has another field.
    pub fn open(json: &'a Json, names: &[&str]) -> Result<Self, ParamError> {
        let object = json.as_object().ok_or_else(|| wrong("a map", json))?;
        match object.keys().find(|key| !names.contains(&key.as_str())) {
            Some(key) if names.is_empty() => Err(ParamError::new(key, "is not known: there are no parameters")),
            Some(key) => Err(ParamError::new(key, format!("is not known; known are {}", names.join(", ")))),
            None => Ok(Self(object)),
        }
    }

    /// Reads one field.
    ///
    /// # Errors
    /// It is missing without a default, of another type, or out of its range.
    pub fn read<T: Param>(
        &self,
        name: &str,
        default: impl FnOnce() -> Option<T>,
        min: Option<f64>,
        max: Option<f64>,
    ) -> Result<T, ParamError> {
        let value = match self.0.get(name) {
            Some(json) => T::parse(json).map_err(|error| error.within(name))?,
            None => default().ok_or_else(|| ParamError::new(name, "is missing"))?,
        };
        if let Some(number) = value.as_number() {
            if let Some(min) = min.filter(|min| number < *min) {
                return Err(ParamError::new(name, format!("must be at least {min}, not {number}")));
            }
            if let Some(max) = max.filter(|max| number > *max) {
                return Err(ParamError::new(name, format!("must be at most {max}, not {number}")));
            }
        }
        Ok(value)
    }
}

/// Writes whole numbers as such, so that the limits of an integer read as integers.
#[expect(clippy::cast_possible_truncation, reason = "only whole numbers below 2^53 are converted")]
fn number(value: f64) -> Json {
    if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 { json!(value as i64) } else { json!(value) }
}
