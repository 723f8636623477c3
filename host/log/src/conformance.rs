//! What every log must do, as cases that every adapter's tests run.
//!
//! A case gets a log and makes topics of its own, so that one log, also a broker, can serve all of them.
//! Case by case: ordering, atomicity, fencing, groups, limits, retention, positions, wake-ups.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a suite for tests: it fails by panicking, and its numbers are small"
)]

mod deliveries;
mod groups;
mod kit;
mod moving;
mod reading;
mod topics;

pub use self::kit::{ALL, Assigned, append, commit, fresh, member, numbers, polled, read, read_numbers, topic};
use crate::Log;

/// A log, and what it promises beyond what all do.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "its log is a trait object")]
pub struct Subject<'a> {
    /// The log.
    pub log: &'a dyn Log,
    /// How members join.
    pub exactly_once: bool,
    /// Appends and commits of a delivery are seen together or not at all.
    pub is_atomic: bool,
    /// What is durable is there for the next poll, without a way over a network.
    pub is_immediate: bool,
}

/// A case: its name, which is the behaviour, and what checks it.
pub type Case = (&'static str, fn(&Subject<'_>));

/// All cases.
pub const CASES: &[Case] = &[
    ("records_come_back_in_order_with_everything_they_had", deliveries::records_come_back_whole),
    ("offsets_of_a_delivery_follow_each_other_in_every_partition", deliveries::offsets_follow),
    ("an_empty_append_takes_no_offset", deliveries::empty_append),
    ("a_poll_cuts_large_batches_and_joins_small_ones", deliveries::limits_are_kept),
    ("a_record_larger_than_the_limit_comes_alone", deliveries::large_records),
    ("appends_and_commits_are_taken_together_or_not_at_all", deliveries::fenced_commits),
    ("a_part_that_is_refused_takes_the_others_along_where_a_delivery_is_one_step", deliveries::refused_parts),
    ("a_delivery_behind_a_fenced_one_is_fenced_too", deliveries::gaps_are_fenced),
    ("a_bad_delivery_takes_nothing", deliveries::bad_deliveries),
    ("a_group_goes_on_where_it_committed", groups::groups_go_on),
    ("a_new_group_starts_where_it_says", groups::groups_start),
    ("the_members_of_a_group_share_its_partitions", groups::groups_split),
    ("partitions_beside_come_and_go_with_those_of_the_first_topic", groups::beside_follows),
    ("partitions_beside_are_read_committed_and_rewound_like_others", groups::beside_is_read),
    ("work_that_is_under_way_when_partitions_move_is_neither_lost_nor_out_of_order", moving::work_under_way),
    ("partitions_take_turns", groups::partitions_take_turns),
    ("a_rewound_partition_starts_again_at_the_commit", groups::rewinding),
    ("a_paused_partition_waits_and_goes_on_where_it_stood", groups::pausing),
    ("a_reader_starts_by_position", reading::positions),
    ("a_reader_starts_by_time", reading::positions_by_time),
    ("a_follower_reads_whole_topics", reading::following),
    ("a_blocked_poll_wakes_when_records_come", reading::wake_up),
    ("a_partition_ends_behind_what_is_durable", reading::ends_are_behind_what_is_durable),
    ("several_readers_see_the_same_records", reading::several_readers),
    ("deliveries_of_many_threads_are_all_there_in_order", deliveries::many_threads),
    ("topics_are_made_once", topics::topics),
    ("a_topic_has_an_identity_that_no_other_has", topics::identities),
    ("old_records_go_and_offsets_go_on", topics::retention),
];
