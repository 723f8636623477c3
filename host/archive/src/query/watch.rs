//! Ends a plan that runs when its time is over or nobody waits for its answer any more.
//!
//! A task is stopped where it waits, and a join may not wait for hours: what it makes costs no budget of the scheduler, and the pairs
//! that it looks at between two batches are none of anyone's business. So each join is watched from both sides. What comes out of it
//! is handed on with pauses in which the task can be stopped; and what goes in to be compared with all that it holds goes in
//! pieces, the smaller the longer they take. Both sides look whether the query should go on.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DataFusionError, Result, Statistics};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::execution_plan::SchedulingType;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties};
use futures::{Stream, StreamExt};

/// After so long a plan pauses: a task that is to end ends there.
const SLICE: Duration = Duration::from_millis(10);

/// A piece that took longer than this was too large.
const LONG: Duration = Duration::from_millis(50);

/// Most rows of a piece. Fewer cost calls; more could take a minute, where all rows of a join have one key and those before had not.
const PIECE: usize = 1024;

/// How much larger or smaller the next piece is.
const STEP: usize = 4;

/// Whether a query should go on. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Watch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    until: Instant,
    is_left: AtomicBool,
}

impl Watch {
    /// It should until then.
    pub(super) fn until(until: Instant) -> Self {
        Self(Arc::new(Inner { until, is_left: AtomicBool::new(false) }))
    }

    /// Nobody waits for the answer any more.
    pub(super) fn leave(&self) {
        self.0.is_left.store(true, Ordering::Relaxed);
    }

    /// Whether its time is over.
    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.0.until
    }

    fn check(&self) -> Result<()> {
        if self.0.is_left.load(Ordering::Relaxed) || self.is_over() {
            return Err(DataFusionError::Execution("the query was stopped".to_owned()));
        }
        Ok(())
    }
}

/// The plan with all of its joins watched.
pub(super) fn over(plan: Arc<dyn ExecutionPlan>, watch: &Watch) -> Result<Arc<dyn ExecutionPlan>> {
    let watched = plan.transform_up(|node| {
        let compares = node.as_any().is::<HashJoinExec>() || node.as_any().is::<NestedLoopJoinExec>();
        // A cross join gives a batch for each row that it holds: it needs no pieces.
        if !compares && !node.as_any().is::<CrossJoinExec>() {
            return Ok(Transformed::no(node));
        }
        let pace = Pace::of(&node);
        let mut sides: Vec<_> = node.children().into_iter().cloned().collect();
        let join = match sides.pop() {
            Some(compared) if compares => {
                sides.push(Arc::new(Watched::new(compared, watch, &pace, Side::In)));
                node.with_new_children(sides)?
            }
            _ => node,
        };
        Ok(Transformed::yes(Arc::new(Watched::new(join, watch, &pace, Side::Out)) as Arc<dyn ExecutionPlan>))
    });
    watched.map(|watched| watched.data)
}

/// Rows of the next piece, after one of so many that took so long.
fn next_piece(rows: usize, took: Duration) -> usize {
    match took {
        _ if took > LONG => (rows / STEP).max(1),
        _ if took < SLICE => rows.saturating_mul(STEP).min(PIECE),
        _ => rows,
    }
}

/// When each partition of a join was last asked for something, or given something to compare.
#[derive(Debug)]
struct Pace {
    begun: Instant,
    /// Microseconds since then.
    marks: Vec<AtomicU64>,
}

impl Pace {
    fn of(join: &Arc<dyn ExecutionPlan>) -> Arc<Self> {
        let partitions = join.output_partitioning().partition_count();
        Arc::new(Self { begun: Instant::now(), marks: (0..partitions).map(|_| AtomicU64::new(0)).collect() })
    }

    fn mark(&self, partition: usize) {
        let now = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        if let Some(mark) = self.marks.get(partition) {
            mark.store(now, Ordering::Relaxed);
        }
    }

    fn since(&self, partition: usize) -> Duration {
        let mark = self.marks.get(partition).map_or(0, |mark| mark.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(Duration::from_micros(mark))
    }
}

/// A side of a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// What is compared with all rows that it holds.
    In,
    /// What it makes.
    Out,
}

/// One side of a join, watched.
#[derive(Debug)]
struct Watched {
    input: Arc<dyn ExecutionPlan>,
    watch: Watch,
    pace: Arc<Pace>,
    side: Side,
    properties: Arc<PlanProperties>,
}

impl Watched {
    fn new(input: Arc<dyn ExecutionPlan>, watch: &Watch, pace: &Arc<Pace>, side: Side) -> Self {
        let properties = PlanProperties::clone(input.properties()).with_scheduling_type(SchedulingType::Cooperative);
        Self { input, watch: watch.clone(), pace: Arc::clone(pace), side, properties: Arc::new(properties) }
    }
}

impl DisplayAs for Watched {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}

impl ExecutionPlan for Watched {
    fn name(&self) -> &'static str {
        "Watched"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children.into_iter().next().unwrap_or_else(|| Arc::clone(&self.input));
        Ok(Arc::new(Self::new(input, &self.watch, &self.pace, self.side)))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let inner = self.input.execute(partition, context)?;
        let (watch, pace) = (self.watch.clone(), Arc::clone(&self.pace));
        Ok(match self.side {
            Side::Out => Box::pin(Out { inner, watch, pace, partition, rested: Instant::now() }),
            Side::In => Box::pin(In { inner, watch, pace, partition, rest: None, rows: 1, is_given: false }),
        })
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Statistics> {
        self.input.partition_statistics(partition)
    }
}

/// What a join makes.
struct Out {
    inner: SendableRecordBatchStream,
    watch: Watch,
    pace: Arc<Pace>,
    partition: usize,
    /// When the task last paused here.
    rested: Instant,
}

impl Stream for Out {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Err(stopped) = self.watch.check() {
            return Poll::Ready(Some(Err(stopped)));
        }
        if self.rested.elapsed() >= SLICE {
            self.rested = Instant::now();
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.pace.mark(self.partition);
        self.inner.poll_next_unpin(cx)
    }
}

impl RecordBatchStream for Out {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }
}

/// What a join compares with all that it holds.
struct In {
    inner: SendableRecordBatchStream,
    watch: Watch,
    pace: Arc<Pace>,
    partition: usize,
    /// What is left of a batch.
    rest: Option<RecordBatch>,
    /// Rows of the next piece.
    rows: usize,
    /// A piece was given, and nobody has looked yet how long it took.
    is_given: bool,
}

impl Stream for In {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Err(stopped) = self.watch.check() {
            return Poll::Ready(Some(Err(stopped)));
        }
        if std::mem::take(&mut self.is_given) {
            let took = self.pace.since(self.partition);
            self.rows = next_piece(self.rows, took);
            if took >= SLICE {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        let batch = match self.rest.take() {
            Some(rest) => rest,
            None => match ready!(self.inner.poll_next_unpin(cx)) {
                Some(Ok(batch)) => batch,
                end => return Poll::Ready(end),
            },
        };
        let rows = self.rows.min(batch.num_rows());
        if rows < batch.num_rows() {
            self.rest = Some(batch.slice(rows, batch.num_rows() - rows));
        }
        self.is_given = true;
        self.pace.mark(self.partition);
        Poll::Ready(Some(Ok(batch.slice(0, rows))))
    }
}

impl RecordBatchStream for In {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::Int64Array;
    use arrow_schema::{DataType, Field, Schema};
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;

    use super::*;

    /// What a join is given of so many rows, piece by piece.
    async fn given(rows: i64, watch: &Watch, mut compare: impl FnMut(usize)) -> Result<Vec<i64>> {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from_iter_values(0..rows))]);
        let batches = futures::stream::iter([Ok(batch?)]);
        let inner: SendableRecordBatchStream = Box::pin(RecordBatchStreamAdapter::new(schema, batches));
        let pace = Arc::new(Pace { begun: Instant::now(), marks: vec![AtomicU64::new(0)] });
        let watch = watch.clone();
        let mut pieces = In { inner, watch, pace, partition: 0, rest: None, rows: 1, is_given: false };
        let mut seen = Vec::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            compare(piece.num_rows());
            seen.extend(piece.column(0).as_any().downcast_ref::<Int64Array>().unwrap().values());
        }
        Ok(seen)
    }

    fn endless() -> Watch {
        Watch::until(Instant::now() + Duration::from_secs(3600))
    }

    #[test]
    fn pieces_are_the_smaller_the_longer_they_take() {
        let (quick, fair, long) = (Duration::ZERO, SLICE, LONG * 2);
        let check = |rows, took, expected| assert_eq!(next_piece(rows, took), expected, "{rows} took {took:?}");
        check(1, quick, 4);
        check(1, fair, 1);
        check(1, long, 1);
        check(PIECE, quick, PIECE);
        check(PIECE, long, PIECE / 4);
    }

    #[tokio::test]
    async fn pieces_are_all_rows_in_their_order() {
        let mut sizes = Vec::new();
        let seen = given(3000, &endless(), |rows| sizes.push(rows)).await.unwrap();
        assert_eq!(seen, (0..3000).collect::<Vec<_>>());
        assert_eq!(sizes[0], 1, "nobody knows yet how long one takes");
        assert!(sizes.iter().all(|rows| *rows <= PIECE), "{sizes:?}");
    }

    #[tokio::test]
    async fn a_query_that_nobody_waits_for_ends_at_the_next_piece() {
        let watch = endless();
        let mut pieces = 0;
        let ended = given(3000, &watch, |_| {
            pieces += 1;
            watch.leave();
        });
        assert!(ended.await.is_err());
        assert_eq!(pieces, 1);
        let late = Watch::until(Instant::now());
        assert!(given(1, &late, |_| {}).await.is_err());
        assert!(late.is_over() && !watch.is_over());
    }
}
