//! The commands of an operator against a real host: what they print as JSON, how they end, and what stands in the audit.

use anyhow::{Context as _, ensure};
use phronis_tests::host::{Host, Room, run};
use phronis_tests::load::Producer;
use phronis_tests::plugins::plugin;
use phronis_tests::postgres::Server;
use serde_json::{Value, json};

const THRESHOLD: &str = "default/sensors/threshold";
const LIMIT: &str = include_str!("../../examples/guarded-agent/plugins/default/agents/threshold.toml");

/// So many that a redrive of one letter a second is under way for as long as it is looked at.
const LETTERS: usize = 200;
const CLASS: &str = "gate/PH1003";

/// The exit codes of the program.
const OK: i32 = 0;
const CHECK_FAILED: i32 = 1;
const USAGE: i32 = 2;
const NOT_REACHABLE: i32 = 4;
const REFUSED: i32 = 5;

/// Runs a command in a room, which must end with this code: what it printed, and what it said beside.
fn phronis(room: &Room, code: i32, args: &[&str]) -> anyhow::Result<(String, String)> {
    let (ended, told, said) = run(room.command(args)?)?;
    ensure!(ended == Some(code), "phronis {args:?} ended with {ended:?} instead of {code}: {told}{said}");
    Ok((told, said))
}

/// The JSON that a command prints.
fn printed(room: &Room, code: i32, args: &[&str]) -> anyhow::Result<Value> {
    let (told, said) = phronis(room, code, args)?;
    serde_json::from_str(&told).with_context(|| format!("phronis {args:?} printed {told}{said}"))
}

/// A command that prints nothing and says this.
fn says(room: &Room, code: i32, args: &[&str], what: &str) -> anyhow::Result<()> {
    let (told, said) = phronis(room, code, args)?;
    ensure!(told.is_empty() && said.contains(what), "phronis {args:?} says nothing of {what}: {told}{said}");
    Ok(())
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn items(list: &Value) -> &[Value] {
    list.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The actions and reasons in the audit, newest first.
fn audit(room: &Room, action: &str) -> anyhow::Result<Vec<(String, String)>> {
    let entries = printed(room, OK, &["audit", "--action", action, "-o", "json"])?;
    let entry = |entry: &Value| (text(entry, "/action").to_owned(), text(entry, "/reason").to_owned());
    Ok(items(&entries).iter().map(entry).collect())
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(one, other)| ((*one).to_owned(), (*other).to_owned())).collect()
}

/// Outstanding letters of the class.
fn parked(room: &Room) -> anyhow::Result<u64> {
    let classes = printed(room, OK, &["letters", "list", "--class", CLASS, "-o", "json"])?;
    Ok(items(&classes).iter().filter_map(|class| class.get("parked").and_then(Value::as_u64)).sum())
}

/// The name of an outstanding letter.
fn one(room: &Room) -> anyhow::Result<String> {
    let letters = printed(room, OK, &["letters", "list", "--by", "letter", "--limit", "1", "-o", "json"])?;
    let letter = items(&letters).first().context("a letter")?;
    Ok(format!("{}/{}", text(letter, "/stream"), text(letter, "/place")))
}

#[test]
fn letters_are_listed_shown_tried_redriven_cancelled_given_up_edited_and_exported() -> anyhow::Result<()> {
    let room = Room::new()?;
    let host = Host::start(&room)?;
    assert!(host.post("sensors", "{\"sensor_id\":\"S01\"}\n".repeat(LETTERS))?.is_taken());
    let all_parked = |letters: usize| host.until("all are parked", |_| Ok(parked(&room)? == letters as u64));
    all_parked(LETTERS)?;

    let letters = printed(&room, OK, &["letters", "list", "--by", "letter", "--limit", "3", "-o", "json"])?;
    assert_eq!(items(&letters).len(), 3, "{letters}");
    says(&room, USAGE, &["letters", "list", "--limit", "3"], "--by letter")?;
    let letter = one(&room)?;
    let shown = printed(&room, OK, &["letters", "show", &letter])?;
    assert_eq!((text(&shown, "/letter/class"), text(&shown, "/letter/state")), (CLASS, "parked"), "{shown}");
    assert_eq!(shown.pointer("/record/value"), Some(&json!({ "sensor_id": "S01" })), "{shown}");
    says(&room, REFUSED, &["letters", "show", "sensors/0-999999"], "PH4004")?;
    let dry = printed(&room, CHECK_FAILED, &["letters", "dry-run", &letter])?;
    assert_eq!((text(&dry, "/verdict"), text(&dry, "/problems/0/code")), ("fails", "PH1003"), "{dry}");

    // Nobody redrives without a reason, nor without saying which letters.
    says(&room, USAGE, &["letters", "redrive", "--class", CLASS], "--reason")?;
    says(&room, USAGE, &["letters", "redrive", "--reason", "again"], "which letters?")?;
    says(&room, REFUSED, &["letters", "redrive", "--class", CLASS, "--reason", " "], "PH4011")?;
    let slow = ["letters", "redrive", "--class", CLASS, "--rate", "1", "--reason", "slowly", "--detach"];
    let job = printed(&room, OK, &slow)?;
    assert_eq!((text(&job, "/state"), job.pointer("/total")), ("running", Some(&json!(LETTERS))), "{job}");
    says(&room, REFUSED, &slow, "PH2401")?;
    let id = text(&job, "/id");
    says(&room, USAGE, &["letters", "cancel", id], "--reason")?;
    says(&room, REFUSED, &["letters", "cancel", id, "--reason", " "], "PH4011")?;
    says(&room, REFUSED, &["letters", "cancel", "nobody", "--reason", "too slow"], "PH4004")?;
    says(&room, OK, &["letters", "cancel", id, "--reason", "too slow"], "cancelled")?;
    let jobs = printed(&room, OK, &["letters", "redrives", "-o", "json"])?;
    let states: Vec<_> = items(&jobs).iter().map(|job| (text(job, "/id"), text(job, "/state"))).collect();
    assert_eq!(states, [(id, "cancelled")], "{jobs}");
    // What was moved meanwhile breaks the contract as before.
    all_parked(LETTERS)?;

    let job = printed(&room, OK, &["letters", "redrive", &one(&room)?, "--reason", "again"])?;
    assert_eq!((text(&job, "/state"), job.pointer("/moved")), ("done", Some(&json!(1))), "{job}");
    all_parked(LETTERS)?;

    let letter = one(&room)?;
    let discard = ["letters", "discard", letter.as_str(), "--reason", "test data"];
    says(&room, OK, &discard, "1 letters are given up")?;
    says(&room, REFUSED, &discard, "PH2403")?;
    let shown = printed(&room, OK, &["letters", "show", &letter])?;
    assert_eq!(shown.pointer("/letter/state"), Some(&Value::Null), "{shown}");

    let file = room.folder().join("corrected.json");
    std::fs::write(&file, json!({ "sensor_id": "S01", "seq": 1, "value": 5.0 }).to_string())?;
    let (letter, file) = (one(&room)?, file.display().to_string());
    says(&room, USAGE, &["letters", "edit", &letter, "--file", &file], "--reason")?;
    let edit = ["letters", "edit", letter.as_str(), "--file", file.as_str(), "--reason", "it lacks its value"];
    says(&room, OK, &edit, "the letter is given up")?;
    says(&room, REFUSED, &edit, "PH2403")?;
    host.until("the copy is delivered", |host| {
        Ok(host.stream("sensors")?.pointer("/counts/delivered") == Some(&json!(1)))
    })?;

    assert_eq!(parked(&room)?, LETTERS as u64 - 2);
    let (exported, _) = phronis(&room, OK, &["letters", "export", "--class", CLASS])?;
    let exported: Vec<Value> = exported.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(exported.len(), LETTERS - 2);
    assert!(exported.iter().all(|letter| text(letter, "/letter/class") == CLASS && letter.get("record").is_some()));
    let given_up = format!("{} letters are given up", LETTERS - 2);
    says(&room, OK, &["letters", "discard", "--all", "--reason", "test data"], &given_up)?;
    assert_eq!(parked(&room)?, 0, "at once");

    let told = pairs(&[
        ("letters.discard", "test data"),
        ("letters.edit", "it lacks its value"),
        ("letters.discard", "test data"),
        ("letters.redrive", "again"),
        ("letters.cancel", "too slow"),
        ("letters.redrive", "slowly"),
    ]);
    assert_eq!(audit(&room, "letters")?, told);
    Ok(())
}

#[test]
fn breakers_are_listed_shown_and_overruled_and_the_audit_says_by_whom() -> anyhow::Result<()> {
    let room = Room::new()?;
    room.install(THRESHOLD, &plugin("threshold")?, "[params]\nhigh = 90.0\n")?;
    let host = Host::start(&room)?;
    host.plugin_is(THRESHOLD, "active")?;
    let listed = printed(&room, OK, &["breaker", "list", "-o", "json"])?;
    let [breaker] = items(&listed) else { anyhow::bail!("one breaker: {listed}") };
    let facts = |breaker: &Value| ["/plugin", "/state", "/mode"].map(|pointer| text(breaker, pointer).to_owned());
    assert_eq!(facts(breaker), [THRESHOLD, "closed", "auto"], "{listed}");
    let glance = host.get("/cb/state")?;
    assert_eq!((glance.str("/state"), glance.str("/breakers/0/plugin")), ("closed", THRESHOLD), "{}", glance.text);

    says(&room, USAGE, &["breaker", "open", THRESHOLD], "--reason")?;
    says(&room, REFUSED, &["breaker", "open", THRESHOLD, "--reason", " "], "PH4011")?;
    says(&room, REFUSED, &["breaker", "show", "default/sensors/treshold"], "did you mean")?;
    let (told, _) = phronis(&room, OK, &["breaker", "open", THRESHOLD, "--reason", "noisy", "--for", "30m"])?;
    assert!(told.contains("the breaker is open (forced_open)"), "{told}");
    let shown = printed(&room, OK, &["breaker", "show", THRESHOLD])?;
    assert_eq!(facts(&shown), [THRESHOLD, "open", "forced_open"], "{shown}");
    assert_eq!(text(&shown, "/override/reason"), "noisy", "{shown}");
    assert!(shown.pointer("/override/until").is_some_and(|until| !until.is_null()), "{shown}");
    let glance = host.get("/cb/state")?;
    assert_eq!((glance.str("/state"), glance.str("/breakers/0/state")), ("open", "open"), "{}", glance.text);

    for (word, reason, mode) in
        [("shadow", "look", "shadow"), ("close", "steady", "forced_closed"), ("auto", "fine again", "auto")]
    {
        phronis(&room, OK, &["breaker", word, THRESHOLD, "--reason", reason])?;
        let shown = printed(&room, OK, &["breaker", "show", THRESHOLD])?;
        assert_eq!(text(&shown, "/mode"), mode, "{shown}");
    }
    let glance = host.get("/cb/state")?;
    assert_eq!((glance.str("/state"), glance.str("/breakers/0/state")), ("closed", "closed"), "{}", glance.text);

    let rows = printed(&room, OK, &["audit", "--subject", THRESHOLD, "-o", "json"])?;
    // Besides what people want, the audit says what the breaker did then, which may come a moment later.
    let wanted: Vec<_> = items(&rows).iter().filter(|row| row.pointer("/facts/value").is_some()).collect();
    let told: Vec<_> = wanted.iter().map(|row| (text(row, "/reason"), text(row, "/facts/value/state"))).collect();
    assert_eq!(told, [("fine again", ""), ("steady", "close"), ("look", "shadow"), ("noisy", "open")], "{rows}");
    assert!(audit(&room, "breaker")?.iter().all(|(action, _)| action == "breaker.override"), "{rows}");
    Ok(())
}

#[test]
fn agents_are_halted_shown_reset_and_listed() -> anyhow::Result<()> {
    let room = Room::new()?;
    let host = Host::start(&room)?;
    host.until("it knows who is halted", |host| Ok(host.get("/v1/agents/a1")?.status == 200))?;
    assert_eq!(printed(&room, OK, &["agents", "list", "-o", "json"])?, json!([]));
    says(&room, USAGE, &["agents", "halt", "a1"], "--reason")?;
    says(&room, REFUSED, &["agents", "halt", "a1", "--reason", " "], "PH4011")?;
    says(&room, REFUSED, &["agents", "reset", "nobody", "--reason", "was fine"], "PH4004")?;
    let halted = printed(&room, OK, &["agents", "halt", "a1", "--reason", "loops", "--for", "30m"])?;
    assert_eq!((text(&halted, "/state"), halted.pointer("/changed")), ("halted", Some(&json!(true))), "{halted}");
    let shown = printed(&room, OK, &["agents", "show", "a1"])?;
    assert_eq!((text(&shown, "/state"), text(&shown, "/reason")), ("halted", "loops"), "{shown}");
    let listed = printed(&room, OK, &["agents", "list", "-o", "json"])?;
    assert_eq!(items(&listed).iter().map(|agent| text(agent, "/agent")).collect::<Vec<_>>(), ["a1"]);

    says(&room, REFUSED, &["agents", "reset", "a1", "--reason", "was fine", "--if-version", "7"], "PH4016")?;
    let reset = printed(&room, OK, &["agents", "reset", "a1", "--reason", "was fine", "--if-version", "1"])?;
    assert_eq!(text(&reset, "/state"), "running", "{reset}");
    assert_eq!(printed(&room, OK, &["agents", "list", "-o", "json"])?, json!([]));
    let all = printed(&room, OK, &["agents", "list", "--all", "-o", "json"])?;
    assert_eq!(items(&all).iter().map(|agent| text(agent, "/state")).collect::<Vec<_>>(), ["running"]);
    phronis(&room, OK, &["agents", "halt", "--whole-tenant", "--reason", "all of them"])?;
    let shown = printed(&room, OK, &["agents", "show", "a1"])?;
    assert_eq!((text(&shown, "/state"), text(&shown, "/halted_by")), ("halted", "tenant"), "{shown}");
    phronis(&room, OK, &["agents", "reset", "--whole-tenant", "--reason", "all fine"])?;

    let history = printed(&room, OK, &["agents", "history", "a1", "-o", "json"])?;
    let told: Vec<_> = items(&history).iter().map(|change| (text(change, "/state"), text(change, "/reason"))).collect();
    assert_eq!(told, [("running", "was fine"), ("halted", "loops")], "{history}");
    let told = pairs(&[
        ("agent.reset", "all fine"),
        ("agent.halt", "all of them"),
        ("agent.reset", "was fine"),
        ("agent.halt", "loops"),
    ]);
    assert_eq!(audit(&room, "agent")?, told);
    Ok(())
}

#[test]
fn an_alert_of_a_plugin_that_may_not_halt_halts_nobody() -> anyhow::Result<()> {
    let room = Room::new()?;
    room.install("default/agents/threshold", &plugin("threshold")?, LIMIT)?;
    let host = Host::start(&room)?;
    host.plugin_is("default/agents/threshold", "active")?;
    let listener = host.listen("")?;
    let call = json!({ "agent_id": "runaway", "status": "active", "metadata": { "calls_in_minute": 501 } });
    assert!(host.post("agents", call.to_string())?.is_taken());
    let alert = listener.next("alert")?.data;
    // The plugin wants it; the host has not said `may_halt`, and says no with the alert itself.
    assert_eq!((text(&alert, "/agent"), alert.pointer("/halt")), ("runaway", Some(&json!(false))), "{alert}");
    let shown = printed(&room, OK, &["agents", "show", "runaway"])?;
    assert_eq!((text(&shown, "/state"), shown.pointer("/version")), ("running", Some(&json!(0))), "{shown}");
    assert_eq!(printed(&room, OK, &["agents", "list", "--all", "-o", "json"])?, json!([]));
    Ok(())
}

#[test]
fn a_halt_that_nothing_can_write_down_holds_and_says_so() -> anyhow::Result<()> {
    let server = Server::start()?;
    let room = Room::with(
        "[store]\nkind = \"postgres\"\nurl_file = \"store.url\"\n[log]\nmax_bytes = \"16MiB\"\nmin_free_bytes = \"16MiB\"\n",
    )?;
    std::fs::write(room.folder().join("store.url"), server.url())?;
    let host = Host::start(&room)?;
    host.until("it knows who is halted", |host| Ok(host.get("/v1/agents/a1")?.status == 200))?;
    let mut producer = Producer::new(7);
    host.until("the log is full", |host| Ok(!producer.post(host, 5_000)?))?;
    // A folder stands where the draft of the file would, and the store is gone.
    let draft = room.data().join("agents.draft");
    std::fs::create_dir(&draft)?;
    server.kill()?;
    host.until("nothing takes the halt", |_| {
        let (code, _, said) = run(room.command(&["agents", "halt", "a1", "--reason", "loops"])?)?;
        ensure!(code == Some(NOT_REACHABLE) && said.contains("error[PH4204]"), "{code:?}: {said}");
        Ok(true)
    })?;
    let shown = printed(&room, OK, &["agents", "show", "a1"])?;
    assert_eq!(text(&shown, "/state"), "halted", "it holds: {shown}");
    std::fs::remove_dir(&draft)?;
    host.until("the host has written it down by itself", |_| {
        Ok(std::fs::read_to_string(room.data().join("agents.halted"))?.contains("a1"))
    })?;
    Ok(())
}
