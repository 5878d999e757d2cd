//! The signing keys of the instance: `signing-keys`, mode 0600, one line a key, append-only.
//!
//! ```text
//! varve v1 signing keys
//! <origin> <base64 of the 32-byte seed> <first 8 hex digits of BLAKE3 over "origin seed">
//! ```
//!
//! A line is durable before the entry that introduces its key is written, so a crash can leave a key that no
//! log uses, never a log without its key. Whoever reads this file can sign as the logs; see OPERATIONS.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::bounded;
use crate::tlog::key::{Signature, Signer, VerifyingKey};

const FIRST_LINE: &str = "varve v1 signing keys";

/// Longest key file: 65,536 logs with 71 keys each, 230 bytes a line with the longest origin.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// A signer over aws-lc: the same bytes as ed25519-dalek in half the time. `Debug` shows nothing.
pub struct LogSigner {
    pair: Ed25519KeyPair,
    public: VerifyingKey,
    origin: String,
}

impl LogSigner {
    fn from_seed(origin: &str, seed: &[u8; 32]) -> Option<LogSigner> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
        let public = VerifyingKey::from_bytes(pair.public_key().as_ref().try_into().ok()?).ok()?;
        Some(LogSigner { pair, public, origin: origin.to_owned() })
    }

    /// The log it signs for.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The public key's bytes.
    pub fn public(&self) -> [u8; 32] {
        self.public.to_bytes()
    }
}

impl Signer for LogSigner {
    fn sign(&self, message: &[u8]) -> Signature {
        let signature = self.pair.sign(message);
        Signature(signature.as_ref().try_into().expect("Ed25519 signatures are 64 bytes"))
    }

    fn verifying_key(&self) -> VerifyingKey {
        self.public
    }
}

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An append failed before.
    #[error("{path}: an earlier append failed; no key is made until the server is started again")]
    Failed {
        /// The file.
        path: PathBuf,
    },
    /// The file is longer than any may be.
    #[error("{path}: it has, or would have, over {MAX_FILE_BYTES} bytes; no key was made")]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// A line is not what was written.
    #[error("{path}: line {line} is not what was written; restore the key file from its backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// Others may read the file.
    #[error("{path}: mode {mode:o} lets others read the signing keys; set it to 600")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Permission bits found.
        mode: u32,
    },
}

/// The key file, open for reading and appending.
pub struct KeyFile {
    path: PathBuf,
    /// `None` after a failure.
    known: Mutex<Option<Known>>,
}

/// How long the file is.
#[derive(Clone, Copy)]
struct Known {
    bytes: u64,
    /// Up to the end of the last sound line.
    sound_bytes: u64,
}

/// What the file holds.
struct Lines {
    signers: Vec<LogSigner>,
    /// Bytes up to the end of the last sound line.
    sound_bytes: u64,
}

impl KeyFile {
    /// Makes an empty key file. Errors when there is one.
    pub fn create(data: &Path) -> Result<KeyFile, KeyFileError> {
        let path = data.join("signing-keys");
        let io = |source| KeyFileError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(io)?;
        writeln!(file, "{FIRST_LINE}").map_err(io)?;
        file.sync_all().map_err(io)?;
        File::open(data).and_then(|dir| dir.sync_all()).map_err(io)?;
        let bytes = FIRST_LINE.len() as u64 + 1;
        Ok(KeyFile { path, known: Mutex::new(Some(Known { bytes, sound_bytes: bytes })) })
    }

    /// Opens the key file and reads all signers. A last line that is not whole, be it without its end or with
    /// another beginning than was written, is an append that a crash tore: no entry uses its key, so it is taken
    /// away when the file is next appended to. Were it a key in use, opening the store would miss that key.
    pub fn open(data: &Path) -> Result<(KeyFile, Vec<LogSigner>), KeyFileError> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = data.join("signing-keys");
        let io = |source| KeyFileError::Io { path: path.clone(), source };
        let mode = fs::metadata(&path).map_err(io)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Exposed { path, mode });
        }
        let text = read_text(&path)?;
        let lines = read_lines(&text).map_err(|line| KeyFileError::Damaged { path: path.clone(), line })?;
        let known = Known { bytes: text.len() as u64, sound_bytes: lines.sound_bytes };
        Ok((KeyFile { path, known: Mutex::new(Some(known)) }, lines.signers))
    }

    /// Makes new keys, one for each origin, durable in the file when it returns. After a failure no more are
    /// made until the file is opened anew: what a failed sync left must not end up in the middle.
    pub fn add(
        &self,
        origins: &[&str],
        random: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Vec<LogSigner>, KeyFileError> {
        let io = |source| KeyFileError::Io { path: self.path.clone(), source };
        let mut lines = Zeroizing::new(String::new());
        let mut signers = Vec::new();
        for origin in origins {
            let mut seed = Zeroizing::new([0u8; 32]);
            random(&mut seed[..]);
            let content = Zeroizing::new(format!("{origin} {}", STANDARD.encode(&seed[..])));
            lines.push_str(&format!("{} {}\n", *content, check_of(&content)));
            signers.push(LogSigner::from_seed(origin, &seed).expect("any 32 bytes are an Ed25519 seed"));
        }
        let mut held = self.known.lock();
        let known = held.ok_or_else(|| KeyFileError::Failed { path: self.path.clone() })?;
        let bytes = known.sound_bytes + lines.len() as u64;
        if bytes > MAX_FILE_BYTES {
            return Err(KeyFileError::TooLong { path: self.path.clone() });
        }
        let append = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).open(&self.path)?;
            if file.metadata()?.len() != known.bytes {
                return Err(io::Error::other("someone else changed the file; it is as they left it"));
            }
            file.set_len(known.sound_bytes)?;
            io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
            file.write_all(lines.as_bytes())?;
            file.sync_all()
        };
        *held = None;
        append().map_err(io)?;
        *held = Some(Known { bytes, sound_bytes: bytes });
        Ok(signers)
    }
}

fn read_text(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let text = bounded::read(path, MAX_FILE_BYTES)
        .map_err(|source| KeyFileError::Io { path: path.to_path_buf(), source })?;
    text.map(Zeroizing::new).ok_or_else(|| KeyFileError::TooLong { path: path.to_path_buf() })
}

/// Reads the file; errors with the line at fault, from 1.
fn read_lines(text: &[u8]) -> Result<Lines, usize> {
    let mut lines = Lines { signers: Vec::new(), sound_bytes: 0 };
    let mut rest = text.split_inclusive(|byte| *byte == b'\n').enumerate().peekable();
    while let Some((number, line)) = rest.next() {
        let whole = line.strip_suffix(b"\n").and_then(|line| std::str::from_utf8(line).ok());
        match whole {
            Some(FIRST_LINE) if number == 0 => {}
            _ if number == 0 => return Err(1),
            _ => match whole.and_then(read_line) {
                Some(signer) => lines.signers.push(signer),
                None if rest.peek().is_none() => return Ok(lines),
                None => return Err(number + 1),
            },
        }
        lines.sound_bytes += line.len() as u64;
    }
    if lines.sound_bytes == 0 { Err(1) } else { Ok(lines) }
}

fn read_line(line: &str) -> Option<LogSigner> {
    let (content, check) = line.rsplit_once(' ')?;
    if check_of(content) != check {
        return None;
    }
    let (origin, seed) = content.split_once(' ')?;
    let seed = Zeroizing::new(STANDARD.decode(seed).ok()?);
    LogSigner::from_seed(origin, seed.as_slice().try_into().ok()?)
}

fn check_of(content: &str) -> String {
    blake3::hash(content.as_bytes()).to_hex()[..8].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publics(data: &Path) -> Result<Vec<[u8; 32]>, KeyFileError> {
        KeyFile::open(data).map(|(_, signers)| signers.iter().map(LogSigner::public).collect())
    }

    #[test]
    fn a_torn_append_costs_the_last_line_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("signing-keys");
        let mut number = 0;
        let mut random = |bytes: &mut [u8]| {
            number += 1;
            bytes.fill(number);
        };
        let file = KeyFile::create(dir.path()).unwrap();
        file.add(&["one.test/a", "one.test/b"], &mut random).unwrap();
        let kept = publics(dir.path()).unwrap();
        let before = fs::read(&path).unwrap();
        file.add(&["one.test/c"], &mut random).unwrap();
        let whole = fs::read(&path).unwrap();
        for cut in before.len() + 1..whole.len() {
            // The line's beginning alone, and its end alone: sectors reach the disk in any order.
            let head = whole[..cut].to_vec();
            let tail = [&before[..], &vec![0; cut - before.len()], &whole[cut..]].concat();
            for torn in [head, tail] {
                fs::write(&path, &torn).unwrap();
                assert_eq!(publics(dir.path()).unwrap(), kept, "cut at {cut}");
                let (file, _) = KeyFile::open(dir.path()).unwrap();
                file.add(&["one.test/d"], &mut |bytes| bytes.fill(99)).unwrap();
                assert_eq!(publics(dir.path()).unwrap().len(), 3);
            }
        }
        let mut middle = whole;
        middle[before.len() - 10] ^= 1;
        fs::write(&path, middle).unwrap();
        assert!(matches!(publics(dir.path()), Err(KeyFileError::Damaged { line: 3, .. })));
        fs::write(&path, b"").unwrap();
        assert!(matches!(publics(dir.path()), Err(KeyFileError::Damaged { line: 1, .. })));
    }

    #[test]
    fn after_a_failed_append_no_key_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeyFile::create(dir.path()).unwrap();
        fs::write(dir.path().join("signing-keys"), b"longer than it was, by another's hand").unwrap();
        assert!(matches!(
            file.add(&["one.test/a"], &mut |bytes| bytes.fill(1)),
            Err(KeyFileError::Io { .. })
        ));
        let refused = file.add(&["one.test/a"], &mut |bytes| bytes.fill(1));
        assert!(matches!(refused, Err(KeyFileError::Failed { .. })));
    }
}
