//! JSON documents held against the schemas in `docs/schema`.

use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

pub const ENFTUNCTL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/schema/enftunctl.schema.json");
pub const ROUTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/schema/enftun-router.schema.json");

/// Why nothing can be held against a schema here.
pub fn no_validator() -> Option<&'static str> {
    let module = Path::new("/usr/lib/python3/dist-packages/jsonschema");
    (!module.exists()).then_some("python3-jsonschema is missing")
}

/// What is wrong with each document, as the definition of the schema has it; nothing, if it is right.
pub fn faults(schema: &str, definition: &str, documents: &[Value]) -> Vec<String> {
    // Debian's own, which has Debian's modules: another may come first in PATH.
    let mut validator = Command::new("/usr/bin/python3");
    validator.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/json_schema.py")).args([schema, definition]);
    let mut validator = validator.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines: String = documents.iter().map(|document| format!("{document}\n")).collect();
    validator.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = validator.wait_with_output().unwrap();
    assert!(output.status.success(), "the validator failed");
    let faults: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(faults.len(), documents.len());
    faults
}

/// Each document is as the definition has it, which would notice a key more, and a key less.
#[track_caller]
pub fn hold(schema: &str, definition: &str, documents: &[Value]) {
    assert!(!documents.is_empty(), "{definition}: nothing to look at");
    let all: Vec<_> = documents.iter().cloned().chain(documents.iter().flat_map(mutations)).collect();
    for (at, (document, fault)) in all.iter().zip(faults(schema, definition, &all)).enumerate() {
        let right = at < documents.len();
        assert_eq!(fault.is_empty(), right, "{definition}: {fault:?} of {document:#}");
    }
}

/// The document with one more key, and without its first.
fn mutations(document: &Value) -> [Value; 2] {
    let (mut more, mut less) = (document.clone(), document.clone());
    more["unheard_of"] = Value::Null;
    let object = less.as_object_mut().unwrap();
    let first = object.keys().next().unwrap().clone();
    object.remove(&first);
    [more, less]
}

/// One document, or one a line.
pub fn documents(text: &str) -> Vec<Value> {
    serde_json::Deserializer::from_str(text).into_iter().map(|document| document.unwrap()).collect()
}
