//! Columns that come, go and change, by us and by others.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, Int64Array, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use iceberg::spec::{NestedField, PrimitiveType, Schema as IcebergSchema, Type, UnboundPartitionSpec};
use iceberg::{TableRequirement, TableUpdate};

use super::*;
use crate::check;
use crate::testing::{columns, put_ahead};

fn with(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}

/// Rows of some of the columns and others.
fn widened(rows: &[Row], schema: &SchemaRef, more: Vec<ArrayRef>) -> RecordBatch {
    let plain = batch(rows);
    let mut arrays: Vec<ArrayRef> =
        schema.fields().iter().filter_map(|field| plain.column_by_name(field.name()).cloned()).collect();
    arrays.extend(more);
    RecordBatch::try_new(Arc::clone(schema), arrays).unwrap()
}

async fn open_with(world: &World, schema: SchemaRef) -> Result<Committer> {
    Committer::open(&world.archive(), TableSpec { schema, ..spec(&[]) }, &WriteOptions::default()).await
}

async fn filled() -> World {
    let world = World::default();
    let mut committer = open(&world).await;
    committer.append(0, 0, 3, batch(&from(0, 3))).await.unwrap();
    committer.commit().await.unwrap();
    world
}

/// What someone else does to the table.
async fn change(world: &World, edit: impl FnOnce(&mut Vec<NestedField>)) {
    let table = table(world).await;
    let current = table.metadata().current_schema();
    let mut fields: Vec<NestedField> =
        current.as_struct().fields().iter().map(|field| field.as_ref().clone()).collect();
    edit(&mut fields);
    let fields = fields.into_iter().map(Arc::new);
    let schema = IcebergSchema::builder().with_fields(fields).with_schema_id(9).build().unwrap();
    let updates = vec![TableUpdate::AddSchema { schema }, TableUpdate::SetCurrentSchema { schema_id: -1 }];
    let requirements = vec![TableRequirement::UuidMatch { uuid: table.metadata().uuid() }];
    world.archive().catalog().commit(&table, updates, requirements).await.unwrap();
}

fn reason(error: Error) -> Incompatible {
    let Error::Incompatible { reason, .. } = error else { panic!("{error}") };
    *reason
}

#[tokio::test]
async fn a_new_optional_column_is_added_in_place_and_old_snapshots_stay_readable() {
    let world = filled().await;
    let mut fields = columns();
    fields.insert(1, Field::new("unit", DataType::Utf8, true));
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
    fields.push(Field::new("tags", list.clone(), true));
    let wider = with(fields);
    assert_eq!(check(Some(&table(&world).await), &wider), Ok(vec!["unit".to_owned(), "tags".to_owned()]));

    let mut committer = open_with(&world, Arc::clone(&wider)).await.unwrap();
    assert_eq!(check(Some(committer.table()), &Arc::new(committer.columns())), Ok(Vec::new()));
    let plain_columns =
        [columns(), vec![Field::new("unit", DataType::Utf8, true), Field::new("tags", list, true)]].concat();
    assert_eq!(committer.columns(), Schema::new(plain_columns));
    let rows = from(3, 2);
    let plain = batch(&rows);
    let tags: ArrayRef = Arc::new({
        let mut builder = arrow_array::builder::ListBuilder::new(arrow_array::builder::StringBuilder::new());
        builder.append_value([Some("a"), None]);
        builder.append_null();
        builder.finish()
    });
    let unit: ArrayRef = Arc::new(StringArray::from(vec![Some("C"), None]));
    let mut arrays = plain.columns().to_vec();
    arrays.insert(1, unit);
    arrays.push(tags);
    committer.append(0, 3, 5, RecordBatch::try_new(wider, arrays).unwrap()).await.unwrap();
    committer.commit().await.unwrap();

    let table = table(&world).await;
    let names: Vec<_> = table.metadata().current_schema().as_struct().fields().iter().map(|f| f.name.clone()).collect();
    assert_eq!(names.iter().rev().take(2).rev().collect::<Vec<_>>(), ["unit", "tags"]);
    // The scan of iceberg 0.10.1 cannot make a list that an older file has not: it reads the others, and new files whole.
    let plain = names.iter().filter(|name| *name != "tags").collect::<Vec<_>>();
    let scan = table.scan().select(plain).build().unwrap();
    let all: Vec<RecordBatch> = futures::TryStreamExt::try_collect(scan.to_arrow().await.unwrap()).await.unwrap();
    assert_eq!(crate::testing::rows(&all), from(0, 5));
    let units: usize = all.iter().map(|rows| rows.column_by_name("unit").unwrap().null_count()).sum();
    assert_eq!(units, 4);
    let newer = iceberg::expr::Reference::new(crate::column::OFFSET).greater_than(iceberg::spec::Datum::long(2));
    let scan = table.scan().with_filter(newer).build().unwrap();
    let new: Vec<RecordBatch> = futures::TryStreamExt::try_collect(scan.to_arrow().await.unwrap()).await.unwrap();
    let tags = new[0].column_by_name("tags").unwrap();
    assert_eq!((tags.null_count(), tags.as_list::<i32>().value(0).len()), (1, 2));

    let first = table.metadata().snapshots().min_by_key(|snapshot| snapshot.sequence_number()).unwrap();
    let scan = table.scan().snapshot_id(first.snapshot_id()).build().unwrap();
    let old: Vec<RecordBatch> = futures::TryStreamExt::try_collect(scan.to_arrow().await.unwrap()).await.unwrap();
    assert_eq!(old[0].num_columns(), columns().len());
    assert_eq!(crate::testing::rows(&old), from(0, 3));
}

/// Without a snapshot, iceberg dates a change by the clock, and refuses one that is long before the last.
#[tokio::test]
async fn a_table_that_is_ahead_of_the_clock_gets_columns_and_rows() {
    let world = filled().await;
    put_ahead(&world.archive(), "acme_sensors_events", Duration::from_secs(3600)).await;
    let mut fields = columns();
    fields.push(Field::new("grade", DataType::Int64, true));
    let wider = with(fields);
    let mut committer = open_with(&world, Arc::clone(&wider)).await.unwrap();
    let grades: ArrayRef = Arc::new(Int64Array::from(vec![7, 8]));
    committer.append(0, 3, 5, widened(&from(3, 2), &wider, vec![grades])).await.unwrap();
    assert_eq!(committed(committer.commit().await.unwrap()).rows, 2);
    let all = read_back(&table(&world).await).await.unwrap();
    assert_eq!(crate::testing::rows(&all), from(0, 5));
    let times: Vec<i64> = table(&world).await.metadata().history().iter().map(|entry| entry.timestamp_ms()).collect();
    assert!(times.is_sorted_by(|one, next| one < next), "{times:?}");
}

#[tokio::test]
async fn a_committer_goes_on_with_more_columns_while_it_runs() {
    let world = World::default();
    let mut committer = open(&world).await;
    committer.append(0, 0, 3, batch(&from(0, 3))).await.unwrap();
    let mut fields = columns();
    fields.push(Field::new("grade", DataType::Int64, true));
    let wider = with(fields);
    committer.evolve(Arc::clone(&wider)).await.unwrap();
    let grades: ArrayRef = Arc::new(Int64Array::from(vec![7, 8]));
    committer.append(0, 3, 5, widened(&from(3, 2), &wider, vec![grades])).await.unwrap();
    assert_eq!(committed(committer.commit().await.unwrap()).rows, 5);
    let all = read_back(&table(&world).await).await.unwrap();
    assert_eq!(crate::testing::rows(&all), from(0, 5));
    let nulls: usize = all.iter().map(|rows| rows.column_by_name("grade").unwrap().null_count()).sum();
    assert_eq!(nulls, 3);
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_with_the_way_out() {
    let world = filled().await;
    let table = table(&world).await;
    let mut other = columns();
    other[4] = Field::new("number", DataType::Int64, true);
    let mut required = columns();
    required[3] = Field::new("rule", DataType::Utf8, false);
    let mut added = columns();
    added.push(Field::new("unit", DataType::Utf8, false));
    let mut unknown = columns();
    unknown.push(Field::new("unit", DataType::Duration(arrow_schema::TimeUnit::Second), true));
    for (fields, wanted) in [
        (other, "column `number` is double in the table and long in the contract"),
        (required, "column `rule` is required now"),
        (added, "column `unit` is required now"),
        (unknown, "column `unit` has the type Duration"),
    ] {
        let refused = check(Some(&table), &with(fields.clone())).unwrap_err();
        assert!(refused.to_string().starts_with(wanted), "{refused}");
        assert_eq!(reason(open_with(&world, with(fields)).await.unwrap_err()), refused);
    }
}

#[tokio::test]
async fn a_column_that_is_gone_from_the_contract_stays_and_is_null() {
    let world = World::default();
    let mut fields = columns();
    fields.push(Field::new("grade", DataType::Int64, false));
    let wide = with(fields);
    let mut committer = open_with(&world, Arc::clone(&wide)).await.unwrap();
    let grades: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    committer.append(0, 0, 2, widened(&from(0, 2), &wide, vec![grades])).await.unwrap();
    committer.commit().await.unwrap();
    let mut committer = open(&world).await;
    committer.append(0, 2, 4, batch(&from(2, 2))).await.unwrap();
    committer.commit().await.unwrap();
    let all = read_back(&table(&world).await).await.unwrap();
    let nulls: usize = all.iter().map(|rows| rows.column_by_name("grade").unwrap().null_count()).sum();
    assert_eq!((nulls, crate::testing::rows(&all)), (2, from(0, 4)));
}

#[tokio::test]
async fn a_column_that_someone_else_added_is_written_null() {
    let world = filled().await;
    let mut running = open(&world).await;
    change(&world, |fields| {
        fields.push(NestedField::optional(50, "note", Type::Primitive(PrimitiveType::String)));
    })
    .await;
    running.append(0, 3, 5, batch(&from(3, 2))).await.unwrap();
    running.commit().await.unwrap();
    let all = read_back(&table(&world).await).await.unwrap();
    let nulls: usize = all.iter().map(|rows| rows.column_by_name("note").unwrap().null_count()).sum();
    assert_eq!((nulls, crate::testing::rows(&all)), (5, from(0, 5)));
}

#[tokio::test]
async fn a_column_that_someone_else_dropped_is_told_and_not_made_again() {
    let world = filled().await;
    let mut running = open(&world).await;
    change(&world, |fields| fields.retain(|field| field.name != "rule")).await;
    assert!(matches!(reason(open_with(&world, with(columns())).await.unwrap_err()), Incompatible::Dropped { .. }));
    running.append(0, 3, 5, batch(&from(3, 2))).await.unwrap();
    assert!(matches!(reason(running.commit().await.unwrap_err()), Incompatible::Dropped { .. }));
    assert_eq!(table(&world).await.metadata().snapshots().count(), 1);
}

#[tokio::test]
async fn other_partitions_are_told() {
    let world = filled().await;
    let mut running = open(&world).await;
    let table = table(&world).await;
    let spec = UnboundPartitionSpec::builder().build();
    let updates = vec![TableUpdate::AddSpec { spec }, TableUpdate::SetDefaultSpec { spec_id: -1 }];
    let requirements = vec![TableRequirement::UuidMatch { uuid: table.metadata().uuid() }];
    world.archive().catalog().commit(&table, updates, requirements).await.unwrap();
    assert!(matches!(reason(open_with(&world, with(columns())).await.unwrap_err()), Incompatible::Partitions { .. }));
    running.append(0, 3, 5, batch(&from(3, 2))).await.unwrap();
    assert!(matches!(reason(running.commit().await.unwrap_err()), Incompatible::Partitions { .. }));
}

#[tokio::test]
async fn a_table_without_progress_is_not_taken_for_an_empty_one() {
    let world = filled().await;
    let table = table(&world).await;
    let updates = vec![TableUpdate::RemoveProperties { removals: vec!["phronis.progress".to_owned()] }];
    world.archive().catalog().commit(&table, updates, Vec::new()).await.unwrap();
    assert!(matches!(open_with(&world, with(columns())).await.unwrap_err(), Error::NotOurs { .. }));
}
