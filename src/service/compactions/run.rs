//! One layer's compaction: plan, rewrite, certify, go over.
//!
//! Crash points, in order. While it is planned and rewritten: a left-over directory, removed at open. After some or all
//! certificates are durable and before MANIFEST is replaced: the bodies are there and may go; the next run finds them due
//! again and certifies them once more. After MANIFEST: the old generation is the left-over. At no point is a body
//! gone that no durable certificate names.

use super::super::system::{in_parts, own};
use super::super::{Error, ErrorCode, Service};
use super::plan::{Scan, Wanted, class_name};
use super::quiet::Grounds;
use crate::event::catalog::{Builder, action};
use crate::event::{Micros, Outcome};
use crate::ingest::prepare::Prepared;
use crate::retention::{Certificate, History, IndexSet};
use crate::store::layer_id::LayerId;
use crate::store::log::Log;
use crate::store::record::Record;
use crate::store::rewrite::Change;

/// How often a layer is planned anew because a policy that lengthens, or a hold, came while it was rewritten.
const MAX_PLANS: u32 = 4;

/// What became of one layer.
#[derive(Clone, Copy, Default)]
pub(super) struct Done {
    pub(super) bodies: u64,
    pub(super) bytes_before: u64,
    pub(super) bytes_after: u64,
    pub(super) certificates: u64,
    pub(super) is_rewritten: bool,
}

impl Service {
    /// Lets go of what is due in `layer`. `confirmed` is the time that the operator said it was. `grounds` are from before.
    pub(super) fn compact_layer(
        &self,
        layer: LayerId,
        confirmed: Option<u64>,
        grounds: &Grounds,
        step: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Done, Error> {
        if self.is_quiet(layer, self.expiry_time(), grounds) {
            return Ok(Done::default());
        }
        for _ in 0..MAX_PLANS {
            let dir = self.dir_of(layer);
            let scan = self.scan_layer(layer, self.expiry_time(), Wanted::WhatLeaves, step)?;
            if scan.leaving.is_empty() {
                self.note_quiet(&scan, dir, grounds);
                return Ok(Done::default());
            }
            if let Some(done) = self.let_go(&scan, confirmed, step)? {
                self.note_quiet(&scan, self.dir_of(layer), grounds);
                return Ok(done);
            }
        }
        let detail = format!(
            "layer {layer}: policies and holds kept coming while it was compacted; nothing of it left"
        );
        Err(Error::new(ErrorCode::Busy, detail))
    }

    /// `None` when a policy or a hold came that keeps something of it: nothing was changed then.
    fn let_go(
        &self,
        scan: &Scan,
        confirmed: Option<u64>,
        step: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<Done>, Error> {
        let mut change = |log: u32, index: u64, record: &Record| {
            if scan.leaves(log, record.class, index) { Change::DropBody } else { Change::Keep }
        };
        let mut agree = || {
            if self.still_leaves(scan)? { self.certify(scan, confirmed).map(Some) } else { Ok(None) }
        };
        let replaced = self.replace_layer(scan.layer, &mut change, step, &mut agree)?;
        Ok(replaced.map(|replaced| Done {
            bodies: replaced.rewritten.changed,
            bytes_before: replaced.bytes.0,
            bytes_after: replaced.bytes.1,
            certificates: replaced.agreed,
            is_rewritten: true,
        }))
    }

    /// Writes the certificates of a layer, durably. Answers how many.
    fn certify(&self, scan: &Scan, confirmed: Option<u64>) -> Result<u64, Error> {
        let certificates = scan.leaving.iter().flat_map(|(&(number, class), leaving)| {
            leaving.sets.iter().filter_map(move |members| {
                let log = self.0.store.log(number)?;
                let certificate =
                    self.certificate(scan.layer, &log, class, members, confirmed, leaving.months);
                Some(certificate.map(|prepared| (prepared, ())))
            })
        });
        let mut written = 0;
        in_parts(certificates, &mut |part, _, _| {
            written += part.len() as u64;
            self.write_patiently(part, Vec::new).map(drop)
        })?;
        Ok(written)
    }

    /// The entry that names these bodies of a log and class. They were kept for `months` at most.
    fn certificate(
        &self,
        layer: LayerId,
        log: &Log,
        class: u16,
        members: &IndexSet,
        confirmed: Option<u64>,
        months: u16,
    ) -> Result<Prepared, Error> {
        let history = self.history(log)?;
        let asked = |history: &History| history.months(class, members.first(), log.size());
        let certificate = Certificate {
            layer: layer.code(),
            class: class_name(history.as_deref(), class),
            class_code: class,
            months: history.as_deref().and_then(asked).unwrap_or(months),
            members: members.clone(),
            policy: log.policy().unwrap_or_default(),
            holds: self.0.holds.of(log.identity.number).iter().map(|hold| hold.index).collect(),
            clock_confirmed: confirmed.map(Micros),
        };
        let event = Builder::new(action::RETENTION_EXPIRED, Outcome::Success);
        own(log, event.facts(certificate.to_facts()))
    }
}
