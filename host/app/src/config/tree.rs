//! The layers of a configuration as one tree, each value with where it came from.
//!
//! Files in order, then the environment, then options: tables are merged, everything else is replaced whole.
//! Nothing here knows what a key means.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::problem::{Origin, Problem};

/// What environment variables that set something begin with.
pub const ENV_PREFIX: &str = "PHRONIS__";

/// The keys of a table.
pub type Table = BTreeMap<String, Node>;

/// A value and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it came from.
    pub origin: Origin,
    /// The value.
    pub value: Value,
}

/// A value, as far as its type goes.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// True or false.
    Bool(bool),
    /// A list.
    List(Vec<Node>),
    /// A table.
    Table(Table),
    /// Something that no setting wants (a float, a date), with its TOML type.
    Other(&'static str),
    /// A text of the environment, which may also stand for a number, a bool or a list.
    Env(String),
}

impl Value {
    /// The type, in the words of an error message.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Text(_) | Self::Env(_) => "a text",
            Self::Integer(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(name) => name,
        }
    }
}

/// Reads one TOML document.
///
/// # Errors
/// Every syntax error, with its line.
pub fn parse(path: &Path, text: &str) -> Result<Node, Vec<Problem>> {
    let source = Source { path: path.into(), text };
    let (document, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let origin = Origin::File { path: Arc::clone(&source.path), line: 0 };
        return Ok(Node { origin, value: source.table(document.get_ref()) });
    }
    let problem = |error: &toml::de::Error| {
        let line = error.span().map_or(0, |span| source.line(span.start));
        Problem::new(
            &Origin::File { path: Arc::clone(&source.path), line },
            "",
            format!("not TOML: {}", error.message()),
        )
    };
    Err(errors.iter().map(problem).collect())
}

/// Lays `upper` over `lower`.
pub fn merge(lower: &mut Node, upper: Node) {
    match (&mut lower.value, upper.value) {
        (Value::Table(lower), Value::Table(upper)) => {
            for (key, node) in upper {
                match lower.get_mut(&key) {
                    Some(below) => merge(below, node),
                    None => {
                        lower.insert(key, node);
                    }
                }
            }
        }
        (_, value) => *lower = Node { origin: upper.origin, value },
    }
}

/// Lays a variable such as `PHRONIS__HTTP__LISTEN` over the tree.
///
/// `__` separates levels. A name that a shell cannot write finds its table anyway:
/// `ACME_SENSORS` stands for `acme.sensors` when that is there.
pub fn set_env(root: &mut Node, variable: &str, text: &str) {
    let Some(path) = variable.strip_prefix(ENV_PREFIX) else { return };
    let origin = Origin::Env(variable.into());
    let levels: Vec<String> = path.split("__").map(str::to_ascii_lowercase).collect();
    let levels: Vec<&str> = levels.iter().map(String::as_str).collect();
    set(root, &levels, Node { origin, value: Value::Env(text.to_owned()) });
}

/// Lays one value over the tree.
pub fn set(at: &mut Node, path: &[&str], node: Node) {
    let Some((first, rest)) = path.split_first() else {
        *at = node;
        return;
    };
    if !matches!(at.value, Value::Table(_)) {
        *at = Node { origin: node.origin.clone(), value: Value::Table(Table::new()) };
    }
    let Value::Table(table) = &mut at.value else { return };
    let plain = |name: &str| name.replace(['-', '.'], "_");
    let key = table.keys().find(|key| plain(key) == plain(first)).map_or_else(|| (*first).to_owned(), String::clone);
    let empty = || Node { origin: node.origin.clone(), value: Value::Table(Table::new()) };
    let below = table.entry(key).or_insert_with(empty);
    set(below, rest, node);
}

struct Source<'a> {
    path: Arc<Path>,
    text: &'a str,
}

impl Source<'_> {
    fn line(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
    }

    fn node(&self, offset: usize, value: &DeValue<'_>) -> Node {
        let origin = Origin::File { path: Arc::clone(&self.path), line: self.line(offset) };
        Node { origin, value: self.value(value) }
    }

    fn value(&self, value: &DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => i64::from_str_radix(&number.as_str().replace('_', ""), number.radix())
                .map_or(Value::Other("a number that is too large"), Value::Integer),
            DeValue::Boolean(flag) => Value::Bool(*flag),
            DeValue::Float(_) => Value::Other("a number with decimals"),
            DeValue::Datetime(_) => Value::Other("a date"),
            DeValue::Array(items) => {
                Value::List(items.iter().map(|item| self.node(item.span().start, item.get_ref())).collect())
            }
            DeValue::Table(table) => self.table(table),
        }
    }

    /// A key's line is that of its name: that is where a person looks.
    fn table(&self, table: &DeTable<'_>) -> Value {
        let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
            let name: &std::borrow::Cow<'_, str> = key.get_ref();
            (name.to_string(), self.node(key.span().start, value.get_ref()))
        };
        Value::Table(table.iter().map(entry).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaves(node: &Node, path: &str, into: &mut BTreeMap<String, Value>) {
        match &node.value {
            Value::Table(table) => table.iter().for_each(|(key, node)| leaves(node, &format!("{path}/{key}"), into)),
            value => {
                into.insert(path.to_owned(), value.clone());
            }
        }
    }

    proptest! {
        /// Two levels of keys, a value tells its layer: the last layer that sets a key wins, and no key is lost.
        #[test]
        fn the_last_layer_wins_and_no_key_is_lost(
            layers in prop::collection::vec(prop::collection::vec(("[a-c]", "[a-c]"), 0..6), 1..5),
        ) {
            let mut expected = BTreeMap::new();
            let mut root = Node { origin: Origin::Default, value: Value::Table(Table::new()) };
            for (index, keys) in layers.iter().enumerate() {
                let mut layer = Node { origin: Origin::Default, value: Value::Table(Table::new()) };
                for (outer, inner) in keys {
                    let value = Value::Integer(index as i64);
                    set(&mut layer, &[outer, inner], Node { origin: Origin::Default, value: value.clone() });
                    expected.insert(format!("/{outer}/{inner}"), value);
                }
                merge(&mut root, layer);
            }
            let mut seen = BTreeMap::new();
            leaves(&root, "", &mut seen);
            prop_assert_eq!(seen, expected);
        }
    }

    #[test]
    fn a_variable_finds_a_name_that_shells_cannot_write() {
        let mut root = parse(Path::new("a.toml"), "[streams.\"acme.hot-sensors\"]\npartitions = 1").unwrap();
        set_env(&mut root, "PHRONIS__STREAMS__ACME_HOT_SENSORS__PARTITIONS", "8");
        let mut seen = BTreeMap::new();
        leaves(&root, "", &mut seen);
        assert_eq!(seen, BTreeMap::from([("/streams/acme.hot-sensors/partitions".into(), Value::Env("8".into()))]));
    }
}
