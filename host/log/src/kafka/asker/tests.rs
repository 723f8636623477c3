//! Questions to librdkafka's own pretence of a broker.

use rdkafka::mocking::MockCluster;

use super::*;
use crate::kafka::Options;

#[test]
fn a_topic_that_vanished_since_it_was_listed_is_left_out() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 2, 1).unwrap();
    let asker = Asker::new(Arc::new(Clients::new(Options::new(cluster.bootstrap_servers(), "a")))).unwrap();
    asker.pulse();
    let listed = BTreeMap::from([("gone".into(), 3), ("t".into(), 2)]);
    let infos = asker.infos(listed).unwrap();
    assert_eq!(infos.iter().map(|info| (&*info.name, info.partitions.len())).collect::<Vec<_>>(), [("t", 2)]);
}

#[test]
fn a_broker_that_misses_one_question_is_not_away_yet() {
    let cluster = MockCluster::new(1).unwrap();
    let clients = Arc::new(Clients::new(Options::new(cluster.bootstrap_servers(), "a")));
    let asker = Asker::new(Arc::clone(&clients)).unwrap();
    let is_there = || clients.health.check().is_ok();
    asker.pulse();
    assert!(is_there());
    cluster.broker_down(-1).unwrap();
    asker.pulse();
    assert!(is_there(), "a broker may pause for a while");
    asker.pulse();
    assert!(!is_there());
    cluster.broker_up(-1).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while !is_there() {
        assert!(Instant::now() < until, "it never comes back");
        asker.pulse();
    }
}
