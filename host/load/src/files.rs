//! Files of any supported format as rows of JSON text.
//!
//! One reader a format splits the input; this file only opens, counts and names positions.
//! Memory is bounded by the largest row, whatever the size of the file.

mod columns;
mod csv;
mod json;
mod lines;
mod mapping;
mod object;
mod parquet;
mod source;
mod text;

use std::{
    io,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::Error;

pub use columns::ColumnTypes;
pub use mapping::Mapping;

/// The largest row that is taken in, in bytes. Hosts take 1 MiB by default;
/// past this limit it is a missing quote, not an event.
pub const ROW_LIMIT: usize = 16 << 20;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A header, then a row a line (or more, inside quotes). Separated by commas, semicolons or tabs.
    Csv,
    /// An array of objects, one object, or objects one after the other.
    Json,
    /// An object a line.
    Ndjson,
    /// Apache Parquet.
    Parquet,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name.to_ascii_lowercase().as_str() {
            "csv" | "tsv" => Ok(Self::Csv),
            "json" => Ok(Self::Json),
            "ndjson" | "jsonl" => Ok(Self::Ndjson),
            "parquet" | "pq" => Ok(Self::Parquet),
            _ => Err(format!("`{name}` is not a format; there are csv, json, ndjson and parquet")),
        }
    }
}

/// One row of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Where it stands, from 1: the line of its beginning in CSV and NDJSON, the number of the row in JSON and Parquet.
    pub line: u64,
    /// Bytes of the (compressed) input consumed so far, for a progress bar.
    pub position: u64,
    /// The event as JSON text without a line break, or what stands in the file when it is not one.
    pub bytes: Vec<u8>,
    /// Why it cannot be an event. `bytes` then holds the original text, which the gate refuses and keeps.
    /// A text over several lines is given as one JSON string, so that it stays one row.
    pub problem: Option<String>,
}

/// Opens files.
#[derive(Debug, Clone, Copy)]
pub struct File;

impl File {
    /// Opens a file (`-` is stdin) and looks at its beginning. Without a format, its name or its content decides.
    ///
    /// # Errors
    /// When it cannot be opened, is empty, is of an unknown format or has no usable header.
    pub fn open(path: &Path, format: Option<Format>, columns: &ColumnTypes) -> Result<Rows, Error> {
        Self::open_mapped(path, format, columns, &Mapping::default())
    }

    /// Opens a file as [`File::open`] does, and renames columns and adds constants on the way.
    ///
    /// # Errors
    /// As [`File::open`], and when the mapping is not usable for the file.
    pub fn open_mapped(
        path: &Path,
        format: Option<Format>,
        columns: &ColumnTypes,
        mapping: &Mapping,
    ) -> Result<Rows, Error> {
        let opened = source::open(path, format)?;
        let edits = mapping.resolve(path, columns)?;
        let (format, position, total_bytes) = (opened.format, opened.position.clone(), opened.total_bytes);
        let reader = match format {
            Format::Ndjson => Reader::Lines(lines::Lines::new(opened.input)),
            Format::Json => Reader::Json(json::Json::new(opened.input)),
            Format::Csv => Reader::Csv(Box::new(csv::Csv::new(path, opened.input, columns, &edits)?)),
            Format::Parquet => Reader::Parquet(Box::new(parquet::Parquet::open(path, opened.into_file(path)?)?)),
        };
        Ok(Rows { path: path.to_owned(), format, reader, edits, position, total_bytes, line: 0, is_over: false })
    }
}

/// The rows of an open file. Ends after the first error; what came before it stays good.
#[derive(Debug)]
pub struct Rows {
    path: PathBuf,
    format: Format,
    reader: Reader,
    edits: mapping::Edits,
    position: source::Position,
    total_bytes: Option<u64>,
    line: u64,
    is_over: bool,
}

impl Rows {
    /// How the file is written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Size of the input in bytes, compressed if it is; unknown for a pipe.
    pub fn total_bytes(&self) -> Option<u64> {
        self.total_bytes
    }

    /// Bytes of the (compressed) input consumed so far.
    pub fn consumed_bytes(&self) -> u64 {
        match &self.reader {
            Reader::Parquet(parquet) => parquet.share_of(self.total_bytes.unwrap_or(0)),
            _ => self.position.get(),
        }
    }

    /// Leaves out up to `rows` rows, to go on after an interruption. Says how many there were.
    ///
    /// # Errors
    /// When the file cannot be read so far.
    pub fn skip_rows(&mut self, rows: u64) -> Result<u64, Error> {
        for skipped in 0..rows {
            match self.reader.next_row(true) {
                Ok(Some(found)) => self.line = found.line,
                Ok(None) => return Ok(skipped),
                Err(fault) => return Err(self.name(fault)),
            }
        }
        Ok(rows)
    }

    fn name(&mut self, fault: Fault) -> Error {
        self.is_over = true;
        let (path, line, position) = (self.path.clone(), self.line, self.consumed_bytes());
        match fault {
            Fault::Truncated(what) => Error::Truncated { path, line, position, what },
            Fault::TooLarge => Error::RowTooLarge { path, line, limit: ROW_LIMIT },
            Fault::Io(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
                Error::Truncated { path, line, position, what: "its data" }
            }
            Fault::Io(source) => Error::Read { path, line, position, source },
        }
    }
}

impl Iterator for Rows {
    type Item = Result<Row, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let found = match self.reader.next_row(false) {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.is_over = true;
                // A file that lost its end while it was read looks like one that ends.
                let (seen, expected) = (self.position.get(), self.total_bytes.unwrap_or(0));
                let is_short = seen < expected && self.format != Format::Parquet;
                return is_short.then(|| Err(self.name(Fault::Truncated("its data"))));
            }
            Err(fault) => return Some(Err(self.name(fault))),
        };
        self.line = found.line;
        let bytes = match self.format {
            Format::Csv => found.bytes,
            _ => self.edits.apply(found.bytes),
        };
        Some(Ok(Row { line: found.line, position: self.consumed_bytes(), bytes, problem: found.problem }))
    }
}

/// What a format's reader finds.
#[derive(Debug)]
struct Found {
    line: u64,
    bytes: Vec<u8>,
    problem: Option<String>,
}

/// Why a format's reader cannot go on.
#[derive(Debug)]
enum Fault {
    Io(io::Error),
    Truncated(&'static str),
    TooLarge,
}

impl From<io::Error> for Fault {
    fn from(source: io::Error) -> Self {
        Self::Io(source)
    }
}

#[derive(Debug)]
enum Reader {
    Lines(lines::Lines),
    Json(json::Json),
    Csv(Box<csv::Csv>),
    Parquet(Box<parquet::Parquet>),
}

impl Reader {
    /// The next row; `is_skipped` says that nobody will look at its bytes.
    fn next_row(&mut self, is_skipped: bool) -> Result<Option<Found>, Fault> {
        match self {
            Self::Lines(lines) => lines.next_row(),
            Self::Json(json) => json.next_row(),
            Self::Csv(csv) => csv.next_row(is_skipped),
            Self::Parquet(parquet) => parquet.next_row(is_skipped),
        }
    }
}
