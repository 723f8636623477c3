//! The last good versions, kept on disk so that a broken file does no harm even after a restart.
//!
//! `<data>/plugins/<digest>.wasm` and an index that says which plugin ran what with which settings.
//! Both are written to a temporary name, synced and renamed: a crash leaves the old or the new, never half.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use phronis_core::PluginId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::settings::WantedLimits;

/// Good versions before the last one that are kept: a letter can be shown to them once more.
/// A component is some hundred kilobytes; what ran four versions ago, nobody goes back to by the shelf.
const EARLIER: usize = 3;

/// A version that ran well, and its settings then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Good {
    /// SHA-256 of the component, hex.
    pub digest: String,
    /// The author's version.
    #[serde(default)]
    pub version: String,
    /// Its parameters, as they were written.
    pub params: Map<String, Value>,
    /// Its limits, as they were written.
    pub limits: WantedLimits,
}

/// What is kept of a plugin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    /// What ran last, and well.
    #[serde(flatten)]
    last: Good,
    /// What ran before, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<Good>,
}

impl Row {
    fn all(&self) -> impl Iterator<Item = &Good> {
        std::iter::once(&self.last).chain(&self.earlier)
    }
}

/// The shelf of one data folder.
#[derive(Debug)]
pub(crate) struct Shelf {
    dir: PathBuf,
    index: BTreeMap<PluginId, Row>,
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
        self.index.get(id).map(|row| &row.last)
    }

    /// The good versions of a plugin that are kept, the last one first.
    pub(crate) fn all(&self, id: &PluginId) -> impl Iterator<Item = &Good> {
        self.index.get(id).into_iter().flat_map(Row::all)
    }

    /// The bytes of a version.
    pub(crate) fn component(&self, digest: &str) -> io::Result<Vec<u8>> {
        fs::read(component_path(&self.dir, digest))
    }

    /// Remembers what runs now. `bytes` may be absent when the component is on the shelf already.
    pub(crate) fn put(&mut self, id: &PluginId, good: Good, bytes: Option<&[u8]>) -> io::Result<()> {
        if self.good(id) == Some(&good) {
            return Ok(());
        }
        let path = component_path(&self.dir, &good.digest);
        if !path.is_file() {
            let bytes =
                bytes.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the component is not on the shelf"))?;
            write_durably(&path, bytes)?;
        }
        let mut earlier: Vec<Good> = self.all(id).filter(|other| other.digest != good.digest).cloned().collect();
        earlier.truncate(EARLIER);
        let before = self.index.insert(id.clone(), Row { last: good, earlier });
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
        let kept = self.index.values().flat_map(Row::all);
        let kept: BTreeSet<&str> = kept.map(|good| good.digest.as_str()).collect();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let is_component = path.extension().is_some_and(|e| e == "wasm");
            let is_named = path.file_stem().and_then(OsStr::to_str).is_some_and(|stem| kept.contains(stem));
            if is_component && !is_named {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// Where the component of this digest stands on the shelf in this folder.
pub(crate) fn component_path(dir: &Path, digest: &str) -> PathBuf {
    dir.join(format!("{digest}.wasm"))
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
    fn the_last_good_version_survives_with_some_before_it_and_older_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let id: PluginId = "default/sensors/hot".parse().unwrap();
        let good = |digest: &str| Good {
            digest: digest.into(),
            version: String::new(),
            params: Map::new(),
            limits: WantedLimits::default(),
        };
        let mut shelf = Shelf::open(dir.path()).unwrap();
        shelf.put(&id, good("aa"), Some(b"one")).unwrap();
        shelf.put(&id, good("bb"), Some(b"two")).unwrap();

        let mut shelf = Shelf::open(dir.path()).unwrap();
        assert_eq!(shelf.good(&id), Some(&good("bb")));
        assert_eq!(shelf.component("bb").unwrap(), b"two");
        let kept = |shelf: &Shelf| shelf.all(&id).map(|good| good.digest.clone()).collect::<Vec<_>>();
        assert_eq!(kept(&shelf), ["bb", "aa"]);
        for digest in ["cc", "aa", "dd", "ee"] {
            shelf.put(&id, good(digest), Some(b"more")).unwrap();
        }
        assert_eq!(kept(&shelf), ["ee", "dd", "aa", "cc"], "each once, the last one first");
        assert!(shelf.component("aa").is_ok() && shelf.component("bb").is_err());

        shelf.remove(&id).unwrap();
        assert_eq!(Shelf::open(dir.path()).unwrap().good(&id), None);
        fs::write(dir.path().join("index.json"), "{").unwrap();
        assert_eq!(Shelf::open(dir.path()).unwrap().good(&id), None);
    }
}
