//! The metrics of a worker, named once. Labels are bounded: stream, stage, outcome.

use std::time::Duration;

use metrics::{Counter, Histogram, counter, gauge, histogram};
use phronis_core::StreamId;

use crate::status::StreamCounts;
use crate::stream::condition::Spot;

/// Handles of a stream's metrics, looked up once a worker.
#[derive(Debug)]
pub(crate) struct Meters {
    received: Counter,
    delivered: Counter,
    gate: Counter,
    enrich: Counter,
    detect: Counter,
    deliver: Counter,
    halt: Counter,
    order: Counter,
    ranges: Counter,
    dropped: Counter,
    alerts: Counter,
    retries: Counter,
    settled: Counter,
    settled_debts: Counter,
    ignored: Counter,
    checked: Histogram,
    judged: Histogram,
    submitted: Histogram,
    end_to_end: Histogram,
}

impl Meters {
    pub(crate) fn new(stream: &StreamId) -> Self {
        let stream = stream.to_string();
        let settled =
            |of: &'static str| counter!("phronis_letters_settled_total", "stream" => stream.clone(), "of" => of);
        let letters = |stage: &'static str| counter!("phronis_letters_written_total", "stream" => stream.clone(), "stage" => stage);
        let stage = |stage: &'static str| histogram!("phronis_stage_duration_seconds", "stream" => stream.clone(), "stage" => stage);
        Self {
            received: counter!("phronis_records_received_total", "stream" => stream.clone()),
            delivered: counter!("phronis_events_delivered_total", "stream" => stream.clone()),
            gate: letters("gate"),
            enrich: letters("enrich"),
            detect: letters("detect"),
            deliver: letters("deliver"),
            halt: letters("halt"),
            order: letters("order"),
            ranges: counter!("phronis_range_letters_written_total", "stream" => stream.clone()),
            dropped: counter!("phronis_events_dropped_total", "stream" => stream.clone()),
            alerts: counter!("phronis_alerts_total", "stream" => stream.clone()),
            retries: counter!("phronis_letters_retried_total", "stream" => stream.clone()),
            settled: settled("events"),
            settled_debts: settled("debts"),
            ignored: counter!("phronis_retry_records_ignored_total", "stream" => stream.clone()),
            checked: stage("checked"),
            judged: stage("judged"),
            submitted: stage("submitted"),
            end_to_end: histogram!("phronis_record_end_to_end_seconds", "stream" => stream.clone()),
        }
    }

    /// A batch was decoded and checked; time since it was polled.
    pub(crate) fn checked(&self, elapsed: Duration) {
        self.checked.record(elapsed);
    }

    /// All plugins have spoken; time since the batch was polled.
    pub(crate) fn judged(&self, elapsed: Duration) {
        self.judged.record(elapsed);
    }

    /// The delivery is with the log; time since the batch was polled.
    pub(crate) fn submitted(&self, elapsed: Duration) {
        self.submitted.record(elapsed);
    }

    /// Records of the retry topic that are no letters.
    pub(crate) fn ignored(&self, records: u64) {
        self.ignored.increment(records);
    }

    /// The delivery is durable; age of its newest record in milliseconds, unless it is one of letters that came back.
    pub(crate) fn delivered(&self, tally: &StreamCounts, age_ms: Option<i64>) {
        self.received.increment(tally.received);
        self.delivered.increment(tally.delivered);
        self.gate.increment(tally.gate_letters);
        self.enrich.increment(tally.enrich_letters);
        self.detect.increment(tally.detect_letters);
        self.deliver.increment(tally.deliver_letters);
        self.halt.increment(tally.halt_letters);
        self.order.increment(tally.order_letters);
        self.ranges.increment(tally.range_letters);
        self.dropped.increment(tally.dropped);
        self.alerts.increment(tally.alerts);
        self.retries.increment(tally.retries);
        self.settled.increment(tally.settled);
        self.settled_debts.increment(tally.settled_debts);
        if let Some(age) = age_ms {
            self.end_to_end.record(Duration::from_millis(u64::try_from(age).unwrap_or(0)));
        }
    }
}

/// A partition stands still (1), or does not (0).
pub(crate) fn partition_stopped(stream: &StreamId, (partition, is_retry): Spot, is_stopped: bool) {
    let partition = if is_retry { format!("retry-{partition}") } else { partition.to_string() };
    let labels = [("stream", stream.to_string()), ("partition", partition)];
    gauge!("phronis_stream_partition_stopped", &labels).set(f64::from(u8::from(is_stopped)));
}
