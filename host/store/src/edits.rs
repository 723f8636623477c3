//! Who edits a letter: hosts that share the store claim one before they post a copy of it.

use phronis_core::{StreamId, Time};

use crate::database::{Begin as _, with};
use crate::store::Patience;
use crate::{Result, Store};

/// A letter of a stream.
#[derive(Debug, Clone, Copy)]
pub struct Letter<'a> {
    /// The stream.
    pub stream: &'a StreamId,
    /// The partition of dlq.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
}

impl Store {
    /// Claims a letter for an edit until a moment, unless somebody holds a claim that has not ended; whether this one holds.
    ///
    /// # Errors
    /// When the store does not answer; the same id may be tried again.
    pub async fn claim_edit(&self, letter: Letter<'_>, id: &str, now: Time, until: Time) -> Result<bool> {
        with!(self, "claiming a letter", Patience::Short, |pool| {
            let mut tx = pool.write().await?;
            sqlx::query("DELETE FROM letter_edits WHERE until <= $1").bind(now.0).execute(&mut *tx).await?;
            let (stream, partition) = (letter.stream.to_string(), i64::from(letter.partition));
            let claimed = sqlx::query(
                "INSERT INTO letter_edits (stream, partition, letter, id, until) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (stream, partition, letter) DO UPDATE SET until = excluded.until
                 WHERE letter_edits.id = excluded.id",
            )
            .bind(stream)
            .bind(partition)
            .bind(letter.offset)
            .bind(id)
            .bind(until.0)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(claimed.rows_affected() == 1)
        })
    }

    /// Gives a claim up: nothing was posted.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn release_edit(&self, id: &str) -> Result<()> {
        with!(self, "releasing a letter", Patience::Short, |pool| {
            sqlx::query("DELETE FROM letter_edits WHERE id = $1").bind(id).execute(&pool).await?;
            Ok(())
        })
    }
}
