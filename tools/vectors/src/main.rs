//! Writes the vectors under `tests/vectors`, or fails when they are stale.
//!
//! `cargo run -p varve-vectors` writes them; with `--check` it compares and exits 1 on a difference.
//! A vector is one JSON file for one rule or one fault. What is expected stands in this program as a
//! literal and is held against what the code answers: a vector whose expectation is wrong is never written.

mod event;
mod tlog;
mod vector;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io};

use vector::File;

fn main() -> ExitCode {
    let check = match env::args().nth(1).as_deref() {
        None => false,
        Some("--check") => true,
        Some(_) => {
            eprintln!("usage: varve-vectors [--check]");
            return ExitCode::from(2);
        }
    };
    let (directory, files) = (directory(), files());
    let differences = match differences(&directory, &files) {
        Ok(differences) => differences,
        Err(error) => {
            eprintln!("cannot read {}: {error}", directory.display());
            return ExitCode::from(2);
        }
    };
    if check {
        differences.iter().for_each(|difference| eprintln!("{difference}"));
        if !differences.is_empty() {
            eprintln!(
                "hint: cargo run -p varve-vectors writes them; look at the difference before committing it"
            );
            return ExitCode::FAILURE;
        }
        println!("{} vectors are current", files.len());
        return ExitCode::SUCCESS;
    }
    match write(&directory, &files) {
        Ok(()) => {
            println!("{} vectors written, {} differed", files.len(), differences.len());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cannot write {}: {error}", directory.display());
            ExitCode::from(2)
        }
    }
}

/// Every vector of every room.
fn files() -> Vec<File> {
    let events = event::vectors().into_iter();
    let events = events.map(|(name, text)| File { path: format!("event/{name}"), text });
    events.chain(tlog::files()).collect()
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors")
}

/// What differs between `files` and the directory: missing, stale, or there without being made here.
fn differences(directory: &Path, files: &[File]) -> io::Result<Vec<String>> {
    let mut differences = Vec::new();
    for file in files {
        match fs::read_to_string(directory.join(&file.path)) {
            Ok(text) if text == file.text => (),
            Ok(_) => differences.push(format!("stale: {}", file.path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                differences.push(format!("missing: {}", file.path));
            }
            Err(error) => return Err(error),
        }
    }
    for path in strangers(directory, files)? {
        differences.push(format!("not made here: {path}"));
    }
    Ok(differences)
}

/// Writes all files, and removes those of the same rooms that are no longer made.
fn write(directory: &Path, files: &[File]) -> io::Result<()> {
    for path in strangers(directory, files)? {
        fs::remove_file(directory.join(path))?;
    }
    for file in files {
        let path = directory.join(&file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, &file.text)?;
    }
    Ok(())
}

/// Files in the rooms' folders that no room makes.
fn strangers(directory: &Path, files: &[File]) -> io::Result<Vec<String>> {
    let rooms: BTreeSet<&str> = files.iter().filter_map(|file| Some(file.path.split_once('/')?.0)).collect();
    let made: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut strangers = Vec::new();
    for room in rooms {
        let folder = directory.join(room);
        if !folder.exists() {
            continue;
        }
        for entry in fs::read_dir(folder)? {
            let path = format!("{room}/{}", entry?.file_name().to_string_lossy());
            if !made.contains(path.as_str()) {
                strangers.push(path);
            }
        }
    }
    strangers.sort();
    Ok(strangers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_vectors_are_current() {
        let differences = differences(&directory(), &files()).unwrap();
        assert!(differences.is_empty(), "{differences:#?}");
    }

    #[test]
    fn a_difference_is_seen() {
        let directory = env::temp_dir().join(format!("varve-vectors-{}", std::process::id()));
        let file = |path: &str, text: &str| File { path: path.into(), text: text.into() };
        let files = [file("room/a.json", "{}\n"), file("room/b.json", "{}\n")];
        assert_eq!(
            differences(&directory, &files).unwrap(),
            ["missing: room/a.json", "missing: room/b.json"]
        );
        write(&directory, &files).unwrap();
        assert!(differences(&directory, &files).unwrap().is_empty());
        fs::write(directory.join("room/a.json"), "{ }\n").unwrap();
        fs::write(directory.join("room/c.json"), "{}\n").unwrap();
        let seen = differences(&directory, &files).unwrap();
        write(&directory, &files).unwrap();
        let after = differences(&directory, &files).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(seen, ["stale: room/a.json", "not made here: room/c.json"]);
        assert!(after.is_empty());
    }
}
