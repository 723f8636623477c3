//! Killed between each two steps that are not one: a test a place, so that they run beside each other.

use phronis_tests::sweep::{self, Base};

macro_rules! killed_at {
    ($base:expr, $($test:ident = $place:literal,)*) => {
        const SWEPT: &[&str] = &[$($place),*];

        $(#[test]
        fn $test() -> anyhow::Result<()> {
            sweep::run($base, $place)
        })*
    };
}

#[test]
fn every_place_is_swept() {
    for (place, ..) in sweep::PLACES {
        assert!(SWEPT.contains(place), "{place} is not swept");
    }
}

killed_at! {
    Base::Local,
    killed_before_letters_are_moved = "letters-due",
    killed_after_letters_are_moved = "letters-moved",
    killed_before_letters_are_answered = "letters-judged",
    killed_after_letters_are_answered = "letters-answered",
    killed_before_the_last_attempt_is_moved = "last-letters-due",
    killed_after_the_last_attempt_is_moved = "last-letters-moved",
    killed_before_the_last_attempt_is_parked = "last-letters-judged",
    killed_after_the_last_attempt_is_parked = "last-letters-answered",
    killed_in_a_redrive = "redrive-stepped",
    killed_after_a_redrive_is_noted = "redrive-noted",
    killed_after_a_discard = "discard-written",
    killed_after_an_edit = "edit-posted",
    killed_before_events_that_waited_go_on = "order-due",
    killed_after_events_that_waited_go_on = "order-moved",
    killed_before_a_halt_is_stored = "halt-begun",
    killed_after_a_halt_is_stored = "halt-stored",
    killed_after_a_halt_is_told = "halt-told",
    killed_after_a_reset_is_stored = "reset-stored",
    killed_after_a_file_of_the_archive_is_written = "archive-file-written",
    killed_after_all_files_of_the_archive_are_written = "archive-files-written",
    killed_after_a_manifest_of_the_archive_is_written = "archive-manifest-written",
    killed_after_the_manifest_list_of_the_archive_is_written = "archive-list-written",
    killed_after_the_metadata_of_the_archive_is_written = "archive-metadata-written",
    killed_after_the_archive_is_swapped = "archive-swapped",
    killed_after_the_archive_is_committed = "archive-committed",
    killed_after_snapshots_expired = "archive-expired",
    killed_before_orphans_are_deleted = "archive-orphans-found",
    killed_after_a_file_of_compaction_is_written = "upkeep-archive-file-written",
    killed_after_all_files_of_compaction_are_written = "upkeep-archive-files-written",
    killed_after_a_manifest_of_compaction_is_written = "upkeep-archive-manifest-written",
    killed_after_the_manifest_list_of_compaction_is_written = "upkeep-archive-list-written",
    killed_after_the_metadata_of_upkeep_is_written = "upkeep-archive-metadata-written",
    killed_after_upkeep_is_swapped = "upkeep-archive-swapped",
    killed_after_compaction_is_committed = "upkeep-archive-committed",
}

/// Where transactions, a group, a store that others share and an object store make a difference; `make chaos` sweeps the others there too.
mod on_kafka_with_postgres {
    use phronis_tests::sweep::{self, Base};

    #[test]
    fn what_is_swept_here_is_a_place() {
        assert!(SWEPT.iter().all(|swept| super::SWEPT.contains(swept)));
    }

    killed_at! {
        Base::Remote,
        killed_before_letters_are_moved = "letters-due",
        killed_after_letters_are_moved = "letters-moved",
        killed_before_letters_are_answered = "letters-judged",
        killed_after_letters_are_answered = "letters-answered",
        killed_before_the_last_attempt_is_parked = "last-letters-judged",
        killed_in_a_redrive = "redrive-stepped",
        killed_after_a_redrive_is_noted = "redrive-noted",
        killed_after_a_discard = "discard-written",
        killed_after_an_edit = "edit-posted",
        killed_before_a_halt_is_stored = "halt-begun",
        killed_after_a_halt_is_stored = "halt-stored",
        killed_after_a_halt_is_told = "halt-told",
        killed_after_a_reset_is_stored = "reset-stored",
        killed_after_a_file_of_the_archive_is_written = "archive-file-written",
        killed_after_all_files_of_the_archive_are_written = "archive-files-written",
        killed_after_the_manifest_list_of_the_archive_is_written = "archive-list-written",
        killed_after_the_metadata_of_the_archive_is_written = "archive-metadata-written",
        killed_after_the_archive_is_swapped = "archive-swapped",
        killed_after_snapshots_expired = "archive-expired",
        killed_after_all_files_of_compaction_are_written = "upkeep-archive-files-written",
        killed_after_upkeep_is_swapped = "upkeep-archive-swapped",
    }
}
