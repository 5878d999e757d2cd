//! What callers see: tenants, keys, receipts, records. Field names are the contract's.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::event::{Body, Micros};
use crate::retention::{ClassView, RuleView};
use crate::store::log::{Log, Sequenced};
use crate::verify::Finding;

/// A tenant as `GET /v1/tenants/{t}` shows it.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub struct TenantInfo {
    /// Name.
    pub tenant: String,
    /// `<instance>/<tenant>`.
    pub origin: String,
    /// C2SP vkey of the current signing key.
    pub public_key: String,
    /// Number of entries.
    pub size: u64,
    /// Link of the newest entry, base64url; null when empty.
    pub link: Option<String>,
    /// Root of the tree, base64url.
    pub root: String,
    /// First index with a retained entry: 0 in version 1.
    pub minimum_index: u64,
    /// Whether the log is closed: it takes no events.
    pub closed: bool,
    /// Layers that hold entries of the log.
    pub layers: u64,
    /// Bytes on disk attributed to the log, or null where not measured.
    pub bytes: Option<u64>,
}

/// A new API key; `key` is shown once. `Debug` does not show it.
#[derive(Clone, serde::Serialize, schemars::JsonSchema)]
pub struct NewKey {
    /// Public id.
    pub id: String,
    /// The whole bearer token.
    pub key: String,
    /// Scopes by name.
    pub scopes: Vec<String>,
}

/// A key as listed. `Debug` leaves out the name, which may be a person's.
#[derive(Clone, serde::Serialize, schemars::JsonSchema)]
pub struct KeyInfo {
    /// Public id.
    pub id: String,
    /// What its maker called it.
    pub name: String,
    /// Scopes by name.
    pub scopes: Vec<String>,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339 or null.
    pub expires_at: Option<String>,
    /// RFC 3339 or null.
    pub revoked_at: Option<String>,
}

/// The receipt of one event (contract; bytes as base64url). `Debug` says whose it is and where it stands.
#[derive(Clone, serde::Serialize, schemars::JsonSchema)]
pub struct Receipt {
    /// Tenant.
    pub tenant: String,
    /// Leaf index.
    pub index: u64,
    /// The event's id.
    pub id: String,
    /// RFC 3339, when it was given its index.
    pub recorded_at: String,
    /// 124 bytes, base64url.
    pub entry: String,
    /// Link of the entry, base64url.
    pub link: String,
    /// RFC 6962 leaf hash, base64url.
    pub leaf_hash: String,
    /// 64 bytes, base64url.
    pub signature: String,
    /// Key id, eight hex digits.
    pub key_id: String,
    /// Whether the event was stored before.
    pub duplicate: bool,
    /// Only with `verifiable`.
    #[serde(flatten)]
    pub committed: Option<Committed>,
}

/// What a client needs to check what was committed (contract: `?verifiable=true`). `Debug` shows sizes alone.
#[derive(Clone, serde::Serialize, schemars::JsonSchema)]
pub struct Committed {
    /// The exact bytes hashed, as a string.
    pub canonical: String,
    /// 16 bytes, base64url.
    pub salt: String,
    /// What opens the sealed members.
    pub disclosures: Vec<DisclosureView>,
}

/// One disclosure; `value` is the exact canonical JSON text. `Debug` shows its place and size.
#[derive(Clone, serde::Serialize, schemars::JsonSchema)]
pub struct DisclosureView {
    /// RFC 6901 pointer of the sealed member.
    pub path: String,
    /// 16 bytes, base64url.
    pub salt: String,
    /// Exact canonical JSON.
    pub value: String,
}

/// A verification, as a job.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub struct VerificationView {
    /// Names the job.
    pub id: String,
    /// `running`, `done` or `failed`.
    pub state: String,
    /// Share of the entries read, 0 to 1.
    pub progress: f64,
    /// Whether nothing was found; null until it is done.
    pub valid: Option<bool>,
    /// What may be claimed: `self-signed`, or `none` where something was found. Null until it is done.
    pub claim: Option<String>,
    /// Entries read.
    pub entries: u64,
    /// Bodies that are gone because their time was over, as certificates in the log say. Null until it is done.
    pub bodies_expired: Option<u64>,
    /// Sealed values that were erased, as certificates in the log say. Null until it is done.
    pub disclosures_erased: Option<u64>,
    /// The first 100 findings.
    pub findings: Vec<FindingView>,
    /// All of them.
    pub finding_count: u64,
    /// Why it failed.
    pub detail: Option<String>,
}

/// A legal hold in force.
#[derive(Clone, serde::Serialize, schemars::JsonSchema)]
pub struct HoldView {
    /// Index of its entry.
    pub id: String,
    /// `tenant`, `filter` or `indexes`.
    pub kind: String,
    /// When it was placed.
    pub placed_at: String,
    /// Why.
    pub reason: Option<String>,
    /// The case it belongs to.
    pub case: Option<String>,
    /// What it looks for, where it is of kind `filter`.
    pub filter: Option<serde_json::Value>,
    /// Whether what is appended later and matches is held too.
    pub extends: bool,
    /// Whether all that it holds of what was there is listed. Until then it holds everything below it.
    pub resolved: bool,
    /// Bodies that it lists; null while they are not listed. Later ones are not counted.
    pub members: Option<u64>,
    /// Bodies that it names by index and that had left before: they cannot be held. Said when it is placed; null where it is not
    /// known, as of a filter, which no longer finds what left.
    pub gone: Option<u64>,
    /// The first 1,000 of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub gone_indexes: Vec<u64>,
}

impl fmt::Debug for HoldView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HoldView").field("id", &self.id).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// An act that needs two keys.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub struct ApprovalView {
    /// Its id, for the other key.
    pub id: String,
    /// `pending` or `approved`.
    pub state: String,
    /// `hold.release`, `tenant.close` or `erasure`.
    pub act: String,
    /// Whose log it is about.
    pub tenant: String,
    /// Id of the key that asked.
    pub requested_by: String,
    /// Id of the key that approved.
    pub approved_by: Option<String>,
    /// Until when it waits.
    pub expires_at: String,
}

/// The erasure of a person. It names no person.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub struct ErasureView {
    /// Index of the entry that asked for it.
    pub id: String,
    /// `pending`, `rewriting` or `done`. Once it is done, what was erased is in no file of the data directory.
    pub state: String,
    /// When it was asked for.
    pub requested_at: String,
    /// When it was done.
    pub done_at: Option<String>,
    /// Records of the person with something to erase; said when it is asked for.
    pub records: Option<u64>,
    /// Records that have the id as actor or target under another type, or under none, and are left as they are; said when it
    /// is asked for.
    pub other_types: Option<u64>,
    /// Disclosures that the certificates name, of all erasures that were done together.
    pub disclosures: u64,
    /// Records of the person that a legal hold keeps as they are; in the end, of all erasures that were done together.
    pub held: u64,
    /// The first 1,000 of these; said when it is asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub held_indexes: Vec<u64>,
    /// Until when backups made before it was done still hold what it took, by the days that the operator says they are kept.
    /// Counted from now while it is not done.
    pub backups_until: String,
    /// That something failed and is tried again, or that it waits for another key.
    pub detail: Option<String>,
}

/// The retention policy of a tenant's log.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub struct RetentionView {
    /// Index of the entry that set it; null where none did.
    pub index: Option<u64>,
    /// When that was.
    pub set_at: Option<String>,
    /// Whether anything ever expires: only once a policy was set. Until then the classes are those it would begin with.
    pub expires: bool,
    /// Least months that a policy may give a class.
    pub floor_months: u16,
    /// The classes, in order of code.
    pub classes: Vec<ClassView>,
    /// Which class an event has that names none, in order of pattern.
    pub rules: Vec<RuleView>,
}

/// One rule that does not hold.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub struct FindingView {
    /// The rule, as docs/format/verify.md names it.
    pub kind: String,
    /// `error` or `warning`.
    pub severity: String,
    /// First index concerned.
    pub index: Option<u64>,
    /// What would have been right.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl FindingView {
    pub(super) fn of(finding: &Finding) -> FindingView {
        FindingView {
            kind: finding.kind.name().to_owned(),
            severity: finding.kind.severity().name().to_owned(),
            index: finding.index,
            expected: finding.expected.clone(),
            found: finding.found.clone(),
        }
    }
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey").field("id", &self.id).field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

impl fmt::Debug for KeyInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyInfo")
            .field("id", &self.id)
            .field("scopes", &self.scopes)
            .field("created_at", &self.created_at)
            .field("expires_at", &self.expires_at)
            .field("revoked_at", &self.revoked_at)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt")
            .field("tenant", &self.tenant)
            .field("index", &self.index)
            .field("recorded_at", &self.recorded_at)
            .field("link", &self.link)
            .field("duplicate", &self.duplicate)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Committed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Committed({} bytes, {:?})", self.canonical.len(), self.disclosures)
    }
}

impl fmt::Debug for DisclosureView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DisclosureView({}, {} bytes)", self.path, self.value.len())
    }
}

/// One record as the API shows it. `event` and others are already JSON text.
pub struct RecordView {
    /// The record as one JSON object (contract: record).
    pub json: String,
}

/// A page of records.
pub struct QueryPage {
    /// Records in the order asked for.
    pub records: Vec<RecordView>,
    /// Cursor of the next page; `None` when nothing is left.
    pub next: Option<String>,
    /// Tree size that bounds the page.
    pub log_size: u64,
    /// Link of the newest entry then.
    pub log_link: Option<String>,
    /// Signed note over `log_size` entries.
    pub checkpoint: String,
}

/// Bytes as the API shows them.
pub(super) fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The receipt of a durable record.
pub(super) fn receipt(log: &Log, record: &Sequenced, id: &str, duplicate: bool, verifiable: bool) -> Receipt {
    Receipt {
        tenant: log.identity.tenant.clone(),
        index: record.index,
        id: id.to_owned(),
        recorded_at: Micros(record.record.recorded_at).to_string(),
        entry: base64url(&record.entry(log.identity.log_id)),
        link: base64url(record.link.as_bytes()),
        leaf_hash: base64url(record.leaf_hash.as_bytes()),
        signature: base64url(&record.record.signature.0),
        key_id: record.record.key_id.to_string(),
        duplicate,
        committed: if verifiable { committed(record) } else { None },
    }
}

/// What was committed to, where the body is present.
fn committed(record: &Sequenced) -> Option<Committed> {
    let body = record.record.body()?.ok()?;
    Some(Committed {
        canonical: String::from_utf8_lossy(&body.canonical).into_owned(),
        salt: base64url(&body.salt),
        disclosures: body
            .disclosures
            .iter()
            .map(|disclosure| DisclosureView {
                path: disclosure.path.clone(),
                salt: base64url(&disclosure.salt),
                value: String::from_utf8_lossy(&disclosure.value).into_owned(),
            })
            .collect(),
    })
}

/// A record as one JSON object. `None` when the body is present but does not open: damage.
pub(super) fn record_view(log: &Log, record: &Sequenced, verifiable: bool) -> Option<RecordView> {
    use std::fmt::Write as _;
    let body: Option<Body> = match record.record.body() {
        None => None,
        Some(body) => Some(body.ok()?),
    };
    let state = match &body {
        None => "expired",
        Some(body) if body.withheld().is_ok_and(|withheld| !withheld.is_empty()) => "erased",
        Some(_) => "present",
    };
    let mut json = format!(
        "{{\"index\":{},\"recorded_at\":\"{}\",\"link\":\"{}\",\"signature\":\"{}\",\"key_id\":\"{}\",\"body\":\"{state}\",\"event\":",
        record.index,
        Micros(record.record.recorded_at),
        base64url(record.link.as_bytes()),
        base64url(&record.record.signature.0),
        record.record.key_id,
    );
    match &body {
        None => json.push_str("null"),
        Some(body) => json.push_str(std::str::from_utf8(&body.open().ok()?).ok()?),
    }
    if verifiable {
        let _ = write!(json, ",\"entry\":\"{}\"", base64url(&record.entry(log.identity.log_id)));
        if let Some(committed) = committed(record) {
            let members = serde_json::to_string(&committed).ok()?;
            let _ = write!(json, ",{}", members.strip_prefix('{')?.strip_suffix('}')?);
        }
    }
    json.push('}');
    Some(RecordView { json })
}
