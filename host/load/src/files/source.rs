//! Opens an input: stdin or a file, gzip or plain, with a count of the bytes consumed, and finds out its format.

use std::{
    fmt,
    io::{self, BufRead, BufReader, Cursor, Read, Seek},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use flate2::read::MultiGzDecoder;
use serde::de::IgnoredAny;

use super::Format;
use crate::Error;

/// Bytes read at once. Larger reads make progress bars jump and gain nothing measurable.
const BUFFER: usize = 256 << 10;

/// Bytes that decide the format: enough for a long first line.
const HEAD: u64 = 64 << 10;

/// How far the (compressed) input was consumed; shared with the reader that moves it.
#[derive(Debug, Clone, Default)]
pub(super) struct Position(Arc<AtomicU64>);

impl Position {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A decompressed input.
pub(super) struct Input(BufReader<Box<dyn Read + Send>>);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Input")
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        // BufReader hands interruptions on; they mean nothing here.
        while let Err(error) = self.0.fill_buf() {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(self.0.buffer())
    }

    fn consume(&mut self, bytes: usize) {
        self.0.consume(bytes);
    }
}

/// An opened input and what is known of it.
pub(super) struct Opened {
    pub(super) input: Input,
    pub(super) format: Format,
    pub(super) position: Position,
    pub(super) total_bytes: Option<u64>,
    is_gzip: bool,
}

/// Opens `path` (`-`: stdin) and drops a byte order mark.
pub(super) fn open(path: &Path, format: Option<Format>) -> Result<Opened, Error> {
    let fail = |source| Error::Open { path: path.to_owned(), source };
    let (raw, total_bytes): (Box<dyn Read + Send>, _) = if path.as_os_str() == "-" {
        (Box::new(io::stdin()), None)
    } else {
        let file = std::fs::File::open(path).map_err(fail)?;
        let about = file.metadata().map_err(fail)?;
        if about.is_dir() {
            return Err(fail(io::ErrorKind::IsADirectory.into()));
        }
        (Box::new(file), about.is_file().then_some(about.len()))
    };
    let position = Position::default();
    let counted = Counted { raw, position: position.clone() };
    let (magic, counted) = peek(counted, 2);
    let is_gzip = magic == [0x1f, 0x8b];
    let plain: Box<dyn Read + Send> = if is_gzip {
        Box::new(MultiGzDecoder::new(BufReader::with_capacity(BUFFER, counted)))
    } else {
        Box::new(counted)
    };
    let (mut head, rest) = peek(plain, HEAD);
    let mut input = Input(BufReader::with_capacity(BUFFER, Box::new(rest)));
    if head.starts_with(b"\xef\xbb\xbf") {
        head.drain(..3);
        io::copy(&mut input.by_ref().take(3), &mut io::sink()).map_err(fail)?;
    }
    if head.trim_ascii().is_empty() && (head.len() as u64) < HEAD {
        input.fill_buf().map_err(fail)?;
        return Err(Error::Empty { path: path.to_owned() });
    }
    let format = match format {
        Some(format) => format,
        None => guess(path, &head).map_err(|what| Error::UnknownFormat { path: path.to_owned(), what })?,
    };
    Ok(Opened { input, format, position, total_bytes, is_gzip })
}

impl Opened {
    /// The content as a file that can be read in any order: itself, or a copy that has no name.
    pub(super) fn into_file(mut self, path: &Path) -> Result<std::fs::File, Error> {
        let fail = |source| Error::Open { path: path.to_owned(), source };
        if self.total_bytes.is_some() && !self.is_gzip {
            return std::fs::File::open(path).map_err(fail);
        }
        let mut copy = tempfile::tempfile().map_err(fail)?;
        io::copy(&mut self.input, &mut copy).map_err(fail)?;
        copy.rewind().map_err(fail)?;
        Ok(copy)
    }
}

/// The format by content where that is clear, else by name, else by the first line.
fn guess(path: &Path, head: &[u8]) -> Result<Format, &'static str> {
    let start = head.trim_ascii_start();
    if head.starts_with(b"PAR1") {
        return Ok(Format::Parquet);
    }
    if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
        return Err("text in UTF-16, which must become UTF-8");
    }
    if head.starts_with(b"PK\x03\x04") || head.starts_with(b"\x28\xb5\x2f\xfd") || head.starts_with(b"BZh") {
        return Err("compressed with something else than gzip, or a spreadsheet");
    }
    match by_name(path) {
        Some(Format::Parquet) => Err("not Parquet, though its name says so"),
        Some(Format::Csv) => Ok(Format::Csv),
        Some(_) if start.starts_with(b"[") => Ok(Format::Json),
        // Lines survive a broken event better than brackets do, so they are taken where they fit.
        Some(_) if is_event_a_line(start) => Ok(Format::Ndjson),
        Some(by_name) => Ok(by_name),
        None if head.contains(&0) => Err("binary"),
        None if start.starts_with(b"[") => Ok(Format::Json),
        None if is_event_a_line(start) => Ok(Format::Ndjson),
        None if start.starts_with(b"{") => Ok(Format::Json),
        None => Ok(Format::Csv),
    }
}

fn by_name(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    name.rsplit_once('.')?.1.parse().ok()
}

fn is_event_a_line(start: &[u8]) -> bool {
    let line = start.split(|&byte| byte == b'\n').next().unwrap_or_default();
    start.starts_with(b"{") && serde_json::from_slice::<IgnoredAny>(line).is_ok()
}

/// The first bytes of an input, and the input as if nothing had been read.
/// A failure on the way comes up again where it happened, behind the good bytes.
fn peek<R: Read>(mut input: R, bytes: u64) -> (Vec<u8>, impl Read) {
    let mut head = Vec::new();
    let failure = input.by_ref().take(bytes).read_to_end(&mut head).err();
    (head.clone(), Cursor::new(head).chain(Peeked { failure, input }))
}

struct Peeked<R> {
    failure: Option<io::Error>,
    input: R,
}

impl<R: Read> Read for Peeked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.failure.take() {
            Some(failure) => Err(failure),
            None => self.input.read(buffer),
        }
    }
}

struct Counted {
    raw: Box<dyn Read + Send>,
    position: Position,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.raw.read(buffer)?;
        self.position.0.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}
