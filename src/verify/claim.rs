//! What a verification may claim. Each level says what the ones before say, and more.

use std::fmt;

/// The claim levels, weakest first (FORMAT §6).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Claim {
    /// Something does not hold, or nothing was checked.
    None,
    /// The chain holds together; no signature was checked.
    Chained,
    /// Signatures hold under keys that the data itself names.
    SelfSigned,
    /// The same, and a key given from outside is one of the log's.
    Signed,
    /// The tree has the root of a checkpoint given from outside.
    Checkpointed,
    /// That checkpoint is cosigned by `k` of the `n` witnesses of a policy given from outside.
    Witnessed {
        /// Witnesses whose cosignature holds.
        k: u32,
        /// Witnesses of the policy.
        n: u32,
    },
}

impl Claim {
    /// What the level means, for a reader.
    pub fn meaning(self) -> &'static str {
        match self {
            Claim::None => "nothing is claimed",
            Claim::Chained => {
                "entries hold together; signatures were not checked, so whoever wrote the files could have made them"
            }
            Claim::SelfSigned => {
                "entries are signed by keys that the files themselves name; give a key or a checkpoint from outside to know whose they are"
            }
            Claim::Signed => {
                "entries are signed by a key that was given from outside; the end of the log may have been cut off"
            }
            Claim::Checkpointed => "entries up to the given checkpoint are those that it commits to",
            Claim::Witnessed { .. } => "witnesses saw the checkpoint that commits to the entries",
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Claim::None => f.write_str("none"),
            Claim::Chained => f.write_str("chained"),
            Claim::SelfSigned => f.write_str("self-signed"),
            Claim::Signed => f.write_str("signed"),
            Claim::Checkpointed => f.write_str("checkpointed"),
            Claim::Witnessed { k, n } => write!(f, "witnessed {k}/{n}"),
        }
    }
}
