//! What would become of a letter now: `POST /v1/letters/{stream}/{place}/dry_run`.

use std::sync::Arc;

use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::Json;
use phronis_core::{Code, code};
use phronis_pipeline::letters::{self, Impossible, Verdict};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Plugin, place, stream_of, unknown};
use crate::access::Caller;
use crate::problem::{Document, Problem};
use crate::state::App;

/// Which version to ask.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Asked {
    /// `installed`, or the digest (SHA-256, hex) of a version that runs or is kept.
    #[schema(example = "installed")]
    plugin: Option<String>,
}

/// What would become of a letter now. Nothing was changed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DryRun {
    /// `good` (the letter would be settled), `dropped` (a rule would drop the event), `fails`.
    verdict: &'static str,
    /// What would be found.
    findings: Vec<FindingItem>,
    /// What would fail.
    problems: Vec<ProblemItem>,
    /// The versions that were asked.
    asked: Vec<Plugin>,
}

/// What a detector would find.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FindingItem {
    plugin: String,
    rule: String,
    severity: String,
    message: String,
}

/// What would fail.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProblemItem {
    /// The plugin; none when it is the contract.
    plugin: Option<String>,
    /// The stable code.
    #[schema(value_type = String)]
    code: Code,
    /// Why.
    message: String,
}

/// Shows a letter's event to the plugins once more, off the data path: what would become of it now. Changes nothing.
#[utoipa::path(
    post, path = "/v1/letters/{stream}/{place}/dry_run", tag = "letters",
    params(("stream" = String, Path), ("place" = String, Path)),
    request_body(content = Asked),
    responses(
        (status = 200, description = "what would become of it", body = DryRun),
        (status = 404, description = "no letter stands there", body = Document),
        (status = 410, description = "the version, or the event, is not there any more", body = Document),
        (status = 422, description = "the version does not fit beside the plugins that run", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn dry_run(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path((stream, at)): Path<(String, String)>,
    body: Option<Json<Asked>>,
) -> Result<Json<DryRun>, Problem> {
    let (stream, at) = (stream_of(&app, &caller, &stream)?, place(&at)?);
    let digest = body.and_then(|Json(asked)| asked.plugin).filter(|plugin| plugin != "installed");
    let place_of_work = Arc::clone(&app.ingests).try_acquire_owned();
    let working = place_of_work.map_err(|_| Problem::busy("too many requests are being judged"))?;
    let asked = stream.clone();
    let ran = app.ask(move |pipeline| {
        // Until it ends, also when the client has left.
        let _working = working;
        pipeline.dry_run(&asked, at, digest.as_deref())
    });
    let ran = ran.await?;
    let ran = ran.map_err(|error| match error {
        Impossible::Unknown => unknown(&stream, at),
        Impossible::Gone(detail) => Problem::new(code::LETTER_VERSION_GONE, detail),
        Impossible::Refused { code, message } => Problem::new(code, message).status(StatusCode::UNPROCESSABLE_ENTITY),
        Impossible::Omitted => Problem::new(code::LETTER_EVENT_GONE, error.to_string()),
        Impossible::Log(error) => error.into(),
        other => Problem::internal("the dry run", &other),
    })?;
    Ok(Json(ran.into()))
}

impl From<letters::DryRun> for DryRun {
    fn from(ran: letters::DryRun) -> Self {
        let finding = |found: letters::Finding| FindingItem {
            plugin: found.plugin.to_string(),
            rule: found.rule,
            severity: found.severity.to_string(),
            message: found.message,
        };
        let problem = |found: letters::Problem| ProblemItem {
            plugin: found.plugin.map(String::from),
            code: found.code,
            message: found.message,
        };
        Self {
            verdict: match ran.verdict {
                Verdict::Good => "good",
                Verdict::Dropped => "dropped",
                Verdict::Fails => "fails",
            },
            findings: ran.findings.into_iter().map(finding).collect(),
            problems: ran.problems.into_iter().map(problem).collect(),
            asked: ran
                .asked
                .into_iter()
                .map(|(name, version, digest)| Plugin { name: name.into(), version, digest })
                .collect(),
        }
    }
}
