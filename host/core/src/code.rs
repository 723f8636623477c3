//! Stable codes of everything that can go wrong and that a person may look up.
//!
//! A code never changes its meaning. Each has a page in `docs/errors/PHnnnn.md`; a test compares the two.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A stable code, shown as `PHnnnn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code {
    number: u16,
    title: &'static str,
}

impl Code {
    /// What it means, in a few words.
    pub fn title(self) -> &'static str {
        self.title
    }

    /// The code of a text like `PH1001`, if there is such a code.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("PH").filter(|d| d.len() == 4 && d.bytes().all(|b| b.is_ascii_digit()))?;
        let number: u16 = digits.parse().ok()?;
        ALL.iter().copied().find(|code| code.number == number)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PH{:04}", self.number)
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom(format_args!("`{}` is no code", text.escape_debug())))
    }
}

macro_rules! codes {
    ($($name:ident = $number:literal, $title:literal;)*) => {
        $(#[doc = $title] pub const $name: Code = Code { number: $number, title: $title };)*

        /// Every code, by number.
        pub const ALL: &[Code] = &[$($name),*];
    };
}

codes! {
    // 01xx: configuration and start
    CONFIG_INVALID = 101, "the configuration is not valid";
    CONTRACT_INVALID = 102, "the contract is not valid";
    LOG_LOCKED = 103, "another process uses this log";
    CEILING_EXCEEDED = 104, "the setting asks for more than its ceiling";
    UNKNOWN_STREAM_FOLDER = 105, "a plugin folder belongs to no stream";
    NODE_ID_TAKEN = 106, "another live host has this node id";

    // 10xx: the gate
    NOT_JSON = 1001, "the value is not a JSON object";
    NOT_UTF8 = 1002, "the value is not UTF-8";
    MISSING_FIELD = 1003, "a required field is missing or null";
    WRONG_TYPE = 1004, "a field has the wrong type";
    OUT_OF_RANGE = 1005, "a number is out of its range";
    PATTERN_MISMATCH = 1006, "a text does not match its pattern";
    NOT_IN_ENUM = 1007, "a value is not one of those allowed";
    WRONG_LENGTH = 1008, "a text is too short or too long";
    TOO_DEEP = 1009, "the value is nested too deep";
    DUPLICATE_FIELD = 1010, "a field stands twice";
    TOO_LARGE = 1011, "the value is larger than the stream allows";
    UNDECLARED_FIELD = 1012, "a field is not declared in the contract";
    EMPTY_VALUE = 1013, "the value is empty";

    // 20xx: a plugin at work
    ROW_FAILED = 2001, "the plugin could not judge the event";
    PLUGIN_ERROR = 2002, "the plugin returned an error for the batch";
    PLUGIN_TRAP = 2003, "the plugin crashed on the event";
    PLUGIN_DEADLINE = 2004, "the plugin ran into its deadline";
    PLUGIN_MEMORY = 2005, "the plugin wanted more memory than its limit";
    PLUGIN_BAD_OUTPUT = 2006, "the plugin's answer breaks the contract";
    PLUGIN_BUDGET = 2007, "the event was not run: the budget for finding guilty events was used up";

    // 21xx: a plugin that is not loaded
    NOT_A_COMPONENT = 2101, "the file is not a WebAssembly component";
    WRONG_WORLD = 2102, "the component does not export a plugin world";
    WRONG_WIT_VERSION = 2103, "the plugin was built for another version of the plugin interface";
    FORBIDDEN_IMPORT = 2104, "the component imports something that plugins do not get";
    COMPONENT_TOO_LARGE = 2105, "the component is larger than allowed";
    COMPILE_FAILED = 2106, "the component could not be compiled within its limits";
    INVALID_MANIFEST = 2107, "the plugin's description of itself is not valid";
    FIELD_MISMATCH = 2108, "the plugin reads a field that the contract does not have so";
    PARAMS_REFUSED = 2109, "the parameters are refused";
    COLUMN_CONFLICT = 2110, "an added column is added twice, or enrichers wait for each other";
    INSTANTIATION_FAILED = 2111, "the plugin failed before its first batch";
    SETTINGS_INVALID = 2112, "the plugin's settings file is not valid";
    BAD_PLUGIN_PATH = 2113, "the path of the plugin file is not accepted";

    // 22xx: breakers
    BREAKER_OPEN = 2201, "the plugin was not asked: its breaker is open";
    BREAKER_HELD = 2202, "the stream waits until a plugin's breaker closes";
    HOST_SUSPECTED = 2203, "most plugins fail at once: the host is suspected";

    // 23xx: letters that come back
    PLUGIN_GONE = 2301, "the plugin that the letter waits for is not there any more";
    LETTER_FOREIGN = 2302, "the letter does not belong to this stream";
    RANGE_GONE = 2303, "the records that the letter is about are not in the log any more";
    QUARANTINED = 2304, "the event made the whole host crash";
    WAITS_BEHIND = 2305, "the event waits behind an earlier one with the same key";
    ORDER_FULL = 2306, "too many events wait behind others with the same key: the partition stands still";

    // 24xx: the index of letters, and what people do about letters
    REDRIVE_RUNNING = 2401, "another redrive of the stream is under way";
    LETTER_VERSION_GONE = 2402, "the version that was asked for is not there any more";
    NO_LETTER_MEANT = 2403, "no outstanding letter is meant";
    LETTER_EVENT_GONE = 2404, "the letter's event is not there any more";
    EDIT_HALF_DONE = 2405, "an edit of the letter is half done, or may be";
    EDIT_ELSEWHERE = 2406, "another host edits the letter";

    // 30xx: the log
    LOG_FULL = 3001, "the log is full";
    OFFSET_OUT_OF_RANGE = 3002, "the offset is not in the log any more";
    LOG_FAILED = 3003, "the log cannot be written or read";
    UNKNOWN_TOPIC = 3004, "the topic does not exist";
    LOG_UNREACHABLE = 3005, "the log cannot be reached";
    RECORD_TOO_LARGE = 3006, "a record is larger than its topic takes";
    TOPICS_MISSING = 3007, "topics of the configuration do not exist";
    TOPICS_DIFFER = 3008, "a topic is not as the configuration wants it";

    // 40xx: HTTP
    BODY_TOO_LARGE = 4001, "the request body is too large";
    BODY_NOT_SPLITTABLE = 4002, "the request body cannot be split into events";
    ALL_ROWS_REFUSED = 4003, "every event of the request is refused";
    NOT_FOUND = 4004, "there is no such thing";
    UNAUTHORIZED = 4005, "a key is needed";
    FORBIDDEN = 4006, "the key does not allow this";
    FOREIGN_ORIGIN = 4007, "requests of other web pages are not served";
    FOREIGN_HOST = 4008, "the Host header names another host";
    HEADER_NEEDED = 4009, "the request needs the header X-Phronis: 1";
    BACK_PRESSURE = 4010, "the host cannot take more right now";
    BAD_REQUEST = 4011, "the request is not valid";
    INTERNAL = 4012, "the host failed";
    METHOD_NOT_ALLOWED = 4013, "the resource does not know this method";
    UNSUPPORTED_CONTENT = 4014, "the body's type or encoding is not accepted";
    TOO_SLOW = 4015, "the request took too long to arrive";
    PRECONDITION_FAILED = 4016, "it has changed since the version that the request names";
    KEY_REUSED = 4017, "the Idempotency-Key belongs to another request";

    // 42xx: halted agents
    AGENT_HALTED = 4201, "the event's agent is halted";
    RESET_REFUSED = 4202, "nobody is reset while the store is away";
    AGENTS_UNKNOWN = 4203, "it is not known yet who is halted";
    HALT_NOT_DURABLE = 4204, "the halt holds on this host and is written down nowhere";

    // 50xx: the store
    STORE_UNREACHABLE = 5001, "the store cannot be reached";
    STORE_REFUSED = 5002, "the store refuses this host";
    STORE_NEWER = 5003, "a newer version made the store";
    STORE_DAMAGED = 5004, "the store is damaged";
    STORE_FULL = 5005, "the store is full";
    STORE_FAILED = 5006, "the store failed";

    // 60xx: the archive
    ARCHIVE_SETTINGS = 6001, "a setting of the archive cannot be used";
    ARCHIVE_STORAGE_REFUSED = 6002, "the archive's storage refuses access";
    ARCHIVE_STORAGE_UNREACHABLE = 6003, "the archive's storage cannot be reached";
    ARCHIVE_STORAGE_FULL = 6004, "the archive's storage is full";
    ARCHIVE_CATALOG_REFUSED = 6005, "the archive's catalog refuses access";
    ARCHIVE_CATALOG_UNREACHABLE = 6006, "the archive's catalog cannot be reached";
    ARCHIVE_TABLE_UNUSABLE = 6007, "a table of the archive cannot be used";
    ARCHIVE_FAILED = 6008, "the archive failed";
    ARCHIVE_INCOMPATIBLE = 6020, "an archived table cannot take such rows";
    ARCHIVE_TOPIC_CHANGED = 6021, "another topic filled the archived table";
    ARCHIVE_NOT_OURS = 6022, "an archived table does not say how far it was filled";
    ARCHIVE_TABLE_CHANGED = 6023, "someone else changed an archived table while it was written";
    ARCHIVE_CONTENDED = 6024, "others fill the archived table at the same time";
    ARCHIVE_ROWS = 6025, "rows cannot be archived";
    ARCHIVE_LATE = 6040, "the archive is late";
    ARCHIVE_GAP = 6041, "records were deleted before they were archived";
    ARCHIVE_COLUMN = 6042, "a column cannot be archived";

    // 606x, 607x: asking the archive
    QUERY_SYNTAX = 6060, "the SQL cannot be read";
    QUERY_REFUSED = 6061, "the SQL does more than read";
    QUERY_NO_TABLE = 6062, "the query names a table that there is not";
    QUERY_NO_COLUMN = 6063, "the query names a column that there is not";
    QUERY_INVALID = 6064, "the query means nothing";
    QUERY_NO_SNAPSHOT = 6065, "the table has no such snapshot";
    QUERY_ROWS = 6066, "the answer has more rows than allowed";
    QUERY_BYTES = 6067, "the answer has more bytes than allowed";
    QUERY_MEMORY = 6068, "the query wants more memory than allowed";
    QUERY_TIME = 6069, "the query takes longer than allowed";
    QUERY_BUSY = 6070, "as many queries run as may";
    QUERY_FAILED = 6071, "the archive could not be read";
    ARCHIVE_OFF = 6072, "this host has no archive";

    // 608x: replay
    REPLAY_FIELD = 6080, "the archive does not hold what the plugin reads";
    REPLAY_RANGE = 6081, "the time range of the replay is not one";
    REPLAY_AGAINST = 6082, "there is nothing to compare the replay with";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_rise_and_never_repeat() {
        assert!(ALL.windows(2).all(|pair| pair[0].number < pair[1].number));
        assert_eq!(NOT_JSON.to_string(), "PH1001");
        assert!(ALL.iter().all(|code| Code::parse(&code.to_string()) == Some(*code)));
        assert_eq!(Code::parse("PH9999"), None);
        assert_eq!(Code::parse("PH+101"), None);
    }
}
