//! The schema that is checked in: what the reader asks for, and what every shipped file satisfies.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn checked_in() -> Value {
    serde_json::from_str(&fs::read_to_string(here("schema.json")).unwrap()).unwrap()
}

#[test]
fn the_schema_checked_in_is_what_the_reader_asks_for() {
    let text = fs::read_to_string(here("schema.json")).unwrap_or_default();
    let fresh = format!("{:#}\n", interdict_policy::schema());
    assert!(text == fresh, "policy/schema.json is old; run: cargo run -- schema > policy/schema.json");
}

fn toml_files(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    files.sort();
    files
}

#[test]
fn every_shipped_file_satisfies_it() {
    let schema = jsonschema::validator_for(&checked_in()).unwrap();
    let folders = ["packs", "../examples", "../examples/another-vendor"];
    let files: Vec<PathBuf> = folders.iter().flat_map(|folder| toml_files(&here(folder))).collect();
    assert!(files.len() >= 11, "{files:?}");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let value = as_json(toml::Value::Table(text.parse().unwrap()));
        let errors: Vec<String> =
            schema.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert_eq!(errors, Vec::<String>::new(), "{}", file.display());
    }
}

#[test]
fn a_slip_does_not_satisfy_it() {
    let schema = jsonschema::validator_for(&checked_in()).unwrap();
    let good = "format = 1\n[[rule]]\nid = \"a\"\nrole = \"x\"\naction = \"block\"\nhosts = [\"a.test\"]\n";
    for (from, to, fits) in [
        ("", "", true),
        ("format = 1\n", "", false),
        ("[[rule]]", "[ban]\nid = \"a\"\nvendor = \"A\"\n[[rule]]", true),
        ("[[rule]]", "[ban]\nid = \"a\"\n[[rule]]", false),
        ("action", "acton", false),
        ("\"block\"", "\"blok\"", false),
        ("[\"a.test\"]", "\"a.test\"", false),
        ("hosts", "answer = { a = \"192.0.2.1\" }\nhosts", true),
        ("hosts", "answer = { b = \"192.0.2.1\" }\nhosts", false),
        ("hosts", "answer = \"null\"\nhosts", true),
    ] {
        let value = as_json(toml::Value::Table(good.replacen(from, to, 1).parse().unwrap()));
        assert_eq!(schema.is_valid(&value), fits, "{from} -> {to}");
    }
}

fn as_json(value: toml::Value) -> Value {
    match value {
        toml::Value::Table(table) => table.into_iter().map(|(key, value)| (key, as_json(value))).collect(),
        toml::Value::Array(values) => values.into_iter().map(as_json).collect(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(flag) => flag.into(),
    }
}
