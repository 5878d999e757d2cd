//! Appending: one event, a batch that is whole or not at all, a batch of which each event has its own outcome.
//!
//! A batch has at most 1,000 events and 4 MiB. Whatever is sent again is sent with the same ids, so the log has it
//! once. Where a log's keys were given, each receipt is checked before it is handed out.

use std::borrow::Borrow;
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::connection::{Ask, Client, Repeat, segment};
use super::error::{Error, Problem};
use super::new_event::NewEvent;
use super::receipt::{Checked, Receipt, ReceiptFault};
use super::retry::Tries;

/// Events of one request (contract).
pub const MAX_BATCH_EVENTS: usize = 1000;

/// Bytes of one request, its brackets and commas included (contract).
pub const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Sends a body and gives back the answer's.
type Sending<'a> = dyn FnMut(&[u8]) -> Result<Vec<u8>, Error> + 'a;

/// What became of one event of a batch.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is in the log.
    Stored(Receipt),
    /// It is refused. Unless the problem is retryable, it is so for good: sending it again changes nothing.
    Refused(Problem),
    /// There is no answer for it: it may be in the log or not. Send it again, with the same id.
    Unsettled(Error),
    /// The server says that it is in the log, and the receipt does not hold.
    Doubtful(Receipt, ReceiptFault),
}

/// Events that fit into one request.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    events: Vec<NewEvent>,
    bytes: usize,
}

impl Batch {
    /// Takes an event in, or gives it back when the batch is full: send the batch, then take the event into the next.
    ///
    /// # Errors
    /// The event.
    pub fn push(&mut self, event: NewEvent) -> Result<(), NewEvent> {
        // Brackets, and a comma before each but the first.
        let more = event.json().len() + if self.events.is_empty() { 2 } else { 1 };
        if self.events.len() == MAX_BATCH_EVENTS || self.bytes + more > MAX_BATCH_BYTES {
            return Err(event);
        }
        self.bytes += more;
        self.events.push(event);
        Ok(())
    }

    /// The events, in order.
    pub fn events(&self) -> &[NewEvent] {
        &self.events
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

impl Client {
    /// Appends one event to the log of `tenant`. When this returns a receipt, the event is on the server's disk.
    ///
    /// # Errors
    /// [`Error`]. Where it is retryable, the same [`NewEvent`] may be sent again at any time: it is stored once.
    pub fn append(&self, tenant: &str, event: &NewEvent) -> Result<Receipt, Error> {
        let receipts = self.append_batch(tenant, std::slice::from_ref(event))?;
        receipts.into_iter().next().ok_or_else(|| self.unreadable())
    }

    /// Appends all events, or none.
    ///
    /// # Errors
    /// [`Error`]; a problem says with `index_in_batch` which event is to blame. [`Error::TooMuch`] where they do not fit
    /// into one request: then all or none cannot be promised.
    pub fn append_batch(&self, tenant: &str, events: &[NewEvent]) -> Result<Vec<Receipt>, Error> {
        fits(events)?;
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let body = array(events);
        let path = self.path(tenant, false);
        let ask = Ask { method: "POST", path, body: Some(&body), repeat: Repeat::Safe };
        let outcomes = self.outcomes(&self.ask(&ask)?, events)?;
        let receipt = |(index_in_batch, outcome)| match outcome {
            Outcome::Stored(receipt) => Ok(receipt),
            Outcome::Doubtful(_, fault) => Err(Error::Receipt { index_in_batch, fault }),
            Outcome::Refused(_) | Outcome::Unsettled(_) => Err(self.unreadable()),
        };
        outcomes.into_iter().enumerate().map(receipt).collect()
    }

    /// Appends each event on its own account: one that is refused holds up no other. Outcomes stand in the order of
    /// the events. Those that were refused as retryable are sent again. The bounds of [`Retry`](super::Retry) are those
    /// of all requests together.
    ///
    /// # Errors
    /// [`Error`] when nothing is known of any of them.
    pub fn append_each(&self, tenant: &str, events: &[NewEvent]) -> Result<Vec<Outcome>, Error> {
        fits(events)?;
        let mut outcomes: Vec<Option<Outcome>> = events.iter().map(|_| None).collect();
        let mut open: Vec<usize> = (0..events.len()).collect();
        let mut tries = Tries::begin(self.options().retry);
        let path = self.path(tenant, true);
        while !open.is_empty() {
            let asked: Vec<&NewEvent> = open.iter().map(|at| &events[*at]).collect();
            let answered = match self.each(&asked, &mut |body| {
                let ask = Ask { method: "POST", path: path.clone(), body: Some(body), repeat: Repeat::Safe };
                self.ask_within(&ask, &mut tries)
            }) {
                Ok(answered) => answered,
                Err(error) if open.len() == events.len() => return Err(error),
                Err(error) => open.iter().map(|_| Outcome::Unsettled(error.clone())).collect(),
            };
            let mut again = Vec::new();
            for (at, outcome) in open.into_iter().zip(answered) {
                if matches!(&outcome, Outcome::Refused(problem) if problem.retryable) {
                    again.push(at);
                }
                outcomes[at] = Some(outcome);
            }
            open = again;
            if !open.is_empty() {
                match tries.next_pause(None) {
                    Some(pause) => thread::sleep(pause),
                    None => break,
                }
            }
        }
        Ok(outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or_else(|| Outcome::Unsettled(self.unreadable())))
            .collect())
    }

    /// One try of at most `time`, of events that fit into one request. Those refused as retryable stay so.
    pub(super) fn try_each(
        &self,
        tenant: &str,
        events: &[&NewEvent],
        time: Duration,
    ) -> Result<Vec<Outcome>, Error> {
        let path = self.path(tenant, true);
        self.each(events, &mut |body| {
            self.ask_once(
                &Ask { method: "POST", path: path.clone(), body: Some(body), repeat: Repeat::Safe },
                time,
            )
        })
    }

    /// Sends events by `send`. A request that is refused as a whole for what it holds is cut in halves until the event
    /// that is to blame stands alone: a batch can be within its limits and over them once it is sealed.
    fn each(&self, events: &[&NewEvent], send: &mut Sending<'_>) -> Result<Vec<Outcome>, Error> {
        match send(&array(events)) {
            Ok(answer) => self.outcomes(&answer, events),
            Err(Error::Refused(problem)) if problem.blames_content() && events.len() == 1 => {
                Ok(vec![Outcome::Refused(*problem)])
            }
            Err(error) if error.blames_content() => {
                let (left, right) = events.split_at(events.len() / 2);
                let mut outcomes = self.each(left, send)?;
                match self.each(right, send) {
                    Ok(rest) => outcomes.extend(rest),
                    Err(error) => outcomes.extend(right.iter().map(|_| Outcome::Unsettled(error.clone()))),
                }
                Ok(outcomes)
            }
            Err(error) => Err(error),
        }
    }

    fn path(&self, tenant: &str, each: bool) -> String {
        let verifiable = self.is_verifiable();
        let on_error = if each { "&on_error=skip" } else { "" };
        format!("/v1/tenants/{}/events?verifiable={verifiable}{on_error}", segment(tenant))
    }

    /// The outcomes in an answer, in order.
    fn outcomes<E: Borrow<NewEvent>>(&self, answer: &[u8], events: &[E]) -> Result<Vec<Outcome>, Error> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(alias = "receipts")]
            results: Vec<Box<RawValue>>,
        }
        let Answer { results } = serde_json::from_slice(answer).map_err(|_| self.unreadable())?;
        if results.len() != events.len() {
            return Err(self.unreadable());
        }
        let read = |(raw, event): (Box<RawValue>, &E)| match Receipt::read(raw.clone()) {
            Some(receipt) => Ok(self.checked(receipt, event.borrow())),
            None => {
                let problem = self.problem(raw.get().as_bytes()).ok_or_else(|| self.unreadable())?;
                Ok(Outcome::Refused(problem))
            }
        };
        results.into_iter().zip(events).map(read).collect()
    }

    fn checked(&self, receipt: Receipt, event: &NewEvent) -> Outcome {
        let keys = &self.options().log_keys;
        if keys.is_empty() {
            return Outcome::Stored(receipt);
        }
        match receipt.check(keys, event) {
            // The body of a repeat may have expired; of a new event it is there.
            Ok(Checked::Signed) if !receipt.duplicate => {
                Outcome::Doubtful(receipt, ReceiptFault::Member("canonical"))
            }
            Ok(_) => Outcome::Stored(receipt),
            Err(fault) => Outcome::Doubtful(receipt, fault),
        }
    }
}

fn fits(events: &[NewEvent]) -> Result<(), Error> {
    let bytes: usize = events.iter().map(|event| event.json().len() + 1).sum::<usize>() + 1;
    let what = if events.len() > MAX_BATCH_EVENTS {
        format!("{} events; a request holds at most {MAX_BATCH_EVENTS}", events.len())
    } else if bytes > MAX_BATCH_BYTES {
        format!("{bytes} bytes; a request holds at most {MAX_BATCH_BYTES}")
    } else {
        return Ok(());
    };
    Err(Error::TooMuch { what })
}

fn array<E: Borrow<NewEvent>>(events: &[E]) -> Vec<u8> {
    let bytes: usize = events.iter().map(|event| event.borrow().json().len() + 1).sum();
    let mut body = Vec::with_capacity(bytes + 2);
    body.push(b'[');
    for (nth, event) in events.iter().enumerate() {
        if nth > 0 {
            body.push(b',');
        }
        body.extend_from_slice(event.borrow().json().as_bytes());
    }
    body.push(b']');
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientOptions;

    fn client() -> Client {
        Client::new("http://localhost", "varve_key", ClientOptions::default()).unwrap()
    }

    fn events(texts: &[&str]) -> Vec<NewEvent> {
        texts.iter().map(|text| NewEvent::from_json(text).unwrap()).collect()
    }

    #[test]
    fn outcomes_are_read_and_counted() {
        let receipt = r#"{"tenant":"t","index":4,"id":"a","recorded_at":"2026","duplicate":true}"#;
        let problem =
            r#"{"code":"invalid_event","detail":"no","pointer":"/a","retryable":false,"index_in_batch":1}"#;
        let answer = format!("{{\"results\":[{receipt},{problem}]}}");
        let (client, two) = (client(), events(&["{\"id\":\"a\"}", "{\"id\":\"b\"}"]));
        let all = client.outcomes(answer.as_bytes(), &two).unwrap();
        assert!(
            matches!(&all[0], Outcome::Stored(stored) if stored.index == 4 && stored.duplicate && stored.json() == receipt)
        );
        assert!(
            matches!(&all[1], Outcome::Refused(refusal) if refusal.to_string() == "invalid_event: no (at /a)")
        );
        assert!(client.outcomes(answer.as_bytes(), &two[..1]).is_err());
        assert!(client.outcomes(b"{\"results\":[{}]}", &two[..1]).is_err());
        assert!(client.outcomes(format!("{{\"receipts\":[{receipt}]}}").as_bytes(), &two[..1]).is_ok());
    }

    #[test]
    fn a_batch_is_an_array_within_its_limits() {
        assert_eq!(
            array(&events(&["{\"id\":\"a\"\n}", "{\"id\":\"b\"}"])),
            b"[{\"id\":\"a\"\n},{\"id\":\"b\"}]"
        );
        assert_eq!(array::<NewEvent>(&[]), b"[]");
        let mut batch = Batch::default();
        let large =
            NewEvent::from_json(&format!("{{\"id\":\"a\",\"s\":\"{}\"}}", "x".repeat(60_000))).unwrap();
        while batch.push(large.clone()).is_ok() {}
        let bytes = array(batch.events()).len();
        assert!(bytes <= MAX_BATCH_BYTES && bytes + 60_020 > MAX_BATCH_BYTES, "{bytes}");
        assert_eq!(bytes, batch.bytes);
        let mut small = Batch::default();
        let one = &events(&["{\"id\":\"a\"}"])[0];
        (0..MAX_BATCH_EVENTS).for_each(|_| small.push(one.clone()).unwrap());
        assert!(small.push(one.clone()).is_err() && fits(small.events()).is_ok());
        assert!(fits(&vec![one.clone(); MAX_BATCH_EVENTS + 1]).is_err() && fits(&vec![large; 70]).is_err());
    }

    /// A server that takes at most two events a request, and refuses the one named `bad`.
    fn narrow(body: &[u8]) -> Result<Vec<u8>, Error> {
        let sent: Vec<serde_json::Value> = serde_json::from_slice(body).unwrap();
        let client = client();
        let refused = |code: &str| {
            let json = format!("{{\"code\":\"{code}\",\"retryable\":{}}}", code == "busy");
            Error::Refused(Box::new(client.problem(json.as_bytes()).unwrap()))
        };
        if sent.len() > 2 || sent.iter().any(|event| event["id"] == "bad") {
            return Err(refused("too_large"));
        }
        if sent.iter().any(|event| event["id"] == "gone") {
            return Err(refused("busy"));
        }
        let receipts =
            sent.iter().map(|event| serde_json::json!({"index": 1, "id": event["id"], "recorded_at": ""}));
        Ok(serde_json::json!({"results": receipts.collect::<Vec<_>>()}).to_string().into_bytes())
    }

    fn told(ids: &[&str]) -> Result<Vec<char>, Error> {
        let all: Vec<NewEvent> =
            ids.iter().map(|id| NewEvent::from_json(&format!("{{\"id\":\"{id}\"}}")).unwrap()).collect();
        let outcomes = client().each(&all.iter().collect::<Vec<_>>(), &mut narrow)?;
        let letter = |outcome: &Outcome| match outcome {
            Outcome::Stored(_) => 's',
            Outcome::Refused(_) => 'r',
            Outcome::Unsettled(_) => 'u',
            Outcome::Doubtful(..) => 'd',
        };
        Ok(outcomes.iter().map(letter).collect())
    }

    #[test]
    fn a_refused_whole_is_cut_until_the_one_to_blame_stands_alone() {
        assert_eq!(told(&["a", "b"]).unwrap(), ['s', 's']);
        assert_eq!(told(&["a", "b", "c", "d", "e"]).unwrap(), ['s'; 5]);
        assert_eq!(told(&["a", "bad", "c", "d"]).unwrap(), ['s', 'r', 's', 's']);
        // A server that goes away in the middle leaves what is known as known.
        assert_eq!(told(&["a", "b", "c", "gone"]).unwrap(), ['s', 's', 'u', 'u']);
        assert!(told(&["gone"]).is_err());
    }
}
