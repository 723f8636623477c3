//! Columns under another name, and constant columns, for files that do not quite fit the contract.

use std::path::Path;

use super::{
    columns::ColumnTypes,
    object::Object,
    text::{is_json_number, write_cell},
};
use crate::Error;

/// How the columns of a file become the fields of the contract. Names are dotted paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapping {
    constants: Vec<(String, String)>,
    renames: Vec<(String, String)>,
}

impl Mapping {
    /// Adds a constant from `name=value`, as `--set` takes it. `{file}` in the value is the file's name without endings.
    /// It takes the place of a column of that name.
    ///
    /// # Errors
    /// When there is no `=` or no name.
    pub fn set(mut self, option: &str) -> Result<Self, Error> {
        self.constants.push(split(option)?);
        Ok(self)
    }

    /// Renames a column, from `old=new`, as `--rename` takes it.
    ///
    /// # Errors
    /// When one of the names is missing.
    pub fn rename(mut self, option: &str) -> Result<Self, Error> {
        let (old, new) = split(option)?;
        if new.is_empty() {
            return Err(Error::Mapping { option: option.to_owned(), reason: "the new name is missing".to_owned() });
        }
        self.renames.push((old, new));
        Ok(self)
    }

    /// The mapping for one file: constants as JSON by their types.
    pub(super) fn resolve(&self, path: &Path, columns: &ColumnTypes) -> Result<Edits, Error> {
        let stem = stem(path);
        let mut constants = Vec::new();
        for (name, value) in &self.constants {
            if self.renames.iter().any(|(_, new)| new == name) {
                let reason = "a column is renamed to the same name".to_owned();
                return Err(Error::Mapping { option: format!("{name}={value}"), reason });
            }
            let mut json = Vec::new();
            let value = value.replace("{file}", &stem);
            if !write_cell(&mut json, value.as_bytes(), columns.get(name)) {
                json.extend_from_slice(if is_json_number(value.as_bytes()) { value.as_bytes() } else { b"\"\"" });
            }
            constants.push((name.clone(), json));
        }
        Ok(Edits { constants, renames: self.renames.clone() })
    }
}

/// A mapping for one file.
#[derive(Debug)]
pub(super) struct Edits {
    /// Names and JSON texts.
    pub(super) constants: Vec<(String, Vec<u8>)>,
    renames: Vec<(String, String)>,
}

impl Edits {
    /// The name that a column gets.
    pub(super) fn name_of<'a>(&'a self, column: &'a str) -> &'a str {
        self.renames.iter().find(|(old, _)| old == column).map_or(column, |(_, new)| new)
    }

    /// Old names of columns.
    pub(super) fn old_names(&self) -> impl Iterator<Item = &str> {
        self.renames.iter().map(|(old, _)| old.as_str())
    }

    /// The event with its mapping; what is no JSON object stays as it is.
    pub(super) fn apply(&self, event: Vec<u8>) -> Vec<u8> {
        if self.constants.is_empty() && self.renames.is_empty() {
            return event;
        }
        let Some(mut object) = Object::parse(&event) else { return event };
        let moved: Vec<_> =
            self.renames.iter().filter_map(|(old, new)| object.remove(old).map(|value| (new, value))).collect();
        for (new, value) in moved {
            object.insert(new, value);
        }
        for (name, json) in &self.constants {
            while object.remove(name).is_some() {}
            object.insert(name, json);
        }
        let mut out = Vec::with_capacity(event.len() + 64);
        object.write(&mut out);
        out
    }
}

fn split(option: &str) -> Result<(String, String), Error> {
    match option.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Error::Mapping { option: option.to_owned(), reason: "it must look like name=value".to_owned() }),
    }
}

fn stem(path: &Path) -> String {
    let name = path.file_name().map_or_else(|| "stdin".into(), |name| name.to_string_lossy());
    match &*name {
        "-" => "stdin".to_owned(),
        name => {
            let name = name.strip_suffix(".gz").unwrap_or(name);
            name.rsplit_once('.').map_or(name, |(stem, _)| if stem.is_empty() { name } else { stem }).to_owned()
        }
    }
}
