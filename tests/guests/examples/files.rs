//! A detector that tries to read the host's files and to reach the network: refused at load for what it imports.

use std::io::Read;

use phronis_guests::PARAMS_SCHEMA;

wit_bindgen::generate!({ path: "../../wit", world: "detector" });

use exports::phronis::plugin::detecting::Guest as Detecting;
use exports::phronis::plugin::lifecycle::Guest as Lifecycle;
use phronis::plugin::types::{Batch, Field, Judgement, Kind, Manifest};

struct Detector;
export!(Detector);

impl Lifecycle for Detector {
    fn describe() -> Manifest {
        Manifest {
            name: "guest-files".to_owned(),
            version: "1.2.3".to_owned(),
            kind: Kind::Detector,
            params_schema: PARAMS_SCHEMA.to_owned(),
            stateful: false,
        }
    }

    fn fields(_: String) -> Result<Vec<Field>, String> {
        Ok(vec![])
    }

    fn configure(_: String) -> Result<(), String> {
        Ok(())
    }
}

impl Detecting for Detector {
    fn detect(_: Batch) -> Result<Judgement, String> {
        let secret = std::fs::read_to_string("/etc/passwd").map_err(|e| e.to_string())?;
        let mut page = String::new();
        let mut stream = std::net::TcpStream::connect("127.0.0.1:80").map_err(|e| e.to_string())?;
        stream.read_to_string(&mut page).map_err(|e| e.to_string())?;
        Err(secret + &page)
    }
}
