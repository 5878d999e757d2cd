//! The certificate of an erasure: which disclosures may go (docs/format/erasure.md §2).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Refusal;
use super::facts::Facts;
use super::hold::read_indexes;
use super::set::{IndexSet, SetsBuilder};
use crate::event::Value;

/// Bytes of `disclosures` in one certificate. A set has 43,704 characters at most, so each fits; with all else an event
/// of 64 KiB has room for it.
pub const MAX_DISCLOSURES_BYTES: usize = 48_000;

const FACTS: [&str; 6] = ["requests", "disclosures", "count", "held", "part", "parts"];

/// Disclosures that may go, those of one path together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErasureCertificate {
    /// The entries that asked for it.
    pub requests: IndexSet,
    /// Path and indexes, ascending; sets of one path are apart.
    pub disclosures: Vec<(String, IndexSet)>,
    /// Records that stay as they are because they were held.
    pub held: u64,
    /// From 1 to `parts`.
    pub part: u64,
    /// How many certificates the batch has.
    pub parts: u64,
}

impl ErasureCertificate {
    /// The certificates that name all of `disclosures`: indexes by path, ascending.
    pub fn of(
        requests: &IndexSet,
        disclosures: &BTreeMap<String, Vec<u64>>,
        held: u64,
    ) -> Vec<ErasureCertificate> {
        let mut groups: Vec<Vec<(String, IndexSet)>> = vec![Vec::new()];
        let mut bytes = 0;
        let mut put = |path: &str, set: IndexSet| {
            let more = line(path, &set).len();
            if bytes + more > MAX_DISCLOSURES_BYTES {
                groups.push(Vec::new());
                bytes = 0;
            }
            bytes += more;
            groups.last_mut().expect("there is always one").push((path.to_owned(), set));
        };
        for (path, indexes) in disclosures {
            let mut sets = SetsBuilder::default();
            indexes.iter().for_each(|index| sets.push(*index));
            sets.finish().into_iter().for_each(|set| put(path, set));
        }
        let parts = groups.len() as u64;
        (1..)
            .zip(groups)
            .map(|(part, disclosures)| ErasureCertificate {
                requests: requests.clone(),
                disclosures,
                held,
                part,
                parts,
            })
            .collect()
    }

    /// Number of disclosures.
    pub fn count(&self) -> u64 {
        self.disclosures.iter().map(|(_, set)| set.len()).sum()
    }

    /// Greatest index that it names, of a record or of a request.
    pub fn last(&self) -> u64 {
        self.disclosures.iter().map(|(_, set)| set.last()).max().unwrap_or(0).max(self.requests.last())
    }

    /// The facts of the entry.
    pub fn to_facts(&self) -> Vec<(&'static str, Value)> {
        let [requests, disclosures, count, held, part, parts] = FACTS;
        let lines: Vec<Value> = self.disclosures.iter().map(|(path, set)| line(path, set).into()).collect();
        vec![
            (requests, Value::bytes(&self.requests.encode())),
            (disclosures, lines.into()),
            (count, self.count().into()),
            (held, self.held.into()),
            (part, self.part.into()),
            (parts, self.parts.into()),
        ]
    }

    /// Reads what [`ErasureCertificate::to_facts`] wrote.
    ///
    /// # Errors
    /// The fact that breaks erasure.md §2 by itself.
    pub fn from_facts(facts: &Value) -> Result<ErasureCertificate, Refusal> {
        let facts = Facts::of(facts, &FACTS)?;
        let [requests, disclosures, count, held, part, parts] = FACTS;
        let wrong = |name: &str, what: &str| Refusal::new(format!("/{name}"), what);
        let lines = facts.texts(disclosures)?;
        if lines.iter().map(|line| line.len()).sum::<usize>() > MAX_DISCLOSURES_BYTES {
            return Err(wrong(disclosures, "48,000 bytes at most"));
        }
        let mut read: Vec<(String, IndexSet)> = Vec::with_capacity(lines.len());
        for line in lines {
            let (path, set) =
                line.split_once(' ').ok_or_else(|| wrong(disclosures, "`<path> <set>` in each line"))?;
            if !is_path(path) {
                return Err(wrong(disclosures, "paths of sealed values"));
            }
            let set = read_indexes(disclosures, set)?;
            let follows = |(before, last): &(String, IndexSet)| {
                before.as_str() < path || before == path && last.last() < set.first()
            };
            if read.last().is_some_and(|before| !follows(before)) {
                return Err(wrong(disclosures, "paths and sets that ascend"));
            }
            read.push((path.to_owned(), set));
        }
        let certificate = ErasureCertificate {
            requests: read_indexes(requests, facts.text(requests)?)?,
            disclosures: read,
            held: facts.number(held)?,
            part: facts.number(part)?,
            parts: facts.number(parts)?,
        };
        if facts.number(count)? != certificate.count() {
            return Err(wrong(count, "the number of members of all sets"));
        }
        if certificate.part == 0 || certificate.part > certificate.parts {
            return Err(wrong(part, "from 1 to `parts`"));
        }
        Ok(certificate)
    }
}

fn line(path: &str, set: &IndexSet) -> String {
    format!("{path} {}", URL_SAFE_NO_PAD.encode(set.encode()))
}

fn is_path(path: &str) -> bool {
    crate::event::is_sealed_path(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::catalog::action;
    use crate::event::{Builder, Outcome};
    use crate::retention::{Pushed, SetBuilder};

    fn facts_of(certificate: &ErasureCertificate) -> Value {
        let builder = Builder::new(action::ERASURE_COMPLETED, Outcome::Success);
        let facts = certificate.to_facts().into_iter();
        let mut event =
            facts.fold(builder, |builder, (name, value)| builder.fact(name, value)).build().unwrap();
        event.set_id("a");
        event.seal(&mut |salts| salts.fill(1)).facts().unwrap()
    }

    fn requests() -> IndexSet {
        let mut set = SetBuilder::new();
        assert_eq!(set.push(900_000), Pushed::Taken);
        set.finish().unwrap()
    }

    #[test]
    fn certificates_read_back_and_name_all() {
        let mut disclosures = BTreeMap::new();
        disclosures.insert("/actor".to_owned(), vec![3, 4, 9]);
        disclosures.insert("/targets/12".to_owned(), vec![4]);
        // More than one set, and more than one certificate.
        disclosures.insert("/metadata".to_owned(), (0..400_000).map(|n| n * 2).collect());
        let certificates = ErasureCertificate::of(&requests(), &disclosures, 7);
        assert!(certificates.len() > 1);
        let mut named: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for certificate in &certificates {
            assert_eq!(ErasureCertificate::from_facts(&facts_of(certificate)).as_ref(), Ok(certificate));
            assert_eq!((certificate.held, certificate.parts), (7, certificates.len() as u64));
            for (path, set) in &certificate.disclosures {
                named.entry(path.clone()).or_default().extend(set.iter());
            }
        }
        assert_eq!(named, disclosures);
        let none = ErasureCertificate::of(&requests(), &BTreeMap::new(), 3);
        assert_eq!(none.len(), 1);
        assert_eq!(ErasureCertificate::from_facts(&facts_of(&none[0])).as_ref(), Ok(&none[0]));
    }

    #[test]
    fn a_fact_that_does_not_hold_is_refused() {
        let disclosures = BTreeMap::from([("/actor".to_owned(), vec![3, 4])]);
        let sound = ErasureCertificate::of(&requests(), &disclosures, 0).remove(0);
        let refused = |certificate: ErasureCertificate| {
            ErasureCertificate::from_facts(&facts_of(&certificate)).is_err()
        };
        assert!(!refused(sound.clone()));
        assert!(refused(ErasureCertificate { part: 2, ..sound.clone() }));
        assert!(refused(ErasureCertificate { part: 0, ..sound.clone() }));
        let (path, set) = sound.disclosures[0].clone();
        let twice = vec![(path.clone(), set.clone()), (path, set.clone())];
        assert!(refused(ErasureCertificate { disclosures: twice, ..sound.clone() }));
        for path in ["/id", "/targets/32", "/targets/01", "", "actor"] {
            let disclosures = vec![(path.to_owned(), set.clone())];
            assert!(refused(ErasureCertificate { disclosures, ..sound.clone() }), "{path}");
        }
    }
}
