//! One closed layer goes over to a new generation: what a compaction and an erasure have in common.
//!
//! Crash points, in order. While it is rewritten: a left-over directory, removed at open. After `agree` and before MANIFEST
//! is replaced: everything is there and may go; the next run takes it. After MANIFEST: the old generation is the left-over.
//! At no point is a thing gone that no durable certificate names: a compaction makes them durable in `agree`, an erasure
//! has made them durable before it rewrites, and `agree` looks whether they still cover what goes.

use std::path::Path;

use super::append::internal;
use super::{Error, ErrorCode, Service};
use crate::process::space::rewrite_needs;
use crate::store::layer_id::LayerId;
use crate::store::layers::Layers;
use crate::store::rewrite::{ChangeRecord, RewriteError, Rewritten, rewrite};
use crate::store::seal::Seal;

/// How often the new generation is measured while it is written: every 4 MiB that are read or written.
const MEASURED_EVERY_BYTES: usize = 4 << 20;

/// A generation that is being made; removed unless it is forgotten.
struct Unfinished<'a> {
    layers: &'a Layers,
    layer: LayerId,
    dir: &'a Path,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.layers.give_up(self.layer, self.dir) {
            tracing::warn!(%error, "what was written of the new generation is not removed yet; it is tried again");
        }
    }
}

/// A layer that went over.
pub(super) struct Replaced<T> {
    /// What `agree` answered.
    pub(super) agreed: T,
    /// What the rewrite did.
    pub(super) rewritten: Rewritten,
    /// Bytes on disk before and after.
    pub(super) bytes: (u64, u64),
}

impl Service {
    /// Rewrites `layer` through `change` and, if `agree` still wants it, makes the new generation the live one. From
    /// `agree` on no policy is set and no hold is placed or released until it is live. `None` where `agree` says no:
    /// nothing was changed then.
    pub(super) fn replace_layer<T>(
        &self,
        layer: LayerId,
        change: &mut ChangeRecord<'_>,
        step: &mut dyn FnMut(usize) -> bool,
        agree: &mut dyn FnMut() -> Result<Option<T>, Error>,
    ) -> Result<Option<Replaced<T>>, Error> {
        let store = &self.0.store;
        let layers = &store.layers;
        // A compaction and an erasure never rewrite at once: one would undo what the other did.
        let _one = self.0.compactions.rewriting.lock();
        let bytes_before = layers.disk_bytes(layer).map_err(|error| internal(&error))?;
        self.demand_room(bytes_before)?;
        let room = self.0.space.rewriting();
        let sealed = layers.dirs().into_iter().find(|(id, _)| *id == layer);
        let sealed = sealed.and_then(|(_, dir)| Seal::read(&dir).transpose()).transpose();
        let sealed = sealed.map_err(|error| internal(&error))?.ok_or_else(|| {
            let detail = format!("layer {layer} is not sealed yet; nothing was changed");
            Error::new(ErrorCode::Busy, detail)
        })?;
        let from = layers.get(layer).map_err(|error| internal(&error))?;
        let (generation, dir, into) = layers.begin_next(layer).map_err(|error| internal(&error))?;
        let unfinished = Unfinished { layers, layer, dir: &dir };
        let (mut is_full, mut unmeasured_bytes) = (false, 0);
        let mut watched = |bytes| {
            unmeasured_bytes += bytes;
            if unmeasured_bytes >= MEASURED_EVERY_BYTES {
                unmeasured_bytes = 0;
                // What cannot be measured keeps what is known of it.
                into.kv().disk_bytes().into_iter().for_each(|written| room.has_written(written));
            }
            // A reading that fails says nothing about room; the write itself will.
            is_full = is_full || self.0.space.is_below_floor().unwrap_or(false);
            step(bytes) && !is_full
        };
        let rewritten = rewrite(store, &from, &sealed, &into, &dir, change, &mut watched);
        // Closed before it is given up or gone over to.
        drop((from, into));
        let rewritten = rewritten.map_err(|error| match error {
            RewriteError::Stopped if is_full => self.out_of_room(layer),
            error => failed(&error),
        })?;

        let gate = self.0.retention.gate.lock();
        let Some(agreed) = agree()? else { return Ok(None) };
        self.make_live(unfinished, generation)?;
        drop(gate);
        layers.sweep();
        let bytes_after = layers.disk_bytes(layer).map_err(|error| internal(&error))?;
        self.keep_room();
        Ok(Some(Replaced { agreed, rewritten, bytes: (bytes_before, bytes_after) }))
    }

    /// Makes a generation the live one. Asked under the gate, after everybody agreed.
    fn make_live(&self, unfinished: Unfinished<'_>, generation: u32) -> Result<(), Error> {
        let poison = &self.0.store.poison;
        // A write that failed may be on disk all the same: the next start would find a hold or a policy in force that
        // was not looked at here.
        if let Some(reason) = poison.reason() {
            let detail = format!("the store has stopped: {reason}. The layer is unchanged.");
            return Err(Error::new(ErrorCode::ReadOnly, detail));
        }
        let layer = unfinished.layer;
        // From here on MANIFEST on disk may name it, even where its write fails: only the next open may remove it.
        std::mem::forget(unfinished);
        self.0.store.layers.go_over(layer, generation).map_err(|error| {
            // Every way to fail lies behind a sync, and none is repeated.
            poison.set(format!("layer {layer} was rewritten and may or may not have gone over: {error}"));
            internal(&error)
        })
    }

    /// Keeps as much of the disk free as a rewrite of the largest layer takes. The newest layer counts too: it will be
    /// rewritten in its turn.
    pub(super) fn keep_room(&self) {
        let layers = &self.0.store.layers;
        // A layer that cannot be measured is one that just went over to another generation; it is measured next time.
        let bytes = layers.list().into_iter().filter_map(|layer| layers.disk_bytes(layer).ok());
        self.0.space.set_largest_layer(bytes.max().unwrap_or(0));
        let (free, mark) = (self.0.space.free_bytes(), self.0.space.low_water_bytes());
        if free.is_ok_and(|free| free >= mark && free < mark.saturating_add(mark / 4)) {
            tracing::warn!(
                mark,
                "free space nears the low-water mark, below which no event is taken: extend the disk"
            );
        }
    }

    fn out_of_room(&self, layer: LayerId) -> Error {
        let detail = format!(
            "fewer than {} bytes are free while layer {layer} is rewritten beside itself; what was written of it is removed, \
             the layer is unchanged. Free space or extend the disk.",
            self.0.space.floor_bytes()
        );
        Error::new(ErrorCode::StorageFull, detail)
    }

    /// The new generation is written beside the old one: while it is written it takes up to 1.7 times what it holds, and
    /// those who append are not to feel it.
    fn demand_room(&self, bytes: u64) -> Result<(), Error> {
        let free = self.0.space.free_bytes().map_err(|error| internal(&error))?;
        let needed = rewrite_needs(bytes).saturating_add(self.0.space.floor_bytes());
        if free >= needed {
            return Ok(());
        }
        let detail = format!(
            "{free} bytes are free, and {needed} are asked for before a layer of {bytes} bytes is rewritten beside itself; \
             nothing was changed. Free space or extend the disk."
        );
        Err(Error::new(ErrorCode::StorageFull, detail))
    }
}

/// A rewrite that failed, as callers see it.
pub(super) fn failed(error: &RewriteError) -> Error {
    match error {
        RewriteError::Stopped => Error::new(
            ErrorCode::ReadOnly,
            "the server is stopping; the layer it was at is unchanged, begin again once it runs",
        ),
        _ => internal(error),
    }
}
