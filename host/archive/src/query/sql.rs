//! Reads one statement of SQL, refuses what does more than read, and finds the tables that it names, with their versions.
//!
//! DataFusion knows no versions of tables. Here each table with a version gets a name of its own (`t@1`), its old name as
//! alias, and an entry in [`Parsed::reads`] that says what to register under that name.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, ObjectName, ObjectNamePart, Query, SetExpr, Spanned, Statement, TableAlias, TableFactor, TableVersion,
    Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use super::dialect::Archive;
use super::error::{Error, Place};
use super::shape::{self, Expansion};

/// Longest SQL, in bytes. Generated queries are long; planning one of this length takes about a second.
const LONGEST: usize = 64 << 10;

/// Most tables that a query names, each version of each counted.
const MOST_TABLES: usize = 32;

/// A statement that only reads.
#[derive(Debug)]
pub(super) struct Parsed {
    /// What to do.
    pub(super) task: Task,
    /// The tables that are named.
    pub(super) reads: Vec<Read>,
    /// Names that the query defines itself (`WITH name AS …`).
    pub(super) own: Vec<String>,
}

/// What a statement asks for.
#[derive(Debug)]
pub(super) enum Task {
    /// Rows, a plan, or a table's columns.
    Plan(Box<Statement>),
    /// The names of the tables.
    ShowTables,
}

/// A table that a statement reads.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Read {
    /// What it is called in the statement that is planned.
    pub(super) called: String,
    /// The table.
    pub(super) table: String,
    /// Its namespace, where it stands there.
    pub(super) namespace: Option<String>,
    /// Which version; the newest unless said.
    pub(super) version: Option<Version>,
    /// Where it is named.
    pub(super) at: Option<Place>,
}

/// A version of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// As it was at a time, in milliseconds since 1970 in UTC.
    AsOf(i64),
    /// A snapshot.
    Snapshot(i64),
}

/// Reads the text.
pub(super) fn parse(sql: &str) -> Result<Parsed, Error> {
    if sql.len() > LONGEST {
        return Err(Error::Syntax { message: format!("the SQL is longer than {LONGEST} bytes"), at: None });
    }
    let mut tokens = Tokenizer::new(&Archive, sql)
        .tokenize_with_location()
        .map_err(|error| syntax(&format!("{}{}", error.message, error.location), sql))?;
    let verb = begins_to_read(&tokens, sql)?;
    is_one_statement(&tokens, sql)?;
    if let Some((token, message)) = shape::too_deep(meant(&tokens)) {
        return Err(Error::Syntax { message, at: place(token, sql) });
    }
    drop_for(&mut tokens);
    let mut parser = Parser::new(&Archive).with_tokens_with_locations(tokens);
    let mut statements = parser.parse_statements().map_err(|error| syntax(&error.to_string(), sql))?;
    let (Some(mut statement), true) = (statements.pop(), statements.is_empty()) else {
        return Err(Error::Refused { what: "several statements in one query".to_owned(), at: None });
    };
    let mut walk = Walk { sql, reads: Vec::new(), own: Vec::new(), expansion: Expansion::default() };
    let task = match &mut statement {
        Statement::ShowTables { .. } => Task::ShowTables,
        Statement::ExplainTable { table_name, .. } => {
            walk.read(table_name, None)?;
            Task::Plan(Box::new(statement))
        }
        Statement::Query(_) => walk.over(statement)?,
        Statement::Explain { statement: inner, .. } if matches!(**inner, Statement::Query(_)) => {
            walk.over(statement)?
        }
        _ => return Err(refused(verb, None)),
    };
    Ok(Parsed { task, reads: walk.reads, own: walk.own })
}

/// What the parser says, with the place that it puts at the end of its message.
pub(super) fn syntax(message: &str, sql: &str) -> Error {
    let message = message.trim_start_matches("SQL error: ").trim_start_matches("sql parser error: ");
    let (said, at) = match message.rsplit_once(" at Line: ") {
        Some((said, place)) => {
            let numbers = place.split_once(", Column: ");
            let numbers = numbers.and_then(|(line, column)| Some((line.parse().ok()?, column.trim().parse().ok()?)));
            (said, numbers.and_then(|(line, column)| Place::of(sql, line, column)))
        }
        None => (message, None),
    };
    let at = at.or_else(|| if said.contains("found: EOF") { end_of(sql) } else { None });
    let said = said.trim_start_matches("Expected: ");
    let message = match said.split_once(", found: ") {
        Some((wanted, found)) => format!("expected {wanted}, found {}", found.replace("EOF", "the end")),
        None => said.to_owned(),
    };
    Error::Syntax { message, at }
}

fn end_of(sql: &str) -> Option<Place> {
    let lines = sql.trim_end().lines().count().max(1);
    let column = sql.trim_end().lines().last().map_or(0, |line| line.chars().count()) + 1;
    Place::of(sql, u64::try_from(lines).ok()?, u64::try_from(column).ok()?)
}

fn refused(what: impl std::fmt::Display, at: Option<Place>) -> Error {
    Error::Refused { what: format!("{what} is not a query"), at }
}

fn meant(tokens: &[TokenWithSpan]) -> impl Iterator<Item = &TokenWithSpan> {
    tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF))
}

/// The verb. Says clearly that a statement which begins with another one does not read, even where the dialect cannot read it.
fn begins_to_read(tokens: &[TokenWithSpan], sql: &str) -> Result<String, Error> {
    let Some(first) = meant(tokens).next() else {
        return Err(Error::Syntax { message: "the SQL is empty".to_owned(), at: None });
    };
    match &first.token {
        Token::Word(word) => {
            let verb = word.value.to_uppercase();
            match word.keyword {
                Keyword::SELECT | Keyword::WITH | Keyword::VALUES | Keyword::FROM | Keyword::TABLE => Ok(verb),
                Keyword::EXPLAIN | Keyword::DESCRIBE | Keyword::DESC | Keyword::SHOW | Keyword::NoKeyword => Ok(verb),
                _ => Err(refused(verb, place(first, sql))),
            }
        }
        _ => Ok("this".to_owned()),
    }
}

fn is_one_statement(tokens: &[TokenWithSpan], sql: &str) -> Result<(), Error> {
    let after = meant(tokens).skip_while(|token| token.token != Token::SemiColon).find(|t| t.token != Token::SemiColon);
    match after {
        None => Ok(()),
        Some(second) => {
            Err(Error::Refused { what: "several statements in one query".to_owned(), at: place(second, sql) })
        }
    }
}

fn place(token: &TokenWithSpan, sql: &str) -> Option<Place> {
    Place::of(sql, token.span.start.line, token.span.start.column)
}

/// The parser reads `t TIMESTAMP AS OF …`; Iceberg's other engines write `t FOR TIMESTAMP AS OF …`.
fn drop_for(tokens: &mut Vec<TokenWithSpan>) {
    let word = |token: &TokenWithSpan| match &token.token {
        Token::Word(word) => word.keyword,
        _ => Keyword::NoKeyword,
    };
    let places: Vec<usize> = (0..tokens.len())
        .filter(|at| !matches!(tokens.get(*at).map(|t| &t.token), Some(Token::Whitespace(_))))
        .collect();
    let words: Vec<Keyword> = places.iter().filter_map(|at| tokens.get(*at)).map(word).collect();
    let begins = words.windows(4).zip(&places).filter_map(|(four, at)| match four {
        [Keyword::FOR, Keyword::TIMESTAMP | Keyword::VERSION, Keyword::AS, Keyword::OF] => Some(*at),
        _ => None,
    });
    let dropped: Vec<usize> = begins.collect();
    let mut at = 0..;
    tokens.retain(|_| at.next().is_none_or(|at| dropped.binary_search(&at).is_err()));
}

/// Finds the tables.
struct Walk<'a> {
    sql: &'a str,
    reads: Vec<Read>,
    own: Vec<String>,
    expansion: Expansion,
}

impl Walk<'_> {
    fn over(&mut self, mut statement: Statement) -> Result<Task, Error> {
        match statement.visit(self) {
            ControlFlow::Break(error) => Err(error),
            ControlFlow::Continue(()) => Ok(Task::Plan(Box::new(statement))),
        }
    }

    /// Notes a table; returns what it is called from now on, where that is another name.
    fn read(&mut self, name: &ObjectName, version: Option<&TableVersion>) -> Result<Option<(String, String)>, Error> {
        let span = name.span();
        let at = Place::of(self.sql, span.start.line, span.start.column);
        let parts: Option<Vec<String>> = name.0.iter().map(|part| part.as_ident().map(normal)).collect();
        let (namespace, table) = match parts.as_deref() {
            Some([table]) => (None, table.clone()),
            Some([namespace, table]) => (Some(namespace.clone()), table.clone()),
            _ => return Err(Error::UnknownTable { table: name.to_string(), near: None, at }),
        };
        let version = version.map(|version| wanted(version, at.clone())).transpose()?;
        let same = |read: &&Read| read.table == table && read.namespace == namespace && read.version == version;
        if let Some(read) = self.reads.iter().find(same) {
            return Ok(version.map(|_| (read.called.clone(), table)));
        }
        if self.reads.len() >= MOST_TABLES {
            return Err(Error::Invalid { message: format!("more than {MOST_TABLES} tables in one query"), at });
        }
        let called = match version {
            Some(_) => format!("{table}@{}", self.reads.len() + 1),
            None => table.clone(),
        };
        let read = Read { called: called.clone(), table: table.clone(), namespace, version, at };
        self.reads.push(read);
        Ok(version.map(|_| (called, table)))
    }

    fn factor(&mut self, factor: &mut TableFactor) -> Result<(), Error> {
        match factor {
            TableFactor::Table { name, args: Some(_), .. } => {
                let at = Place::of(self.sql, name.span().start.line, name.span().start.column);
                Err(Error::Refused { what: format!("`{name}(…)` in FROM: there are no table functions"), at })
            }
            TableFactor::Table { name, alias, version, .. } => {
                self.expand(name, version.is_some())?;
                let renamed = self.read(name, version.as_ref())?;
                *version = None;
                if let Some((called, table)) = renamed {
                    *name = ObjectName(vec![ObjectNamePart::Identifier(Ident::with_quote('"', called))]);
                    alias.get_or_insert_with(|| TableAlias {
                        explicit: true,
                        name: Ident::with_quote('"', table),
                        columns: Vec::new(),
                    });
                }
                Ok(())
            }
            TableFactor::Derived { .. } | TableFactor::NestedJoin { .. } | TableFactor::UNNEST { .. } => Ok(()),
            _ => Err(Error::Refused { what: "only tables and subqueries stand in FROM".to_owned(), at: None }),
        }
    }

    /// Counts a table, or what stands for it where the query defines the name.
    fn expand(&mut self, name: &ObjectName, has_version: bool) -> Result<(), Error> {
        // The planner looks for `a.b` among the names that the query defines too: one in quotes may have a dot.
        let parts: Option<Vec<String>> = name.0.iter().map(|part| part.as_ident().map(normal)).collect();
        let own = parts.filter(|_| !has_version).map(|parts| parts.join("."));
        self.expansion.reads(own.as_deref()).map_err(|message| {
            let span = name.span();
            Error::Invalid { message, at: Place::of(self.sql, span.start.line, span.start.column) }
        })
    }
}

impl VisitorMut for Walk<'_> {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        let own: Vec<_> =
            query.with.iter().flat_map(|with| &with.cte_tables).map(|cte| normal(&cte.alias.name)).collect();
        self.expansion.begins(query, own.iter().cloned());
        self.own.extend(own);
        match may_be_planned(&query.body, self.sql) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        self.expansion.ends(query);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        match self.factor(factor) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

/// That a body only reads, and is not larger than a planner bears.
fn may_be_planned(body: &SetExpr, sql: &str) -> Result<(), Error> {
    match body {
        SetExpr::Insert(_) => Err(refused("INSERT", None)),
        SetExpr::Update(_) => Err(refused("UPDATE", None)),
        SetExpr::Delete(_) => Err(refused("DELETE", None)),
        SetExpr::Merge(_) => Err(refused("MERGE", None)),
        SetExpr::Select(select) if select.into.is_some() => Err(refused("SELECT INTO", None)),
        SetExpr::Select(select) => match shape::too_many_groupings(&select.group_by) {
            Some(message) => {
                let span = select.group_by.span();
                Err(Error::Invalid { message, at: Place::of(sql, span.start.line, span.start.column) })
            }
            None => Ok(()),
        },
        SetExpr::SetOperation { left, right, .. } => {
            may_be_planned(left, sql).and_then(|()| may_be_planned(right, sql))
        }
        _ => Ok(()),
    }
}

/// A name as the engine takes it: as written in quotes, else in small letters.
fn normal(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

fn wanted(version: &TableVersion, at: Option<Place>) -> Result<Version, Error> {
    // What stands there may be large: only what is as short as it should be is repeated.
    let said = |expr: &Expr| literal(expr).map_or_else(|| "what stands there".to_owned(), |text| format!("`{text}`"));
    match version {
        TableVersion::TimestampAsOf(expr) | TableVersion::ForSystemTimeAsOf(expr) => {
            let text =
                literal(expr).filter(|_| !matches!(expr, Expr::Value(v) if matches!(v.value, Value::Number(..))));
            let time = text.as_deref().and_then(|text| time_ms(text).ok());
            time.map(Version::AsOf).ok_or_else(|| Error::Invalid {
                message: format!("{} is no time: write it like '2026-11-22T10:00:00Z'", said(expr)),
                at,
            })
        }
        TableVersion::VersionAsOf(expr) => {
            let id = literal(expr).and_then(|text| text.parse().ok());
            let message = || {
                format!(
                    "{} is no id of a snapshot: write the number as `phronis archive snapshots` shows it",
                    said(expr)
                )
            };
            id.map(Version::Snapshot).ok_or_else(|| Error::Invalid { message: message(), at })
        }
        TableVersion::Function(_) => {
            let message = "write FOR TIMESTAMP AS OF or FOR VERSION AS OF after the table".to_owned();
            Err(Error::Invalid { message, at })
        }
    }
}

fn literal(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::Number(text, _) => Some(text.clone()),
            _ => None,
        },
        Expr::TypedString(typed) => literal(&Expr::Value(typed.value.clone())),
        _ => None,
    }
}

/// A time as people write it, in milliseconds since 1970; without a zone it is in UTC.
///
/// # Errors
/// The text is no time.
pub fn time_ms(text: &str) -> Result<i64, InvalidTime> {
    let nanos = arrow_cast::parse::string_to_timestamp_nanos(text.trim()).map_err(|_| InvalidTime)?;
    Ok(nanos.div_euclid(1_000_000))
}

/// A text that is no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a time: write it like 2026-11-22T10:00:00Z, or 2026-11-22 for midnight in UTC")]
pub struct InvalidTime;

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(sql: &str) -> Vec<(String, Option<Version>)> {
        parse(sql).unwrap().reads.into_iter().map(|read| (read.table, read.version)).collect()
    }

    fn planned(sql: &str) -> String {
        match parse(sql).unwrap().task {
            Task::Plan(statement) => statement.to_string(),
            Task::ShowTables => "SHOW TABLES".to_owned(),
        }
    }

    #[test]
    fn versions_of_tables_are_found_however_they_are_written() {
        let noon = Some(Version::AsOf(1_795_341_600_000));
        for (sql, expected) in [
            ("SELECT * FROM a", None),
            ("SELECT * FROM a FOR TIMESTAMP AS OF '2026-11-22T10:00:00Z'", noon),
            ("SELECT * FROM a for timestamp as of '2026-11-22T11:00:00+01:00' x WHERE x.b > 1", noon),
            ("SELECT * FROM a TIMESTAMP AS OF TIMESTAMP '2026-11-22 10:00:00'", noon),
            ("SELECT * FROM a FOR SYSTEM_TIME AS OF '2026-11-22 10:00:00'", noon),
            ("SELECT * FROM a FOR VERSION AS OF 42", Some(Version::Snapshot(42))),
            ("SELECT * FROM a VERSION AS OF 42 AS x", Some(Version::Snapshot(42))),
        ] {
            assert_eq!(reads(sql), [("a".to_owned(), expected)], "{sql}");
        }
    }

    #[test]
    fn two_versions_of_a_table_are_two_tables_with_its_name() {
        let sql = "SELECT n.v, o.v FROM a n JOIN phronis.a FOR VERSION AS OF 7 o ON n.k = o.k";
        assert_eq!(planned(sql), "SELECT n.v, o.v FROM a n JOIN \"a@2\" o ON n.k = o.k");
        assert_eq!(planned("SELECT a.v FROM a FOR VERSION AS OF 7"), "SELECT a.v FROM \"a@1\" AS \"a\"");
    }

    #[test]
    fn tables_in_every_corner_are_found() {
        let sql = "WITH w AS (SELECT * FROM a) SELECT (SELECT max(v) FROM b) FROM w, c \
                   WHERE k IN (SELECT k FROM \"d-d_s_events\") AND EXISTS (SELECT 1 FROM E) UNION ALL SELECT 1 FROM f";
        let parsed = parse(sql).unwrap();
        let mut names: Vec<_> = parsed.reads.iter().map(|read| read.table.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "b", "c", "d-d_s_events", "e", "f", "w"]);
        assert_eq!(parsed.own, ["w"]);
    }

    #[test]
    fn whatever_writes_is_refused_and_named() {
        for (sql, named) in [
            ("INSERT INTO a VALUES (1)", "INSERT"),
            ("insert into a select * from b", "INSERT"),
            ("UPDATE a SET b = 1", "UPDATE"),
            ("DELETE FROM a", "DELETE"),
            ("DROP TABLE a", "DROP"),
            ("TRUNCATE a", "TRUNCATE"),
            ("CREATE TABLE a AS SELECT 1", "CREATE"),
            ("CREATE EXTERNAL TABLE a STORED AS PARQUET LOCATION '/etc'", "CREATE"),
            ("COPY a TO '/tmp/x.csv'", "COPY"),
            ("COPY (SELECT 1) TO '/tmp/x'", "COPY"),
            ("SET datafusion.execution.batch_size = 1", "SET"),
            ("ALTER TABLE a ADD b INT", "ALTER"),
            ("MERGE INTO a USING b ON 1=1 WHEN MATCHED THEN DELETE", "MERGE"),
            ("BEGIN", "BEGIN"),
            ("PREPARE p AS SELECT 1", "PREPARE"),
            ("EXECUTE p", "EXECUTE"),
            ("EXPLAIN DELETE FROM a", "EXPLAIN"),
            ("WITH w AS (SELECT 1) INSERT INTO a SELECT * FROM w", "INSERT"),
            ("SELECT * INTO b FROM a", "SELECT INTO"),
            ("/* x */ -- y\n VACUUM a", "VACUUM"),
        ] {
            match parse(sql) {
                Err(Error::Refused { what, .. }) => assert!(what.starts_with(named), "{sql}: {what}"),
                other => panic!("{sql}: {other:?}"),
            }
        }
    }

    #[test]
    fn several_statements_are_refused_at_the_second() {
        let Err(Error::Refused { at: Some(at), .. }) = parse("SELECT 1;\nDROP TABLE a") else { panic!() };
        assert_eq!((at.line, at.column), (2, 1));
        assert!(parse("SELECT ';' ; ;").is_ok());
    }

    #[test]
    fn functions_that_make_tables_are_refused() {
        for sql in [
            "SELECT * FROM read_parquet('/etc/passwd')",
            "SELECT * FROM a, generate_series(1, 1000000000)",
            "SELECT * FROM LATERAL f(1)",
            "SELECT * FROM TABLE(f(1))",
        ] {
            assert!(matches!(parse(sql), Err(Error::Refused { .. })), "{sql}: {:?}", parse(sql));
        }
    }

    #[test]
    fn a_wrong_word_is_shown_at_its_place() {
        for (sql, line, column, message) in [
            ("SELECT a,\nFROM b GROUP a", 2, 8, "expected end of statement, found GROUP"),
            ("SELECT * FROM a WHERE (b > 1", 1, 29, "expected ), found the end"),
            ("SELECT 'a", 1, 8, "Unterminated string literal"),
            ("SELEC * FROM a", 1, 1, "expected"),
        ] {
            let Err(Error::Syntax { message: said, at: Some(at) }) = parse(sql) else {
                panic!("{sql}: {:?}", parse(sql));
            };
            assert_eq!((at.line, at.column), (line, column), "{sql}: {said}");
            assert!(said.starts_with(message), "{sql}: {said}");
        }
        assert!(matches!(parse("  "), Err(Error::Syntax { .. })));
        assert!(matches!(parse(&format!("SELECT {}1", "(".repeat(9000))), Err(Error::Syntax { .. })));
    }

    #[test]
    fn a_version_is_a_time_or_a_number() {
        for sql in ["SELECT * FROM a FOR TIMESTAMP AS OF 'noon'", "SELECT * FROM a FOR TIMESTAMP AS OF 12"] {
            assert!(matches!(parse(sql), Err(Error::Invalid { at: Some(_), .. })), "{sql}");
        }
        assert_eq!(time_ms("1970-01-02"), Ok(86_400_000));
        assert_eq!(time_ms("1969-12-31T23:59:59.9995Z"), Ok(-1));
        assert!(time_ms("soon").is_err());
    }
}
