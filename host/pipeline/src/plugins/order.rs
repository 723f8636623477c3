//! The order of a stream's plugins, and whether they fit together.
//!
//! Enrichers run in the order of the columns that they read, ties by name; detectors after all of them.
//! A column added twice, or enrichers that wait for each other, are refused: nobody should depend on file names.

use std::collections::BTreeMap;
use std::sync::Arc;

use phronis_core::contract::{Column, Contract};
use phronis_core::plugin::{Added, Field, Kind};
use phronis_core::{Name, code};

use super::Problem;

/// What the order of a plugin depends on.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) name: Name,
    pub(crate) kind: Kind,
    pub(crate) fields: Arc<[Field]>,
    pub(crate) adds: Arc<[Added]>,
}

/// A plugin's place: when it runs, and which columns it is given.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) name: Name,
    pub(crate) columns: Vec<Column>,
}

/// All plugins of a stream in the order in which they run, and all columns that they add.
#[derive(Debug, Clone, Default)]
pub(crate) struct Order {
    pub(crate) enrichers: Vec<Place>,
    pub(crate) detectors: Vec<Place>,
    pub(crate) added: Vec<Added>,
}

/// Orders plugins, or says which one does not fit and why.
pub(crate) fn order(contract: &Contract, wishes: &[Wish]) -> Result<Order, (Name, Problem)> {
    let adder = adders(contract, wishes)?;
    let mut order = Order::default();
    let mut waiting: BTreeMap<&Name, &Wish> =
        wishes.iter().filter(|w| w.kind == Kind::Enricher).map(|w| (&w.name, w)).collect();
    while !waiting.is_empty() {
        let ready = waiting.values().find(|wish| {
            wish.fields
                .iter()
                .all(|f| adder.get(f.path.as_str()).is_none_or(|by| *by != &wish.name && !waiting.contains_key(by)))
        });
        let Some(wish) = ready.copied() else {
            let names: Vec<_> = waiting.keys().map(|name| name.as_str()).collect();
            let first = waiting.keys().next().map(|name| (*name).clone());
            let message = format!("the enrichers {} wait for each other's columns: break the cycle", names.join(", "));
            return match first {
                Some(name) => Err((name, Problem { code: code::COLUMN_CONFLICT, message })),
                None => Ok(order),
            };
        };
        let columns = resolve(contract, wish, &order.added)?;
        order.enrichers.push(Place { name: wish.name.clone(), columns });
        order.added.extend(wish.adds.iter().cloned());
        waiting.remove(&wish.name);
    }
    let mut detectors: Vec<_> = wishes.iter().filter(|w| w.kind == Kind::Detector).collect();
    detectors.sort_by(|a, b| a.name.cmp(&b.name));
    for wish in detectors {
        let columns = resolve(contract, wish, &order.added)?;
        order.detectors.push(Place { name: wish.name.clone(), columns });
    }
    Ok(order)
}

/// Who adds which column.
fn adders<'a>(contract: &Contract, wishes: &'a [Wish]) -> Result<BTreeMap<&'a str, &'a Name>, (Name, Problem)> {
    let mut adder: BTreeMap<&str, &Name> = BTreeMap::new();
    for wish in wishes {
        for added in wish.adds.iter() {
            let refuse = |by: &str| {
                let message = format!("column `{}` is added by {by} already: give it another name", added.name);
                Err((wish.name.clone(), Problem { code: code::COLUMN_CONFLICT, message }))
            };
            let head = |path: &str| path.split('.').next() == Some(added.name.as_str());
            if contract.fields().iter().any(|field| head(&field.path)) {
                return refuse("the contract");
            }
            if let Some(other) = adder.insert(&added.name, &wish.name) {
                return refuse(&format!("`{other}`"));
            }
        }
    }
    Ok(adder)
}

fn resolve(contract: &Contract, wish: &Wish, added: &[Added]) -> Result<Vec<Column>, (Name, Problem)> {
    wish.fields
        .iter()
        .map(|field| {
            contract
                .resolve(field, added)
                .map_err(|message| (wish.name.clone(), Problem { code: code::FIELD_MISMATCH, message }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use phronis_core::plugin::FieldType;

    use super::*;

    const CONTRACT: &str = "
apiVersion: v3.1.0
kind: DataContract
id: sensors
name: sensors
version: 1.0.0
status: active
schema:
  - name: reading
    logicalType: object
    properties:
      - {name: value, logicalType: number, required: true}
";

    fn wish(name: &str, kind: Kind, reads: &[&str], adds: &[&str]) -> Wish {
        let field = |path: &&str| Field { path: (*path).into(), of_type: FieldType::Number, required: true };
        let added = |name: &&str| Added { name: (*name).into(), of_type: FieldType::Number };
        Wish {
            name: name.parse().unwrap(),
            kind,
            fields: reads.iter().map(field).collect(),
            adds: adds.iter().map(added).collect(),
        }
    }

    fn check(wishes: &[Wish], expect: Result<&str, &str>) {
        let contract = Contract::parse(CONTRACT, "test").unwrap();
        let seen = order(&contract, wishes).map(|order| {
            let names = |places: &[Place]| places.iter().map(|p| p.name.to_string()).collect::<Vec<_>>().join(" ");
            format!("{} | {}", names(&order.enrichers), names(&order.detectors))
        });
        match (seen, expect) {
            (Ok(seen), Ok(expect)) => assert_eq!(seen, expect),
            (Err((name, problem)), Err(expect)) => {
                let seen = format!("{name}: {}", problem.message);
                assert!(seen.starts_with(expect), "{seen}");
            }
            (seen, expect) => panic!("{seen:?} is not {expect:?}"),
        }
    }

    #[test]
    fn enrichers_run_in_the_order_of_the_columns_they_read() {
        use Kind::{Detector, Enricher};
        check(
            &[
                wish("z", Detector, &["c"], &[]),
                wish("a", Enricher, &["b"], &["c"]),
                wish("m", Enricher, &["value"], &["b"]),
                wish("b", Enricher, &["value"], &["d"]),
            ],
            Ok("b m a | z"),
        );
        check(
            &[wish("a", Enricher, &["y"], &["x"]), wish("b", Enricher, &["x"], &["y"])],
            Err("a: the enrichers a, b wait"),
        );
        check(&[wish("a", Enricher, &["x"], &["x"])], Err("a: the enrichers a wait"));
        check(
            &[wish("a", Enricher, &[], &["x"]), wish("b", Enricher, &[], &["x"])],
            Err("b: column `x` is added by `a`"),
        );
        check(&[wish("a", Enricher, &[], &["value"])], Err("a: column `value` is added by the contract"));
        check(&[wish("a", Detector, &["nope"], &[])], Err("a: "));
    }
}
