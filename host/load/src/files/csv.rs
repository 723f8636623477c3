//! CSV: a header, then records that become JSON by the types of their columns.
//!
//! The bytes of the current record are kept beside the parser, because a record that does not fit
//! is handed on in its original text.

use std::{
    io::{self, BufRead, Read},
    path::Path,
};

use csv::{ByteRecord, Reader, ReaderBuilder};

use super::{
    Fault, Found, ROW_LIMIT,
    columns::{ColumnTypes, Origin, Shape},
    mapping::Edits,
    source::Input,
    text::{is_json_number, write_text},
};
use crate::Error;

/// Bytes that the parser takes at once; the copy beside it is as large.
const BUFFER: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Csv {
    reader: Reader<Tee>,
    record: ByteRecord,
    shape: Shape,
    columns: usize,
}

impl Csv {
    /// Reads the header.
    pub(super) fn new(path: &Path, mut input: Input, types: &ColumnTypes, edits: &Edits) -> Result<Self, Error> {
        let start = input.fill_buf().map_err(|source| Error::Open { path: path.to_owned(), source })?;
        let delimiter = delimiter_of(start);
        let tee = Tee { input, kept: Vec::new(), base: 0, done: 0 };
        let mut reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(delimiter)
            .buffer_capacity(BUFFER)
            .from_reader(tee);
        let mut header = ByteRecord::new();
        reader
            .read_byte_record(&mut header)
            .map_err(|error| Error::Open { path: path.to_owned(), source: io_error(error) })?;
        let shape =
            shape_of(&header, types, edits).map_err(|reason| Error::Header { path: path.to_owned(), reason })?;
        let end = reader.position().byte();
        reader.get_mut().done = end;
        Ok(Self { reader, record: ByteRecord::new(), shape, columns: header.len() })
    }

    pub(super) fn next_row(&mut self, is_skipped: bool) -> Result<Option<Found>, Fault> {
        loop {
            let start = self.reader.position().clone();
            if !self.reader.read_byte_record(&mut self.record).map_err(fault_of)? {
                return Ok(None);
            }
            let end = self.reader.position().byte();
            let tee = self.reader.get_mut();
            let raw = tee.between(start.byte(), end);
            // Blank lines, and the second half of a CRLF, belong to the parser's next record.
            let breaks = raw.iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
            let line = start.line() + breaks.filter(|&&byte| byte == b'\n').count() as u64;
            let is_blank = raw.trim_ascii().is_empty();
            let mut found = Found { line, bytes: Vec::new(), problem: None };
            if is_skipped || is_blank {
            } else if self.record.len() == self.columns {
                found.bytes.reserve(raw.len() * 2 + self.columns * 8);
                self.shape.write(&mut found.bytes, &self.record);
            } else {
                found.bytes = as_one_row(raw);
                found.problem = Some(format!("{} columns where the header has {}", self.record.len(), self.columns));
            }
            tee.done = end;
            if !is_blank {
                return Ok(Some(found));
            }
        }
    }
}

/// The bytes of the current record and of what was read ahead.
#[derive(Debug)]
struct Tee {
    input: Input,
    kept: Vec<u8>,
    /// Where in the input the kept bytes begin.
    base: u64,
    /// Up to where nobody looks back.
    done: u64,
}

impl Tee {
    fn between(&self, start: u64, end: u64) -> &[u8] {
        let within = |at: u64| usize::try_from(at.saturating_sub(self.base)).unwrap_or(usize::MAX);
        self.kept.get(within(start)..within(end)).unwrap_or_default()
    }
}

impl Read for Tee {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.input.read(buffer)?;
        let past = usize::try_from(self.done.saturating_sub(self.base)).unwrap_or(usize::MAX).min(self.kept.len());
        self.kept.drain(..past);
        self.base += past as u64;
        self.kept.extend_from_slice(buffer.get(..bytes).unwrap_or_default());
        if self.kept.len() > ROW_LIMIT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(bytes)
    }
}

fn io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(source) => source,
        other => io::Error::other(format!("{other:?}")),
    }
}

fn fault_of(error: csv::Error) -> Fault {
    let source = io_error(error);
    if source.kind() == io::ErrorKind::FileTooLarge { Fault::TooLarge } else { Fault::Io(source) }
}

/// A refused record in its own text, or as a JSON string when it has several lines.
fn as_one_row(raw: &[u8]) -> Vec<u8> {
    let is_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let start = raw.iter().position(|byte| !is_end(byte)).unwrap_or(raw.len());
    let end = raw.iter().rposition(|byte| !is_end(byte)).map_or(start, |last| last + 1);
    let raw = raw.get(start..end).unwrap_or_default();
    if !raw.contains(&b'\n') {
        return raw.to_vec();
    }
    let mut out = Vec::with_capacity(raw.len() + 16);
    write_text(&mut out, raw);
    out
}

/// What separates the names in the first line; a comma where nothing does.
fn delimiter_of(start: &[u8]) -> u8 {
    let line = start.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let mut counts = [(b',', 0_usize), (b';', 0), (b'\t', 0)];
    let mut is_quoted = false;
    for byte in line {
        is_quoted ^= *byte == b'"';
        for (delimiter, count) in &mut counts {
            *count += usize::from(!is_quoted && delimiter == byte);
        }
    }
    counts.into_iter().rev().max_by_key(|&(_, count)| count).map_or(b',', |(delimiter, _)| delimiter)
}

fn shape_of(header: &ByteRecord, types: &ColumnTypes, edits: &Edits) -> Result<Shape, String> {
    let mut names = Vec::new();
    for (index, name) in header.iter().enumerate() {
        let name = std::str::from_utf8(name.trim_ascii()).map_err(|_| format!("name {} is not UTF-8", index + 1))?;
        if is_json_number(name.as_bytes()) {
            return Err(format!("`{name}` is a number, not a name"));
        }
        if name.starts_with('{') {
            return Err("it looks like JSON".to_owned());
        }
        // Index columns of data frames have no name.
        names.push(if name.is_empty() { format!("column_{}", index + 1) } else { name.to_owned() });
    }
    if let Some(missing) = edits.old_names().find(|&old| !names.iter().any(|name| name == old)) {
        return Err(format!("there is no column `{missing}` to rename"));
    }
    let mut shape = Shape::default();
    for (index, name) in names.iter().enumerate() {
        let name = edits.name_of(name);
        if !edits.constants.iter().any(|(constant, _)| constant == name) {
            shape.add(name, Origin::Cell(index, types.get(name)))?;
        }
    }
    for (name, json) in &edits.constants {
        shape.add(name, Origin::Constant(json.clone()))?;
    }
    Ok(shape)
}
