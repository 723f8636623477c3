//! Reads and writes manifests: lists of files with their statistics.

use std::collections::HashSet;
use std::sync::Arc;

use iceberg::spec::{
    DataFile, Manifest, ManifestContentType, ManifestEntry, ManifestFile, ManifestWriter, ManifestWriterBuilder,
    PartitionSpec, SchemaRef,
};
use iceberg::table::Table;

use crate::{Error, Result};

/// What a manifest holds, with the schema and the division that it was written with.
#[derive(Debug)]
pub(crate) struct Entries {
    manifest: Manifest,
    /// The schema.
    pub schema: SchemaRef,
    /// How rows are divided.
    pub spec: PartitionSpec,
    content: ManifestContentType,
}

impl Entries {
    /// Files that are in the table.
    pub(crate) fn alive(&self) -> impl Iterator<Item = &ManifestEntry> {
        self.manifest.entries().iter().map(AsRef::as_ref).filter(|entry| entry.is_alive())
    }

    /// Every file that is named, also those that were removed.
    pub(crate) fn all(&self) -> impl Iterator<Item = &ManifestEntry> {
        self.manifest.entries().iter().map(AsRef::as_ref)
    }
}

/// The manifests of the newest snapshot that have something in them.
pub(crate) async fn of_current(table: &Table) -> Result<Vec<ManifestFile>> {
    let Some(snapshot) = table.metadata().current_snapshot() else { return Ok(Vec::new()) };
    let list = table.manifest_list_reader(snapshot).load().await;
    let list = list.map_err(|error| Error::of("reading a manifest list", snapshot.manifest_list(), error))?;
    let is_used = |manifest: &ManifestFile| manifest.has_added_files() || manifest.has_existing_files();
    Ok(list.consume_entries().into_iter().filter(is_used).collect())
}

/// What a manifest holds.
pub(crate) async fn load(table: &Table, manifest: &ManifestFile) -> Result<Entries> {
    let loaded = manifest.load_manifest(table.file_io()).await;
    let loaded = loaded.map_err(|error| Error::of("reading a manifest", &manifest.manifest_path, error))?;
    let metadata = loaded.metadata();
    let (schema, spec) = (Arc::clone(&metadata.schema), metadata.partition_spec.clone());
    Ok(Entries { schema, spec, content: manifest.content, manifest: loaded })
}

/// Writes a manifest of new files.
pub(super) async fn write_added(
    table: &Table,
    snapshot: i64,
    place: &str,
    files: Vec<DataFile>,
) -> Result<ManifestFile> {
    let of = |error| Error::of("writing a manifest", place, error);
    let metadata = table.metadata();
    let spec = metadata.default_partition_spec().as_ref().clone();
    let schema = Arc::clone(metadata.current_schema());
    let mut writer = writer(table, snapshot, place, schema, spec, ManifestContentType::Data)?;
    for file in files {
        // Below zero: the number of the commit, whichever that becomes.
        writer.add_file(file, -1).map_err(of)?;
    }
    writer.write_manifest_file().await.map_err(of)
}

/// Writes what a manifest holds, some of it as removed.
pub(super) async fn write_without(
    table: &Table,
    snapshot: i64,
    place: &str,
    entries: &Entries,
    removed: &HashSet<String>,
) -> Result<ManifestFile> {
    let of = |error| Error::of("writing a manifest", place, error);
    let mut writer =
        writer(table, snapshot, place, Arc::clone(&entries.schema), entries.spec.clone(), entries.content)?;
    for entry in entries.alive() {
        if removed.contains(entry.file_path()) {
            let (sequence, file_sequence) = (sequence(entry, place)?, entry.file_sequence_number);
            writer.add_delete_file(entry.data_file().clone(), sequence, file_sequence).map_err(of)?;
        } else {
            keep(&mut writer, entry, place)?;
        }
    }
    writer.write_manifest_file().await.map_err(of)
}

/// Writes what is alive in some manifests, which must have schema, division and content in common, into one.
pub(super) async fn write_joined(
    table: &Table,
    snapshot: i64,
    place: &str,
    inputs: &[ManifestFile],
) -> Result<ManifestFile> {
    let mut joined: Option<ManifestWriter> = None;
    for input in inputs {
        let entries = load(table, input).await?;
        let mut writer = match joined.take() {
            Some(writer) => writer,
            None => {
                let (schema, spec) = (Arc::clone(&entries.schema), entries.spec.clone());
                writer(table, snapshot, place, schema, spec, input.content)?
            }
        };
        for entry in entries.alive() {
            keep(&mut writer, entry, place)?;
        }
        joined = Some(writer);
    }
    let none =
        || Error::Failed { doing: "writing a manifest".to_owned(), reason: "of nothing".to_owned(), source: None };
    let written = joined.ok_or_else(none)?.write_manifest_file().await;
    written.map_err(|error| Error::of("writing a manifest", place, error))
}

fn writer(
    table: &Table,
    snapshot: i64,
    place: &str,
    schema: SchemaRef,
    spec: PartitionSpec,
    content: ManifestContentType,
) -> Result<ManifestWriter> {
    let output = table.file_io().new_output(place).map_err(|error| Error::of("writing a manifest", place, error))?;
    let builder = ManifestWriterBuilder::new(output, Some(snapshot), schema, spec);
    Ok(match content {
        ManifestContentType::Data => builder.build_v2_data(),
        ManifestContentType::Deletes => builder.build_v2_deletes(),
    })
}

/// Keeps an entry with the numbers that it got when it came.
fn keep(writer: &mut ManifestWriter, entry: &ManifestEntry, place: &str) -> Result<()> {
    let snapshot = entry.snapshot_id().ok_or_else(|| unnumbered(place))?;
    let kept = writer.add_existing_file(
        entry.data_file().clone(),
        snapshot,
        sequence(entry, place)?,
        entry.file_sequence_number,
    );
    kept.map_err(|error| Error::of("writing a manifest", place, error))
}

fn sequence(entry: &ManifestEntry, place: &str) -> Result<i64> {
    entry.sequence_number().ok_or_else(|| unnumbered(place))
}

fn unnumbered(place: &str) -> Error {
    debug_assert!(!place.is_empty(), "a manifest has a place");
    let reason = "an entry of a manifest has no sequence number".to_owned();
    Error::Failed { doing: format!("writing {place}"), reason, source: None }
}
