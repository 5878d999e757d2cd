//! Strict JSON: any text (RFC 8259) in, canonical text (RFC 8785) out, in one pass.
//!
//! Nothing is built but the output. Members are written as they come; an object that turns out not
//! to be sorted has its members moved when it closes. Refused on the way: duplicate names, strings
//! that are not UTF-8 or hold half a surrogate pair, numbers beyond ±(2^53 − 1), depth over 32, more
//! than 64 KiB before or after.

use std::cmp::Ordering;

use super::canonical::{Text, plain_length, write_char, write_number};
use super::invalid::{Fault, InvalidKind};
use super::limits::{MAX_DEPTH, MAX_EVENT_BYTES};

/// Canonical form of the JSON text `raw`.
pub(crate) fn canonicalize(raw: &[u8]) -> Result<Vec<u8>, Fault> {
    if raw.len() > MAX_EVENT_BYTES {
        return Err(Fault::new(InvalidKind::TooLarge));
    }
    // Bytes that are not UTF-8 can only stand in a string; the reader names the member when it comes there.
    let text_bytes = std::str::from_utf8(raw).map_or_else(|error| error.valid_up_to(), str::len);
    let out = Vec::with_capacity(raw.len() + 64);
    let mut source =
        Source { bytes: raw, text_bytes, at: 0, out, members: Vec::with_capacity(16), scratch: Vec::new() };
    source.skip_space();
    source.value(1)?;
    source.skip_space();
    if source.at < raw.len() {
        return Err(source.unexpected());
    }
    if source.out.len() > MAX_EVENT_BYTES {
        return Err(Fault::new(InvalidKind::TooLarge));
    }
    Ok(source.out)
}

struct Source<'a> {
    bytes: &'a [u8],
    /// How many leading bytes are UTF-8.
    text_bytes: usize,
    at: usize,
    out: Vec<u8>,
    /// Members of the objects being read, outermost first, as places in `out`.
    members: Vec<Member>,
    scratch: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Member {
    /// The name's opening quote.
    start: usize,
    /// After the name's closing quote.
    name_end: usize,
    /// After the value.
    end: usize,
    /// Whether the name holds an escape.
    escaped: bool,
}

impl Member {
    fn name(self, out: &[u8]) -> Text<'_> {
        Text { raw: &out[self.start + 1..self.name_end - 1], escaped: self.escaped }
    }

    #[cold]
    fn inside(self, out: &[u8], fault: Fault) -> Fault {
        fault.within(&self.name(out).decode_text())
    }
}

impl Source<'_> {
    fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Result<(), Fault> {
        match self.peek() {
            b'"' => self.string().map(drop),
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'-' | b'0'..=b'9' => self.number(),
            b't' => self.literal(b"true"),
            b'f' => self.literal(b"false"),
            b'n' => self.literal(b"null"),
            _ => Err(self.unexpected()),
        }
    }

    fn literal(&mut self, text: &[u8]) -> Result<(), Fault> {
        if !self.bytes[self.at..].starts_with(text) {
            return Err(self.unexpected());
        }
        self.at += text.len();
        self.out.extend_from_slice(text);
        Ok(())
    }

    fn array(&mut self, depth: usize) -> Result<(), Fault> {
        self.open(depth)?;
        if self.close(b']') {
            return Ok(());
        }
        for index in 0.. {
            self.skip_space();
            self.value(depth + 1).map_err(|fault| fault.within_element(index))?;
            if self.close(b']') {
                break;
            }
            self.punctuation(b',')?;
        }
        Ok(())
    }

    fn object(&mut self, depth: usize) -> Result<(), Fault> {
        self.open(depth)?;
        if self.close(b'}') {
            return Ok(());
        }
        let (first, mut sorted) = (self.members.len(), true);
        loop {
            self.skip_space();
            if self.peek() != b'"' {
                return Err(self.unexpected());
            }
            let start = self.out.len();
            let escaped = self.string()?;
            let mut member = Member { start, name_end: self.out.len(), end: 0, escaped };
            self.skip_space();
            self.punctuation(b':')?;
            self.skip_space();
            if let Err(fault) = self.value(depth + 1) {
                return Err(member.inside(&self.out, fault));
            }
            member.end = self.out.len();
            if sorted && self.members.len() > first {
                let last = self.members[self.members.len() - 1];
                sorted = last.name(&self.out).order(member.name(&self.out)) == Ordering::Less;
            }
            self.members.push(member);
            if self.close(b'}') {
                break;
            }
            self.punctuation(b',')?;
        }
        if !sorted {
            self.sort(first)?;
        }
        self.members.truncate(first);
        Ok(())
    }

    /// Puts the members from `first` on in order; equal names are refused.
    fn sort(&mut self, first: usize) -> Result<(), Fault> {
        let (out, members) = (&self.out, &mut self.members[first..]);
        let body = members[0].start;
        members.sort_by(|left, right| left.name(out).order(right.name(out)));
        self.scratch.clear();
        for (position, member) in members.iter().enumerate() {
            if position > 0 {
                if members[position - 1].name(out).order(member.name(out)) == Ordering::Equal {
                    return Err(member.inside(out, Fault::new(InvalidKind::DuplicateName)));
                }
                self.scratch.push(b',');
            }
            self.scratch.extend_from_slice(&out[member.start..member.end]);
        }
        self.out[body..body + self.scratch.len()].copy_from_slice(&self.scratch);
        Ok(())
    }

    /// Takes the opening bracket that is next.
    fn open(&mut self, depth: usize) -> Result<(), Fault> {
        if depth > MAX_DEPTH {
            return Err(Fault::at(InvalidKind::TooDeep, self.at));
        }
        self.out.push(self.bytes[self.at]);
        self.at += 1;
        Ok(())
    }

    /// Takes the closing bracket if it is next.
    fn close(&mut self, bracket: u8) -> bool {
        self.skip_space();
        let closes = self.peek() == bracket;
        if closes {
            self.out.push(bracket);
            self.at += 1;
        }
        closes
    }

    fn punctuation(&mut self, mark: u8) -> Result<(), Fault> {
        if self.peek() != mark {
            return Err(self.unexpected());
        }
        self.out.push(mark);
        self.at += 1;
        Ok(())
    }

    /// Takes a string; whether its canonical form may hold an escape.
    fn string(&mut self) -> Result<bool, Fault> {
        self.out.push(b'"');
        self.at += 1;
        let mut escaped = false;
        loop {
            let end = self.at + plain_length(&self.bytes[self.at..]);
            if end > self.text_bytes {
                return Err(Fault::at(InvalidKind::InvalidUtf8, self.text_bytes));
            }
            self.out.extend_from_slice(&self.bytes[self.at..end]);
            self.at = end;
            match self.peek() {
                b'"' => break,
                b'\\' => self.escape()?,
                _ => return Err(self.unexpected()),
            }
            escaped = true;
        }
        self.out.push(b'"');
        self.at += 1;
        Ok(escaped)
    }

    fn escape(&mut self) -> Result<(), Fault> {
        let start = self.at;
        self.at += 2;
        let character = match self.bytes.get(start + 1) {
            Some(&mark @ (b'"' | b'\\' | b'/')) => char::from(mark),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let first = self.code_unit()?;
                let code = match first {
                    0xd800..=0xdbff => {
                        let second = if self.bytes[self.at..].starts_with(b"\\u") {
                            self.at += 2;
                            self.code_unit()?
                        } else {
                            0
                        };
                        if !(0xdc00..=0xdfff).contains(&second) {
                            return Err(Fault::at(InvalidKind::LoneSurrogate, start));
                        }
                        0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
                    }
                    other => other,
                };
                char::from_u32(code).ok_or_else(|| Fault::at(InvalidKind::LoneSurrogate, start))?
            }
            _ => return Err(Fault::at(InvalidKind::Syntax, start)),
        };
        write_char(&mut self.out, character);
        Ok(())
    }

    /// Takes four hexadecimal digits.
    fn code_unit(&mut self) -> Result<u32, Fault> {
        let fault = || Fault::at(InvalidKind::Syntax, self.at);
        let digits = self.bytes.get(self.at..self.at + 4).ok_or_else(fault)?;
        let code = digits
            .iter()
            .try_fold(0, |code, &digit| Some(code * 16 + char::from(digit).to_digit(16)?))
            .ok_or_else(fault)?;
        self.at += 4;
        Ok(code)
    }

    fn number(&mut self) -> Result<(), Fault> {
        let start = self.at;
        let rest = &self.bytes[start..];
        let digits_at = |at: usize| rest[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let sign = usize::from(rest[0] == b'-');
        let integer = digits_at(sign);
        let mut end = sign + integer;
        // RFC 8259: at least one digit, and no zero before another.
        if integer == 0 || (integer > 1 && rest[sign] == b'0') {
            return Err(Fault::at(InvalidKind::Syntax, start));
        }
        let mut is_integer = true;
        if rest.get(end) == Some(&b'.') {
            let decimals = digits_at(end + 1);
            (is_integer, end) = (false, end + 1 + decimals);
            if decimals == 0 {
                return Err(Fault::at(InvalidKind::Syntax, start + end));
            }
        }
        if matches!(rest.get(end), Some(b'e' | b'E')) {
            let signed = usize::from(matches!(rest.get(end + 1), Some(b'+' | b'-')));
            let exponent = digits_at(end + 1 + signed);
            (is_integer, end) = (false, end + 1 + signed + exponent);
            if exponent == 0 {
                return Err(Fault::at(InvalidKind::Syntax, start + end));
            }
        }
        self.at += end;
        let text = &rest[..end];
        // Short integers are their own canonical form, but for `-0`.
        if is_integer && integer <= 15 && text != b"-0" {
            self.out.extend_from_slice(text);
            return Ok(());
        }
        let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok());
        let number = number.ok_or_else(|| Fault::at(InvalidKind::Syntax, start))?;
        if write_number(&mut self.out, number) {
            Ok(())
        } else {
            Err(Fault::at(InvalidKind::NumberRange, start))
        }
    }

    #[cold]
    fn unexpected(&self) -> Fault {
        Fault::at(InvalidKind::Syntax, self.at)
    }
}
