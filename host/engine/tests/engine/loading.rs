//! What is refused at load, with which code, and what its author is told; what the cache survives.

use std::fs;
use std::time::Duration;

use phronis_core::Code;
use phronis_core::code::*;
use phronis_core::plugin::{Field, FieldType, Kind};
use phronis_engine::Engine;
use serde_json::json;

use super::support::*;

#[track_caller]
fn refused(wasm: &[u8], code: Code, says: &str) {
    let refusal = engine().load(wasm).unwrap_err();
    assert_eq!(refusal.code, code, "{refusal}");
    assert!(refusal.message.contains(says), "{refusal}");
}

#[test]
fn what_is_not_a_component_is_refused_with_what_to_do() {
    refused(b"", NOT_A_COMPONENT, "empty");
    refused(b"hello\n", NOT_A_COMPONENT, "text file");
    refused(b"(module)", NOT_A_COMPONENT, "as text");
    refused(&[0xff; 100], NOT_A_COMPONENT, "--target wasm32-wasip2");
    refused(b"\0asm\x01\0\0\0", NOT_A_COMPONENT, "core WebAssembly module");
}

#[test]
fn a_component_that_is_cut_off_or_damaged_is_refused() {
    let whole = guest("detector");
    refused(&whole[..whole.len() / 2], COMPILE_FAILED, "refuses");
    let mut damaged = whole;
    damaged[5000..6000].fill(0xaa);
    refused(&damaged, COMPILE_FAILED, "refuses");
}

#[test]
fn a_component_over_the_size_limit_is_refused_unread() {
    refused(&vec![0; 50 << 20], COMPONENT_TOO_LARGE, "16777216");
}

#[test]
fn a_component_of_no_plugin_world_is_refused() {
    // The smallest component there is: it exports nothing.
    refused(b"\0asm\x0d\0\x01\0", WRONG_WORLD, "exports: nothing");
}

#[test]
fn another_version_of_the_interface_is_refused_by_name() {
    let other = patched("detector", "@0.1.0", "@0.7.0");
    refused(&other, WRONG_WIT_VERSION, "phronis:plugin@0.7.0");
}

#[test]
fn imports_of_files_sockets_and_http_are_refused_by_name() {
    refused(&guest("files"), FORBIDDEN_IMPORT, "wasi:filesystem");
    refused(&patched("detector", "wasi:cli/environment", "wasi:sockets/network"), FORBIDDEN_IMPORT, "wasi:sockets");
    refused(&patched("detector", "wasi:cli/environment", "wasi:http/environmen"), FORBIDDEN_IMPORT, "wasi:http");
    refused(&patched("detector", "wasi:cli/environment", "acme:cli/environment"), FORBIDDEN_IMPORT, "acme:cli");
}

#[test]
fn an_invalid_manifest_is_refused() {
    refused(&patched("detector", "guest-detector", "Guest Detector"), INVALID_MANIFEST, "Guest Detector");
    refused(&patched("detector", "\"type\": \"object\"", "\"type\": \"objekt\""), INVALID_MANIFEST, "JSON Schema");
    refused(&patched("detector", "\"type\": \"object\"", "\"type\": {object}"), INVALID_MANIFEST, "not JSON");
}

#[test]
fn a_compile_bomb_is_killed_and_the_host_lives() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(&folder.path().join("cache"));
    (options.compiler.cpu, options.compiler.wall) = (Duration::from_secs(1), Duration::from_secs(20));
    let engine = Engine::new(options).unwrap();
    let refusal = engine.load(&bomb(15 << 20)).unwrap_err();
    assert_eq!(refusal.code, COMPILE_FAILED);
    assert!(refusal.message.contains("took"), "{refusal}");
}

#[test]
fn a_compiler_that_wants_too_much_memory_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(&folder.path().join("cache"));
    options.compiler.memory = 64 << 20;
    let refusal = Engine::new(options).unwrap().load(&bomb(15 << 20)).unwrap_err();
    assert_eq!(refusal.code, COMPILE_FAILED);
    assert!(refusal.message.contains("memory"), "{refusal}");
}

#[test]
fn a_compiler_that_cannot_be_started_is_a_refusal() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(&folder.path().join("cache"));
    options.compiler.program = "/nonexistent/compiler".into();
    let refusal = Engine::new(options).unwrap().load(&guest("detector")).unwrap_err();
    assert!(refusal.message.contains("/nonexistent/compiler"), "{refusal}");
}

#[test]
fn the_cache_is_used_and_a_damaged_or_foreign_file_is_compiled_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let wasm = guest("enricher");
    Engine::new(options(&cache)).unwrap().load(&wasm).unwrap();
    let files = || fs::read_dir(&cache).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    let [file] = &files()[..] else { panic!("one file: {:?}", files()) };

    // Without a compiler, only the cache can serve.
    let mut offline = options(&cache);
    offline.compiler.program = "/nonexistent/compiler".into();
    Engine::new(offline.clone()).unwrap().load(&wasm).unwrap();

    let good = fs::read(file).unwrap();
    for bad in [b"foreign".to_vec(), good[..good.len() - 1].to_vec(), [&good[..], b"x"].concat()] {
        fs::write(file, bad).unwrap();
        assert!(Engine::new(offline.clone()).unwrap().load(&wasm).is_err());
        Engine::new(options(&cache)).unwrap().load(&wasm).unwrap();
        assert_eq!(files().len(), 1);
    }
}

#[test]
fn a_component_says_what_it_is_and_what_it_reads() {
    let detector = component("detector");
    assert_eq!((detector.kind(), detector.manifest().version.as_str()), (Kind::Detector, "1.2.3"));
    assert_eq!(detector.digest().len(), 64);
    let shape = detector.probe(&id("d"), &params(&detector, &json!({})), limits()).unwrap();
    let value = Field { path: "value".to_owned(), of_type: FieldType::Number, required: true };
    assert_eq!((shape.fields, shape.adds), (vec![value], vec![]));

    let enricher = component("enricher");
    let shape = enricher.probe(&id("e"), &params(&enricher, &json!({})), limits()).unwrap();
    assert_eq!(shape.adds.iter().map(|a| a.name.as_str()).collect::<Vec<_>>(), ["double", "label"]);
}

#[test]
fn what_a_plugin_refuses_or_breaks_when_probed_is_said() {
    for (guest, behaviour, code, says) in [
        ("detector", "refuse-fields", PARAMS_REFUSED, "no such behaviour here"),
        ("detector", "refuse-configure", PARAMS_REFUSED, "\\u{1b}[31mthe author says no"),
        ("detector", "trap-configure", PARAMS_REFUSED, "configure"),
        ("detector", "loop-configure", PARAMS_REFUSED, "deadline"),
        ("detector", "bad-path", FIELD_MISMATCH, "path"),
        ("detector", "many-fields", FIELD_MISMATCH, ""),
        ("enricher", "no-name", PARAMS_REFUSED, "named"),
    ] {
        let component = component(guest);
        let wanted = params(&component, &json!({"behaviour": behaviour}));
        let limits = if behaviour == "loop-configure" { hasty() } else { limits() };
        let refusal = component.probe(&id("p"), &wanted, limits).unwrap_err();
        let right = refusal.code == code || behaviour == "many-fields";
        assert!(right && refusal.message.contains(says), "{behaviour}: {refusal}");
    }
}

/// A component of about this many bytes whose one function takes the compiler very long.
fn bomb(bytes: usize) -> Vec<u8> {
    fn number(mut n: usize) -> Vec<u8> {
        let mut out = vec![];
        while n >= 0x80 {
            out.push(n as u8 & 0x7f | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
        out
    }
    let section = |id: u8, content: Vec<u8>| [vec![id], number(content.len()), content].concat();
    // 2 parameters of i64, one i64 as result; each function multiplies and adds them over and over.
    let one = {
        let step = [0x20, 0, 0x7e, 0x20, 1, 0x7c];
        let body = [vec![0, 0x20, 0], step.repeat(1000), vec![0x0b]].concat();
        [number(body.len()), body].concat()
    };
    let count = bytes / one.len();
    let module = [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, vec![1, 0x60, 2, 0x7e, 0x7e, 1, 0x7e]),
        section(3, [number(count), vec![0; count]].concat()),
        section(10, [number(count), one.repeat(count)].concat()),
    ]
    .concat();
    [b"\0asm\x0d\0\x01\0".to_vec(), section(1, module)].concat()
}
