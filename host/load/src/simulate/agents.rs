//! AI agents at work: tool calls with tokens and cost; some run away, in money or in calls.

use std::{sync::Arc, time::Duration};

use super::{
    Event, Expect, Fault, FaultKind, Malformation, Settings,
    chance::Chance,
    schedule::{Active, Planned, Schedule, Truth},
    time_text,
};

const KINDS: &[Planned] = &[
    Planned { kind: FaultKind::CostExplosion, shortest: 8, longest: 20 },
    Planned { kind: FaultKind::CallStorm, shortest: 6, longest: 12 },
];

const TOOLS: [&str; 6] = ["search", "read_file", "run_query", "send_mail", "http_get", "summarise"];
const STATUSES: [&str; 4] = ["running", "running", "running", "waiting"];

/// Calls that a storm makes in each turn of its agent.
const STORM: u64 = 8;

/// Agent states without end:
/// `{"agent_id":"A0001","status":"running","timestamp":…,"metadata":{"seq":12,"tool":"search","tokens":812,"cost_usd":0.0081,"calls_per_minute":9,"latency_ms":240}}`.
/// Agents take turns; each counts its own calls without a gap.
#[derive(Debug)]
pub struct Agents {
    settings: Settings,
    chance: Chance,
    schedule: Schedule,
    truth: Truth,
    agents: Vec<(Arc<str>, u64)>,
    /// Turns taken by all agents together.
    slot: u64,
    /// Calls already made in this turn.
    call: u64,
}

impl Agents {
    /// No normal call costs this much, in USD.
    pub const NORMAL_COST_BELOW: f64 = 0.2;

    /// A call in a cost explosion costs at least this, in USD.
    pub const FAULT_COST_FROM: f64 = 5.0;

    /// No agent at work calls this often, in calls a minute.
    pub const NORMAL_CALLS_BELOW: u64 = 40;

    /// An agent in a storm calls at least this often, in calls a minute.
    pub const FAULT_CALLS_FROM: u64 = 300;

    /// The beginning of a run.
    pub fn new(settings: Settings) -> Self {
        let agents: Vec<_> =
            (1..=u64::from(settings.keys.max(1))).map(|number| (format!("A{number:04}").into(), 0)).collect();
        Self {
            chance: Chance::new(settings.seed),
            schedule: Schedule::new(settings.seed, settings.fault_every, KINDS),
            truth: Truth::new(agents.len()),
            settings,
            agents,
            slot: 0,
            call: 0,
        }
    }

    /// The faults of the events so far, in the order of their beginning.
    pub fn faults(&self) -> &[Fault] {
        self.truth.faults()
    }

    fn make(&mut self) -> Option<Event> {
        let keys = self.agents.len() as u64;
        let (turn, index) = (self.slot / keys, usize::try_from(self.slot % keys).ok()?);
        let key = u32::try_from(index).ok()?;
        let active = self.schedule.active(key, turn);
        let calls = if active.is_some_and(|active| active.kind == FaultKind::CallStorm) { STORM } else { 1 };
        // The calls of a storm share the time of one turn.
        let slots = self.slot as f64 + self.call as f64 / calls as f64;
        let at = Duration::from_secs_f64(slots / self.settings.per_second.max(1e-6));
        let time_ms = self.settings.start_ms.saturating_add(i64::try_from(at.as_millis()).unwrap_or(i64::MAX));
        let chance = self.chance.of(u64::from(key)).of(turn).of(self.call);
        let malformed = active.is_none().then(|| Malformation::pick(chance.of(1), self.settings.malformed)).flatten();
        let (name, seq) = self.agents.get_mut(index)?;
        let call = Call::new(chance, active);
        let event = Event {
            key: Arc::clone(name),
            seq: *seq,
            at,
            time_ms,
            bytes: call.text(name, *seq, &time_text(time_ms, self.settings.times), malformed),
            is_fault: active.is_some(),
            fault: active.map(|active| active.kind),
            expect: malformed.map_or(Expect::Delivered, Expect::Refused),
        };
        *seq += 1;
        self.call += 1;
        if self.call == calls {
            (self.call, self.slot) = (0, self.slot + 1);
        }
        let is_storm = event.fault == Some(FaultKind::CallStorm);
        self.truth.note(key, &event, active, if is_storm { call.per_minute as f64 } else { call.cost });
        Some(event)
    }
}

impl Iterator for Agents {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.make()
    }
}

/// What an agent did.
struct Call {
    status: &'static str,
    tool: &'static str,
    tokens: u64,
    cost: f64,
    per_minute: u64,
    latency_ms: u64,
}

impl Call {
    fn new(chance: Chance, active: Option<Active>) -> Self {
        let pick = |lane, words: &[&'static str]| {
            let at = usize::try_from(chance.of(lane).below(words.len() as u64)).unwrap_or(0);
            words.get(at).copied().unwrap_or_default()
        };
        let mut call = Self {
            status: pick(2, &STATUSES),
            tool: pick(3, &TOOLS),
            tokens: 100 + chance.of(4).below(3_900),
            cost: 0.0,
            per_minute: 2 + chance.of(5).below(Agents::NORMAL_CALLS_BELOW - 12),
            latency_ms: 80 + chance.of(6).below(900),
        };
        match active.map(|active| active.kind) {
            Some(FaultKind::CostExplosion) => call.tokens = 600_000 + chance.of(4).below(900_000),
            Some(FaultKind::CallStorm) => call.per_minute = Agents::FAULT_CALLS_FROM + chance.of(5).below(600),
            _ => {}
        }
        // Ten dollars a million tokens.
        call.cost = call.tokens as f64 / 100_000.0;
        call
    }

    fn text(&self, name: &str, seq: u64, time: &str, malformed: Option<Malformation>) -> Vec<u8> {
        let Self { status, tool, tokens, cost, per_minute, latency_ms } = self;
        let agent = match malformed {
            Some(Malformation::MissingField) => String::new(),
            _ => format!("\"agent_id\":\"{name}\","),
        };
        let status = match malformed {
            Some(Malformation::WrongType) => "7".to_owned(),
            _ => format!("\"{status}\""),
        };
        let cost = if malformed == Some(Malformation::OutOfRange) { -1.0 } else { *cost };
        let mut text = format!(
            r#"{{{agent}"status":{status},"timestamp":{time},"metadata":{{"seq":{seq},"tool":"{tool}","tokens":{tokens},"cost_usd":{cost:.5},"calls_per_minute":{per_minute},"latency_ms":{latency_ms}}}}}"#
        )
        .into_bytes();
        if malformed == Some(Malformation::Truncated) {
            text.truncate(text.len() * 2 / 3);
        }
        text
    }
}
