//! A process that writes is killed again and again; what it had acknowledged must be there, once, in order, and whole.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use phronis_core::records::TopicName;
use phronis_log::conformance::{append, commit, member, numbers, polled, read};
use phronis_log::embedded::{Log, Options};
use phronis_log::{Log as _, PollLimits, Retention, Start, TopicSpec};

use crate::parts::{all, info, subject};

const KILLS: u64 = 6;
const CHILD: &str = "PHRONIS_LOG_CRASH_FOLDER";

/// The value of each record in `input` is its offset; a second thread copies them to `output` and commits in the same delivery.
#[test]
fn acknowledged_deliveries_survive_kill_9() {
    if let Some(folder) = std::env::var_os(CHILD) {
        return write_until_killed(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
    eprintln!("seed {seed}");
    let (mut random, mut appended, mut copied) = (u64::from(seed) | 1, 0, 0);
    for kill in 1..=KILLS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Each second one is not killed before it has got somewhere, however slow the disk is.
        let acknowledged = run_and_kill(folder.path(), Duration::from_millis(30 + (random >> 33) % 400), kill % 2 == 0);
        let log = Log::open(Options::new(folder.path())).unwrap();
        let (input, output) = (all(&log, "input", 0), all(&log, "output", 0));
        let ends = (info(&log, "input").latest, log.committed("copy", "input").unwrap()[0].unwrap());
        assert_eq!(input, (0..ends.0).collect::<Vec<_>>(), "kill {kill}: input is in order, each once");
        assert_eq!(output, (0..ends.1).collect::<Vec<_>>(), "kill {kill}: the copy is as far as its commit");
        assert!(ends.0 >= acknowledged.0 && ends.0 >= appended, "kill {kill}: {ends:?} after {acknowledged:?}");
        assert!(ends.1 >= acknowledged.1 && ends.1 >= copied, "kill {kill}: {ends:?} after {acknowledged:?}");
        (appended, copied) = ends;
    }
    assert!(appended > 0 && copied > 0, "the writer was never running when it was killed");
}

/// Starts the writer, kills it after a while, and returns what it had acknowledged: input and committed offset.
fn run_and_kill(folder: &Path, after: Duration, must_work: bool) -> (i64, i64) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::acknowledged_deliveries_survive_kill_9", "--nocapture"])
        .env(CHILD, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut input, mut committed) = (0, 0);
    let mut note = |line: &str| match line.split_once(' ') {
        Some(("input", number)) => input = number.parse().unwrap(),
        Some(("committed", number)) => committed = number.parse().unwrap(),
        _ => {}
    };
    let ready = lines.by_ref().map_while(Result::ok).find(|line| line == "ready");
    assert!(ready.is_some(), "the writer did not start");
    if must_work {
        for line in lines.by_ref().map_while(Result::ok) {
            note(&line);
            if line.starts_with("committed ") {
                break;
            }
        }
    }
    let killer = std::thread::spawn(move || {
        std::thread::sleep(after);
        child.kill().unwrap();
        child.wait().unwrap()
    });
    for line in lines.map_while(Result::ok) {
        note(&line);
    }
    assert!(!killer.join().unwrap().success());
    (input, committed)
}

fn write_until_killed(folder: &Path) {
    let log = Log::open(Options::new(folder)).unwrap();
    let (input, output): (TopicName, TopicName) = ("input".into(), "output".into());
    for name in [&input, &output] {
        log.create_topic(&TopicSpec { name: Arc::clone(name), partitions: 1, retention: Retention::default() })
            .unwrap();
    }
    let group: TopicName = "copy".into();
    let (mut member, assigned) = member(&subject(&log), &group, &[&input], (0, 1), Start::Earliest);
    let mut from = assigned[0].2;
    let sink = log.sink().unwrap();
    say("\nready".to_owned());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut next = info(&log, &input).latest;
            loop {
                // Several under way at a time, so that groups form and are cut anywhere.
                let tickets: Vec<_> = (0..8)
                    .map(|step| {
                        let count = 1 + (next + step) % 40;
                        let ticket = sink.submit(append(&input, 0, numbers(next..next + count))).unwrap();
                        next += count;
                        (next, ticket)
                    })
                    .collect();
                for (next, ticket) in tickets {
                    ticket.wait().unwrap();
                    say(format!("input {next}"));
                }
            }
        });
        loop {
            let records = polled(&mut *member.source, PollLimits { records: 100, bytes: 1 << 20 });
            let next = records.next_offset().unwrap();
            let mut delivery = append(&output, 0, numbers(read(&records)));
            delivery.commits.push(commit(&group, &input, 0, from, next));
            sink.submit(delivery).unwrap().wait().unwrap();
            from = next;
            say(format!("committed {next}"));
        }
    });
}

#[expect(clippy::explicit_write, reason = "println! is captured by the test runner, and a parent reads this")]
fn say(line: String) {
    writeln!(std::io::stdout(), "{line}").unwrap();
}
