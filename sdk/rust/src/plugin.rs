//! What a plugin is, without macros: for those who want the columns themselves.
//!
//! Implement [`Plugin`] and [`Detector`] (or [`Enricher`]), then call `export_detector!(MyType)`.

use crate::bindings::phronis::plugin::types::{Added, Batch, Enrichment, Field, Judgement, Kind};
use crate::params::{ParamError, Params};

/// What detectors and enrichers share.
pub trait Plugin: Sized + 'static {
    /// The plugin's own name, `[a-z0-9-]{1,63}`.
    const NAME: &'static str;
    /// The author's version.
    const VERSION: &'static str;
    /// What an operator can set; `()` for nothing.
    type Params: Params;
    /// [`Detects`] or [`Enriches`].
    type Role: Role<Self>;

    /// Names the columns that the plugin reads under these parameters.
    ///
    /// # Errors
    /// A parameter does not do.
    fn fields(params: &Self::Params) -> Result<Vec<Field>, ParamError>;

    /// Makes the plugin from its parameters: at load, and at every live change.
    ///
    /// # Errors
    /// A parameter does not do; the old plugin stays.
    fn configure(params: Self::Params) -> Result<Self, ParamError>;
}

/// A plugin that looks at events and reports findings.
pub trait Detector: Plugin {
    /// Judges one batch.
    ///
    /// # Errors
    /// The whole batch fails.
    fn detect(&mut self, batch: &Batch) -> Result<Judgement, String>;
}

/// A plugin that adds columns to events or drops events.
pub trait Enricher: Plugin {
    /// Names the columns that it adds under these parameters.
    ///
    /// # Errors
    /// A parameter does not do.
    fn adds(params: &Self::Params) -> Result<Vec<Added>, ParamError>;

    /// Enriches one batch: one column for each of `adds`, as long as the batch.
    ///
    /// # Errors
    /// The whole batch fails.
    fn enrich(&mut self, batch: &Batch) -> Result<Enrichment, String>;
}

/// What a plugin does with a batch. Lets one harness run both kinds.
pub trait Role<P> {
    /// Detector or enricher.
    const KIND: Kind;

    /// Names the added columns; none for a detector.
    ///
    /// # Errors
    /// A parameter does not do.
    fn adds(params: &P::Params) -> Result<Vec<Added>, ParamError>
    where
        P: Plugin;

    /// Runs one batch.
    ///
    /// # Errors
    /// The whole batch fails.
    fn run(plugin: &mut P, batch: &Batch) -> Result<(Judgement, Enrichment), String>;
}

/// The role of a detector.
#[derive(Debug)]
pub struct Detects;

/// The role of an enricher.
#[derive(Debug)]
pub struct Enriches;

impl<P: Detector> Role<P> for Detects {
    const KIND: Kind = Kind::Detector;

    fn adds(_params: &P::Params) -> Result<Vec<Added>, ParamError> {
        Ok(Vec::new())
    }

    fn run(plugin: &mut P, batch: &Batch) -> Result<(Judgement, Enrichment), String> {
        let nothing = Enrichment { columns: Vec::new(), drops: Vec::new(), failures: Vec::new() };
        Ok((plugin.detect(batch)?, nothing))
    }
}

impl<P: Enricher> Role<P> for Enriches {
    const KIND: Kind = Kind::Enricher;

    fn adds(params: &P::Params) -> Result<Vec<Added>, ParamError> {
        P::adds(params)
    }

    fn run(plugin: &mut P, batch: &Batch) -> Result<(Judgement, Enrichment), String> {
        let nothing = Judgement { findings: Vec::new(), failures: Vec::new() };
        Ok((nothing, plugin.enrich(batch)?))
    }
}
