//! Files in a local folder, written so that a crash leaves all of a file or nothing.
//!
//! A file is written under a temporary name beside its place, synced, renamed, and its folder is synced; no file is ever written
//! over. A failure leaves nothing behind; only a killed process leaves a temporary file, which the removal of orphans finds.
//! All of it happens on threads that may block.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use iceberg::io::{FileMetadata, FileRead, FileWrite, InputFile, OutputFile, Storage};
use iceberg::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use tokio::task::spawn_blocking;

use super::path_of;

/// Local files.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Local;

fn path(address: &str) -> Result<PathBuf> {
    let found = path_of(address).map(PathBuf::from);
    found.ok_or_else(|| Error::new(ErrorKind::DataInvalid, format!("{address} is no file of this machine")))
}

fn failed(doing: &str, path: &Path, error: io::Error) -> Error {
    let kind = if error.kind() == io::ErrorKind::NotFound { ErrorKind::DataInvalid } else { ErrorKind::Unexpected };
    Error::new(kind, format!("{doing} {}: {error}", path.display())).with_source(error)
}

/// Does something that blocks, on a thread for that.
async fn block<T: Send + 'static>(
    doing: &'static str,
    path: PathBuf,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let outcome = spawn_blocking(move || work(&path).map_err(|error| failed(doing, &path, error))).await;
    outcome.map_err(|error| Error::new(ErrorKind::Unexpected, doing).with_source(error))?
}

/// Makes a folder and those above it, and syncs every folder that got a new entry.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    make_folder(above)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_folder(above),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A file that is not at its place yet, and is removed when it is dropped before.
fn begin(path: &Path) -> io::Result<NamedTempFile> {
    let folder = path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    make_folder(folder)?;
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(path.file_name().unwrap_or_default());
    // Other engines may run as other users: the umask decides who reads.
    let permissions = Permissions::from_mode(0o666);
    tempfile::Builder::new().prefix(&prefix).suffix(".tmp").permissions(permissions).tempfile_in(folder)
}

/// Puts a file at its place for good.
fn finish(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    let synced = path.parent().map_or(Ok(()), sync_folder);
    if synced.is_err() {
        // Whoever wrote it is told that it is not there.
        drop(fs::remove_file(path));
    }
    synced
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

#[async_trait]
#[typetag::serde(name = "PhronisLocalStorage")]
impl Storage for Local {
    async fn exists(&self, address: &str) -> Result<bool> {
        block("looking for", path(address)?, |path| path.try_exists()).await
    }

    async fn metadata(&self, address: &str) -> Result<FileMetadata> {
        let size = block("looking at", path(address)?, |path| fs::metadata(path).map(|found| found.len())).await?;
        Ok(FileMetadata { size })
    }

    async fn read(&self, address: &str) -> Result<Bytes> {
        block("reading", path(address)?, |path| fs::read(path)).await.map(Bytes::from)
    }

    async fn reader(&self, address: &str) -> Result<Box<dyn FileRead>> {
        let path = path(address)?;
        let file = block("opening", path.clone(), |path| File::open(path)).await?;
        Ok(Box::new(Reader { file: Arc::new(file), path }))
    }

    async fn write(&self, address: &str, bytes: Bytes) -> Result<()> {
        let put = move |path: &Path| {
            let mut file = begin(path)?;
            file.write_all(&bytes)?;
            finish(file, path)
        };
        block("writing", path(address)?, put).await
    }

    async fn writer(&self, address: &str) -> Result<Box<dyn FileWrite>> {
        let path = path(address)?;
        let file = block("making", path.clone(), begin).await?;
        Ok(Box::new(Writer { file: Some(file), path }))
    }

    async fn delete(&self, address: &str) -> Result<()> {
        block("deleting", path(address)?, remove).await
    }

    async fn delete_prefix(&self, address: &str) -> Result<()> {
        let remove_all = |path: &Path| match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        };
        block("deleting", path(address)?, remove_all).await
    }

    async fn delete_stream(&self, mut addresses: BoxStream<'static, String>) -> Result<()> {
        while let Some(address) = addresses.next().await {
            self.delete(&address).await?;
        }
        Ok(())
    }

    fn new_input(&self, address: &str) -> Result<InputFile> {
        Ok(InputFile::new(Arc::new(*self), address.to_owned()))
    }

    fn new_output(&self, address: &str) -> Result<OutputFile> {
        Ok(OutputFile::new(Arc::new(*self), address.to_owned()))
    }
}

#[derive(Debug)]
struct Reader {
    file: Arc<File>,
    path: PathBuf,
}

#[async_trait]
impl FileRead for Reader {
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let file = Arc::clone(&self.file);
        let read = move |_: &Path| {
            let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, range.start)?;
            Ok(Bytes::from(bytes))
        };
        block("reading", self.path.clone(), read).await
    }
}

/// A file under way. Dropped before it is closed, or failed once, it leaves nothing.
#[derive(Debug)]
struct Writer {
    file: Option<NamedTempFile>,
    path: PathBuf,
}

impl Writer {
    fn take(&mut self) -> Result<NamedTempFile> {
        let closed = || Error::new(ErrorKind::DataInvalid, format!("{} is closed", self.path.display()));
        self.file.take().ok_or_else(closed)
    }
}

#[async_trait]
impl FileWrite for Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let mut file = self.take()?;
        let put = move |_: &Path| file.write_all(&bytes).map(|()| file);
        self.file = Some(block("writing", self.path.clone(), put).await?);
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        let file = self.take()?;
        block("writing", self.path.clone(), move |path| finish(file, path)).await
    }
}

#[cfg(test)]
#[path = "local/tests.rs"]
mod tests;
