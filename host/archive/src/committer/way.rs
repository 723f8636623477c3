//! The way of rows to storage: one flush at a time, beside what goes on.

use std::sync::Arc;

use iceberg::spec::DataFile;
use tokio::task::JoinHandle;

use super::Committer;
use crate::Result;
use crate::files;
use crate::plan::{self, Piece};

/// Rows on their way to storage. They are kept until they are there.
#[derive(Debug)]
pub(super) struct UnderWay {
    pub(super) pieces: Vec<Piece>,
    pub(super) task: JoinHandle<Result<Vec<DataFile>>>,
}

impl Committer {
    pub(super) async fn write_out(&mut self) -> Result<()> {
        self.arrive().await?;
        if self.plan.waiting_bytes > 0 {
            self.depart();
            self.arrive().await?;
        }
        Ok(())
    }

    /// Sends what waits on its way when what went before has arrived.
    pub(super) async fn roll(&mut self) -> Result<()> {
        self.refresh().await?;
        self.arrive().await?;
        if self.plan.waiting_bytes >= self.options.buffer_bytes / 2 {
            self.depart();
        }
        Ok(())
    }

    fn depart(&mut self) {
        let pieces = self.plan.take();
        let task = tokio::spawn(plan::write(
            self.archive.clone(),
            self.table.clone(),
            Arc::clone(&self.keys),
            Arc::clone(&self.target),
            self.plan.names.clone(),
            pieces.clone(),
        ));
        self.under_way = Some(UnderWay { pieces, task });
    }

    /// Waits until what is under way is in storage.
    async fn arrive(&mut self) -> Result<()> {
        let Some(under_way) = &mut self.under_way else { return Ok(()) };
        let arrived = (&mut under_way.task).await;
        let Some(under_way) = self.under_way.take() else { return Ok(()) };
        let error = match arrived {
            Ok(Ok(files)) => {
                self.plan.files.extend(files);
                return Ok(());
            }
            Ok(Err(error)) => error,
            Err(error) => files::stopped(error),
        };
        self.is_stale = true;
        self.plan.give_back(under_way.pieces);
        Err(error)
    }
}
