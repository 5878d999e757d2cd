//! What was acknowledged, read back from the log: every record by pages, or where there are many a sample of them
//! one by one.

use serde::Deserialize;

use crate::Fault;
use crate::admin::{Admin, Log};
use crate::check::{Acknowledged, Findings};
use crate::event;

/// Records up to which a log is read whole.
pub const WHOLE_UP_TO: usize = 1_000_000;

/// Records of a page: the most that a server gives.
const PAGE_RECORDS: usize = 1000;

/// Records of a sample: with as many, a log that has lost one in a thousand is found out 99 times in 100.
const SAMPLE_RECORDS: usize = 5000;

/// What reading a log back showed.
#[derive(Default)]
pub struct Read {
    /// Records read.
    pub records: u64,
    /// Records of events that were sent and not acknowledged. Not counted in a sample.
    pub unacknowledged: u64,
    /// Whether every record was read.
    pub is_whole: bool,
}

/// Reads back what `log` acknowledged, in the order of indexes; findings are what is missing or another.
///
/// # Errors
/// The server does not answer.
pub async fn read(
    admin: &mut Admin,
    log: &Log,
    acknowledged: &[Acknowledged],
    findings: &mut Findings,
) -> Result<Read, Fault> {
    if acknowledged.len() > WHOLE_UP_TO {
        sample(admin, log, acknowledged, findings).await
    } else {
        pages(admin, log, acknowledged, findings).await
    }
}

async fn pages(
    admin: &mut Admin,
    log: &Log,
    acknowledged: &[Acknowledged],
    findings: &mut Findings,
) -> Result<Read, Fault> {
    let mut read = Read { is_whole: true, ..Read::default() };
    let mut due = acknowledged.iter().peekable();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/tenants/{}/events?order=asc&limit={PAGE_RECORDS}{cursor}", log.tenant);
        let body = admin.get(&path, &log.key, 200).await?;
        let page: Page<'_> = serde_json::from_slice(&body)
            .map_err(|error| Fault::Broken(vec![format!("{path}: the page cannot be read: {error}")]))?;
        for record in &page.events {
            read.records += 1;
            while let Some(missing) = due.next_if(|due| due.index < record.index) {
                findings.note(lost(log, missing));
            }
            match due.next_if(|due| due.index == record.index) {
                Some(acknowledged) => compare(log, acknowledged, record, findings),
                None if record.number().is_some() => read.unacknowledged += 1,
                // An entry of Varve's own.
                None => {}
            }
        }
        match page.next {
            Some(next) => cursor = format!("&cursor={}", escaped(next)),
            None => break,
        }
    }
    due.for_each(|missing| findings.note(lost(log, missing)));
    Ok(read)
}

async fn sample(
    admin: &mut Admin,
    log: &Log,
    acknowledged: &[Acknowledged],
    findings: &mut Findings,
) -> Result<Read, Fault> {
    let mut read = Read::default();
    let step = acknowledged.len().div_ceil(SAMPLE_RECORDS);
    // From the newest on: what was written last is what a fault loses first.
    for acknowledged in acknowledged.iter().rev().step_by(step) {
        let path = format!("/v1/tenants/{}/events/{}", log.tenant, acknowledged.index);
        let body = admin.get(&path, &log.key, 200).await?;
        match serde_json::from_slice::<Record<'_>>(&body) {
            Ok(record) if record.index == acknowledged.index => compare(log, acknowledged, &record, findings),
            Ok(_) => findings.note(lost(log, acknowledged)),
            Err(error) => findings.note(format!("{path}: the record cannot be read: {error}")),
        }
        read.records += 1;
    }
    Ok(read)
}

fn compare(log: &Log, acknowledged: &Acknowledged, record: &Record<'_>, findings: &mut Findings) {
    if record.number() != Some(acknowledged.event) || !acknowledged.has_link(record.link) {
        let (tenant, index, id) = (&log.tenant, acknowledged.index, event::id(acknowledged.event));
        findings.note(format!("{tenant} holds another record at {index} than the receipt of {id} says"));
    }
}

fn lost(log: &Log, acknowledged: &Acknowledged) -> String {
    let (tenant, index, id) = (&log.tenant, acknowledged.index, event::id(acknowledged.event));
    format!("LOST: {tenant} has no record {index}, and a receipt for it as {id} was given")
}

/// A cursor as a value of a query.
fn escaped(cursor: &str) -> String {
    let mut out = String::new();
    for byte in cursor.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    events: Vec<Record<'a>>,
    #[serde(borrow)]
    next: Option<&'a str>,
}

#[derive(Deserialize)]
struct Record<'a> {
    index: u64,
    link: &'a str,
    #[serde(borrow)]
    event: Option<Event<'a>>,
}

#[derive(Deserialize)]
struct Event<'a> {
    id: &'a str,
}

impl Record<'_> {
    fn number(&self) -> Option<u64> {
        event::number_of(self.event.as_ref()?.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_a_value_of_a_query() {
        assert_eq!(escaped("aZ0-._~"), "aZ0-._~");
        assert_eq!(escaped("a+b/c=&"), "a%2Bb%2Fc%3D%26");
    }

    /// A server that answers each of `answers` in turn, whatever it is asked.
    async fn answered(answers: Vec<String>, acknowledged: &[Acknowledged]) -> (Read, Vec<String>) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            for body in answers {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await.unwrap();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all((head + &body).as_bytes()).await.unwrap();
            }
        };
        let client = async {
            let mut admin = Admin::open(address).await.unwrap();
            let mut findings = Findings::default();
            let read = pages(&mut admin, &Log::for_tests("a"), acknowledged, &mut findings).await.unwrap();
            (read, findings.into_words())
        };
        tokio::join!(server, client).1
    }

    fn link(byte: &str) -> String {
        byte.repeat(42) + "A"
    }

    fn record(index: u64, event: u64, link: &str) -> String {
        format!(r#"{{"index":{index},"link":"{link}","event":{{"id":"{}"}}}}"#, event::id(event))
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_missing_or_another_is_found() {
        let acknowledged: Vec<Acknowledged> =
            (1..=4).map(|index| Acknowledged { log: 0, index, event: index, link: [0; 16] }).collect();
        let zero = link("A");
        let page =
            |records: &[String], next: &str| format!(r#"{{"events":[{}],"next":{next}}}"#, records.join(","));
        let genesis = r#"{"index":0,"link":"x","event":{"id":"varve:1"}}"#.to_owned();
        let good = [
            page(&[genesis.clone(), record(1, 1, &zero), record(2, 2, &zero)], "\"c/1\""),
            page(&[record(3, 3, &zero), record(4, 4, &zero), record(5, 9, &zero)], "null"),
        ];
        let (read, words) = answered(good.to_vec(), &acknowledged).await;
        assert_eq!((read.records, read.unacknowledged, words.len()), (6, 1, 0));

        let holes = page(&[genesis, record(1, 1, &zero), record(3, 7, &zero)], "null");
        let (_, words) = answered(vec![holes], &acknowledged).await;
        assert!(words[0].contains("LOST") && words[0].contains("record 2"), "{words:?}");
        assert!(words[1].contains("another record at 3"), "{words:?}");
        assert!(words[2].contains("LOST") && words[2].contains("record 4"), "{words:?}");

        let other_link = page(&[record(1, 1, &link("B"))], "null");
        let (_, words) = answered(vec![other_link], &acknowledged[..1]).await;
        assert!(words[0].contains("another record at 1"), "{words:?}");
    }
}
