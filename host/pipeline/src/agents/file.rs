//! The halts of this host in a file of its own: they hold from the first moment of a start, whatever else is away.
//!
//! One line says what follows and its digest; each further line is a record. Written beside and renamed,
//! with the file and its folder synced: whoever reads it finds a whole one, old or new.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use phronis_core::agent::Record;

/// What the first line begins with; the number is that of the format.
const MARK: &str = "phronis-agents 1";

/// What a start found.
#[derive(Debug)]
pub(crate) enum Found {
    /// No file: the first start in this folder, or someone took it away.
    Nothing,
    /// All of it.
    Records(Vec<Record>),
    /// It is not what was written; it was put aside under this name, for a person to look at.
    Damaged { reason: String, aside: Option<PathBuf> },
}

/// Reads the file.
pub(crate) fn read(path: &Path) -> Found {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Nothing,
        Err(error) => return Found::Damaged { reason: error.to_string(), aside: None },
    };
    match parse(&bytes) {
        Ok(records) => Found::Records(records),
        Err(reason) => {
            let aside = path.with_extension("damaged");
            let aside = fs::rename(path, &aside).is_ok().then_some(aside);
            Found::Damaged { reason, aside }
        }
    }
}

/// Writes all halts; durable when it returns.
///
/// # Errors
/// When the folder cannot be written. What was there before is still there.
pub(crate) fn write<'a>(path: &Path, records: impl Iterator<Item = &'a Record>) -> io::Result<()> {
    let mut body = Vec::new();
    for record in records {
        serde_json::to_writer(&mut body, record)?;
        body.push(b'\n');
    }
    let draft = path.with_extension("draft");
    let mut file = BufWriter::new(File::create(&draft)?);
    writeln!(file, "{MARK} {} {}", body.len(), blake3::hash(&body))?;
    file.write_all(&body)?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    fs::rename(&draft, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

fn parse(bytes: &[u8]) -> Result<Vec<Record>, String> {
    let line = bytes.iter().position(|byte| *byte == b'\n').ok_or("it has no first line")?;
    let (head, body) = bytes.split_at(line);
    let body = body.get(1..).unwrap_or_default();
    let head = str::from_utf8(head).map_err(|_| "its first line is no text")?;
    let mut words = head.strip_prefix(MARK).ok_or("it begins like another file")?.split_whitespace();
    if words.next().and_then(|length| length.parse().ok()) != Some(body.len()) {
        return Err(format!("it has {} bytes after its first line, which names another number", body.len()));
    }
    if words.next() != Some(blake3::hash(body).to_hex().as_str()) {
        return Err("its digest is another".to_owned());
    }
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).map_err(|error| error.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use phronis_core::agent::{Scope, State};
    use phronis_core::time::Time;

    use super::*;

    fn record(agent: &str) -> Record {
        Record {
            tenant: "default".parse().unwrap(),
            scope: Scope::Agent(agent.to_owned()),
            state: State::Halted,
            version: 1,
            reason: "line\nbreak".into(),
            actor: "ann".into(),
            cause: None,
            cause_at: None,
            at: Time(1),
            expires_at: None,
            is_replicated: false,
        }
    }

    #[test]
    fn what_was_written_is_read_and_what_was_changed_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agents.halted");
        assert!(matches!(read(&path), Found::Nothing));
        let records = [record("a"), record("b")];
        write(&path, records.iter()).unwrap();
        let Found::Records(found) = read(&path) else { panic!("must be read") };
        assert_eq!(found, records);

        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        let last = flipped.len() - 10;
        flipped[last] ^= 1;
        for damaged in [&whole[..whole.len() - 1], &whole[..5], b"", b"other\n", &flipped] {
            fs::write(&path, damaged).unwrap();
            let Found::Damaged { aside: Some(aside), .. } = read(&path) else { panic!("must be refused") };
            assert_eq!(fs::read(aside).unwrap(), damaged);
            assert!(matches!(read(&path), Found::Nothing));
        }
        write(&path, [].iter()).unwrap();
        assert!(matches!(read(&path), Found::Records(found) if found.is_empty()));
    }
}
