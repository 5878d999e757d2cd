//! After a failed write or sync nothing more is acknowledged: the first reason is kept, the process exits,
//! and recovery decides what is true.

use std::sync::{Arc, OnceLock};

/// Shared by every thread that writes.
#[derive(Clone, Default)]
pub struct Poison(Arc<OnceLock<String>>);

impl Poison {
    /// Sets the reason, unless there is one already.
    pub fn set(&self, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::error!(%reason, "the store stops: nothing more is acknowledged");
        let _ = self.0.set(reason);
    }

    /// The reason, once there is one.
    pub fn reason(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}
