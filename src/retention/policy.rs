//! What a log keeps how long, and which class an event has that names none (retention.md §1 and §2).

use super::Refusal;
use super::facts::{Facts, decimal};
use super::months::MAX_MONTHS;
use crate::event::catalog::{Class, FIRST_OWN_CLASS_CODE};
use crate::event::limits::MAX_ACTION_CHARS;
use crate::event::{Value, is_class};

/// Classes of a policy: four that every log has, sixty of the tenant's own.
pub const MAX_CLASSES: usize = 64;

/// Rules of a policy.
pub const MAX_RULES: usize = 256;

/// Bytes of a policy's strings, with two quotes and a comma each. An entry has them twice, those of the policy before
/// too: 48 KiB of 64, which leaves 16 for who did it and why.
pub const MAX_POLICY_BYTES: usize = 24 << 10;

/// The built-in classes that a policy has months for, and how many where nobody said.
const BUILT_IN: [(Class, u16); 4] =
    [(Class::Security, 12), (Class::Processing, 12), (Class::PrivacyRequest, 24), (Class::LongEvidence, 72)];

/// What the end of a pattern is that stands for all actions below a prefix.
const BELOW: &str = ".*";

/// Which facts an entry of a policy has.
const FACTS: [&str; 5] = ["classes", "rules", "previous", "previous_classes", "previous_rules"];

/// How long a class is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassTerm {
    /// Name, as it stands in events.
    pub name: String,
    /// Code, as it stands in entries.
    pub code: u16,
    /// Months from 1 to [`MAX_MONTHS`].
    pub months: u16,
}

/// Which class an event has that names none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// An action, or `<prefix>.*`.
    pub pattern: String,
    /// Name of a class of the policy.
    pub class: String,
}

/// The policy of a log. It keeps the rules of §2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// In order of code: the four built-in ones, then the tenant's own from 256 on without a gap.
    pub(super) classes: Vec<ClassTerm>,
    /// In order of pattern, by bytes.
    pub(super) rules: Vec<Rule>,
}

/// A policy as an entry records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedPolicy {
    /// What holds.
    pub policy: Policy,
    /// What held before; `None` in the first of a log.
    pub previous: Option<Previous>,
}

/// The policy before, as the next one repeats it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Previous {
    /// Index of its entry.
    pub index: u64,
    /// What it said.
    pub policy: Policy,
}

/// A policy as callers see it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct PolicyView {
    /// The classes, in order of code.
    pub classes: Vec<ClassView>,
    /// The rules, in order of pattern.
    pub rules: Vec<RuleView>,
}

/// A class as callers see it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct ClassView {
    /// Name, as it stands in events.
    pub name: String,
    /// Code, as it stands in entries.
    pub code: u16,
    /// Months that a body is kept.
    pub months: u16,
}

/// A rule as callers see it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct RuleView {
    /// An action, or `<prefix>.*`.
    pub action: String,
    /// Class of an event that matches and names none.
    pub class: String,
}

impl Default for Policy {
    /// The four built-in classes and no rule.
    fn default() -> Policy {
        let term = |(class, months): (Class, u16)| ClassTerm {
            name: class.name().to_owned(),
            code: class.code(),
            months,
        };
        Policy { classes: BUILT_IN.map(term).into(), rules: Vec::new() }
    }
}

impl Policy {
    /// The classes, in order of code.
    pub fn classes(&self) -> &[ClassTerm] {
        &self.classes
    }

    /// The rules, in order of pattern.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Name and code of the class of an event with this action that names none.
    pub fn class_for(&self, action: &str) -> (&str, u16) {
        let dots = action.rmatch_indices('.').map(|(dot, _)| &action[..dot]);
        let below = |prefix: &str| {
            let pattern = || prefix.bytes().chain(BELOW.bytes());
            self.rules.binary_search_by(|rule| rule.pattern.bytes().cmp(pattern()))
        };
        let exact = self.rules.binary_search_by(|rule| rule.pattern.as_str().cmp(action)).ok();
        let rule = exact.or_else(|| dots.into_iter().find_map(|prefix| below(prefix).ok()));
        let named = rule.and_then(|at| self.term(&self.rules[at].class));
        named.map_or((Class::Security.name(), Class::Security.code()), |term| (&term.name, term.code))
    }

    /// Code of a class that an event may name; not that of `permanent`, which is Varve's own.
    pub fn class_named(&self, name: &str) -> Option<u16> {
        self.term(name).map(|term| term.code)
    }

    /// The class with a code.
    pub fn class_with(&self, code: u16) -> Option<&ClassTerm> {
        self.classes.binary_search_by_key(&code, |term| term.code).ok().map(|at| &self.classes[at])
    }

    fn term(&self, name: &str) -> Option<&ClassTerm> {
        self.classes.iter().find(|term| term.name == name)
    }

    /// Codes that are the tenant's own, and with them the names, are given out for ever: whether this policy has all
    /// that `before` has.
    pub fn keeps_names_of(&self, before: &Policy) -> bool {
        let mut own = before.classes.iter().skip(BUILT_IN.len());
        own.all(|term| self.class_with(term.code).is_some_and(|kept| kept.name == term.name))
    }

    /// As callers see it.
    pub fn view(&self) -> PolicyView {
        let class =
            |term: &ClassTerm| ClassView { name: term.name.clone(), code: term.code, months: term.months };
        let rule = |rule: &Rule| RuleView { action: rule.pattern.clone(), class: rule.class.clone() };
        PolicyView {
            classes: self.classes.iter().map(class).collect(),
            rules: self.rules.iter().map(rule).collect(),
        }
    }

    /// The facts of the entry that records it, with the policy before and the index of that one's entry.
    pub fn to_facts(&self, previous: Option<(u64, &Policy)>) -> Vec<(&'static str, Value)> {
        let [classes, rules, index, previous_classes, previous_rules] = FACTS;
        let mut facts = vec![(classes, self.class_texts()), (rules, self.rule_texts())];
        if let Some((before, policy)) = previous {
            facts.push((index, before.into()));
            facts.push((previous_classes, policy.class_texts()));
            facts.push((previous_rules, policy.rule_texts()));
        }
        facts
    }

    fn class_texts(&self) -> Value {
        let text = |term: &ClassTerm| Value::Text(format!("{} {} {}", term.name, term.code, term.months));
        Value::List(self.classes.iter().map(text).collect())
    }

    fn rule_texts(&self) -> Value {
        let text = |rule: &Rule| Value::Text(format!("{} {}", rule.pattern, rule.class));
        Value::List(self.rules.iter().map(text).collect())
    }

    /// Reads what [`Policy::to_facts`] wrote.
    ///
    /// # Errors
    /// The fact that breaks a rule of §2. Whether it follows the policy before is for who knows that one
    /// ([`History::follows`](super::History::follows)).
    pub fn from_facts(facts: &Value) -> Result<RecordedPolicy, Refusal> {
        let facts = Facts::of(facts, &FACTS)?;
        let [classes, rules, index, previous_classes, previous_rules] = FACTS;
        let policy = read(&facts, classes, rules)?;
        let previous =
            if [index, previous_classes, previous_rules].iter().all(|name| facts.get(name).is_none()) {
                None
            } else {
                let policy = read(&facts, previous_classes, previous_rules)?;
                Some(Previous { index: facts.number(index)?, policy })
            };
        Ok(RecordedPolicy { policy, previous })
    }

    /// Whether it is within what an entry has room for.
    pub(super) fn fits(&self) -> bool {
        let classes = self.class_texts();
        let rules = self.rule_texts();
        let texts =
            [&classes, &rules].into_iter().filter_map(Value::as_list).flatten().filter_map(Value::as_text);
        texts.map(|text| text.len() + 3).sum::<usize>() <= MAX_POLICY_BYTES
    }
}

fn read(facts: &Facts<'_>, classes: &str, rules: &str) -> Result<Policy, Refusal> {
    let mut policy = Policy { classes: Vec::new(), rules: Vec::new() };
    for (place, text) in facts.texts(classes)?.into_iter().enumerate() {
        let term = (place < MAX_CLASSES).then(|| read_class(text, place, &policy)).flatten();
        let wrong =
            || Refusal::new(format!("/{classes}/{place}"), "`<name> <code> <months>` in order of code");
        policy.classes.push(term.ok_or_else(wrong)?);
    }
    if policy.classes.len() < BUILT_IN.len() {
        return Err(Refusal::new(format!("/{classes}"), "a class that every policy names is absent"));
    }
    for (place, text) in facts.texts(rules)?.into_iter().enumerate() {
        let rule = (place < MAX_RULES).then(|| read_rule(text, &policy)).flatten();
        let wrong = || Refusal::new(format!("/{rules}/{place}"), "`<pattern> <class>` in order of pattern");
        policy.rules.push(rule.ok_or_else(wrong)?);
    }
    if !policy.fits() {
        return Err(Refusal::new(format!("/{rules}"), format!("over {MAX_POLICY_BYTES} bytes of text")));
    }
    Ok(policy)
}

/// The class at a place: which code it must have follows from there.
fn read_class(text: &str, place: usize, policy: &Policy) -> Option<ClassTerm> {
    let mut words = text.split(' ');
    let (name, code, months) = (words.next()?, decimal(words.next()?)?, decimal(words.next()?)?);
    let is_due = match BUILT_IN.get(place) {
        Some((class, _)) => (class.code(), class.name()) == (code, name),
        None => own_code(place) == Some(code) && is_own_name(name) && policy.term(name).is_none(),
    };
    let holds = is_due && words.next().is_none() && (1..=MAX_MONTHS).contains(&months);
    holds.then(|| ClassTerm { name: name.to_owned(), code, months })
}

fn read_rule(text: &str, policy: &Policy) -> Option<Rule> {
    let (pattern, class) = text.split_once(' ')?;
    let ascends = policy.rules.last().is_none_or(|last| last.pattern.as_str() < pattern);
    let holds = ascends && is_pattern(pattern) && policy.term(class).is_some();
    holds.then(|| Rule { pattern: pattern.to_owned(), class: class.to_owned() })
}

/// Code of the class at a place behind the built-in ones.
pub(super) fn own_code(place: usize) -> Option<u16> {
    let own = u16::try_from(place.checked_sub(BUILT_IN.len())?).ok()?;
    FIRST_OWN_CLASS_CODE.checked_add(own)
}

/// Whether a tenant may call a class of its own so.
pub(super) fn is_own_name(name: &str) -> bool {
    is_class(name) && Class::named(name).is_none()
}

/// Whether a rule may have this pattern: an action or a prefix with `.*`, none of Varve's own.
pub(super) fn is_pattern(pattern: &str) -> bool {
    let action = pattern.strip_suffix(BELOW).unwrap_or(pattern);
    let is_word = |word: &str| {
        let known = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        !word.is_empty() && word.bytes().all(known)
    };
    let mut words = action.split('.');
    pattern.len() <= MAX_ACTION_CHARS && words.clone().all(is_word) && words.next() != Some("varve")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::catalog::action;
    use crate::event::{Builder, Outcome};
    use crate::retention::PolicyChange;

    fn changed(json: &str, before: Option<&Policy>) -> Policy {
        PolicyChange::parse(json.as_bytes()).unwrap().apply(before, 0).unwrap()
    }

    const TWO: &str = r#"{"classes":{"security":{"months":18},"billing":{"months":84}},"rules":[
        {"action":"billing.*","class":"billing"},{"action":"billing.card.read","class":"security"},
        {"action":"billing.card.*","class":"processing"},{"action":"login","class":"privacy-request"}]}"#;

    #[test]
    fn an_action_has_the_class_of_its_closest_rule() {
        let policy = changed(TWO, None);
        for (action, class, code) in [
            ("billing.run", "billing", 256),
            ("billing.card.read", "security", 1),
            ("billing.card.read.all", "processing", 2),
            ("billing.card.write", "processing", 2),
            ("billing.cards.write", "billing", 256),
            ("billing", "security", 1),
            ("billing-x.run", "security", 1),
            ("login", "privacy-request", 3),
            ("login.x", "security", 1),
        ] {
            assert_eq!(policy.class_for(action), (class, code), "{action}");
        }
        assert_eq!(policy.class_named("billing"), Some(256));
        assert_eq!((policy.class_named("permanent"), policy.class_named("other")), (None, None));
        assert_eq!(policy.class_with(256).unwrap().months, 84);
        assert_eq!(Policy::default().class_for("a.b"), ("security", 1));
    }

    #[test]
    fn a_policy_reads_back_from_the_entry_that_records_it() {
        let first = changed(TWO, None);
        let second = changed(
            r#"{"classes":{"audit":{"months":1},"billing":{"months":120}},"rules":[]}"#,
            Some(&first),
        );
        assert_eq!(second.class_named("audit"), Some(257));
        assert!(second.keeps_names_of(&first) && !first.keeps_names_of(&second));
        for (policy, previous) in [(&first, None), (&second, Some((7, &first)))] {
            let facts = policy.to_facts(previous);
            let builder = Builder::new(action::RETENTION_POLICY_CHANGED, Outcome::Success);
            let builder = facts.into_iter().fold(builder, |builder, (name, value)| builder.fact(name, value));
            let mut event = builder.build().unwrap();
            event.set_id("a");
            let facts = event.seal(&mut |salts| salts.fill(1)).facts().unwrap();
            let read = Policy::from_facts(&facts).unwrap();
            assert_eq!(read.policy, *policy);
            assert_eq!(
                read.previous,
                previous.map(|(index, policy)| Previous { index, policy: policy.clone() })
            );
        }
        assert_eq!(second.view().classes.len(), 6);
        assert_eq!(first.view().rules[0].action, "billing.*");
    }

    #[test]
    fn facts_that_say_it_in_another_way_are_refused() {
        let facts = |classes: &[&str], rules: &[&str]| {
            let list = |texts: &[&str]| Value::List(texts.iter().map(|text| (*text).into()).collect());
            vec![("classes".to_owned(), list(classes)), ("rules".to_owned(), list(rules))]
        };
        let four = ["security 1 12", "processing 2 12", "privacy-request 3 24", "long-evidence 4 72"];
        let read = |facts: Vec<(String, Value)>| {
            Policy::from_facts(&Value::Object(facts)).map_err(|fault| fault.pointer)
        };
        let with = |own: &[&'static str]| facts(&[&four[..], own].concat(), &[]);
        assert!(read(with(&["a 256 1", "b 257 1200"])).is_ok());
        for own in [
            "a 257 1",
            "a 256 0",
            "a 256 1201",
            "a 256 01",
            "a 0256 1",
            "a 256",
            "a 256 1 ",
            "A 256 1",
            "security 256 1",
            "permanent 256 1",
            " 256 1",
            "a 255 1",
            "a +256 1",
        ] {
            assert_eq!(read(with(&[own])), Err("/classes/4".to_owned()), "{own}");
        }
        assert_eq!(read(with(&["a 256 1", "a 257 1"])), Err("/classes/5".to_owned()));
        assert_eq!(read(facts(&four[..3], &[])), Err("/classes".to_owned()));
        assert_eq!(read(facts(&[four[1], four[0], four[2], four[3]], &[])), Err("/classes/0".to_owned()));
        assert!(read(facts(&four, &["a.* security", "a.b processing"])).is_ok());
        for rule in [
            "a.b",
            "a.b other",
            "a.b permanent",
            "A.b security",
            "a..b security",
            "* security",
            ".* security",
            "a*  security",
            "varve.x security",
            "varve.* security",
            "a.b security ",
        ] {
            assert_eq!(read(facts(&four, &[rule])), Err("/rules/0".to_owned()), "{rule}");
        }
        for rules in [["a.b security", "a.b security"], ["b security", "a security"]] {
            assert_eq!(read(facts(&four, &rules)), Err("/rules/1".to_owned()));
        }
        let mut previous = facts(&four, &[]);
        previous.push(("previous".to_owned(), 1u64.into()));
        assert_eq!(read(previous), Err("/previous_classes".to_owned()));
        let mut other = facts(&four, &[]);
        other.push(("note".to_owned(), "x".into()));
        assert_eq!(read(other), Err(String::new()));
        assert_eq!(Policy::from_facts(&Value::Null).unwrap_err().pointer, "");
        assert_eq!(read(facts(&four, &[])[..1].to_vec()), Err("/rules".to_owned()));
    }

    #[test]
    fn the_largest_policy_and_the_one_before_fit_an_entry() {
        let rule = |n: usize| format!(r#"{{"action":"{}.x{n:03}","class":"billing"}}"#, "a".repeat(74));
        let rules: Vec<String> = (0..MAX_RULES).map(rule).collect();
        let json = |rules: &[String]| {
            format!(r#"{{"classes":{{"billing":{{"months":84}}}},"rules":[{}]}}"#, rules.join(","))
        };
        let policy = changed(&json(&rules), None);
        let builder =
            Builder::new(action::RETENTION_POLICY_CHANGED, Outcome::Success).actor("key", &"k".repeat(128));
        let facts = policy.to_facts(Some(((1 << 40) - 1, &policy)));
        facts.into_iter().fold(builder, |builder, (name, value)| builder.fact(name, value)).build().unwrap();
        let longer: Vec<String> = rules.iter().map(|rule| rule.replacen("aaaa", "aaaaaaaaaaaa", 1)).collect();
        let refused = PolicyChange::parse(json(&longer).as_bytes()).unwrap().apply(None, 0).unwrap_err();
        assert_eq!(refused.pointer, "/rules");
    }
}
