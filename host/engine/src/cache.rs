//! Compiled components on disk, by digest of the component and settings of the engine.
//!
//! Loading machine code is trusting it, so the folder must be ours alone (0700, our user), and a file is used only if
//! the hash in its name is the hash of its bytes. That guards against damage and old files; it cannot guard against
//! someone who can already write as our user.

use std::fs::{self, DirBuilder, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use wasmtime::component::Component;

use crate::error::Error;

/// Compiled components that are kept; beyond it, the oldest goes.
const MOST_FILES: usize = 512;

/// The folder of compiled components.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    settings: u64,
}

impl Cache {
    /// Takes the folder, and makes it if it is not there.
    ///
    /// # Errors
    ///
    /// When others could write to it.
    pub(crate) fn open(folder: &Path, engine: &wasmtime::Engine) -> Result<Self, Error> {
        let refuse = |reason: String| Error::Cache { path: folder.to_owned(), reason };
        if let Err(e) = DirBuilder::new().recursive(true).mode(0o700).create(folder) {
            return Err(refuse(format!("it cannot be made: {e}")));
        }
        let found = fs::symlink_metadata(folder).map_err(|e| refuse(e.to_string()))?;
        if !found.is_dir() {
            return Err(refuse("it is not a folder (a symlink is not followed): name another folder".to_owned()));
        }
        let me = rustix::process::geteuid().as_raw();
        if found.uid() != me {
            let message = format!("it belongs to user {}, we are {me}: machine code of others is not run", found.uid());
            return Err(refuse(message));
        }
        if found.mode() & 0o077 != 0 {
            let mode = found.mode() & 0o777;
            return Err(refuse(format!(
                "others can reach it (mode {mode:o}): `chmod 700` it, after deleting what is in it"
            )));
        }
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self { folder: folder.to_owned(), settings: hasher.finish() })
    }

    /// A compiled component, if there is one that fits; damaged files are deleted.
    pub(crate) fn load(&self, digest: &str, engine: &wasmtime::Engine) -> Option<Component> {
        let prefix = self.prefix(digest);
        for entry in fs::read_dir(&self.folder).ok()?.flatten() {
            let name = entry.file_name();
            let Some(sum) = name.to_str().and_then(|n| n.strip_prefix(&prefix)?.strip_suffix(".cwasm")) else {
                continue;
            };
            let path = entry.path();
            if fs::read(&path).is_ok_and(|bytes| crate::engine::digest(&bytes) == sum)
                && let Some(component) = deserialize(engine, &path)
            {
                return Some(component);
            }
            tracing::warn!(path = %path.display(), "a compiled plugin is damaged or foreign; it is compiled again");
            fs::remove_file(&path).ok();
        }
        None
    }

    /// Keeps compiled code and loads it.
    ///
    /// # Errors
    ///
    /// When the file cannot be written, or wasmtime does not take what the compile child gave.
    pub(crate) fn store(&self, digest: &str, code: &[u8], engine: &wasmtime::Engine) -> Result<Component, String> {
        let name = format!("{}{}.cwasm", self.prefix(digest), crate::engine::digest(code));
        let path = self.folder.join(&name);
        let fresh = self.folder.join(format!(".{name}.{}", std::process::id()));
        let written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh);
        // No sync: after a power cut the hash does not fit, and it is compiled again.
        let written = written.and_then(|mut file| file.write_all(code)).and_then(|()| fs::rename(&fresh, &path));
        if let Err(e) = written {
            fs::remove_file(&fresh).ok();
            return Err(format!("the compiled plugin cannot be kept in {}: {e}", self.folder.display()));
        }
        self.prune(&path);
        deserialize(engine, &path).ok_or_else(|| "wasmtime does not take the compiled code".to_owned())
    }

    fn prefix(&self, digest: &str) -> String {
        format!("{digest}-{:016x}-", self.settings)
    }

    /// Deletes the oldest files, but not the one just written. A running component keeps its mapping.
    fn prune(&self, keep: &Path) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let mut files: Vec<(SystemTime, PathBuf)> =
            entries.flatten().filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path()))).collect();
        files.sort();
        let over = files.len().saturating_sub(MOST_FILES);
        for (_, path) in files.iter().filter(|(_, path)| path != keep).take(over) {
            fs::remove_file(path).ok();
        }
    }
}

/// Maps a compiled component; its pages are shared with the page cache and loaded as they are used.
#[expect(unsafe_code, reason = "loading our own compiled cache")]
fn deserialize(engine: &wasmtime::Engine, path: &Path) -> Option<Component> {
    // SAFETY: the file was written by `Cache::store` from the output of our own compile child, or its bytes have the
    // SHA-256 that such a file has in its name. It lies in a folder that only our user can write to, and is replaced by
    // renaming, never changed in place, so that the mapping stays what was checked. wasmtime itself refuses code of
    // another version or other settings.
    unsafe { Component::deserialize_file(engine, path) }.ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn open(folder: &Path) -> Result<Cache, Error> {
        Cache::open(folder, &wasmtime::Engine::new(&crate::settings::compiling()).unwrap())
    }

    #[test]
    fn a_folder_that_others_can_reach_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("deep/cache");
        open(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(open(&folder).unwrap_err().to_string().contains("750"));
    }

    #[test]
    fn a_symlink_or_a_file_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let (real, link) = (root.path().join("real"), root.path().join("link"));
        open(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(open(&link).is_err());
        fs::write(root.path().join("file"), "").unwrap();
        assert!(open(&root.path().join("file")).is_err());
    }
}
