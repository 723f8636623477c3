//! Which files each snapshot refers to.
//!
//! Paths are compared in one form: other writers say `file:/x` or `s3a://b/x` for what we call `file:///x` and `s3://b/x`.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use iceberg::spec::{ManifestFile, SnapshotRef};
use iceberg::table::Table;

use crate::{Error, Result, snapshot};

/// The files of all snapshots.
#[derive(Debug, Default)]
pub(super) struct Reach {
    snapshots: HashMap<i64, OfSnapshot>,
    manifests: HashMap<String, OfManifest>,
    /// Files that the metadata itself names: statistics, earlier metadata.
    named: HashSet<String>,
}

#[derive(Debug)]
struct OfSnapshot {
    list: String,
    manifests: Vec<String>,
    statistics: Vec<String>,
}

#[derive(Debug, Default)]
struct OfManifest {
    alive: Vec<String>,
    removed: Vec<String>,
}

/// The form in which paths are compared.
pub(super) fn canonical(path: &str) -> String {
    let local = path
        .strip_prefix("file://")
        .or_else(|| path.strip_prefix("file:"))
        .or_else(|| path.starts_with('/').then_some(path));
    let (scheme, rest) = match local {
        Some(rest) => ("file:", rest),
        None => match path.split_once("://") {
            Some(("s3" | "s3a" | "s3n", rest)) => ("s3:", rest),
            _ => ("", path),
        },
    };
    let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    format!("{scheme}{}", parts.join("/"))
}

/// Files that are read at once: object stores answer in tens of milliseconds whatever the size.
const AT_ONCE: usize = 8;

/// Reads every manifest list, and every manifest once.
pub(super) async fn of(table: &Table) -> Result<Reach> {
    let metadata = table.metadata();
    let mut reach = Reach::default();
    reach.named.extend(table.metadata_location().map(str::to_owned));
    reach.named.extend(metadata.metadata_log().iter().map(|log| log.metadata_file.clone()));
    let mut manifests: HashMap<String, ManifestFile> = HashMap::new();
    let mut lists =
        stream::iter(metadata.snapshots().map(|snapshot| listed(table, snapshot))).buffer_unordered(AT_ONCE);
    while let Some((id, found)) = lists.try_next().await? {
        let statistics = metadata.statistics_for_snapshot(id).map(|file| file.statistics_path.clone());
        let partitions = metadata.partition_statistics_for_snapshot(id).map(|file| file.statistics_path.clone());
        let statistics = statistics.into_iter().chain(partitions).collect();
        let list = metadata.snapshot_by_id(id).map(|snapshot| snapshot.manifest_list().to_owned()).unwrap_or_default();
        let paths = found.iter().map(|manifest| manifest.manifest_path.clone()).collect();
        reach.snapshots.insert(id, OfSnapshot { list, manifests: paths, statistics });
        manifests.extend(found.into_iter().map(|manifest| (manifest.manifest_path.clone(), manifest)));
    }
    let mut contents = stream::iter(manifests.values().map(|manifest| read(table, manifest))).buffer_unordered(AT_ONCE);
    while let Some((path, of)) = contents.try_next().await? {
        reach.manifests.insert(path, of);
    }
    Ok(reach)
}

async fn listed(table: &Table, snapshot: &SnapshotRef) -> Result<(i64, Vec<ManifestFile>)> {
    let list = table.manifest_list_reader(snapshot).load().await;
    let list = list.map_err(|error| Error::of("reading a manifest list", snapshot.manifest_list(), error))?;
    Ok((snapshot.snapshot_id(), list.consume_entries().into_iter().collect()))
}

async fn read(table: &Table, manifest: &ManifestFile) -> Result<(String, OfManifest)> {
    let entries = snapshot::load_manifest(table, manifest).await?;
    let mut of = OfManifest::default();
    for entry in entries.all() {
        let into = if entry.is_alive() { &mut of.alive } else { &mut of.removed };
        into.push(entry.file_path().to_owned());
    }
    Ok((manifest.manifest_path.clone(), of))
}

impl Reach {
    /// Files that only these snapshots refer to, in order.
    pub(super) fn only_of(&self, expired: &[i64]) -> Vec<String> {
        let expired: HashSet<i64> = expired.iter().copied().collect();
        let (mut kept, mut doomed) = (HashSet::new(), HashSet::new());
        for (id, snapshot) in &self.snapshots {
            // What a kept snapshot says is removed is none of its files.
            if expired.contains(id) {
                self.collect(snapshot, true, &mut doomed);
            } else {
                self.collect(snapshot, false, &mut kept);
            }
        }
        let kept: HashSet<String> = kept.into_iter().map(canonical).collect();
        let mut doomed: Vec<String> =
            doomed.into_iter().filter(|path| !kept.contains(&canonical(path))).map(str::to_owned).collect();
        doomed.sort();
        doomed
    }

    /// Everything that anything refers to, in the form for comparing.
    pub(super) fn everything(&self) -> HashSet<String> {
        let mut all: HashSet<&str> = self.named.iter().map(String::as_str).collect();
        for snapshot in self.snapshots.values() {
            self.collect(snapshot, true, &mut all);
        }
        all.into_iter().map(canonical).collect()
    }

    fn collect<'a>(&'a self, snapshot: &'a OfSnapshot, with_removed: bool, into: &mut HashSet<&'a str>) {
        into.insert(&snapshot.list);
        into.extend(snapshot.statistics.iter().map(String::as_str));
        for manifest in &snapshot.manifests {
            if !into.insert(manifest) {
                continue;
            }
            let Some(of) = self.manifests.get(manifest) else { continue };
            into.extend(of.alive.iter().map(String::as_str));
            if with_removed {
                into.extend(of.removed.iter().map(String::as_str));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn one_file_has_one_form() {
        for path in ["/a/b", "file:/a/b", "file:///a/b", "file:///a//b", "/a/./b"] {
            assert_eq!(canonical(path), "file:a/b", "{path}");
        }
        for path in ["s3://a/b", "s3a://a/b", "s3n://a//b"] {
            assert_eq!(canonical(path), "s3:a/b", "{path}");
        }
        assert_ne!(canonical("s3://a/b"), canonical("gs://a/b"));
        assert_ne!(canonical("s3://a/b"), canonical("/a/b"));
    }
}
