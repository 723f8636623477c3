//! What the demo prints: short, aligned, plain words; colours only on a terminal that wants them.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use phronis_tests::checker::{Alert, Report};
use phronis_tests::plugins::target;
use serde_json::Value;

use crate::Play;
use crate::archive::Archived;
use crate::judge::Faults;
use crate::watch::short;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Characters of a line, where commands are broken, and what they print is cut.
const WIDTH: usize = 112;

/// Lines of a table that are shown: the archive's list of tables is one.
const BLOCK: usize = 7;

/// Whether someone pressed Ctrl-C.
pub(crate) fn was_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Takes note of Ctrl-C instead of dying of it; a second one ends the demo at once.
pub(crate) fn notice_ctrl_c() {
    std::thread::spawn(|| {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                if INTERRUPTED.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
            }
        });
    });
}

/// The voice.
#[derive(Debug)]
pub(crate) struct Say {
    has_colours: bool,
}

impl Say {
    pub(crate) fn new() -> Self {
        let wants = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { has_colours: wants && std::io::stdout().is_terminal() }
    }

    /// One line. A reader that is gone is no reason to stop: the exit code still tells.
    pub(crate) fn line(&self, text: &str) {
        drop(writeln!(std::io::stdout(), "{text}"));
    }

    fn painted(&self, colour: &str, text: &str) -> String {
        if self.has_colours { format!("\u{1b}[{colour}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    pub(crate) fn title(&self, rate: f64) {
        self.line(&self.painted("1", "Phronis: WebAssembly plugins judge a stream of events"));
        self.line(&format!("50 simulated sensors, {} readings a second, a quarter of them in °F", rounded(rate)));
        self.line("");
    }

    pub(crate) fn scene(&self, text: &str) {
        self.line("");
        self.line(&self.painted("1", text));
    }

    /// A fact with its name.
    pub(crate) fn fact(&self, name: &str, text: &str) {
        self.line(&format!("  {} {text}", self.painted("2", &format!("{name:<12}"))));
    }

    /// A plugin that is live.
    pub(crate) fn plugin(&self, name: &str, status: &Value, what: &str) {
        let text = |pointer: &str| status.pointer(pointer).and_then(Value::as_str).unwrap_or("?");
        let version = format!("{name} {} ({})", text("/active/version"), short(text("/active/digest")));
        self.fact("plugin", &format!("{version:<34} {what}"));
    }

    /// An alert in plain words: which sensor, what, when, which plugin and version, how long after the event.
    pub(crate) fn alert(&self, alert: &Alert, latency: Option<Duration>) {
        let text = |pointer: &str| alert.json.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let number = |pointer: &str| match alert.json.pointer(pointer) {
            Some(Value::String(text)) => text.parse().unwrap_or(f64::NAN),
            value => value.and_then(Value::as_f64).unwrap_or(f64::NAN),
        };
        let when = text("/detected_at").get(11..19).unwrap_or_default().to_owned();
        let (value, limit) = (number("/attributes/value"), number("/attributes/limit"));
        let hot = self.painted("33", &format!("{value:>6.1} °C, above {limit:.0}"));
        let who = format!("{} {} ({})", alert.plugin, alert.version, short(&alert.digest));
        let after = latency.map(time).unwrap_or_default();
        self.line(&format!("  {when}  {:<6} {hot}   {who}   {after:>7}", text("/key")));
    }

    /// A command as it is typed into a shell.
    pub(crate) fn command(&self, words: &[&str]) {
        let mut lines = vec!["$".to_owned()];
        let mut words = words.iter().peekable();
        while let Some(word) = words.next() {
            let mut part = quoted(word);
            // An option stays on the line of its value.
            if word.starts_with('-')
                && let Some(value) = words.next()
            {
                part = format!("{part} {}", quoted(value));
            }
            let length = |text: &str| text.lines().next().map_or(0, |line| line.chars().count());
            match lines.last_mut() {
                Some(line) if length(line) + length(&part) < WIDTH => *line = format!("{line} {part}"),
                _ => lines.push(format!("  {part}")),
            }
        }
        self.line(&format!("  {}", self.painted("36", &lines.join(" \\\n  "))));
    }

    /// What a command printed; long lines are cut, and of each block the first lines are shown.
    pub(crate) fn output(&self, text: &str) {
        for (nth, block) in text.trim_end().split("\n\n").enumerate() {
            if nth > 0 {
                self.line("");
            }
            for line in block.lines().take(BLOCK) {
                let cut: String = line.chars().take(WIDTH).collect();
                let more = if cut.len() < line.len() { "…" } else { "" };
                self.line(&format!("  {cut}{more}"));
            }
            let left = block.lines().count().saturating_sub(BLOCK);
            if left > 0 {
                self.line(&self.painted("2", &format!("  … and {left} more lines")));
            }
        }
    }

    /// Alerts that were not told one by one.
    pub(crate) fn more(&self, sensors: u64) {
        let ending = if sensors == 1 { "sensor" } else { "sensors" };
        self.line(&self.painted("2", &format!("  … and {sensors} more {ending} in between")));
    }

    /// The checker's word, and what it found wrong in the archive. Gives whether everything held.
    pub(crate) fn summary(
        &self,
        report: &Report,
        faults: &Faults,
        wrong: &[String],
        latencies: &[Duration],
        play: &Play,
    ) -> bool {
        self.scene("Checked by an independent reader of the topics");
        let Report { received, delivered, gate_letters, enrich_letters, dropped, .. } = report;
        let n = |count: &u64| number(*count);
        let letters = n(&(gate_letters + enrich_letters));
        self.fact(
            "events",
            &format!(
                "{} in = {} delivered + {letters} letters ({} gate, {} enrichers) + {} dropped",
                n(received),
                n(delivered),
                n(gate_letters),
                n(enrich_letters),
                n(dropped)
            ),
        );
        for (name, detector) in &report.detectors {
            let (judged, skipped, letters) = (n(&detector.judged), n(&detector.skipped), n(&detector.letters));
            self.fact(
                name,
                &format!("{judged} judged + {skipped} skipped + {letters} letters = {} delivered", n(delivered)),
            );
        }
        let verdict = report.verdict;
        self.fact(
            "faults",
            &format!("{} found, {} missed, {} false alerts", faults.found, faults.missed, verdict.wrong),
        );
        let alerts = report.alerts.len() as u64;
        self.fact(
            "alerts",
            &format!(
                "{}, {} of them about the probe; {} missing, {} repeated",
                n(&alerts),
                n(&faults.probes),
                verdict.missed,
                report.repeated_alerts
            ),
        );
        self.fact("order", &format!("kept for {} sensors; every letter byte for byte", report.keys));
        let at = |share: f64| {
            let place = (latencies.len().saturating_sub(1)) as f64 * share;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index below the length")]
            latencies.get(place.round() as usize).map_or_else(|| "?".to_owned(), |latency| time(*latency))
        };
        let count = number(latencies.len() as u64);
        self.fact(
            "latency",
            &format!("p50 {}, p99 {} from post to alert ({count} alerts at the steady pace)", at(0.5), at(0.99)),
        );
        if let Some((events, took)) = play.burst {
            self.fact(
                "rate",
                &format!("{} events a second, durable, judged, delivered", rounded(events as f64 / took.as_secs_f64())),
            );
        }
        if let Some(reload) = play.reload {
            self.fact(
                "reload",
                &format!("{} from the saved file to its first alert, nothing lost or judged twice", time(reload)),
            );
        }
        if let Some(broken) = &play.broken {
            self.fact(
                "breaker",
                &format!(
                    "open {} after a broken version was saved; {} letters came back within {} of the good one",
                    time(broken.opened),
                    number(broken.letters),
                    time(broken.returned)
                ),
            );
        }
        if let Some(halted) = &play.halted {
            self.fact(
                "kill switch",
                &format!(
                    "call {} of the agent refused, {} after the halt",
                    number(halted.calls + 1),
                    time(halted.refused)
                ),
            );
        }
        let facts = play.archived.as_ref().map(Archived::facts);
        facts.into_iter().flatten().for_each(|(name, text)| self.fact(name, &text));
        let holds = report.holds() && faults.missed == 0 && wrong.is_empty();
        for violation in report.violations.iter().chain(wrong) {
            self.fact("VIOLATION", violation);
        }
        let (colour, word) = if holds { ("32", "all checks hold") } else { ("31", "CHECKS FAILED") };
        self.fact("verdict", &self.painted(colour, word));
        holds
    }

    pub(crate) fn next_steps(&self) {
        self.scene("What to try next");
        let host = target().join("release/phronis");
        let wasm = target().join("wasm32-wasip2/release/threshold.wasm");
        self.fact("a host", &format!("{} run", host.display()));
        self.fact("a plugin", "in another terminal, live in under a second:");
        for line in [
            "mkdir -p phronis-data/plugins/default/sensors && cd phronis-data/plugins/default/sensors".to_owned(),
            "echo 'params = { high = 90.0 }' > hot.toml".to_owned(),
            format!("cp {} hot.wasm", wasm.display()),
        ] {
            self.fact("", &line);
        }
        self.fact("an event", r#"curl -d '{"sensor_id":"S01","value":98.6}' localhost:8000/ingest"#);
        self.fact("its alert", &format!("{} tail alerts --from earliest", host.display()));
        self.fact("your own", "docs/plugins.md: twenty lines of Rust, five minutes");
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:".contains(c);
    match word {
        _ if word.chars().all(is_plain) => word.to_owned(),
        _ if word.contains('\'') => format!("\"{word}\""),
        _ => format!("'{word}'"),
    }
}

/// A time in the unit that fits.
pub(crate) fn time(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1000.0;
    match millis {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1000.0),
    }
}

/// A number with thin groups: `1 234 567`.
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A rate, as exact as anyone wants it.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are positive and small")]
pub(crate) fn rounded(rate: f64) -> String {
    let step = if rate >= 10_000.0 { 1_000.0 } else { 100.0 };
    number(((rate / step).round() * step) as u64)
}
