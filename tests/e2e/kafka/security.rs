//! Brokers that want TLS and a password.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use phronis_tests::fleet::{self, Fleet, Load};
use phronis_tests::host::Room;
use phronis_tests::kafka::{Broker, Options};

/// Settings of a broker whose clients speak TLS and say who they are.
fn guarded(keys: &Path) -> Vec<(String, String)> {
    let login = "org.apache.kafka.common.security.plain.PlainLoginModule required user_phronis=\"right\";";
    let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    [
        ("listener.security.protocol.map", "CLIENTS:SASL_SSL,INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT"),
        ("listener.name.clients.sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-512"),
        ("listener.name.clients.plain.sasl.jaas.config", login),
        ("listener.name.clients.scram-sha-512.sasl.jaas.config", scram),
        ("ssl.keystore.type", "PEM"),
        ("ssl.keystore.location", &keys.join("broker.pem").to_string_lossy()),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .to_vec()
}

/// A certificate that signs itself, and its key, as Kafka and librdkafka read them.
fn make_keys(folder: &Path) -> anyhow::Result<()> {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args(["-keyout", "broker.key", "-out", "broker.crt"])
        .current_dir(folder)
        .output()?;
    anyhow::ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).with_context(|| name.to_owned());
    Ok(std::fs::write(folder.join("broker.pem"), read("broker.crt")? + &read("broker.key")?)?)
}

#[test]
fn tls_and_a_password_open_the_door_and_a_wrong_one_is_told() -> anyhow::Result<()> {
    let keys = tempfile::tempdir()?;
    make_keys(keys.path())?;
    let broker = Broker::with(Options { settings: guarded(keys.path()), ..Options::default() })?;
    let room = Room::with(&format!(
        "[log]\nkind = \"kafka\"\nbootstrap = \"{}\"\nauto_create = true\npassword_file = \"{}\"\n[log.properties]\n\
         \"security.protocol\" = \"SASL_SSL\"\n\"sasl.mechanism\" = \"PLAIN\"\n\"sasl.username\" = \"phronis\"\n\
         \"ssl.ca.location\" = \"{}\"\n",
        broker.bootstrap(),
        keys.path().join("password").display(),
        keys.path().join("broker.crt").display(),
    ))?;
    let create = |password: &str| -> anyhow::Result<(bool, String)> {
        std::fs::write(keys.path().join("password"), password)?;
        let output = room.command(&["topics", "create"])?.output()?;
        Ok((output.status.success(), String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?))
    };
    let (is_good, said) = create("wrong")?;
    assert!(!is_good && said.contains("refuses the credentials") && !said.contains("wrong"), "{said}");
    let (is_good, said) = create("right")?;
    assert!(is_good && said.contains("phronis.raw.events"), "{said}");
    Ok(())
}

#[test]
fn a_host_works_over_tls_with_a_scram_password_and_a_rack() -> anyhow::Result<()> {
    let keys = tempfile::tempdir()?;
    make_keys(keys.path())?;
    let password = keys.path().join("password");
    std::fs::write(&password, "right\n")?;
    let users = vec![("phronis".to_owned(), "right".to_owned())];
    let broker = Broker::with(Options { settings: guarded(keys.path()), users, ..Options::default() })?;
    let log = format!("password_file = \"{}\"\n", password.display());
    let mut options = fleet::Options { exactly_once: true, log, ..fleet::Options::default() };
    let authority = keys.path().join("broker.crt").display().to_string();
    options.properties.extend([
        ("security.protocol", "SASL_SSL".to_owned()),
        ("sasl.mechanism", "SCRAM-SHA-512".to_owned()),
        ("sasl.username", "phronis".to_owned()),
        ("ssl.ca.location", authority),
        ("client.rack", "rack-1".to_owned()),
    ]);
    // Producer and checker use the broker's inner listener, which asks for nothing.
    let fleet = Fleet::on(&broker.bootstrap(), &broker.direct(), "guarded", options)?;
    let mut node = fleet.start("a")?;
    let written = fleet.write(Load { most: 2000, ..Load::new(13) })?.finish()?;
    fleet.drained(&[&node])?;
    node.stop()?;
    fleet.judge(&written)?;
    Ok(())
}
