//! Members on librdkafka's own pretence of a broker: what a group may say at a bad time.

use phronis_core::delivery::{Append, Delivery};
use phronis_core::records::RecordsBuilder;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::*;
use crate::Log as _;
use crate::kafka::{Log, Options};

/// Longer than any machine needs.
const LONG: Duration = Duration::from_secs(60);

const ALL: PollLimits = PollLimits { records: 100, bytes: 1 << 20 };

/// A broker with a topic of two partitions, and a log on it.
fn broker() -> (MockCluster<'static, DefaultProducerContext>, Log) {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 2, 1).unwrap();
    let log = Log::open(Options::new(cluster.bootstrap_servers(), "a")).unwrap();
    (cluster, log)
}

fn join(log: &Log) -> (Member, Arc<Inbox>) {
    let (inbox, topics) = (Arc::new(Inbox::default()), [TopicName::from("t")]);
    let (clients, asker) = (&log.0.clients, Arc::clone(&log.0.asker));
    let consumer = Arc::new(clients.member("g", "a", 2, Arc::clone(&inbox) as _).unwrap());
    let (beside, gate) = (Beside::new(&topics, &[]), Gate::new(false));
    let member =
        Member::new(consumer, Arc::clone(&inbox), asker, gate, "g".into(), &topics, beside, Start::Earliest, true);
    (member.unwrap(), inbox)
}

fn assigned(member: &mut Member) -> Vec<(i32, i64)> {
    match member.poll(ALL, LONG).unwrap() {
        Polled::Assigned(places) => places.into_iter().map(|(_, partition, at)| (partition, at)).collect(),
        other => panic!("an assignment was expected, not {other:?}"),
    }
}

fn places(partitions: &[i32]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition("t", *partition);
    }
    list
}

#[test]
fn a_member_that_is_put_out_while_it_takes_over_takes_what_it_was_given() {
    let (cluster, log) = broker();
    let gone = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID;
    cluster.request_errors(RDKafkaApiKey::OffsetCommit, &[gone; 10]);
    let (mut member, _) = join(&log);
    assert_eq!(assigned(&mut member), [(0, 0), (1, 0)], "only then it hears that it is put out");
    cluster.clear_request_errors(RDKafkaApiKey::OffsetCommit);
    drop(member);
    log.close();
}

#[test]
fn a_revoked_partition_that_the_client_does_not_hold_keeps_no_other_from_its_new_owner() {
    let (_cluster, log) = broker();
    let (mut member, inbox) = join(&log);
    assert_eq!(assigned(&mut member).len(), 2);
    member.consumer.incremental_unassign(&places(&[0])).unwrap();
    for is_lost in [false, true] {
        assert!(inbox.rebalanced(Rebalance::Revoke(places(&[0, 1]), is_lost)));
        let told = match member.poll(ALL, Duration::ZERO).unwrap() {
            Polled::Revoked(gone) if !is_lost => gone,
            Polled::Lost(gone) if is_lost => gone,
            other => panic!("{other:?}"),
        };
        assert_eq!(told.len(), 2);
        assert!(matches!(member.poll(ALL, Duration::ZERO).unwrap(), Polled::Idle));
        assert_eq!(member.consumer.assignment().unwrap().count(), 0);
    }
    drop(member);
    log.close();
}

#[test]
fn a_partition_whose_offset_is_gone_is_read_again_also_before_anyone_was_told() {
    let (cluster, log) = broker();
    let mut records = RecordsBuilder::default();
    records.push(0, None, Some(b"there"), &[]);
    let append = Append { topic: "t".into(), partition: 0, records: records.finish() };
    log.sink().unwrap().submit(Delivery { appends: vec![append], commits: Vec::new() }).unwrap().wait().unwrap();
    let (mut member, _) = join(&log);
    assert_eq!(assigned(&mut member).len(), 2);
    assert!(matches!(member.poll(ALL, LONG).unwrap(), Polled::Records(records) if records.len() == 1));
    let (place, until) = (list(&[("t".into(), 0, 0)]).unwrap(), Instant::now() + LONG);
    // A client whose offset is gone cannot seek.
    while member.seek(&place).unwrap() {
        assert!(Instant::now() < until, "the offset is never gone");
        let gone = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE;
        cluster.request_errors(RDKafkaApiKey::Fetch, &[gone]);
        std::thread::sleep(Duration::from_millis(20));
    }
    cluster.clear_request_errors(RDKafkaApiKey::Fetch);
    assert_eq!(member.rewind("t", 0).unwrap(), 0);
    let records = loop {
        match member.poll(ALL, LONG) {
            Ok(Polled::Records(records)) => break records,
            // What was said before is told all the same.
            Err(Error::OutOfRange { .. }) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((records.partition, records.len()), (0, 1));
    drop(member);
    log.close();
}
