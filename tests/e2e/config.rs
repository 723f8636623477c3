//! Configurations that are wrong: refused with file, line, path and the nearest name, exit code 3.

use phronis_tests::host::{Room, run};

#[test]
fn a_wrong_configuration_is_refused_with_place_and_help() -> anyhow::Result<()> {
    for (text, expected) in [
        ("[http]\nlissten = \"127.0.0.1:0\"\n", &["phronis.toml:", "http.lissten", "listen"] as &[&str]),
        ("[streams.sensors]\npartitions = \"many\"\n", &["phronis.toml:", "streams.sensors.partitions"]),
        (
            "[streams.sensors]\ncontract = \"nowhere.yaml\"\n",
            &["phronis.toml:", "streams.sensors.contract", "nowhere.yaml"],
        ),
        (
            "[streams.sensors]\n[streams.agents.topics]\nraw = \"phronis.raw.events\"\n",
            &["phronis.toml:", "streams.agents.topics.raw", "sensors"],
        ),
        ("[http\n", &["phronis.toml:"]),
    ] {
        let room = Room::with(text)?;
        for command in ["check", "run"] {
            let (code, _, said) = run(room.command(&[command])?)?;
            assert_eq!(code, Some(3), "{command}: {text}\n{said}");
            for part in expected {
                assert!(said.contains(part), "{command}: {text}\n`{part}` is not in\n{said}");
            }
            assert!(said.contains("PH010"), "{said}");
        }
    }
    let room = Room::new()?;
    std::fs::remove_file(room.config())?;
    let (code, _, said) = run(room.command(&["check"])?)?;
    assert_eq!(code, Some(3), "a missing file: {said}");
    Ok(())
}

#[test]
fn a_plugin_folder_of_no_stream_is_named() -> anyhow::Result<()> {
    let room = Room::new()?;
    room.write("default/sensros/threshold.wasm", b"whatever")?;
    let (_, told, said) = run(room.command(&["check"])?)?;
    let all = told + &said;
    assert!(all.contains("PH0105") && all.contains("sensros") && all.contains("sensors"), "{all}");
    Ok(())
}

#[test]
fn a_good_configuration_passes() -> anyhow::Result<()> {
    let room = Room::new()?;
    let (code, _, said) = run(room.command(&["check"])?)?;
    assert_eq!(code, Some(0), "{said}");
    Ok(())
}
