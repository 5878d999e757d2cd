//! The layers of a configuration, one over the other: default, file, environment, flags. Each layer is checked whole,
//! also where a later one wins: a key that is wrong is wrong.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::keys::{FLAGS_ALONE, KEYS, Key, named};
use super::nearest::nearest;
use super::value::{Unfit, Value};
use super::{CONFIG_ENV, ConfigError, ENV_PREFIX};
use crate::event::printable;

/// Largest file: every key on a line of a long path each has under 100 KiB.
const MAX_FILE_BYTES: usize = 128 * 1024;

/// Who set a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Nobody.
    Default,
    /// A line of the file.
    File(String),
    /// A variable.
    Environment(String),
    /// A flag.
    Flag(String),
}

impl Origin {
    /// `default`, `varve.toml:3`, `VARVE_DATA` or `--data`.
    pub fn shown(&self) -> &str {
        match self {
            Origin::Default => "default",
            Origin::File(place) | Origin::Environment(place) | Origin::Flag(place) => place,
        }
    }
}

/// A key, its value and where it comes from.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The key.
    pub key: &'static Key,
    /// Its value; `None` where none was given and there is no default.
    pub value: Option<Value>,
    /// Who set it.
    pub origin: Origin,
}

/// All keys with their effective values, in the order of [`KEYS`].
#[derive(Clone, Debug)]
pub struct Settings(Vec<Setting>);

/// A name with the text that was given for it.
pub type Given = (String, OsString);

/// What is laid over the defaults.
pub struct Layers<'a> {
    /// The file named by a flag. `VARVE_CONFIG` names one if this does not.
    pub file: Option<&'a Path>,
    /// Variables of the process, those of others among them.
    pub environment: Vec<(OsString, OsString)>,
    /// Variables with our prefix that other commands read.
    pub foreign: Vec<String>,
    /// Flags: the name of a key and what was given.
    pub flags: Vec<Given>,
}

type Layer = BTreeMap<&'static str, (Value, Origin)>;

impl Settings {
    /// Reads and checks all layers.
    ///
    /// # Errors
    /// The file cannot be read or is not TOML; a key is not known; a value is not taken.
    pub fn gather(layers: &Layers<'_>) -> Result<Settings, ConfigError> {
        let (environment, named_file) = environment(&layers.environment, &layers.foreign)?;
        let file = match layers.file.map(Path::to_owned).or(named_file) {
            Some(path) => file(&path)?,
            None => Layer::new(),
        };
        let flags = flags(&layers.flags)?;
        let settings = KEYS.iter().map(|key| {
            let given = flags.get(key.name).or(environment.get(key.name)).or(file.get(key.name));
            match given.cloned() {
                Some((value, origin)) => Setting { key, value: Some(value), origin },
                None => Setting { key, value: Value::default_of(key), origin: Origin::Default },
            }
        });
        Ok(Settings(settings.collect()))
    }

    /// One after the other, in the order of [`KEYS`].
    pub fn iter(&self) -> impl Iterator<Item = &Setting> {
        self.0.iter()
    }

    fn setting(&self, name: &str) -> &Setting {
        self.0.iter().find(|setting| setting.key.name == name).expect("the key is in the table")
    }

    /// Where the key was set, and which it is: `varve.toml:3: listen`, `VARVE_LISTEN`, `--listen`.
    pub fn place(&self, name: &str) -> String {
        let setting = self.setting(name);
        match &setting.origin {
            Origin::Default => name.to_owned(),
            Origin::File(place) => format!("{place}: {name}"),
            Origin::Environment(variable) => variable.clone(),
            Origin::Flag(flag) => flag.clone(),
        }
    }

    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        match &self.setting(name).value {
            Some(Value::Path(path)) => Some(path.clone()),
            None => None,
            Some(_) => unreachable!("{name} is no path"),
        }
    }

    pub(super) fn address(&self, name: &str) -> Option<SocketAddr> {
        match self.setting(name).value {
            Some(Value::Address(address)) => Some(address),
            None => None,
            Some(_) => unreachable!("{name} is no address"),
        }
    }

    pub(super) fn switch(&self, name: &str) -> bool {
        self.setting(name).value == Some(Value::Switch(true))
    }

    pub(super) fn text(&self, name: &str) -> &str {
        match &self.setting(name).value {
            Some(Value::Text(text)) => text,
            _ => unreachable!("{name} is no text"),
        }
    }

    pub(super) fn number(&self, name: &str) -> u64 {
        match self.setting(name).value {
            Some(Value::Number(number)) => number,
            _ => unreachable!("{name} is no number"),
        }
    }

    /// A `varve.toml` with every effective value, and behind it where it comes from.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        for Setting { key, value, origin } in self.iter() {
            let written = match value {
                Some(value) => writeln!(text, "{} = {value}  # {}", key.name, printable(origin.shown())),
                None => writeln!(text, "# {} is not set", key.name),
            };
            debug_assert!(written.is_ok(), "writing to a string does not fail");
        }
        text
    }
}

/// What the file says.
fn file(path: &Path) -> Result<Layer, ConfigError> {
    let shown = printable(&path.to_string_lossy());
    let text = read(path).map_err(|error| {
        ConfigError::new(
            format!("{shown} cannot be read: {error}"),
            "--config and VARVE_CONFIG name a file that is there; without them no file is read",
        )
    })?;
    parse(&shown, &text)
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("it has over {MAX_FILE_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8"))
}

/// Reads `text`, the content of the file that is shown as `shown`.
pub(super) fn parse(shown: &str, text: &str) -> Result<Layer, ConfigError> {
    let line_at = |offset: usize| {
        1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
    };
    let table = DeTable::parse(text).map_err(|error| {
        // The parser's own text may quote the line, so only the place is told.
        let line = error.span().map_or(1, |span| line_at(span.start));
        ConfigError::new(
            format!("{shown}:{line}: is not TOML"),
            "a line is such as `heartbeat_seconds = 60`, and a key stands once",
        )
    })?;
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    let mut layer = Layer::new();
    for (name, value) in entries {
        let place = format!("{shown}:{}", line_at(name.span().start));
        let name = name.get_ref();
        let key = named(name).ok_or_else(|| unknown(&format!("{place}: {}", shortened(name)), name))?;
        let value = Value::from_toml(key, value.get_ref())
            .map_err(|unfit| not_taken(&format!("{place}: {}", key.name), key, &unfit))?;
        layer.insert(key.name, (value, Origin::File(place)));
    }
    Ok(layer)
}

/// What the environment says, and the file that it names. A variable that is empty is as if it were not there.
fn environment(
    variables: &[(OsString, OsString)],
    foreign: &[String],
) -> Result<(Layer, Option<PathBuf>), ConfigError> {
    let mut layer = Layer::new();
    let mut file = None;
    let mut variables: Vec<_> = variables.iter().collect();
    variables.sort();
    for (variable, value) in variables {
        let Some(variable) = variable.to_str().filter(|variable| variable.starts_with(ENV_PREFIX)) else {
            continue;
        };
        if value.is_empty()
            || foreign.iter().any(|known| known == variable)
            || is_of_an_orchestrator(variable, value)
        {
            continue;
        }
        if variable == CONFIG_ENV {
            file = Some(PathBuf::from(value));
            continue;
        }
        let Some(key) = KEYS.iter().find(|key| key.env() == variable) else {
            let known: Vec<String> = KEYS.iter().map(Key::env).collect();
            let near = nearest(variable, known.iter().map(String::as_str)).map(str::to_owned);
            return Err(unknown_near(&shortened(variable), near));
        };
        let value = Value::from_text(key, value).map_err(|unfit| not_taken(variable, key, &unfit))?;
        layer.insert(key.name, (value, Origin::Environment(variable.to_owned())));
    }
    Ok((layer, file))
}

/// Kubernetes gives every container the addresses of its services. For one named `varve` they begin like ours.
fn is_of_an_orchestrator(variable: &str, value: &OsStr) -> bool {
    let is_link = value.to_str().is_some_and(|value| value.contains("://"));
    let numbered =
        variable.split("_PORT_").skip(1).any(|rest| rest.starts_with(|first: char| first.is_ascii_digit()));
    variable.contains("_SERVICE_HOST")
        || variable.contains("_SERVICE_PORT")
        || numbered
        || (variable.ends_with("_PORT") && is_link)
}

fn flags(given: &[Given]) -> Result<Layer, ConfigError> {
    let mut layer = Layer::new();
    for (name, value) in given {
        let key = named(name).expect("the command line offers keys of the table");
        let flag = format!("--{}", key.flag());
        let value = Value::from_text(key, value).map_err(|unfit| not_taken(&flag, key, &unfit))?;
        layer.insert(key.name, (value, Origin::Flag(flag)));
    }
    Ok(layer)
}

fn not_taken(place: &str, key: &Key, unfit: &Unfit) -> ConfigError {
    let wanted = key.wanted();
    let message = match &unfit.number {
        Some(number) => format!("{place} is {number}, and takes {wanted}"),
        None => format!("{place} takes {wanted}"),
    };
    let default = key
        .default_text()
        .map_or("it may be left out".to_owned(), |default| format!("left out, it is {default}"));
    ConfigError::new(message, format!("{default}; `varve serve --help` says what it is for"))
}

fn unknown(place: &str, name: &str) -> ConfigError {
    if FLAGS_ALONE.contains(&name.replace('-', "_").as_str()) {
        let flag = name.replace('_', "-");
        return ConfigError::new(
            format!("{place} is no key: it is for one start"),
            format!("give it as the flag --{flag}"),
        );
    }
    unknown_near(place, nearest(name, KEYS.iter().map(|key| key.name)).map(str::to_owned))
}

fn unknown_near(place: &str, near: Option<String>) -> ConfigError {
    let hint = match near {
        Some(near) => format!("did you mean {near}? `varve serve --help` lists all keys"),
        None => "`varve serve --help` lists all keys".to_owned(),
    };
    ConfigError::new(format!("{place} is no key of Varve"), hint)
}

/// A name as an error shows it: whatever it is, at most 64 characters on one line.
fn shortened(name: &str) -> String {
    let shown: String = name.chars().take(64).collect();
    printable(&shown)
}
