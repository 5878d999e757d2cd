//! The rules of the house, run as a test. Each rule is a function from files to faults, so that each has a
//! test below in which it must find one.
//!
//! Sources are read with a small scanner of Rust's tokens: comments and literals are known and left out, so a
//! rule never trips over prose. It does not expand macros; a path inside a macro's arguments is still seen.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of `src/` and their floors. A module imports from floors below its own and from its own room.
const FLOORS: [(&str, u8); 16] = [
    ("tlog", 1),
    ("event", 2),
    ("client", 3),
    ("journal", 3),
    ("process", 3),
    ("retention", 3),
    ("telemetry", 3),
    ("store", 4),
    ("access", 5),
    ("ingest", 5),
    ("query", 5),
    ("verify", 5),
    ("config", 6),
    ("service", 7),
    ("http", 8),
    ("cli", 9),
];

/// Files outside the rooms: they put the rooms together.
const ROOFS: [&str; 2] = ["src/lib.rs", "src/main.rs"];

/// The embedded store is named here and nowhere else, so that it can be replaced.
const SLED_FILES: [&str; 2] = ["src/store/sled.rs", "src/store/sled/"];

/// Where futures may be: the HTTP door, what starts it, and the ticket they wait for.
const ASYNC_FILES: [&str; 4] =
    ["src/http/", "src/cli/cmd/serve", "src/ingest/queue.rs", "src/service/append.rs"];

/// Lines above which a file needs a reason. 500 is the sign to think; this is where thinking must show.
const MAX_FILE_LINES: usize = 800;

/// Files over `MAX_FILE_LINES`, each with its reason. A file that has shrunk must leave the list.
const LONG_FILES: [(&str, &str); 0] = [];

/// Names that say nothing of what is inside.
const EMPTY_NAMES: [&str; 8] =
    ["util", "utils", "helper", "helpers", "common", "manager", "managers", "misc"];

/// Rooms that know no I/O, clock, randomness, async or serde, and what would bring it in.
const PURE_ROOMS: [&str; 2] = ["tlog", "event"];
const IMPURE_PATHS: [&str; 15] = [
    "std::fs",
    "std::io",
    "std::net",
    "std::env",
    "std::time",
    "std::thread",
    "std::process",
    "chrono",
    "getrandom",
    "rand",
    "rustix",
    "serde",
    "serde_json",
    "tokio",
    "uuid",
];

// ---------------------------------------------------------------------------------------------------------
// The rules on this repository.

#[test]
fn modules_import_from_floors_below() {
    none(floors(&rust_of(&["src"])));
}

#[test]
fn sled_is_named_in_one_file() {
    none(sled(&rust_of(&["src", "tests", "examples", "benches"])));
}

#[test]
fn futures_stay_at_the_door() {
    none(futures(&rust_of(&["src"])));
}

#[test]
fn the_core_is_pure() {
    none(purity(&rust_of(&["src"])));
}

#[test]
fn every_file_says_what_it_is() {
    none(heads(&rust_of(&["src", "tests", "tools", "examples", "benches"])));
}

#[test]
fn long_files_have_a_reason() {
    none(sizes(&rust_of(&["src", "tests", "tools", "examples", "benches"]), &LONG_FILES));
}

#[test]
fn names_say_something() {
    none(names(&rust_of(&["src", "tests", "tools", "examples", "benches"])));
}

#[test]
fn nothing_is_left_undone_or_switched_off() {
    none(leftovers(&rust_of(&["src", "tests", "tools", "examples", "benches"])));
}

#[test]
fn dependencies_say_what_they_are_for() {
    none(dependencies(&named(|path| path.ends_with("Cargo.toml"))));
}

#[test]
fn no_path_of_a_machine_is_in_the_repository() {
    none(machine_paths(&named(|_| true)));
}

#[test]
fn links_lead_somewhere() {
    none(links(&named(|path| path.ends_with(".md")), &|path| root().join(path).exists()));
}

#[test]
fn every_folder_of_vectors_is_in_the_docs() {
    let folders = fs::read_dir(root().join("tests/vectors")).unwrap().map(|entry| entry.unwrap());
    let folders = folders.filter(|entry| entry.path().is_dir());
    let folders: Vec<String> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert!(!folders.is_empty(), "tests/vectors is empty");
    none(vectors(&folders, &named(|path| path.starts_with("docs/") && path.ends_with(".md"))));
}

#[test]
fn decisions_are_numbered_without_a_gap() {
    none(decisions(&named(|path| path.starts_with("docs/decisions/"))));
}

// ---------------------------------------------------------------------------------------------------------
// The rules.

fn floors(files: &[Source]) -> Vec<String> {
    let floor_of: BTreeMap<&str, u8> = FLOORS.into_iter().collect();
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| !ROOFS.contains(&file.path.as_str())) {
        let Some(room) = file.room() else { continue };
        let Some(floor) = floor_of.get(room) else {
            faults.push(format!("{}: room {room} has no floor; give it one in tests/tidy.rs", file.path));
            continue;
        };
        for path in file.paths() {
            let Some(target) = path.in_crate(file) else { continue };
            match floor_of.get(target) {
                _ if target == room => {}
                Some(below) if below < floor => {}
                // Tests of a reader need a writer: beside, never above.
                Some(beside) if beside == floor && (path.in_tests || file.is_tests()) => {}
                Some(other) => {
                    faults
                        .push(format!("{}: {room} is on floor {floor}, {target} on {other}", path.at(file)));
                }
                None if path.is_use => {
                    faults.push(format!("{}: crate::{target} is no room", path.at(file)));
                }
                None => {}
            }
        }
    }
    faults
}

fn sled(files: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| !SLED_FILES.iter().any(|named| file.path.starts_with(named))) {
        let paths = file.paths().into_iter().filter(|path| path.segments[0] == "sled");
        let crates = paths.filter(|path| path.is_use || path.segments.len() > 1);
        faults.extend(crates.map(|path| format!("{}: sled is named", path.at(file))));
    }
    faults
}

fn futures(files: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| !ASYNC_FILES.iter().any(|named| file.path.starts_with(named))) {
        let words = file.tokens().into_iter().filter(|token| ["async", "await"].contains(&token.text));
        faults.extend(words.map(|token| format!("{}:{}: {}", file.path, token.line, token.text)));
    }
    faults
}

fn purity(files: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.room().is_some_and(|room| PURE_ROOMS.contains(&room))) {
        // What only tests see may read vectors.
        if file.is_tests() {
            continue;
        }
        for path in file.paths().into_iter().filter(|path| !path.in_tests) {
            let text = path.segments.join("::");
            let is_impure = |banned: &str| text == banned || text.starts_with(&format!("{banned}::"));
            if IMPURE_PATHS.iter().any(|banned| is_impure(banned)) {
                faults.push(format!("{}: {text} in a pure room", path.at(file)));
            }
        }
    }
    faults
}

fn heads(files: &[Source]) -> Vec<String> {
    let headless = files.iter().filter(|file| !file.text.starts_with("//! "));
    headless.map(|file| format!("{}: does not begin with //!", file.path)).collect()
}

fn sizes(files: &[Source], allowed: &[(&str, &str)]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in files {
        let lines = file.text.lines().count();
        let reason = allowed.iter().find(|(path, _)| *path == file.path).map(|(_, reason)| *reason);
        match reason {
            None if lines > MAX_FILE_LINES => {
                faults.push(format!("{}: {lines} lines and no reason", file.path));
            }
            Some("") => faults.push(format!("{}: an empty reason", file.path)),
            Some(_) if lines <= MAX_FILE_LINES => {
                faults.push(format!("{}: {lines} lines; take it off the list", file.path));
            }
            _ => {}
        }
    }
    let gone = allowed.iter().filter(|(path, _)| files.iter().all(|file| file.path != *path));
    faults.extend(gone.map(|(path, _)| format!("{path}: is on the list and not there")));
    faults
}

fn names(files: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in files {
        let words = file.path.split(['/', '.', '_']).filter(|word| EMPTY_NAMES.contains(word));
        faults.extend(words.map(|word| format!("{}: \"{word}\" says nothing", file.path)));
        for token in file.tokens() {
            if ["Manager", "Helper", "Helpers", "Utils", "Util"].iter().any(|end| token.text.ends_with(end)) {
                faults.push(format!("{}:{}: \"{}\" says nothing", file.path, token.line, token.text));
            }
        }
    }
    faults
}

fn leftovers(files: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in files {
        let tokens = file.tokens();
        for pair in tokens.windows(2) {
            if ["todo", "unimplemented", "dbg"].contains(&pair[0].text) && pair[1].text == "!" {
                faults.push(format!("{}:{}: {}!", file.path, pair[0].line, pair[0].text));
            }
        }
        for attribute in tokens.windows(3) {
            if attribute[0].text == "#" && attribute[1].text == "[" && attribute[2].text == "ignore" {
                faults.push(format!("{}:{}: a test is switched off", file.path, attribute[2].line));
            }
        }
    }
    faults
}

fn dependencies(manifests: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in manifests {
        let mut in_dependencies = false;
        for (number, line) in file.text.lines().enumerate() {
            let line = line.trim();
            if let Some(section) = line.strip_prefix('[') {
                in_dependencies = section.trim_end_matches(']').ends_with("dependencies");
            } else if in_dependencies && line.contains('=') && !line.starts_with('#') {
                let comment = line.rsplit_once("# ").map_or("", |(_, comment)| comment.trim());
                if comment.len() < 3 || comment.contains('"') {
                    faults.push(format!("{}:{}: no comment says what it is for", file.path, number + 1));
                }
            }
        }
    }
    faults
}

fn machine_paths(files: &[Source]) -> Vec<String> {
    // Put together here, so that this file does not contain them.
    let homes = ["home", "root", "work", "Users", "mnt"].map(|name| format!("/{name}/"));
    let mut faults = Vec::new();
    for file in files {
        for (number, line) in file.text.lines().enumerate() {
            for home in &homes {
                let begins = |at: usize| {
                    let before = line[..at].chars().next_back();
                    before.is_none_or(|before| !before.is_alphanumeric() && !".-_/}*>".contains(before))
                };
                if line.match_indices(home.as_str()).any(|(at, _)| begins(at)) {
                    faults.push(format!("{}:{}: {home}", file.path, number + 1));
                }
            }
        }
    }
    faults
}

fn links(documents: &[Source], exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut faults = Vec::new();
    for file in documents {
        for (line, target) in links_of(&file.text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target.as_str(), ""));
            let resolved = if path.is_empty() { Some(file.path.clone()) } else { resolve(&file.path, path) };
            let Some(resolved) = resolved.filter(|path| exists(path)) else {
                faults.push(format!("{}:{line}: {target} is not there", file.path));
                continue;
            };
            let document = documents.iter().find(|document| document.path == resolved);
            if !anchor.is_empty() && document.is_none_or(|document| !has_heading(&document.text, anchor)) {
                faults.push(format!("{}:{line}: {target} has no such heading", file.path));
            }
        }
    }
    faults
}

fn vectors(folders: &[String], documents: &[Source]) -> Vec<String> {
    let is_named = |folder: &&String| {
        let name = format!("tests/vectors/{folder}");
        documents.iter().any(|document| document.text.contains(&name))
    };
    folders
        .iter()
        .filter(|folder| !is_named(folder))
        .map(|folder| format!("tests/vectors/{folder}: in no document"))
        .collect()
}

fn decisions(files: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    let numbered = files.iter().filter(|file| !file.path.ends_with("README.md"));
    for (expected, file) in (1u32..).zip(numbered) {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        if !name.starts_with(&format!("{expected:04}-")) {
            faults.push(format!("{}: number {expected:04} was expected", file.path));
        }
    }
    faults
}

// ---------------------------------------------------------------------------------------------------------
// Each rule can fail.

fn file(path: &str, text: &str) -> Vec<Source> {
    vec![Source { path: path.to_owned(), text: text.to_owned() }]
}

fn finds(faults: &[String], count: usize) {
    assert_eq!(faults.len(), count, "{faults:#?}");
}

#[test]
fn a_floor_is_broken_in_every_spelling() {
    for (path, text) in [
        ("src/tlog/a.rs", "use crate::event::Event;"),
        ("src/tlog/a.rs", "fn f() { crate::store::page::decode(b) }"),
        ("src/tlog/a.rs", "use super::super::event;"),
        ("src/tlog/mod.rs", "pub use super::event::Event;"),
        ("src/tlog/a/b.rs", "use super::super::super::store::{page, read};"),
        ("src/tlog/a.rs", "mod tests { use super::super::super::store; }"),
        ("src/ingest/a.rs", "use crate::{tlog::hash, query::filter};"),
        ("src/journal/a.rs", "use crate::process::lock;"),
        ("src/store/a.rs", "use crate::{\n    event::{self, Event},\n    ingest as i,\n};"),
        ("src/cupboard/a.rs", ""),
        ("src/query/tests.rs", "use crate::service::Service;"),
        ("src/store/a.rs", "use crate::cupboard::Thing;"),
    ] {
        assert!(!floors(&file(path, text)).is_empty(), "{path}: {text}");
    }
    for (path, text) in [
        ("src/event/a.rs", "use crate::tlog::hash; use super::canonical; use super::super::tlog;"),
        (
            "src/store/a/b.rs",
            "use super::super::page; use crate::store::read; mod tests { use super::super::c; }",
        ),
        (
            "src/tlog/a.rs",
            "// crate::store is far above\nconst S: &str = \"crate::store\"; /* crate::event */",
        ),
        ("src/query/tests.rs", "use crate::ingest::Pipeline;"),
        ("src/verify/a.rs", "#[cfg(test)] mod tests { use crate::ingest::Pipeline; }"),
        ("src/lib.rs", "pub mod store; use crate::cli::main;"),
    ] {
        finds(&floors(&file(path, text)), 0);
    }
}

#[test]
fn sled_is_seen_as_a_crate_and_not_as_a_module() {
    for text in ["use sled::Db;", "fn f(t: &sled::Tree) {}", "use ::sled as s;", "let x = ::sled::open();"] {
        finds(&sled(&file("src/store/page.rs", text)), 1);
        finds(&sled(&file("src/store/sled.rs", text)), 0);
    }
    finds(&sled(&file("src/service/mod.rs", "use crate::store::{sled::SledBackend, page}; mod sled;")), 0);
}

#[test]
fn a_future_is_seen() {
    finds(&futures(&file("src/store/read.rs", "async fn f() { g().await }")), 2);
    finds(&futures(&file("src/http/routes/log.rs", "async fn f() { g().await }")), 0);
    finds(
        &futures(&file("src/store/read.rs", "/// async in prose\nfn f() -> &'static str { \"await\" }")),
        0,
    );
}

#[test]
fn impurity_is_seen_outside_of_tests() {
    finds(
        &purity(&file("src/tlog/a.rs", "use std::{fs::File, fmt}; fn f() { std::time::Instant::now() }")),
        2,
    );
    finds(&purity(&file("src/event/a.rs", "#[cfg(test)] mod tests { use std::fs; }")), 0);
    finds(&purity(&file("src/event/a.rs", "use std::fmt; use crate::tlog;")), 0);
}

#[test]
fn the_other_rules_find_their_fault() {
    finds(&heads(&file("src/a.rs", "// no head\n")), 1);
    finds(&heads(&file("src/a.rs", "//! A head.\n")), 0);
    let long = file("src/a.rs", &"x\n".repeat(MAX_FILE_LINES + 1));
    finds(&sizes(&long, &[]), 1);
    finds(&sizes(&long, &[("src/a.rs", "")]), 1);
    finds(&sizes(&long, &[("src/a.rs", "a table")]), 0);
    finds(&sizes(&file("src/a.rs", ""), &[("src/a.rs", "a table")]), 1);
    finds(&sizes(&[], &[("src/a.rs", "a table")]), 1);
    finds(&names(&file("src/store/utils.rs", "")), 1);
    finds(&names(&file("src/common/a.rs", "struct LayerManager;")), 2);
    finds(&names(&file("src/store/a.rs", "// a Manager\nstruct Managed;")), 0);
    finds(&leftovers(&file("src/a.rs", "fn f() { todo!() } fn g() { dbg!(1); unimplemented!(\"x\") }")), 3);
    finds(&leftovers(&file("src/a.rs", "#[test]\n#[ignore]\nfn f() {}\n#[ignore = \"slow\"]\nfn g() {}")), 2);
    finds(&leftovers(&file("src/a.rs", "// todo!()\nlet todo = 1;")), 0);
    let manifest = "[dependencies]\na = \"1\"\nb = { version = \"1\" } # RFC 4648\n[features]\nc = []\n";
    finds(&dependencies(&file("Cargo.toml", manifest)), 1);
    let home = format!("see /{}/me/x and a/{}/b", "home", "home");
    finds(&machine_paths(&file("README.md", &home)), 1);
    finds(&vectors(&["tlog".to_owned(), "page".to_owned()], &file("docs/F.md", "`tests/vectors/tlog`")), 1);
    finds(&decisions(&file("docs/decisions/0002-x.md", "")), 1);
    finds(&decisions(&file("docs/decisions/0001-x.md", "")), 0);
}

#[test]
fn a_dead_link_is_seen() {
    let text = "# One thing\n[a](b.md) [c](../src/d.rs) [e](https://x.y) [f](#one-thing) [g](#other)\n\
        ```\n[not](a-link.md)\n```\n`[nor](this.md)`\n";
    let exists = |path: &str| path == "src/d.rs" || path == "docs/A.md";
    let faults = links(&file("docs/A.md", text), &exists);
    finds(&faults, 2);
    assert!(faults[0].contains("b.md") && faults[1].contains("#other"), "{faults:?}");
    finds(&links(&file("A.md", "[out](../../x)"), &|_| true), 1);
}

// ---------------------------------------------------------------------------------------------------------
// Files.

/// A file of the repository: path from the root with `/`, and text.
struct Source {
    path: String,
    text: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The text files of the repository whose path is wanted, in order of path.
fn named(is_wanted: impl Fn(&str) -> bool) -> Vec<Source> {
    let mut paths = BTreeSet::new();
    walk(&root(), &mut paths);
    let wanted = paths.into_iter().filter(|path| is_wanted(path));
    let read = |path: String| Some(Source { text: fs::read_to_string(root().join(&path)).ok()?, path });
    let files: Vec<Source> = wanted.filter_map(read).collect();
    assert!(!files.is_empty(), "no file is looked at");
    files
}

fn rust_of(folders: &[&str]) -> Vec<Source> {
    named(|path| {
        path.ends_with(".rs") && folders.iter().any(|folder| path.starts_with(&format!("{folder}/")))
    })
}

/// Everything but what git does not keep.
fn walk(folder: &Path, paths: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if [".git", "target", "varve-data"].contains(&name) || name.starts_with("proptest-regressions") {
            continue;
        }
        if path.is_dir() {
            walk(&path, paths);
        } else {
            paths.insert(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
        }
    }
}

fn none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

// ---------------------------------------------------------------------------------------------------------
// Rust, as far as the rules need it.

/// A word, `::`, or one other character.
#[derive(Clone, Copy)]
struct Token<'a> {
    text: &'a str,
    line: usize,
}

impl Token<'_> {
    fn is_word(&self) -> bool {
        self.text.starts_with(|first: char| first.is_alphabetic() || first == '_')
    }
}

/// A path as written, one a leaf of a `use` tree.
struct UsedPath<'a> {
    segments: Vec<&'a str>,
    line: usize,
    is_use: bool,
    /// Inside `mod tests`.
    in_tests: bool,
    /// How many inline modules it stands in.
    nested: usize,
}

impl UsedPath<'_> {
    fn at(&self, file: &Source) -> String {
        format!("{}:{}", file.path, self.line)
    }

    /// First segment after the crate's root, where the path begins there.
    fn in_crate(&self, file: &Source) -> Option<&str> {
        if matches!(self.segments[0], "crate" | "varve") {
            return self.segments.get(1).copied();
        }
        let supers = self.segments.iter().take_while(|segment| **segment == "super").count();
        (supers > 0 && supers == file.depth() + self.nested).then(|| self.segments.get(supers).copied())?
    }
}

impl Source {
    /// First folder below `src`, or the file there.
    fn room(&self) -> Option<&str> {
        self.path.strip_prefix("src/")?.split(['/', '.']).next()
    }

    /// Modules from the crate's root down to this file's.
    fn depth(&self) -> usize {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let names = inside.trim_end_matches(".rs").split('/');
        names.filter(|name| *name != "mod").count()
    }

    /// Whether only tests see it.
    fn is_tests(&self) -> bool {
        self.path.contains("/tests/")
            || self.path.ends_with("/tests.rs")
            || self.path.ends_with("/vectors.rs")
    }

    fn tokens(&self) -> Vec<Token<'_>> {
        tokens(&self.text)
    }

    fn paths(&self) -> Vec<UsedPath<'_>> {
        paths(&self.tokens())
    }
}

/// Words and punctuation outside of comments and literals.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let bytes = text.as_bytes();
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    while at < bytes.len() {
        let rest = &text[at..];
        let first = rest.chars().next().unwrap();
        let end = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(literal) = literal(rest) {
            literal
        } else if first.is_alphanumeric() || first == '_' {
            let end = rest.find(|next: char| !next.is_alphanumeric() && next != '_').unwrap_or(rest.len());
            found.push(Token { text: &rest[..end], line });
            end
        } else if rest.starts_with("::") {
            found.push(Token { text: "::", line });
            2
        } else {
            if !first.is_whitespace() {
                found.push(Token { text: &rest[..first.len_utf8()], line });
            }
            first.len_utf8()
        };
        line += rest[..end].matches('\n').count();
        at += end;
    }
    found
}

/// Length of the block comment that `rest` begins with; they nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// Length of the string or character that `rest` begins with; `None` if it begins with neither.
fn literal(rest: &str) -> Option<usize> {
    let prefix = ["b", "c", ""].iter().find(|prefix| {
        let after = rest.strip_prefix(**prefix).unwrap_or_default();
        after.starts_with(['"', '\'']) || after.starts_with("r\"") || after.starts_with("r#")
    })?;
    let body = &rest[prefix.len()..];
    if let Some(raw) = body.strip_prefix('r') {
        let hashes = raw.bytes().take_while(|byte| *byte == b'#').count();
        let close = format!("\"{}", "#".repeat(hashes));
        let inside = raw[hashes..].strip_prefix('"')?;
        return Some(prefix.len() + 1 + hashes + 1 + inside.find(&close)? + close.len());
    }
    let quote = body.chars().next()?;
    let mut escaped = false;
    if quote == '\'' {
        // 'a is a lifetime, 'a' a character.
        let mut inside = body[1..].chars();
        let (first, second) = (inside.next()?, inside.next()?);
        if first != '\\' && second != '\'' {
            return None;
        }
    }
    for (at, next) in body.char_indices().skip(1) {
        match next {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if next == quote => return Some(prefix.len() + at + 1),
            _ => {}
        }
    }
    Some(rest.len())
}

/// All paths, `use` trees taken apart.
fn paths<'a>(tokens: &[Token<'a>]) -> Vec<UsedPath<'a>> {
    let mut found = Vec::new();
    let mut braces: Vec<Option<&str>> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let modules = || braces.iter().flatten();
        let (nested, in_tests) = (modules().count(), modules().any(|name| *name == "tests"));
        let token = tokens[at];
        match token.text {
            "use" if tokens.get(at + 1).is_none_or(|next| next.text != "<") /* `+ use<…>` */ => {
                let mut leaves = Vec::new();
                at = use_tree(tokens, at + 1, &[], &mut leaves);
                found.extend(leaves.into_iter().filter(|leaf| !leaf.is_empty()).map(|segments| UsedPath {
                    segments,
                    line: token.line,
                    is_use: true,
                    in_tests,
                    nested,
                }));
                continue;
            }
            "mod" if tokens.get(at + 2).is_some_and(|next| next.text == "{") => {
                braces.push(Some(tokens[at + 1].text));
                at += 3;
                continue;
            }
            "{" => braces.push(None),
            "}" => drop(braces.pop()),
            _ if token.is_word() => {
                let mut segments = vec![token.text];
                while let [colons, word, ..] = &tokens[at + 1..]
                    && colons.text == "::"
                    && word.is_word()
                {
                    segments.push(word.text);
                    at += 2;
                }
                found.push(UsedPath { segments, line: token.line, is_use: false, in_tests, nested });
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Reads one branch of a `use` tree and returns where it ends.
fn use_tree<'a>(
    tokens: &[Token<'a>],
    mut at: usize,
    prefix: &[&'a str],
    leaves: &mut Vec<Vec<&'a str>>,
) -> usize {
    let mut path = prefix.to_vec();
    while let Some(token) = tokens.get(at) {
        match token.text {
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    at = use_tree(tokens, at, &path, leaves);
                    if tokens.get(at).is_some_and(|token| token.text == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "as" => at += 1,
            "::" | "*" => {}
            "," | "}" | ";" => break,
            word => path.push(word),
        }
        at += 1;
    }
    leaves.push(path);
    at
}

// ---------------------------------------------------------------------------------------------------------
// Markdown, as far as the rules need it.

/// Targets of `[text](target)` outside of code, each with its line.
fn links_of(text: &str) -> Vec<(usize, String)> {
    let (mut found, mut in_code) = (Vec::new(), false);
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for part in prose.split("](").skip(1) {
            if let Some((target, _)) = part.split_once(')') {
                found.push((number + 1, target.to_owned()));
            }
        }
    }
    found
}

/// `path` as seen from `from`; `None` when it leaves the repository.
fn resolve(from: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        match part {
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

fn has_heading(text: &str, anchor: &str) -> bool {
    let slug = |heading: &str| -> String {
        let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
    };
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| slug(line.trim_start_matches('#'))).any(|heading| heading == anchor)
}
