//! Small files of a partition become few large ones, with the same rows in the order of their time.
//!
//! Each group is a commit of its own, so that one that loses a file stops no other. A table in which others delete rows
//! by delete files is left alone: rewriting could bring rows back.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use futures::TryStreamExt as _;
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::scan::FileScanTask;
use iceberg::spec::{DataFile, ManifestContentType};
use iceberg::table::Table;
use uuid::Uuid;

use super::{Done, Group, Plan, Report, Upkeep, commit, marked, newest, runs};
use crate::files::{Names, Target};
use crate::read::Reader;
use crate::schema;
use crate::{Archive, Error, Result, Span, WriteOptions, snapshot};

/// Rows of a batch as it comes from a file.
const BATCH_ROWS: usize = 8192;

/// Part of the wanted size from which on a file is large enough.
const ENOUGH: u64 = 75;

/// Finds files that are worth rewriting.
pub(super) async fn plan(base: &Table, upkeep: &Upkeep, plan: &mut Plan) -> Result<()> {
    let Some(files) = small_files(base, upkeep).await? else {
        plan.notes.push("files stay as they are: the table has delete files, which others wrote".to_owned());
        return Ok(());
    };
    if span(base).is_none() {
        plan.notes.push("files stay as they are: the table is partitioned in a way that is not ours".to_owned());
        return Ok(());
    }
    let spec = base.metadata().default_partition_spec();
    let mut partitions: BTreeMap<String, Vec<DataFile>> = BTreeMap::new();
    for file in files {
        let partition = spec.partition_to_path(file.partition(), Arc::clone(base.metadata().current_schema()));
        partitions.entry(partition).or_default().push(file);
    }
    let sum = |run: &[DataFile], of: fn(&DataFile) -> u64| run.iter().map(of).sum::<u64>();
    let full = |run: &[DataFile]| {
        sum(run, DataFile::file_size_in_bytes) >= upkeep.file_bytes
            || sum(run, DataFile::record_count) >= upkeep.max_rows
    };
    for (partition, files) in partitions {
        for run in runs(files, DataFile::file_size_in_bytes, full, upkeep.min_files.max(2)) {
            plan.compact.push(Group {
                partition: partition.clone(),
                bytes: sum(&run, DataFile::file_size_in_bytes),
                rows: sum(&run, DataFile::record_count),
                files: run.into_iter().map(|file| file.file_path().to_owned()).collect(),
            });
        }
    }
    Ok(())
}

/// The small files of the newest snapshot that are divided as new ones are; none when there are delete files.
async fn small_files(base: &Table, upkeep: &Upkeep) -> Result<Option<Vec<DataFile>>> {
    let spec = base.metadata().default_partition_spec_id();
    let enough = upkeep.file_bytes.saturating_mul(ENOUGH) / 100;
    let mut found = Vec::new();
    for manifest in snapshot::current_manifests(base).await? {
        if manifest.content == ManifestContentType::Deletes {
            return Ok(None);
        }
        if manifest.partition_spec_id != spec {
            continue;
        }
        let entries = snapshot::load_manifest(base, &manifest).await?;
        let is_small = |file: &&DataFile| file.file_size_in_bytes() < enough && file.record_count() < upkeep.max_rows;
        found.extend(entries.alive().map(|entry| entry.data_file()).filter(is_small).cloned());
    }
    Ok(Some(found))
}

/// What a group is when its turn comes.
enum Found {
    /// Its files, or the smaller ones of them, with their rows.
    Rows(Arc<Target>, Vec<DataFile>, Vec<RecordBatch>),
    /// Nothing can be done, and why.
    Nothing(&'static str),
}

/// Rewrites what was planned.
pub(super) async fn run(archive: &Archive, table: &str, upkeep: &Upkeep, report: &mut Report) -> Result<()> {
    for group in report.plan.compact.clone() {
        let found = newest(archive, table, async |base: &Table| find(base, &group, upkeep).await).await?;
        let (target, inputs, rows) = match found {
            Found::Rows(target, inputs, rows) => (target, inputs, rows),
            Found::Nothing(why) => {
                report.skipped.push(format!("{}: {why}", group.partition));
                continue;
            }
        };
        let wanted: HashSet<String> = inputs.iter().map(|file| file.file_path().to_owned()).collect();
        let added = Arc::clone(&target).write(archive, Names::new(Uuid::now_v7()), rows).await?;
        let count = |files: &[DataFile]| files.iter().map(DataFile::record_count).sum::<u64>();
        if count(&added) != count(&inputs) {
            target.delete(&added).await;
            let reason = format!("{} rows became {} in {}", count(&inputs), count(&added), group.partition);
            return Err(Error::Failed { doing: "rewriting files".to_owned(), reason, source: None });
        }
        let build = async |base: &Table| {
            let has_deletes = small_files(base, upkeep).await?.is_none();
            if has_deletes || !target.is_of(base.metadata()) {
                return Ok(None);
            }
            snapshot::replace(archive, base, &wanted, added.clone(), marked("compaction")).await
        };
        match commit(archive, table, build).await {
            Ok(Done::Committed) => report.compacted += wanted.len(),
            // Its files may yet be committed: they stay, and become orphans if not.
            Ok(Done::Unknown(why)) => report.skipped.push(format!("{}: {why}", group.partition)),
            Ok(Done::Dropped(why)) => {
                target.delete(&added).await;
                report.skipped.push(format!("{}: {why}", group.partition));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The files of a group in a state of the table, and their rows.
async fn find(base: &Table, group: &Group, upkeep: &Upkeep) -> Result<Found> {
    let wanted: HashSet<&str> = group.files.iter().map(String::as_str).collect();
    let Some(files) = small_files(base, upkeep).await? else {
        return Ok(Found::Nothing("the table has delete files, which others wrote"));
    };
    let mut inputs: Vec<DataFile> = files.into_iter().filter(|file| wanted.contains(file.file_path())).collect();
    if inputs.len() != wanted.len() {
        return Ok(Found::Nothing("a file is not in the table any more"));
    }
    // The smallest first: a large one that fills the memory alone must not keep the others as they are.
    inputs.sort_by_key(DataFile::file_size_in_bytes);
    let target = target(base, upkeep)?;
    let (inputs, rows) = read(base, inputs, upkeep.max_bytes).await?;
    Ok(match inputs.len() {
        0 | 1 => Found::Nothing("its files are too large in memory to be rewritten together"),
        _ => Found::Rows(target, inputs, rows),
    })
}

/// What one file of the table spans, if that is something that we write.
fn span(base: &Table) -> Option<Span> {
    [Span::Day, Span::Hour].into_iter().find(|span| schema::check_partitions(base.metadata(), *span).is_ok())
}

fn target(base: &Table, upkeep: &Upkeep) -> Result<Arc<Target>> {
    let foreign = || Error::Table {
        table: base.identifier().name().to_owned(),
        reason: "it is partitioned in a way that is not ours".to_owned(),
    };
    let span = span(base).ok_or_else(foreign)?;
    let file_bytes = usize::try_from(upkeep.file_bytes).unwrap_or(usize::MAX);
    let options = WriteOptions { span, file_bytes, ..WriteOptions::default() };
    Ok(Arc::new(Target::new(base, &columns(base)?, &options)))
}

/// The columns that the table has now.
fn columns(base: &Table) -> Result<Schema> {
    let failed = |error| Error::failed("reading a table's columns", error);
    schema_to_arrow_schema(base.metadata().current_schema()).map_err(failed)
}

/// The rows of files, in the columns that the table has now, and which files: one after the other, up to a size in memory,
/// which a file's own size says little about. One that is larger than that alone is not read to its end.
/// The rest is for the next run.
async fn read(base: &Table, files: Vec<DataFile>, most: usize) -> Result<(Vec<DataFile>, Vec<RecordBatch>)> {
    let metadata = base.metadata();
    let schema = metadata.current_schema();
    let ids: Vec<i32> = schema.as_struct().fields().iter().map(|field| field.id).collect();
    let spec = metadata.default_partition_spec();
    let task = |file: &DataFile| {
        FileScanTask::builder()
            .with_file_size_in_bytes(file.file_size_in_bytes())
            .with_start(0)
            .with_length(file.file_size_in_bytes())
            .with_record_count(Some(file.record_count()))
            .with_data_file_path(file.file_path().to_owned())
            .with_data_file_format(file.file_format())
            .with_schema(Arc::clone(schema))
            .with_project_field_ids(ids.clone())
            .with_partition(Some(file.partition().clone()))
            .with_partition_spec(Some(Arc::clone(spec)))
            .with_case_sensitive(true)
            .build()
    };
    let place = files.first().map(|file| file.file_path().to_owned()).unwrap_or_default();
    let of = |error| Error::of("reading files to rewrite", &place, error);
    let runtime = iceberg::Runtime::try_current().map_err(of)?;
    let reader = Reader { io: base.file_io().clone(), runtime, rows: BATCH_ROWS, schema: Arc::new(columns(base)?) };
    let (mut taken, mut rows, mut bytes) = (Vec::new(), Vec::<RecordBatch>::new(), 0);
    'files: for file in files {
        if bytes >= most {
            break;
        }
        let (mut of_file, mut size) = (Vec::new(), 0);
        let mut batches = reader.clone().read(vec![task(&file)]);
        while let Some(batch) = batches.try_next().await.map_err(of)? {
            size += batch.get_array_memory_size();
            if size > most {
                // Those after it are larger still.
                break 'files;
            }
            of_file.push(batch);
        }
        bytes += size;
        rows.extend(of_file);
        taken.push(file);
    }
    Ok((taken, rows))
}
