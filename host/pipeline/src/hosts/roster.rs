//! Who lives and what they run, from what they said. Pure: time is an argument.

use std::collections::{BTreeMap, BTreeSet};

use phronis_core::PluginId;

use super::record::{Plugin, Record, Said};
use super::{Host, Running, Spread};
use crate::Role;

/// A host that was not heard of for this long is gone: six of its heartbeats.
const GONE_AFTER_MS: i64 = 30_000;

/// How long versions may differ before it is worth a word: a rolling change of files takes a moment.
const DIFFER_FOR_MS: i64 = 10_000;

/// All hosts that were heard of.
#[derive(Debug)]
pub(crate) struct Roster {
    /// This host's node id and incarnation.
    node_id: String,
    incarnation: String,
    hosts: BTreeMap<String, Heard>,
    /// The newest offset that was taken of each host, also of those that are gone.
    offsets: BTreeMap<String, i64>,
    differing: BTreeMap<PluginId, Differing>,
    /// Words of other processes with this host's node id, by incarnation, since this one took it.
    doubles: BTreeMap<String, u32>,
    /// Those that spoke before that.
    elders: BTreeSet<String>,
}

#[derive(Debug)]
struct Heard {
    record: Record,
    at: i64,
}

#[derive(Debug)]
struct Differing {
    since: i64,
    is_said: bool,
}

/// What taking a record showed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Nothing out of order.
    Fine,
    /// Another live process has this host's node id; said once for each.
    Double(Box<Record>),
    /// Another process took this host's node id after it, and lives: this one must end.
    /// So it is where this one was frozen for so long, or the other's clock so far ahead, that this one was taken for dead.
    Replaced(Box<Record>),
}

/// Versions of a plugin began or ceased to differ.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) plugin: PluginId,
    pub(crate) is_consistent: bool,
    /// What each host runs; none where it should run it and has no such plugin.
    pub(crate) digests: BTreeMap<String, Option<String>>,
}

impl Roster {
    pub(crate) fn new(me: Record) -> Self {
        let (node_id, incarnation) = (me.node_id.clone(), me.incarnation.clone());
        let heard = Heard { at: me.at.0 / 1000, record: me };
        Self {
            hosts: BTreeMap::from([(node_id.clone(), heard)]),
            node_id,
            incarnation,
            offsets: BTreeMap::new(),
            differing: BTreeMap::new(),
            doubles: BTreeMap::new(),
            elders: BTreeSet::new(),
        }
    }

    /// Takes what a host said, heard at this time. What was taken before, or is older, is left out.
    pub(crate) fn take(&mut self, said: Said, heard_at: i64) -> Taken {
        let Said { node_id, offset, record } = said;
        let is_own = node_id == self.node_id;
        if self.offsets.get(&node_id).is_some_and(|newest| *newest >= offset) {
            let spoke = record.filter(|_| is_own).map(|record| record.incarnation);
            self.elders.extend(spoke.filter(|incarnation| !self.doubles.contains_key(incarnation)));
            return Taken::Fine;
        }
        self.offsets.insert(node_id.clone(), offset);
        if is_own {
            return record
                .filter(|record| record.incarnation != self.incarnation)
                .map_or(Taken::Fine, |it| self.double(it));
        }
        match record {
            Some(record) => self.hosts.insert(node_id, Heard { record, at: heard_at }),
            None => self.hosts.remove(&node_id),
        };
        Taken::Fine
    }

    fn double(&mut self, record: Record) -> Taken {
        let words = self.doubles.entry(record.incarnation.clone()).or_default();
        *words = words.saturating_add(1);
        match *words {
            1 => Taken::Double(Box::new(record)),
            // One that lost the race for the id says a single word.
            2 if !self.elders.contains(&record.incarnation) => Taken::Replaced(Box::new(record)),
            _ => Taken::Fine,
        }
    }

    /// Takes what this host says of itself, which it knows before the log does; offsets up to this one are its past.
    pub(crate) fn take_own(&mut self, record: Record, past: Option<i64>) {
        let at = record.at.0 / 1000;
        if let Some(past) = past {
            self.offsets.insert(self.node_id.clone(), past);
        }
        self.hosts.insert(self.node_id.clone(), Heard { record, at });
    }

    /// The topic was made anew: offsets begin again.
    pub(crate) fn restart(&mut self) {
        self.offsets.clear();
    }

    /// Lets go of hosts that were silent for too long.
    pub(crate) fn expire(&mut self, now: i64) {
        let own = &self.node_id;
        self.hosts.retain(|node_id, heard| node_id == own || now.saturating_sub(heard.at) < GONE_AFTER_MS);
    }

    pub(crate) fn hosts(&self) -> Vec<Host> {
        let host = |heard: &Heard| Host {
            node_id: heard.record.node_id.clone(),
            is_this: heard.record.incarnation == self.incarnation,
            hostname: heard.record.hostname.clone(),
            pid: heard.record.pid,
            version: heard.record.version.clone(),
            roles: heard.record.roles.clone(),
            listen: heard.record.listen,
            started_at: heard.record.started_at.0 / 1000,
            heard_at: heard.at,
        };
        self.hosts.values().map(host).collect()
    }

    pub(crate) fn spread(&self, plugin: &PluginId) -> Spread {
        let running = |(record, of_it): (&Record, Option<&Plugin>)| Running {
            node_id: record.node_id.clone(),
            digest: of_it.map(|plugin| plugin.digest.clone()),
            version: of_it.map(|plugin| plugin.version.clone()),
            since: of_it.map(|plugin| plugin.since.0 / 1000),
        };
        let hosts: Vec<_> = self.workers_of(plugin).map(running).collect();
        let is_consistent = hosts.windows(2).all(|pair| matches!(pair, [a, b] if a.digest == b.digest));
        Spread { hosts, is_consistent }
    }

    /// How many versions of each plugin run.
    pub(crate) fn versions(&self) -> BTreeMap<PluginId, usize> {
        let mut digests: BTreeMap<PluginId, BTreeSet<&str>> = BTreeMap::new();
        for heard in self.hosts.values().filter(|heard| processes(&heard.record)) {
            for plugin in &heard.record.plugins {
                digests.entry(plugin.id.clone()).or_default().insert(&plugin.digest);
            }
        }
        digests.into_iter().map(|(plugin, digests)| (plugin, digests.len())).collect()
    }

    /// What there is to say about versions that differ, or do so no more.
    pub(crate) fn compare(&mut self, now: i64) -> Vec<Change> {
        let known = self.versions().into_keys().chain(self.differing.keys().cloned());
        let known: BTreeSet<PluginId> = known.collect();
        let mut changes = Vec::new();
        for plugin in known {
            let spread = self.spread(&plugin);
            if spread.is_consistent {
                if self.differing.remove(&plugin).is_some_and(|differing| differing.is_said) {
                    changes.push(change(plugin, spread));
                }
                continue;
            }
            let differing = self.differing.entry(plugin.clone()).or_insert(Differing { since: now, is_said: false });
            if !differing.is_said && now.saturating_sub(differing.since) >= DIFFER_FOR_MS {
                differing.is_said = true;
                changes.push(change(plugin, spread));
            }
        }
        changes
    }

    /// The hosts that should run a plugin, or do, and what they run of it.
    fn workers_of<'a>(&'a self, plugin: &'a PluginId) -> impl Iterator<Item = (&'a Record, Option<&'a Plugin>)> {
        let records = self.hosts.values().map(|heard| &heard.record).filter(|record| processes(record));
        records.filter_map(|record| {
            let of_it = record.plugins.iter().find(|running| running.id == *plugin);
            (of_it.is_some() || record.streams.contains(&plugin.stream)).then_some((record, of_it))
        })
    }
}

fn change(plugin: PluginId, spread: Spread) -> Change {
    let digests = spread.hosts.into_iter().map(|running| (running.node_id, running.digest)).collect();
    Change { plugin, is_consistent: spread.is_consistent, digests }
}

fn processes(record: &Record) -> bool {
    record.roles.iter().any(|role| role == Role::Process.as_str())
}

#[cfg(test)]
mod tests {
    use super::super::record::Me;
    use super::*;
    use crate::Node;

    const PLUGIN: &str = "default/sensors/hot";

    fn record(node_id: &str, digest: Option<&str>, now: i64) -> Record {
        let node = Node { id: node_id.to_owned(), listen: None };
        let me = Me::new(node, Role::all(), vec!["sensors".parse().unwrap()]);
        let plugin = |digest: &str| Plugin {
            id: PLUGIN.parse().unwrap(),
            digest: digest.to_owned(),
            version: "1.0.0".to_owned(),
            since: phronis_core::time::Time(0),
        };
        me.record(digest.map(plugin).into_iter().collect(), now)
    }

    fn said(offset: i64, record: &Record) -> Said {
        Said { node_id: record.node_id.clone(), offset, record: Some(record.clone()) }
    }

    #[test]
    fn versions_that_differ_for_long_are_told_once_and_so_is_their_agreement() {
        let mut roster = Roster::new(record("a", Some("1"), 0));
        assert_eq!(roster.take(said(3, &record("b", Some("2"), 0)), 0), Taken::Fine);
        let plugin: PluginId = PLUGIN.parse().unwrap();
        assert!(!roster.spread(&plugin).is_consistent);
        assert_eq!(roster.versions().get(&plugin), Some(&2));
        assert_eq!(roster.compare(0), []);
        assert_eq!(roster.compare(9_999), []);
        let told = roster.compare(10_000);
        let digest = |of: &str| told.first().and_then(|change| change.digests.get(of)).cloned().flatten();
        assert_eq!((digest("a").as_deref(), digest("b").as_deref()), (Some("1"), Some("2")));
        assert_eq!(roster.compare(11_000), []);

        roster.take(said(4, &record("b", Some("1"), 12_000)), 12_000);
        let told = roster.compare(12_000);
        assert!(matches!(told.as_slice(), [change] if change.is_consistent), "{told:?}");
        assert!(roster.spread(&plugin).is_consistent);
    }

    #[test]
    fn a_host_without_the_plugin_differs_unless_it_does_not_process() {
        let plugin: PluginId = PLUGIN.parse().unwrap();
        let mut roster = Roster::new(record("a", Some("1"), 0));
        roster.take(said(0, &record("b", None, 0)), 0);
        assert!(!roster.spread(&plugin).is_consistent);
        roster.take(said(1, &Record { roles: vec!["serve".into()], ..record("b", None, 0) }), 0);
        assert!(roster.spread(&plugin).is_consistent);
    }

    #[test]
    fn the_silent_are_gone_and_this_host_never_is() {
        let mut roster = Roster::new(record("a", None, 0));
        roster.take(said(0, &record("b", None, 0)), 0);
        roster.take(said(1, &record("c", None, 0)), 5_000);
        roster.expire(30_000);
        let names = |roster: &Roster| roster.hosts().into_iter().map(|host| host.node_id).collect::<Vec<_>>();
        assert_eq!(names(&roster), ["a", "c"]);
        roster.take(Said { node_id: "c".into(), offset: 2, record: None }, 30_000);
        // Read again from the beginning: what is older than the end is no news.
        roster.take(said(1, &record("c", None, 0)), 30_000);
        assert_eq!(names(&roster), ["a"]);
    }

    #[test]
    fn another_process_with_this_node_id_is_warned_of_once_and_the_later_one_stays() {
        let mut roster = Roster::new(record("a", None, 0));
        roster.take_own(record("a", None, 0), Some(7));
        let (elder, younger) = (record("a", None, 0), record("a", None, 0));
        assert_eq!(roster.take(said(6, &elder), 0), Taken::Fine, "its past");
        assert_eq!(roster.take(said(8, &elder), 0), Taken::Double(Box::new(elder.clone())));
        assert_eq!(roster.take(said(9, &elder), 0), Taken::Fine);
        assert_eq!(
            roster.take(said(10, &younger), 0),
            Taken::Double(Box::new(younger.clone())),
            "it may have lost the race"
        );
        assert_eq!(roster.take(said(11, &younger), 0), Taken::Replaced(Box::new(younger.clone())));
        assert_eq!(roster.take(said(12, &younger), 0), Taken::Fine);
    }
}
