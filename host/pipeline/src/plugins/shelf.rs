//! The last good versions, kept on disk so that a broken file does no harm even after a restart.
//!
//! `<data>/plugins/<digest>.wasm` and an index that says which plugin ran what with which settings.
//! Both are written to a temporary name, synced and renamed: a crash leaves the old or the new, never half.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use phronis_core::PluginId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::settings::WantedLimits;

/// What ran last, and well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Good {
    pub(crate) digest: String,
    pub(crate) params: Map<String, Value>,
    pub(crate) limits: WantedLimits,
}

/// The shelf of one data folder.
#[derive(Debug)]
pub(crate) struct Shelf {
    dir: PathBuf,
    index: BTreeMap<PluginId, Good>,
}

impl Shelf {
    /// Opens the shelf, and makes it where there is none. An unreadable index counts as empty and is said so.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let index = match fs::read(dir.join("index.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(path = %dir.display(), %error, "the index of good plugin versions is unreadable, starting without");
                BTreeMap::new()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { dir: dir.to_owned(), index })
    }

    /// The last good version of a plugin.
    pub(crate) fn good(&self, id: &PluginId) -> Option<&Good> {
        self.index.get(id)
    }

    /// The bytes of a version.
    pub(crate) fn component(&self, digest: &str) -> io::Result<Vec<u8>> {
        fs::read(self.component_path(digest))
    }

    /// Remembers what runs now. `bytes` may be absent when the component is on the shelf already.
    pub(crate) fn put(&mut self, id: &PluginId, good: Good, bytes: Option<&[u8]>) -> io::Result<()> {
        if self.index.get(id) == Some(&good) {
            return Ok(());
        }
        let path = self.component_path(&good.digest);
        if !path.is_file() {
            let bytes =
                bytes.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the component is not on the shelf"))?;
            write_durably(&path, bytes)?;
        }
        let before = self.index.insert(id.clone(), good);
        self.save().inspect_err(|_| {
            // What is on the disk is what counts: the next call tries again.
            match before {
                Some(before) => self.index.insert(id.clone(), before),
                None => self.index.remove(id),
            };
        })
    }

    /// Forgets a plugin whose file was deleted.
    pub(crate) fn remove(&mut self, id: &PluginId) -> io::Result<()> {
        match self.index.remove(id) {
            Some(_) => self.save(),
            None => Ok(()),
        }
    }

    /// Writes the index, then deletes components that it does not name any more.
    fn save(&self) -> io::Result<()> {
        let index = serde_json::to_vec_pretty(&self.index)?;
        write_durably(&self.dir.join("index.json"), &index)?;
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let is_component = path.extension().is_some_and(|e| e == "wasm");
            let is_named = path.file_stem().is_some_and(|stem| self.index.values().any(|good| *good.digest == *stem));
            if is_component && !is_named {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn component_path(&self, digest: &str) -> PathBuf {
        self.dir.join(format!("{digest}.wasm"))
    }
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_good_version_survives_and_older_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let id: PluginId = "default/sensors/hot".parse().unwrap();
        let good = |digest: &str| Good { digest: digest.into(), params: Map::new(), limits: WantedLimits::default() };
        let mut shelf = Shelf::open(dir.path()).unwrap();
        shelf.put(&id, good("aa"), Some(b"one")).unwrap();
        shelf.put(&id, good("bb"), Some(b"two")).unwrap();

        let mut shelf = Shelf::open(dir.path()).unwrap();
        assert_eq!(shelf.good(&id), Some(&good("bb")));
        assert_eq!(shelf.component("bb").unwrap(), b"two");
        assert!(shelf.component("aa").is_err());

        shelf.remove(&id).unwrap();
        assert_eq!(Shelf::open(dir.path()).unwrap().good(&id), None);
        fs::write(dir.path().join("index.json"), "{").unwrap();
        assert_eq!(Shelf::open(dir.path()).unwrap().good(&id), None);
    }
}
