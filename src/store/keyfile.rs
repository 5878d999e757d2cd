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
use zeroize::Zeroizing;

use crate::tlog::key::{Signature, Signer, VerifyingKey};

const FIRST_LINE: &str = "varve v1 signing keys";

/// A signer over aws-lc: the same bytes as ed25519-dalek in half the time. `Debug` shows nothing.
pub struct LogSigner {
    pair: Ed25519KeyPair,
    public: VerifyingKey,
}

impl LogSigner {
    fn from_seed(seed: &[u8; 32]) -> Option<LogSigner> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
        let public = VerifyingKey::from_bytes(pair.public_key().as_ref().try_into().ok()?).ok()?;
        Some(LogSigner { pair, public })
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
        Ok(KeyFile { path })
    }

    /// Opens the key file and reads all signers. A last line without its end is a write that a crash cut
    /// off: no entry uses its key, so it is taken away when the file is next appended to.
    pub fn open(data: &Path) -> Result<(KeyFile, Vec<LogSigner>), KeyFileError> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = data.join("signing-keys");
        let io = |source| KeyFileError::Io { path: path.clone(), source };
        let mode = fs::metadata(&path).map_err(io)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Exposed { path, mode });
        }
        let text = Zeroizing::new(fs::read(&path).map_err(io)?);
        let damaged = |line| KeyFileError::Damaged { path: path.clone(), line };
        let mut signers = Vec::new();
        for (number, line) in whole_lines(&text).enumerate() {
            let line = std::str::from_utf8(line).map_err(|_| damaged(number + 1))?;
            if number == 0 {
                if line != FIRST_LINE {
                    return Err(damaged(1));
                }
                continue;
            }
            signers.push(read_line(line).ok_or_else(|| damaged(number + 1))?);
        }
        Ok((KeyFile { path }, signers))
    }

    /// Makes new keys, one for each origin, durable in the file when it returns.
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
            signers.push(LogSigner::from_seed(&seed).expect("any 32 bytes are an Ed25519 seed"));
        }
        let text = Zeroizing::new(fs::read(&self.path).map_err(io)?);
        let whole: usize = whole_lines(&text).map(|line| line.len() + 1).sum();
        let mut file = OpenOptions::new().write(true).open(&self.path).map_err(io)?;
        file.set_len(whole as u64).map_err(io)?;
        io::Seek::seek(&mut file, io::SeekFrom::End(0)).map_err(io)?;
        file.write_all(lines.as_bytes()).map_err(io)?;
        file.sync_all().map_err(io)?;
        Ok(signers)
    }
}

/// Lines that end; what stands behind the last line end is a cut-off write.
fn whole_lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"))
}

fn read_line(line: &str) -> Option<LogSigner> {
    let (content, check) = line.rsplit_once(' ')?;
    if check_of(content) != check {
        return None;
    }
    let (_, seed) = content.split_once(' ')?;
    let seed = Zeroizing::new(STANDARD.decode(seed).ok()?);
    LogSigner::from_seed(seed.as_slice().try_into().ok()?)
}

fn check_of(content: &str) -> String {
    blake3::hash(content.as_bytes()).to_hex()[..8].to_owned()
}
