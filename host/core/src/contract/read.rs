//! Reads an ODCS document into a [`Contract`].
//!
//! ODCS keys that the gate has no use for are skipped (the standard allows any tool to add some);
//! a misspelt type, option or `phronis.` property would silently weaken the gate and is refused with the nearest name.

use super::yaml::Node;
use super::{Contract, DEDUPLICATE_WINDOW, Deduplicate, Field, MAX_BYTES, Object, Property, Shape, Undeclared};
use crate::plugin::FieldType;
use crate::text::did_you_mean;

mod options;
mod place;

pub(super) use place::Problem;
use place::{Found, Place};

/// What stands in a schema object's custom properties.
const CUSTOM: [&str; 7] = [
    "phronis.key",
    "phronis.agent",
    "phronis.eventTime",
    "phronis.deduplicate",
    "phronis.deduplicateWindow",
    "phronis.undeclared",
    "phronis.maxBytes",
];

const LOGICAL_TYPES: [&str; 9] =
    ["string", "integer", "number", "boolean", "timestamp", "date", "time", "object", "array"];

/// Largest `phronis.maxBytes`: what a batch of one must still pass through 32-bit Arrow offsets with room to spare.
const MOST_BYTES: i64 = 64 << 20;

/// Deepest nesting of declared objects; less than the depth that the gate reads.
const DEEPEST: usize = 32;

pub(super) fn contract(yaml: &str) -> Found<Contract> {
    // As in YAML 1.2: a field may be called `y`, `n` or `no`.
    let options = serde_saphyr::options! { strict_booleans: true };
    let node: Node = serde_saphyr::from_str_with_options(yaml, options).map_err(|error| Problem {
        line: error.location().map_or(0, |location| location.line()),
        path: String::new(),
        what: format!("not YAML: {}", error.without_snippet().to_string().lines().next().unwrap_or_default()),
    })?;
    let document = Place::root(&node);
    document.map()?;
    head(&document)?;
    refuse_custom(&document, "it belongs to the customProperties of the schema object")?;

    let objects = document.need("schema")?.list()?;
    let [schema] = objects.as_slice() else {
        let count = objects.len();
        return document.need("schema")?.wrong(format!("a stream's contract has one schema object, this has {count}"));
    };
    if let Some(logical) = schema.get("logicalType")
        && logical.text()? != "object"
    {
        return logical.wrong("the events of a stream are objects: logicalType must be `object`".into());
    }
    let mut fields = Fields::default();
    let root = fields.object(schema, "", 1)?;
    let mut contract = Contract {
        id: document.need("id")?.text()?.to_owned(),
        version: document.need("version")?.text()?.to_owned(),
        name: schema.need("name")?.text()?.to_owned(),
        description: schema.optional_text("description")?,
        root,
        fields: fields.fields,
        key: None,
        agent: None,
        event_time: None,
        deduplicate: None,
        undeclared: Undeclared::Keep,
        max_bytes: MAX_BYTES,
    };
    let unique = fields.unique;
    custom(schema, &mut contract, &unique)?;
    Ok(contract)
}

fn head(document: &Place<'_>) -> Found<()> {
    let kind = document.need("kind")?;
    if kind.text()? != "DataContract" {
        return kind.wrong(format!("must be `DataContract`, not `{}`", kind.text()?));
    }
    let version = document.need("apiVersion")?;
    let text = version.text()?;
    let parts: Vec<_> = text.strip_prefix('v').unwrap_or_default().split('.').collect();
    let is_known = match parts.as_slice() {
        ["3", "0" | "1" | "2", patch] => patch.parse::<u16>().is_ok(),
        _ => false,
    };
    if !is_known {
        return version.wrong(format!("`{text}` is not a version that Phronis reads: v3.0.0 to v3.2.x"));
    }
    Ok(())
}

/// The fields found so far.
#[derive(Default)]
struct Fields {
    fields: Vec<Field>,
    unique: Vec<(usize, u64)>,
}

impl Fields {
    fn object(&mut self, place: &Place<'_>, prefix: &str, depth: usize) -> Found<Object> {
        let list = place.need("properties")?;
        if depth > DEEPEST {
            return list.wrong(format!("objects are nested deeper than {DEEPEST}"));
        }
        let mut properties: Vec<Property> = Vec::new();
        for place in list.list()? {
            let property = self.property(&place, prefix, depth)?;
            if properties.iter().any(|other| other.name == property.name) {
                return place.wrong(format!("the property `{}` is declared twice", property.name));
            }
            properties.push(property);
        }
        if properties.is_empty() {
            return list.wrong("needs at least one property".into());
        }
        if let Some(options) = place.get("logicalTypeOptions")
            && let Some(required) = options.get("required")
        {
            for name in required.list()? {
                let text = name.text()?;
                let names: Vec<_> = properties.iter().map(|p| p.name.clone()).collect();
                let Some(property) = properties.iter_mut().find(|p| p.name == text) else {
                    let hint = did_you_mean(text, names.iter().map(String::as_str));
                    return name.wrong(format!("there is no property `{text}`{hint}"));
                };
                property.required = true;
                if let Shape::Field(index) = property.shape
                    && let Some(field) = self.fields.get_mut(index)
                {
                    field.required = true;
                }
            }
        }
        Ok(Object { properties })
    }

    fn property(&mut self, place: &Place<'_>, prefix: &str, depth: usize) -> Found<Property> {
        let name = place.need("name")?;
        let text = name.text()?;
        if text.is_empty() || text.contains('.') || text.starts_with('$') {
            return name.wrong(format!("`{text}` cannot be part of a path: no dots, no leading $, not empty"));
        }
        let path = if prefix.is_empty() { text.to_owned() } else { format!("{prefix}.{text}") };
        let logical = place.need("logicalType")?;
        let Some(logical_type) = LOGICAL_TYPES.into_iter().find(|known| *known == logical.text().unwrap_or_default())
        else {
            let text = logical.text()?;
            return logical.wrong(format!("`{text}` is not a logicalType{}", did_you_mean(text, LOGICAL_TYPES)));
        };
        let required = place.flag("required")?;
        let description = place.optional_text("description")?;
        let shape = if logical_type == "object" && place.get("properties").is_some() {
            options::check(place, logical_type, true)?;
            Shape::Object(self.object(place, &path, depth + 1)?)
        } else {
            Shape::Field(self.field(place, path, logical_type, required, description.clone())?)
        };
        Ok(Property { name: text.to_owned(), required, description, shape })
    }

    fn field(
        &mut self,
        place: &Place<'_>,
        path: String,
        logical_type: &str,
        required: bool,
        description: Option<String>,
    ) -> Found<usize> {
        let of_type = match logical_type {
            "integer" => FieldType::Integer,
            "number" => FieldType::Number,
            "boolean" => FieldType::Boolean,
            "timestamp" | "date" => FieldType::Timestamp,
            "array" => items(place)?,
            _ => FieldType::Text,
        };
        options::check(place, logical_type, false)?;
        let rules = options::rules(place, of_type)?;
        let index = self.fields.len();
        if place.flag("unique")? {
            self.unique.push((index, place.line()));
        }
        let is_object = logical_type == "object";
        self.fields.push(Field { path, of_type, required, is_object, rules, description });
        Ok(index)
    }
}

fn items(place: &Place<'_>) -> Found<FieldType> {
    let logical = place.need("items")?.need("logicalType")?;
    match logical.text()? {
        "string" => Ok(FieldType::Texts),
        "number" | "integer" => Ok(FieldType::Numbers),
        other => {
            let hint = did_you_mean(other, ["string", "number", "integer"]);
            logical.wrong(format!("lists hold `string`, `number` or `integer`, not `{other}`{hint}"))
        }
    }
}

/// The custom properties of a place, as (name, value).
fn custom_properties<'a>(place: &Place<'a>) -> Found<Vec<(Place<'a>, Place<'a>)>> {
    let Some(list) = place.get("customProperties") else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in list.list()? {
        if let Some(name) = entry.get("property")
            && name.text()?.starts_with("phronis.")
        {
            found.push((name, entry.need("value")?));
        }
    }
    Ok(found)
}

fn refuse_custom(place: &Place<'_>, why: &str) -> Found<()> {
    match custom_properties(place)?.first() {
        Some((name, _)) => name.wrong(format!("`{}` has no meaning here; {why}", name.text()?)),
        None => Ok(()),
    }
}

fn custom(schema: &Place<'_>, contract: &mut Contract, unique: &[(usize, u64)]) -> Found<()> {
    let mut window = DEDUPLICATE_WINDOW;
    let mut deduplicate = None;
    let mut seen: Vec<&str> = Vec::new();
    for (name, value) in custom_properties(schema)? {
        let property = name.text()?;
        if seen.contains(&property) {
            return name.wrong(format!("`{property}` stands twice"));
        }
        match property {
            "phronis.key" => contract.key = Some(scalar(contract, &value)?),
            "phronis.agent" => contract.agent = Some(scalar(contract, &value)?),
            "phronis.deduplicate" => deduplicate = Some(scalar(contract, &value)?),
            "phronis.eventTime" => {
                let index = named(contract, &value)?;
                if contract.fields.get(index).is_none_or(|field| field.of_type != FieldType::Timestamp) {
                    return value.wrong("the event time must be a field of type timestamp or date".into());
                }
                contract.event_time = Some(index);
            }
            "phronis.deduplicateWindow" => {
                window = usize::try_from(value.integer(1, 100_000_000)?).unwrap_or(DEDUPLICATE_WINDOW);
            }
            "phronis.maxBytes" => {
                contract.max_bytes = usize::try_from(value.integer(1, MOST_BYTES)?).unwrap_or(MAX_BYTES)
            }
            "phronis.undeclared" => {
                contract.undeclared = match value.text()? {
                    "keep" => Undeclared::Keep,
                    "drop" => Undeclared::Drop,
                    "refuse" => Undeclared::Refuse,
                    other => {
                        let hint = did_you_mean(other, ["keep", "drop", "refuse"]);
                        return value.wrong(format!("must be keep, drop or refuse, not `{other}`{hint}"));
                    }
                };
            }
            other => {
                return name.wrong(format!("`{other}` is not a property of Phronis{}", did_you_mean(other, CUSTOM)));
            }
        }
        seen.push(property);
    }
    let field = match (deduplicate, unique) {
        (Some(field), _) => Some(field),
        (None, []) => None,
        (None, [(field, _)]) => Some(*field),
        (None, [.., (_, line)]) => {
            return Err(Problem {
                line: *line,
                path: schema.path().to_owned(),
                what: "several fields are `unique`; name the one to de-duplicate by in phronis.deduplicate".into(),
            });
        }
    };
    contract.deduplicate = field.map(|field| Deduplicate { field, window });
    Ok(())
}

fn named(contract: &Contract, value: &Place<'_>) -> Found<usize> {
    let path = value.text()?;
    match contract.position(path) {
        Some(index) => Ok(index),
        None => value.wrong(format!("there is no field `{path}`{}", contract.nearest(path, &[]))),
    }
}

fn scalar(contract: &Contract, value: &Place<'_>) -> Found<usize> {
    let index = named(contract, value)?;
    match contract.fields.get(index) {
        Some(field) if field.is_object || matches!(field.of_type, FieldType::Texts | FieldType::Numbers) => {
            value.wrong(format!("`{}` is an object or a list; it must be a single value", field.path))
        }
        _ => Ok(index),
    }
}
