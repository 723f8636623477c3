//! Takes settings out of the tree: typed, with a default, remembered for `config show`.
//!
//! What was never asked for is unknown: so the list of known keys is the reading itself and cannot go stale.
//! A wrong value becomes a problem and reading goes on, so that one run tells all problems.

use std::path::{Path, PathBuf};

use phronis_core::text::nearest;

use super::problem::{Origin, Problem};
use super::tree::{Node, Table, Value};
use super::value::Setting;

/// Problems found and settings read so far.
#[derive(Debug, Default)]
pub struct Reader {
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What is in force, in reading order.
    pub effective: Vec<Effective>,
}

/// A setting in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// The header of the section that it stands in: `[http]`, empty at the top.
    pub header: String,
    /// Its key.
    pub key: String,
    /// Its value in TOML; secrets are masked; `None` when it has no value.
    pub value: Option<String>,
    /// Where it came from.
    pub origin: Origin,
}

/// A setting whose name is not ours: of the library that it is passed on to.
#[derive(Clone, PartialEq, Eq)]
pub struct Property {
    /// Its name, with dots.
    pub name: String,
    /// Its value as a text.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
    /// The full path of its key.
    pub path: String,
}

impl std::fmt::Debug for Property {
    /// Values of others may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Property").field("name", &self.name).field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// What stands for a secret that is not shown.
pub const MASK: &str = "\"***\"";

/// A table that is being read.
#[derive(Debug)]
pub struct Section<'t> {
    table: Option<&'t Table>,
    path: String,
    header: String,
    origin: Origin,
    asked: Vec<&'static str>,
}

impl Reader {
    /// The whole tree.
    pub fn root<'t>(&mut self, node: &'t Node) -> Section<'t> {
        self.section_at(node, String::new(), String::new())
    }

    fn section_at<'t>(&mut self, node: &'t Node, path: String, header: String) -> Section<'t> {
        let table = match &node.value {
            Value::Table(table) => Some(table),
            other => {
                let message = format!("expected a table, this is {}", other.type_name());
                self.problems.push(Problem::new(&node.origin, &path, message));
                None
            }
        };
        Section { table, path, header, origin: node.origin.clone(), asked: Vec::new() }
    }
}

impl<'t> Section<'t> {
    /// The full path of a key of this section.
    pub fn path_of(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// The full path of the section itself.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where the section came from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Where a key came from.
    pub fn origin_of(&self, key: &str) -> Origin {
        self.node(key).map_or(Origin::Default, |node| node.origin.clone())
    }

    /// A problem with a key.
    pub fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        Problem::new(&self.origin_of(key), self.path_of(key), message)
    }

    /// A setting, or its default.
    pub fn or<T: Setting>(&mut self, reader: &mut Reader, key: &'static str, default: T) -> T {
        let value = self.read(reader, key).unwrap_or(default);
        self.remember(reader, key, Some(value.show()));
        value
    }

    /// A setting that may be absent.
    pub fn optional<T: Setting>(&mut self, reader: &mut Reader, key: &'static str) -> Option<T> {
        let value = self.read::<T>(reader, key);
        self.remember(reader, key, value.as_ref().map(T::show));
        value
    }

    /// A setting that must be there.
    pub fn required<T: Setting>(&mut self, reader: &mut Reader, key: &'static str) -> Option<T> {
        let value = self.optional(reader, key);
        if self.node(key).is_none() {
            let message = format!("is missing: expected {}", T::EXPECTED);
            reader.problems.push(Problem::new(&self.origin, self.path_of(key), message));
        }
        value
    }

    /// A text that is never shown.
    pub fn secret(&mut self, reader: &mut Reader, key: &'static str) -> Option<String> {
        let value = self.read::<String>(reader, key);
        self.remember(reader, key, value.as_ref().map(|_| MASK.to_owned()));
        value
    }

    /// A path. One from a file is relative to that file, any other to the working folder.
    pub fn file(&mut self, reader: &mut Reader, key: &'static str) -> Option<PathBuf> {
        let value = self.read::<String>(reader, key).map(|text| match self.origin_of(key) {
            Origin::File { path, .. } => path.parent().unwrap_or_else(|| Path::new("")).join(text),
            _ => PathBuf::from(text),
        });
        self.remember(reader, key, value.as_ref().map(|path| path.display().to_string().show()));
        value
    }

    /// Notes what a setting without a value amounts to.
    pub fn derived(&self, reader: &mut Reader, key: &str, value: String) {
        let is_it = |entry: &&mut Effective| entry.header == self.header && entry.key == key;
        if let Some(entry) = reader.effective.iter_mut().rev().find(is_it) {
            entry.value = Some(value);
        }
    }

    /// The table under a key; an empty one when it is not there.
    pub fn section(&mut self, reader: &mut Reader, key: &'static str) -> Section<'t> {
        self.asked.push(key);
        let path = self.path_of(key);
        let header = format!("[{path}]");
        match self.node(key) {
            Some(node) => reader.section_at(node, path, header),
            None => Section { table: None, path, header, origin: self.origin.clone(), asked: Vec::new() },
        }
    }

    /// The tables under a key whose own keys are names that the user chose.
    pub fn named(&mut self, reader: &mut Reader, key: &'static str) -> Vec<(&'t str, Section<'t>)> {
        let outer = self.section(reader, key);
        let entries = outer.table.into_iter().flatten();
        entries
            .map(|(name, node)| {
                let path = join(&outer.path, name);
                let header = format!("[{path}]");
                (name.as_str(), reader.section_at(node, path, header))
            })
            .collect()
    }

    /// The list of tables under a key.
    pub fn list(&mut self, reader: &mut Reader, key: &'static str) -> Vec<Section<'t>> {
        self.asked.push(key);
        let path = self.path_of(key);
        let Some(node) = self.node(key) else { return Vec::new() };
        let Value::List(items) = &node.value else {
            let message = format!("expected a list of tables, [[{path}]], this is {}", node.value.type_name());
            reader.problems.push(Problem::new(&node.origin, &path, message));
            return Vec::new();
        };
        let item = |(index, node)| reader.section_at(node, format!("{path}[{index}]"), format!("[[{path}]] # {index}"));
        items.iter().enumerate().map(item).collect()
    }

    /// Refuses keys that mean something elsewhere, where they are set.
    pub fn misplaced(&mut self, reader: &mut Reader, keys: &[&'static str], message: &str) {
        for key in keys {
            if self.node(key).is_some() {
                self.asked.push(key);
                reader.problems.push(self.problem(key, message));
            }
        }
    }

    /// What stands under a key for someone else: names with dots, quoted or as tables, and texts, numbers, truth values.
    ///
    /// A shell cannot write a dot, so in variables `_` stands for it. Variables come last: they override.
    pub fn properties(&mut self, reader: &mut Reader, key: &'static str) -> Vec<Property> {
        let outer = self.section(reader, key);
        let (mut found, mut from_env) = (Vec::new(), Vec::new());
        leaves(reader, &outer, &outer.path, "", &mut |property: Property| match property.origin {
            Origin::Env(_) => from_env.push(Property { name: property.name.replace('_', "."), ..property }),
            _ => found.push(property),
        });
        found.extend(from_env);
        found
    }

    /// Ends the reading: what was not asked for is unknown.
    pub fn finish(self, reader: &mut Reader) {
        for (key, node) in self.table.into_iter().flatten() {
            if self.asked.contains(&key.as_str()) {
                continue;
            }
            let mut help = String::new();
            if let Some(near) = nearest(key, self.asked.iter().copied()) {
                help = format!("did you mean `{near}`? ");
            }
            let place = if self.path.is_empty() { "at the top".to_owned() } else { format!("in [{}]", self.path) };
            let mut known = self.asked.clone();
            known.sort_unstable();
            help.push_str(&format!("known {place}: {}", known.join(", ")));
            reader.problems.push(Problem::new(&node.origin, self.path_of(key), "there is no such key").help(help));
        }
    }

    fn node(&self, key: &str) -> Option<&'t Node> {
        self.table?.get(key)
    }

    fn read<T: Setting>(&mut self, reader: &mut Reader, key: &'static str) -> Option<T> {
        self.asked.push(key);
        let node = self.node(key)?;
        match T::read(&node.value) {
            Ok(value) => Some(value),
            Err(message) => {
                reader.problems.push(Problem::new(&node.origin, self.path_of(key), message));
                None
            }
        }
    }

    fn remember(&self, reader: &mut Reader, key: &str, value: Option<String>) {
        let header = self.header.clone();
        reader.effective.push(Effective { header, key: key.to_owned(), value, origin: self.origin_of(key) });
    }
}

fn leaves(reader: &mut Reader, outer: &Section<'_>, path: &str, prefix: &str, found: &mut dyn FnMut(Property)) {
    for (key, node) in outer.table.into_iter().flatten() {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        let path = join(path, key);
        let value = match &node.value {
            Value::Text(text) | Value::Env(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            Value::Table(_) => {
                let inner = reader.section_at(node, path.clone(), String::new());
                leaves(reader, &inner, &path, &name, found);
                continue;
            }
            other => {
                let message = format!("expected a text, a number, true or false, this is {}", other.type_name());
                reader.problems.push(Problem::new(&node.origin, path, message));
                continue;
            }
        };
        found(Property { name, value, origin: node.origin.clone(), path });
    }
}

/// `a.b`, with names quoted where TOML wants it.
fn join(path: &str, key: &str) -> String {
    let is_bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let key = if is_bare { key.to_owned() } else { key.to_owned().show() };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}
