//! Where an interrupted load goes on: which file it was, and how many of its rows the host has taken.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};

use crate::Error;

/// Bytes that tell one file from another of the same size and age.
const HEAD: u64 = 64 << 10;

/// The progress of a load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    file: Identity,
    /// Rows from the beginning of the file that the host has acknowledged.
    pub rows: u64,
}

/// What makes a file the same file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    bytes: u64,
    modified_ns: u128,
    head: String,
}

impl Resume {
    /// The beginning of a load of the file, or nothing where it cannot be resumed (a pipe).
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn start(input: &Path) -> Result<Option<Self>, Error> {
        let fail = |source| Error::Open { path: input.to_owned(), source };
        if input.as_os_str() == "-" {
            return Ok(None);
        }
        let about = fs::metadata(input).map_err(fail)?;
        if !about.is_file() {
            return Ok(None);
        }
        let modified = about.modified().map_err(fail)?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut head = Vec::new();
        fs::File::open(input).map_err(fail)?.take(HEAD).read_to_end(&mut head).map_err(fail)?;
        let head = blake3::hash(&head).to_hex().to_string();
        Ok(Some(Self { file: Identity { bytes: about.len(), modified_ns: modified.as_nanos(), head }, rows: 0 }))
    }

    /// Where the progress of loading `input` into `stream` is kept, inside `folder`.
    ///
    /// # Errors
    /// When the path of the input cannot be resolved.
    pub fn path(folder: &Path, input: &Path, stream: &str) -> Result<PathBuf, Error> {
        let whole = fs::canonicalize(input).map_err(|source| Error::Open { path: input.to_owned(), source })?;
        let mut name = blake3::Hasher::new();
        name.update(stream.as_bytes()).update(b"\n").update(whole.as_os_str().as_encoded_bytes());
        Ok(folder.join(format!("{}.json", name.finalize().to_hex())))
    }

    /// The progress kept at `path`, if it is of the same, unchanged file as `self`.
    /// A note that cannot be understood counts as none.
    ///
    /// # Errors
    /// When the note exists and cannot be read.
    pub fn load(self, path: &Path) -> Result<Option<Self>, Error> {
        match fs::read(path) {
            Ok(text) => Ok(serde_json::from_slice::<Self>(&text).ok().filter(|kept| kept.file == self.file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Resume { path: path.to_owned(), source }),
        }
    }

    /// Keeps the progress at `path`: the old note or the new one, never half of one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let write = || {
            let folder = match path.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder,
                _ => Path::new("."),
            };
            fs::create_dir_all(folder)?;
            let mut draft = tempfile::NamedTempFile::new_in(folder)?;
            draft.write_all(&serde_json::to_vec(self)?)?;
            draft.as_file().sync_all()?;
            draft.persist(path)?;
            fs::File::open(folder)?.sync_all()
        };
        write().map_err(|source| Error::Resume { path: path.to_owned(), source })
    }

    /// Forgets the progress, after the last row was acknowledged.
    ///
    /// # Errors
    /// When the note exists and cannot be removed.
    pub fn forget(path: &Path) -> Result<(), Error> {
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::Resume { path: path.to_owned(), source })
            }
            _ => Ok(()),
        }
    }
}
