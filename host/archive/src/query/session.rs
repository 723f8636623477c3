//! DataFusion as a query gets it: the tables that it names and nothing else.
//!
//! No file formats, no factories of tables, no table functions, no `information_schema`, and no function that makes much
//! out of little: their results are in no memory pool, and one call could take all the memory of the host.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::catalog::{
    CatalogProvider, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider, SchemaProvider,
};
use datafusion::error::Result;
use datafusion::execution::SessionStateDefaults;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};

use super::Limits;
use super::scan::Snapshot;

/// Partitions of a plan. The host has other things to do with its cores.
const PARTITIONS: usize = 2;

/// Most rows in a batch.
const BATCH_ROWS: usize = 8192;

/// Functions that make much out of little.
const LEFT_OUT: &[&str] = &[
    "repeat",
    "lpad",
    "rpad",
    "space",
    "range",
    "generate_series",
    "gen_series",
    "array_repeat",
    "list_repeat",
    "array_resize",
    "list_resize",
];

/// A session in which these tables are.
pub(super) fn with(tables: Vec<(String, Snapshot)>, namespace: &str, limits: &Limits) -> Result<SessionContext> {
    // What filters and exchanges put together again has as many rows as a batch, whatever their width.
    let rows = tables.iter().map(|(_, table)| table.batch_rows(BATCH_ROWS)).min();
    let mut config = SessionConfig::new()
        .with_target_partitions(PARTITIONS)
        .with_batch_size(rows.unwrap_or(BATCH_ROWS))
        .with_information_schema(false)
        .with_create_default_catalog_and_schema(false)
        .with_default_catalog_and_schema("archive", namespace);
    let options = config.options_mut();
    options.sql_parser.collect_spans = true;
    // Texts stay what they are in the tables.
    options.sql_parser.map_string_types_to_utf8view = false;
    let schema = MemorySchemaProvider::new();
    for (name, table) in tables {
        schema.register_table(name, Arc::new(table))?;
    }
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema(namespace, Arc::new(schema))?;
    let functions = SessionStateDefaults::default_scalar_functions()
        .into_iter()
        .filter(|function| !LEFT_OUT.contains(&function.name()));
    let state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(environment(limits)?)
        .with_catalog_list(Arc::new(MemoryCatalogProviderList::new()))
        .with_expr_planners(SessionStateDefaults::default_expr_planners())
        .with_scalar_functions(functions.collect())
        .with_aggregate_functions(SessionStateDefaults::default_aggregate_functions())
        .with_window_functions(SessionStateDefaults::default_window_functions())
        .with_table_functions(HashMap::new())
        .with_table_factories(HashMap::new())
        .with_file_formats(Vec::new())
        .build();
    let context = SessionContext::new_with_state(state);
    context.register_catalog("archive", Arc::new(catalog));
    Ok(context)
}

/// What plans may hold: they look, and that is all.
pub(super) fn only_reads() -> SQLOptions {
    SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false)
}

/// Each query has a pool and a spill folder of its own, so that none takes another's part.
fn environment(limits: &Limits) -> Result<Arc<RuntimeEnv>> {
    let memory = usize::try_from(limits.memory).unwrap_or(usize::MAX);
    let disk = DiskManagerBuilder::default()
        .with_mode(DiskManagerMode::Directories(vec![limits.spill_dir.clone()]))
        .with_max_temp_directory_size(limits.spill);
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(memory)))
        .with_disk_manager_builder(disk)
        .build_arc()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_still_called_so() {
        let names: Vec<String> = SessionStateDefaults::default_scalar_functions()
            .iter()
            .map(|function| function.name().to_owned())
            .collect();
        for name in ["repeat", "lpad", "rpad", "range", "generate_series", "array_repeat", "array_resize"] {
            assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
        }
    }
}
