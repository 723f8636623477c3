//! The contract as JSON Schema (2020-12): what the API page shows and what clients may check against.

use serde_json::{Map, Value, json};

use super::{Contract, Field, Object, OneOf, Property, Range, Rules, Shape, Undeclared};
use crate::plugin::FieldType;
use crate::time::Time;

pub(super) fn of(contract: &Contract) -> Value {
    let mut schema = object(contract, &contract.root);
    schema.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".into(), json!(contract.name));
    if let Some(description) = &contract.description {
        schema.insert("description".into(), json!(description));
    }
    Value::Object(schema)
}

fn object(contract: &Contract, object: &Object) -> Map<String, Value> {
    let mut properties = Map::new();
    for property in &object.properties {
        properties.insert(property.name.clone(), self::property(contract, property));
    }
    let required: Vec<_> = object.properties.iter().filter(|p| p.required).map(|p| p.name.as_str()).collect();
    let mut schema = Map::new();
    schema.insert("type".into(), json!("object"));
    schema.insert("properties".into(), Value::Object(properties));
    if !required.is_empty() {
        schema.insert("required".into(), json!(required));
    }
    if contract.undeclared == Undeclared::Refuse {
        schema.insert("additionalProperties".into(), json!(false));
    }
    schema
}

fn property(contract: &Contract, property: &Property) -> Value {
    let mut schema = match &property.shape {
        Shape::Object(inner) => object(contract, inner),
        Shape::Field(index) => contract.fields.get(*index).map(field).unwrap_or_default(),
    };
    if let Some(description) = &property.description {
        schema.insert("description".into(), json!(description));
    }
    // The gate takes null for a field that is not required.
    if !property.required
        && let Some(Value::String(of_type)) = schema.get("type").cloned()
    {
        schema.insert("type".into(), json!([of_type, "null"]));
        if let Some(Value::Array(values)) = schema.get_mut("enum") {
            values.push(Value::Null);
        }
    }
    Value::Object(schema)
}

fn field(field: &Field) -> Map<String, Value> {
    let mut schema = match field.of_type {
        FieldType::Boolean => json!({"type": "boolean"}),
        FieldType::Integer => json!({"type": "integer", "format": "int64"}),
        FieldType::Number => json!({"type": "number"}),
        FieldType::Timestamp => json!({
            "anyOf": [
                {"type": "string", "format": "date-time"},
                {"type": "string", "format": "date"},
                {"type": "string"},
                {"type": "number"},
            ],
            "x-phronis-time": "RFC 3339 with any zone or none (UTC), a date, or epoch seconds, milliseconds or microseconds",
        }),
        FieldType::Texts => json!({"type": "array", "items": {"type": "string"}}),
        FieldType::Numbers => json!({"type": "array", "items": {"type": "number"}}),
        FieldType::Text | FieldType::Binary if field.is_object => json!({"type": "object"}),
        FieldType::Text | FieldType::Binary => json!({"type": "string"}),
    };
    if field.of_type == FieldType::Timestamp
        && !field.required
        && let Some(Value::Array(shapes)) = schema.get_mut("anyOf")
    {
        shapes.push(json!({"type": "null"}));
    }
    let Value::Object(mut schema) = schema else { return Map::new() };
    if let Some(rules) = &field.rules {
        add_rules(&mut schema, field.of_type, rules);
    }
    schema
}

fn add_rules(schema: &mut Map<String, Value>, of_type: FieldType, rules: &Rules) {
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            schema.insert(name.into(), value);
        }
    };
    let is_list = matches!(of_type, FieldType::Texts | FieldType::Numbers);
    set(if is_list { "minItems" } else { "minLength" }, rules.min_length.map(Value::from));
    set(if is_list { "maxItems" } else { "maxLength" }, rules.max_length.map(Value::from));
    set("pattern", rules.pattern.as_ref().map(|pattern| json!(pattern.as_str())));
    set("format", rules.format.map(|format| json!(format.name())));
    set("multipleOf", rules.multiple_of.map(Value::from));
    set(
        "enum",
        rules.one_of.as_ref().map(|allowed| match allowed {
            OneOf::Texts(values) => json!(values),
            OneOf::Integers(values) => json!(values),
            OneOf::Numbers(values) => json!(values),
        }),
    );
    match rules.range {
        Some(Range::Integers { min, max }) => {
            let is_time = of_type == FieldType::Timestamp;
            let bound = |bound: i64| if is_time { json!(Time(bound)) } else { json!(bound) };
            let name = |plain, time| if is_time { time } else { plain };
            set(name("minimum", "x-phronis-minimum"), (min > i64::MIN).then(|| bound(min)));
            set(name("maximum", "x-phronis-maximum"), (max < i64::MAX).then(|| bound(max)));
        }
        Some(Range::Numbers { min, max, above, below }) => {
            set(if above { "exclusiveMinimum" } else { "minimum" }, min.is_finite().then(|| json!(min)));
            set(if below { "exclusiveMaximum" } else { "maximum" }, max.is_finite().then(|| json!(max)));
        }
        None => {}
    }
}
