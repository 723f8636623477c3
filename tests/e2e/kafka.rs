//! Hosts on a real Apache Kafka: every fault of `faults`, and what is asked of several hosts in daily use.

#[path = "kafka/commands.rs"]
mod commands;
#[path = "kafka/conformance.rs"]
mod conformance;
#[path = "kafka/hosts.rs"]
mod hosts;
#[path = "kafka/interop.rs"]
mod interop;
#[path = "kafka/letters.rs"]
mod letters;
#[path = "kafka/poison.rs"]
mod poison;
#[path = "kafka/security.rs"]
mod security;
#[path = "kafka/shared.rs"]
mod shared;

use phronis_tests::faults;

/// A test for each scenario.
macro_rules! faults {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() -> anyhow::Result<()> {
            faults::run(stringify!($name))
        })*

        #[test]
        fn every_fault_has_its_test() {
            let tested = [$(stringify!($name)),*];
            assert_eq!(faults::ALL.iter().map(|(name, _)| *name).collect::<Vec<_>>(), tested);
        }
    };
}

faults! {
    three_kills_under_load_lose_nothing
    three_kills_under_load_double_nothing_where_once_is_asked
    a_host_that_sleeps_over_its_session_loses_nothing
    a_host_that_sleeps_over_its_session_doubles_nothing_where_once_is_asked
    three_hosts_come_and_go_under_load
    three_hosts_come_and_go_where_once_is_asked
    a_killed_broker_is_waited_for
    a_broker_that_comes_late_is_waited_for
    a_host_ends_while_its_broker_is_frozen
    a_full_broker_is_back_pressure_and_not_loss
    a_deleted_topic_is_told_and_waited_for
    a_deleted_topic_of_events_is_told_and_what_comes_after_is_judged
    deleted_live_settings_stay_in_force
    a_deleted_control_topic_is_told_and_said_again
    new_partitions_of_raw_wait_for_theirs_in_the_outputs
    an_offset_that_is_gone_stops_its_partition_and_no_other
    an_event_that_is_too_large_becomes_a_letter
    topics_that_take_less_than_a_batch_get_smaller_ones
    a_bad_network_loses_nothing
    many_keys_stay_in_order_over_rebalances
}
