//! A node of the document together with its path: every complaint is made here.

use crate::contract::yaml::{Node, Value};

/// What is wrong, and where.
#[derive(Debug)]
pub(in crate::contract) struct Problem {
    pub(in crate::contract) line: u64,
    pub(in crate::contract) path: String,
    pub(in crate::contract) what: String,
}

pub(super) type Found<T> = Result<T, Problem>;

#[derive(Debug, Clone)]
pub(super) struct Place<'a> {
    node: &'a Node,
    path: String,
}

impl<'a> Place<'a> {
    pub(super) fn root(node: &'a Node) -> Self {
        Self { node, path: String::new() }
    }

    pub(super) fn line(&self) -> u64 {
        self.node.referenced.line()
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn value(&self) -> &'a Value {
        &self.node.value
    }

    /// A complaint about this place.
    pub(super) fn wrong<T>(&self, what: String) -> Found<T> {
        Err(Problem { line: self.line(), path: self.path.clone(), what })
    }

    fn must_be<T>(&self, what: &str) -> Found<T> {
        self.wrong(format!("must be {what}, is {}", self.value().kind()))
    }

    pub(super) fn map(&self) -> Found<&'a [(String, Node)]> {
        match self.value() {
            Value::Map(entries) => Ok(entries),
            _ => self.must_be("a mapping"),
        }
    }

    /// What stands under a key; nothing for a key without a value.
    pub(super) fn get(&self, key: &str) -> Option<Self> {
        let Value::Map(entries) = self.value() else { return None };
        let (_, node) = entries.iter().find(|(name, node)| name == key && node.value != Value::Null)?;
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Some(Self { node, path })
    }

    pub(super) fn need(&self, key: &str) -> Found<Self> {
        self.map()?;
        match self.get(key) {
            Some(place) => Ok(place),
            None => self.wrong(format!("`{key}` is missing")),
        }
    }

    pub(super) fn list(&self) -> Found<Vec<Self>> {
        let Value::List(nodes) = self.value() else { return self.must_be("a list") };
        let place = |(index, node)| Self { node, path: format!("{}[{index}]", self.path) };
        Ok(nodes.iter().enumerate().map(place).collect())
    }

    pub(super) fn text(&self) -> Found<&'a str> {
        match self.value() {
            Value::Text(text) => Ok(text),
            Value::Integer(_) | Value::Number(_) | Value::Bool(_) => self.must_be("a text (put it in quotes)"),
            _ => self.must_be("a text"),
        }
    }

    pub(super) fn optional_text(&self, key: &str) -> Found<Option<String>> {
        match self.get(key) {
            // ODCS has structured descriptions at some places; only plain ones are shown.
            Some(place) => Ok(place.text().ok().map(str::to_owned)),
            None => Ok(None),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Found<bool> {
        let Some(place) = self.get(key) else { return Ok(false) };
        match place.value() {
            Value::Bool(flag) => Ok(*flag),
            _ => place.must_be("true or false"),
        }
    }

    pub(super) fn integer(&self, min: i64, max: i64) -> Found<i64> {
        match self.value() {
            Value::Integer(number) if (min..=max).contains(number) => Ok(*number),
            Value::Integer(number) => self.wrong(format!("must be {min} to {max}, is {number}")),
            _ => self.must_be("a whole number"),
        }
    }

    pub(super) fn number(&self) -> Found<f64> {
        match self.value() {
            Value::Integer(number) => Ok(*number as f64),
            Value::Number(number) if number.is_finite() => Ok(*number),
            _ => self.must_be("a number"),
        }
    }
}
