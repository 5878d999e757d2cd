//! `varve init`: makes a store and shows the operator key, once.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use clap::Args;
use serde_json::json;

use super::super::output::{Exit, Failure, Output};
use crate::service::{OpenOptions, Service};

/// Bytes of a file with a recovery key.
const MAX_RECOVERY_FILE_BYTES: u64 = 4096;

#[derive(Args)]
pub(in crate::cli) struct InitArgs {
    /// Directory of the store; made if it is not there
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Name of the instance, part of every log's origin; a random one if absent
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,

    /// File with the public part of the offline recovery key: 32 bytes as base64 or hex
    #[arg(long, value_name = "FILE")]
    recovery_key: Option<PathBuf>,
}

pub(in crate::cli) fn run(args: &InitArgs, output: &Output) -> Result<Exit, Failure> {
    let shown = args.data.display();
    if Service::is_initialised(&args.data) {
        return Err(Failure::new(
            format!("{shown} holds a store already; it was not touched"),
            format!("`varve serve --data {shown}` serves it"),
        ));
    }
    let recovery_key = args.recovery_key.as_deref().map(recovery_key).transpose()?;
    let made = Service::init(&args.data, args.instance.as_deref(), recovery_key, &OpenOptions::default())?;
    if output.is_json() {
        let data = args.data.to_string_lossy();
        output.json(&json!({"instance": made.instance, "operator_key": made.operator_key, "data": data}))?;
        return Ok(Exit::Done);
    }
    output.say(&format!("made the store {shown} of instance {}", made.instance));
    output.say("the operator key follows; it is shown once and cannot be read again:");
    output.data(&made.operator_key)?;
    output.say(&format!("next: varve serve --data {shown}"));
    Ok(Exit::Done)
}

fn recovery_key(path: &Path) -> Result<[u8; 32], Failure> {
    let shown = path.display();
    let hint = "it holds the 32 bytes of an Ed25519 public key, as base64 or as 64 hex digits";
    let unreadable = |error| Failure::new(format!("{shown} cannot be read: {error}"), hint);
    if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_RECOVERY_FILE_BYTES {
        return Err(Failure::new(format!("{shown} is too long for a recovery key"), hint));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    key_bytes(text.trim()).ok_or_else(|| Failure::new(format!("{shown} holds no recovery key"), hint))
}

fn key_bytes(text: &str) -> Option<[u8; 32]> {
    if text.len() == 64 && text.is_ascii() {
        let digits = (0..32).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16));
        return digits.collect::<Result<Vec<u8>, _>>().ok()?.try_into().ok();
    }
    let engines = [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE_NO_PAD];
    engines.iter().find_map(|engine| engine.decode(text).ok())?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_key_is_hex_or_base64_of_32_bytes() {
        let key = [0xfb; 32];
        assert_eq!(key_bytes(&"fb".repeat(32)), Some(key));
        assert_eq!(key_bytes(&STANDARD.encode(key)), Some(key));
        assert_eq!(key_bytes(&URL_SAFE_NO_PAD.encode(key)), Some(key));
        for bad in ["", "fb", &"zz".repeat(32), &"fb".repeat(31), &STANDARD.encode([1; 31])] {
            assert_eq!(key_bytes(bad), None, "{bad:?}");
        }
    }
}
