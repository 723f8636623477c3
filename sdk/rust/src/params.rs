//! Parameters: what an operator sets, described by a JSON Schema and parsed into the author's struct.
//!
//! The schema lets the host refuse a bad value before the plugin sees it; parsing checks again, so that a plugin never
//! holds a value that its schema does not allow.

use std::fmt;

use serde_json::Value as Json;

pub(crate) mod object;
mod types;

/// A type that a parameter may have.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a parameter",
    label = "not a parameter type",
    note = "a parameter is bool, i64, f64, String, Severity, Option<T>, Vec<T>, BTreeMap<String, T>, or has `#[derive(Params)]`"
)]
pub trait Param: Sized {
    /// Its JSON Schema.
    fn schema() -> Json;

    /// Reads it from JSON.
    ///
    /// # Errors
    /// The JSON does not fit the schema, or a `validate` function says no.
    fn parse(json: &Json) -> Result<Self, ParamError>;

    /// Writes it as JSON; used for the defaults in the schema.
    fn to_json(&self) -> Json;

    /// The value where none is given and no default is declared. Only an `Option` has one.
    fn absent() -> Option<Self> {
        None
    }

    /// The value as a text, so that `path_param` can read it.
    fn as_text(&self) -> Option<&str> {
        None
    }

    /// The value as a number, so that `min` and `max` can check it.
    fn as_number(&self) -> Option<f64> {
        None
    }
}

/// All parameters of a plugin. Use `#[derive(Params)]`, or `()` for none.
pub trait Params: Param {
    /// The text parameter called `name`.
    fn text(&self, name: &str) -> Option<&str>;
}

/// Which parameter is wrong, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamError {
    path: String,
    problem: String,
}

impl ParamError {
    /// The parameter `name` is wrong: `problem` goes on the sentence, as in "must be above `low`".
    pub fn new(name: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { path: name.into(), problem: problem.into() }
    }

    /// Puts the error under an outer name: `high` in `overrides` is `overrides.high`.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        self.path = if self.path.is_empty() { outer.to_owned() } else { format!("{outer}.{}", self.path) };
        self
    }
}

impl fmt::Display for ParamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "the parameters {}", self.problem)
        } else {
            write!(f, "parameter `{}` {}", self.path, self.problem)
        }
    }
}

impl std::error::Error for ParamError {}

impl Param for () {
    fn schema() -> Json {
        object::object_schema(Vec::new())
    }

    fn parse(json: &Json) -> Result<Self, ParamError> {
        object::Object::open(json, &[]).map(|_| ())
    }

    fn to_json(&self) -> Json {
        Json::Object(serde_json::Map::new())
    }
}

impl Params for () {
    fn text(&self, _name: &str) -> Option<&str> {
        None
    }
}
