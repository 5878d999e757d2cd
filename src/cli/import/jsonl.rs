//! Varve's own events: an object a line, or one object over several lines, or an array. Nothing is mapped.

use super::input::{Cut, Input, Place};
use super::{Fault, Sink};

/// Hands every event to `sink`. By line, a bad line is reported and the next one taken; an object or array over
/// several lines has no such place to start again.
pub(in crate::cli) fn read(mut input: Input, sink: &mut Sink<'_>) -> Result<(), Fault> {
    let by_line = input.is_by_line()?;
    let mut place = Place::Top;
    loop {
        let cut = if by_line { input.next_line()? } else { input.next_object(&mut place)? };
        let Some(cut) = cut else { return Ok(()) };
        hand(cut, sink)?;
    }
}

fn hand(cut: Cut, sink: &mut Sink<'_>) -> Result<(), Fault> {
    match cut {
        Ok((origin, bytes)) => match std::str::from_utf8(&bytes) {
            Ok(text) => sink(Ok((origin, text))),
            Err(_) => sink(Err((origin, "bad_request: this is not UTF-8".to_owned()))),
        },
        Err(refused) => sink(Err(refused)),
    }
    .map_err(Fault::Sink)
}

#[cfg(test)]
mod tests {
    use super::super::super::output::Failure;
    use super::super::input::MAX_INFLATED_BYTES;
    use super::*;
    use std::io::Cursor;

    fn events(bytes: &[u8]) -> Vec<String> {
        let input = Input::of("f", Box::new(Cursor::new(bytes.to_vec())), MAX_INFLATED_BYTES).unwrap();
        let mut all = Vec::new();
        let outcome = read(input, &mut |record| {
            all.push(match record {
                Ok((origin, text)) => format!("{}: {text}", origin.line),
                Err((origin, reason)) => format!("{}! {reason}", origin.line),
            });
            Ok(())
        });
        assert!(outcome.map_err(Failure::from).is_ok());
        all
    }

    #[test]
    fn a_bad_line_does_not_take_the_next_with_it() {
        let found = events(b"{\"a\":1}\n{\"b\":\"\n\xff\n{\"c\":3}\n");
        assert_eq!(
            found,
            ["1: {\"a\":1}", "2: {\"b\":\"", "3! bad_request: this is not UTF-8", "4: {\"c\":3}"]
        );
    }

    #[test]
    fn one_pretty_object_and_an_array_are_read_too() {
        assert_eq!(events(b"{\n  \"a\": 1\n}\n"), ["1: {\n  \"a\": 1\n}"]);
        assert_eq!(events(b"[\n{\"a\":1},\n{\"b\":2}\n]"), ["2: {\"a\":1}", "3: {\"b\":2}"]);
        assert!(events(b"").is_empty() && events(b" \n\n").is_empty());
    }
}
