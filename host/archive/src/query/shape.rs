//! How deep and how large a statement may be, looked at before anything is made of it.
//!
//! A chain of operators is a tree as deep as it is long. Whoever walks, prints, copies or drops such a tree does so by calls within calls,
//! and a stack that overflows ends the process. And a name that a query defines itself is written out wherever it stands: forty
//! names of which each stands twice in the next are more tables than any planner bears.

use std::collections::HashMap;

use datafusion::sql::sqlparser::ast::{Expr, GroupByExpr, Query};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

/// Most operators and words of SQL within one another, as far as their number tells. A kibibyte of stack each is bearable
/// on every thread.
const DEEPEST: usize = 1000;

/// Most `UNION`, `EXCEPT` and `INTERSECT`: one nests in the next, whatever commas stand between.
const MOST_SETS: usize = 256;

/// Most tables, with names that the query defines itself written out.
const MOST_TABLES: u64 = 500;

/// Most ways to group the rows of one `SELECT`: the planner makes a list of all columns for each of them.
const MOST_GROUPINGS: usize = 256;

/// Too many ways to group, in words.
pub(super) fn too_many_groupings(by: &GroupByExpr) -> Option<String> {
    let GroupByExpr::Expressions(exprs, _) = by else { return None };
    let ways = |expr: &Expr| match expr {
        Expr::Cube(columns) => u32::try_from(columns.len()).ok().and_then(|columns| 2_usize.checked_pow(columns)),
        Expr::Rollup(columns) => Some(columns.len() + 1),
        Expr::GroupingSets(sets) => Some(sets.len().max(1)),
        _ => Some(1),
    };
    let all = exprs.iter().map(ways).try_fold(1_usize, |all, ways| all.checked_mul(ways?));
    all.is_none_or(|all| all > MOST_GROUPINGS).then(|| {
        format!("more than {MOST_GROUPINGS} ways to group the rows: CUBE doubles them with each column, name those that you need in GROUPING SETS")
    })
}

/// The first token that is too deep, and what to say of it.
///
/// What stands between two commas or within brackets nests at most as deep as it has operators and words of SQL.
pub(super) fn too_deep<'a>(tokens: impl Iterator<Item = &'a TokenWithSpan>) -> Option<(&'a TokenWithSpan, String)> {
    let (mut outer, mut here, mut sum, mut sets) = (Vec::new(), 0, 0, 0);
    for token in tokens {
        match &token.token {
            Token::Number(..) | Token::SingleQuotedString(_) => continue,
            Token::Word(word) if word.keyword == Keyword::NoKeyword => continue,
            Token::Comma => {
                sum -= here;
                here = 0;
                continue;
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                sum -= here;
                here = outer.pop().unwrap_or_default();
                continue;
            }
            Token::Word(word) => {
                let is_set = matches!(word.keyword, Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT);
                sets += usize::from(is_set);
            }
            _ => {}
        }
        (here, sum) = (here + 1, sum + 1);
        if matches!(token.token, Token::LParen | Token::LBracket | Token::LBrace) {
            outer.push(std::mem::take(&mut here));
        }
        if sum > DEEPEST {
            let message = format!(
                "more than {DEEPEST} operators in one expression: write many values as a list, `x IN (1, 2, …)`"
            );
            return Some((token, message));
        }
        if sets > MOST_SETS {
            return Some((token, format!("more than {MOST_SETS} times UNION, EXCEPT or INTERSECT in one query")));
        }
    }
    None
}

/// Counts the tables that a statement reads once all names of its own are written out, while it is walked.
#[derive(Debug, Default)]
pub(super) struct Expansion {
    /// Queries that define a name and are still to be walked, by where they are in memory.
    defining: HashMap<usize, String>,
    /// How many tables stand for a name.
    known: HashMap<String, u64>,
    /// Tables of the queries that are being walked, the innermost last.
    open: Vec<u64>,
    total: u64,
}

impl Expansion {
    /// A query begins; `names` are those that it defines, in their order.
    pub(super) fn begins(&mut self, query: &Query, names: impl Iterator<Item = String>) {
        let queries = query.with.iter().flat_map(|with| &with.cte_tables);
        self.defining.extend(queries.map(|cte| place(&cte.query)).zip(names));
        self.open.push(0);
    }

    /// A query ends.
    pub(super) fn ends(&mut self, query: &Query) {
        let tables = self.open.pop().unwrap_or_default();
        match self.defining.remove(&place(query)) {
            Some(name) => {
                // A name that is defined twice counts as the larger one.
                let known = self.known.entry(name).or_default();
                *known = tables.max(*known);
            }
            None => self.add(tables),
        }
    }

    /// A table, or a name that stands for some. Whether there are too many then, in words.
    pub(super) fn reads(&mut self, name: Option<&str>) -> Result<(), String> {
        let tables = name.and_then(|name| self.known.get(name)).copied().unwrap_or(1).max(1);
        self.total = self.total.saturating_add(tables);
        if self.total > MOST_TABLES {
            return Err(format!(
                "more than {MOST_TABLES} tables, when what WITH defines is written out wherever it stands: \
                 name each step fewer times"
            ));
        }
        self.add(tables);
        Ok(())
    }

    fn add(&mut self, tables: u64) {
        if let Some(open) = self.open.last_mut() {
            *open = open.saturating_add(tables);
        }
    }
}

fn place(query: &Query) -> usize {
    std::ptr::from_ref(query).addr()
}

#[cfg(test)]
mod tests {
    use crate::query::error::Error;
    use crate::query::sql::parse;

    #[test]
    fn too_many_ways_to_group_are_refused() {
        let columns = |count: usize| (0..count).map(|n| format!("c{n}")).collect::<Vec<_>>().join(", ");
        let by = |groups: &str| parse(&format!("SELECT count(*) FROM t GROUP BY {groups}"));
        for fine in [columns(20), format!("CUBE ({})", columns(8)), format!("ROLLUP ({}), c30", columns(40))] {
            assert!(by(&fine).is_ok(), "{fine}");
        }
        for many in [
            format!("CUBE ({})", columns(9)),
            format!("CUBE ({})", columns(200)),
            format!("CUBE ({}), CUBE (x, y), ROLLUP (z)", columns(6)),
            format!("GROUPING SETS ({})", vec!["(a)"; 300].join(", ")),
        ] {
            let error = by(&many).unwrap_err();
            assert!(
                matches!(&error, Error::Invalid { message, at: Some(_) } if message.contains("ways to group")),
                "{error:?}"
            );
        }
    }

    #[test]
    fn what_is_nested_too_deep_is_refused_before_it_is_read() {
        let sum = |terms: usize| vec!["1"; terms].join("+");
        let unions = |count: usize| vec!["SELECT a, b FROM t"; count].join(" UNION ALL ");
        for sql in [
            format!("SELECT * FROM a FOR TIMESTAMP AS OF {}", sum(30_000)),
            format!("SELECT {}", sum(30_000)),
            format!("SELECT 1 WHERE {}", vec!["a = 1"; 600].join(" OR ")),
            format!("SELECT x{}", "::int".repeat(2000)),
            format!("SELECT x{}", " IS NULL".repeat(2000)),
            format!("SELECT f(1, {}, 2)", sum(2000)),
            unions(300),
        ] {
            let Err(Error::Syntax { message, at: Some(_) }) = parse(&sql) else { panic!("{}", &sql[..60]) };
            assert!(message.starts_with("more than "), "{message}");
        }
        let many: Vec<String> = (0..5000).map(|value| value.to_string()).collect();
        for sql in [
            format!("SELECT {} FROM a", sum(900)),
            format!("SELECT * FROM a WHERE b IN ({})", many.join(", ")),
            format!("SELECT {} FROM a", vec!["b + 1 AS c"; 3000].join(", ")),
            unions(200),
        ] {
            assert!(parse(&sql).is_ok(), "{}: {:?}", &sql[..60], parse(&sql));
        }
        // What is said of a wrong version does not repeat all of it.
        let Err(Error::Invalid { message, .. }) = parse(&format!("SELECT * FROM a FOR TIMESTAMP AS OF {}", sum(900)))
        else {
            panic!("a sum is no time")
        };
        assert!(message.len() < 200, "{message}");
    }

    #[test]
    fn names_that_are_written_out_wherever_they_stand_are_counted() {
        let chain = |steps: usize, from: &dyn Fn(usize) -> String| {
            let step = |n: usize| format!("w{n} AS (SELECT v FROM {})", from(n));
            let with: Vec<String> = (1..=steps).map(step).collect();
            format!("WITH w0 AS (SELECT v FROM t), {} SELECT v FROM w{steps}", with.join(", "))
        };
        let twice = |n: usize| format!("w{}, w{} x", n - 1, n - 1);
        let in_a_condition = |n: usize| format!("w{} WHERE v IN (SELECT v FROM w{})", n - 1, n - 1);
        let hidden = |n: usize| format!("(WITH w{} AS (SELECT 1 AS v) SELECT 1 AS v) y, {}", n - 1, twice(n));
        let mut dotted = chain(40, &twice).replace('w', "a.w");
        for n in 0..=40 {
            dotted = dotted.replace(&format!("a.w{n} AS ("), &format!("\"a.w{n}\" AS ("));
        }
        for sql in [chain(40, &twice), chain(40, &in_a_condition), chain(40, &hidden), dotted] {
            let Err(Error::Invalid { message, at: Some(_) }) = parse(&sql) else { panic!("{sql}") };
            assert!(message.contains("500 tables"), "{message}");
        }
        let once = |n: usize| format!("w{}", n - 1);
        assert!(parse(&chain(25, &once)).is_ok());
        assert!(parse(&chain(5, &twice)).is_ok());
    }
}
