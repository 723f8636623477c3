//! NDJSON over HTTP in posts of 1 000 → durable in the embedded log → judged → outputs durable, all on this machine.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::events;
use crate::host::Host;
use crate::report::Report;

const POSTS: u64 = 3000;
const ROWS: u64 = 1000;
/// Posts in flight: two clients.
const CLIENTS: usize = 2;

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let host = Host::start(&["threshold"])?;
    let bodies: Vec<String> = (0..100).map(|n| events::lines(n * ROWS, ROWS)).collect();
    let posts = usize::try_from(POSTS)?;
    let started = Instant::now();
    post(&host, posts, |nth| bodies.get(nth % bodies.len()).cloned().unwrap_or_default())?;
    let posted = started.elapsed();
    let deadline = Instant::now() + Duration::from_secs(60);
    while host.records("phronis.processed")? < POSTS * ROWS {
        ensure!(Instant::now() < deadline, "only {} events were processed", host.records("phronis.processed")?);
        std::thread::sleep(Duration::from_millis(5));
    }
    let elapsed = started.elapsed();
    let alerts = host.records("phronis.alerts")?;
    ensure!(alerts == POSTS * ROWS / 100, "{alerts} alerts");
    const METHOD: &str = "3 M events of 75 bytes in posts of 1 000 by two clients, until the processed topic holds them all; client, host and log on the same cores";
    report.add(
        "HTTP → durable → judged → durable",
        (POSTS * ROWS) as f64 / elapsed.as_secs_f64(),
        "events/s",
        "≥ 150 000, aim 300 000",
        METHOD,
    );
    report.add(
        "the same until the last post is answered",
        (POSTS * ROWS) as f64 / posted.as_secs_f64(),
        "events/s",
        "–",
        METHOD,
    );
    Ok(())
}

/// Posts NDJSON to the stream `sensors` by two clients, so many bodies, each by its number.
pub(crate) fn post(host: &Host, posts: usize, body: impl Fn(usize) -> String) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let url = format!("{}/v1/streams/sensors/events", host.url);
    runtime.block_on(async {
        let clients = (0..CLIENTS).map(|client| {
            let (url, body) = (&url, &body);
            async move {
                let http = reqwest::Client::new();
                for nth in (client..posts).step_by(CLIENTS) {
                    let request = http.post(url).header("content-type", "application/x-ndjson").body(body(nth));
                    let answer = request.send().await?;
                    ensure!(answer.status() == 202, "{}: {}", answer.status(), answer.text().await?);
                }
                Ok(())
            }
        });
        futures::future::try_join_all(clients).await.map(drop)
    })
}
