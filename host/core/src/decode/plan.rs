//! The contract's tree as the decoder walks it: which member goes into which column, and which member likely comes next.

use std::fmt::Write as _;

use super::column::Column;
use super::{Outcome, Stop};
use crate::code;
use crate::contract::{Contract, Object, Shape};
use crate::json::cursor::{Cursor, Fault};
use crate::text::{bounded, escape};

/// An object of the contract; node 0 is the event.
#[derive(Debug)]
pub(super) struct Node {
    members: Vec<Member>,
    /// Where this node's guesses begin: one for the first member, then one for what follows each member.
    guesses: usize,
    path: String,
}

#[derive(Debug)]
struct Member {
    name: Box<[u8]>,
    /// The name with its quotes, as producers write it.
    quoted: Box<[u8]>,
    required: bool,
    target: Target,
}

#[derive(Debug, Clone, Copy)]
enum Target {
    Column(usize),
    Object(usize),
}

/// Nodes, and room for their guesses.
pub(super) fn of(contract: &Contract) -> (Vec<Node>, Vec<u16>) {
    let mut nodes = Vec::new();
    let mut guesses = Vec::new();
    add(contract.root(), String::new(), &mut nodes, &mut guesses);
    (nodes, guesses)
}

fn add(object: &Object, path: String, nodes: &mut Vec<Node>, guesses: &mut Vec<u16>) -> usize {
    let index = nodes.len();
    // In the contract's order until events teach another one.
    let base = guesses.len();
    guesses.extend((0..=object.properties.len()).map(|next| u16::try_from(next).unwrap_or(u16::MAX)));
    nodes.push(Node { members: Vec::new(), guesses: base, path: path.clone() });
    let mut members = Vec::new();
    for property in &object.properties {
        let mut quoted = Vec::new();
        crate::json::write::text(&mut quoted, &property.name);
        let target = match &property.shape {
            Shape::Field(column) => Target::Column(*column),
            Shape::Object(inner) => {
                let path = if path.is_empty() { property.name.clone() } else { format!("{path}.{}", property.name) };
                Target::Object(add(inner, path, nodes, guesses))
            }
        };
        let name = property.name.as_bytes().into();
        members.push(Member { name, quoted: quoted.into(), required: property.required, target });
    }
    if let Some(node) = nodes.get_mut(index) {
        node.members = members;
    }
    index
}

/// One record being read.
#[derive(Debug)]
pub(super) struct Walk<'d> {
    pub(super) plan: &'d [Node],
    pub(super) guesses: &'d mut [u16],
    /// The record in which each node was last seen.
    pub(super) stamps: &'d mut [u64],
    pub(super) stamp: u64,
    pub(super) columns: &'d mut [Column],
    /// The row that is being filled: a column that is longer already has its value.
    pub(super) row: usize,
    pub(super) refuses_undeclared: bool,
    pub(super) has_undeclared: bool,
}

impl<'d> Walk<'d> {
    /// Reads the event, to the end of the value.
    #[inline]
    pub(super) fn event(&mut self, cursor: &mut Cursor<'_>) -> Outcome {
        if cursor.space() != b'{' {
            return cursor.fault().map_err(Stop::Fault);
        }
        self.object(0, cursor, 1)?;
        Ok(cursor.end()?)
    }

    fn object(&mut self, index: usize, cursor: &mut Cursor<'_>, depth: u32) -> Outcome {
        let Some(node) = self.plan.get(index) else { return Ok(()) };
        cursor.step();
        if cursor.space() == b'}' {
            cursor.step();
            return self.close(node);
        }
        let mut slot = node.guesses;
        loop {
            cursor.space();
            let guess = self.guesses.get(slot).map_or(usize::MAX, |&guess| usize::from(guess));
            match node.members.get(guess) {
                Some(member) if cursor.take(&member.quoted) => {
                    cursor.expect(b':')?;
                    self.member(node, member, cursor, depth)?;
                    slot = node.guesses + guess + 1;
                }
                _ => slot = self.unexpected(node, slot, cursor, depth)?,
            }
            match cursor.space() {
                b',' => cursor.step(),
                b'}' => {
                    cursor.step();
                    return self.close(node);
                }
                _ => return Err(Fault::Syntax(cursor.at()).into()),
            }
        }
    }

    /// Reads a member that is not the one that followed last time; returns the guess for what follows.
    fn unexpected(&mut self, node: &'d Node, slot: usize, cursor: &mut Cursor<'_>, depth: u32) -> Outcome<usize> {
        let name = cursor.text()?;
        cursor.expect(b':')?;
        let Some(found) = node.members.iter().position(|member| name.is(&member.name)) else {
            if self.refuses_undeclared {
                let mut text = Vec::new();
                name.append_to(&mut text);
                return Err(undeclared(node, &String::from_utf8_lossy(&text)));
            }
            self.has_undeclared = true;
            cursor.skip(depth)?;
            return Ok(slot);
        };
        if let (Some(guess), Ok(found)) = (self.guesses.get_mut(slot), u16::try_from(found)) {
            *guess = found;
        }
        if let Some(member) = node.members.get(found) {
            self.member(node, member, cursor, depth)?;
        }
        Ok(node.guesses + found + 1)
    }

    #[inline(always)]
    fn member(&mut self, node: &Node, member: &Member, cursor: &mut Cursor<'_>, depth: u32) -> Outcome {
        let first = cursor.space();
        match member.target {
            Target::Column(index) => {
                let Some(column) = self.columns.get_mut(index) else { return Ok(()) };
                if column.len() > self.row {
                    return Err(duplicate(node, member));
                }
                if first == b'n' && cursor.take(b"null") {
                    if member.required {
                        return Err(missing(node, member));
                    }
                    column.push_null();
                    return Ok(());
                }
                column.read(cursor, first, depth)
            }
            Target::Object(index) => self.nested(node, member, index, cursor, depth),
        }
    }

    fn nested(&mut self, node: &Node, member: &Member, index: usize, cursor: &mut Cursor<'_>, depth: u32) -> Outcome {
        if let Some(stamp) = self.stamps.get_mut(index) {
            if *stamp == self.stamp {
                return Err(duplicate(node, member));
            }
            *stamp = self.stamp;
        }
        match cursor.peek() {
            b'{' => self.object(index, cursor, depth + 1),
            b'n' if cursor.take(b"null") => {
                if member.required {
                    return Err(missing(node, member));
                }
                self.absent(index);
                Ok(())
            }
            first => Err(Stop::refused(
                code::WRONG_TYPE,
                &node.path_of(member),
                format_args!("expected an object, found {}", super::column::kind(first)),
            )),
        }
    }

    /// Fills what an object did not bring.
    #[inline]
    fn close(&mut self, node: &'d Node) -> Outcome {
        for member in &node.members {
            match member.target {
                Target::Column(index) => {
                    let Some(column) = self.columns.get_mut(index) else { continue };
                    if column.len() == self.row {
                        if member.required {
                            return Err(missing(node, member));
                        }
                        column.push_null();
                    }
                }
                Target::Object(index) => {
                    if self.stamps.get(index) != Some(&self.stamp) {
                        if member.required {
                            return Err(missing(node, member));
                        }
                        self.absent(index);
                    }
                }
            }
        }
        Ok(())
    }

    /// Nulls for all fields of an object that is not there.
    fn absent(&mut self, index: usize) {
        let Some(node) = self.plan.get(index) else { return };
        for member in &node.members {
            match member.target {
                Target::Column(index) => {
                    if let Some(column) = self.columns.get_mut(index) {
                        column.push_null();
                    }
                }
                Target::Object(index) => self.absent(index),
            }
        }
    }
}

impl Node {
    fn path_of(&self, member: &Member) -> String {
        self.join(&String::from_utf8_lossy(&member.name))
    }

    fn join(&self, name: &str) -> String {
        let mut path = self.path.clone();
        if !path.is_empty() {
            path.push('.');
        }
        let _infallible = write!(path, "{name}");
        path
    }
}

#[cold]
fn missing(node: &Node, member: &Member) -> Stop {
    Stop::refused(code::MISSING_FIELD, &node.path_of(member), "required, but missing or null")
}

#[cold]
fn duplicate(node: &Node, member: &Member) -> Stop {
    Stop::refused(code::DUPLICATE_FIELD, &node.path_of(member), "stands twice")
}

/// The name is the producer's: cut and made safe to show.
#[cold]
fn undeclared(node: &Node, name: &str) -> Stop {
    let path = node.join(&escape(bounded(name, 100)));
    Stop::refused(code::UNDECLARED_FIELD, &path, "not declared in the contract")
}
