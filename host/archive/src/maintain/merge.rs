//! Fewer manifests: each append adds one, and each commit and each query reads what is listed.

use std::collections::BTreeMap;

use iceberg::table::Table;

use super::{Done, Plan, Report, Upkeep, commit, marked, runs};
use crate::{Archive, Result, snapshot};

/// A merged manifest is about this large: as Iceberg's `commit.manifest.target-size-bytes`.
const FULL: u64 = 8 << 20;

/// Finds manifests of like size that are worth merging.
pub(super) async fn plan(base: &Table, upkeep: &Upkeep, plan: &mut Plan) -> Result<()> {
    let manifests = snapshot::current_manifests(base).await?;
    if manifests.len() <= upkeep.max_manifests {
        return Ok(());
    }
    // Statistics are written by the types of a schema: those of another one stay among themselves.
    let mut kinds: BTreeMap<_, Vec<(String, u64)>> = BTreeMap::new();
    for manifest in &manifests {
        let length = u64::try_from(manifest.manifest_length).unwrap_or(0);
        if length >= FULL {
            continue;
        }
        let schema = snapshot::load_manifest(base, manifest).await?.schema.schema_id();
        let kind = (manifest.partition_spec_id, schema, manifest.content.to_string());
        kinds.entry(kind).or_default().push((manifest.manifest_path.clone(), length));
    }
    let full = |run: &[(String, u64)]| run.iter().map(|(_, length)| length).sum::<u64>() >= FULL;
    for manifests in kinds.into_values() {
        let merged = runs(manifests, |(_, length)| *length, full, upkeep.max_manifests.max(2));
        plan.merge.extend(merged.into_iter().map(|run| run.into_iter().map(|(path, _)| path).collect()));
    }
    Ok(())
}

/// Merges them, all in one snapshot.
pub(super) async fn run(archive: &Archive, table: &str, report: &mut Report) -> Result<()> {
    let groups = report.plan.merge.clone();
    if groups.is_empty() {
        return Ok(());
    }
    let build = async |base: &Table| snapshot::merge(archive, base, &groups, marked("manifests")).await;
    match commit(archive, table, build).await? {
        Done::Committed => report.merged = groups.iter().map(Vec::len).sum(),
        Done::Dropped(why) | Done::Unknown(why) => report.skipped.push(format!("merging manifests: {why}")),
    }
    Ok(())
}
