//! Builds what a commit needs: manifests, the manifest list, and the changes that put a new snapshot on `main`.
//!
//! iceberg's own transactions can only append, reset the retention of `main`, and read all manifests; so these are ours.
//! Nothing here changes the table: that is [`Catalog::commit`](crate::Catalog::commit). Files of a change that is known not to
//! have been committed are removed with [`Change::undo`]; those of an unknown outcome must stay.

mod manifests;
mod retention;
mod summary;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use iceberg::spec::{
    DataFile, MAIN_BRANCH, ManifestContentType, ManifestFile, ManifestListWriter, Operation, Snapshot,
    SnapshotReference, SnapshotSummaryCollector, Summary,
};
use iceberg::table::Table;
use iceberg::{TableRequirement, TableUpdate};
use uuid::Uuid;

use crate::{Archive, CommitError, Error, Result};

pub(crate) use manifests::{load as load_manifest, of_current as current_manifests};
pub(crate) use retention::{Known, references};

/// What is handed to the catalog.
#[derive(Debug)]
pub(crate) struct Change {
    /// What changes.
    pub updates: Vec<TableUpdate>,
    /// What must hold for it: the table's identity, and the snapshot that this one follows.
    pub requirements: Vec<TableRequirement>,
    /// The new snapshot.
    pub snapshot: i64,
    /// Manifests and the manifest list that were written for it.
    written: Vec<String>,
}

impl Change {
    /// Removes what was written for a change that is known not to have taken place. What cannot be removed is an orphan.
    pub(crate) async fn undo(self, base: &Table) {
        let files = base.file_io();
        if let Err(error) = files.delete_stream(futures::stream::iter(self.written)).await {
            tracing::debug!(%error, "manifests of a commit that did not take place are left");
        }
    }
}

/// A snapshot with more files. `properties` go into its summary; without files it only carries them.
pub(crate) async fn append(
    archive: &Archive,
    base: &Table,
    files: Vec<DataFile>,
    properties: HashMap<String, String>,
) -> Result<Change> {
    let mut draft = Draft::new(archive, base);
    let kept = manifests::of_current(base).await?;
    draft.add(files).await?;
    draft.finish(Operation::Append, kept, properties).await
}

/// A snapshot with the same rows in other files: `remove` (paths) out, `add` in. None when one of `remove` is not there
/// any more: then nothing was written.
pub(crate) async fn replace(
    archive: &Archive,
    base: &Table,
    remove: &HashSet<String>,
    add: Vec<DataFile>,
    properties: HashMap<String, String>,
) -> Result<Option<Change>> {
    let mut draft = Draft::new(archive, base);
    let Some(kept) = draft.remove(remove).await? else { return Ok(None) };
    draft.add(add).await?;
    draft.finish(Operation::Replace, kept, properties).await.map(Some)
}

/// A snapshot with the same files in fewer manifests: each group of `groups` (paths of manifests) becomes one. None when one of
/// them is not there any more.
pub(crate) async fn merge(
    archive: &Archive,
    base: &Table,
    groups: &[Vec<String>],
    properties: HashMap<String, String>,
) -> Result<Option<Change>> {
    let mut draft = Draft::new(archive, base);
    let mut kept = manifests::of_current(base).await?;
    for group in groups {
        let wanted: HashSet<&str> = group.iter().map(String::as_str).collect();
        let (inputs, others): (Vec<_>, Vec<_>) =
            kept.into_iter().partition(|manifest| wanted.contains(manifest.manifest_path.as_str()));
        kept = others;
        if inputs.len() != wanted.len() {
            draft.give_up().await;
            return Ok(None);
        }
        draft.join(&inputs).await?;
    }
    draft.finish(Operation::Replace, kept, properties).await.map(Some)
}

/// A snapshot with the same files.
pub(crate) async fn repeat(archive: &Archive, base: &Table, properties: HashMap<String, String>) -> Result<Change> {
    let kept = manifests::of_current(base).await?;
    Draft::new(archive, base).finish(Operation::Replace, kept, properties).await
}

/// Commits a change of metadata that brings no snapshot of its own.
///
/// Whoever makes the new metadata dates such a change by its own clock, and refuses it when the table is more than a minute
/// ahead of that: clocks differ, and snapshots only go forward. A snapshot dates itself, so that a change which was refused is made
/// again with one that has the same files.
pub(crate) async fn commit_metadata(
    archive: &Archive,
    base: &Table,
    mut updates: Vec<TableUpdate>,
    mut requirements: Vec<TableRequirement>,
) -> Result<Table, CommitError> {
    let error = match archive.catalog().commit(base, updates.clone(), requirements.clone()).await {
        Err(CommitError::Failed(error)) => error,
        outcome => return outcome,
    };
    tracing::debug!(table = base.identifier().name(), %error, "a change of metadata was refused: it gets a date of its own");
    let properties = HashMap::from([("phronis.upkeep".to_owned(), "date".to_owned())]);
    let mut dated = repeat(archive, base, properties).await.map_err(CommitError::Failed)?;
    updates.append(&mut dated.updates);
    requirements.append(&mut dated.requirements);
    let outcome = archive.catalog().commit(base, updates, requirements).await;
    if matches!(outcome, Err(CommitError::Conflict | CommitError::Failed(_))) {
        dated.undo(base).await;
    }
    outcome
}

/// A snapshot in the making.
struct Draft<'a> {
    archive: &'a Archive,
    base: &'a Table,
    id: i64,
    commit: Uuid,
    summary: SnapshotSummaryCollector,
    manifests: Vec<ManifestFile>,
    written: Vec<String>,
}

impl<'a> Draft<'a> {
    fn new(archive: &'a Archive, base: &'a Table) -> Self {
        let id = new_id(base);
        let (manifests, written) = (Vec::new(), Vec::new());
        let summary = SnapshotSummaryCollector::default();
        Self { archive, base, id, commit: Uuid::now_v7(), summary, manifests, written }
    }

    fn place(&mut self, name: &str) -> String {
        let place = format!("{}/metadata/{name}", self.base.metadata().location().trim_end_matches('/'));
        self.written.push(place.clone());
        place
    }

    fn next_manifest(&mut self) -> String {
        let name = format!("{}-m{}.avro", self.commit, self.manifests.len());
        self.place(&name)
    }

    /// Adds files.
    async fn add(&mut self, files: Vec<DataFile>) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let metadata = self.base.metadata();
        for file in &files {
            self.summary.add_file(
                file,
                Arc::clone(metadata.current_schema()),
                Arc::clone(metadata.default_partition_spec()),
            );
        }
        let place = self.next_manifest();
        let manifest = manifests::write_added(self.base, self.id, &place, files).await?;
        self.manifests.push(manifest);
        self.archive.pass("archive-manifest-written");
        Ok(())
    }

    /// Marks files as removed, in new manifests; gives those that stay as they are.
    async fn remove(&mut self, paths: &HashSet<String>) -> Result<Option<Vec<ManifestFile>>> {
        let mut kept = Vec::new();
        let mut missing = paths.len();
        for manifest in manifests::of_current(self.base).await? {
            let entries = match manifest.content {
                ManifestContentType::Data if missing > 0 => manifests::load(self.base, &manifest).await?,
                _ => {
                    kept.push(manifest);
                    continue;
                }
            };
            let found = entries.alive().filter(|entry| paths.contains(entry.file_path())).count();
            if found == 0 {
                kept.push(manifest);
                continue;
            }
            missing = missing.saturating_sub(found);
            for entry in entries.alive().filter(|entry| paths.contains(entry.file_path())) {
                let spec = entries.spec.clone().into();
                self.summary.remove_file(entry.data_file(), Arc::clone(&entries.schema), spec);
            }
            let place = self.next_manifest();
            self.manifests.push(manifests::write_without(self.base, self.id, &place, &entries, paths).await?);
        }
        if missing > 0 {
            self.give_up().await;
            return Ok(None);
        }
        Ok(Some(kept))
    }

    /// Writes what some manifests hold into one.
    async fn join(&mut self, inputs: &[ManifestFile]) -> Result<()> {
        let place = self.next_manifest();
        self.manifests.push(manifests::write_joined(self.base, self.id, &place, inputs).await?);
        self.archive.pass("archive-manifest-written");
        Ok(())
    }

    async fn give_up(&mut self) {
        let written = std::mem::take(&mut self.written);
        Change { updates: Vec::new(), requirements: Vec::new(), snapshot: self.id, written }.undo(self.base).await;
    }

    /// Writes the manifest list.
    async fn finish(
        mut self,
        operation: Operation,
        kept: Vec<ManifestFile>,
        properties: HashMap<String, String>,
    ) -> Result<Change> {
        let list = self.place(&format!("snap-{}-0-{}.avro", self.id, self.commit));
        let metadata = self.base.metadata();
        let (parent, sequence) = (metadata.current_snapshot_id(), metadata.next_sequence_number());
        let of = |error| Error::of("writing a manifest list", &list, error);
        let writer = self.base.file_io().new_output(&list).map_err(of)?.writer().await.map_err(of)?;
        let mut writer = ManifestListWriter::v2(writer, self.id, parent, sequence);
        // The newest first, as other writers have it.
        writer.add_manifests(self.manifests.into_iter().chain(kept)).map_err(of)?;
        writer.close().await.map_err(of)?;
        self.archive.pass("archive-list-written");

        let timestamp = timestamp(self.base);
        let mut all = properties;
        all.extend(self.summary.build());
        summary::add_totals(&mut all, metadata.current_snapshot().map(|snapshot| snapshot.summary()));
        let snapshot = Snapshot::builder()
            .with_manifest_list(list)
            .with_snapshot_id(self.id)
            .with_parent_snapshot_id(parent)
            .with_sequence_number(sequence)
            .with_summary(Summary { operation, additional_properties: all })
            .with_schema_id(metadata.current_schema_id())
            .with_timestamp_ms(timestamp)
            .build();
        let retention = self.archive.retention().of(self.base)?;
        self.archive.retention().expect(self.base, timestamp, self.id, &retention);
        let reference = SnapshotReference::new(self.id, retention);
        Ok(Change {
            updates: vec![
                TableUpdate::AddSnapshot { snapshot },
                TableUpdate::SetSnapshotRef { ref_name: MAIN_BRANCH.to_owned(), reference },
            ],
            requirements: vec![
                TableRequirement::UuidMatch { uuid: metadata.uuid() },
                TableRequirement::RefSnapshotIdMatch { r#ref: MAIN_BRANCH.to_owned(), snapshot_id: parent },
            ],
            snapshot: self.id,
            written: self.written,
        })
    }
}

/// A number that no snapshot of the table has.
fn new_id(base: &Table) -> i64 {
    loop {
        let (high, low) = Uuid::new_v4().as_u64_pair();
        let id = i64::from_ne_bytes((high ^ low).to_ne_bytes()).checked_abs().unwrap_or(1);
        if id > 0 && base.metadata().snapshot_by_id(id).is_none() {
            return id;
        }
    }
}

/// Now, but after the snapshot and the change before: travelling in time must find them in their order, whatever clocks say.
fn timestamp(base: &Table) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let before = base.metadata().current_snapshot().map_or(0, |snapshot| snapshot.timestamp_ms());
    now.max(before.max(base.metadata().last_updated_ms()).saturating_add(1))
}
