//! What a verifier can find. A finding names the rule that does not hold, where, and what would have been
//! right; it never shows the contents of an event.

use std::collections::BTreeMap;
use std::fmt;

/// Most findings that a report lists; all are counted. 1,000 lines are more than anybody reads.
pub const MAX_LISTED: usize = 1_000;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $word:literal;)*) => {
        /// The rule that does not hold (docs/format/verify.md has the list).
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum FindingKind { $($(#[$doc])* $name,)* }

        impl FindingKind {
            /// All kinds.
            pub const ALL: &'static [FindingKind] = &[$(FindingKind::$name,)*];

            /// The stable word for this kind.
            pub fn name(self) -> &'static str {
                match self { $(FindingKind::$name => $word,)* }
            }
        }
    };
}

kinds! {
    /// Bytes of the journal that no crash explains, or a journal that contradicts its HEAD.
    JournalDamaged = "journal_damaged";
    /// The store is older than what is known of it.
    Rollback = "rollback";
    /// The snapshot of heads is not the one that HEAD names.
    SnapshotDamaged = "snapshot_damaged";
    /// MANIFEST is not what was written.
    ManifestDamaged = "manifest_damaged";
    /// MANIFEST names a layer that is not there, or a log has entries in one that it does not name.
    MissingLayer = "missing_layer";
    /// A layer's store cannot be read.
    LayerUnreadable = "layer_unreadable";
    /// A layer lacks entries that HEAD says it has; the journal still has them.
    LayerIncomplete = "layer_incomplete";
    /// A closed layer does not hold what its seal says.
    SealMismatch = "seal_mismatch";
    /// A key in a layer that nothing wrote.
    UnexpectedKey = "unexpected_key";
    /// A page that is not what was written.
    PageUnreadable = "page_unreadable";
    /// Two pages hold the same index.
    OverlappingPages = "overlapping_pages";
    /// A log, or records of one, that nothing made.
    UnknownLog = "unknown_log";
    /// A name outside its grammar.
    BadName = "bad_name";
    /// A log that is known from elsewhere is not there.
    MissingLog = "missing_log";
    /// The first entry does not say who the log is.
    BadGenesis = "bad_genesis";
    /// The log id is not the one that origin, nonce and keys give.
    LogId = "log_id";
    /// Entries are missing in the middle.
    MissingEntries = "missing_entries";
    /// Entries are missing at the end.
    Truncated = "truncated";
    /// `recorded_at` does not grow.
    TimeNotGrowing = "time_not_growing";
    /// `previous` is not the link of the entry before.
    ChainBroken = "chain_broken";
    /// An entry that this format cannot have.
    BadEntry = "bad_entry";
    /// The signature does not verify under the key current at the index.
    BadSignature = "bad_signature";
    /// The entry names another key than the one current at its index.
    WrongKey = "wrong_key";
    /// A rotation to a key that may not be used.
    BadRotation = "bad_rotation";
    /// The event bytes are not what the entry commits to.
    EventMismatch = "event_mismatch";
    /// A body that this format cannot have, or a disclosure that its marker does not commit to.
    BadBody = "bad_body";
    /// The event's class is not the entry's.
    ClassMismatch = "class_mismatch";
    /// The entry's flags are not what the event says.
    FlagsMismatch = "flags_mismatch";
    /// A body is absent and no certificate covers it.
    MissingBody = "missing_body";
    /// A body is absent, and the certificate that names it is from before it was due.
    EarlyExpiry = "early_expiry";
    /// A body or a disclosure is absent, and was held when a certificate named it, or still there later.
    HeldExpiry = "held_expiry";
    /// A certificate of expiry whose facts do not hold.
    BadCertificate = "bad_certificate";
    /// A retention policy that breaks the format or does not follow the one before.
    BadPolicy = "bad_policy";
    /// An entry of a legal hold that breaks the format or its order.
    BadHold = "bad_hold";
    /// A certificate of erasure whose facts do not hold.
    BadErasure = "bad_erasure";
    /// A disclosure is absent and no certificate covers it.
    MissingDisclosure = "missing_disclosure";
    /// Layer and journal have different records at one index.
    JournalMismatch = "journal_mismatch";
    /// A log does not stand where its head says.
    HeadMismatch = "head_mismatch";
    /// The tree has another root than a checkpoint at hand.
    RootMismatch = "root_mismatch";
    /// A checkpoint is not signed by the key current at its size.
    CheckpointSignature = "checkpoint_signature";
    /// A key given from outside is none of the log's.
    KeyMismatch = "key_mismatch";
    /// A receipt that does not hold by itself.
    BadReceipt = "bad_receipt";
    /// The log has another entry than a receipt says.
    ReceiptMismatch = "receipt_mismatch";
    /// An index answers other than the records would.
    IndexMismatch = "index_mismatch";
    /// An API key that the log of the instance does not record as it is.
    UnrecordedKey = "unrecorded_key";
    /// The file of signing keys, or of signed checkpoints, is not what was written.
    FileDamaged = "file_damaged";
    /// Heartbeats stopped and nothing says why.
    Silence = "silence";
    /// The map of logs lost a log.
    MapShrunk = "map_shrunk";
    /// A proof that does not hold.
    BadProof = "bad_proof";
}

/// What a finding says of the store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// It is not intact.
    Error,
    /// Worth a question; it proves no change of what was recorded.
    Warning,
}

impl Severity {
    /// The stable word.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

impl FindingKind {
    /// A gap in the heartbeats alone is a warning: a suspended machine leaves one too.
    pub fn severity(self) -> Severity {
        if self == FindingKind::Silence { Severity::Warning } else { Severity::Error }
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One rule that does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Which.
    pub kind: FindingKind,
    /// The tenant whose log it is about; empty where it is about the whole store.
    pub tenant: String,
    /// First index concerned.
    pub index: Option<u64>,
    /// The file or directory, below the data directory.
    pub file: Option<String>,
    /// What would have been right.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl Finding {
    /// A finding about the store.
    pub(super) fn store(
        kind: FindingKind,
        file: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Finding {
        Finding {
            kind,
            tenant: String::new(),
            index: None,
            file: Some(file.to_owned()),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// A finding about an entry of a log.
    pub(super) fn log(
        kind: FindingKind,
        tenant: &str,
        index: u64,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Finding {
        Finding {
            kind,
            tenant: tenant.to_owned(),
            index: Some(index),
            file: None,
            expected: expected.into(),
            found: found.into(),
        }
    }
}

/// Findings as they come: the first [`MAX_LISTED`] errors and as many warnings whole, all counted.
#[derive(Default)]
pub(super) struct Findings {
    listed: Vec<Finding>,
    warnings: Vec<Finding>,
    by_tenant: BTreeMap<String, u64>,
    count: u64,
    warning_count: u64,
}

impl Findings {
    pub(super) fn add(&mut self, finding: Finding) {
        if finding.kind.severity() == Severity::Warning {
            self.warning_count += 1;
            if self.warnings.len() < MAX_LISTED {
                self.warnings.push(finding);
            }
            return;
        }
        self.count += 1;
        *self.by_tenant.entry(finding.tenant.clone()).or_default() += 1;
        if self.listed.len() < MAX_LISTED {
            self.listed.push(finding);
        }
    }

    /// Whether nothing was found. A warning is nothing, here and below.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Number of findings about a log; those about the store concern every log.
    pub(super) fn count_of(&self, tenant: &str) -> u64 {
        self.by_tenant.get(tenant).copied().unwrap_or(0) + self.by_tenant.get("").copied().unwrap_or(0)
    }

    /// The list, errors first, then by tenant and index, and the counts of errors and of warnings.
    pub(super) fn finish(mut self) -> (Vec<Finding>, u64, u64) {
        self.listed.append(&mut self.warnings);
        self.listed.sort_by(|a, b| {
            (a.kind.severity(), &a.tenant, a.index, a.kind).cmp(&(
                b.kind.severity(),
                &b.tenant,
                b.index,
                b.kind,
            ))
        });
        (self.listed, self.count, self.warning_count)
    }
}
