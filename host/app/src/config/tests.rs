//! Configurations as data: what is written, what is found wrong or in force.

use std::fs;

use super::*;

/// Files, variables, and what must come of them: `Ok` the setting `path = value`, `Err` parts of the problems.
fn check(files: &[(&str, &str)], env: &[(&str, &str)], expected: Result<&[(&str, &str)], &[&str]>) {
    let folder = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        if name.ends_with(".toml") {
            paths.push(path);
        }
    }
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let loaded = load(&paths, &Overrides { env, flags: Vec::new() });
    let place = format!("{}/", folder.path().display());
    match (loaded, expected) {
        (Ok(config), Ok(settings)) => {
            let shown = show_effective(&config.effective, true).replace(&place, "");
            for (setting, origin) in settings {
                let is_it = |line: &str| line.starts_with(setting) && line.ends_with(origin);
                assert!(shown.lines().any(is_it), "no `{setting}` from `{origin}` in\n{shown}");
            }
        }
        (Err(problems), Err(parts)) => {
            let text = problems.to_string().replace(&place, "");
            for part in parts {
                assert!(text.contains(part), "no `{part}` in\n{text}");
            }
        }
        (Ok(_), Err(_)) => panic!("no problem was found"),
        (Err(problems), Ok(_)) => panic!("{problems}"),
    }
}

#[test]
fn without_a_file_there_are_two_streams_on_loopback() {
    let config = load(&[], &Overrides::default()).unwrap();
    let names: Vec<String> = config.streams.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["agents", "sensors"]);
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:8000");
    assert_eq!(config.data_dir, Path::new("phronis-data"));
    assert_eq!(config.plugins_dir, Path::new("phronis-data/plugins"));
}

#[test]
fn the_store_is_a_file_beside_the_log_unless_it_is_said() {
    let postgres = "[store]\nkind = \"postgres\"\n";
    let file = |text: &str| format!("{postgres}{text}");
    check(&[("a.toml", "")], &[], Ok(&[("path = ", "default")]));
    check(&[("a.toml", "[store]\npath = \"x.db\"")], &[], Ok(&[("path = \"x.db\"", "a.toml:2")]));
    let url = file("url = \"postgres://ops@db:5433/phronis?sslmode=require\"");
    check(&[("a.toml", &url)], &[], Ok(&[("url = \"postgres://ops@db:5433/phronis\"", "a.toml:3")]));
    for (text, parts) in [
        (file(""), ["store.url", "either `url` or `url_file`"]),
        (file("url = \"mysql://db\""), ["store.url", "must begin with postgres://"]),
        (file("url = \"postgres://db/a\"\nurl_file = \"nowhere\""), ["store.url_file", "one of the two"]),
        (file("url_file = \"nowhere\""), ["store.url_file", "cannot read"]),
        (file("url = \"postgres://db/a\"\nschema = \"A;\""), ["store.schema", "expected a name"]),
        (file("url = \"postgres://db/a\"\npath = \"x\""), ["store.path", "belongs to `kind = \"sqlite\"`"]),
        ("[store]\nurl = \"postgres://db/a\"".to_owned(), ["store.url", "belongs to `kind = \"postgres\"`"]),
    ] {
        check(&[("a.toml", &text)], &[], Err(&parts));
    }
}

#[test]
fn the_password_of_the_store_stays_in_its_own_file() {
    let address = "postgres://ops:hunter2@db/phronis";
    let folder = tempfile::tempdir().unwrap();
    let read = |text: &str, env: &[(&str, &str)]| {
        let path = folder.path().join("a.toml");
        fs::write(&path, format!("[store]\nkind = \"postgres\"\n{text}")).unwrap();
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        load(&[path], &Overrides { env, flags: Vec::new() })
    };
    let refused = read(&format!("url = \"{address}\""), &[]).unwrap_err().to_string();
    assert!(refused.contains("has a password") && !refused.contains("hunter2"), "{refused}");
    fs::write(folder.path().join("store.url"), format!("{address}\n")).unwrap();
    for (text, env) in [("url_file = \"store.url\"", &[][..]), ("", &[("PHRONIS__STORE__URL", address)])] {
        let config = read(text, env).unwrap();
        assert_eq!(config.store.options().to_string(), "postgres://ops@db:5432/phronis");
        let shown = format!("{config:?} {}", show_effective(&config.effective, true));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    fs::write(folder.path().join("store.url"), "postgres://ops:hunter2@db:port/phronis").unwrap();
    let wrong = read("url_file = \"store.url\"", &[]).unwrap_err().to_string();
    assert!(!wrong.contains("hunter2"), "{wrong}");
}

#[test]
fn the_built_in_contracts_say_who_and_when() {
    let config = load(&[], &Overrides::default()).unwrap();
    for (name, key, agent, time) in
        [("sensors", "sensor_id", None, "ts"), ("agents", "agent_id", Some("agent_id"), "timestamp")]
    {
        let contract = &config.streams[&name.parse().unwrap()].contract;
        let path = |index: Option<usize>| index.map(|index| contract.fields()[index].path.as_str());
        assert_eq!((path(contract.key()), path(contract.agent())), (Some(key), agent));
        assert_eq!(path(contract.event_time()), Some(time));
    }
}

#[test]
fn an_unknown_key_is_told_with_its_line_and_the_nearest_name() {
    check(
        &[("a.toml", "[streams.sensors]\npartitons = 8\n")],
        &[],
        Err(&["streams.sensors.partitons: there is no such key", "at a.toml:2", "did you mean `partitions`?"]),
    );
    check(&[("a.toml", "htp = 1\n")], &[], Err(&["htp: there is no such key", "did you mean `http`?", "at the top"]));
}

#[test]
fn a_wrong_type_says_what_was_expected() {
    for (text, part) in [
        ("[http]\nlisten = 8000", "expected an address and port such as \"127.0.0.1:8000\", this is a number"),
        ("[http]\nmax_body = 32", "expected a size such as \"64MiB\", this is a number"),
        ("[limits.max]\ndeadline = \"5 parsecs\"", "is not a duration"),
        ("[streams.sensors]\npartitions = \"4\"", "expected a whole number from 1"),
        ("[streams.sensors]\non_missing = \"hodl\"", "did you mean `hold`?"),
        ("[streams.sensors]\nworkers = 5", "5 workers for 4 partitions"),
        ("[streams.sensors]\nretry = { base = \"0s\" }", "expected more than 0s"),
        ("[streams.sensors]\nretry = { base = \"2m\", cap = \"1m\" }", "is below `base`"),
        ("[streams.sensors]\nretry = { attempts = 0 }", "expected a whole number from 1"),
        ("streams = 4", "expected a table, this is a number"),
        ("[logging]\nlevel = \"phronis=loud\"", "is not a log filter"),
    ] {
        check(&[("a.toml", text)], &[], Err(&[part, "at a.toml:"]));
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let text = "x = 1\n[http]\nlisten = 1\n[log]\ndurability = \"never\"\n[streams.Bad]\n";
    check(&[("a.toml", text)], &[], Err(&["x: there", "a.toml:3", "a.toml:5", "a.toml:6", "4 problems"]));
}

#[test]
fn what_is_not_toml_is_told_with_its_line() {
    check(&[("a.toml", "[http]\nlisten = \n")], &[], Err(&["not TOML", "at a.toml:2"]));
}

#[test]
fn a_missing_file_says_how_to_get_one() {
    let problems = load(&["nowhere.toml".into()], &Overrides::default()).unwrap_err().to_string();
    assert!(problems.contains("cannot read the file") && problems.contains("at nowhere.toml"), "{problems}");
    assert!(problems.contains("phronis config example"), "{problems}");
}

#[test]
fn two_streams_cannot_share_a_topic() {
    let text = "[streams.sensors]\n[streams.agents]\ntopics = { raw = \"phronis.raw.events\" }\n";
    let expected = "topic `phronis.raw.events` belongs to stream sensors already: no two can share a topic";
    check(&[("a.toml", text)], &[], Err(&[expected, "streams.agents.topics.raw", "at a.toml:3"]));
    check(
        &[("a.toml", "[streams.agents.topics]\nraw = \"phronis.config\"")],
        &[],
        Err(&["belongs to the host itself"]),
    );
}

#[test]
fn contracts_are_named_by_file_and_checked_to_their_own_line() {
    let uses = "[streams.orders]\ncontract = \"orders.yaml\"\n";
    check(&[("a.toml", uses)], &[], Err(&["PH0102", "cannot read the contract", "orders.yaml", "at a.toml:2"]));
    check(&[("a.toml", "[streams.orders]")], &[], Err(&["streams.orders.contract: is missing", "at a.toml:1"]));
    let contract = streams::BUILT_IN[0].1.replace("logicalType: integer", "logicalType: intger");
    let line = contract.lines().position(|line| line.contains("intger")).unwrap() + 1;
    let place = format!("at orders.yaml:{line}");
    check(
        &[("a.toml", uses), ("orders.yaml", &contract)],
        &[],
        Err(&["PH0102", "intger", &place, "named at a.toml:2"]),
    );
    let good = streams::BUILT_IN[0].1;
    check(&[("a.toml", uses), ("orders.yaml", good)], &[], Ok(&[("contract = ", "a.toml:2")]));
}

#[test]
fn later_layers_override_earlier_ones_value_by_value() {
    let first = "[http]\nlisten = \"127.0.0.1:1\"\nmax_body = \"1MiB\"\n";
    check(
        &[("a.toml", first), ("b.toml", "[http]\nlisten = \"127.0.0.1:2\"\n")],
        &[("PHRONIS__HTTP__MAX_BODY", "2MiB"), ("PHRONIS__STREAMS__SENSORS__PARTITIONS", "8"), ("PHRONIS_KEY", "x")],
        Ok(&[
            ("listen = \"127.0.0.1:2\"", "b.toml:2"),
            ("max_body = \"2MiB\"", "environment PHRONIS__HTTP__MAX_BODY"),
            ("partitions = 8", "environment PHRONIS__STREAMS__SENSORS__PARTITIONS"),
            ("[streams.agents]", "]"),
        ]),
    );
    check(
        &[],
        &[("PHRONIS__HTTP__LISTNE", "x")],
        Err(&["at environment PHRONIS__HTTP__LISTNE", "did you mean `listen`"]),
    );
}

#[test]
fn limits_stay_below_their_ceilings() {
    let text = "[limits.max]\nmemory = \"32MiB\"\n[tenants.acme.limits]\nmemory = \"64MiB\"\ndeadline = \"50ms\"\n";
    check(
        &[("a.toml", text)],
        &[],
        Err(&["PH0104", "\"64MiB\" is above the ceiling \"32MiB\"", "at a.toml:4", "1 problem"]),
    );
    let config =
        load(&[], &Overrides { env: vec![("PHRONIS__LIMITS__MAX__MEMORY".into(), "8MiB".into())], flags: vec![] });
    let tenant = *config.unwrap().tenant(&"default".parse().unwrap()).unwrap();
    assert_eq!((tenant.default.memory, tenant.ceiling.memory), (8 << 20, 8 << 20));
}

#[test]
fn keys_have_one_secret_and_a_known_tenant() {
    let hash = "ab".repeat(32);
    let key = |more: &str| format!("[[http.keys]]\nname = \"ops\"\nrole = \"admin\"\n{more}\n");
    check(&[("a.toml", &key(&format!("hash = \"{hash}\"")))], &[], Ok(&[("hash = \"***\"", "a.toml:4")]));
    check(&[("a.toml", &key(""))], &[], Err(&["exactly one of `hash`"]));
    check(&[("a.toml", &key("hash = \"1234\""))], &[], Err(&["64 hex digits"]));
    check(&[("a.toml", &key("key_file = \"k\"")), ("k", "short")], &[], Err(&["shorter than 16"]));
    let twice = format!("{}{}", key(&format!("hash = \"{hash}\"")), key(&format!("hash = \"{hash}\"")));
    check(&[("a.toml", &twice)], &[], Err(&["two keys are called `ops`", "are the same key"]));
    let lost = format!("[tenants.acme]\n{}tenant = \"acne\"", key(&format!("hash = \"{hash}\"")));
    check(&[("a.toml", &lost)], &[], Err(&["there is no tenant `acne`", "did you mean `acme`?"]));
    check(&[("a.toml", "[http]\nlisten = \"0.0.0.0:80\"")], &[], Err(&["there is no key", "at a.toml:2"]));
    let text = "[streams.\"acme.sensors\"]\ncontract = \"c.yaml\"";
    check(&[("a.toml", text), ("c.yaml", streams::BUILT_IN[0].1)], &[], Err(&["there is no tenant `acme`"]));
}

#[test]
fn what_is_shown_reads_back_the_same_and_the_example_is_the_default() {
    let folder = tempfile::tempdir().unwrap();
    let read = |text: &str| {
        let path = folder.path().join("c.toml");
        fs::write(&path, text).unwrap();
        show_effective(&load(&[path], &Overrides::default()).unwrap().effective, false)
    };
    let example = read(EXAMPLE);
    assert_eq!(read(&example), example);
    let built_in = show_effective(&load(&[], &Overrides::default()).unwrap().effective, false);
    let settings = |text: &str| {
        let mut lines: Vec<_> = text
            .lines()
            .filter(|line| !["path = ", "warehouse = "].iter().any(|start| line.starts_with(start)))
            .filter(|line| !line.contains("_dir = "))
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    assert_eq!(settings(&example), settings(&built_in));
}

/// The Kafka part of a configuration.
fn on_kafka(more: &str) -> String {
    format!("[log]\nkind = \"kafka\"\nbootstrap = \"kafka-1:9092\"\n{more}\n")
}

#[test]
fn kafka_has_usual_values_and_takes_what_is_written() {
    check(
        &[("a.toml", &on_kafka("profile = \"throughput\"\nnode_id = \"web-1\"\ntransaction = \"20ms\""))],
        &[("PHRONIS__LOG__BOOTSTRAP", "a:1, [::1]:2"), ("PHRONIS__STREAMS__SENSORS__EXACTLY_ONCE", "true")],
        Ok(&[
            ("bootstrap = \"a:1,[::1]:2\"", "environment PHRONIS__LOG__BOOTSTRAP"),
            ("node_id = \"web-1\"", "a.toml:5"),
            ("profile = \"throughput\"", "a.toml:4"),
            ("transaction = \"20ms\"", "a.toml:6"),
            ("replication = 1", "default"),
            ("max_record_bytes = \"1MiB\"", "default"),
            ("commit_every = \"1s\"", "default"),
            ("leave_on_stop = true", "default"),
            ("auto_create = false", "default"),
            ("exactly_once = true", "EXACTLY_ONCE"),
        ]),
    );
    check(
        &[],
        &[("PHRONIS__LOG__KIND", "kafka"), ("PHRONIS__LOG__BOOTSTRAP", "kafka:9092")],
        Ok(&[("kind = \"kafka\"", "KIND")]),
    );
}

#[test]
fn kafka_settings_are_checked_like_all_others() {
    check(&[("a.toml", "[log]\nkind = \"kafka\"")], &[], Err(&["log.bootstrap: is missing: expected brokers such as"]));
    for (more, part) in [
        ("node_id = \"a b\"", "expected a name of 1 to 64 letters"),
        ("profile = \"fast\"", "is not one of \"low-latency\", \"throughput\""),
        ("transaction = \"1h\"", "is not between \"1ms\" and \"10s\""),
        ("commit_every = \"0s\"", "is not between \"10ms\" and \"60s\""),
        ("max_record_bytes = \"2GiB\"", "is not between \"1KB\" and \"1GB\""),
        ("replication = 101", "101 copies are more than"),
        ("password_file = \"nowhere\"", "cannot read"),
        ("durability = \"os\"", "log.durability: belongs to the embedded log, and this one is Kafka"),
        ("properties = { \"client.rack\" = 1.5 }", "expected a text, a number, true or false"),
    ] {
        check(&[("a.toml", &on_kafka(more))], &[], Err(&[part, "at a.toml:4", "1 problem"]));
    }
    for brokers in ["kafka", "kafka:0", "kafka:99999", ":9092", "a:1,,b:1", "http://a:1"] {
        let text = format!("[log]\nkind = \"kafka\"\nbootstrap = \"{brokers}\"");
        check(&[("a.toml", &text)], &[], Err(&["is not host:port", "at a.toml:3"]));
    }
    check(
        &[("a.toml", "[log]\nprofile = \"throughput\"")],
        &[],
        Err(&["log.profile: belongs to `kind = \"kafka\"`", "at a.toml:2"]),
    );
}

#[test]
fn properties_are_checked_by_librdkafka_each_with_its_line() {
    let text = on_kafka(
        "[log.properties]\n\"client.rack\" = \"eu-1a\"\n\"sesion.timeout.ms\" = 1\nacks = 1\nsocket.timeout.ms = \"soon\"",
    );
    check(
        &[("a.toml", &text)],
        &[],
        Err(&["sesion.timeout.ms", "a.toml:6", "a.toml:7", "cannot be set: it is `all`", "a.toml:8", "3 problems"]),
    );
}

#[test]
fn properties_that_promises_rest_on_cannot_be_set() {
    for (property, why) in [
        ("\"partition.assignment.strategy\" = \"range\"", "cannot be set: it is `cooperative-sticky`"),
        ("\"group.protocol\" = \"consumer\"", "cannot be set: it is `classic`"),
        ("retries = 1", "cannot be set: it is unlimited"),
        ("\"message.send.max.retries\" = 1", "cannot be set: it is unlimited"),
    ] {
        let text = on_kafka(&format!("[log.properties]\n{property}"));
        check(&[("a.toml", &text)], &[], Err(&[why, "a.toml:5", "1 problem"]));
    }
}

#[test]
fn properties_are_written_with_dots_quoted_or_as_tables_and_the_environment_overrides() {
    let quoted = on_kafka(
        "[log.properties]\n\"client.rack\" = \"eu-1a\"\n\"socket.timeout.ms\" = 5000\n\"socket.keepalive.enable\" = true",
    );
    let tables =
        on_kafka("[log.properties]\nclient.rack = \"eu-1a\"\nsocket = { timeout.ms = 5000, keepalive.enable = true }");
    for text in [quoted, tables] {
        check(
            &[("a.toml", &text)],
            &[("PHRONIS__LOG__PROPERTIES__CLIENT_RACK", "eu-1b"), ("PHRONIS__LOG__PROPERTIES__SASL_USERNAME", "u")],
            Ok(&[
                ("\"client.rack\" = \"eu-1b\"", "CLIENT_RACK"),
                ("\"socket.timeout.ms\" = \"5000\"", ""),
                ("\"socket.keepalive.enable\" = \"true\"", ""),
                ("\"sasl.username\" = \"u\"", "SASL_USERNAME"),
            ]),
        );
    }
    let twice = on_kafka("[log.properties]\n\"client.rack\" = \"a\"\nclient.rack = \"b\"");
    check(&[("a.toml", &twice)], &[], Err(&["stands twice"]));
}

#[test]
fn secrets_of_kafka_are_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("secret"), "hunter2-from-file\n").unwrap();
    let read = |more: &str| {
        let path = folder.path().join("a.toml");
        fs::write(&path, on_kafka(more)).unwrap();
        load(&[path], &Overrides::default())
    };
    let config = read("password_file = \"secret\"\n[log.properties]\n\"ssl.key.password\" = \"hunter2\"").unwrap();
    let kafka = config.log.kafka().unwrap();
    assert_eq!(kafka.options("n").properties["sasl.password"], "hunter2-from-file");
    let shown = show_effective(&config.effective, true);
    assert!(shown.contains("\"ssl.key.password\" = \"***\""), "{shown}");
    for text in [shown, format!("{config:?}")] {
        assert!(!text.contains("hunter2"), "{text}");
    }
    let twice = read("password_file = \"secret\"\n[log.properties]\n\"sasl.password\" = \"hunter2\"").unwrap_err();
    assert!(twice.to_string().contains("is given twice") && !twice.to_string().contains("hunter2"), "{twice}");
}
