//! Takes this host's node id, unless another live host has it.
//!
//! Two hosts with one node id would take each other's place in consumer groups and abort each other's transactions.
//! The younger one yields. What was said last decides; of two that start together, what stands first in the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use phronis_core::code;
use phronis_core::partition::CONTROL_TOPIC;
use phronis_log::{Log, Sink};

use super::record::{Me, Record, Said, delivery, said};
use crate::clock::now_ms;
use crate::opening::Trouble;
use crate::readiness::{Fatal, Reason};
use crate::whole::{Whole, settled};

/// A host whose last word is older than this is taken for dead: three of its heartbeats.
const FRESH_MS: i64 = 15_000;

/// How long to listen for a host that may be dead: two of its heartbeats, and some.
const LISTEN: Duration = Duration::from_secs(12);

/// The way to a node id of one's own.
pub(crate) struct Claim {
    log: Arc<dyn Log>,
    sink: Arc<dyn Sink>,
    me: Arc<Me>,
    /// The offset of what this host said first; negative before.
    pub(crate) claimed_at: Arc<AtomicI64>,
}

impl Claim {
    pub(crate) fn new(log: Arc<dyn Log>, sink: Arc<dyn Sink>, me: Arc<Me>) -> Self {
        Self { log, sink, me, claimed_at: Arc::new(AtomicI64::new(-1)) }
    }

    /// Takes the node id. Blocks while it is not clear whether its last holder lives; `tell` hears of that.
    pub(crate) fn take(&self, should_stop: &AtomicBool, tell: impl Fn(Reason)) -> Result<(), Trouble> {
        let mut control = Whole::open(self.log.as_ref(), CONTROL_TOPIC)?;
        let mut last = None;
        control.read_to_end(self.log.as_ref(), should_stop, |records| {
            last = self.newest(&records).or_else(|| last.take())
        })?;
        if let Some(holder) = last.as_ref().and_then(|said| said.record.as_ref()).filter(|record| self.may_live(record))
        {
            let message = format!(
                "listens whether the last holder of the node id `{}` lives ({})",
                holder.node_id,
                holder.place()
            );
            tell(Reason { code: code::NODE_ID_TAKEN, message });
            self.listen(&mut control, should_stop)?;
        }
        let seen = last.map_or(-1, |said| said.offset);
        let ours = self.say_first(should_stop)?;
        // Whoever said it between our reading and our word was first.
        let mut first = None;
        control.read_to_end(self.log.as_ref(), should_stop, |records| {
            let others = said(&records).filter(|said| (seen + 1..ours).contains(&said.offset));
            first = others.filter_map(|said| self.others(said.record?)).last().or_else(|| first.take());
        })?;
        if let Some(holder) = first {
            return Err(self.taken(&holder));
        }
        self.claimed_at.store(ours, Ordering::Relaxed);
        Ok(())
    }

    /// Waits for a sign of life.
    fn listen(&self, control: &mut Whole, should_stop: &AtomicBool) -> Result<(), Trouble> {
        let until = Instant::now() + LISTEN;
        while Instant::now() < until {
            if should_stop.load(Ordering::Relaxed) {
                return Err(Trouble::Stopped);
            }
            let Some(records) = control.next(self.log.as_ref())? else { continue };
            match self.newest(&records) {
                Some(Said { record: None, .. }) => return Ok(()),
                Some(Said { record: Some(record), .. }) => {
                    if let Some(holder) = self.others(record) {
                        return Err(self.taken(&holder));
                    }
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Writes the first word, and says where it stands.
    fn say_first(&self, should_stop: &AtomicBool) -> Result<i64, Trouble> {
        let now = now_ms();
        let record = self.me.record(Vec::new(), now);
        let ticket = self.sink.try_submit(delivery(&self.me.node.id, Some(&record), now))?;
        let receipt = settled(ticket, should_stop)?;
        Ok(receipt.base_offsets.first().copied().unwrap_or(0))
    }

    /// The newest word about our node id.
    fn newest(&self, records: &phronis_core::records::Records) -> Option<Said> {
        said(records).filter(|said| said.node_id == self.me.node.id).last()
    }

    /// A record of our node id that is not our own.
    fn others(&self, record: Record) -> Option<Record> {
        (record.node_id == self.me.node.id && record.incarnation != self.me.incarnation).then_some(record)
    }

    fn may_live(&self, record: &Record) -> bool {
        let age = now_ms().saturating_sub(record.at.0 / 1000);
        record.incarnation != self.me.incarnation && age < FRESH_MS && !record.is_gone(&self.me)
    }

    fn taken(&self, holder: &Record) -> Trouble {
        Trouble::End(Fatal::NodeIdTaken { node_id: self.me.node.id.clone(), holder: holder.place() })
    }
}
