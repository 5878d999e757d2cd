//! Files of JSON, plain or gzip, cut into records without ever holding more than one.
//!
//! Limits: a record of [`MAX_RECORD_BYTES`]; of a gzip file [`MAX_INFLATED_BYTES`], so that a small file that
//! inflates without end (a decompression bomb) is refused. A plain file may have any length.
//!
//! The cutter counts brackets and strings; it does not check the JSON inside, which is parsed strictly later.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::sync::Arc;

use flate2::read::MultiGzDecoder;

use super::super::output::Failure;
use super::super::send::Origin;
use super::Fault;

/// Bytes of one record. CloudTrail's own bound is 256 KiB (1 MiB with large fields), an event's is 64 KiB; what is
/// between is read in order to be named in the report.
pub(in crate::cli) const MAX_RECORD_BYTES: usize = 1024 * 1024;

/// Bytes of a gzip file once inflated: 1 GiB, or about 800,000 CloudTrail records; S3 delivers at most some 50 MiB.
pub(in crate::cli) const MAX_INFLATED_BYTES: u64 = 1024 * 1024 * 1024;

/// The first two bytes of gzip (RFC 1952 §2.3.1).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// UTF-8's byte order mark, which some tools put in front.
const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

const BUFFER_BYTES: usize = 64 * 1024;

/// An opened file, inflated if need be.
pub(in crate::cli) struct Input {
    name: Arc<str>,
    reader: BufReader<Box<dyn Read>>,
    line: u64,
    record: u64,
}

/// One record, or why there is none at its place.
pub(super) type Cut = Result<(Origin, Vec<u8>), (Origin, String)>;

impl Input {
    /// Opens `name`; `-` is standard input.
    pub(in crate::cli) fn open(name: &str) -> Result<Input, Failure> {
        let source: Box<dyn Read> = match name {
            "-" => Box::new(io::stdin()),
            _ => Box::new(File::open(name).map_err(|error| unreadable(name, &error))?),
        };
        Input::of(name, source, MAX_INFLATED_BYTES).map_err(|error| unreadable(name, &error))
    }

    /// Reads from `source`, which is called `name` in what is reported.
    pub(super) fn of(name: &str, mut source: Box<dyn Read>, max_inflated_bytes: u64) -> io::Result<Input> {
        let head = head(&mut source, GZIP_MAGIC.len())?;
        let whole = Cursor::new(head.clone()).chain(source);
        let mut plain: Box<dyn Read> = if head == GZIP_MAGIC {
            Box::new(Bounded { inner: MultiGzDecoder::new(BufReader::new(whole)), left: max_inflated_bytes })
        } else {
            Box::new(whole)
        };
        let mut start = self::head(&mut plain, BYTE_ORDER_MARK.len())?;
        if start == BYTE_ORDER_MARK {
            start.clear();
        }
        let reader: Box<dyn Read> = Box::new(Cursor::new(start).chain(plain));
        Ok(Input {
            name: name.into(),
            reader: BufReader::with_capacity(BUFFER_BYTES, reader),
            line: 1,
            record: 0,
        })
    }

    /// The next line that is not blank, without its end. A line over [`MAX_RECORD_BYTES`] is skipped and reported.
    pub(super) fn next_line(&mut self) -> Result<Option<Cut>, Fault> {
        loop {
            let line = self.line;
            let mut text = Vec::new();
            let mut length = 0;
            let mut ended = false;
            while !ended {
                let buffer = self.reader.fill_buf().map_err(|error| unread(&self.name, line, &error))?;
                if buffer.is_empty() {
                    break;
                }
                let end = buffer.iter().position(|byte| *byte == b'\n');
                let part = &buffer[..end.unwrap_or(buffer.len())];
                length += part.len();
                text.extend_from_slice(&part[..part.len().min(MAX_RECORD_BYTES.saturating_sub(text.len()))]);
                let used = end.map_or(buffer.len(), |end| end + 1);
                ended = end.is_some();
                self.reader.consume(used);
            }
            if length == 0 && !ended {
                return Ok(None);
            }
            self.line += 1;
            if length > MAX_RECORD_BYTES {
                return Ok(Some(Err((self.origin(line), too_long()))));
            }
            let trimmed = text.trim_ascii();
            if !trimmed.is_empty() {
                return Ok(Some(Ok((self.origin(line), trimmed.to_vec()))));
            }
        }
    }

    /// Whether the file is an object a line: its first line is complete. Nothing is consumed.
    pub(super) fn is_by_line(&mut self) -> Result<bool, Fault> {
        let mut start = Vec::new();
        let outcome = (&mut self.reader).take(MAX_RECORD_BYTES as u64).read_until(b'\n', &mut start);
        outcome.map_err(|error| unread(&self.name, self.line, &error))?;
        let is_object = start.trim_ascii_start().first() == Some(&b'{');
        let is_complete = serde_json::from_slice::<serde::de::IgnoredAny>(&start).is_ok();
        // A first line that is no JSON at all is a bad line among others; one that ends too early goes on below.
        let goes_on =
            matches!(serde_json::from_slice::<serde::de::IgnoredAny>(&start), Err(error) if error.is_eof());
        let is_list = start.trim_ascii_start().first() == Some(&b'[');
        self.put_back(start);
        Ok((is_object && is_complete) || !(goes_on || is_list))
    }

    /// The next object: at the top, in a top-level array, or in the array `Records` of an object that starts with it.
    pub(super) fn next_object(&mut self, place: &mut Place) -> Result<Option<Cut>, Fault> {
        loop {
            let Some(byte) = self.next_byte()? else {
                return match place {
                    Place::Top => Ok(None),
                    _ => Err(self.truncated()),
                };
            };
            match (*place, byte) {
                (_, b' ' | b'\t' | b'\r' | b'\n') | (Place::List { .. }, b',') => {}
                (Place::Top, b'[') => *place = Place::List { in_object: false },
                (Place::Top | Place::List { .. }, b'{') => {
                    if let Some(cut) = self.object(place)? {
                        return Ok(Some(cut));
                    }
                }
                (Place::List { in_object: true }, b']') => {
                    self.skip_object()?;
                    *place = Place::Top;
                }
                (Place::List { in_object: false }, b']') => *place = Place::Top,
                (Place::Top, _) => return self.skip_line(byte).map(Some),
                (Place::List { .. }, _) => {
                    let place = format!("{}:{}", self.name, self.line);
                    let hint = "what stands in the list must be objects";
                    return Err(Fault::File(Failure::new(
                        format!("{place}: this is no list of records"),
                        hint,
                    )));
                }
            }
        }
    }

    /// The object whose `{` was just read; `None` when it turns out to hold the list of records.
    fn object(&mut self, place: &mut Place) -> Result<Option<Cut>, Fault> {
        let line = self.line;
        let mut text = vec![b'{'];
        let mut length = 1_usize;
        let mut brackets = Brackets { depth: 1, ..Brackets::default() };
        while brackets.depth > 0 {
            let Some(byte) = self.next_byte()? else { return Err(self.truncated()) };
            brackets.take(byte);
            length += 1;
            if text.len() < MAX_RECORD_BYTES {
                text.push(byte);
            }
            if *place == Place::Top && byte == b'[' && brackets.depth == 2 && is_wrapper(&text) {
                *place = Place::List { in_object: true };
                return Ok(None);
            }
        }
        let origin = self.origin(line);
        Ok(Some(if length > MAX_RECORD_BYTES { Err((origin, too_long())) } else { Ok((origin, text)) }))
    }

    /// The rest of an object, of which nothing is wanted.
    fn skip_object(&mut self) -> Result<(), Fault> {
        let mut brackets = Brackets { depth: 1, ..Brackets::default() };
        while brackets.depth > 0 {
            let Some(byte) = self.next_byte()? else { return Err(self.truncated()) };
            brackets.take(byte);
        }
        Ok(())
    }

    /// A line that starts like no object.
    fn skip_line(&mut self, first: u8) -> Result<Cut, Fault> {
        let line = self.line;
        let mut byte = Some(first);
        while byte.is_some_and(|byte| byte != b'\n') {
            byte = self.next_byte()?;
        }
        Ok(Err((self.origin(line), "bad_request: this is no JSON object".to_owned())))
    }

    fn next_byte(&mut self) -> Result<Option<u8>, Fault> {
        let buffer = self.reader.fill_buf().map_err(|error| unread(&self.name, self.line, &error))?;
        let Some(byte) = buffer.first().copied() else { return Ok(None) };
        self.reader.consume(1);
        self.line += u64::from(byte == b'\n');
        Ok(Some(byte))
    }

    fn put_back(&mut self, start: Vec<u8>) {
        let empty: Box<dyn Read> = Box::new(io::empty());
        let rest = std::mem::replace(&mut self.reader, BufReader::new(empty));
        let whole: Box<dyn Read> = Box::new(Cursor::new(start).chain(rest));
        self.reader = BufReader::with_capacity(BUFFER_BYTES, whole);
    }

    fn origin(&mut self, line: u64) -> Origin {
        self.record += 1;
        Origin { file: Arc::clone(&self.name), line, record: self.record }
    }

    fn truncated(&self) -> Fault {
        Fault::File(Failure::new(
            format!(
                "{}: the file ends in the middle of a record, after {} whole ones",
                self.name, self.record
            ),
            "fetch the file again; what was whole is kept, and importing it again is safe for records with an id",
        ))
    }
}

/// Where the cutter stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Between values.
    Top,
    /// In an array of records, which may be a member of an object.
    List { in_object: bool },
}

/// Depth of brackets, strings taken into account.
#[derive(Default)]
struct Brackets {
    depth: u64,
    in_string: bool,
    is_escaped: bool,
}

impl Brackets {
    fn take(&mut self, byte: u8) {
        if self.in_string {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

/// Whether `text` is `{"Records":[`, whitespace aside.
fn is_wrapper(text: &[u8]) -> bool {
    let wanted = b"{\"Records\":[";
    let bare = || text.iter().filter(|byte| !byte.is_ascii_whitespace());
    bare().take(wanted.len() + 1).count() == wanted.len() && bare().eq(wanted.iter())
}

/// Up to `count` bytes from the start of `source`.
fn head(source: &mut dyn Read, count: usize) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(count);
    source.take(count as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// A reader that fails, rather than ends, at its bound.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(out)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => {
                self.left = left;
                Ok(read)
            }
            None => Err(io::Error::new(io::ErrorKind::FileTooLarge, "it inflates to over 1 GiB")),
        }
    }
}

fn too_long() -> String {
    "too_large: the record is over 1 MiB".to_owned()
}

fn unread(name: &str, line: u64, error: &io::Error) -> Fault {
    let hint = match error.kind() {
        io::ErrorKind::FileTooLarge => {
            "inflate it with gunzip where there is room: plain files may have any length"
        }
        _ => "fetch it again; what was read is kept, and importing it again is safe for records with an id",
    };
    Fault::File(Failure::new(format!("{name}:{line}: cannot be read any further: {error}"), hint))
}

fn unreadable(name: &str, error: &io::Error) -> Failure {
    Failure::new(format!("{name} cannot be read: {error}"), "check the name of the file and who may read it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn input(bytes: &[u8]) -> Input {
        Input::of("f", Box::new(Cursor::new(bytes.to_vec())), MAX_INFLATED_BYTES).unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn shown(cut: Cut) -> String {
        match cut {
            Ok((origin, text)) => {
                format!("{}.{} {}", origin.line, origin.record, String::from_utf8(text).unwrap())
            }
            Err((origin, reason)) => format!("{}.{} !{reason}", origin.line, origin.record),
        }
    }

    fn objects(bytes: &[u8]) -> (Vec<String>, Option<String>) {
        let (mut input, mut place, mut all) = (input(bytes), Place::Top, Vec::new());
        loop {
            match input.next_object(&mut place) {
                Ok(Some(cut)) => all.push(shown(cut)),
                Ok(None) => return (all, None),
                Err(fault) => return (all, Some(Failure::from(fault).message)),
            }
        }
    }

    #[test]
    fn records_are_cut_out_of_every_wrapping() {
        let expected = vec!["1.1 {\"a\":\"]}\\\"{\"}".to_owned(), "1.2 {\"b\":[{}]}".to_owned()];
        for whole in [
            r#"{"Records":[{"a":"]}\"{"},{"b":[{}]}]}"#,
            r#"{ "Records" : [ {"a":"]}\"{"} , {"b":[{}]} ] , "more" : {"x":"}"} }"#,
            r#"[{"a":"]}\"{"},{"b":[{}]}]"#,
            r#"{"a":"]}\"{"}{"b":[{}]}"#,
        ] {
            assert_eq!(objects(whole.as_bytes()), (expected.clone(), None), "{whole}");
            assert_eq!(objects(&gzip(whole.as_bytes())), (expected.clone(), None), "{whole}");
        }
        let lines = "{\"a\":1}\n\n{\"b\":\n2}\n{\"Records\":[\n{\"c\":3}]}\n";
        let all = ["1.1 {\"a\":1}", "3.2 {\"b\":\n2}", "6.3 {\"c\":3}"].map(str::to_owned);
        assert_eq!(objects(lines.as_bytes()), (all.to_vec(), None));
    }

    #[test]
    fn only_a_member_named_records_wraps() {
        assert_eq!(objects(br#"{"records":[{"a":1}]}"#).0.len(), 1);
        assert_eq!(
            objects(br#"{"x":{"Records":[{},{}]}}"#).0,
            vec![r#"1.1 {"x":{"Records":[{},{}]}}"#.to_owned()]
        );
        assert_eq!(objects(br#"[{"Records":[{},{}]}]"#).0.len(), 1);
    }

    #[test]
    fn broken_files_say_where() {
        let (all, fault) = objects(br#"{"Records":[{"a":1},{"b":"#);
        assert_eq!(all.len(), 1);
        assert!(fault.unwrap().contains("after 1 whole ones"));
        assert!(objects(br#"{"Records":[{"a":1}"#).1.is_some());
        assert!(objects(br#"{"Records":[{"a":1}]"#).1.is_some());
        assert!(objects(br#"[1]"#).1.is_some());
        let (all, fault) = objects(b"nonsense {\n{\"a\":1}");
        assert_eq!(
            all,
            vec!["1.1 !bad_request: this is no JSON object".to_owned(), "2.2 {\"a\":1}".to_owned()]
        );
        assert_eq!(fault, None);
        let cut = gzip(br#"{"Records":[{"a":1},{"b":2}]}"#);
        assert!(objects(&cut[..cut.len() - 12]).1.is_some());
    }

    #[test]
    fn a_long_record_is_named_and_skipped() {
        let long = format!("[{{\"a\":\"{}\"}},{{\"b\":1}}]", "x".repeat(MAX_RECORD_BYTES));
        let (all, fault) = objects(long.as_bytes());
        assert_eq!(
            all,
            vec!["1.1 !too_large: the record is over 1 MiB".to_owned(), "1.2 {\"b\":1}".to_owned()]
        );
        assert_eq!(fault, None);
        let mut lines = input(format!("{}\n{{}}\n", "x".repeat(MAX_RECORD_BYTES + 1)).as_bytes());
        assert!(matches!(lines.next_line(), Ok(Some(Err(_)))));
        assert!(matches!(lines.next_line(), Ok(Some(Ok((origin, _)))) if origin.line == 2));
        assert!(matches!(lines.next_line(), Ok(None)));
    }

    #[test]
    fn a_bomb_is_refused() {
        let bomb = gzip(&[b' '; 100_000]);
        let mut input = Input::of("f", Box::new(Cursor::new(bomb)), 99_999).unwrap();
        let fault = input.next_object(&mut Place::Top).map_err(Failure::from).unwrap_err();
        assert!(fault.message.contains("inflates to over"), "{}", fault.message);
    }

    #[test]
    fn lines_are_counted_and_marks_taken_off() {
        let mut input = input(b"\xef\xbb\xbf{\"a\":1}\r\n\n {\"b\":2}");
        let mut all = Vec::new();
        while let Ok(Some(cut)) = input.next_line() {
            all.push(shown(cut));
        }
        assert_eq!(all, vec!["1.1 {\"a\":1}".to_owned(), "3.2 {\"b\":2}".to_owned()]);
    }

    #[test]
    fn by_line_or_not_is_seen_from_the_first_line() {
        let is = |bytes: &[u8]| {
            let mut input = input(bytes);
            let by_line = input.is_by_line().map_err(Failure::from).unwrap();
            let mut all = Vec::new();
            input.reader.read_to_end(&mut all).unwrap();
            assert_eq!(all, bytes);
            by_line
        };
        assert!(is(b"{\"a\":1}\n{\"b\":") && is(b"{\"a\":1}") && is(b"nonsense\n{}"));
        assert!(!is(b"{\n\"a\":1}") && !is(b"[{}]") && !is(b" [\n{}]"));
    }
}
