//! Arrow columns and the columns of a table: what they are to each other, and what a table must become to take them.
//!
//! Columns are matched by name, and keep the ids that the table gave them. Pure: it asks the table's metadata, and changes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema as ArrowSchema, SchemaRef, TimeUnit};
use iceberg::arrow::type_to_arrow_type;
use iceberg::spec::{
    ListType, NestedField, NestedFieldRef, PrimitiveType, Schema, SortDirection, SortField, SortOrder, TableMetadata,
    Transform, Type, UnboundPartitionSpec,
};
use iceberg::table::Table;
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

use crate::spec::{Span, column};

/// Why a table cannot take rows of a schema. Each says the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Incompatible {
    /// A column has another type.
    #[error(
        "column `{column}` is {table} in the table and {wanted} in the contract: an archived column keeps its type; \
         give the field another name, or archive under another namespace"
    )]
    Type {
        /// The column.
        column: String,
        /// The type that it has.
        table: String,
        /// The type that it would have to have.
        wanted: String,
    },
    /// A column may no longer be null, or is new and may never be null.
    #[error(
        "column `{column}` is required now, and the table has rows without it: \
         leave the field optional in the contract, or archive under another namespace"
    )]
    Required {
        /// The column.
        column: String,
    },
    /// A column was there and is no more, though nobody here drops columns.
    #[error(
        "column `{column}` was dropped or renamed in the table by someone else: \
         bring it back there under its name and with the id {id}, give the field another name, or archive under another namespace"
    )]
    Dropped {
        /// The column.
        column: String,
        /// The id that it had.
        id: i32,
    },
    /// The table has other partitions.
    #[error(
        "the table is partitioned by {table}, and {wanted} is asked for: \
         set `[archive] partition_by` to what the table has, change the table's spec back, or archive under another namespace"
    )]
    Partitions {
        /// What it has.
        table: String,
        /// What is asked for.
        wanted: String,
    },
    /// A column has a type that tables have not.
    #[error("column `{column}` has the type {wanted}, which the archive cannot hold")]
    Unsupported {
        /// The column.
        column: String,
        /// Its type.
        wanted: String,
    },
}

/// The columns that would be added to a table (all of them when there is none yet) to take rows of a schema.
///
/// # Errors
/// When the table cannot take them.
pub fn check(current: Option<&Table>, schema: &SchemaRef) -> Result<Vec<String>, Incompatible> {
    let Some(table) = current else {
        create(schema)?;
        return Ok(schema.fields().iter().map(|field| field.name().clone()).collect());
    };
    Ok(fit(table.metadata(), schema)?.map(|change| change.added).unwrap_or_default())
}

/// What a table must become.
#[derive(Debug)]
pub(crate) struct Evolution {
    pub(crate) schema: Schema,
    /// Names of new columns.
    pub(crate) added: Vec<String>,
}

/// The schema of a new table. The ids are final where the catalog does not give its own.
pub(crate) fn create(schema: &ArrowSchema) -> Result<Schema, Incompatible> {
    let mut last = i32::try_from(schema.fields().len()).unwrap_or(i32::MAX);
    let mut fields = Vec::new();
    for (id, field) in (1..).zip(schema.fields()) {
        fields.push(nested(field, id, &mut last)?);
    }
    build(fields, 0)
}

/// What a table must become to take rows of a schema; `None` when it takes them as it is.
pub(crate) fn fit(metadata: &TableMetadata, wanted: &ArrowSchema) -> Result<Option<Evolution>, Incompatible> {
    let current = metadata.current_schema();
    let is_empty = metadata.current_snapshot().is_none();
    let mut last = metadata.last_column_id();
    let (mut fields, mut added, mut is_changed) = (Vec::new(), Vec::new(), false);
    for field in current.as_struct().fields() {
        let (kept, changed) = keep(field, wanted.field_with_name(&field.name).ok(), is_empty)?;
        is_changed |= changed;
        fields.push(kept);
    }
    for field in wanted.fields() {
        if current.as_struct().field_by_name(field.name()).is_some() {
            continue;
        }
        if let Some(id) = former(metadata, field.name()) {
            return Err(Incompatible::Dropped { column: field.name().clone(), id });
        }
        if !field.is_nullable() && !is_empty {
            return Err(Incompatible::Required { column: field.name().clone() });
        }
        last += 1;
        let id = last;
        fields.push(nested(field, id, &mut last)?);
        added.push(field.name().clone());
    }
    if added.is_empty() && !is_changed {
        return Ok(None);
    }
    Ok(Some(Evolution { schema: build(fields, current.schema_id() + 1)?, added }))
}

/// A column of the table as it stays, and whether that is a change.
fn keep(
    field: &NestedFieldRef,
    wanted: Option<&Field>,
    is_empty: bool,
) -> Result<(NestedFieldRef, bool), Incompatible> {
    let required = match wanted {
        Some(wanted) => {
            let asked = data_type(wanted)?;
            if !same(&field.field_type, &asked) {
                let table = field.field_type.to_string();
                return Err(Incompatible::Type { column: field.name.clone(), table, wanted: asked.to_string() });
            }
            !wanted.is_nullable()
        }
        // Whoever had it, the contract has it no more: from now on it is null.
        None => false,
    };
    if required == field.required {
        return Ok((Arc::clone(field), false));
    }
    if required && !is_empty {
        return Err(Incompatible::Required { column: field.name.clone() });
    }
    let mut loosened = field.as_ref().clone();
    loosened.required = required;
    Ok((Arc::new(loosened), true))
}

/// The id that a column had which is not in the current schema.
fn former(metadata: &TableMetadata, name: &str) -> Option<i32> {
    let mut schemas: Vec<_> = metadata.schemas_iter().collect();
    schemas.sort_by_key(|schema| std::cmp::Reverse(schema.schema_id()));
    schemas.into_iter().find_map(|schema| schema.as_struct().field_by_name(name).map(|field| field.id))
}

/// The partition spec and the sort order of a new table.
pub(crate) fn layout(schema: &Schema, span: Span) -> Result<(UnboundPartitionSpec, SortOrder), iceberg::Error> {
    let time = schema.field_id_by_name(column::EVENT_TIME).ok_or_else(|| {
        iceberg::Error::new(iceberg::ErrorKind::DataInvalid, format!("there is no column `{}`", column::EVENT_TIME))
    })?;
    let spec = UnboundPartitionSpec::builder().add_partition_field(time, span.field(), span.transform())?.build();
    let field = SortField::builder()
        .source_id(time)
        .transform(Transform::Identity)
        .direction(SortDirection::Ascending)
        .null_order(iceberg::spec::NullOrder::First)
        .build();
    let order = SortOrder::builder().with_order_id(1).with_fields(vec![field]).build(schema)?;
    Ok((spec, order))
}

/// Whether the table's partitions are those of `span`.
pub(crate) fn check_partitions(metadata: &TableMetadata, span: Span) -> Result<(), Incompatible> {
    let schema = metadata.current_schema();
    let fields = metadata.default_partition_spec().fields();
    let time = schema.field_id_by_name(column::EVENT_TIME);
    if let [field] = fields
        && Some(field.source_id) == time
        && field.transform == span.transform()
    {
        return Ok(());
    }
    let name = |id| schema.name_by_field_id(id).map_or_else(|| format!("#{id}"), str::to_owned);
    let shown: Vec<String> =
        fields.iter().map(|field| format!("{}({})", field.transform, name(field.source_id))).collect();
    let table = if shown.is_empty() { "nothing".to_owned() } else { shown.join(", ") };
    Err(Incompatible::Partitions { table, wanted: format!("{}({})", span.transform(), column::EVENT_TIME) })
}

/// The columns that are written, in the table's order: Arrow fields that carry the table's ids, and where each stands in `wanted`.
///
/// What is not wanted any more is left out, which reads as null. But lists are written as nulls:
/// the scan of iceberg 0.10.1 cannot make a list that a file has not.
pub(crate) fn written(table: &Schema, wanted: &ArrowSchema) -> (SchemaRef, Vec<Option<usize>>) {
    let (mut fields, mut places) = (Vec::new(), Vec::new());
    for field in table.as_struct().fields() {
        let given = wanted.column_with_name(&field.name);
        let data_type = match (given, field.field_type.as_ref()) {
            (Some((_, given)), Type::List(list)) => list_type(list, given.data_type()),
            (Some((_, given)), _) => Some(given.data_type().clone()),
            (None, Type::List(list)) => type_to_arrow_type(&list.element_field.field_type)
                .ok()
                .map(|item| list_of(list, item, !list.element_field.required)),
            (None, _) => None,
        };
        let Some(data_type) = data_type else { continue };
        let is_nullable = given.is_none_or(|(_, given)| given.is_nullable());
        fields.push(with_id(Field::new(&field.name, data_type, is_nullable), field.id));
        places.push(given.map(|(place, _)| place));
    }
    (Arc::new(ArrowSchema::new(fields)), places)
}

fn list_type(list: &ListType, given: &DataType) -> Option<DataType> {
    match given {
        DataType::List(item) => Some(list_of(list, item.data_type().clone(), item.is_nullable())),
        _ => None,
    }
}

fn list_of(list: &ListType, item: DataType, is_nullable: bool) -> DataType {
    DataType::List(Arc::new(with_id(Field::new("element", item, is_nullable), list.element_field.id)))
}

fn with_id(field: Field, id: i32) -> Field {
    field.with_metadata(HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())]))
}

/// The columns that a table has now as plain Arrow, in its order; those of types that the archive does not write are left out.
pub fn plain_columns(table: &Table) -> ArrowSchema {
    plain(table.metadata().current_schema())
}

/// A table's columns as plain Arrow, as far as the archive writes such.
pub(crate) fn plain(table: &Schema) -> ArrowSchema {
    let item = |data_type: &Type| {
        let written = match data_type {
            Type::Primitive(PrimitiveType::Binary) => Some(DataType::Binary),
            Type::Primitive(PrimitiveType::Timestamptz) => {
                Some(DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))
            }
            Type::Primitive(_) => type_to_arrow_type(data_type).ok(),
            _ => None,
        };
        // What `data_type` takes is what is written.
        written.filter(|found| self::data_type(&Field::new("", found.clone(), true)).is_ok())
    };
    let fields = table.as_struct().fields().iter().filter_map(|field| {
        let data_type = match field.field_type.as_ref() {
            Type::List(list) => {
                let element = &list.element_field;
                DataType::List(Arc::new(Field::new_list_field(item(&element.field_type)?, !element.required)))
            }
            other => item(other)?,
        };
        Some(Field::new(&field.name, data_type, !field.required))
    });
    ArrowSchema::new(fields.collect::<Vec<_>>())
}

fn build(fields: Vec<NestedFieldRef>, id: i32) -> Result<Schema, Incompatible> {
    let names = fields.iter().map(|field| field.name.clone()).collect::<Vec<_>>().join(", ");
    Schema::builder()
        .with_schema_id(id)
        .with_fields(fields)
        .build()
        .map_err(|error| Incompatible::Unsupported { column: names, wanted: error.to_string() })
}

fn nested(field: &Field, id: i32, last: &mut i32) -> Result<NestedFieldRef, Incompatible> {
    let mut data_type = data_type(field)?;
    if let Type::List(list) = data_type {
        *last += 1;
        let element = &list.element_field;
        let element = NestedField::list_element(*last, element.field_type.as_ref().clone(), element.required);
        data_type = Type::List(ListType::new(Arc::new(element)));
    }
    Ok(Arc::new(NestedField::new(id, field.name(), data_type, !field.is_nullable())))
}

/// The type of a column, with 0 for the ids inside.
fn data_type(field: &Field) -> Result<Type, Incompatible> {
    let primitive = |data_type: &DataType| {
        Some(Type::Primitive(match data_type {
            DataType::Boolean => PrimitiveType::Boolean,
            DataType::Int32 => PrimitiveType::Int,
            DataType::Int64 => PrimitiveType::Long,
            DataType::Float32 => PrimitiveType::Float,
            DataType::Float64 => PrimitiveType::Double,
            DataType::Utf8 => PrimitiveType::String,
            DataType::Dictionary(_, of) if **of == DataType::Utf8 => PrimitiveType::String,
            DataType::Binary => PrimitiveType::Binary,
            DataType::Date32 => PrimitiveType::Date,
            DataType::Timestamp(TimeUnit::Microsecond, None) => PrimitiveType::Timestamp,
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => PrimitiveType::Timestamptz,
            _ => return None,
        }))
    };
    let found = match field.data_type() {
        DataType::List(item) => primitive(item.data_type()).map(|element| {
            Type::List(ListType::new(Arc::new(NestedField::list_element(0, element, !item.is_nullable()))))
        }),
        other => primitive(other),
    };
    found.ok_or_else(|| Incompatible::Unsupported {
        column: field.name().clone(),
        wanted: field.data_type().to_string(),
    })
}

/// Whether two types are the same but for the ids inside.
fn same(one: &Type, other: &Type) -> bool {
    match (one, other) {
        (Type::List(one), Type::List(other)) => {
            let (one, other) = (&one.element_field, &other.element_field);
            one.required == other.required && same(&one.field_type, &other.field_type)
        }
        (one, other) => one == other,
    }
}
