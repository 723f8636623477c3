//! Which type each column has, and how a header becomes nested objects.

use std::collections::BTreeMap;

use phronis_core::plugin::FieldType;

use super::text::{write_cell, write_text};

/// The types of the columns by their path (`value`, `metadata.temp`), as the contract has them.
/// A column without a type is text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColumnTypes(BTreeMap<String, FieldType>);

impl ColumnTypes {
    /// The type of a column.
    pub fn get(&self, path: &str) -> Option<FieldType> {
        self.0.get(path).copied()
    }
}

impl<P: Into<String>> FromIterator<(P, FieldType)> for ColumnTypes {
    fn from_iter<I: IntoIterator<Item = (P, FieldType)>>(columns: I) -> Self {
        Self(columns.into_iter().map(|(path, of_type)| (path.into(), of_type)).collect())
    }
}

/// Where a member of an event comes from.
#[derive(Debug)]
pub(super) enum Origin {
    Cell(usize, Option<FieldType>),
    Constant(Vec<u8>),
}

/// The shape of a CSV file's events.
#[derive(Debug, Default)]
pub(super) struct Shape(Vec<Member>);

impl Shape {
    /// Adds a member at a dotted path. Says what is in the way if something is.
    pub(super) fn add(&mut self, path: &str, origin: Origin) -> Result<(), String> {
        add(&mut self.0, path, path, origin)
    }

    /// The event that a record makes.
    pub(super) fn write(&self, out: &mut Vec<u8>, record: &::csv::ByteRecord) {
        out.push(b'{');
        write_members(&self.0, out, record);
        out.push(b'}');
    }
}

#[derive(Debug)]
struct Member {
    name: String,
    /// The name as JSON, with the colon.
    key: Vec<u8>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Leaf(Origin),
    Object(Vec<Member>),
}

fn add(members: &mut Vec<Member>, whole: &str, path: &str, origin: Origin) -> Result<(), String> {
    let (name, inner) = match path.split_once('.') {
        // A dot at an end is part of a strange name, not a level.
        Some((name, inner)) if !name.is_empty() && !inner.is_empty() => (name, Some(inner)),
        _ => (path, None),
    };
    let known = members.iter_mut().find(|member| member.name == name).map(|member| &mut member.content);
    let content = match (known, inner) {
        (Some(Content::Object(below)), Some(inner)) => return add(below, whole, inner, origin),
        (Some(Content::Leaf(_)), None) => return Err(format!("column `{whole}` stands twice")),
        (Some(_), _) => return Err(format!("column `{whole}` is a value and an object at once")),
        (None, None) => Content::Leaf(origin),
        (None, Some(inner)) => {
            let mut below = Vec::new();
            add(&mut below, whole, inner, origin)?;
            Content::Object(below)
        }
    };
    let mut key = Vec::new();
    write_text(&mut key, name.as_bytes());
    key.push(b':');
    members.push(Member { name: name.to_owned(), key, content });
    Ok(())
}

/// Writes the members that have a value; an object without any is left out.
fn write_members(members: &[Member], out: &mut Vec<u8>, record: &::csv::ByteRecord) {
    let start = out.len();
    for member in members {
        let before = out.len();
        if before > start {
            out.push(b',');
        }
        out.extend_from_slice(&member.key);
        let is_written = match &member.content {
            Content::Leaf(Origin::Cell(column, of_type)) => {
                write_cell(out, record.get(*column).unwrap_or_default(), *of_type)
            }
            Content::Leaf(Origin::Constant(json)) => {
                out.extend_from_slice(json);
                true
            }
            Content::Object(below) => {
                out.push(b'{');
                let opened = out.len();
                write_members(below, out, record);
                let is_written = out.len() > opened;
                out.push(b'}');
                is_written
            }
        };
        if !is_written {
            out.truncate(before);
        }
    }
}
