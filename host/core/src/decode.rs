//! The gate: each record's JSON is read once, straight into typed columns, and held against the contract on the way.
//!
//! This is the hot path of the host. What makes it fast: no tree, no allocation an event, member names guessed from
//! the event before, UTF-8 checked a batch at a time. A refused record leaves no trace in the columns.

use std::fmt;
use std::sync::Arc;

use arrow_array::BinaryArray;

use crate::code::{self, Code};
use crate::contract::{Contract, Undeclared};
use crate::events::Events;
use crate::json::cursor::{Cursor, Fault, MAX_DEPTH};
use crate::records::Records;
use crate::text::bounded;

mod column;
mod plan;

use column::Column;
use plan::{Node, Walk};

/// Longest message of a rejection, in bytes: it becomes a header and a line on a screen.
const MESSAGE_BYTES: usize = 512;

/// Turns records into events by a contract.
///
/// Keeps what it learnt of the order of fields, so use one for many batches; making one is cheap.
#[derive(Debug)]
pub struct Decoder {
    contract: Arc<Contract>,
    plan: Vec<Node>,
    guesses: Vec<u16>,
    stamps: Vec<u64>,
    stamp: u64,
    columns: Vec<Column>,
}

/// A batch after the gate: every record is either an event or a rejection.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The records as they came.
    pub records: Records,
    /// Those that fit the contract.
    pub events: Events,
    /// Those that do not, by row.
    pub rejected: Vec<Rejection>,
}

/// Why a record is no event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Which of the records.
    pub row: u32,
    /// What is wrong.
    pub code: Code,
    /// Path of the field, where it is about one.
    pub field: Option<String>,
    /// What was expected, for a person. Never a part of the record's value.
    pub message: String,
}

/// Why reading a record stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    Fault(Fault),
    Refused(Box<Refused>),
}

#[derive(Debug)]
pub(crate) struct Refused {
    code: Code,
    field: Option<String>,
    message: String,
}

pub(crate) type Outcome<T = ()> = Result<T, Stop>;

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Stop {
    #[cold]
    pub(crate) fn refused(code: Code, field: &str, what: impl fmt::Display) -> Self {
        let message = format!("field `{field}`: {what}");
        Self::Refused(Box::new(Refused { code, field: Some(field.to_owned()), message }))
    }
}

impl Decoder {
    /// A decoder for events of this contract.
    pub fn new(contract: Arc<Contract>) -> Self {
        let (plan, guesses) = plan::of(&contract);
        let columns = contract.fields().iter().map(Column::new).collect();
        Self { stamps: vec![0; plan.len()], contract, plan, guesses, stamp: 0, columns }
    }

    /// The contract.
    pub fn contract(&self) -> &Arc<Contract> {
        &self.contract
    }

    /// Checks a batch: each record becomes an event or a rejection.
    pub fn check(&mut self, records: Records) -> Checked {
        let count = records.len();
        let mut rows = Vec::with_capacity(count);
        let mut undeclared = Vec::with_capacity(count);
        let mut rejected = Vec::new();
        let is_utf8 = is_utf8(&records.body.values);
        for column in &mut self.columns {
            column.reserve(count);
        }
        // A batch never has 2^32 records: Arrow's offsets end at 2^31.
        for (row, number) in (0..count).zip(0_u32..) {
            let value = records.body.value(row).unwrap_or_default();
            match self.row(value, rows.len(), is_utf8) {
                Ok(has_undeclared) => {
                    rows.push(number);
                    undeclared.push(has_undeclared);
                }
                Err(refused) => {
                    for column in &mut self.columns {
                        column.truncate(rows.len());
                    }
                    rejected.push(refused.rejection(number));
                }
            }
        }
        let columns = self.columns.iter_mut().map(Column::finish).collect();
        let events = Events::new(Arc::clone(&self.contract), &records, rows, columns, undeclared);
        Checked { records, events, rejected }
    }

    /// Reads one record into row `row` of the columns; says whether it has fields that the contract does not name.
    #[inline]
    fn row(&mut self, value: &[u8], row: usize, is_utf8: bool) -> Result<bool, Box<Refused>> {
        if value.len() > self.contract.max_bytes() {
            let (has, allows) = (value.len(), self.contract.max_bytes());
            return whole(code::TOO_LARGE, format!("the value has {has} bytes, the contract allows {allows}"));
        }
        if value.is_empty() {
            return whole(code::EMPTY_VALUE, "the record has no value".into());
        }
        if !is_utf8 && let Err(error) = str::from_utf8(value) {
            return whole(code::NOT_UTF8, format!("not UTF-8 at byte {}", error.valid_up_to()));
        }
        self.stamp += 1;
        let mut walk = Walk {
            plan: &self.plan,
            guesses: &mut self.guesses,
            stamps: &mut self.stamps,
            stamp: self.stamp,
            columns: &mut self.columns,
            row,
            refuses_undeclared: self.contract.undeclared() == Undeclared::Refuse,
            has_undeclared: false,
        };
        let mut cursor = Cursor::new(value);
        match walk.event(&mut cursor) {
            Ok(()) => Ok(walk.has_undeclared),
            Err(stop) => Err(explain(stop, value)),
        }
    }
}

/// Says what is wrong with a record. A record that is no JSON is that first, whatever else was seen before.
#[cold]
fn explain(stop: Stop, value: &[u8]) -> Box<Refused> {
    let mut cursor = Cursor::new(value);
    if cursor.space() == 0 && cursor.end().is_ok() {
        return refused(code::EMPTY_VALUE, "the value is only white space".into());
    }
    let syntax = cursor.skip(0).and_then(|()| cursor.end()).err();
    match (syntax, stop) {
        (Some(Fault::TooDeep), _) | (None, Stop::Fault(Fault::TooDeep)) => {
            refused(code::TOO_DEEP, format!("nested deeper than {MAX_DEPTH} levels"))
        }
        (Some(Fault::Syntax(at)), _) if at >= value.len() => {
            refused(code::NOT_JSON, format!("the JSON ends too early, after {} bytes", value.len()))
        }
        (Some(Fault::Syntax(at)), _) => refused(code::NOT_JSON, format!("not JSON at byte {at}")),
        (None, Stop::Refused(refused)) => refused,
        (None, Stop::Fault(Fault::Syntax(_))) => refused(code::NOT_JSON, "the value is JSON, but not an object".into()),
    }
}

fn refused(code: Code, message: String) -> Box<Refused> {
    Box::new(Refused { code, field: None, message })
}

#[cold]
fn whole<T>(code: Code, message: String) -> Result<T, Box<Refused>> {
    Err(refused(code, message))
}

impl Refused {
    fn rejection(self, row: u32) -> Rejection {
        let message = bounded(&self.message, MESSAGE_BYTES).to_owned();
        let field = self.field.map(|field| bounded(&field, MESSAGE_BYTES).to_owned());
        Rejection { row, code: self.code, field, message }
    }
}

/// Whether every value is UTF-8, in one sweep: the bytes as a whole are, and no value begins within a character.
fn is_utf8(values: &BinaryArray) -> bool {
    let offsets = values.value_offsets();
    let (Some(first), Some(last)) = (offsets.first(), offsets.last()) else { return true };
    let (Ok(first), Ok(last)) = (usize::try_from(*first), usize::try_from(*last)) else { return false };
    let Some(Ok(text)) = values.value_data().get(first..last).map(str::from_utf8) else { return false };
    text.is_ascii()
        || offsets
            .iter()
            .all(|&offset| usize::try_from(offset).is_ok_and(|offset| text.is_char_boundary(offset - first)))
}

#[cfg(test)]
mod tests;
