//! The events that are sent. An event follows from its id, so that it can be sent again.

use std::fmt::Write as _;

use crate::random::{Random, digest};

/// The event with that id. One in 40 has 40 KiB, a page of many pieces; the others 200 to 900 bytes.
pub(crate) fn event(id: &str) -> String {
    let mut random = Random::new(digest(id));
    let filler = if random.below(40) == 0 { 40 << 10 } else { random.below(700) };
    let mut text = format!(
        r#"{{"id":"{id}","action":"secret.value.read","outcome":"success","actor":{{"type":"service","id":"svc-{}"}},"targets":[{{"type":"secret","id":"sec-{}"}}],"context":{{"request_id":"req-{}"}},"metadata":{{"filler":""#,
        random.below(50),
        random.below(1000),
        random.below(100_000),
    );
    for _ in 0..filler / 16 {
        let _ = write!(text, "{:016x}", random.next());
    }
    text.push_str("\"}}");
    text
}
