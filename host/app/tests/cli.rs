//! The program as people meet it: help texts and messages against golden files, exit codes, what goes where.
//!
//! `UPDATE_GOLDEN=1 cargo test` writes the golden files anew.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in what its cases share")]

use std::path::Path;
use std::process::{Command, Output};

fn phronis(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phronis"));
    command.args(arguments).current_dir(folder).env_clear().env("COLUMNS", "100").env("NO_COLOR", "1");
    command.output().unwrap()
}

/// Compares with `tests/golden/<name>.txt`.
fn check(name: &str, text: &[u8]) {
    let path =
        Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("tests/golden").join(format!("{name}.txt"));
    let text = String::from_utf8(text.to_vec()).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, golden, "{} differs: look, then UPDATE_GOLDEN=1", path.display());
}

#[test]
fn help_is_the_manual() {
    let folder = tempfile::tempdir().unwrap();
    for (name, arguments) in [
        ("help", &["--help"][..]),
        ("help-run", &["run", "--help"]),
        ("help-load", &["load", "--help"]),
        ("help-simulate", &["simulate", "--help"]),
        ("help-tail", &["tail", "--help"]),
        ("help-streams", &["streams", "--help"]),
        ("help-topics", &["topics", "--help"]),
        ("help-topics-create", &["topics", "create", "--help"]),
        ("help-plugin", &["plugin", "--help"]),
        ("help-plugin-params", &["plugin", "params", "--help"]),
        ("help-agents", &["agents", "--help"]),
        ("help-agents-halt", &["agents", "halt", "--help"]),
        ("help-audit", &["audit", "--help"]),
        ("help-breaker", &["breaker", "--help"]),
        ("help-breaker-open", &["breaker", "open", "--help"]),
        ("help-letters", &["letters", "--help"]),
        ("help-letters-list", &["letters", "list", "--help"]),
        ("help-letters-redrive", &["letters", "redrive", "--help"]),
        ("help-archive", &["archive", "--help"]),
        ("help-archive-query", &["archive", "query", "--help"]),
        ("help-archive-maintain", &["archive", "maintain", "--help"]),
        ("help-replay", &["replay", "--help"]),
        ("help-config", &["config", "--help"]),
    ] {
        let output = phronis(folder.path(), arguments);
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{name}");
        check(name, &output.stdout);
    }
}

#[test]
fn a_broken_configuration_tells_everything_and_exits_with_3() {
    let folder = tempfile::tempdir().unwrap();
    let text =
        "[http]\nlisten = 8000\n\n[streams.sensors]\npartitons = 8\n\n[streams.orders]\ncontract = \"orders.yaml\"\n";
    std::fs::write(folder.path().join("phronis.toml"), text).unwrap();
    let output = phronis(folder.path(), &["check", "-c", "phronis.toml"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), &b""[..]));
    check("config-errors", &output.stderr);
}

#[test]
fn check_sums_up_and_refuses_folders_of_no_stream() {
    let folder = tempfile::tempdir().unwrap();
    let output = phronis(folder.path(), &["check"]);
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    check("check-ok", &output.stdout);
    std::fs::create_dir_all(folder.path().join("phronis-data/plugins/default/sensor")).unwrap();
    let output = phronis(folder.path(), &["check"]);
    assert_eq!(output.status.code(), Some(3));
    check("check-unknown-folder", &output.stderr);
}

#[test]
fn exit_codes_say_what_kind_of_failure_it_was() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, code) in [
        (&["config", "example"][..], 0),
        (&["explain", "PH1003"], 0),
        (&["explain", "PH9999"], 2),
        (&["lod"], 2),
        (&["run", "--role", "archive"], 2),
        (&["run", "--role", "serve"], 2),
        (&["run", "-c", "nowhere.toml"], 3),
        // Nothing is made by looking.
        (&["topics", "describe"], 1),
        // The discard port of this machine: nobody answers HTTP there.
        (&["streams", "--endpoint", "http://127.0.0.1:9"], 4),
    ] {
        let output = phronis(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert_eq!(output.stderr.is_empty(), code == 0, "{arguments:?}");
        assert_eq!(output.stdout.is_empty(), code != 0, "{arguments:?}");
    }
}

/// The broker is the discard port of this machine: nobody answers there.
#[test]
fn without_kafka_commands_end_soon_and_say_what_could_not_be_reached() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[log]\nkind = \"kafka\"\nbootstrap = \"127.0.0.1:9\"\n";
    std::fs::write(folder.path().join("kafka.toml"), text).unwrap();
    let commands = [
        &["topics", "create"][..],
        &["topics", "check"],
        &["topics", "describe"],
        &["check", "--online"],
        &["streams"],
        &["tail", "alerts"],
    ];
    // All at once: each waits some seconds for an answer that does not come.
    std::thread::scope(|scope| {
        for arguments in commands {
            let folder = folder.path();
            scope.spawn(move || {
                let output = phronis(folder, &[arguments, &["-c", "kafka.toml"]].concat());
                let told = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.code(), Some(4), "{arguments:?}: {told}");
                assert!(told.starts_with("error[PH3005]: "), "{arguments:?}: {told}");
            });
        }
    });
}

#[test]
fn the_embedded_log_has_topics_too() {
    let folder = tempfile::tempdir().unwrap();
    let output = phronis(folder.path(), &["topics", "create"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    check("topics-create", &output.stdout);
    let output = phronis(folder.path(), &["topics", "check"]);
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    let fewer = "[streams.sensors]\npartitions = 2\nretention = { age = \"1d\" }\n";
    std::fs::write(folder.path().join("fewer.toml"), fewer).unwrap();
    let output = phronis(folder.path(), &["topics", "check", "-c", "fewer.toml"]);
    assert_eq!(output.status.code(), Some(1));
    check("topics-check-differs", &output.stdout);
}
