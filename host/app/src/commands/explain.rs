//! `phronis explain`: the page of an error code, from inside of the program.

use std::io::Write as _;

use phronis_admin::error_page;
use phronis_core::{code, text::nearest};

use crate::failure::{Exit, Failure, Outcome};

/// Explain an error code: what it means, why it happens, what to do
///
/// Without a code: lists all of them.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The code, as in PH1003
    code: Option<String>,
}

/// Prints the page.
pub fn run(args: &Args) -> Outcome {
    let mut out = std::io::stdout().lock();
    let Some(wanted) = &args.code else {
        for known in code::ALL {
            writeln!(out, "{known}  {}", known.title())?;
        }
        return Ok(Exit::Ok);
    };
    let wanted = wanted.to_ascii_uppercase();
    let wanted = if wanted.starts_with("PH") { wanted } else { format!("PH{wanted:0>4}") };
    let Some(page) = error_page(&wanted) else {
        let names: Vec<String> = code::ALL.iter().map(ToString::to_string).collect();
        let near = nearest(&wanted, names.iter().map(String::as_str));
        let near = near.map(|near| format!(", did you mean {near}?")).unwrap_or_default();
        return Err(
            Failure::usage(format!("there is no code {wanted}{near}")).next("`phronis explain` lists all codes")
        );
    };
    writeln!(out, "{}", page.trim_end())?;
    Ok(Exit::Ok)
}
