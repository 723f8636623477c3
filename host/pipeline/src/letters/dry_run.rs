//! What would become of a letter now: its record goes through the plugins once more, off the data path, and nothing is written.
//!
//! The plugins are instances of its own: what they say or fail at here is counted nowhere, and no breaker hears of it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use phronis_core::contract::Contract;
use phronis_core::decode::Decoder;
use phronis_core::letter::{Kind, Letter, Stage};
use phronis_core::plugin::Severity;
use phronis_core::records::{Records, RecordsBuilder};
use phronis_core::{Code, Name, StreamId, code};

use super::{At, Detail, Place};
use crate::Handle;
use crate::breakers::Kept;
use crate::clock::now_us;
use crate::crew::Crew;
use crate::plugins::{Entry, Lineup, Placed, Problem as Unfit, Rules, Settings, Version, order};
use crate::stage::deliver::code_of;
use crate::stage::{Judged, Leaving, Stopped, Times, detect, enrich};

/// What would become of a letter.
#[derive(Debug, Clone, PartialEq)]
pub struct DryRun {
    /// In one word.
    pub verdict: Verdict,
    /// What would be found.
    pub findings: Vec<Finding>,
    /// What would fail.
    pub problems: Vec<Problem>,
    /// The versions that were asked: name, version, digest.
    pub asked: Vec<(Name, String, String)>,
}

/// What would become of a letter, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The event would be judged, or delivered: the letter would be settled.
    Good,
    /// A rule would drop the event.
    Dropped,
    /// It would fail again.
    Fails,
}

/// What a detector would find.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// Which.
    pub plugin: Name,
    /// Which rule fires.
    pub rule: String,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence for a person.
    pub message: String,
}

/// What would fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The plugin, unless it is the gate.
    pub plugin: Option<Name>,
    /// The stable code.
    pub code: Code,
    /// Why, in words.
    pub message: String,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Impossible {
    /// No such letter.
    #[error("there is no letter there")]
    Unknown,
    /// The plugin, or the version that was asked for, does not run and is not kept.
    #[error("{0}")]
    Gone(String),
    /// The version does not fit beside the plugins that run, or does not take its settings.
    #[error("{message}")]
    Refused {
        /// The stable code.
        code: Code,
        /// Why, in words.
        message: String,
    },
    /// The letter does not keep its record's bytes, and they are not in raw any more.
    #[error("the letter does not keep the whole record")]
    Omitted,
    /// A fault of the host.
    #[error("{0}")]
    Host(String),
    /// The log does not answer.
    #[error(transparent)]
    Log(#[from] phronis_log::Error),
}

impl Handle {
    /// Shows a letter's record to the plugins that run; with a digest, that version stands in for the one that runs.
    ///
    /// A version that is only kept is compiled for it, from the cache where that has it.
    ///
    /// # Errors
    /// Nothing can be said.
    pub fn dry_run(&self, stream: &StreamId, place: Place, digest: Option<&str>) -> Result<DryRun, Impossible> {
        let At::Letter(detail) = self.letter(stream, place)? else { return Err(Impossible::Unknown) };
        let (running, _) = self.letters_of(stream).ok_or(Impossible::Unknown)?;
        let letter = &detail.found.letter;
        let contract = &running.options.contract;
        let mut lineup = self.shared.board.lineup(stream);
        if let Some(digest) = digest.filter(|digest| !versions(&lineup).any(|runs| runs.component.digest() == *digest))
        {
            let version = self.kept(stream, digest)?;
            lineup = Arc::new(with(&lineup, contract, version)?);
        }
        let lineup = chosen(&lineup, letter)?;
        let records = match Kind::of(detail.found.record.body.headers(0)) == Kind::Range {
            true => self.first_of_range(letter)?,
            false => original(&detail)?,
        };
        let crew = Crew::new(Arc::clone(contract), false).map_err(Impossible::Host)?;
        run(Decoder::new(Arc::clone(contract)), crew, lineup, records)
    }

    /// A version that does not run and is kept on the shelf, with the settings that it ran with.
    fn kept(&self, stream: &StreamId, digest: &str) -> Result<Version, Impossible> {
        let plugins = self.plugins().into_iter().filter(|plugin| plugin.id.stream == *stream);
        let mut good = plugins.flat_map(|plugin| plugin.good.into_iter().map(move |good| (plugin.id.clone(), good)));
        let Some((id, good)) = good.find(|(_, good)| good.digest == digest) else {
            let message = format!("no version with the digest {digest} runs in this stream or is kept");
            return Err(Impossible::Gone(message));
        };
        let (running, _) = self.letters_of(stream).ok_or(Impossible::Unknown)?;
        let component = self.shared.shelved.load(digest)?;
        let settings = Settings { params: good.params, limits: good.limits, ..Settings::default() };
        let entry = Entry::new(id.clone(), Kept::apart(&id));
        Ok(entry.build(&component, &settings, &Rules::of(&running.options)).map_err(|refused| refused.problem)?)
    }

    /// The first record that a range letter is about: it stands for the others.
    fn first_of_range(&self, letter: &Letter) -> Result<Records, Impossible> {
        let origin = &letter.origin;
        let mut record = None;
        let log = self.shared.log.as_ref();
        crate::retry::read_letters(log, &origin.topic, origin.partition, &[origin.offset], |records, row| {
            record = Some(records.slice(row, 1));
        })?;
        record.ok_or(Impossible::Omitted)
    }
}

/// The record that a letter keeps, as it stood in raw.
fn original(detail: &Detail) -> Result<Records, Impossible> {
    let (letter, body) = (&detail.found.letter, &detail.found.record.body);
    if letter.omitted.value.is_some() || letter.omitted.key.is_some() {
        return Err(Impossible::Omitted);
    }
    let mut records = RecordsBuilder::default();
    records.push(letter.origin.timestamp, body.key(0), body.value(0), detail.original.as_bytes());
    let origin = &letter.origin;
    Ok(Records {
        topic: Arc::clone(&origin.topic),
        partition: origin.partition,
        offsets: vec![origin.offset].into(),
        body: records.finish(),
    })
}

impl From<Unfit> for Impossible {
    fn from(unfit: Unfit) -> Self {
        match unfit.code {
            code::LETTER_VERSION_GONE => Self::Gone(unfit.message),
            code => Self::Refused { code, message: unfit.message },
        }
    }
}

fn versions(lineup: &Lineup) -> impl Iterator<Item = &Arc<Version>> {
    lineup.enrichers.iter().chain(&lineup.detectors).map(|placed| &placed.version)
}

/// The lineup with this version in the place of the one that runs.
fn with(lineup: &Lineup, contract: &Contract, version: Version) -> Result<Lineup, Impossible> {
    let mut all: Vec<Arc<Version>> = versions(lineup).filter(|other| other.id != version.id).map(Arc::clone).collect();
    all.push(Arc::new(version));
    let wishes: Vec<_> = all.iter().map(|version| version.wish()).collect();
    let order = order::order(contract, &wishes).map_err(|(_, unfit)| unfit)?;
    let place = |place: &order::Place| {
        let version = all.iter().find(|version| version.id.name == place.name)?;
        Some(Placed { version: Arc::clone(version), columns: place.columns.clone().into() })
    };
    Ok(Lineup {
        enrichers: order.enrichers.iter().filter_map(place).collect(),
        detectors: order.detectors.iter().filter_map(place).collect(),
        added: order.added,
        bypassed: lineup.bypassed.clone(),
        is_ready: true,
        is_held: false,
    })
}

/// The plugins that the letter concerns, with counters of their own.
fn chosen(lineup: &Lineup, letter: &Letter) -> Result<Lineup, Impossible> {
    let name = letter.plugin.as_ref().map(|plugin| &plugin.name);
    if let Some(name) = name.filter(|name| !versions(lineup).any(|version| version.id.name == **name)) {
        return Err(Impossible::Gone(format!("the plugin `{name}` does not run in this stream any more")));
    }
    // A detector's letter concerns that detector alone; the others have judged the event.
    let wants = |placed: &&Placed| letter.stage != Stage::Detect || Some(&placed.version.id.name) == name;
    Ok(Lineup {
        enrichers: lineup.enrichers.iter().map(uncounted).collect(),
        detectors: lineup.detectors.iter().filter(wants).map(uncounted).collect(),
        added: lineup.added.clone(),
        bypassed: lineup.bypassed.clone(),
        is_ready: true,
        is_held: false,
    })
}

fn uncounted(placed: &Placed) -> Placed {
    let Version { id, component, params, limits, fields, adds, may_halt, policy, .. } = &*placed.version;
    let version = Version {
        id: id.clone(),
        component: component.clone(),
        params: params.clone(),
        limits: *limits,
        fields: Arc::clone(fields),
        adds: Arc::clone(adds),
        may_halt: *may_halt,
        counters: Arc::default(),
        breaker: Kept::apart(id),
        policy: policy.clone(),
        is_retired: AtomicBool::new(false),
    };
    Placed { version: Arc::new(version), columns: Arc::clone(&placed.columns) }
}

fn run(mut decoder: Decoder, mut crew: Crew, lineup: Lineup, records: Records) -> Result<DryRun, Impossible> {
    let checked = decoder.check(records);
    if let Some(rejection) = checked.rejected.first() {
        let problem = Problem { plugin: None, code: rejection.code, message: rejection.message.clone() };
        return Ok(DryRun {
            verdict: Verdict::Fails,
            findings: Vec::new(),
            problems: vec![problem],
            asked: Vec::new(),
        });
    }
    let version = |placed: &Placed| {
        let component = &placed.version.component;
        (placed.version.id.name.clone(), component.manifest().version.clone(), component.digest().to_owned())
    };
    let asked = lineup.enrichers.iter().chain(&lineup.detectors).map(version).collect();
    crew.follow(Arc::new(lineup)).map_err(Impossible::Host)?;
    let mut judged = Judged::new(checked, now_us(), Times::default());
    let fault = |error: Stopped| Impossible::Host(error.to_string());
    for enricher in &mut crew.enrichers {
        enrich::enrich(&mut judged, enricher, false).map_err(fault)?;
    }
    for detector in &mut crew.detectors {
        detect::detect(&mut judged, detector).map_err(fault)?;
    }
    Ok(said(judged, asked))
}

fn said(judged: Judged, asked: Vec<(Name, String, String)>) -> DryRun {
    let mut problems: Vec<Problem> = Vec::new();
    let mut problem = |plugin: &Version, failure: phronis_core::plugin::RowFailure| {
        let plugin = Some(plugin.id.name.clone());
        problems.push(Problem { plugin, code: code_of(failure.kind), message: failure.message });
    };
    let mut is_dropped = false;
    for leaving in judged.leaving.into_values() {
        match leaving {
            // Nobody is halted in a dry run: it tells what the plugins say.
            Leaving::Dropped { .. } | Leaving::Halted { .. } => is_dropped = true,
            Leaving::Failed { plugin, failure } => problem(&plugin, failure),
            // A breaker that nobody else hears of does not open for one record, and delivery and order are not asked.
            Leaving::Waits | Leaving::Behind { .. } | Leaving::TooLarge { .. } | Leaving::Known => {}
        }
    }
    judged.debts.into_iter().for_each(|debt| problem(&debt.plugin, debt.failure));
    let findings = judged.found.into_iter().map(|found| Finding {
        plugin: found.by.version.id.name.clone(),
        rule: found.finding.rule,
        severity: found.finding.severity,
        message: found.finding.message,
    });
    let verdict = match (problems.is_empty(), is_dropped) {
        (false, _) => Verdict::Fails,
        (true, true) => Verdict::Dropped,
        (true, false) => Verdict::Good,
    };
    DryRun { verdict, findings: findings.collect(), problems, asked }
}
