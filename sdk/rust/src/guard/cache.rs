//! What a guard knows of the host's halts, and what it decides from that.
//!
//! How a check decides, in this order: a halt that is known and not expired refuses. Without any state ever, all is
//! refused but with `FailOpen`. When the last word of the host is too old, `FailOpen` allows and the others refuse;
//! `LastKnown` has no such age unless one is given.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::task::Waker;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::time::parse_micros;
use super::{Halted, WhenUnreachable};

/// Silence after which the host counts as away: it beats each second.
pub(super) const SILENCE: Duration = Duration::from_secs(3);

/// Characters of a text that people see.
const TEXT: usize = 2000;

#[derive(Debug)]
pub(super) struct Cache {
    policy: WhenUnreachable,
    stale_after: Option<Duration>,
    known: RwLock<Known>,
    /// Who waits for a halt, by number.
    wakers: Mutex<HashMap<u64, Waker>>,
    next_waker: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    halted: HashMap<String, Halt>,
    tenant: Option<Halt>,
    epoch: Option<String>,
    version: u64,
    heard: Option<Instant>,
    /// The host's clock as of a moment of ours.
    host_clock: Option<(i64, Instant)>,
    trouble: Option<String>,
}

#[derive(Debug, Clone)]
struct Halt {
    reason: String,
    actor: Option<String>,
    at: Option<String>,
    expires_at: Option<i64>,
}

/// What [`super::State`] shows of this.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) age: Option<Duration>,
    pub(super) is_stale: bool,
    pub(super) halted: usize,
    pub(super) tenant_is_halted: bool,
    pub(super) trouble: Option<String>,
}

/// The host said something that does not fit; the guard connects anew.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unfit(pub(super) &'static str);

#[derive(Deserialize)]
struct Snapshot {
    epoch: String,
    version: u64,
    at: Option<String>,
    halted: Vec<Entry>,
}

#[derive(Deserialize)]
struct Change {
    epoch: String,
    version: u64,
    #[serde(flatten)]
    entry: Entry,
}

#[derive(Deserialize)]
struct Beat {
    epoch: String,
    version: u64,
    at: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    /// Must be there: null is the whole tenant.
    #[serde(deserialize_with = "Option::deserialize")]
    agent: Option<String>,
    state: String,
    reason: Option<String>,
    actor: Option<String>,
    at: Option<String>,
    expires_at: Option<String>,
}

impl Entry {
    /// Agent and halt; no halt: it runs. A state that is not known counts as halted.
    fn read(self) -> Result<(Option<String>, Option<Halt>), Unfit> {
        if self.agent.as_deref() == Some("") {
            return Err(Unfit("an entry without an agent's name"));
        }
        if self.state == "running" {
            return Ok((self.agent, None));
        }
        let expires_at = match self.expires_at {
            Some(text) => Some(parse_micros(&text).ok_or(Unfit("`expires_at` is not a time"))?),
            None => None,
        };
        let clipped = |text: String| text.chars().take(TEXT).collect::<String>();
        let reason = self.reason.map_or_else(|| "no reason given".to_owned(), clipped);
        Ok((self.agent, Some(Halt { reason, actor: self.actor.map(clipped), at: self.at, expires_at })))
    }
}

impl Cache {
    pub(super) fn new(policy: WhenUnreachable, stale_after: Option<Duration>) -> Self {
        let is_last_known = policy == WhenUnreachable::LastKnown;
        let stale_after = if is_last_known { stale_after } else { stale_after.or(Some(SILENCE)) };
        Self { policy, stale_after, known: RwLock::default(), wakers: Mutex::default(), next_waker: AtomicU64::new(0) }
    }

    /// Takes an event of the stream. Gives whether it says that the host is well.
    pub(super) fn take(&self, name: &str, data: &[u8], now: Instant) -> Result<bool, Unfit> {
        match name {
            "snapshot" => self.snapshot(data, now)?,
            "change" => self.change(data, now)?,
            "beat" => return self.beat(data, now).map(|()| true),
            _ => return Ok(false),
        }
        let waiting = std::mem::take(&mut *self.wakers.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_values().for_each(Waker::wake);
        Ok(true)
    }

    fn snapshot(&self, data: &[u8], now: Instant) -> Result<(), Unfit> {
        let snapshot: Snapshot = serde_json::from_slice(data).map_err(|_| Unfit("a snapshot that cannot be read"))?;
        let (mut halted, mut tenant) = (HashMap::with_capacity(snapshot.halted.len()), None);
        for entry in snapshot.halted {
            match entry.read()? {
                (Some(agent), Some(halt)) => drop(halted.insert(agent, halt)),
                (None, Some(halt)) => tenant = Some(halt),
                (_, None) => {}
            }
        }
        let mut known = self.write();
        (known.halted, known.tenant) = (halted, tenant);
        (known.epoch, known.version) = (Some(snapshot.epoch), snapshot.version);
        known.learn_clock(snapshot.at.as_deref(), now);
        known.hear(now);
        Ok(())
    }

    fn change(&self, data: &[u8], now: Instant) -> Result<(), Unfit> {
        let change: Change = serde_json::from_slice(data).map_err(|_| Unfit("a change that cannot be read"))?;
        let mut known = self.write();
        known.expect(&change.epoch, change.version.checked_sub(1))?;
        match change.entry.read()? {
            (None, halt) => known.tenant = halt,
            (Some(agent), Some(halt)) => drop(known.halted.insert(agent, halt)),
            (Some(agent), None) => drop(known.halted.remove(&agent)),
        }
        known.version = change.version;
        known.hear(now);
        Ok(())
    }

    fn beat(&self, data: &[u8], now: Instant) -> Result<(), Unfit> {
        let beat: Beat = serde_json::from_slice(data).map_err(|_| Unfit("a beat that cannot be read"))?;
        let mut known = self.write();
        known.expect(&beat.epoch, Some(beat.version))?;
        known.learn_clock(beat.at.as_deref(), now);
        known.hear(now);
        Ok(())
    }

    /// Whether the agent may call.
    pub(super) fn check(&self, agent: &str) -> Result<(), Halted> {
        self.check_at(agent, Instant::now())
    }

    fn check_at(&self, agent: &str, now: Instant) -> Result<(), Halted> {
        let known = self.read();
        if let Some(halted) = known.halt_of(agent, now) {
            return Err(halted);
        }
        match (self.policy, known.heard) {
            (WhenUnreachable::FailOpen, _) => Ok(()),
            (_, None) => self.check_unheard(agent, known.trouble.as_deref().unwrap_or_default()),
            (_, Some(heard)) => match self.stale_after {
                Some(most) if now.saturating_duration_since(heard) > most => {
                    let age = now.saturating_duration_since(heard).as_secs_f64();
                    Err(refused(agent, format!("the host was last heard {age:.1} s ago")))
                }
                _ => Ok(()),
            },
        }
    }

    /// Whether the agent may call when no state was ever seen. Takes no lock.
    pub(super) fn check_unheard(&self, agent: &str, trouble: &str) -> Result<(), Halted> {
        if self.policy == WhenUnreachable::FailOpen {
            return Ok(());
        }
        let between = if trouble.is_empty() { "" } else { ": " };
        Err(refused(agent, format!("the host's state was never seen{between}{trouble}")))
    }

    /// The halt of an agent, if there is one; else the waker is woken when the host says something new.
    pub(super) fn halt_or_wait(&self, agent: &str, number: u64, waker: &Waker) -> Option<Halted> {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at under the lock: what comes after this look wakes.
        let halted = self.read().halt_of(agent, Instant::now());
        if halted.is_none() {
            wakers.insert(number, waker.clone());
        }
        halted
    }

    /// A number for one who will wait.
    pub(super) fn waiter(&self) -> u64 {
        self.next_waker.fetch_add(1, Ordering::Relaxed)
    }

    /// Who had this number waits no more.
    pub(super) fn forget(&self, number: u64) {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }

    /// Notes why the host is not heard.
    pub(super) fn trouble(&self, trouble: String) {
        self.write().trouble = Some(trouble);
    }

    pub(super) fn shown(&self) -> Shown {
        let known = self.read();
        let age = known.heard.map(|heard| heard.elapsed());
        Shown {
            age,
            is_stale: age.is_none_or(|age| self.stale_after.is_some_and(|most| age > most)),
            halted: known.halted.len(),
            tenant_is_halted: known.tenant.is_some(),
            trouble: known.trouble.clone(),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The guard itself refuses.
fn refused(agent: &str, reason: String) -> Halted {
    Halted { agent_id: agent.to_owned(), reason, actor: None, at: None }
}

impl Known {
    fn expect(&self, epoch: &str, version: Option<u64>) -> Result<(), Unfit> {
        match &self.epoch {
            None => Err(Unfit("the stream does not begin with a snapshot")),
            Some(known) if known != epoch => Err(Unfit("another incarnation of the host")),
            Some(_) if version != Some(self.version) => Err(Unfit("a gap in the versions")),
            Some(_) => Ok(()),
        }
    }

    fn hear(&mut self, now: Instant) {
        self.heard = Some(now);
        self.trouble = None;
    }

    /// The halt that holds for an agent.
    fn halt_of(&self, agent: &str, now: Instant) -> Option<Halted> {
        let mut halts = self.halted.get(agent).into_iter().chain(&self.tenant);
        let Halt { reason, actor, at, .. } = halts.find(|halt| !self.is_over(halt, now))?.clone();
        Some(Halted { agent_id: agent.to_owned(), reason, actor, at })
    }

    fn learn_clock(&mut self, at: Option<&str>, now: Instant) {
        if let Some(at) = at.and_then(parse_micros) {
            self.host_clock = Some((at, now));
        }
    }

    /// By the host's clock as last heard, carried on by the steady one: no wall clock that jumps lifts anything.
    fn is_over(&self, halt: &Halt, now: Instant) -> bool {
        let (Some(end), Some((at, then))) = (halt.expires_at, self.host_clock) else { return false };
        let passed = i64::try_from(now.saturating_duration_since(then).as_micros()).unwrap_or(i64::MAX);
        at.saturating_add(passed) >= end
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn halt(agent: Value, reason: &str) -> Value {
        json!({"agent": agent, "state": "halted", "reason": reason, "actor": "ops", "at": "2026-01-02T12:00:00Z", "expires_at": null})
    }

    fn change(version: u64, mut entry: Value) -> Value {
        entry["epoch"] = json!("e");
        entry["version"] = json!(version);
        entry
    }

    fn cache(policy: WhenUnreachable, stale_after: Option<u64>, now: Instant, halted: &[Value]) -> Cache {
        let cache = Cache::new(policy, stale_after.map(Duration::from_secs));
        take(&cache, "snapshot", json!({"epoch": "e", "version": 7, "halted": halted}), now).unwrap();
        cache
    }

    fn take(cache: &Cache, name: &str, data: Value, now: Instant) -> Result<bool, Unfit> {
        cache.take(name, data.to_string().as_bytes(), now)
    }

    fn allows(cache: &Cache, agent: &str, now: Instant) -> bool {
        cache.check_at(agent, now).is_ok()
    }

    #[test]
    fn what_holds_while_the_host_is_not_heard() {
        use WhenUnreachable::{FailClosed, FailOpen, LastKnown};
        for (policy, stale_after, allowed) in [
            (LastKnown, None, [false, true, true, true, true]),
            (LastKnown, Some(60), [false, true, true, true, false]),
            (FailOpen, None, [true; 5]),
            (FailClosed, None, [false, true, true, false, false]),
            (FailClosed, Some(60), [false, true, true, true, false]),
        ] {
            let now = Instant::now();
            let never = Cache::new(policy, stale_after.map(Duration::from_secs));
            let heard = cache(policy, stale_after, now, &[halt(json!("bad"), "r")]);
            let mut got = vec![allows(&never, "a", now)];
            for millis in [0, 2_900, 3_100, 3_600_000] {
                let then = now + Duration::from_millis(millis);
                got.push(allows(&heard, "a", then));
                assert!(!allows(&heard, "bad", then), "a known halt holds under each policy");
            }
            assert_eq!(got, allowed, "{policy:?} {stale_after:?}");
        }
    }

    #[test]
    fn halts_of_agents_and_of_the_tenant_come_and_go_apart() {
        let now = Instant::now();
        let known = cache(WhenUnreachable::LastKnown, None, now, &[halt(json!("a"), "loops")]);
        let halted = known.check_at("a", now).unwrap_err();
        assert_eq!((&*halted.reason, halted.actor.as_deref()), ("loops", Some("ops")));
        assert_eq!(halted.to_string(), "agent \"a\" is halted by ops: loops");
        take(&known, "change", change(8, halt(Value::Null, "stop all")), now).unwrap();
        assert!(!allows(&known, "z", now));
        take(&known, "change", change(9, json!({"agent": null, "state": "running"})), now).unwrap();
        assert!(allows(&known, "z", now) && !allows(&known, "a", now));
        take(&known, "change", change(10, json!({"agent": "a", "state": "running"})), now).unwrap();
        take(&known, "change", change(11, json!({"agent": "b", "state": "unheard-of"})), now).unwrap();
        assert!(allows(&known, "a", now) && !allows(&known, "b", now));
        take(&known, "beat", json!({"epoch": "e", "version": 11, "at": null}), now).unwrap();
        assert_eq!(known.take("news", b"whatever", now), Ok(false));
    }

    #[test]
    fn expiry_follows_the_hosts_clock() {
        let now = Instant::now();
        let mut entry = halt(json!("a"), "r");
        entry["expires_at"] = json!("1970-01-01T00:00:10Z");
        let known = cache(WhenUnreachable::LastKnown, None, now, &[entry]);
        assert!(
            known.check_at("a", now + Duration::from_secs(3600)).is_err(),
            "nothing ends by a clock that is not known"
        );
        take(&known, "beat", json!({"epoch": "e", "version": 7, "at": "1970-01-01T00:00:01Z"}), now).unwrap();
        assert!(known.check_at("a", now + Duration::from_millis(8_999)).is_err());
        assert!(known.check_at("a", now + Duration::from_millis(9_000)).is_ok());
    }

    #[test]
    fn what_does_not_follow_is_refused_and_changes_nothing() {
        let now = Instant::now();
        let known = cache(WhenUnreachable::LastKnown, None, now, &[]);
        let other = json!({"epoch": "f", "version": 8, "agent": "a", "state": "halted"});
        let timeless = json!({"agent": "a", "state": "halted", "expires_at": "soon"});
        for broken in [
            change(9, halt(json!("a"), "r")),
            change(7, halt(json!("a"), "r")),
            change(8, halt(json!(""), "r")),
            change(8, halt(json!(5), "r")),
            change(8, json!({"state": "halted"})),
            change(8, json!({"agent": "a"})),
            change(8, timeless),
            other,
            json!([]),
            json!(null),
        ] {
            assert!(take(&known, "change", broken.clone(), now).is_err(), "{broken}");
            assert!(allows(&known, "a", now));
        }
        for (name, data) in
            [("beat", "{}"), ("beat", "{\"epoch\":\"e\",\"version\":8}"), ("snapshot", "{"), ("snapshot", "{}")]
        {
            assert!(known.take(name, data.as_bytes(), now).is_err(), "{name} {data}");
        }
        let empty = Cache::new(WhenUnreachable::LastKnown, None);
        assert!(take(&empty, "beat", json!({"epoch": "e", "version": 0}), now).is_err());
    }
}
