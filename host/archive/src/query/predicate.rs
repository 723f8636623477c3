//! What of a query's conditions can choose files and row groups.
//!
//! Only conditions that mean the same on both sides are passed on; the engine applies all of them to the rows again.
//! iceberg-datafusion's own conversion drops casts (`CAST(v AS INT) = 5` would lose 5.3), so it is not used.

use datafusion::logical_expr::{Between, BinaryExpr, Expr, Operator};
use datafusion::scalar::ScalarValue;
use iceberg::expr::{Predicate, Reference};
use iceberg::spec::{Datum, PrimitiveType, Schema, Type};

/// Longest list of `IN` that is compared with every file's statistics.
const LONGEST_LIST: usize = 200;

/// The conditions that can be passed on, all of which must hold.
pub(super) fn of_all(filters: &[Expr], schema: &Schema) -> Option<Predicate> {
    filters.iter().filter_map(|filter| of(filter, schema)).reduce(Predicate::and)
}

/// A condition that holds wherever the given one does.
pub(super) fn of(filter: &Expr, schema: &Schema) -> Option<Predicate> {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            match (of(left, schema), of(right, schema)) {
                (Some(left), Some(right)) => Some(left.and(right)),
                (left, right) => left.or(right),
            }
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            Some(of(left, schema)?.or(of(right, schema)?))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => compared(left, *op, right, schema),
        Expr::Between(Between { expr, negated: false, low, high }) => {
            let low = compared(expr, Operator::GtEq, low, schema);
            let high = compared(expr, Operator::LtEq, high, schema);
            [low, high].into_iter().flatten().reduce(Predicate::and)
        }
        Expr::IsNull(inner) => column(inner, schema).map(|(reference, _)| reference.is_null()),
        Expr::IsNotNull(inner) => column(inner, schema).map(|(reference, _)| reference.is_not_null()),
        Expr::InList(list) if !list.negated && list.list.len() <= LONGEST_LIST => {
            let (reference, of_type) = column(&list.expr, schema)?;
            let values: Option<Vec<Datum>> = list.list.iter().map(|value| datum(value, &of_type)).collect();
            Some(reference.is_in(values?))
        }
        _ => None,
    }
}

fn compared(left: &Expr, op: Operator, right: &Expr, schema: &Schema) -> Option<Predicate> {
    let (reference, of_type, value, op) = match (column(left, schema), column(right, schema)) {
        (Some((reference, of_type)), None) => (reference, of_type, right, op),
        (None, Some((reference, of_type))) => (reference, of_type, left, op.swap()?),
        _ => return None,
    };
    let value = datum(value, &of_type)?;
    match op {
        Operator::Eq => Some(reference.equal_to(value)),
        Operator::Lt => Some(reference.less_than(value)),
        Operator::LtEq => Some(reference.less_than_or_equal_to(value)),
        Operator::Gt => Some(reference.greater_than(value)),
        Operator::GtEq => Some(reference.greater_than_or_equal_to(value)),
        _ => None,
    }
}

fn column(expr: &Expr, schema: &Schema) -> Option<(Reference, PrimitiveType)> {
    let Expr::Column(column) = expr else { return None };
    match &*schema.field_by_name(&column.name)?.field_type {
        Type::Primitive(of_type) => Some((Reference::new(column.name.clone()), of_type.clone())),
        _ => None,
    }
}

/// A literal of exactly the column's type.
fn datum(expr: &Expr, of_type: &PrimitiveType) -> Option<Datum> {
    let Expr::Literal(value, _) = expr else { return None };
    Some(match (of_type, value) {
        (PrimitiveType::Boolean, ScalarValue::Boolean(Some(value))) => Datum::bool(*value),
        (PrimitiveType::Int, ScalarValue::Int32(Some(value))) => Datum::int(*value),
        (PrimitiveType::Long, ScalarValue::Int64(Some(value))) => Datum::long(*value),
        // Statistics leave NaN out, and the engine sorts it above all numbers.
        (PrimitiveType::Double, ScalarValue::Float64(Some(value))) if value.is_finite() => Datum::double(*value),
        (PrimitiveType::Date, ScalarValue::Date32(Some(days))) => Datum::date(*days),
        (PrimitiveType::Timestamp, ScalarValue::TimestampMicrosecond(Some(micros), None)) => {
            Datum::timestamp_micros(*micros)
        }
        (PrimitiveType::Timestamptz, ScalarValue::TimestampMicrosecond(Some(micros), Some(_))) => {
            Datum::timestamptz_micros(*micros)
        }
        (
            PrimitiveType::String,
            ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)) | ScalarValue::Utf8View(Some(text)),
        ) => Datum::string(text),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::datatypes::DataType;
    use datafusion::prelude::{cast, col, lit};
    use iceberg::spec::NestedField;

    use super::*;

    fn schema() -> Schema {
        let field = |id, name: &str, of_type| Arc::new(NestedField::optional(id, name, Type::Primitive(of_type)));
        let fields = vec![
            field(1, "n", PrimitiveType::Long),
            field(2, "v", PrimitiveType::Double),
            field(3, "s", PrimitiveType::String),
            field(4, "t", PrimitiveType::Timestamptz),
        ];
        Schema::builder().with_fields(fields).build().unwrap()
    }

    #[test]
    fn only_what_means_the_same_is_passed_on() {
        let time = lit(ScalarValue::TimestampMicrosecond(Some(0), Some("+00:00".into())));
        for (filter, expected) in [
            (col("n").eq(lit(5_i64)), Some("n = 5")),
            (lit(5_i64).lt(col("n")), Some("n > 5")),
            (col("n").eq(lit(5_i32)), None),
            (cast(col("v"), DataType::Int64).eq(lit(5_i64)), None),
            (col("v").gt(lit(f64::NAN)), None),
            (col("n").not_eq(lit(5_i64)), None),
            (col("s").eq(lit("x")).and(col("s").like(lit("%y"))), Some("s = \"x\"")),
            (col("s").eq(lit("x")).or(col("s").like(lit("%y"))), None),
            (col("t").gt_eq(time), Some("t >= 1970-01-01 00:00:00 UTC")),
            (col("n").between(lit(1_i64), lit(2_i64)), Some("(n >= 1) AND (n <= 2)")),
            (col("s").is_null(), Some("s IS NULL")),
            (col("unknown").eq(lit(1_i64)), None),
        ] {
            assert_eq!(of(&filter, &schema()).map(|p| p.to_string()).as_deref(), expected, "{filter}");
        }
    }
}
