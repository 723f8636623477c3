//! Two tenants with plugins of the same name: what one sets and finds is nothing to the other.

use phronis_tests::checker::check_folder;
use phronis_tests::host::{Host, Room};
use phronis_tests::plugins::{plugin, root};
use serde_json::json;

use crate::{judged_by, reading};

#[test]
fn two_tenants_with_the_same_plugin_stay_apart() -> anyhow::Result<()> {
    let contract = root().join("host/app/contracts/sensors.yaml");
    let contract = contract.display();
    let room = Room::with(&format!(
        "[tenants.acme]\n[tenants.beta]\n[streams.\"acme.sensors\"]\ncontract = \"{contract}\"\n[streams.\"beta.sensors\"]\ncontract = \"{contract}\"\n"
    ))?;
    let threshold = plugin("threshold")?;
    room.install("acme/sensors/threshold", &threshold, "[params]\nhigh = 50.0\n")?;
    room.install("beta/sensors/threshold", &threshold, "[params]\nhigh = 80.0\n")?;
    let host = Host::start(&room)?;
    host.plugin_is("acme/sensors/threshold", "active")?;
    host.plugin_is("beta/sensors/threshold", "active")?;
    let rows = |from: u64| (from..from + 100).map(|seq| reading("S1", seq, seq as f64)).collect::<String>();
    for stream in ["acme.sensors", "beta.sensors"] {
        assert_eq!(host.post(stream, rows(0))?.status, 202);
        host.drained(stream)?;
    }
    // A change of one, and a broken file of the other.
    let put = host.put("/v1/plugins/beta/sensors/threshold/params", &json!({"high": 150.0}))?;
    assert_eq!(put.status, 200, "{}", put.text);
    room.write("beta/sensors/threshold.wasm", b"broken")?;
    host.plugin_is("beta/sensors/threshold", "outdated")?;
    for stream in ["acme.sensors", "beta.sensors"] {
        assert_eq!(host.post(stream, rows(100))?.status, 202);
        host.drained(stream)?;
    }
    assert!(host.stop()?.success());
    let acme = check_folder(&room.log(), "acme.sensors", judged_by("threshold", 50.0))?.must_hold()?;
    assert_eq!((acme.received, acme.alerts.len()), (200, 149), "{acme}");
    // 81 to 99 before the change, 151 to 199 after it.
    let beta = check_folder(&room.log(), "beta.sensors", Default::default())?.must_hold()?;
    assert_eq!((beta.received, beta.alerts.len()), (200, 19 + 49), "{beta}");
    let own = |report: &phronis_tests::checker::Report, tenant: &str| {
        report.alerts.iter().all(|alert| alert.json.get("tenant").is_some_and(|name| name == tenant))
    };
    assert!(own(&acme, "acme") && own(&beta, "beta"));
    Ok(())
}
