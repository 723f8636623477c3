//! `phronis archive query`: one statement of SQL over the archive, read by this process from catalog and storage.

use std::io::{self, Write};
use std::time::Duration;

use phronis_archive::query::{Encoder, Engine, Error, Format, Limits, Question, time_ms};
use phronis_core::text::escape;

use crate::archive;
use crate::commands::ConfigArgs;
use crate::config::Bytes;
use crate::config::units::parse_duration;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::table;

/// Ask the archive in SQL
///
/// Reads catalog and storage itself, with or without a running host. Names with a `-` stand in double quotes.
/// `FROM t FOR TIMESTAMP AS OF '2026-11-22T10:00:00Z'` and `FROM t FOR VERSION AS OF 123` read older states;
/// SHOW TABLES and DESCRIBE t say what there is.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The statement; `-` reads it from standard input
    #[arg(value_name = "SQL")]
    sql: String,
    /// How to print the rows
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
    /// Read all tables as they were at this time, where the SQL does not say otherwise
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    as_of: Option<i64>,
    /// Stop after this time
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    timeout: Duration,
    /// Memory for sorting, grouping and joining; what does not fit goes to the temporary folder
    #[arg(long, value_name = "SIZE", default_value = "512MiB")]
    memory: Bytes,
    /// Most rows of the answer
    #[arg(long, value_name = "ROWS", default_value_t = 10_000_000)]
    max_rows: u64,
    #[command(flatten)]
    config: ConfigArgs,
}

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Output {
    /// Aligned columns for people
    #[default]
    Table,
    /// One JSON document
    Json,
    /// One JSON object a line
    Jsonl,
    /// Comma-separated values
    Csv,
}

/// Rows of a table for people: more are for programs.
const TABLE_ROWS: usize = 10_000;

/// Asks, and prints as rows come.
pub(super) async fn run(args: Args) -> Outcome {
    let sql = match args.sql.as_str() {
        "-" => io::read_to_string(io::stdin())?,
        _ => args.sql,
    };
    let archive = archive::open(&args.config.load()?).await?;
    let scratch = std::env::temp_dir().join(format!("phronis-query-{}", std::process::id()));
    let limits = Limits {
        rows: args.max_rows,
        bytes: u64::MAX,
        memory: args.memory.0,
        spill: args.memory.0.saturating_mul(16),
        time: args.timeout,
        queries: 1,
        ..Limits::new(scratch.clone())
    };
    let engine = Engine::new(archive, limits)?;
    let question = Question { sql: &sql, as_of: args.as_of, tenant: None };
    let outcome = print(&engine, question, args.output).await;
    drop(engine);
    // Left behind, it is only a folder in the system's temporary place.
    std::fs::remove_dir_all(scratch).ok();
    outcome
}

async fn print(engine: &Engine, question: Question<'_>, output: Output) -> Outcome {
    let mut answer = engine.ask(question).await?;
    let format = match output {
        Output::Json => Format::Json,
        Output::Jsonl => Format::JsonLines,
        Output::Csv => Format::Csv,
        Output::Table => return print_table(&mut answer).await,
    };
    let mut encoder = Encoder::new(format);
    let mut out = io::stdout().lock();
    out.write_all(&encoder.begin(answer.schema(), answer.tables())?)?;
    while let Some(batch) = answer.next().await {
        out.write_all(&encoder.rows(&batch?)?)?;
    }
    out.write_all(&encoder.end(None))?;
    out.flush()?;
    Ok(Exit::Ok)
}

async fn print_table(answer: &mut phronis_archive::query::Answer) -> Outcome {
    let head = answer.schema().fields().iter().map(|field| escape(field.name()).into_owned()).collect();
    let mut rows: Vec<Vec<String>> = vec![head];
    while let Some(batch) = answer.next().await {
        let texts = phronis_archive::query::texts(&batch?)?;
        rows.extend(texts.into_iter().map(|row| row.iter().map(|cell| escape(cell).into_owned()).collect()));
        if rows.len() > TABLE_ROWS + 1 {
            let message = format!("the answer has more than {TABLE_ROWS} rows, too many for a table");
            return Err(Failure::usage(message).next("add a LIMIT, or ask with -o jsonl or -o csv"));
        }
    }
    let mut out = io::stdout().lock();
    write!(out, "{}", table(&rows))?;
    Ok(Exit::Ok)
}

fn parse_time(text: &str) -> Result<i64, String> {
    time_ms(text).map_err(|error| error.to_string())
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match error {
            Error::Failed(_) | Error::Busy { .. } => Exit::NotReachable,
            Error::Refused { .. } => Exit::Refused,
            Error::Syntax { .. } | Error::UnknownTable { .. } | Error::UnknownColumn { .. } | Error::Invalid { .. } => {
                Exit::Usage
            }
            _ => Exit::CheckFailed,
        };
        let message = match error.at() {
            Some(at) => format!("{error}\n  at {at}:\n{}", indented(&at.excerpt)),
            None => error.to_string(),
        };
        Self::new(exit, message).code(error.code())
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect::<String>().trim_end().to_owned()
}
