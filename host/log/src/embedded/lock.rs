//! The lock that keeps a second host out of a log's folder.
//!
//! An advisory `flock`, which the kernel releases when the process ends, however it ends.
//! What stands in the file is only for the person who reads the error.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::{Error, Result};

/// Held as long as the log is open.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock and writes who holds it since when.
    pub(super) fn take(folder: &Path, now_ms: i64) -> Result<Self> {
        let path = folder.join("lock");
        let failed = |source: io::Error| Error::Failed {
            doing: format!("locking {}", path.display()),
            source: std::sync::Arc::new(source),
        };
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                file.take(200).read_to_string(&mut holder).map_err(failed)?;
                let holder = if holder.trim().is_empty() { "unknown" } else { holder.trim() };
                return Err(Error::Locked { path: folder.to_owned(), holder: holder.to_owned() });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        let since = jiff::Timestamp::from_millisecond(now_ms).unwrap_or_default();
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        // A full disk must not keep the log from being opened (to be read, or to be freed by retention).
        if let Err(error) = writeln!(file, "pid {}, since {since}", std::process::id()) {
            tracing::warn!(path = %path.display(), %error, "the lock is held, but its file could not be written");
        }
        Ok(Self { _file: file })
    }
}
