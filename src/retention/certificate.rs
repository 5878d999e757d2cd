//! The certificate: what an entry `varve.retention.expired` says of the bodies that may go (retention.md §4).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Refusal;
use super::facts::{Facts, decimal};
use super::months::{MAX_MONTHS, layer_text, parse_layer};
use super::policy::is_own_name;
use super::set::IndexSet;
use crate::event::catalog::{Class, FIRST_OWN_CLASS_CODE};
use crate::event::{Micros, Value};

/// Which facts such an entry has.
const FACTS: [&str; 10] =
    ["layer", "class", "months", "count", "first", "last", "indexes", "policy", "holds", "clock_confirmed"];

/// Bodies of one class in one month that may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The month, as layers are numbered ([`super::month_code`]).
    pub layer: u32,
    /// Name of the class.
    pub class: String,
    /// Code of the class; never that of `permanent`.
    pub class_code: u16,
    /// The most months that were asked of any of the bodies.
    pub months: u16,
    /// Whose bodies.
    pub members: IndexSet,
    /// Index of the entry of the policy in force.
    pub policy: u64,
    /// Holds in force below it, ascending: none of the members is held by one.
    pub holds: Vec<u64>,
    /// When an operator confirmed the clock, where that was asked for.
    pub clock_confirmed: Option<Micros>,
}

impl Certificate {
    /// The facts of the entry.
    pub fn to_facts(&self) -> Vec<(&'static str, Value)> {
        let [layer, class, months, count, first, last, indexes, policy, holds, clock_confirmed] = FACTS;
        let mut facts = vec![
            (layer, layer_text(self.layer).into()),
            (class, format!("{} {}", self.class, self.class_code).into()),
            (months, u64::from(self.months).into()),
            (count, self.members.len().into()),
            (first, self.members.first().into()),
            (last, self.members.last().into()),
            (indexes, Value::bytes(&self.members.encode())),
            (policy, self.policy.into()),
        ];
        if !self.holds.is_empty() {
            let indexes: Vec<Value> = self.holds.iter().map(|hold| hold.to_string().into()).collect();
            facts.push((holds, indexes.into()));
        }
        facts.extend(self.clock_confirmed.map(|at| (clock_confirmed, at.into())));
        facts
    }

    /// Reads what [`Certificate::to_facts`] wrote.
    ///
    /// # Errors
    /// The fact that breaks a rule of §4 or §5 by itself. What it says of the log is for who knows the log.
    pub fn from_facts(facts: &Value) -> Result<Certificate, Refusal> {
        let facts = Facts::of(facts, &FACTS)?;
        let [layer, class, months, count, first, last, indexes, policy, holds, clock_confirmed] = FACTS;
        let wrong = |name: &str, what: &str| Refusal::new(format!("/{name}"), what);
        let (class_name, class_code) = read_class(facts.text(class)?)
            .ok_or_else(|| wrong(class, "`<name> <code>` of a class that can expire"))?;
        let set = URL_SAFE_NO_PAD
            .decode(facts.text(indexes)?)
            .map_err(|_| wrong(indexes, "base64url without padding"))?;
        let members = IndexSet::decode(&set).map_err(|error| wrong(indexes, &error.to_string()))?;
        for (name, is) in [(count, members.len()), (first, members.first()), (last, members.last())] {
            if facts.number(name)? != is {
                return Err(wrong(name, &format!("{is}, as the set has it")));
            }
        }
        let clock_confirmed = match facts.get(clock_confirmed) {
            None => None,
            Some(_) => {
                let text = facts.text(clock_confirmed)?;
                let at = Micros::parse(text).ok().filter(|at| at.to_string() == text);
                Some(at.ok_or_else(|| wrong(clock_confirmed, "a time as it is kept"))?)
            }
        };
        let holds = match facts.get(holds) {
            None => Vec::new(),
            Some(_) => read_holds(&facts.texts(holds)?)
                .ok_or_else(|| wrong(holds, "indexes that ascend, one at least"))?,
        };
        let in_range = |months: &u16| (1..=MAX_MONTHS).contains(months);
        Ok(Certificate {
            layer: parse_layer(facts.text(layer)?)
                .ok_or_else(|| wrong(layer, "a layer like 2026-10 or 2026-10.p2"))?,
            class: class_name.to_owned(),
            class_code,
            months: u16::try_from(facts.number(months)?)
                .ok()
                .filter(in_range)
                .ok_or_else(|| wrong(months, "1 to 1,200"))?,
            members,
            policy: facts.number(policy)?,
            holds,
            clock_confirmed,
        })
    }
}

/// Indexes in their only decimal spelling: a list in an entry holds strings alone.
fn read_holds(texts: &[&str]) -> Option<Vec<u64>> {
    let read = |text: &&str| text.parse::<u64>().ok().filter(|hold| hold.to_string() == **text);
    let holds: Vec<u64> = texts.iter().map(read).collect::<Option<_>>()?;
    (!holds.is_empty() && holds.is_sorted_by(|one, other| one < other)).then_some(holds)
}

/// Name and code of a class that can expire; the name of a built-in one is known, that of a tenant's own is not.
fn read_class(text: &str) -> Option<(&str, u16)> {
    let (name, code) = text.split_once(' ')?;
    let code = decimal(code)?;
    let agrees = match Class::named(name) {
        Some(Class::Permanent) => false,
        Some(class) => class.code() == code,
        None => is_own_name(name) && code >= FIRST_OWN_CLASS_CODE,
    };
    agrees.then_some((name, code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::catalog::action;
    use crate::event::{Builder, Outcome};
    use crate::retention::{MAX_SET_BYTES, Pushed, SetBuilder};

    fn certificate(members: impl IntoIterator<Item = u64>) -> Certificate {
        let mut set = SetBuilder::new();
        members.into_iter().for_each(|index| assert_eq!(set.push(index), Pushed::Taken));
        Certificate {
            layer: parse_layer("2026-10").unwrap(),
            class: "billing".to_owned(),
            class_code: 256,
            months: 84,
            members: set.finish().unwrap(),
            policy: 9,
            holds: vec![7, 8],
            clock_confirmed: Some(Micros(1_793_491_140_000_000)),
        }
    }

    fn facts_of(certificate: &Certificate) -> Value {
        let builder = Builder::new(action::RETENTION_EXPIRED, Outcome::Success);
        let facts = certificate.to_facts().into_iter();
        let mut event =
            facts.fold(builder, |builder, (name, value)| builder.fact(name, value)).build().unwrap();
        event.set_id("a");
        event.seal(&mut |salts| salts.fill(1)).facts().unwrap()
    }

    #[test]
    fn a_certificate_reads_back_from_its_entry() {
        let some = certificate([3, 4, 5, 900]);
        assert_eq!(Certificate::from_facts(&facts_of(&some)), Ok(some.clone()));
        let unconfirmed =
            Certificate { clock_confirmed: None, class: "security".to_owned(), class_code: 1, ..some };
        assert_eq!(Certificate::from_facts(&facts_of(&unconfirmed)), Ok(unconfirmed));
        // The largest set there is fits an entry.
        let full = certificate((0..MAX_SET_BYTES as u64 * 4).map(|at| at * 2 + 1));
        assert_eq!(full.members.encode().len(), MAX_SET_BYTES + 9);
        assert_eq!(Certificate::from_facts(&facts_of(&full)), Ok(full));
    }

    #[test]
    fn a_fact_that_does_not_hold_is_named() {
        let sound = facts_of(&certificate([3, 4, 5, 900]));
        let Value::Object(sound) = sound else { panic!("facts are an object") };
        let with = |name: &str, value: Option<Value>| {
            let mut facts = sound.clone();
            facts.retain(|(found, _)| found != name);
            facts.extend(value.map(|value| (name.to_owned(), value)));
            Certificate::from_facts(&Value::Object(facts)).map(drop).map_err(|fault| fault.pointer)
        };
        for name in FACTS {
            let absent =
                if ["holds", "clock_confirmed"].contains(&name) { Ok(()) } else { Err(format!("/{name}")) };
            assert_eq!(with(name, None), absent);
            assert_eq!(with(name, Some(true.into())), Err(format!("/{name}")));
        }
        for (name, value) in [
            ("layer", Value::from("2026-13")),
            ("class", "billing".into()),
            ("class", "billing 1".into()),
            ("class", "billing 0256".into()),
            ("class", "permanent 0".into()),
            ("class", "security 2".into()),
            ("class", "security 1 ".into()),
            ("months", 0u64.into()),
            ("months", 1_201u64.into()),
            ("count", 3u64.into()),
            ("first", 4u64.into()),
            ("last", 901u64.into()),
            ("indexes", "AA".into()),
            ("indexes", "AAA=".into()),
            ("holds", Vec::<Value>::new().into()),
            ("holds", vec![Value::from("8"), "7".into()].into()),
            ("holds", vec![Value::from("7"), "7".into()].into()),
            ("holds", vec![Value::from("07")].into()),
            ("holds", vec![Value::from(7u64)].into()),
            ("clock_confirmed", "2026-10-31T23:59:00Z".into()),
        ] {
            assert_eq!(with(name, Some(value)), Err(format!("/{name}")), "{name}");
        }
        assert_eq!(with("note", Some("x".into())), Err(String::new()));
    }
}
