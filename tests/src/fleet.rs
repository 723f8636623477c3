//! Several hosts on one Kafka: a stream of a test's own, hosts in rooms of their own, and a producer that knows Kafka alone.
//!
//! The producer writes past the hosts, as other programs do, and the checker reads past them:
//! whatever happens to hosts, broker and network in between, both know what must be there.

mod node;
pub mod offsets;
mod writer;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use phronis_core::StreamId;
use phronis_core::partition::Topics;

pub use node::Node;
pub use offsets::Place;
pub use writer::{Load, Writer, Written};

use crate::checker::{Expect, Report, check_kafka, judged_by};
use crate::host::{PATIENCE, Room, run};
use crate::kafka::Broker;
use crate::plugins::{plugin, root};

/// The limit of the detector; one event in a hundred is clearly above it.
pub const HIGH: f64 = 90.0;

/// What differs from the usual fleet.
#[derive(Debug, Clone)]
pub struct Options {
    /// Partitions of each topic.
    pub partitions: i32,
    /// Whether the stream is processed exactly once.
    pub exactly_once: bool,
    /// Further lines of `[log]`.
    pub log: String,
    /// Further lines of the stream.
    pub stream: String,
    /// Properties of librdkafka.
    pub properties: Vec<(&'static str, String)>,
}

impl Default for Options {
    fn default() -> Self {
        // A host that is gone is missed after seconds, not after most of a minute.
        let properties = vec![("session.timeout.ms", "6000".to_owned()), ("heartbeat.interval.ms", "500".to_owned())];
        Self { partitions: 4, exactly_once: false, log: String::new(), stream: String::new(), properties }
    }
}

/// A stream on a broker, and what its hosts have in common.
#[derive(Debug)]
pub struct Fleet {
    /// What hosts are told.
    bootstrap: String,
    /// Where producer and checker look.
    direct: String,
    stream: String,
    options: Options,
    /// Where commands that need no host run.
    desk: Room,
}

impl Fleet {
    /// A stream on the broker that all tests share. Its name is its own, also in a process that does the same again.
    ///
    /// # Errors
    /// When there is no broker, or it refuses the topics.
    pub fn shared(name: &str, options: Options) -> anyhow::Result<Self> {
        let bootstrap = Broker::shared()?.bootstrap();
        Self::on(&bootstrap, &bootstrap, name, options)
    }

    /// A stream on this broker; producer and checker pass by what may stand in front of it.
    ///
    /// # Errors
    /// When the broker refuses the topics.
    pub fn on(bootstrap: &str, direct: &str, name: &str, options: Options) -> anyhow::Result<Self> {
        let fleet = Self::planned(bootstrap, direct, name, options)?;
        fleet.create_topics(&[])?;
        Ok(fleet)
    }

    /// A stream whose topics are not there yet, on a broker that need not be there either.
    ///
    /// # Errors
    /// When the folder of its commands cannot be made.
    pub fn planned(bootstrap: &str, direct: &str, name: &str, options: Options) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let stream = format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let (bootstrap, direct) = (bootstrap.to_owned(), direct.to_owned());
        let fleet = Self { bootstrap, direct, stream, options, desk: Room::new()? };
        fleet.desk.configure(&fleet.config("desk"))?;
        Ok(fleet)
    }

    /// The stream's name.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// Where producer and checker look.
    pub fn direct(&self) -> &str {
        &self.direct
    }

    /// Its topics.
    ///
    /// # Errors
    /// Never: the name is a good one.
    pub fn topics(&self) -> anyhow::Result<Topics> {
        Ok(Topics::of(&self.stream.parse::<StreamId>()?))
    }

    /// The consumer group of its hosts.
    pub fn group(&self) -> String {
        format!("phronis.default.{}.process", self.stream)
    }

    /// The id of one of its plugins.
    pub fn plugin(&self, name: &str) -> String {
        format!("default/{}/{name}", self.stream)
    }

    /// The configuration of a host with this name, after its folders.
    pub fn config(&self, node: &str) -> String {
        let Self { bootstrap, stream, options, .. } = self;
        let contract = root().join("host/app/contracts/sensors.yaml");
        let properties = options.properties.iter().map(|(name, value)| format!("\"{name}\" = \"{value}\"\n"));
        format!(
            "[log]\nkind = \"kafka\"\nbootstrap = \"{bootstrap}\"\nnode_id = \"{stream}-{node}\"\n{}\n[log.properties]\n{}\
             [streams.{stream}]\ncontract = \"{}\"\npartitions = {}\nexactly_once = {}\n{}\n",
            options.log,
            properties.collect::<String>(),
            contract.display(),
            options.partitions,
            options.exactly_once,
            options.stream,
        )
    }

    /// What the configurations of hosts say from now on about partitions.
    ///
    /// # Errors
    /// When the file of the commands cannot be written.
    pub fn repartition(&mut self, partitions: i32) -> anyhow::Result<()> {
        self.options.partitions = partitions;
        self.desk.configure(&self.config("desk"))
    }

    /// Runs `phronis topics create`.
    ///
    /// # Errors
    /// When it fails; with what it said.
    pub fn create_topics(&self, more: &[&str]) -> anyhow::Result<String> {
        let args = [&["topics", "create"], more].concat();
        let (code, told, said) = self.command(&args)?;
        ensure!(code == Some(0), "phronis {} ended with {code:?}: {told}{said}", args.join(" "));
        Ok(told)
    }

    /// Runs a command beside the hosts: exit code, stdout, stderr.
    ///
    /// # Errors
    /// When it cannot be started, or does not end.
    pub fn command(&self, args: &[&str]) -> anyhow::Result<(Option<i32>, String, String)> {
        run(self.desk.command(args)?)
    }

    /// A host with detector and enricher that does not run yet.
    ///
    /// # Errors
    /// When its folders cannot be made.
    pub fn node(&self, name: &str) -> anyhow::Result<Node> {
        let room = Room::with(&self.config(name))?;
        room.install(&self.plugin("threshold"), &plugin("threshold")?, &format!("[params]\nhigh = {HIGH:.1}\n"))?;
        room.install(&self.plugin("severity"), &plugin("severity")?, "[params]\nwarning = 80.0\ncritical = 90.0\n")?;
        Ok(Node::new(room))
    }

    /// A host that runs.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start(&self, name: &str) -> anyhow::Result<Node> {
        let mut node = self.node(name)?;
        node.start()?;
        Ok(node)
    }

    /// Starts to write events to raw.
    ///
    /// # Errors
    /// When no producer can be made.
    pub fn write(&self, load: Load) -> anyhow::Result<Writer> {
        Writer::start(&self.direct, &self.topics()?.raw, load)
    }

    /// Records that the group has not committed yet.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub fn lag(&self) -> anyhow::Result<i64> {
        Ok(self.places()?.iter().map(Place::lag).sum())
    }

    /// How far the group is in each partition of raw.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub fn places(&self) -> anyhow::Result<Vec<Place>> {
        offsets::places(&self.direct, &self.group(), &self.topics()?.raw)
    }

    /// Moves the group in a partition of raw; no host may run.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn reset(&self, partition: i32, to: i64) -> anyhow::Result<()> {
        offsets::reset(&self.direct, &self.group(), &self.topics()?.raw, partition, to)
    }

    /// Waits until the group has committed all that stands in raw. Patience begins anew with each step forward.
    ///
    /// # Errors
    /// When nothing moves for [`PATIENCE`]; with what the hosts said.
    pub fn drained(&self, nodes: &[&Node]) -> anyhow::Result<()> {
        let (mut before, mut moved, mut zeros) = (i64::MAX, Instant::now(), 0);
        loop {
            let lag = self.lag();
            match &lag {
                Ok(0) => zeros += 1,
                Ok(left) if *left < before => (before, moved, zeros) = (*left, Instant::now(), 0),
                _ => zeros = 0,
            }
            if zeros > 0 {
                return Ok(());
            }
            if moved.elapsed() > PATIENCE {
                let said: String = nodes.iter().map(|node| node.last_words()).collect();
                anyhow::bail!("{} is not drained, its lag stays {lag:?}; the hosts said: {said}", self.stream);
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }

    /// What the checker is to expect of what was written.
    pub fn expect(&self, written: &Written) -> Expect<'static> {
        let may_repeat = !self.options.exactly_once;
        Expect { acknowledged: written.acknowledged.clone(), may_repeat, ..judged_by("threshold", HIGH) }
    }

    /// Lets the checker judge: nothing lost, order kept, and nothing twice where that was asked for.
    ///
    /// # Errors
    /// When something is wrong; with all of the report.
    pub fn judge(&self, written: &Written) -> anyhow::Result<Report> {
        self.judge_as(written, self.expect(written))
    }

    /// The same with expectations of a test's own.
    ///
    /// # Errors
    /// When something is wrong; with all of the report.
    pub fn judge_as(&self, written: &Written, expect: Expect<'_>) -> anyhow::Result<Report> {
        let report = check_kafka(&self.direct, &self.stream, expect).context("reading what the hosts left")?;
        let report = report.must_hold()?;
        ensure!(report.received == written.sent, "{} were written, the report is: {report}", written.sent);
        Ok(report)
    }
}
