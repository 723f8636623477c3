//! Topics and groups in the file: loading, making, registering, forgetting.
//!
//! Everything that changes runs on the writer's thread, so that memory and file agree.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use phronis_core::records::TopicName;
use rusqlite::{Connection, params};

use super::catalog::{Catalog, Partition, Topic, View, lock};
use super::source::share;
use super::writer::Writer;
use super::{GroupPosition, db};
use crate::{Error, Result, Retention, Start, Subscription, TopicSpec};

/// Gives every topic without an identity one. They stand in `meta`, where a version that knows none passes them over.
const IDENTIFY: &str =
    "INSERT OR IGNORE INTO meta SELECT 'topic-identity/' || id, lower(hex(randomblob(16))) FROM topics";

/// The identity of a topic.
const IDENTITY: &str = "SELECT value FROM meta WHERE name = 'topic-identity/' || ?";

/// Reads topics and groups.
pub(super) fn load(db: &Connection) -> Result<Catalog> {
    let catalog = Catalog::default();
    let read = || -> rusqlite::Result<()> {
        db.execute(IDENTIFY, [])?;
        let mut topics = db.prepare("SELECT id, name, age_ms, bytes, compact FROM topics")?;
        let mut rows = topics.query([])?;
        while let Some(row) = rows.next()? {
            let age_ms: Option<i64> = row.get(2)?;
            let bytes: Option<i64> = row.get(3)?;
            let retention = Retention {
                age: age_ms.map(|ms| Duration::from_millis(ms.unsigned_abs())),
                bytes: bytes.map(i64::unsigned_abs),
                compact: row.get(4)?,
            };
            let name: TopicName = row.get::<_, String>(1)?.into();
            let id = row.get(0)?;
            let partitions = partitions(db, id, &name)?;
            let identity = db.query_row(IDENTITY, [id], |row| row.get(0))?;
            catalog.insert(Topic { id, name, identity, retention: Mutex::new(retention), partitions });
        }
        let mut positions = db.prepare("SELECT member_group, partition_id, committed FROM positions")?;
        let mut rows = positions.query([])?;
        let mut groups = lock(&catalog.groups);
        while let Some(row) = rows.next()? {
            let group: Arc<str> = row.get::<_, String>(0)?.into();
            groups.entry(group).or_default().insert(row.get(1)?, row.get(2)?);
        }
        Ok(())
    };
    read().map_err(db::failed("reading the log's topics"))?;
    Ok(catalog)
}

/// The time of the last append, which the clock may not fall behind.
pub(super) fn newest_ms(db: &Connection) -> Result<i64> {
    db.query_row("SELECT coalesce((SELECT appended_at FROM batches ORDER BY id DESC LIMIT 1), 0)", [], |row| row.get(0))
        .map_err(db::failed("reading the log's last append"))
}

/// Makes a topic, or changes the retention of the one that is there.
pub(super) fn create(writer: &mut Writer, spec: &TopicSpec) -> Result<()> {
    let Retention { age, bytes, compact } = spec.retention;
    let age_ms = age.map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
    let bytes = bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    if let Ok(topic) = writer.shared.catalog.topic(&spec.name) {
        let actual = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        if actual != spec.partitions {
            return Err(Error::PartitionsDiffer { topic: spec.name.to_string(), actual, wanted: spec.partitions });
        }
        if *lock(&topic.retention) == spec.retention {
            return Ok(());
        }
        writer.transaction("changing a topic", |db| {
            db.execute(
                "UPDATE topics SET age_ms = ?, bytes = ?, compact = ? WHERE id = ?",
                params![age_ms, bytes, compact, topic.id],
            )
        })?;
        *lock(&topic.retention) = spec.retention;
        return Ok(());
    }
    let (id, identity, partitions) = writer.transaction("making a topic", |db| {
        db.execute(
            "INSERT INTO topics (name, age_ms, bytes, compact) VALUES (?, ?, ?, ?)",
            params![spec.name, age_ms, bytes, compact],
        )?;
        let id = db.last_insert_rowid();
        for number in 0..spec.partitions {
            db.execute(
                "INSERT INTO partitions (topic_id, number, earliest, latest, bytes) VALUES (?, ?, 0, 0, 0)",
                params![id, number],
            )?;
        }
        db.execute(IDENTIFY, [])?;
        let identity = db.query_row(IDENTITY, [id], |row| row.get(0))?;
        Ok((id, identity, partitions(db, id, &spec.name)?))
    })?;
    let (name, retention) = (Arc::clone(&spec.name), Mutex::new(spec.retention));
    writer.shared.catalog.insert(Topic { id, name, identity, retention, partitions });
    Ok(())
}

/// The partitions of a subscription's topics that fall to its member.
pub(super) fn mine(catalog: &Catalog, subscription: &Subscription) -> Result<Vec<Arc<Partition>>> {
    let (member, members) = (usize::try_from(subscription.member), usize::try_from(subscription.members));
    let (Ok(member), Ok(members)) = (member, members) else {
        return Err(Error::Invalid("a group's members are counted from 0".to_owned()));
    };
    if member >= members {
        return Err(Error::Invalid(format!("member {member} of a group of {members}: they are counted from 0")));
    }
    let mut topics = Vec::with_capacity(subscription.topics.len());
    for name in subscription.topics.iter().chain(&subscription.beside) {
        topics.push(catalog.topic(name)?);
    }
    let count = topics.first().map_or(0, |topic| topic.partitions.len());
    if let Some(other) = topics.iter().find(|topic| topic.partitions.len() != count) {
        return Err(Error::PartitionsDiffer {
            topic: other.name.to_string(),
            actual: i32::try_from(other.partitions.len()).unwrap_or(i32::MAX),
            wanted: i32::try_from(count).unwrap_or(i32::MAX),
        });
    }
    let range = share(count, member, members);
    Ok(topics.iter().flat_map(|topic| topic.partitions.get(range.clone()).unwrap_or_default()).cloned().collect())
}

/// Gives a group a position in every partition where it has none: from now on retention keeps what it has not committed.
pub(super) fn register(writer: &mut Writer, group: &Arc<str>, topics: &[TopicName], start: Start) -> Result<()> {
    let catalog = &writer.shared.catalog;
    let mut new = Vec::new();
    for name in topics {
        for partition in &catalog.topic(name)?.partitions {
            if catalog.committed(group, partition).is_none() {
                let info = partition.info();
                new.push((partition.id, if start == Start::Earliest { info.earliest } else { info.latest }));
            }
        }
    }
    if new.is_empty() {
        return Ok(());
    }
    writer.transaction("registering a group", |db| {
        for (partition, position) in &new {
            db.prepare_cached("INSERT INTO positions VALUES (?, ?, ?)")?
                .execute(params![group, partition, position])?;
        }
        Ok(())
    })?;
    lock(&writer.shared.catalog.groups).entry(Arc::clone(group)).or_default().extend(new);
    Ok(())
}

/// Removes a group.
pub(super) fn forget(writer: &mut Writer, group: &Arc<str>) -> Result<()> {
    writer
        .transaction("forgetting a group", |db| db.execute("DELETE FROM positions WHERE member_group = ?", [group]))?;
    lock(&writer.shared.catalog.groups).remove(group);
    Ok(())
}

/// Where all groups stand.
pub(super) fn groups(catalog: &Catalog) -> Vec<GroupPosition> {
    let topics = catalog.all();
    let groups = lock(&catalog.groups);
    let mut stands = Vec::new();
    for (group, positions) in groups.iter() {
        for partition in topics.iter().flat_map(|topic| &topic.partitions) {
            if let Some(committed) = positions.get(&partition.id) {
                stands.push(GroupPosition {
                    group: Arc::clone(group),
                    topic: Arc::clone(&partition.topic),
                    partition: partition.number,
                    committed: *committed,
                });
            }
        }
    }
    stands.sort();
    stands
}

fn partitions(db: &Connection, topic: i64, name: &TopicName) -> rusqlite::Result<Vec<Arc<Partition>>> {
    db.prepare_cached("SELECT id, number, earliest, latest, bytes FROM partitions WHERE topic_id = ? ORDER BY number")?
        .query_map([topic], |row| {
            let earliest = row.get(2)?;
            let view = View {
                earliest,
                latest: row.get(3)?,
                bytes: row.get::<_, i64>(4)?.unsigned_abs(),
                compacted: (earliest, 0),
                tail: VecDeque::new(),
            };
            Ok(Arc::new(Partition {
                id: row.get(0)?,
                topic: Arc::clone(name),
                number: row.get(1)?,
                view: Mutex::new(view),
                bells: Mutex::default(),
            }))
        })?
        .collect()
}
