//! Names of instances, tenants and logs. A value of these types is proof that the name is sound.
//!
//! A tenant name is also a path component of the HTTP interface and a part of file names; its
//! alphabet has no separator, no upper case and no leading dot.

use std::fmt;

/// A name outside its grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Not an instance name.
    #[error("not an instance name; use 1–100 of a–z, 0–9, `.` and `-`, beginning with a letter or digit")]
    Instance,
    /// Not a tenant name.
    #[error("not a tenant name; use 1–63 of a–z, 0–9, `.`, `_` and `-`, beginning with a letter or digit")]
    Tenant,
    /// Not an origin.
    #[error("not an origin; it reads <instance>/<tenant> or <instance>/<tenant>/<n> with n from 2")]
    Origin,
}

/// Characters of an instance name.
pub const MAX_INSTANCE_CHARS: usize = 100;
/// Characters of a tenant name.
pub const MAX_TENANT_CHARS: usize = 63;
/// Characters of an origin: instance, tenant, and a restart of at most ten digits.
pub const MAX_ORIGIN_CHARS: usize = MAX_INSTANCE_CHARS + 1 + MAX_TENANT_CHARS + 1 + 10;

/// An instance: `[a-z0-9][a-z0-9.-]{0,99}`, a domain where there is one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Instance(String);

/// A tenant: `[a-z0-9][a-z0-9._-]{0,62}`, or one of Varve's own, which begins with `_`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(String);

/// The name of a log: `<instance>/<tenant>`, or `<instance>/<tenant>/<n>` for the n-th start (n ≥ 2)
/// of a log that had to begin again. Never used twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    text: String,
    instance_bytes: usize,
    tenant_end: usize,
    start: u32,
}

impl Instance {
    /// Reads an instance name.
    pub fn parse(name: &str) -> Result<Instance, BadName> {
        let sound = well_formed(name.as_bytes(), b".-", MAX_INSTANCE_CHARS);
        sound.then(|| Instance(name.to_owned())).ok_or(BadName::Instance)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Tenant {
    /// The name of the instance's own log.
    pub const SYSTEM: &'static str = "_system";

    /// Reads a tenant name that a user may choose.
    pub fn parse(name: &str) -> Result<Tenant, BadName> {
        let sound = well_formed(name.as_bytes(), b"._-", MAX_TENANT_CHARS);
        sound.then(|| Tenant(name.to_owned())).ok_or(BadName::Tenant)
    }

    /// Reads any tenant name, Varve's own (a leading `_`) included: for names that come from disk, a
    /// path or a log.
    pub fn parse_any(name: &str) -> Result<Tenant, BadName> {
        match name.strip_prefix('_') {
            Some(rest) if well_formed(rest.as_bytes(), b"._-", MAX_TENANT_CHARS - 1) => {
                Ok(Tenant(name.to_owned()))
            }
            Some(_) => Err(BadName::Tenant),
            None => Tenant::parse(name),
        }
    }

    /// The tenant of the instance's own log, `_system`.
    pub fn system() -> Tenant {
        Tenant(Tenant::SYSTEM.to_owned())
    }

    /// Whether this is one of Varve's own.
    pub fn is_own(&self) -> bool {
        self.0.starts_with('_')
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Origin {
    /// The origin of a tenant's first log.
    pub fn new(instance: &Instance, tenant: &Tenant) -> Origin {
        Origin::assemble(instance.as_str(), tenant.as_str(), 1)
    }

    /// The origin of the log that continues this one after it had to begin again; `None` after 2^32
    /// starts.
    pub fn next(&self) -> Option<Origin> {
        Some(Origin::assemble(self.instance(), self.tenant(), self.start.checked_add(1)?))
    }

    /// Reads an origin.
    pub fn parse(text: &str) -> Result<Origin, BadName> {
        let mut parts = text.split('/');
        let instance = Instance::parse(parts.next().unwrap_or_default()).map_err(|_| BadName::Origin)?;
        let tenant = Tenant::parse_any(parts.next().unwrap_or_default()).map_err(|_| BadName::Origin)?;
        let start = match parts.next() {
            None => 1,
            Some(number) => number.parse().ok().filter(|&start| start >= 2).ok_or(BadName::Origin)?,
        };
        // Written back, so that `+2`, `02` and a fourth part are refused.
        let origin = Origin::assemble(instance.as_str(), tenant.as_str(), start);
        if origin.text == text { Ok(origin) } else { Err(BadName::Origin) }
    }

    /// The whole name, as it stands in checkpoints.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The instance's name.
    pub fn instance(&self) -> &str {
        &self.text[..self.instance_bytes]
    }

    /// The tenant's name.
    pub fn tenant(&self) -> &str {
        &self.text[self.instance_bytes + 1..self.tenant_end]
    }

    /// Which start of the tenant's log this is, from 1.
    pub fn start(&self) -> u32 {
        self.start
    }

    fn assemble(instance: &str, tenant: &str, start: u32) -> Origin {
        let mut text = format!("{instance}/{tenant}");
        let tenant_end = text.len();
        if start > 1 {
            text.push_str(&format!("/{start}"));
        }
        Origin { instance_bytes: instance.len(), tenant_end, start, text }
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn well_formed(name: &[u8], also: &[u8], max_chars: usize) -> bool {
    let alphanumeric = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    name.len() <= max_chars
        && name.first().is_some_and(alphanumeric)
        && name.iter().all(|byte| alphanumeric(byte) || also.contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_their_grammar() {
        for name in ["a", "0", "acme", "a.b_c-d", &"a".repeat(63)] {
            assert_eq!(Tenant::parse(name).unwrap().as_str(), name);
        }
        for name in ["", "_system", ".a", "-a", "A", "a/b", "a b", "é", &"a".repeat(64)] {
            assert_eq!(Tenant::parse(name), Err(BadName::Tenant), "{name}");
        }
        assert!(Tenant::parse_any("_system").unwrap().is_own());
        for name in ["_", "__a", "_A", "", &format!("_{}", "a".repeat(63))] {
            assert_eq!(Tenant::parse_any(name), Err(BadName::Tenant), "{name}");
        }
        assert_eq!(Instance::parse("log.example.com").unwrap().as_str(), "log.example.com");
        for name in ["", "a_b", ".a", "A", &"a".repeat(101)] {
            assert_eq!(Instance::parse(name), Err(BadName::Instance), "{name}");
        }
    }

    #[test]
    fn an_origin_names_instance_tenant_and_start() {
        let first = Origin::new(&Instance::parse("i.example").unwrap(), &Tenant::parse("acme").unwrap());
        assert_eq!(first.as_str(), "i.example/acme");
        let second = first.next().unwrap();
        assert_eq!(second.as_str(), "i.example/acme/2");
        for origin in [first, second] {
            let read = Origin::parse(origin.as_str()).unwrap();
            assert_eq!((read.instance(), read.tenant(), read.start()), ("i.example", "acme", origin.start()));
            assert_eq!(read, origin);
        }
        for text in
            ["", "i", "i/", "/t", "i/t/", "i/t/1", "i/t/0", "i/t/02", "i/t/+2", "i/t/2/3", "i/t/4294967296"]
        {
            assert_eq!(Origin::parse(text), Err(BadName::Origin), "{text}");
        }
    }
}
