//! The committer against a naive model: whatever happens, a table has each key of its source exactly once.

mod model;
mod schema;

use super::*;
use crate::testing::{Row, Swap, World, batch, rows, spec};
use crate::{Incompatible, read_back};

const DAY: i64 = 86_400_000_000;

fn row(offset: i64, time: i64) -> Row {
    Row { partition: 0, offset: Some(offset), time, rule: "hot".to_owned(), number: 0.5 }
}

fn from(first: i64, count: i64) -> Vec<Row> {
    (first..first + count).map(|offset| row(offset, offset * 1000)).collect()
}

async fn open(world: &World) -> Committer {
    Committer::open(&world.archive(), spec(&[]), &WriteOptions::default()).await.unwrap()
}

async fn table(world: &World) -> Table {
    world.archive().catalog().load("acme_sensors_events").await.unwrap().unwrap()
}

async fn read(world: &World) -> Vec<Row> {
    rows(&read_back(&table(world).await).await.unwrap())
}

fn committed(outcome: Outcome) -> Committed {
    let Outcome::Committed(committed) = outcome else { panic!("{outcome:?}") };
    committed
}

#[tokio::test]
async fn what_is_committed_is_read_back_and_the_table_says_where_to_go_on() {
    let world = World::default();
    let mut committer = open(&world).await;
    assert_eq!(committer.resume(0), None);
    assert_eq!(committer.commit().await.unwrap(), Outcome::Nothing);

    committer.append(0, 0, 20, batch(&from(0, 20))).await.unwrap();
    assert_eq!((committer.resume(0), committer.buffered().rows), (Some(20), 20));
    assert_eq!(open(&world).await.resume(0), None, "nothing is committed yet");
    let outcome = committed(committer.commit().await.unwrap());
    assert_eq!((outcome.rows, outcome.files), (20, 1));

    assert_eq!(read(&world).await, from(0, 20));
    assert_eq!(open(&world).await.resume(0), Some(20));
    let table = table(&world).await;
    let snapshot = table.metadata().current_snapshot().unwrap();
    assert_eq!(Some(snapshot.snapshot_id()), outcome.snapshot);
    let summary = &snapshot.summary().additional_properties;
    assert_eq!(summary.get("phronis.ranges").map(String::as_str), Some(r#"{"0":[0,20]}"#));
    assert_eq!(summary.get("phronis.topic-id").map(String::as_str), Some("one"));
}

#[tokio::test]
async fn rows_of_another_place_are_not_taken() {
    let world = World::default();
    let mut committer = open(&world).await;
    committer.append(0, 5, 7, batch(&from(5, 2))).await.unwrap();
    for (first, next) in [(6, 8), (8, 9), (7, 6)] {
        let error = committer.append(0, first, next, batch(&[])).await.unwrap_err();
        assert!(matches!(error, Error::Moved { expected: Some(7), .. }), "{error}");
    }
    committer.append(0, 7, 9, batch(&[])).await.unwrap();
    assert_eq!(committer.resume(0), Some(9));
    assert_eq!(committed(committer.commit().await.unwrap()).rows, 2);
}

#[tokio::test]
async fn a_range_without_rows_moves_the_table_on() {
    let world = World::default();
    let mut committer = open(&world).await;
    committer.append(3, 0, 100, batch(&[])).await.unwrap();
    assert_eq!(committed(committer.commit().await.unwrap()).files, 0);
    assert_eq!(open(&world).await.resume(3), Some(100));
}

#[tokio::test]
async fn an_event_that_comes_again_is_there_once() {
    let world = World::default();
    let mut committer = open(&world).await;
    committer.append(0, 0, 10, batch(&from(0, 10))).await.unwrap();
    committer.append(0, 10, 15, batch(&from(5, 5))).await.unwrap();
    assert_eq!(committed(committer.commit().await.unwrap()).rows, 10);
    // One that was not there when its neighbours came, beside two that were.
    committer.append(0, 15, 30, batch(&from(20, 5))).await.unwrap();
    committer.commit().await.unwrap();
    committer.append(0, 30, 33, batch(&[row(3, 0), row(15, 0), row(22, 0)])).await.unwrap();
    assert_eq!(committed(committer.commit().await.unwrap()).rows, 1);
    let found: Vec<_> = read(&world).await.iter().filter_map(|row| row.offset).collect();
    assert_eq!(found, (0..10).chain([15]).chain(20..25).collect::<Vec<_>>());
}

#[tokio::test]
async fn rows_of_one_origin_are_told_apart_by_their_key() {
    let world = World::default();
    let mut committer = Committer::open(&world.archive(), spec(&["rule"]), &WriteOptions::default()).await.unwrap();
    let named = |offset, rule: &str| Row { rule: rule.to_owned(), ..row(offset, 7) };
    committer.append(0, 0, 2, batch(&[named(1, "cold"), named(1, "hot")])).await.unwrap();
    committer.commit().await.unwrap();
    committer.append(0, 2, 5, batch(&[named(1, "cold"), named(1, "wet"), named(1, "wet")])).await.unwrap();
    committer.commit().await.unwrap();
    let found: Vec<_> = read(&world).await.into_iter().map(|row| row.rule).collect();
    assert_eq!(found, ["cold", "hot", "wet"]);
}

#[tokio::test]
async fn rows_without_an_origin_are_never_duplicates() {
    let world = World::default();
    let mut committer = open(&world).await;
    let nowhere = Row { offset: None, ..row(0, 1) };
    committer.append(0, 0, 2, batch(&[nowhere.clone(), nowhere.clone()])).await.unwrap();
    committer.commit().await.unwrap();
    committer.append(0, 2, 3, batch(std::slice::from_ref(&nowhere))).await.unwrap();
    committer.commit().await.unwrap();
    assert_eq!(read(&world).await, vec![nowhere; 3]);
}

#[tokio::test]
async fn a_commit_that_nobody_heard_of_is_found() {
    let world = World::default();
    let mut committer = open(&world).await;
    committer.append(0, 0, 4, batch(&from(0, 4))).await.unwrap();
    world.swaps(&[Swap::Unheard]);
    assert_eq!(committed(committer.commit().await.unwrap()).rows, 4);
    committer.append(0, 4, 8, batch(&from(4, 4))).await.unwrap();
    world.swaps(&[Swap::Lost]);
    assert_eq!(committed(committer.commit().await.unwrap()).rows, 4);
    assert_eq!(read(&world).await, from(0, 8));
}

#[tokio::test]
async fn what_was_appended_after_an_unknown_outcome_is_not_taken_for_committed() {
    let world = World::default();
    let mut committer = open(&world).await;
    committer.append(0, 0, 4, batch(&from(0, 4))).await.unwrap();
    world.swaps(&[Swap::Cut]);
    assert!(committer.commit().await.is_err());
    committer.append(0, 4, 8, batch(&from(4, 4))).await.unwrap();
    world.heal();
    assert_eq!(committer.commit().await.unwrap(), Outcome::Fenced);
    assert_eq!(committer.resume(0), Some(4));
    committer.append(0, 4, 8, batch(&from(4, 4))).await.unwrap();
    assert_eq!(committed(committer.commit().await.unwrap()).rows, 4);
    assert_eq!(read(&world).await, from(0, 8));
}

#[tokio::test]
async fn two_committers_of_one_partition_fence_each_other() {
    let world = World::default();
    let (mut one, mut other) = (open(&world).await, open(&world).await);
    one.append(0, 0, 4, batch(&from(0, 4))).await.unwrap();
    other.append(0, 0, 6, batch(&from(0, 6))).await.unwrap();
    committed(one.commit().await.unwrap());
    assert_eq!(other.commit().await.unwrap(), Outcome::Fenced);
    assert_eq!((other.resume(0), other.buffered().rows), (Some(4), 0));
    other.append(0, 4, 6, batch(&from(4, 2))).await.unwrap();
    committed(other.commit().await.unwrap());
    assert_eq!(read(&world).await, from(0, 6));
}

#[tokio::test]
async fn committers_of_other_partitions_only_race() {
    let world = World::default();
    let (mut one, mut other) = (open(&world).await, open(&world).await);
    let second: Vec<Row> = from(0, 3).into_iter().map(|row| Row { partition: 1, ..row }).collect();
    one.append(0, 0, 4, batch(&from(0, 4))).await.unwrap();
    other.append(1, 0, 3, batch(&second)).await.unwrap();
    committed(one.commit().await.unwrap());
    committed(other.commit().await.unwrap());
    assert_eq!(read(&world).await, [from(0, 4), second].concat());
    let next = open(&world).await;
    assert_eq!((next.resume(0), next.resume(1)), (Some(4), Some(3)));
}

#[tokio::test]
async fn two_hundred_days_and_the_ends_of_time_are_one_commit() {
    let world = World::default();
    let mut committer = open(&world).await;
    let mut all: Vec<Row> = (0..400).map(|number| row(number, (number % 200) * DAY + number)).collect();
    all.push(row(400, i64::MAX));
    all.push(row(401, i64::MIN));
    all.push(row(402, -1));
    committer.append(0, 0, 403, batch(&all)).await.unwrap();
    let outcome = committed(committer.commit().await.unwrap());
    assert_eq!((outcome.rows, outcome.files), (403, 203));
    all[400].time = 253_402_300_799_999_999;
    all[401].time = -62_135_596_800_000_000;
    assert_eq!(read(&world).await, rows(&[batch(&all)]));
}

#[tokio::test]
async fn a_file_ends_where_it_is_full() {
    let world = World::default();
    let options = WriteOptions { file_bytes: 64 << 10, ..WriteOptions::default() };
    let mut committer = Committer::open(&world.archive(), spec(&[]), &options).await.unwrap();
    let all: Vec<Row> =
        (0..40_000).map(|offset| Row { rule: format!("{:x}", offset * 7919), ..row(offset, offset) }).collect();
    committer.append(0, 0, 40_000, batch(&all)).await.unwrap();
    let outcome = committed(committer.commit().await.unwrap());
    assert!(outcome.files > 1, "{outcome:?}");
    assert_eq!(read(&world).await, all);
}

#[tokio::test]
async fn storage_that_fails_on_every_kth_call_loses_nothing_and_doubles_nothing() {
    for every in [2, 3, 5, 7] {
        let world = World::default();
        let mut committer = open(&world).await;
        world.storage_fails(every);
        let mut next = 0;
        while next < 60 {
            let mut rows = from(next, 6);
            // Each batch has two that came before.
            rows.extend(from((next - 8).max(0), 2));
            if committer.append(0, next, next + 6, batch(&rows)).await.is_ok() {
                next += 6;
            }
            for _ in 0..200 {
                if committer.commit().await.is_ok() {
                    break;
                }
            }
        }
        world.heal();
        committer.commit().await.unwrap();
        assert_eq!(read(&world).await, from(0, 60), "every {every}th call fails");
    }
}

#[tokio::test]
async fn a_catalog_that_is_away_costs_nothing_but_time() {
    let world = World::default();
    let mut committer = open(&world).await;
    committer.append(0, 0, 4, batch(&from(0, 4))).await.unwrap();
    world.catalog_is_away(true);
    let error = committer.commit().await.unwrap_err();
    assert!(matches!(error, Error::CatalogUnreachable { .. }), "{error}");
    assert_eq!(committer.resume(0), Some(4));
    world.catalog_is_away(false);
    assert_eq!(committed(committer.commit().await.unwrap()).rows, 4);
}

/// A REST catalog gives credentials with each table that is loaded, and they end.
#[tokio::test]
async fn files_are_written_with_what_the_newest_table_brings() {
    let (world, ended) = (World::default(), World::default());
    let mut committer = open(&world).await;
    drop(open(&ended).await);
    let io = table(&ended).await.file_io().clone();
    ended.storage_fails(1);
    committer.target = Arc::new(committer.target.through(&io));
    committer.append(0, 0, 4, batch(&from(0, 4))).await.unwrap();
    assert!(committer.commit().await.is_err(), "the way to storage is closed");
    assert_eq!(committed(committer.commit().await.unwrap()).rows, 4);
    assert_eq!(read(&world).await, from(0, 4));
}

#[tokio::test]
async fn another_topic_of_the_same_name_is_noticed() {
    let world = World::default();
    let mut committer = open(&world).await;
    committer.append(0, 0, 4, batch(&from(0, 4))).await.unwrap();
    committer.commit().await.unwrap();
    let mut other = spec(&[]);
    other.source.identity = "two".to_owned();
    let error = Committer::open(&world.archive(), other, &WriteOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::TopicChanged { .. }), "{error}");
    assert!(error.to_string().contains("(one)") && error.to_string().contains("(two)"), "{error}");
}

#[tokio::test]
async fn what_is_dropped_is_read_again() {
    let world = World::default();
    let mut committer = open(&world).await;
    committer.append(0, 0, 4, batch(&from(0, 4))).await.unwrap();
    committer.flush().await.unwrap();
    committer.append(0, 4, 6, batch(&from(4, 2))).await.unwrap();
    committer.discard().await.unwrap();
    assert_eq!((committer.resume(0), committer.buffered().files), (None, 0));
    assert_eq!(committer.commit().await.unwrap(), Outcome::Nothing);
    committer.append(0, 0, 6, batch(&from(0, 6))).await.unwrap();
    committer.commit().await.unwrap();
    assert_eq!(read(&world).await, from(0, 6));
}

#[tokio::test]
async fn a_full_buffer_goes_to_storage_while_the_next_one_fills() {
    let world = World::default();
    let options = WriteOptions { buffer_bytes: 4096, ..WriteOptions::default() };
    let mut committer = Committer::open(&world.archive(), spec(&[]), &options).await.unwrap();
    for first in (0..2000).step_by(20) {
        committer.append(0, first, first + 20, batch(&from(first, 20))).await.unwrap();
        assert!(committer.buffered().bytes < 3 * 4096, "{:?}", committer.buffered());
    }
    assert!(committer.buffered().files > 10);
    assert_eq!(committed(committer.commit().await.unwrap()).rows, 2000);
    assert_eq!(read(&world).await, from(0, 2000));
    // A storage that is away holds the source back.
    world.storage_fails(1);
    let mut next = 2000;
    while committer.append(0, next, next + 20, batch(&from(next, 20))).await.is_ok() {
        next += 20;
    }
    assert_eq!(committer.resume(0), Some(next));
    assert!(committer.buffered().bytes < 3 * 4096);
    world.heal();
    committer.commit().await.unwrap();
    assert_eq!(read(&world).await, from(0, next));
}

#[tokio::test]
async fn what_waited_for_too_long_is_read_again() {
    let world = World::default();
    let mut committer = open(&world).await;
    committer.append(0, 0, 5, batch(&from(0, 5))).await.unwrap();
    committer.commit().await.unwrap();
    committer.append(0, 5, 9, batch(&from(5, 4))).await.unwrap();
    committer.flush().await.unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(13 * 3600);
    committer.plan.since = committer.plan.since.map(|(steady, _)| (steady, long_ago));
    assert_eq!(committer.commit().await.unwrap(), Outcome::Fenced, "upkeep may have removed its files");
    assert_eq!(committer.resume(0), Some(5));
    committer.append(0, 5, 9, batch(&from(5, 4))).await.unwrap();
    assert_eq!(committed(committer.commit().await.unwrap()).rows, 4);
    assert_eq!(read(&world).await, from(0, 9));
}
