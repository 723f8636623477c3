//! Hosts on a real Apache Kafka: every fault of `faults`, and what is asked of several hosts in daily use.

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
    a_killed_broker_is_waited_for
}
