//! RFC 8785 canonical JSON: how text is written, and a reader that checks it in one pass.
//!
//! [`Reader`] walks bytes once, without building a tree, and accepts exactly the texts that are their
//! own canonical form: no white space, names ascending by UTF-16 code units, the shortest escapes,
//! numbers as ECMAScript prints them. [`Members`] walks bytes that a reader has accepted before and
//! only finds members; on other bytes it ends early, it never panics.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::invalid::{Fault, InvalidKind};
use super::limits::{MAX_DEPTH, MAX_NUMBER};

/// Number of leading bytes that stand for themselves in a JSON string: no quote, backslash or
/// control character.
pub(crate) fn plain_length(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mut at = 0;
    // Eight bytes a step: the high bit of each byte of `special` tells whether it is below 0x20 or
    // equal to a quote or backslash. Borrows can only spoil bytes above the first hit.
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*chunk);
        let (quote, backslash) = (word ^ (ONES * 0x22), word ^ (ONES * 0x5c));
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let either = (quote.wrapping_sub(ONES) & !quote) | (backslash.wrapping_sub(ONES) & !backslash);
        let special = (control | either) & (ONES * 0x80);
        if special != 0 {
            return at + (special.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    at + bytes[at..].iter().take_while(|&&byte| byte >= 0x20 && byte != b'"' && byte != b'\\').count()
}

/// Writes one character of a string (RFC 8785 section 3.2.2.2).
pub(crate) fn write_char(out: &mut Vec<u8>, character: char) {
    match character {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\u{8}' => out.extend_from_slice(b"\\b"),
        '\t' => out.extend_from_slice(b"\\t"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\u{c}' => out.extend_from_slice(b"\\f"),
        '\r' => out.extend_from_slice(b"\\r"),
        control if control < ' ' => {
            let code = control as usize;
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&[b"0123456789abcdef"[code >> 4], b"0123456789abcdef"[code & 15]]);
        }
        other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// Writes a string with its quotes.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text;
    loop {
        let (plain, special) = rest.split_at(plain_length(rest.as_bytes()));
        out.extend_from_slice(plain.as_bytes());
        let Some(character) = special.chars().next() else { break };
        write_char(out, character);
        rest = &special[character.len_utf8()..];
    }
    out.push(b'"');
}

/// Writes a number (RFC 8785 section 3.2.2.3) if it is finite and within ±(2^53 − 1); −0 is 0.
pub(crate) fn write_number(out: &mut Vec<u8>, number: f64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "2^53 - 1 is exact")]
    const LIMIT: f64 = MAX_NUMBER as f64;
    let in_range = number.abs() <= LIMIT;
    if in_range {
        out.extend_from_slice(ryu_js::Buffer::new().format_finite(number).as_bytes());
    }
    in_range
}

/// A string of canonical JSON: the bytes between its quotes.
#[derive(Clone, Copy)]
pub(crate) struct Text<'a> {
    pub(crate) raw: &'a [u8],
    /// Whether `raw` may hold an escape.
    pub(crate) escaped: bool,
}

impl<'a> Text<'a> {
    /// Takes the bytes between the quotes of a canonical string.
    pub(crate) fn new(raw: &'a [u8]) -> Text<'a> {
        Text { raw, escaped: raw.contains(&b'\\') }
    }

    /// The string itself.
    pub(crate) fn decode(self) -> Cow<'a, [u8]> {
        if self.escaped { Cow::Owned(unescape(self.raw)) } else { Cow::Borrowed(self.raw) }
    }

    /// The string itself, as text.
    pub(crate) fn decode_text(self) -> String {
        String::from_utf8_lossy(&self.decode()).into_owned()
    }

    /// Whether the string has at most `max` characters.
    pub(crate) fn fits(self, max: usize) -> bool {
        // A character takes at least one byte, so most strings need no count.
        self.raw.len() <= max || self.decode().iter().filter(|&&byte| byte & 0xc0 != 0x80).count() <= max
    }

    /// Order of names: by UTF-16 code units (RFC 8785 section 3.2.3).
    pub(crate) fn order(self, other: Text<'_>) -> Ordering {
        if self.escaped || other.escaped {
            utf16_order(&self.decode(), &other.decode())
        } else {
            utf16_order(self.raw, other.raw)
        }
    }
}

/// Compares UTF-8 texts as their UTF-16 forms. Both orders agree, but that surrogates (lead bytes F0
/// to F4) come before U+E000 to U+FFFF (lead bytes EE and EF).
#[inline]
fn utf16_order(left: &[u8], right: &[u8]) -> Ordering {
    if let (&[a, ..], &[b, ..]) = (left, right)
        && a != b
        && a < 0x80
    {
        // Most names differ in their first letter; whatever `b` leads, ASCII sorts as its bytes do.
        return a.cmp(&b);
    }
    let rank = |byte: u8| if matches!(byte, 0xee | 0xef) { byte + 0x10 } else { byte };
    match left.iter().zip(right).find(|(a, b)| a != b) {
        Some((&a, &b)) => rank(a).cmp(&rank(b)),
        None => left.len().cmp(&right.len()),
    }
}

/// Undoes the escapes that canonical form has; another escape stands for its second byte.
fn unescape(raw: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(raw.len());
    let mut rest = raw.iter();
    while let Some(&byte) = rest.next() {
        if byte != b'\\' {
            text.push(byte);
            continue;
        }
        text.push(match rest.next() {
            Some(b'b') => 8,
            Some(b't') => b'\t',
            Some(b'n') => b'\n',
            Some(b'f') => 12,
            Some(b'r') => b'\r',
            Some(b'u') => {
                rest.by_ref().take(4).fold(0_u8, |code, &hex| code.wrapping_mul(16).wrapping_add(nibble(hex)))
            }
            Some(&other) => other,
            None => b'\\',
        });
    }
    text
}

fn nibble(hex: u8) -> u8 {
    char::from(hex).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).unwrap_or(0)
}

/// A place in bytes that must be canonical JSON.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte. The bytes must be UTF-8 as a whole.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Reader<'a>, Fault> {
        match std::str::from_utf8(bytes) {
            Ok(_) => Ok(Reader { bytes, at: 0 }),
            Err(error) => Err(Fault::at(InvalidKind::InvalidUtf8, error.valid_up_to())),
        }
    }

    /// Offset of the next byte.
    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    /// The next byte; zero, which no JSON text has, at the end.
    #[inline]
    pub(crate) fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    /// Takes `text` if it comes next.
    #[inline]
    pub(crate) fn take(&mut self, text: &[u8]) -> bool {
        let found = self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(text));
        if found {
            self.at += text.len();
        }
        found
    }

    /// Takes the string `text`, which needs no escape, if it comes next.
    #[inline]
    pub(crate) fn take_string<const N: usize>(&mut self, text: &[u8; N]) -> bool {
        let found = match self.bytes.get(self.at..).and_then(<[u8]>::split_first) {
            Some((b'"', rest)) => rest.first_chunk() == Some(text) && rest.get(N) == Some(&b'"'),
            _ => false,
        };
        if found {
            self.at += N + 2;
        }
        found
    }

    /// Ends: nothing may follow.
    pub(crate) fn finish(self) -> Result<(), Fault> {
        if self.at == self.bytes.len() { Ok(()) } else { Err(self.unexpected()) }
    }

    /// Takes a string.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<Text<'a>, Fault> {
        if self.peek() != b'"' {
            return Err(self.wrong_type());
        }
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at += plain_length(&self.bytes[self.at..]);
            match self.peek() {
                b'"' => break,
                b'\\' => self.escape()?,
                _ => return Err(self.unexpected()),
            }
            escaped = true;
        }
        let raw = &self.bytes[start..self.at];
        self.at += 1;
        Ok(Text { raw, escaped })
    }

    #[cold]
    fn escape(&mut self) -> Result<(), Fault> {
        let rest = &self.bytes[self.at + 1..];
        self.at += match rest {
            [b'"' | b'\\' | b'b' | b't' | b'n' | b'f' | b'r', ..] => 2,
            // Controls without a letter of their own: below 0x20, in lower-case hexadecimal.
            [b'u', b'0', b'0', b'0', b'0'..=b'7' | b'b' | b'e' | b'f', ..]
            | [b'u', b'0', b'0', b'1', b'0'..=b'9' | b'a'..=b'f', ..] => 6,
            _ => return Err(self.unexpected()),
        };
        Ok(())
    }

    /// Takes an array; `element` reads each element, given its index.
    pub(crate) fn array(
        &mut self,
        depth: usize,
        mut element: impl FnMut(&mut Reader<'a>, usize) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.open(b'[', depth)?;
        if self.take(b"]") {
            return Ok(());
        }
        for index in 0.. {
            element(self, index).map_err(|fault| fault.within_element(index))?;
            match self.peek() {
                b',' => self.at += 1,
                b']' => break,
                _ => return Err(self.unexpected()),
            }
        }
        self.at += 1;
        Ok(())
    }

    /// Takes an object; `member` reads each value, given its name. A member named `$sealed` is
    /// refused: markers are read by those who expect one.
    #[inline]
    pub(crate) fn object(
        &mut self,
        depth: usize,
        member: impl FnMut(&mut Reader<'a>, Text<'a>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.open(b'{', depth)?;
        if self.take(b"}") {
            return Ok(());
        }
        self.members(None, member)
    }

    /// Takes the members of an object up to its closing brace, the first of them named above `last`.
    #[inline]
    pub(crate) fn members(
        &mut self,
        mut last: Option<Text<'a>>,
        mut member: impl FnMut(&mut Reader<'a>, Text<'a>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        loop {
            if self.peek() != b'"' {
                return Err(self.unexpected());
            }
            let name = self.string()?;
            match last.map_or(Ordering::Less, |last| last.order(name)) {
                Ordering::Less => {}
                Ordering::Equal => return Err(inside(name, Fault::new(InvalidKind::DuplicateName))),
                Ordering::Greater => return Err(inside(name, Fault::new(InvalidKind::NotCanonical))),
            }
            if name.raw == b"$sealed" {
                return Err(inside(name, Fault::new(InvalidKind::ReservedName)));
            }
            if !self.take(b":") {
                return Err(self.unexpected());
            }
            member(self, name).map_err(|fault| inside(name, fault))?;
            match self.peek() {
                b',' => self.at += 1,
                b'}' => break,
                _ => return Err(self.unexpected()),
            }
            last = Some(name);
        }
        self.at += 1;
        Ok(())
    }

    /// Takes any value whose containers stand at `depth` (the event's own object is at 1).
    pub(crate) fn value(&mut self, depth: usize) -> Result<(), Fault> {
        match self.peek() {
            b'"' => self.string().map(drop),
            b'{' => self.object(depth, |reader, _| reader.value(depth + 1)),
            b'[' => self.array(depth, |reader, _| reader.value(depth + 1)),
            b'-' | b'0'..=b'9' => self.number().map(drop),
            _ if self.take(b"true") || self.take(b"false") || self.take(b"null") => Ok(()),
            _ => Err(self.unexpected()),
        }
    }

    /// Takes a number; its text.
    pub(crate) fn number(&mut self) -> Result<&'a [u8], Fault> {
        let start = self.at;
        if !matches!(self.peek(), b'-' | b'0'..=b'9') {
            return Err(self.wrong_type());
        }
        let rest = &self.bytes[start..];
        let length = rest
            .iter()
            .take_while(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'))
            .count();
        let text = &rest[..length];
        self.at += length;
        match canonical_number(text) {
            Ok(()) => Ok(text),
            Err(kind) => Err(Fault::at(kind, start)),
        }
    }

    #[inline]
    fn open(&mut self, bracket: u8, depth: usize) -> Result<(), Fault> {
        if self.peek() != bracket {
            return Err(self.wrong_type());
        }
        if depth > MAX_DEPTH {
            return Err(Fault::at(InvalidKind::TooDeep, self.at));
        }
        self.at += 1;
        Ok(())
    }

    /// The fault of a value that is not of the type asked for: another type, or no value at all.
    #[cold]
    pub(crate) fn wrong_type(&self) -> Fault {
        match self.peek() {
            b'"' | b'{' | b'[' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
                Fault::new(InvalidKind::WrongType)
            }
            _ => self.unexpected(),
        }
    }

    #[cold]
    fn unexpected(&self) -> Fault {
        Fault::at(InvalidKind::NotCanonical, self.at)
    }
}

#[cold]
fn inside(name: Text<'_>, fault: Fault) -> Fault {
    fault.within(&name.decode_text())
}

fn canonical_number(text: &[u8]) -> Result<(), InvalidKind> {
    if text == b"0" {
        return Ok(());
    }
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    // Integers below 10^15 need no double; `-0` and leading zeros are left to the general rule.
    if digits.len() <= 15
        && digits.first() != Some(&b'0')
        && digits.iter().all(u8::is_ascii_digit)
        && !digits.is_empty()
    {
        return Ok(());
    }
    let number: f64 =
        std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(InvalidKind::NotCanonical)?;
    let mut written = Vec::with_capacity(24);
    if !write_number(&mut written, number) {
        return Err(InvalidKind::NumberRange);
    }
    if written == text { Ok(()) } else { Err(InvalidKind::NotCanonical) }
}

/// The members of a canonical object: names, and values as bytes. Ends at the first byte that does
/// not fit.
pub(crate) struct Members<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Members<'a> {
    /// Starts at the opening brace of `object`.
    pub(crate) fn new(object: &'a [u8]) -> Members<'a> {
        Members { bytes: object, at: 0 }
    }

    /// The value of the member `name`, which needs no escape.
    pub(crate) fn find(object: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
        Members::new(object).find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    fn advance(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        // `{` before the first member, `,` before each other; then the name's opening quote.
        let opening = if self.at == 0 { b'{' } else { b',' };
        if *self.bytes.get(self.at)? != opening || *self.bytes.get(self.at + 1)? != b'"' {
            return None;
        }
        let name_end = string_end(self.bytes, self.at + 1)?;
        let name = self.bytes.get(self.at + 2..name_end - 1)?;
        if *self.bytes.get(name_end)? != b':' {
            return None;
        }
        let end = value_end(self.bytes, name_end + 1)?;
        self.at = end;
        Some((name, &self.bytes[name_end + 1..end]))
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.advance();
        if found.is_none() {
            self.at = self.bytes.len();
        }
        found
    }
}

/// The text of a canonical string value, given with its quotes.
pub(crate) fn string_value(value: &[u8]) -> Option<Text<'_>> {
    value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).map(Text::new)
}

/// The offset after the string that opens at `start`.
fn string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        at += plain_length(bytes.get(at..)?);
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => return None,
        }
    }
}

/// The offset after the value that begins at `start`.
fn value_end(bytes: &[u8], start: usize) -> Option<usize> {
    const MARKER: &[u8] = b"{\"$sealed\":\"";
    let rest = bytes.get(start..)?;
    match rest.first()? {
        b'"' => string_end(bytes, start),
        // A marker alone has a known length; most values of a stored event are one.
        b'{' if rest.starts_with(MARKER)
            && rest.get(MARKER.len() + 43..MARKER.len() + 45) == Some(b"\"}") =>
        {
            Some(start + MARKER.len() + 45)
        }
        b'{' | b'[' => {
            let (mut at, mut open) = (start, 0_usize);
            loop {
                match bytes.get(at)? {
                    b'"' => {
                        at = string_end(bytes, at)?;
                        continue;
                    }
                    b'{' | b'[' => open += 1,
                    b'}' | b']' => open -= 1,
                    _ => {}
                }
                at += 1;
                if open == 0 {
                    return Some(at);
                }
            }
        }
        _ => Some(
            start + rest.iter().position(|byte| matches!(byte, b',' | b'}' | b']')).unwrap_or(rest.len()),
        ),
    }
}
