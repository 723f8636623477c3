//! `phronis topics`: makes the topics that the configuration needs, compares them with it, and shows what they hold.

use std::path::PathBuf;
use std::time::Duration;

use phronis_core::code;
use phronis_core::records::TopicName;
use phronis_log::{Log, Retention, TopicInfo, TopicSettings, TopicSpec};
use serde_json::{Map, Value, json};

use super::ConfigArgs;
use crate::config::{self, Config};
use crate::eventlog::{EventLog, TOOL, within};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{self, Column, Format, cell};
use crate::topics::{Difference, Found, Setting, Wanted, differences, look_up, show_retention, wanted};

/// How long the log may take for everything that a command asks. Making hundreds of topics takes a controller a while.
const WITHIN: Duration = Duration::from_secs(120);

/// Make the topics that the configuration needs, compare them with it, or show what they hold
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make the topics that are not there, and bring retention to what is configured
    ///
    /// Nothing is ever deleted. What cannot be changed in place is told, and stays as it is.
    Create {
        #[command(flatten)]
        which: Which,
        /// Add partitions where there are fewer than configured: keys move to other partitions, so that their order breaks once
        #[arg(long)]
        add_partitions: bool,
    },
    /// Compare the topics with the configuration; exit with 1 when one is missing or differs
    Check {
        #[command(flatten)]
        which: Which,
    },
    /// Show how the topics are set up and what they hold
    Describe {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, clap::Args)]
struct Which {
    #[command(flatten)]
    config: ConfigArgs,
    /// How to print the list
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// Does what was asked for.
pub fn run(args: &Args) -> Outcome {
    match &args.command {
        Command::Create { which, add_partitions } => create(which, *add_partitions),
        Command::Check { which } => check(which),
        Command::Describe { which } => describe(which),
    }
}

/// The failure of a log that does not have all topics.
pub(super) fn missing(topics: &[TopicName], place: &str, files: &[PathBuf]) -> Failure {
    let list: String = topics.iter().map(|topic| format!("\n  {topic}")).collect();
    let (count, plural) = (topics.len(), if topics.len() == 1 { " is" } else { "s are" });
    Failure::new(Exit::Refused, format!("{count} topic{plural} not in Kafka at {place}:{list}"))
        .code(code::TOPICS_MISSING)
        .next(format!(
            "`phronis topics create{}` makes them; log.auto_create = true lets the host do so",
            options(files)
        ))
}

fn options(files: &[PathBuf]) -> String {
    files.iter().map(|file| format!(" -c {}", file.display())).collect()
}

fn create(which: &Which, add_partitions: bool) -> Outcome {
    let (config, log) = open(which, true)?;
    let port = log.port();
    let topics = wanted(&config);
    let made = within(WITHIN, move || -> Result<_, Failure> {
        let found = look_up(port.as_ref(), topics)?;
        Ok(make_all(port.as_ref(), found, add_partitions))
    });
    let made = made.and_then(|made| made);
    log.close();
    let (made, failure) = made?;
    let items: Vec<Value> = made.iter().map(Made::item).collect();
    let columns: [Column<'_>; 5] = [
        ("TOPIC", &|item| cell(item, "/topic")),
        ("PARTITIONS", &|item| cell(item, "/partition_count")),
        ("REPLICATION", &|item| cell(item, "/replication")),
        ("RETENTION", &|item| cell(item, "/retention")),
        ("DONE", &|item| cell(item, "/done")),
    ];
    output::list(&items, which.output, &columns)?;
    warn_of_what_is_left(&made);
    failure.map_or(Ok(Exit::Ok), Err)
}

/// Makes or changes all topics up to the first that cannot be; what was done before it is told, too.
fn make_all(log: &dyn Log, found: Vec<Found>, add_partitions: bool) -> (Vec<Made>, Option<Failure>) {
    let mut made = Vec::new();
    for found in found {
        match make(log, found, add_partitions) {
            Ok(one) => made.push(one),
            Err(failure) => return (made, Some(failure)),
        }
    }
    (made, None)
}

/// One line for each thing that could not be changed, with the topics that it is about.
fn warn_of_what_is_left(made: &[Made]) {
    let mut left: Vec<(String, Vec<&str>)> = Vec::new();
    for made in made {
        for difference in &made.left {
            let what = format!("{difference}: {}", why_left(difference));
            match left.iter_mut().find(|(known, _)| *known == what) {
                Some((_, topics)) => topics.push(&made.name),
                None => left.push((what, vec![&made.name])),
            }
        }
    }
    for (what, topics) in left {
        eprintln!("warning[{}]: {what}\n  in {}", code::TOPICS_DIFFER, topics.join(", "));
    }
}

/// A topic after `create`.
struct Made {
    name: TopicName,
    settings: TopicSettings,
    done: Vec<String>,
    left: Vec<Difference>,
}

impl Made {
    fn item(&self) -> Value {
        let done = if self.done.is_empty() { "nothing to do".to_owned() } else { self.done.join(", ") };
        let mut item = settings_item(&self.name, &self.settings);
        item.insert("done".to_owned(), done.into());
        item.insert("differences".to_owned(), differences_item(&self.left));
        Value::Object(item)
    }
}

/// Makes one topic, or changes what may be changed in it.
fn make(log: &dyn Log, (topic, settings): Found, add_partitions: bool) -> Result<Made, Failure> {
    let name = std::sync::Arc::clone(&topic.spec.name);
    let (mut done, mut changed) = (Vec::new(), Vec::new());
    match settings {
        None => {
            log.create_topic(&topic.spec)?;
            done.push("made".to_owned());
            changed.extend([Setting::Partitions, Setting::Retention, Setting::Ahead]);
        }
        Some(settings) => {
            let differ = differences(&topic, &settings);
            let differs = |what| differ.iter().any(|difference| difference.what == what);
            let mut partitions = settings.partitions;
            if differs(Setting::Partitions) && partitions < topic.spec.partitions && add_partitions {
                log.grow_topic(&name, topic.spec.partitions)?;
                done.push(format!("partitions {partitions} → {}, keys move", topic.spec.partitions));
                changed.push(Setting::Partitions);
                partitions = topic.spec.partitions;
            }
            let is_made_equal =
                |difference: &&Difference| matches!(difference.what, Setting::Retention | Setting::Ahead);
            let changes: Vec<&Difference> = differ.iter().filter(is_made_equal).collect();
            if !changes.is_empty() {
                log.create_topic(&TopicSpec { partitions, ..topic.spec.clone() })?;
            }
            for Difference { what, actual, wanted } in changes {
                done.push(format!("{what} {actual} → {wanted}"));
                changed.push(*what);
            }
        }
    }
    let settings = settled(log, &topic, &changed)?;
    let left = differences(&topic, &settings);
    Ok(Made { name, settings, done, left })
}

/// How a topic is now. Brokers hear of what was changed some moments after the controller has taken it.
fn settled(log: &dyn Log, topic: &Wanted, changed: &[Setting]) -> Result<TopicSettings, Failure> {
    /// Looks until a broker must have heard of it: ten seconds.
    const PATIENCE: u32 = 100;
    const PAUSE: Duration = Duration::from_millis(100);
    let mut settings = log.describe_topic(&topic.spec.name);
    for _ in 0..PATIENCE {
        let is_changed = |difference: &Difference| changed.contains(&difference.what);
        let is_settled = matches!(&settings, Ok(settings) if !differences(topic, settings).iter().any(is_changed));
        let is_other_error = matches!(&settings, Err(error) if !matches!(error, phronis_log::Error::UnknownTopic(_)));
        if changed.is_empty() || is_settled || is_other_error {
            break;
        }
        std::thread::sleep(PAUSE);
        settings = log.describe_topic(&topic.spec.name);
    }
    Ok(settings?)
}

fn why_left(difference: &Difference) -> &'static str {
    match difference.what {
        Setting::Partitions if is_more(difference) => {
            "Kafka cannot take partitions away; configure as many as there are"
        }
        Setting::Partitions => "--add-partitions adds them, and moves keys",
        Setting::Replication => "kafka-reassign-partitions changes it, broker by broker",
        Setting::Retention | Setting::Ahead => "the change is not in force yet; look again with `phronis topics check`",
        Setting::MaxRecordBytes => "kafka-configs changes max.message.bytes of a topic",
    }
}

fn is_more(difference: &Difference) -> bool {
    let number = |text: &str| text.parse::<i64>().unwrap_or_default();
    number(&difference.actual) > number(&difference.wanted)
}

fn check(which: &Which) -> Outcome {
    let (config, log) = open(which, false)?;
    let found = ask(&config, &log);
    log.close();
    let found = found?;
    let (items, failure) = compared(&found, &which.config.files);
    let columns: [Column<'_>; 3] = [
        ("TOPIC", &|item| cell(item, "/topic")),
        ("STATE", &|item| cell(item, "/state")),
        ("DIFFERENCES", &|item| told(item).trim_start_matches("missing").to_owned()),
    ];
    output::list(&items, which.output, &columns)?;
    failure.map_or(Ok(Exit::Ok), Err)
}

/// Asks the log for all topics of the configuration.
pub(super) fn ask(config: &Config, log: &EventLog) -> Result<Vec<Found>, Failure> {
    let (port, topics) = (log.port(), wanted(config));
    Ok(within(WITHIN, move || look_up(port.as_ref(), topics))??)
}

/// What is wrong with a topic, in words.
pub(super) fn told(item: &Value) -> String {
    if cell(item, "/state") == "missing" {
        return "missing".to_owned();
    }
    let list = item.get("differences").and_then(Value::as_array).into_iter().flatten();
    let words = |one: &Value| {
        format!("{} {}, configured {}", cell(one, "/setting"), cell(one, "/actual"), cell(one, "/wanted"))
    };
    list.map(words).collect::<Vec<_>>().join("; ")
}

/// Each topic with what differs, and the failure that this amounts to.
pub(super) fn compared(found: &[Found], files: &[PathBuf]) -> (Vec<Value>, Option<Failure>) {
    let (mut items, mut missing, mut differing) = (Vec::new(), 0, 0);
    for (topic, settings) in found {
        let differ = settings.as_ref().map(|settings| differences(topic, settings));
        let state = match &differ {
            None => "missing",
            Some(differ) if differ.is_empty() => "as configured",
            Some(_) => "differs",
        };
        missing += usize::from(state == "missing");
        differing += usize::from(state == "differs");
        let differ = differences_item(&differ.unwrap_or_default());
        items.push(json!({ "topic": &*topic.spec.name, "state": state, "differences": differ }));
    }
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let told = [(missing, "missing"), (differing, "not as configured")];
    let told = told.into_iter().filter(|(count, _)| *count > 0);
    let message =
        told.map(|(count, what)| format!("{count} topic{} {what}", plural(count))).collect::<Vec<_>>().join(", ");
    if message.is_empty() {
        return (items, None);
    }
    let code = if missing > 0 { code::TOPICS_MISSING } else { code::TOPICS_DIFFER };
    let next = format!("`phronis topics create{}` makes and changes what can be made and changed", options(files));
    (items, Some(Failure::new(Exit::CheckFailed, message).code(code).next(next)))
}

fn describe(which: &Which) -> Outcome {
    let (config, log) = open(which, false)?;
    let (port, topics) = (log.port(), wanted(&config));
    let found = within(WITHIN, move || -> Result<_, Failure> {
        let found = look_up(port.as_ref(), topics)?;
        let holds = |found: Found| {
            let info = found.1.as_ref().map(|_| port.topic(&found.0.spec.name)).transpose()?;
            Ok((found, info))
        };
        found.into_iter().map(holds).collect::<Result<Vec<_>, Failure>>()
    });
    let found = found.and_then(|found| found);
    log.close();
    let items: Vec<Value> = found?.iter().map(|(found, info)| described(found, info.as_ref())).collect();
    let columns: [Column<'_>; 7] = [
        ("TOPIC", &|item| cell(item, "/topic")),
        ("PARTITIONS", &|item| cell(item, "/partition_count")),
        ("REPLICATION", &|item| cell(item, "/replication")),
        ("RETENTION", &|item| cell(item, "/retention")),
        ("MAX RECORD", &|item| {
            item.get("max_record_bytes").and_then(Value::as_u64).map_or_else(|| "-".to_owned(), size)
        }),
        ("OFFSETS", &|item| cell(item, "/offsets")),
        ("BYTES", &|item| item.get("bytes").and_then(Value::as_u64).map_or_else(|| "-".to_owned(), size)),
    ];
    output::list(&items, which.output, &columns)?;
    Ok(Exit::Ok)
}

fn described((topic, settings): &Found, info: Option<&TopicInfo>) -> Value {
    let (Some(settings), Some(info)) = (settings, info) else {
        return json!({ "topic": &*topic.spec.name, "state": "missing", "retention": "missing" });
    };
    let mut item = settings_item(&topic.spec.name, settings);
    item.insert("state".to_owned(), "there".into());
    // Offsets between the oldest and the newest: with transactions or compaction more than there are records.
    let offsets: i64 = info.partitions.iter().map(|about| about.latest - about.earliest).sum();
    let bytes: Option<u64> = info.partitions.iter().map(|about| about.bytes).sum();
    item.insert("offsets".to_owned(), offsets.into());
    item.insert("bytes".to_owned(), bytes.into());
    let partition = |(partition, about): (usize, &phronis_log::PartitionInfo)| json!({ "partition": partition, "earliest": about.earliest, "latest": about.latest, "bytes": about.bytes });
    item.insert("partitions".to_owned(), info.partitions.iter().enumerate().map(partition).collect());
    Value::Object(item)
}

/// What both `create` and `describe` say of a topic.
fn settings_item(name: &TopicName, settings: &TopicSettings) -> Map<String, Value> {
    let Retention { age, bytes, compact } = settings.retention;
    let item = json!({
        "topic": &**name,
        "partition_count": settings.partitions,
        "replication": settings.replication,
        "retention": show_retention(settings.retention),
        "retention_seconds": age.map(|age| age.as_secs()),
        "retention_bytes": bytes,
        "is_compacted": compact,
        // A log without such a limit has a number that nobody can reach.
        "max_record_bytes": Some(settings.max_record_bytes).filter(|most| *most < 1 << 40),
    });
    match item {
        Value::Object(item) => item,
        _ => Map::new(),
    }
}

fn differences_item(differ: &[Difference]) -> Value {
    let item = |difference: &Difference| json!({ "setting": difference.what.to_string(), "actual": difference.actual, "wanted": difference.wanted });
    differ.iter().map(item).collect()
}

/// A size in the largest unit that leaves a whole number in front of the point.
fn size(bytes: u64) -> String {
    let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) if bytes.is_multiple_of(unit) => format!("{}{name}", bytes / unit),
        Some((unit, name)) => format!("{}.{}{name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes}B"),
    }
}

/// Opens the log of a configuration; the embedded one must be there already, unless topics are to be made.
fn open(which: &Which, may_make: bool) -> Result<(Config, EventLog), Failure> {
    let config = which.config.load()?;
    let folder = config::log_dir(&config.data_dir);
    if config.log.kafka().is_none() && !may_make && !folder.is_dir() {
        return Err(Failure::new(Exit::CheckFailed, format!("there is no log in {} yet", folder.display()))
            .code(code::TOPICS_MISSING)
            .next("a host makes it at its first start; `phronis topics create` makes it now"));
    }
    let log = EventLog::open(&config, TOOL).map_err(|failure| match (&config.log, failure.exit) {
        (config::Log::Embedded(_), Exit::Refused) => {
            failure.next("a host on the embedded log makes its topics itself; while it runs, look at GET /v1/topics")
        }
        _ => failure,
    })?;
    Ok((config, log))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use phronis_log::embedded;

    use super::*;

    #[test]
    fn what_was_made_before_a_topic_that_cannot_be_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let log = embedded::Log::open(embedded::Options::new(folder.path())).unwrap();
        let wanted = ["first", "not a name", "third"].map(|name| Wanted {
            spec: TopicSpec { name: name.into(), partitions: 1, retention: Retention::default() },
            replication: None,
            max_record_bytes: None,
        });
        let found = look_up(&log, wanted.to_vec()).unwrap();
        let (made, failure) = make_all(&log, found, false);
        let names: Vec<_> = made.iter().map(|made| Arc::clone(&made.name)).collect();
        assert_eq!(names, [TopicName::from("first")]);
        assert!(failure.unwrap().message.contains("not a name"));
    }
}
