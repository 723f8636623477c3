//! A full disk: back-pressure, not loss; and on it goes once there is room.

use phronis_tests::checker::{Expect, check_folder};
use phronis_tests::host::{Host, PATIENCE, Room};
use phronis_tests::load::Producer;
use phronis_tests::mount::Mount;
use phronis_tests::plugins::plugin;

use crate::judged_by;

#[test]
fn a_full_disk_is_back_pressure_and_not_loss() -> anyhow::Result<()> {
    let Some(mount) = Mount::new("160m")? else {
        println!("skipped: mounting a small file system needs root");
        return Ok(());
    };
    let ballast = mount.path().join("ballast");
    std::fs::write(&ballast, vec![0; 100 << 20])?;
    let room = Room::with_data(&mount.path().join("data"), "[log]\nmin_free_bytes = \"16MiB\"\n")?;
    room.install("default/sensors/threshold", &plugin("threshold")?, "[params]\nhigh = 90.0\n")?;
    let host = Host::start(&room)?;
    let mut producer = Producer::new(5);
    let mut is_full = false;
    for _ in 0..4000 {
        let (events, body) = producer.body(500);
        let answer = host.post("sensors", body)?;
        if answer.status == 429 {
            assert!(answer.text.contains("nothing was taken"), "{}", answer.text);
            assert!(answer.retry_after.is_some(), "429 says when to come again");
            is_full = true;
            break;
        }
        assert!(answer.is_taken(), "{}: {}", answer.status, answer.text);
        producer.acknowledged.extend(answer.ranges());
        producer.answered += events.len() as u64;
    }
    assert!(is_full, "the disk never became full");
    assert_eq!(host.get("/livez")?.status, 200);

    std::fs::remove_file(&ballast)?;
    let until = std::time::Instant::now() + PATIENCE;
    while !producer.post(&host, 500)? {
        assert!(std::time::Instant::now() < until, "there is room again and the host takes nothing");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    host.drained("sensors")?;
    assert!(host.stop()?.success());
    let expect = Expect { acknowledged: producer.acknowledged.clone(), ..judged_by("threshold", 90.0) };
    let report = check_folder(&room.log(), "sensors", expect)?.must_hold()?;
    assert_eq!(report.received, producer.answered, "{report}");
    Ok(())
}
