//! The contract as a reader of processed events wants it: what enrichers added is declared too, and nothing is refused for its value.
//!
//! Processed events went through the gate once, perhaps by an older contract. A reader takes of them what has the right type.

use super::{Contract, Field, Object, Property, Shape, Undeclared};
use crate::plugin::{Added, FieldType};

impl Contract {
    /// The same columns, then the added ones; no field is required, no rule holds.
    ///
    /// An added column that the contract declares by now is left out: the contract's takes its place.
    /// Bytes are text, as JSON has no bytes.
    #[must_use]
    pub fn loosened(&self, added: &[Added]) -> Self {
        let mut loose = self.clone();
        for field in &mut loose.fields {
            field.required = false;
            field.rules = None;
        }
        relax(&mut loose.root);
        for Added { name, of_type } in added {
            if loose.declares(name) || loose.position(name).is_some() {
                continue;
            }
            let of_type = if *of_type == FieldType::Binary { FieldType::Text } else { *of_type };
            let shape = Shape::Field(loose.fields.len());
            loose.fields.push(Field {
                path: name.clone(),
                of_type,
                required: false,
                is_object: false,
                rules: None,
                description: None,
            });
            loose.root.properties.push(Property { name: name.clone(), required: false, description: None, shape });
        }
        loose.deduplicate = None;
        loose.undeclared = Undeclared::Keep;
        loose.max_bytes = usize::MAX;
        loose
    }
}

fn relax(object: &mut Object) {
    for property in &mut object.properties {
        property.required = false;
        if let Shape::Object(inner) = &mut property.shape {
            relax(inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Decoder;
    use crate::records::{Records, RecordsBuilder};

    #[test]
    fn a_reader_takes_what_has_the_right_type_and_knows_added_columns() {
        let yaml = "apiVersion: v3.1.0\nkind: DataContract\nid: c\nversion: '1'\nschema:\n- name: s\n  properties:\n  - {name: n, logicalType: integer, required: true, logicalTypeOptions: {maximum: 5}}\n";
        let contract = Contract::parse(yaml, "c").unwrap();
        let added = |name: &str, of_type| Added { name: name.into(), of_type };
        let loose = contract.loosened(&[added("n", FieldType::Text), added("b", FieldType::Binary)]);
        let mut records = RecordsBuilder::default();
        for value in [r#"{"n":7,"b":"x"}"#, r#"{"b":null}"#, r#"{"n":"7"}"#] {
            records.push(0, None, Some(value.as_bytes()), &[]);
        }
        let records =
            Records { topic: "t".into(), partition: 0, offsets: vec![0, 1, 2].into(), body: records.finish() };
        let checked = Decoder::new(Arc::new(loose)).check(records);
        assert_eq!(checked.events.rows, [0, 1]);
        assert_eq!(checked.events.columns.len(), 2);
        assert_eq!(checked.rejected.len(), 1, "another type is no value of this column");
    }
}
