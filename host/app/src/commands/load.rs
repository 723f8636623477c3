//! `phronis load`: files into a stream, in order, at a chosen pace, able to go on after an interruption.
//!
//! A thread reads and splits the file, this side posts; between the two stand a few batches, whatever the file's size.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use phronis_core::StreamId;
use phronis_load::{ColumnTypes, File, Format, Mapping, Pace, Resume};
use tokio::sync::mpsc;

use super::progress::Progress;
use super::send::{BATCH_ROWS, Batch, Sender, Tally};
use crate::client::{Client, ClientArgs, needs_host};
use crate::failure::{Exit, Failure, Outcome};
use crate::signals::Shutdown;

mod columns;

/// Load CSV, JSON, NDJSON or Parquet files (plain or gzip) into a stream
///
/// Types of columns come from the stream's contract. Rows of a file keep their order.
/// Rows that the contract refuses are told by their line, and kept by the host as letters.
/// When the host has no room, loading waits. After an interruption, --resume goes on with the first row not taken.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files to load, one after the other; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The stream: name, or tenant.name
    #[arg(short, long, default_value = "sensors")]
    stream: StreamId,
    /// Most events a second
    #[arg(short, long, value_name = "EVENTS", conflicts_with = "speed")]
    rate: Option<f64>,
    /// Replay by event time, so many times faster than it happened (1 is as it happened)
    #[arg(long, value_name = "FACTOR")]
    speed: Option<f64>,
    /// Field with the event time, for --speed [default: that of the contract]
    #[arg(long, value_name = "FIELD", requires = "speed")]
    time_field: Option<String>,
    /// Format of the files: csv, json, ndjson or parquet [default: by name or content]
    #[arg(short, long)]
    format: Option<Format>,
    /// Add a field with this value to every row; {file} stands for the file's name without its ending
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// Rename a column
    #[arg(long, value_name = "OLD=NEW")]
    rename: Vec<String>,
    /// Go on where an interrupted load of the same file ended
    #[arg(long)]
    resume: bool,
    /// Exit with 1 when a row was refused
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// How often the progress is written down: at most this much is sent twice after a crash.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// Batches between the thread that reads and the one that posts.
const AHEAD: usize = 4;

/// Loads all files.
pub async fn run(args: Args) -> Outcome {
    let client = args.client.client()?;
    let columns = columns::of_stream(&client, &args.stream).await.map_err(needs_host)?;
    let shutdown = Shutdown::on_signals()?;
    let started = Instant::now();
    let mut total = Tally::default();
    let mut is_interrupted = false;
    for path in &args.files {
        let mut load = Load::open(&args, path, &client)?;
        let end = load.run(&args, &columns, &shutdown).await;
        total.merge(std::mem::take(&mut load.sender.tally));
        match end {
            Ok(true) => {}
            Ok(false) => is_interrupted = true,
            Err(failure) => {
                report(&total, started);
                return Err(failure);
            }
        }
        if is_interrupted {
            break;
        }
    }
    report(&total, started);
    match (is_interrupted, args.strict && total.refused > 0) {
        (true, _) => Ok(Exit::Interrupted),
        (false, true) => Ok(Exit::CheckFailed),
        (false, false) => Ok(Exit::Ok),
    }
}

fn report(total: &Tally, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    let rows = total.accepted + total.refused;
    let rate = rows as f64 / seconds.max(0.001);
    eprintln!("{rows} rows in {seconds:.1} s ({rate:.0}/s): {} accepted, {} refused", total.accepted, total.refused);
    if total.waits > 0 {
        eprintln!("the host asked to wait {} times", total.waits);
    }
    eprint!("{}", total.refusals());
}

/// The load of one file.
struct Load {
    path: PathBuf,
    sender: Sender,
    pace: Pace,
    note: Option<(Resume, PathBuf)>,
    done_before: u64,
}

impl Load {
    fn open(args: &Args, path: &Path, client: &Client) -> Result<Self, Failure> {
        let note = match Resume::start(path).map_err(unusable)? {
            Some(start) => {
                let at = Resume::path(&notes_folder(), path, &args.stream.to_string()).map_err(unusable)?;
                Some((start, at))
            }
            None => None,
        };
        let kept = match &note {
            Some((start, at)) if args.resume => start.clone().load(at).map_err(unusable)?,
            _ => None,
        };
        let done_before = kept.as_ref().map_or(0, |kept| kept.rows);
        if done_before > 0 {
            eprintln!("{}: goes on after row {done_before}", path.display());
        }
        let pace = match (args.rate, args.speed) {
            (Some(rate), _) => Pace::rate(rate),
            (None, Some(speed)) => Pace::event_time(speed),
            (None, None) => Pace::unlimited(),
        };
        let note = note.map(|(start, at)| (kept.unwrap_or(start), at));
        let sender = Sender::new(client, &args.stream, &path.display().to_string());
        Ok(Self { path: path.to_owned(), sender, pace, note, done_before })
    }

    /// Sends all rows; `false` when it was interrupted.
    async fn run(&mut self, args: &Args, columns: &columns::Columns, shutdown: &Shutdown) -> Result<bool, Failure> {
        let (sender, mut batches) = mpsc::channel::<Piece>(AHEAD);
        let job = Reading::new(args, &self.path, columns, self.done_before)?;
        let total = std::fs::metadata(&self.path).ok().filter(std::fs::Metadata::is_file).map(|about| about.len());
        let reading = tokio::task::spawn_blocking(move || job.run(&sender));
        let mut progress = Progress::new(total, &self.path.display().to_string());
        let (started, mut noted) = (Instant::now(), Instant::now());
        let mut is_whole = true;
        while let Some(piece) = batches.recv().await {
            // A post that is under way is finished, so that the note knows what the host has.
            tokio::select! {
                biased;
                () = shutdown.requested() => { is_whole = false; break }
                () = self.wait(started, &piece) => {}
            }
            let sent = self.sender.post(&piece.batch).await;
            if let Err(failure) = sent {
                drop(batches);
                self.keep()?;
                let next = self
                    .note
                    .as_ref()
                    .map(|_| format!("the same command with --resume goes on after row {}", self.done()));
                return Err(match next {
                    Some(next) => failure.next(next),
                    None => failure,
                });
            }
            self.pace.sent(started.elapsed(), piece.batch.rows());
            if let Some((note, _)) = &mut self.note {
                note.rows += piece.batch.rows() as u64;
            }
            if noted.elapsed() >= NOTE_EVERY {
                self.keep()?;
                noted = Instant::now();
            }
            progress.at(piece.position, self.sender.tally.accepted, self.sender.tally.refused);
        }
        drop(batches);
        progress.end();
        let read = reading.await.map_err(|error| Failure::new(Exit::CheckFailed, error.to_string()))?;
        if is_whole && read.is_ok() {
            if let Some((_, at)) = &self.note {
                Resume::forget(at).map_err(unusable)?;
            }
            return Ok(true);
        }
        self.keep()?;
        read.map_err(unusable)?;
        eprintln!("interrupted: the same command with --resume goes on after row {}", self.done());
        Ok(false)
    }

    /// Waits until the rows may go.
    async fn wait(&mut self, started: Instant, piece: &Piece) {
        if let Some(time) = piece.time_ms {
            while let phronis_load::pace::Due::At(at) = self.pace.due(started.elapsed(), time) {
                tokio::time::sleep(at.saturating_sub(started.elapsed())).await;
            }
            return;
        }
        let rows = piece.batch.rows();
        while self.pace.allowance(started.elapsed(), rows) < rows {
            let wait = self.pace.next_at().saturating_sub(started.elapsed());
            tokio::time::sleep(wait.max(Duration::from_millis(2))).await;
        }
    }

    fn done(&self) -> u64 {
        self.note.as_ref().map_or(0, |(note, _)| note.rows)
    }

    fn keep(&self) -> Result<(), Failure> {
        match &self.note {
            Some((note, at)) => note.save(at).map_err(unusable),
            None => Ok(()),
        }
    }
}

/// Rows that are ready to go.
struct Piece {
    batch: Batch,
    /// Bytes of the file that they, and all before them, take.
    position: u64,
    /// Event time of the rows, when that decides when they go.
    time_ms: Option<i64>,
}

/// The reading side: runs on a thread of its own.
struct Reading {
    path: PathBuf,
    format: Option<Format>,
    types: ColumnTypes,
    mapping: Mapping,
    skip: u64,
    rows: usize,
    time_field: Option<String>,
}

impl Reading {
    fn new(args: &Args, path: &Path, columns: &columns::Columns, skip: u64) -> Result<Self, Failure> {
        let mut mapping = Mapping::default();
        for option in &args.set {
            mapping = mapping.set(option).map_err(|error| Failure::usage(error.to_string()))?;
        }
        for option in &args.rename {
            mapping = mapping.rename(option).map_err(|error| Failure::usage(error.to_string()))?;
        }
        let time_field = args.speed.and_then(|_| args.time_field.clone().or_else(|| columns.event_time.clone()));
        if args.speed.is_some() && time_field.is_none() {
            return Err(Failure::usage("--speed: the contract names no event time").next("name it with --time-field"));
        }
        // Twenty posts a second are smooth enough for an eye and cheap enough for a host.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a saturating cast, bounded below")]
        let rows = args.rate.map_or(BATCH_ROWS, |rate| (rate / 20.0) as usize).clamp(1, BATCH_ROWS);
        let (format, types) = (args.format, columns.types.clone());
        Ok(Self { path: path.to_owned(), format, types, mapping, skip, rows, time_field })
    }

    /// Ends early when the other side is gone.
    fn run(self, out: &mpsc::Sender<Piece>) -> Result<(), phronis_load::Error> {
        let mut rows = File::open_mapped(&self.path, self.format, &self.types, &self.mapping)?;
        rows.skip_rows(self.skip)?;
        let mut piece = Piece { batch: Batch::default(), position: 0, time_ms: None };
        let mut stop = None;
        for row in rows {
            let row = match row {
                Ok(row) => row,
                Err(error) => {
                    // What was read before the fault still goes.
                    stop = Some(error);
                    break;
                }
            };
            let time_ms = self.time_field.as_ref().and_then(|field| columns::time_of(&row.bytes, field));
            let is_due_together = time_ms == piece.time_ms;
            if (piece.batch.rows() >= self.rows || piece.batch.is_full() || !is_due_together) && piece.batch.rows() > 0
            {
                let next = Piece { batch: Batch::default(), position: 0, time_ms: None };
                if out.blocking_send(std::mem::replace(&mut piece, next)).is_err() {
                    return Ok(());
                }
            }
            piece.batch.push(row.line, &row.bytes);
            (piece.position, piece.time_ms) = (row.position, time_ms);
        }
        if piece.batch.rows() > 0 && out.blocking_send(piece).is_err() {
            return Ok(());
        }
        stop.map_or(Ok(()), Err)
    }
}

fn unusable(error: phronis_load::Error) -> Failure {
    Failure::new(Exit::CheckFailed, error.to_string())
}

/// Progress of loads is the user's, not the host's, which may be on another machine.
fn notes_folder() -> PathBuf {
    let under =
        |name: &str, rest: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(|v| PathBuf::from(v).join(rest));
    under("XDG_STATE_HOME", "phronis/load")
        .or_else(|| under("HOME", ".local/state/phronis/load"))
        .unwrap_or_else(|| std::env::temp_dir().join("phronis-load"))
}
