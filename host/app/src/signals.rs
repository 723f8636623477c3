//! SIGTERM and Ctrl-C: the first asks for an orderly end, the second ends at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Tells when to end. Clones tell the same.
#[derive(Debug, Clone)]
pub struct Shutdown {
    requested: watch::Receiver<bool>,
}

impl Shutdown {
    /// Begins to listen for signals; needs a running tokio runtime.
    ///
    /// # Errors
    /// When the operating system refuses a handler.
    pub fn on_signals() -> std::io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (sender, requested) = watch::channel(false);
        tokio::spawn(async move {
            let mut is_first = true;
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                if !is_first {
                    tracing::warn!(
                        signal = name,
                        "second signal: ending at once, what is under way is judged again at the next start"
                    );
                    std::process::exit(130);
                }
                is_first = false;
                tracing::info!(signal = name, "ending: finishing what is under way");
                sender.send_replace(true);
            }
        });
        Ok(Self { requested })
    }

    /// Waits until the end is asked for.
    ///
    /// # Cancel safety
    /// Cancelling loses nothing.
    pub async fn requested(&self) {
        let mut requested = self.requested.clone();
        // A sender that is gone can ask for nothing any more: then this waits for ever, as it should.
        if requested.wait_for(|is| *is).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
