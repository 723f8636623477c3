//! What every store must do, as cases that run on SQLite and on PostgreSQL.
//!
//! A case gets two handles of the same empty store, as two hosts would have them.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a suite for tests: it fails by panicking")]

mod agents;
mod iceberg;
mod letters;
mod others;
pub mod server;

use std::path::Path;
use std::pin::Pin;
use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};

use crate::{Options, Store};

/// Two hosts on one empty store.
#[derive(Debug, Clone)]
pub struct Hosts {
    /// One of them.
    pub one: Store,
    /// The other.
    pub other: Store,
}

/// A case: its name, which is the behaviour, and what checks it.
pub type Case = (&'static str, fn(Hosts) -> Pin<Box<dyn Future<Output = ()> + Send>>);

macro_rules! cases {
    ($($name:literal = $check:path),* $(,)?) => { &[$(($name, |hosts| Box::pin($check(hosts)))),*] };
}

/// All cases.
pub const CASES: &[Case] = cases![
    "an_agent_comes_back_with_everything_that_was_said_of_it" = agents::come_back_whole,
    "of_two_who_change_the_same_version_one_wins" = agents::race,
    "a_stale_change_is_told_what_is_there" = agents::stale,
    "an_alert_halts_once" = agents::causes_are_unique,
    "an_alert_about_another_record_halts_though_it_has_the_same_id" = agents::another_record,
    "only_those_who_are_not_running_are_listed" = agents::listing,
    "any_text_is_a_name_of_an_agent" = agents::strange_names,
    "the_history_comes_in_pages_newest_first" = agents::history,
    "breakers_are_stored_over_what_was_known" = others::breakers,
    "a_step_of_letters_is_stored_whole" = letters::steps,
    "an_owner_of_yesterday_changes_no_letters" = letters::fencing,
    "the_fold_of_a_partition_can_be_forgotten" = letters::forgetting,
    "a_stream_has_one_redrive_at_a_time" = others::one_redrive,
    "the_progress_of_a_redrive_never_goes_back" = others::progress,
    "of_two_who_edit_a_letter_one_wins" = others::edits,
    "an_entry_of_the_audit_is_there_once" = others::audit_once,
    "the_audit_is_filtered_and_comes_in_pages" = others::audit_filters,
    "the_audit_cannot_be_changed_or_emptied" = others::audit_is_append_only,
    "many_writers_wait_for_each_other" = others::many_writers,
    "a_table_of_the_archive_is_made_once" = iceberg::tables,
    "of_two_commits_to_a_table_one_wins" = iceberg::swaps,
];

/// A store in a file of a folder, on a runtime that lives as long as the process: for tests that have none.
pub fn local(folder: &Path) -> Store {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());
    runtime.block_on(Store::open(&Options::Sqlite(folder.join("store.sqlite")))).unwrap()
}

impl Store {
    /// How SQLite is set.
    pub async fn pragma(&self, name: &str) -> String {
        let crate::database::Pool::Sqlite(pool) = self.pool() else { return String::new() };
        let sql = sqlx::AssertSqlSafe(format!("SELECT CAST({name} AS TEXT) FROM pragma_{name}"));
        sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap()
    }
}
