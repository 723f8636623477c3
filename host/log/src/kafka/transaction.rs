//! Transactions: what a member's deliveries leave behind, and the offsets that they step to, become visible together.
//!
//! A transaction takes deliveries for as long as more are there, up to a time; then the writer adds the offsets while the records
//! are on their way, waits for all of them, and commits. While it does, the next deliveries gather: under load transactions grow by themselves, without it they are as short as can be.
//! Any error aborts; an error that leaves the outcome open begins anew with another producer, whose start ends the old one's transaction.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer as _;

use super::client::{CALL, TRANSACTION_TIMEOUT, failed};
use super::member::list;
use super::progress::{Place, Step};
use super::writer::{Gate, Sent, Writer};
use crate::{Error, Result};

/// Pause after a failure to begin.
const PAUSE: Duration = Duration::from_millis(500);

/// Kafka finishes a transaction a moment after it has answered for it, and sends away whoever begins the next one before;
/// librdkafka then waits 20 ms. To wait this long first is quicker.
const BREATH: Duration = Duration::from_millis(4);

/// Deliveries of one transaction: fewer than a worker may have under way, so that it can go on while this one is committed.
const MOST_DELIVERIES: usize = 6;

/// With fewer records than this, deliveries are not counted: single events that gathered go together.
const FEW_RECORDS: usize = 512;

/// The member's transactions.
pub(super) struct Transactions {
    gate: Arc<Gate>,
    /// How long one takes deliveries while more are there.
    most: Duration,
    is_ready: bool,
    ended: Instant,
}

impl Transactions {
    pub(super) fn new(gate: Arc<Gate>, most: Duration) -> Self {
        Self { gate, most, is_ready: false, ended: Instant::now() }
    }

    /// One transaction, if something waits.
    pub(super) fn step(&mut self, writer: &mut Writer) {
        writer.outlet.serve();
        if writer.is_too_wide() {
            self.is_ready = false;
            if let Err(error) = writer.renew() {
                tracing::error!(%error, "no producer can be made");
            }
        }
        if !self.is_ready && !self.get_ready(writer) {
            std::thread::sleep(PAUSE);
            return;
        }
        let Some(first) = writer.next_job() else { return };
        std::thread::sleep(BREATH.saturating_sub(self.ended.elapsed()));
        let begun = writer.outlet.producer.begin_transaction();
        let mut sent = vec![writer.send(first)];
        if let Err(error) = begun {
            return self.undo(writer, sent, failed("beginning a transaction", error));
        }
        let until = Instant::now() + self.most;
        let is_small = |sent: &[Sent]| sent.iter().map(Sent::records).sum::<usize>() < FEW_RECORDS;
        while Instant::now() < until && (sent.len() < MOST_DELIVERIES || is_small(&sent)) {
            let Some(job) = writer.next_job() else { break };
            sent.push(writer.send(job));
            writer.outlet.serve();
        }
        match self.commit(writer, &sent) {
            Ok(()) => {
                for sent in sent {
                    let outcome = writer.durable(&sent);
                    writer.answer(sent, outcome);
                }
            }
            Err(error) => self.undo(writer, sent, error),
        }
        self.ended = Instant::now();
    }

    /// Ends whatever an earlier life of this member left open, and takes its place.
    fn get_ready(&mut self, writer: &mut Writer) -> bool {
        match writer.outlet.producer.init_transactions(CALL) {
            Ok(()) => {
                self.is_ready = true;
                self.gate.set(Ok(()));
            }
            Err(error) => {
                let must_renew = !is_retriable(&error);
                let error = failed("getting ready for transactions", error);
                tracing::debug!(%error, "transactions");
                self.gate.set(Err(error));
                if must_renew && let Err(error) = writer.renew() {
                    tracing::error!(%error, "no producer can be made");
                }
            }
        }
        self.is_ready
    }

    fn commit(&self, writer: &Writer, sent: &[Sent]) -> Result<()> {
        if let Some(error) = sent.iter().find_map(Sent::failure) {
            return Err(error);
        }
        let producer = &writer.outlet.producer;
        let places = steps(sent);
        if let Some(member) = writer.member.as_ref().filter(|_| !places.is_empty()) {
            let metadata = member.consumer.group_metadata().ok_or(Error::Closed)?;
            // A partition that was lost and came back since is of the generation that was just read; its old steps are not.
            let is_stale = |step: &&Step| !member.inbox.progress.may_send(step);
            if let Some(step) = sent.iter().flat_map(Sent::steps).find(is_stale) {
                return Err(member.inbox.progress.fenced(&member.group, step));
            }
            producer
                .send_offsets_to_transaction(&list(&places)?, &metadata, CALL)
                .map_err(|error| failed("adding offsets to a transaction", error))?;
        }
        if !writer.await_all(sent, Instant::now() + TRANSACTION_TIMEOUT) {
            return Err(Error::Unreachable {
                reason: "records of a transaction were not acknowledged in time".to_owned(),
            });
        }
        if let Some(error) = sent.iter().find_map(Sent::failure) {
            return Err(error);
        }
        producer.commit_transaction(CALL).map_err(|error| failed("committing a transaction", error))
    }

    /// Nothing of this transaction happened.
    fn undo(&mut self, writer: &mut Writer, sent: Vec<Sent>, error: Error) {
        tracing::debug!(%error, "a transaction is aborted");
        // Records that wait would only be sent to be aborted.
        writer.outlet.producer.purge(rdkafka::producer::PurgeConfig::default().queue().inflight());
        writer.outlet.serve();
        if let Err(open) = writer.outlet.producer.abort_transaction(CALL) {
            tracing::debug!(error = %open, "a transaction was not aborted: its producer is replaced, which ends it");
            self.is_ready = false;
            self.gate.set(Err(failed("aborting a transaction", open)));
            if let Err(error) = writer.renew() {
                tracing::error!(%error, "no producer can be made");
            }
        }
        writer.outlet.serve();
        // What a topic refuses it refuses again: whoever sent it must learn so, whatever else was heard of first.
        let is_refusal = |error: &Error| matches!(error, Error::TooLarge { .. } | Error::UnknownTopic(_));
        let error = sent.iter().flat_map(Sent::failures).find(is_refusal).unwrap_or(error);
        writer.narrow_after(&error);
        for sent in sent {
            writer.answer(sent, Err(error.clone()));
        }
    }
}

/// Where each partition is after these deliveries.
fn steps(sent: &[Sent]) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for step in sent.iter().flat_map(Sent::steps) {
        match places.iter_mut().find(|(topic, partition, _)| *topic == step.topic && *partition == step.partition) {
            Some(place) => place.2 = step.next,
            None => places.push((Arc::clone(&step.topic), step.partition, step.next)),
        }
    }
    places
}

fn is_retriable(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Transaction(error) if error.is_retriable())
}
