//! Where a record goes: Kafka's hash of its key, and the names of a stream's topics.
//!
//! The hash is the one of the Java client's default partitioner, so that our producers and everyone else's agree.

use std::sync::Arc;

use crate::name::{DEFAULT_TENANT, StreamId};
use crate::records::TopicName;

/// The name of the stream whose topics have short names, in the default tenant.
pub const DEFAULT_STREAM: &str = "sensors";

/// Parameters, thresholds and breaker settings of all streams.
pub const CONFIG_TOPIC: &str = "phronis.config";

/// Breaker states, halts and digests.
pub const CONTROL_TOPIC: &str = "phronis.control";

/// The partition of a key: `toPositive(murmur2(key)) % partitions`. Partition 0 when there are none.
pub fn of_key(key: &[u8], partitions: i32) -> i32 {
    let positive = i32::try_from(murmur2(key) & 0x7fff_ffff).unwrap_or(0);
    positive.checked_rem(partitions.max(1)).unwrap_or(0)
}

/// MurmurHash2 as `org.apache.kafka.common.utils.Utils.murmur2` computes it.
pub fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    // Java's length is an i32 too; a key of 4 GiB does not exist.
    let mut hash = SEED ^ u32::try_from(data.len()).unwrap_or(u32::MAX);
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        hash ^= tail.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

/// The topics of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    /// What came in.
    pub raw: TopicName,
    /// Events that went through.
    pub processed: TopicName,
    /// Alerts.
    pub alerts: TopicName,
    /// Dead letters.
    pub dlq: TopicName,
    /// Letters whose time has come.
    pub retry: TopicName,
    /// Changelog of plugin state.
    pub state: TopicName,
}

impl Topics {
    /// The names of a stream's topics unless its configuration says otherwise.
    pub fn of(stream: &StreamId) -> Self {
        let is_default = stream.tenant.as_str() == DEFAULT_TENANT && stream.stream.as_str() == DEFAULT_STREAM;
        let name = |part: &str| -> TopicName {
            match (is_default, part) {
                (true, "raw") => Arc::from("phronis.raw.events"),
                (true, part) => format!("phronis.{part}").into(),
                (false, part) => format!("phronis.{}.{}.{part}", stream.tenant, stream.stream).into(),
            }
        };
        Self {
            raw: name("raw"),
            processed: name("processed"),
            alerts: name("alerts"),
            dlq: name("dlq"),
            retry: name("retry"),
            state: name("state"),
        }
    }

    /// All six, in the order of the fields.
    pub fn all(&self) -> [&TopicName; 6] {
        [&self.raw, &self.processed, &self.alerts, &self.dlq, &self.retry, &self.state]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_java_clients() {
        // Vectors of UtilsTest.testMurmur2 in Apache Kafka.
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
        assert_eq!(of_key(b"21", 12), (-973_932_308_i32 & 0x7fff_ffff) % 12);
        assert_eq!(of_key(b"21", 0), 0);
    }

    #[test]
    fn only_the_default_stream_has_short_names() {
        let names = |stream: &str| {
            let topics = Topics::of(&stream.parse().unwrap());
            topics.all().map(|name| name.to_string())
        };
        assert_eq!(
            names("sensors"),
            [
                "phronis.raw.events",
                "phronis.processed",
                "phronis.alerts",
                "phronis.dlq",
                "phronis.retry",
                "phronis.state"
            ]
        );
        assert_eq!(names("agents").first().unwrap(), "phronis.default.agents.raw");
        assert_eq!(names("acme.sensors").last().unwrap(), "phronis.acme.sensors.state");
    }
}
