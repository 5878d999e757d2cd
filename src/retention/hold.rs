//! Legal holds as entries say them, and what is held by them (docs/format/holds.md).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Refusal;
use super::facts::Facts;
use super::set::IndexSet;
use crate::event::Value;

/// Holds of one log that are in force at once: each event that is appended is held against each of them.
pub const MAX_HOLDS: usize = 64;

const PLACED_FACTS: [&str; 2] = ["kind", "extends"];
const RESOLVED_FACTS: [&str; 8] = ["hold", "part", "parts", "reduced", "count", "first", "last", "indexes"];
const RELEASED_FACTS: [&str; 1] = ["hold"];

/// How a hold says what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldKind {
    /// Everything in the log.
    Tenant,
    /// What a filter finds.
    Filter,
    /// Entries by their indexes.
    Indexes,
}

impl HoldKind {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            HoldKind::Tenant => "tenant",
            HoldKind::Filter => "filter",
            HoldKind::Indexes => "indexes",
        }
    }

    fn named(name: &str) -> Option<HoldKind> {
        [HoldKind::Tenant, HoldKind::Filter, HoldKind::Indexes].into_iter().find(|kind| kind.name() == name)
    }
}

/// What `varve.hold.placed` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacedHold {
    /// How it says what it holds.
    pub kind: HoldKind,
    /// Whether entries behind it can become members.
    pub extends: bool,
}

impl PlacedHold {
    /// The facts of the entry.
    pub fn to_facts(self) -> Vec<(&'static str, Value)> {
        let [kind, extends] = PLACED_FACTS;
        vec![(kind, self.kind.name().into()), (extends, self.extends.into())]
    }

    /// Reads what [`PlacedHold::to_facts`] wrote.
    ///
    /// # Errors
    /// The fact that breaks holds.md §1.
    pub fn from_facts(facts: &Value) -> Result<PlacedHold, Refusal> {
        let facts = Facts::of(facts, &PLACED_FACTS)?;
        let [kind, extends] = PLACED_FACTS;
        let read = HoldKind::named(facts.text(kind)?)
            .ok_or_else(|| Refusal::new("/kind", "tenant, filter or indexes"))?;
        let extends = match (read, facts.get(extends)) {
            (HoldKind::Tenant, Some(Value::Bool(true))) => true,
            (HoldKind::Indexes, Some(Value::Bool(false))) => false,
            (HoldKind::Filter, Some(Value::Bool(extends))) => *extends,
            _ => return Err(Refusal::new("/extends", "true for a tenant, false for indexes, else either")),
        };
        Ok(PlacedHold { kind: read, extends })
    }
}

/// What `varve.hold.resolved` says: members of a hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedHold {
    /// Index of the hold's entry.
    pub hold: u64,
    /// From 1 to `parts`.
    pub part: u64,
    /// How many such entries the hold has.
    pub parts: u64,
    /// Whether the bodies listed here lacked disclosures already.
    pub reduced: bool,
    /// The members that this one lists; `None` where nothing matched.
    pub members: Option<IndexSet>,
}

impl ResolvedHold {
    /// The entries' facts for all members of a hold: sets that ascend, of whole bodies and of reduced ones.
    pub fn of(hold: u64, whole: &[IndexSet], reduced: &[IndexSet]) -> Vec<ResolvedHold> {
        let all = whole.iter().map(|set| (false, set)).chain(reduced.iter().map(|set| (true, set)));
        let parts = (whole.len() + reduced.len()) as u64;
        if parts == 0 {
            return vec![ResolvedHold { hold, part: 1, parts: 1, reduced: false, members: None }];
        }
        let one = |(part, (reduced, set)): (u64, (bool, &IndexSet))| ResolvedHold {
            hold,
            part,
            parts,
            reduced,
            members: Some(set.clone()),
        };
        (1..).zip(all).map(one).collect()
    }

    /// The facts of the entry.
    pub fn to_facts(&self) -> Vec<(&'static str, Value)> {
        let [hold, part, parts, reduced, count, first, last, indexes] = RESOLVED_FACTS;
        let mut facts = vec![
            (hold, self.hold.into()),
            (part, self.part.into()),
            (parts, self.parts.into()),
            (reduced, self.reduced.into()),
        ];
        match &self.members {
            None => facts.push((count, 0.into())),
            Some(members) => facts.extend([
                (count, members.len().into()),
                (first, members.first().into()),
                (last, members.last().into()),
                (indexes, Value::bytes(&members.encode())),
            ]),
        }
        facts
    }

    /// Reads what [`ResolvedHold::to_facts`] wrote.
    ///
    /// # Errors
    /// The fact that breaks holds.md §1 by itself.
    pub fn from_facts(facts: &Value) -> Result<ResolvedHold, Refusal> {
        let facts = Facts::of(facts, &RESOLVED_FACTS)?;
        let [hold, part, parts, reduced, count, first, last, indexes] = RESOLVED_FACTS;
        let wrong = |name: &str, what: &str| Refusal::new(format!("/{name}"), what);
        let read = ResolvedHold {
            hold: facts.number(hold)?,
            part: facts.number(part)?,
            parts: facts.number(parts)?,
            reduced: match facts.get(reduced) {
                Some(Value::Bool(reduced)) => *reduced,
                _ => return Err(wrong(reduced, "true or false")),
            },
            members: read_set(&facts, [count, first, last, indexes])?,
        };
        if read.part == 0 || read.part > read.parts {
            return Err(wrong(part, "from 1 to `parts`"));
        }
        match &read.members {
            None if read.parts > 1 => Err(wrong(count, "members, where there is more than one part")),
            Some(members) if members.last() >= read.hold => Err(wrong(last, "an index below the hold")),
            _ => Ok(read),
        }
    }
}

/// Reads a set that may be empty: then `count` is 0 and the rest is absent.
fn read_set(facts: &Facts<'_>, names: [&str; 4]) -> Result<Option<IndexSet>, Refusal> {
    let [count, first, last, indexes] = names;
    if facts.number(count)? == 0 {
        return match [first, last, indexes].into_iter().find(|name| facts.get(name).is_some()) {
            Some(name) => Err(Refusal::new(format!("/{name}"), "nothing, as `count` is 0")),
            None => Ok(None),
        };
    }
    let set = read_indexes(indexes, facts.text(indexes)?)?;
    for (name, is) in [(count, set.len()), (first, set.first()), (last, set.last())] {
        if facts.number(name)? != is {
            return Err(Refusal::new(format!("/{name}"), format!("{is}, as the set has it")));
        }
    }
    Ok(Some(set))
}

/// Reads a set out of the text of the fact `name`.
pub(super) fn read_indexes(name: &str, text: &str) -> Result<IndexSet, Refusal> {
    let bytes = URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| Refusal::new(format!("/{name}"), "base64url without padding"))?;
    IndexSet::decode(&bytes).map_err(|error| Refusal::new(format!("/{name}"), error.to_string()))
}

/// What `varve.hold.released` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReleasedHold {
    /// Index of the hold's entry.
    pub hold: u64,
}

impl ReleasedHold {
    /// The facts of the entry.
    pub fn to_facts(self) -> Vec<(&'static str, Value)> {
        let [hold] = RELEASED_FACTS;
        vec![(hold, self.hold.into())]
    }

    /// Reads what [`ReleasedHold::to_facts`] wrote.
    ///
    /// # Errors
    /// The fact that breaks holds.md §1.
    pub fn from_facts(facts: &Value) -> Result<ReleasedHold, Refusal> {
        let facts = Facts::of(facts, &RELEASED_FACTS)?;
        let [hold] = RELEASED_FACTS;
        Ok(ReleasedHold { hold: facts.number(hold)? })
    }
}

/// A hold that is in force.
#[derive(Clone, Debug)]
pub struct Hold {
    /// Index of its entry.
    pub index: u64,
    /// What that says.
    pub placed: PlacedHold,
    /// Of whole bodies, and of reduced ones.
    lists: [Vec<Arc<IndexSet>>; 2],
    parts: u64,
    parts_read: u64,
    is_resolved: bool,
}

impl Hold {
    /// A hold that was just placed.
    pub fn new(index: u64, placed: PlacedHold) -> Hold {
        Hold { index, placed, lists: Default::default(), parts: 0, parts_read: 0, is_resolved: false }
    }

    /// Whether all that it holds below itself is listed.
    pub fn is_resolved(&self) -> bool {
        self.is_resolved
    }

    /// How many of the entries that list its members were taken in.
    pub fn parts_read(&self) -> u64 {
        self.parts_read
    }

    /// Number of members that are listed.
    pub fn listed(&self) -> u64 {
        self.lists.iter().flatten().map(|set| set.len()).sum()
    }

    /// Takes in what the next `varve.hold.resolved` of this hold says.
    ///
    /// # Errors
    /// It does not follow the one before it.
    pub fn resolve(&mut self, resolved: &ResolvedHold) -> Result<(), Refusal> {
        if self.is_resolved || resolved.part != self.parts_read + 1 {
            return Err(Refusal::new("/part", format!("part {} of this hold", self.parts_read + 1)));
        }
        if self.parts_read > 0 && resolved.parts != self.parts {
            return Err(Refusal::new("/parts", format!("{}, as in the part before", self.parts)));
        }
        let [_, behind] = &self.lists;
        if !resolved.reduced && !behind.is_empty() {
            return Err(Refusal::new("/reduced", "true, as in the part before"));
        }
        if let Some(members) = &resolved.members {
            let list = &mut self.lists[usize::from(resolved.reduced)];
            if list.last().is_some_and(|before| before.last() >= members.first()) {
                return Err(Refusal::new("/first", "an index above those of the part before"));
            }
            list.push(Arc::new(members.clone()));
        }
        (self.parts, self.parts_read) = (resolved.parts, resolved.part);
        self.is_resolved = resolved.part == resolved.parts;
        Ok(())
    }

    /// Whether it lists the body at `index`.
    pub fn has_listed(&self, index: u64) -> bool {
        self.lists.iter().any(|list| {
            let at = list.partition_point(|set| set.last() < index);
            list.get(at).is_some_and(|set| set.contains(index))
        })
    }

    /// Whether it holds the body at `index`, whose entry has flag bit 1 or not, or what is sealed in its own entry.
    pub fn holds(&self, index: u64, is_flagged: bool) -> bool {
        if index > self.index {
            return self.placed.extends && is_flagged;
        }
        let is_listed = || !self.is_resolved || self.has_listed(index);
        index == self.index || self.placed.kind == HoldKind::Tenant || is_listed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::catalog::action;
    use crate::event::{Builder, Outcome};
    use crate::retention::{Pushed, SetBuilder};

    fn set(members: impl IntoIterator<Item = u64>) -> IndexSet {
        let mut set = SetBuilder::new();
        members.into_iter().for_each(|index| assert_eq!(set.push(index), Pushed::Taken));
        set.finish().unwrap()
    }

    fn facts_of(facts: Vec<(&'static str, Value)>) -> Value {
        let builder = Builder::new(action::HOLD_PLACED, Outcome::Success);
        let mut event = facts
            .into_iter()
            .fold(builder, |builder, (name, value)| builder.fact(name, value))
            .build()
            .unwrap();
        event.set_id("a");
        event.seal(&mut |salts| salts.fill(1)).facts().unwrap()
    }

    #[test]
    fn entries_of_a_hold_read_back() {
        for (kind, extends) in [
            (HoldKind::Tenant, true),
            (HoldKind::Filter, true),
            (HoldKind::Filter, false),
            (HoldKind::Indexes, false),
        ] {
            let placed = PlacedHold { kind, extends };
            assert_eq!(PlacedHold::from_facts(&facts_of(placed.to_facts())), Ok(placed));
        }
        let bad = PlacedHold { kind: HoldKind::Tenant, extends: false };
        assert!(PlacedHold::from_facts(&facts_of(bad.to_facts())).is_err());
        for resolved in ResolvedHold::of(90, &[set([3, 4]), set([7])], &[set([5])])
            .into_iter()
            .chain(ResolvedHold::of(90, &[], &[]))
        {
            assert_eq!(ResolvedHold::from_facts(&facts_of(resolved.to_facts())), Ok(resolved));
        }
        let beyond = ResolvedHold { hold: 7, part: 1, parts: 1, reduced: false, members: Some(set([7])) };
        assert!(ResolvedHold::from_facts(&facts_of(beyond.to_facts())).is_err());
        let out = ResolvedHold { hold: 7, part: 2, parts: 1, reduced: true, members: Some(set([1])) };
        assert!(ResolvedHold::from_facts(&facts_of(out.to_facts())).is_err());
        let released = ReleasedHold { hold: 7 };
        assert_eq!(ReleasedHold::from_facts(&facts_of(released.to_facts())), Ok(released));
    }

    #[test]
    fn what_is_held_is_what_is_listed_flagged_or_not_resolved_yet() {
        let mut hold = Hold::new(10, PlacedHold { kind: HoldKind::Filter, extends: true });
        assert!(hold.holds(3, false) && hold.holds(4, false), "nothing is listed yet: all is held");
        let parts = ResolvedHold::of(10, &[set([3])], &[set([5])]);
        assert!(hold.resolve(&parts[1]).is_err(), "the first part comes first");
        hold.resolve(&parts[0]).unwrap();
        assert!(hold.holds(4, false));
        hold.resolve(&parts[1]).unwrap();
        assert!(hold.is_resolved() && hold.listed() == 2);
        assert!(hold.holds(3, false) && !hold.holds(4, false) && hold.holds(5, false));
        assert!(!hold.holds(11, false) && hold.holds(11, true));
        assert!(hold.resolve(&parts[1]).is_err(), "there is no third part");
        let closed = Hold::new(10, PlacedHold { kind: HoldKind::Filter, extends: false });
        assert!(!closed.holds(11, true));
        let all = Hold::new(10, PlacedHold { kind: HoldKind::Tenant, extends: true });
        assert!(all.holds(3, false) && all.holds(11, true));
        let unresolved = Hold::new(10, PlacedHold { kind: HoldKind::Indexes, extends: false });
        assert!(all.holds(10, false) && closed.holds(10, false) && unresolved.holds(9, false));
    }
}
