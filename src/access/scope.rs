//! Scopes: what a key may do. An `ingest` key cannot read.

use std::fmt;

/// One permission (contract).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Scope {
    /// Tenants, the operator's acts, the instance's own log; never a tenant's events.
    Operator,
    /// Keys and grants of the tenant.
    Admin,
    /// Append events.
    Ingest,
    /// Read and query events.
    Read,
    /// Proofs, checkpoints, verification.
    Verify,
    /// Evidence out.
    Export,
    /// Retention policy.
    Retention,
    /// Legal holds.
    Hold,
    /// Erasure.
    Erase,
}

impl Scope {
    /// All scopes, in the order of their bits.
    pub const ALL: [Scope; 9] = [
        Scope::Operator,
        Scope::Admin,
        Scope::Ingest,
        Scope::Read,
        Scope::Verify,
        Scope::Export,
        Scope::Retention,
        Scope::Hold,
        Scope::Erase,
    ];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Scope::Operator => "operator",
            Scope::Admin => "admin",
            Scope::Ingest => "ingest",
            Scope::Read => "read",
            Scope::Verify => "verify",
            Scope::Export => "export",
            Scope::Retention => "retention",
            Scope::Hold => "hold",
            Scope::Erase => "erase",
        }
    }

    /// The scope of that name.
    pub fn named(name: &str) -> Option<Scope> {
        Scope::ALL.into_iter().find(|scope| scope.name() == name)
    }

    fn bit(self) -> u16 {
        1 << (self as u16)
    }
}

/// A set of scopes, as bits.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u16);

impl Scopes {
    /// The set with these bits; bits of no scope are dropped.
    pub fn from_bits(bits: u16) -> Scopes {
        Scopes(bits & ((1 << Scope::ALL.len()) - 1))
    }

    /// The bits.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// The set with `scope` in it.
    #[must_use]
    pub fn with(self, scope: Scope) -> Scopes {
        Scopes(self.0 | scope.bit())
    }

    /// Whether `scope` is in the set.
    pub fn has(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// The scopes in the set.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.has(*scope))
    }

    /// Their names.
    pub fn names(self) -> Vec<String> {
        self.iter().map(|scope| scope.name().to_owned()).collect()
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
