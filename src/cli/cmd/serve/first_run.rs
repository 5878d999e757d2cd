//! The first run: a store is made, its operator key reaches its owner alone, and what to try is said.

use std::fs::{File, OpenOptions as FileOptions};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::super::super::args::DEFAULT_URL;
use super::super::super::output::{Failure, Output};
use crate::service::{OpenOptions, Service};

/// What the first run made.
pub(super) struct FirstRun {
    pub(super) operator_key: String,
    /// Where the key was written, unless it is shown.
    pub(super) key_file: Option<PathBuf>,
}

/// Makes the store where there is none.
pub(super) fn make_if_absent(
    data: &Path,
    must_exist: bool,
    output: &Output,
) -> Result<Option<FirstRun>, Failure> {
    let shown = data.display();
    if Service::is_initialised(data) {
        return Ok(None);
    }
    if must_exist {
        return Err(Failure::new(
            format!("{shown} holds no store, and must_exist forbids making one"),
            "check data: is the disk mounted? A new store would start every log again",
        ));
    }
    let made = Service::init(data, None, None, &OpenOptions::default())?;
    output.say(&format!("made the store {shown} of instance {}", made.instance));
    // Before anything else can fail: there is no second chance to see it.
    let key_file = if std::io::stderr().is_terminal() {
        output.say(&format!(
            "the operator key, shown once, cannot be read again:\n\n  {}\n",
            made.operator_key
        ));
        None
    } else {
        Some(write_key(data, &made.operator_key)?)
    };
    Ok(Some(FirstRun { operator_key: made.operator_key, key_file }))
}

/// Writes the operator key where only its owner reads it.
fn write_key(data: &Path, key: &str) -> Result<PathBuf, Failure> {
    let path = data.join("operator.key");
    let written =
        FileOptions::new().write(true).create_new(true).mode(0o600).open(&path).and_then(|mut file| {
            file.write_all(key.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            File::open(data)?.sync_all()
        });
    match written {
        Ok(()) => Ok(path),
        Err(error) => Err(Failure::new(
            format!("the store was made, but {} cannot be written: {error}", path.display()),
            format!("`varve operator-key reset {}` makes another operator key", data.display()),
        )),
    }
}

/// What to try on a store that was just made. Each line is a command that works as it stands.
pub(super) fn welcome(data: &Path, url: &str, run: &FirstRun) -> String {
    let mut lines = Vec::new();
    let take_key = match &run.key_file {
        Some(path) => {
            lines.push(format!(
                "the operator key is in {}; keep it elsewhere and delete the file",
                path.display()
            ));
            format!("export VARVE_KEY=$(cat {})", quoted(path))
        }
        None => format!("export VARVE_KEY={}", run.operator_key),
    };
    lines.push("try, in another terminal:".to_owned());
    lines.push(String::new());
    if url != DEFAULT_URL {
        lines.push(format!("  export VARVE_URL={url}"));
    }
    let varve = own_name();
    lines.push(format!("  {take_key}"));
    lines.push(format!("  {varve} tenant create acme"));
    lines.push(format!(
        "  export VARVE_KEY=$({varve} key create --tenant acme --name first --scope ingest,read,verify)"
    ));
    lines.push(format!("  echo '{EXAMPLE}' | {varve} append --tenant acme"));
    lines.push(format!("  {varve} query --tenant acme --action 'authn.*'"));
    lines.push(String::new());
    lines.push("stop the server with Ctrl-C, then check what it kept:".to_owned());
    lines.push(String::new());
    lines.push(format!("  {varve} verify {}", quoted(data)));
    lines.push(String::new());
    lines.join("\n")
}

/// The first event of most users.
const EXAMPLE: &str = r#"{"action":"authn.login","outcome":"failure","actor":{"type":"user","id":"u-17"},"context":{"ip":"203.0.113.9"}}"#;

/// How this program is called again: `varve` where it was found by name, else the path that was used.
fn own_name() -> String {
    let called = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    if called.components().count() > 1 { quoted(&called) } else { "varve".to_owned() }
}

/// `path` as one word of a shell.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/+:".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_one_word_of_a_shell() {
        assert_eq!(quoted(Path::new("./varve-data")), "./varve-data");
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
        assert_eq!(quoted(Path::new("$HOME")), "'$HOME'");
    }

    #[test]
    fn the_welcome_shows_the_key_on_a_terminal_only() {
        let seen = FirstRun { operator_key: "varve_k".into(), key_file: None };
        let text = welcome(Path::new("./varve-data"), DEFAULT_URL, &seen);
        assert!(text.contains("export VARVE_KEY=varve_k\n") && !text.contains("VARVE_URL"));

        let hidden = FirstRun { operator_key: "varve_k".into(), key_file: Some("d x/operator.key".into()) };
        let text = welcome(Path::new("d x"), "http://127.0.0.1:9", &hidden);
        assert!(!text.contains("varve_k"), "{text}");
        assert!(text.contains("export VARVE_URL=http://127.0.0.1:9\n"));
        assert!(text.contains("$(cat 'd x/operator.key')") && text.contains(" verify 'd x'"));
    }

    #[test]
    fn the_key_file_is_its_owners_and_never_overwritten() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = write_key(dir.path(), "varve_k").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "varve_k\n");
        let again = write_key(dir.path(), "varve_other").unwrap_err();
        assert!(again.hint.contains("operator-key reset") && !again.message.contains("varve_other"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "varve_k\n");
    }
}
