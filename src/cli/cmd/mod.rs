//! The commands, one a file: arguments, what it does, what it prints.

pub(super) mod append;
pub(super) mod approve;
pub(super) mod checkpoint;
pub(super) mod compact;
pub(super) mod erase;
pub(super) mod hold;
pub(super) mod import;
pub(super) mod init;
pub(super) mod key;
pub(super) mod operator_key;
pub(super) mod prove;
pub(super) mod query;
pub(super) mod retention;
pub(super) mod rotate_signing_key;
pub(super) mod serve;
pub(super) mod tenant;
pub(super) mod verify;

use std::path::Path;

use super::output::Failure;
use crate::service::Service;

/// Refuses a directory without a store, before anything is opened or made.
fn must_be_store(data: &Path) -> Result<(), Failure> {
    if Service::is_initialised(data) {
        return Ok(());
    }
    Err(Failure::new(
        format!("{} holds no store", data.display()),
        "name the directory that `varve serve --data` was given",
    ))
}
