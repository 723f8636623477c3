//! A plugin's parameters against its JSON Schema: defaults filled in, unknown ones refused with the nearest name.

use std::fmt;

use jsonschema::{PatternOptions, Validator};
use phronis_core::text::did_you_mean;
use serde_json::{Map, Value};

/// Problems that are named; a person fixes the first few and tries again.
const MOST_PROBLEMS: usize = 16;

/// How deep a schema is followed for defaults.
const DEPTH: usize = 16;

/// A parameter that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamProblem {
    /// Path of the parameter, parts separated by dots; empty for the parameters as a whole.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for ParamProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.message),
            path => write!(f, "`{path}`: {}", self.message),
        }
    }
}

/// A schema, ready to check with.
pub(crate) struct Params {
    schema: Value,
    validator: Option<Validator>,
}

impl Params {
    /// No schema yet: nothing passes.
    pub(crate) fn none() -> Self {
        Self { schema: Value::Null, validator: None }
    }

    /// Takes a schema of an object.
    ///
    /// # Errors
    ///
    /// When it is not a valid JSON Schema, refers to other documents, or its own defaults do not fit it.
    pub(crate) fn new(schema: &Value) -> Result<Self, String> {
        if !schema.is_object() {
            return Err("the schema of the parameters is not a JSON object".to_owned());
        }
        jsonschema::meta::validate(schema).map_err(|e| {
            format!("the schema of the parameters is not a JSON Schema, at `{}`: {e}", e.instance_path())
        })?;
        // Linear-time patterns: a plugin's schema must not be able to make the host think for long.
        let options = jsonschema::options().with_pattern_options(PatternOptions::regex());
        let validator =
            options.build(schema).map_err(|e| format!("the schema of the parameters cannot be used: {e}"))?;
        Ok(Self { schema: schema.clone(), validator: Some(validator) })
    }

    /// Fills in defaults and checks.
    pub(crate) fn fill(&self, params: &Value) -> Result<Value, Vec<ParamProblem>> {
        let params = if params.is_null() { Value::Object(Map::new()) } else { params.clone() };
        let Value::Object(mut object) = params else {
            return Err(vec![ParamProblem {
                path: String::new(),
                message: "the parameters are not an object".to_owned(),
            }]);
        };
        let mut problems = Vec::new();
        complete(&self.schema, &mut object, "", DEPTH, &mut problems);
        let params = Value::Object(object);
        let Some(validator) = &self.validator else {
            return Err(vec![ParamProblem { path: String::new(), message: "there is no schema".to_owned() }]);
        };
        for error in validator.iter_errors(&params).take(MOST_PROBLEMS) {
            let path = error.instance_path().as_str().trim_start_matches('/').replace('/', ".");
            let unknown = matches!(error.kind(), jsonschema::error::ValidationErrorKind::AdditionalProperties { .. });
            // Unknown ones are named above, with the nearest name.
            if !unknown || problems.is_empty() {
                problems.push(ParamProblem { path, message: crate::text::for_people(&error.to_string(), 400) });
            }
        }
        problems.truncate(MOST_PROBLEMS);
        if problems.is_empty() { Ok(params) } else { Err(problems) }
    }
}

/// Fills the defaults of an object's properties, and of the objects in it; names what it does not know.
fn complete(schema: &Value, object: &mut Map<String, Value>, at: &str, depth: usize, problems: &mut Vec<ParamProblem>) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    let path = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
    let open = match schema.get("additionalProperties") {
        None => false,
        Some(allowed) => allowed != &Value::Bool(false),
    };
    if !open && schema.get("patternProperties").is_none() {
        for name in object.keys().filter(|name| !properties.contains_key(*name)) {
            let near = did_you_mean(name, properties.keys().map(String::as_str));
            let message = format!("there is no such parameter{near}");
            problems.push(ParamProblem { path: path(name), message });
        }
    }
    for (name, property) in properties {
        if let (false, Some(default)) = (object.contains_key(name), property.get("default")) {
            object.insert(name.clone(), default.clone());
        }
        if let (Some(Value::Object(inner)), true) = (object.get_mut(name), depth > 0) {
            complete(property, inner, &path(name), depth - 1, problems);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn params() -> Params {
        let schema = json!({"type": "object", "properties": {
            "high": {"type": "number", "default": 90.0, "maximum": 100},
            "field": {"type": "string", "pattern": "^[a-z.]+$"},
            "window": {"type": "object", "properties": {"seconds": {"type": "integer", "default": 60}}, "default": {}},
        }, "required": ["field"]});
        Params::new(&schema).unwrap_or_else(|e| panic!("{e}"))
    }

    fn problems(given: Value) -> Vec<String> {
        params().fill(&given).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults_are_filled_in_also_inside_objects() {
        let filled = params().fill(&json!({"field": "value"})).unwrap();
        assert_eq!(filled, json!({"field": "value", "high": 90.0, "window": {"seconds": 60}}));
    }

    #[test]
    fn an_unknown_parameter_is_refused_with_the_nearest_name() {
        assert_eq!(
            problems(json!({"field": "a", "hihg": 1})),
            ["`hihg`: there is no such parameter; did you mean `high`?"]
        );
        assert_eq!(
            problems(json!({"field": "a", "window": {"second": 1}})),
            ["`window.second`: there is no such parameter; did you mean `seconds`?"]
        );
        assert_eq!(problems(json!({"field": "a", "xyzzyx": 1})), ["`xyzzyx`: there is no such parameter"]);
    }

    #[test]
    fn a_wrong_value_is_named_with_its_path() {
        assert!(problems(json!({"field": "a", "high": 101}))[0].starts_with("`high`: "));
        assert!(problems(json!({"field": "A"}))[0].starts_with("`field`: "));
        assert!(problems(json!({}))[0].contains("field"));
        assert!(problems(json!([1]))[0].contains("object"));
    }

    #[test]
    fn a_schema_that_is_none_is_refused() {
        for bad in
            [json!(1), json!({"type": "objekt"}), json!({"$ref": "https://example.com/x"}), json!({"properties": []})]
        {
            assert!(Params::new(&bad).is_err(), "{bad}");
        }
    }
}
