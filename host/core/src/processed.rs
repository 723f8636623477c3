//! Processed events: the original JSON with the enrichers' columns added.
//!
//! The bytes are spliced, not parsed and written anew: a number keeps its digits, a text its escapes, members their order.
//! Only an event that has fields which the contract does not name may need more: to leave them out (`phronis.undeclared: drop`),
//! or because one of them has the name of an added column.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::ArrayRef;

use crate::contract::{Contract, Object, Shape, Undeclared};
use crate::json::cursor::{Cursor, Fault};
use crate::json::write::{Cells, text};
use crate::plugin::Added;

/// On a processed event: the offset in raw that it came from. The partition is its own.
///
/// What stands after it is ours; a producer's own headers stand before it.
pub const ORIGIN_OFFSET: &str = "phronis-origin-offset";

/// On the first of processed events that were written together: the plugins that these went through, `name@version#digest`
/// with commas between. It holds until the next one of its partition.
pub const PLUGINS: &str = "phronis-plugins";

/// Beside [`PLUGINS`]: the columns that enrichers added, `name:type` with commas between.
pub const ADDED: &str = "phronis-added";

/// Writes the processed events of a stream.
#[derive(Debug, Clone)]
pub struct Writer {
    contract: Arc<Contract>,
    added: Vec<Name>,
    drops_undeclared: bool,
}

#[derive(Debug, Clone)]
struct Name {
    name: String,
    /// `,"name":`
    member: Vec<u8>,
}

/// A batch's added columns, seen once as what they are.
#[derive(Debug)]
pub struct Batch<'a> {
    writer: &'a Writer,
    columns: Vec<Cells<'a>>,
}

impl Writer {
    /// A writer for events with these columns, in this order.
    ///
    /// # Errors
    /// In words: a column's name is empty, stands twice, or is one that the contract declares.
    pub fn new(contract: Arc<Contract>, added: &[Added]) -> Result<Self, String> {
        let mut seen = HashSet::new();
        let mut names = Vec::new();
        for column in added {
            let name = column.name.as_str();
            if name.is_empty() || name.starts_with('$') {
                return Err(format!("`{name}` is not a name for an added column: not empty, no leading $"));
            }
            if contract.declares(name) || contract.position(name).is_some() {
                return Err(format!("the column `{name}` is a field of the contract already"));
            }
            if !seen.insert(name) {
                return Err(format!("the column `{name}` is added twice"));
            }
            let mut member = vec![b','];
            text(&mut member, name);
            member.push(b':');
            names.push(Name { name: name.to_owned(), member });
        }
        let drops_undeclared = contract.undeclared() == Undeclared::Drop;
        Ok(Self { contract, added: names, drops_undeclared })
    }

    /// Prepares a batch: one array for each added column.
    ///
    /// # Errors
    /// When the number of columns is another one.
    pub fn batch<'a>(&'a self, columns: &'a [ArrayRef]) -> Result<Batch<'a>, String> {
        if columns.len() != self.added.len() {
            return Err(format!("{} columns for {} added names", columns.len(), self.added.len()));
        }
        Ok(Batch { writer: self, columns: columns.iter().map(Cells::of).collect() })
    }
}

impl Batch<'_> {
    /// Appends the processed event of a row of the added columns.
    ///
    /// `payload` is the event as it went through the gate, `has_undeclared` is [`crate::Events::has_undeclared`].
    pub fn write(&self, out: &mut Vec<u8>, payload: &[u8], has_undeclared: bool, row: usize) {
        let start = out.len();
        if !has_undeclared || !self.must_rewrite(payload) || !self.rewrite(out, payload) {
            out.truncate(start);
            out.extend_from_slice(open(payload));
        }
        let mut is_empty = is_bare(out.get(start..).unwrap_or_default());
        for (name, cells) in self.writer.added.iter().zip(&self.columns) {
            let member = name.member.get(usize::from(is_empty)..).unwrap_or_default();
            out.extend_from_slice(member);
            cells.write(out, row);
            is_empty = false;
        }
        out.push(b'}');
    }

    /// Whether an undeclared member must go: all of them, or one with the name of an added column.
    fn must_rewrite(&self, payload: &[u8]) -> bool {
        if self.writer.drops_undeclared {
            return true;
        }
        if self.writer.added.is_empty() {
            return false;
        }
        let mut cursor = Cursor::new(payload);
        let mut found = false;
        cursor.space();
        cursor.step();
        let walked: Result<(), Fault> = cursor.members(1, |cursor, name| {
            found = found || self.writer.added.iter().any(|added| name.is(added.name.as_bytes()));
            cursor.skip(1)
        });
        found && walked.is_ok()
    }

    /// Writes the object without its end and without members that must not stay.
    /// False when it is not an object, which the gate does not let happen.
    fn rewrite(&self, out: &mut Vec<u8>, payload: &[u8]) -> bool {
        let mut cursor = Cursor::new(payload);
        let root = self.writer.drops_undeclared.then(|| self.writer.contract.root());
        let is_added = |name: &[u8]| self.writer.added.iter().any(|added| added.name.as_bytes() == name);
        cursor.space();
        let written = object(&mut cursor, out, root, 1, &is_added).is_ok();
        if written {
            out.pop();
        }
        written
    }
}

/// Copies an object with the members that stay: those of `declared` if there is one, else all but those in `left_out`.
fn object(
    cursor: &mut Cursor<'_>,
    out: &mut Vec<u8>,
    declared: Option<&Object>,
    depth: u32,
    left_out: &dyn Fn(&[u8]) -> bool,
) -> Result<(), Fault> {
    if cursor.peek() != b'{' {
        return cursor.fault();
    }
    cursor.step();
    out.push(b'{');
    let mut is_first = true;
    cursor.members(depth, |cursor, name| {
        let mut plain = Vec::new();
        name.append_to(&mut plain);
        let property =
            declared.map(|object| object.properties.iter().find(|property| property.name.as_bytes() == plain));
        cursor.space();
        if property.is_some_and(|found| found.is_none()) || left_out(&plain) {
            return cursor.skip(depth);
        }
        if !std::mem::take(&mut is_first) {
            out.push(b',');
        }
        out.push(b'"');
        out.extend_from_slice(name.raw);
        out.extend_from_slice(b"\":");
        if let Some(Some(property)) = property
            && let Shape::Object(inner) = &property.shape
            && cursor.peek() == b'{'
        {
            return object(cursor, out, Some(inner), depth + 1, &|_| false);
        }
        let start = cursor.at();
        cursor.skip(depth)?;
        out.extend_from_slice(cursor.since(start));
        Ok(())
    })?;
    out.push(b'}');
    Ok(())
}

/// The object without its last brace and what follows it.
#[inline]
fn open(payload: &[u8]) -> &[u8] {
    let end = payload.trim_ascii_end();
    end.strip_suffix(b"}").unwrap_or(end)
}

/// Whether nothing but white space follows the opening brace.
#[inline]
fn is_bare(open: &[u8]) -> bool {
    open.trim_ascii_end().last() == Some(&b'{')
}

#[cfg(test)]
mod tests;
