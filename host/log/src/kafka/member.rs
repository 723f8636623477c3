//! A member of a consumer group: polls, and answers when Kafka moves partitions.
//!
//! Rebalances are told to the worker before they are answered: a revoked partition is given back at the poll after it was told,
//! when the worker has finished and its offsets are committed; a lost one is dropped at once.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use phronis_core::records::TopicName;
use rdkafka::consumer::{CommitMode, Consumer as _, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;

use super::asker::Asker;
use super::client::{CALL, Consumer, Listener, Rebalance, failed};
use super::lanes::{Lanes, Turn};
use super::progress::{Place, Progress};
use super::writer::Gate;
use crate::{Error, PollLimits, Polled, Result, Source, Start};

/// How long a member may take to leave its group.
const LEAVE: Duration = Duration::from_secs(10);

/// How often a member looks for partitions that should be there.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What Kafka told, and is not answered yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    rebalances: Mutex<VecDeque<Rebalance>>,
    /// Nobody answers any more.
    is_closed: AtomicBool,
    pub(super) progress: Progress,
}

impl Inbox {
    fn take(&self) -> Option<Rebalance> {
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

impl Listener for Inbox {
    fn rebalanced(&self, rebalance: Rebalance) -> bool {
        if self.is_closed.load(Ordering::Relaxed) {
            return false;
        }
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).push_back(rebalance);
        true
    }

    fn committed(&self, outcome: KafkaResult<()>, offsets: &TopicPartitionList) {
        match outcome {
            Ok(()) => {
                for place in offsets.elements() {
                    if let (Ok(()), Offset::Offset(at)) = (place.error(), place.offset()) {
                        self.progress.committed(place.topic(), place.partition(), at);
                    }
                }
            }
            Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => {}
            // It is tried again with the next one; what was not committed is judged again by whoever comes next.
            Err(error) => tracing::warn!(%error, "an offset commit was not taken"),
        }
    }
}

/// What a member reads.
pub(super) struct Member {
    consumer: Arc<Consumer>,
    inbox: Arc<Inbox>,
    lanes: Lanes,
    asker: Arc<Asker>,
    /// The sink's transactions, which must be in order before offsets are read.
    gate: Arc<Gate>,
    group: Arc<str>,
    start: Start,
    beside: Beside,
    /// Revoked partitions that the worker was told of.
    leaving: Option<TopicPartitionList>,
    /// Whether it leaves its group when it ends.
    leaves: bool,
}

/// Topics that are not the group's business: their partitions come and go with those of a topic that is.
#[derive(Debug)]
pub(super) struct Beside {
    lead: Option<TopicName>,
    topics: Vec<TopicName>,
    /// Partitions that are this member's and not there yet: a topic that grew after the first one.
    missing: Vec<(TopicName, i32)>,
    looked: Instant,
}

impl Beside {
    /// Topics beside the first of those that are subscribed to.
    pub(super) fn new(subscribed: &[TopicName], topics: &[TopicName]) -> Self {
        let (lead, topics) = (subscribed.first().cloned(), topics.to_vec());
        Self { lead, topics, missing: Vec::new(), looked: Instant::now() }
    }

    /// What follows the partitions that Kafka names.
    fn followers(&self, partitions: &TopicPartitionList) -> Vec<(TopicName, i32)> {
        let named = names(partitions).into_iter().filter(|(topic, _)| Some(topic) == self.lead.as_ref());
        named.flat_map(|(_, partition)| self.topics.iter().map(move |topic| (Arc::clone(topic), partition))).collect()
    }
}

impl Member {
    #[expect(clippy::too_many_arguments, reason = "each is a part of its own, made by the log")]
    pub(super) fn new(
        consumer: Arc<Consumer>,
        inbox: Arc<Inbox>,
        asker: Arc<Asker>,
        gate: Arc<Gate>,
        group: Arc<str>,
        topics: &[TopicName],
        beside: Beside,
        start: Start,
        leaves: bool,
    ) -> Result<Self> {
        let lanes = Lanes::new(&consumer)?;
        let names: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
        consumer.subscribe(&names).map_err(|error| failed("subscribing", error))?;
        Ok(Self { consumer, inbox, lanes, asker, gate, group, start, beside, leaving: None, leaves })
    }

    /// Lets librdkafka's callbacks run; also says that this member is alive, so it asks even when nothing waits.
    fn serve_events(&self) -> Result<()> {
        let mut is_first = true;
        while std::mem::take(&mut is_first) || self.lanes.events() > 0 {
            match self.consumer.poll(Duration::ZERO) {
                None | Some(Ok(_)) => {}
                Some(Err(error)) => {
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownTopicOrPartition) {
                        return Err(Error::UnknownTopic(format!("a topic of group {}", self.group)));
                    }
                    tracing::debug!(group = %self.group, %error, "a group member");
                }
            }
        }
        // Said at each poll: librdkafka tells it once, and is silent for ever after.
        self.shut_out().map_or(Ok(()), Err)
    }

    /// Why this member can never go on: its group knows another with its name, as after a commit that was under way
    /// while the broker was away.
    fn shut_out(&self) -> Option<Error> {
        let (code, reason) = self.consumer.client().fatal_error()?;
        Some(Error::ShutOut { group: self.group.to_string(), reason: format!("{code}: {reason}") })
    }

    /// Answers what Kafka told; something to tell the worker, if there is.
    fn rebalance(&mut self) -> Result<Option<Polled>> {
        if let Some(leaving) = self.leaving.take() {
            self.give_back(&leaving);
        }
        let Some(next) = self.take_rebalance() else { return self.look_for_missing() };
        match next {
            Rebalance::Assign(partitions) => match self.take_over_all(&partitions) {
                Ok(assigned) => Ok((!assigned.is_empty()).then_some(Polled::Assigned(assigned))),
                Err(error) => {
                    // Asked again at the next poll: the group waits meanwhile.
                    self.put_back(Rebalance::Assign(partitions));
                    Err(error)
                }
            },
            Rebalance::Revoke(partitions, true) => {
                let partitions = self.leaving(&partitions);
                let lost = names(&partitions);
                self.drop_partitions(&partitions);
                Ok((!lost.is_empty()).then_some(Polled::Lost(lost)))
            }
            Rebalance::Revoke(partitions, false) => {
                let partitions = self.leaving(&partitions);
                let revoked = names(&partitions);
                if revoked.is_empty() {
                    self.give_back(&partitions);
                    return Ok(None);
                }
                self.leaving = Some(partitions);
                Ok(Some(Polled::Revoked(revoked)))
            }
        }
    }

    fn take_rebalance(&self) -> Option<Rebalance> {
        self.inbox.take()
    }

    fn put_back(&self, rebalance: Rebalance) {
        self.inbox.rebalances.lock().unwrap_or_else(PoisonError::into_inner).push_front(rebalance);
        self.lanes.ring_events();
    }

    /// Takes over what Kafka names, and what follows it as far as it is there.
    fn take_over_all(&mut self, partitions: &TopicPartitionList) -> Result<Vec<Place>> {
        let mut all = partitions.clone();
        let (there, missing) = self.sorted_by_presence(self.beside.followers(partitions))?;
        for (topic, partition) in &there {
            all.add_partition(topic, *partition);
        }
        let taken = self.take_over(&all)?;
        for (topic, partition) in &missing {
            tracing::warn!(group = %self.group, %topic, partition, "the topic has no such partition yet: `phronis topics check` tells what is missing");
        }
        self.beside.missing.extend(missing);
        Ok(taken)
    }

    /// Partitions that are there, and those that are not.
    #[expect(clippy::type_complexity, reason = "two lists of the same")]
    fn sorted_by_presence(
        &self,
        partitions: Vec<(TopicName, i32)>,
    ) -> Result<(Vec<(TopicName, i32)>, Vec<(TopicName, i32)>)> {
        let mut counts: BTreeMap<TopicName, i32> = BTreeMap::new();
        for topic in &self.beside.topics {
            let last = partitions.iter().filter(|(name, _)| name == topic).map(|(_, partition)| *partition).max();
            // What is known may be older than the partitions.
            if self.asker.partitions(topic).is_ok_and(|known| last >= Some(known)) {
                self.asker.forget(topic);
            }
            let count = match self.asker.partitions(topic) {
                Err(Error::UnknownTopic(_)) => 0,
                other => other?,
            };
            counts.insert(Arc::clone(topic), count);
        }
        Ok(partitions.into_iter().partition(|(topic, partition)| counts.get(topic).is_some_and(|n| partition < n)))
    }

    /// Takes over partitions that were missing, once they are there.
    fn look_for_missing(&mut self) -> Result<Option<Polled>> {
        if self.beside.missing.is_empty() || self.beside.looked.elapsed() < LOOK_EVERY {
            return Ok(None);
        }
        self.beside.looked = Instant::now();
        self.beside.topics.iter().for_each(|topic| self.asker.forget(topic));
        let (there, missing) = self.sorted_by_presence(self.beside.missing.clone())?;
        if there.is_empty() {
            return Ok(None);
        }
        let mut found = TopicPartitionList::new();
        for (topic, partition) in &there {
            found.add_partition(topic, *partition);
        }
        let taken = self.take_over(&found)?;
        self.beside.missing = missing;
        Ok(Some(Polled::Assigned(taken)))
    }

    /// What goes when Kafka takes these partitions: with them what follows them and was taken over.
    fn leaving(&mut self, partitions: &TopicPartitionList) -> TopicPartitionList {
        let mut all = partitions.clone();
        for (topic, partition) in self.beside.followers(partitions) {
            self.beside.missing.retain(|missing| *missing != (Arc::clone(&topic), partition));
            if self.lanes.has(&topic, partition) && all.find_partition(&topic, partition).is_none() {
                all.add_partition(&topic, partition);
            }
        }
        all
    }

    /// Opens the partitions where the group stands.
    fn take_over(&mut self, partitions: &TopicPartitionList) -> Result<Vec<Place>> {
        self.gate.wait(CALL)?;
        let places = self.stands(partitions)?;
        let mut assignment = TopicPartitionList::with_capacity(places.len());
        for (topic, partition, at) in &places {
            self.lanes.open(topic, *partition, *at)?;
            let offset = Offset::Offset(*at);
            assignment.add_partition_offset(topic, *partition, offset).map_err(|error| failed("assigning", error))?;
        }
        let assigned = match self.consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => self.consumer.incremental_assign(&assignment),
            _ => self.consumer.assign(&assignment),
        };
        assigned.map_err(|error| failed("taking over partitions", error))?;
        for (topic, partition, at) in &places {
            self.inbox.progress.assigned(topic, *partition, *at);
        }
        Ok(places)
    }

    /// Where the group stands; where it never was, the start, which is committed so that it stays.
    /// A member that its group has put out meanwhile begins there without: that it loses the partitions is the next thing it hears,
    /// and it hears nothing before it has taken them.
    fn stands(&self, partitions: &TopicPartitionList) -> Result<Vec<Place>> {
        let doing = "reading where the group stands";
        let committed =
            self.consumer.committed_offsets(partitions.clone(), CALL).map_err(|error| failed(doing, error))?;
        let (mut places, mut new) = (Vec::new(), Vec::new());
        for element in committed.elements() {
            element.error().map_err(|error| failed(doing, error))?;
            let topic: TopicName = element.topic().into();
            match element.offset() {
                Offset::Offset(at) => places.push((topic, element.partition(), at)),
                _ => new.push((topic, element.partition())),
            }
        }
        if !new.is_empty() {
            let ends = self.asker.ends(&new, self.start)?;
            let started: Vec<Place> =
                new.into_iter().zip(ends).map(|((topic, partition), at)| (topic, partition, at)).collect();
            let list = list(&started)?;
            match self.consumer.commit(&list, CommitMode::Sync) {
                Err(error) if is_put_out(&error) => {
                    tracing::debug!(group = %self.group, %error, "where to start is not committed");
                }
                outcome => outcome.map_err(|error| failed("committing where to start", error))?,
            }
            places.extend(started);
        }
        places.sort();
        Ok(places)
    }

    /// Commits what is durable of these partitions, and lets go of them.
    fn give_back(&mut self, partitions: &TopicPartitionList) {
        if let Err(error) = self.commit(Some(&names(partitions))) {
            tracing::warn!(group = %self.group, %error, "offsets were not committed before partitions moved: their new owner judges some records again");
        }
        self.drop_partitions(partitions);
    }

    /// Answers on the way out. A client that waits for an answer would never close.
    fn answer_leaving(&mut self, told: &Rebalance) {
        match told {
            Rebalance::Assign(partitions) => {
                let taken = match self.consumer.rebalance_protocol() {
                    RebalanceProtocol::Cooperative => self.consumer.incremental_assign(partitions),
                    _ => self.consumer.assign(partitions),
                };
                if let Err(error) = taken {
                    tracing::debug!(group = %self.group, %error, "leaving");
                }
            }
            Rebalance::Revoke(partitions, _) => {
                let partitions = self.leaving(partitions);
                self.drop_partitions(&partitions);
            }
        }
    }

    /// Lets partitions go, which answers Kafka: whatever happens here, they are someone else's.
    fn drop_partitions(&mut self, partitions: &TopicPartitionList) {
        for (topic, partition) in names(partitions) {
            self.lanes.close(&topic, partition);
            self.inbox.progress.gone(&topic, partition);
        }
        let dropped = match self.consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => self.consumer.incremental_unassign(&self.held(partitions)),
            _ => self.consumer.unassign(),
        };
        if let Err(error) = dropped {
            tracing::error!(group = %self.group, %error, "partitions were not given back");
        }
    }

    /// Those of these partitions that the client holds. It gives back none of a list with any other, and its group would
    /// wait in vain.
    fn held(&self, partitions: &TopicPartitionList) -> TopicPartitionList {
        let Ok(assignment) = self.consumer.assignment() else { return partitions.clone() };
        let mut held = TopicPartitionList::new();
        for (topic, partition) in names(partitions) {
            if assignment.find_partition(&topic, partition).is_some() {
                held.add_partition(&topic, partition);
            }
        }
        held
    }

    /// Commits what is durable, and waits for it. With transactions there is nothing left to commit.
    fn commit(&self, of: Option<&[(TopicName, i32)]>) -> Result<()> {
        if self.gate.is_transactional() {
            return Ok(());
        }
        let places = self.inbox.progress.uncommitted(of);
        if places.is_empty() {
            return Ok(());
        }
        self.consumer.commit(&list(&places)?, CommitMode::Sync).map_err(|error| failed("committing offsets", error))?;
        for (topic, partition, at) in places {
            self.inbox.progress.committed(&topic, partition, at);
        }
        Ok(())
    }

    /// Goes elsewhere in a partition; false where it has no valid offset, so that the client cannot.
    fn seek(&self, place: &TopicPartitionList) -> Result<bool> {
        let doing = "going back";
        let sought = self.consumer.seek_partitions(place.clone(), CALL).map_err(|error| failed(doing, error))?;
        for element in sought.elements() {
            match element.error() {
                Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::State) => return Ok(false),
                outcome => outcome.map_err(|error| failed(doing, error))?,
            }
        }
        Ok(true)
    }

    /// An error of a partition, with what is known of its log; the partition stays stopped.
    fn explained(&self, error: Error) -> Error {
        let Error::OutOfRange { topic, partition, offset, .. } = error else { return error };
        let name: TopicName = topic.as_str().into();
        let end = |start| self.asker.ends(&[(Arc::clone(&name), partition)], start);
        let one = |ends: Result<Vec<i64>>| ends.ok().and_then(|ends| ends.first().copied()).unwrap_or(-1);
        let (earliest, latest) = (one(end(Start::Earliest)), one(end(Start::Latest)));
        Error::OutOfRange { topic, partition, offset, earliest, latest }
    }
}

impl Source for Member {
    fn poll(&mut self, limits: PollLimits, wait: Duration) -> Result<Polled> {
        let until = Instant::now() + wait.min(Duration::from_secs(86_400));
        loop {
            self.serve_events()?;
            if let Some(told) = self.rebalance()? {
                return Ok(told);
            }
            if limits.records == 0 {
                // Records are left where they are; only events are worth waking for.
                let now = Instant::now();
                if now >= until {
                    return Ok(Polled::Idle);
                }
                std::thread::sleep((until - now).min(Duration::from_millis(10)));
                continue;
            }
            match self.lanes.turn(limits) {
                Ok(Turn::Records(records)) => return Ok(Polled::Records(records)),
                Ok(Turn::Events | Turn::End) => continue,
                Ok(Turn::Nothing) => {}
                Err(error) => return Err(self.explained(error)),
            }
            if !self.lanes.wait(until) {
                return Ok(Polled::Idle);
            }
        }
    }

    fn rewind(&mut self, topic: &str, partition: i32) -> Result<i64> {
        let mut at = self.inbox.progress.rewind(topic, partition)?;
        let name: TopicName = topic.into();
        if self.gate.is_transactional() {
            // A transaction whose end was not heard of may have been committed all the same: only Kafka knows.
            self.gate.wait(CALL)?;
            let mut one = TopicPartitionList::new();
            one.add_partition(topic, partition);
            at = self.stands(&one)?.first().map_or(at, |(_, _, at)| *at);
            self.inbox.progress.assigned(&name, partition, at);
        }
        let place = list(&[(Arc::clone(&name), partition, at)])?;
        if self.seek(&place)? {
            self.lanes.moved(topic, partition, at);
            return Ok(at);
        }
        // It is given back to the client and taken anew.
        let doing = "reading a partition again";
        self.consumer.incremental_unassign(&self.held(&place)).map_err(|error| failed(doing, error))?;
        self.lanes.reopen(&name, partition, at)?;
        self.consumer.incremental_assign(&place).map_err(|error| failed(doing, error))?;
        Ok(at)
    }

    fn pause(&mut self, topic: &str, partition: i32, is_paused: bool) {
        self.lanes.pause(topic, partition, is_paused);
    }
}

impl Drop for Member {
    /// What is durable is committed. Leaves the group, so that partitions are handed over at once, or keeps its place in it.
    fn drop(&mut self) {
        let is_shut_out = self.shut_out().is_some();
        if !is_shut_out && let Err(error) = self.commit(None) {
            tracing::warn!(group = %self.group, %error, "the last offsets were not committed: some records are judged again");
        }
        if is_shut_out || !self.leaves {
            // Its partitions are someone else's, or wait for it. They are let go of here all the same, and what Kafka told is
            // answered: closing waits for that. A static member says nothing to its group when its client closes.
            self.inbox.is_closed.store(true, Ordering::Relaxed);
            let leaving = self.leaving.take().map(|leaving| Rebalance::Revoke(leaving, false));
            for told in leaving.into_iter().chain(std::iter::from_fn(|| self.inbox.take())).collect::<Vec<_>>() {
                self.answer_leaving(&told);
            }
            if let Err(error) = self.consumer.unassign() {
                tracing::debug!(group = %self.group, %error, "leaving");
            }
            return;
        }
        if let Some(leaving) = self.leaving.take() {
            self.answer_leaving(&Rebalance::Revoke(leaving, false));
        }
        self.consumer.unsubscribe();
        let until = Instant::now() + LEAVE;
        loop {
            while let Some(told) = self.take_rebalance() {
                self.answer_leaving(&told);
            }
            if self.lanes.is_empty() || Instant::now() >= until {
                break;
            }
            if let Err(error) = self.serve_events() {
                tracing::debug!(group = %self.group, %error, "leaving");
                break;
            }
            self.lanes.wait((Instant::now() + Duration::from_millis(50)).min(until));
        }
        // What Kafka tells from now on, while the client closes, is answered where it is heard.
        self.inbox.is_closed.store(true, Ordering::Relaxed);
        while let Some(told) = self.take_rebalance() {
            self.answer_leaving(&told);
        }
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("group", &self.group).finish_non_exhaustive()
    }
}

/// Offsets in librdkafka's form.
pub(super) fn list(places: &[Place]) -> Result<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(places.len());
    for (topic, partition, at) in places {
        let added = list.add_partition_offset(topic, *partition, Offset::Offset(*at));
        added.map_err(|error| failed("naming offsets", error))?;
    }
    Ok(list)
}

/// Whether the group does not know this member any more.
fn is_put_out(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{FencedInstanceId, IllegalGeneration, UnknownMemberId};
    matches!(error.rdkafka_error_code(), Some(UnknownMemberId | IllegalGeneration | FencedInstanceId))
}

fn names(partitions: &TopicPartitionList) -> Vec<(TopicName, i32)> {
    partitions.elements().iter().map(|element| (element.topic().into(), element.partition())).collect()
}

#[cfg(test)]
mod tests;
