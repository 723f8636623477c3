//! What a table of the archive is to hold, and how it is written.
//!
//! Parsed and complete: whoever has a [`TableSpec`] asks nobody anything more.

use std::collections::HashMap;

use arrow_schema::SchemaRef;
use iceberg::spec::Transform;

use crate::name::TableName;

/// The columns that every table has beside those of the contract.
pub mod column {
    /// The id of an alert or a letter.
    pub const ID: &str = "phronis_id";
    /// The topic of the record that a row goes back to.
    pub const TOPIC: &str = "phronis_topic";
    /// The partition of the record that a row goes back to.
    pub const PARTITION: &str = "phronis_partition";
    /// The offset of the record that a row goes back to; null where there is none, and such a row is never a duplicate.
    pub const OFFSET: &str = "phronis_offset";
    /// When it happened. Never null: tables are partitioned and sorted by it.
    pub const EVENT_TIME: &str = "phronis_event_time";
    /// The time of the record.
    pub const RECORD_TIME: &str = "phronis_record_time";
    /// When the log took the record.
    pub const INGEST_TIME: &str = "phronis_ingest_time";
    /// The record's key.
    pub const KEY: &str = "phronis_key";
    /// What judged it.
    pub const PLUGINS: &str = "phronis_plugins";
}

/// What a table is to hold.
#[derive(Debug, Clone)]
pub struct TableSpec {
    /// Its name.
    pub name: TableName,
    /// Its columns, those of [`mod@column`] first, as plain Arrow without field ids.
    pub schema: SchemaRef,
    /// The columns that tell rows of one origin apart; none where an origin has one row.
    pub key: Vec<String>,
    /// Where its rows come from.
    pub source: Source,
}

/// The topic that a table is filled from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its name.
    pub topic: String,
    /// What tells it from another topic of the same name.
    pub identity: String,
    /// The same of the topic that [`column::OFFSET`] counts in, where the log knows it:
    /// made anew, it counts from 0 again, and new events would look like old ones.
    pub origin: Option<String>,
}

/// What one data file spans at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Span {
    /// A day of event time, in UTC.
    #[default]
    Day,
    /// An hour of event time.
    Hour,
}

/// How a table is written.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// The partitions of a new table. An existing table keeps its own, and must have these.
    pub span: Span,
    /// Most bytes of rows in memory, as Arrow: half of them may be under way to storage while the other half fills.
    pub buffer_bytes: usize,
    /// Size of a data file at which the next one begins, about.
    pub file_bytes: usize,
    /// Level of zstd, 1 to 22.
    pub zstd_level: i32,
    /// Properties of a new table, beside those that the archive sets.
    pub properties: HashMap<String, String>,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            span: Span::Day,
            buffer_bytes: 64 << 20,
            file_bytes: 256 << 20,
            zstd_level: 1,
            properties: HashMap::new(),
        }
    }
}

impl Span {
    /// The Iceberg transform.
    pub(crate) fn transform(self) -> Transform {
        match self {
            Self::Day => Transform::Day,
            Self::Hour => Transform::Hour,
        }
    }

    /// The name of the partition field.
    pub(crate) fn field(self) -> String {
        let unit = match self {
            Self::Day => "day",
            Self::Hour => "hour",
        };
        format!("{}_{unit}", column::EVENT_TIME)
    }

    /// Microseconds in one partition.
    pub(crate) fn micros(self) -> i64 {
        match self {
            Self::Day => 86_400_000_000,
            Self::Hour => 3_600_000_000,
        }
    }

    /// The partition value of a time in microseconds, rounded down also before 1970.
    pub(crate) fn of(self, micros: i64) -> i64 {
        micros.div_euclid(self.micros())
    }

    /// The partition as people read it, for every value that a time can have.
    pub(crate) fn path(self, value: i64) -> String {
        let (days, hour) = match self {
            Self::Day => (value, None),
            Self::Hour => (value.div_euclid(24), Some(value.rem_euclid(24))),
        };
        let (year, month, day) = civil(days);
        let hour = hour.map(|hour| format!("-{hour:02}")).unwrap_or_default();
        format!("{}={year:04}-{month:02}-{day:02}{hour}", self.field())
    }
}

/// Year, month and day of a number of days since 1970, by the proleptic Gregorian calendar.
///
/// The algorithm is `civil_from_days` of Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms";
/// calendars of libraries end before a time in microseconds does.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use iceberg::spec::Datum;
    use iceberg::transform::create_transform_function;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn partitions_are_named_by_their_day_and_hour() {
        assert_eq!(Span::Day.path(0), "phronis_event_time_day=1970-01-01");
        assert_eq!(Span::Day.path(-1), "phronis_event_time_day=1969-12-31");
        assert_eq!(Span::Day.path(20_779), "phronis_event_time_day=2026-11-22");
        assert_eq!(Span::Day.path(11_016), "phronis_event_time_day=2000-02-29");
        assert_eq!(Span::Hour.path(-1), "phronis_event_time_hour=1969-12-31-23");
        assert_eq!(Span::Day.path(Span::Day.of(i64::MAX)), "phronis_event_time_day=294247-01-10");
        assert_eq!(Span::Day.path(Span::Day.of(i64::MIN)), "phronis_event_time_day=-290308-12-21");
    }

    proptest! {
        #[test]
        fn values_are_those_of_the_transform(micros in -(1_i64 << 61)..(1_i64 << 61)) {
            let day = create_transform_function(&Transform::Day).unwrap();
            let theirs = day.transform_literal(&Datum::timestamptz_micros(micros)).unwrap().unwrap();
            prop_assert_eq!(theirs, Datum::date(i32::try_from(Span::Day.of(micros)).unwrap()));
        }

        #[test]
        fn hours_are_those_of_the_transform(micros in -(1_i64 << 60)..(1_i64 << 60)) {
            let hour = create_transform_function(&Transform::Hour).unwrap();
            let theirs = hour.transform_literal(&Datum::timestamptz_micros(micros)).unwrap().unwrap();
            prop_assert_eq!(theirs, Datum::int(i32::try_from(Span::Hour.of(micros)).unwrap()));
        }
    }
}
