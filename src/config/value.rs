//! What a key takes: from text (environment, flag) and from TOML.

use std::ffi::OsStr;
use std::fmt;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::keys::{Key, Kind, MAX_TEXT_BYTES};

/// Longest path: what Linux takes.
const MAX_PATH_BYTES: usize = 4096;

/// The value of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// Of [`Kind::Path`].
    Path(PathBuf),
    /// Of [`Kind::Address`].
    Address(SocketAddr),
    /// Of [`Kind::Switch`].
    Switch(bool),
    /// Of [`Kind::Choice`] and [`Kind::Text`].
    Text(String),
    /// Of [`Kind::Number`].
    Number(u64),
}

/// A value that a key does not take.
#[derive(Debug)]
pub(super) struct Unfit {
    /// The number that was given, if it was one: the only thing that an error repeats.
    pub(super) number: Option<String>,
}

const UNFIT: Unfit = Unfit { number: None };

impl Value {
    /// The default of `key`.
    pub(super) fn default_of(key: &Key) -> Option<Value> {
        let text = key.default_text()?;
        Value::from_text(key, OsStr::new(&text)).ok()
    }

    /// Reads what the environment or a flag gives.
    pub(super) fn from_text(key: &Key, given: &OsStr) -> Result<Value, Unfit> {
        if let Kind::Path(_) = key.kind {
            return path(Path::new(given)).map(Value::Path);
        }
        let text = given.to_str().ok_or(UNFIT)?;
        match &key.kind {
            Kind::Switch => match text {
                "true" => Ok(Value::Switch(true)),
                "false" => Ok(Value::Switch(false)),
                _ => Err(UNFIT),
            },
            Kind::Number { .. } if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                number(key, text.parse().ok(), text)
            }
            Kind::Number { .. } => Err(UNFIT),
            _ => Value::from_str(key, text),
        }
    }

    /// Reads what stands in a file.
    pub(super) fn from_toml(key: &Key, given: &DeValue<'_>) -> Result<Value, Unfit> {
        match (&key.kind, given) {
            (Kind::Switch, DeValue::Boolean(value)) => Ok(Value::Switch(*value)),
            (Kind::Number { .. }, DeValue::Integer(digits)) => {
                let value = i128::from_str_radix(digits.as_str(), digits.radix()).map_err(|_| UNFIT)?;
                number(key, u64::try_from(value).ok(), &value.to_string())
            }
            (Kind::Switch | Kind::Number { .. }, _) => Err(UNFIT),
            (_, DeValue::String(text)) => Value::from_str(key, text),
            _ => Err(UNFIT),
        }
    }

    fn from_str(key: &Key, text: &str) -> Result<Value, Unfit> {
        match &key.kind {
            Kind::Path(_) => path(Path::new(text)).map(Value::Path),
            Kind::Address(_) => text.parse().map(Value::Address).map_err(|_| UNFIT),
            Kind::Choice(words) if words.contains(&text) => Ok(Value::Text(text.to_owned())),
            Kind::Text(_) if (1..=MAX_TEXT_BYTES).contains(&text.len()) => Ok(Value::Text(text.to_owned())),
            _ => Err(UNFIT),
        }
    }
}

fn number(key: &Key, value: Option<u64>, shown: &str) -> Result<Value, Unfit> {
    let Kind::Number { least, most, .. } = key.kind else { return Err(UNFIT) };
    match value {
        Some(value) if (least..=most).contains(&value) => Ok(Value::Number(value)),
        _ if shown.len() <= 20 => Err(Unfit { number: Some(shown.to_owned()) }),
        _ => Err(UNFIT),
    }
}

fn path(path: &Path) -> Result<PathBuf, Unfit> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() || bytes.len() > MAX_PATH_BYTES || bytes.contains(&0) {
        return Err(UNFIT);
    }
    Ok(path.to_owned())
}

/// As it would stand in `varve.toml`. A path that is not UTF-8 cannot stand there; it is shown as far as it is.
impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        match self {
            Value::Path(path) => out.write_str(&quoted(&path.to_string_lossy())),
            Value::Address(address) => write!(out, "\"{address}\""),
            Value::Switch(value) => write!(out, "{value}"),
            Value::Text(text) => out.write_str(&quoted(text)),
            Value::Number(number) => write!(out, "{number}"),
        }
    }
}
