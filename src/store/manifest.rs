//! MANIFEST: which layer directories are live. A directory that it does not name is a left-over.
//!
//! ```text
//! varve v1 manifest
//! layer 2026-10 g1
//! layer 2026-11 g1
//! blake3 <64 hex digits over all lines before>
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::bounded;
use super::layer_id::LayerId;

const FIRST_LINE: &str = "varve v1 manifest";

/// Longest manifest that is read. The longest line, `layer 2026-11.p9999 g4294967295`, has 32 bytes with its newline, so
/// there is room for 131,000 of them: `MAX_PARTS` and one for each of the 96,360 months of this format come to 4.1 MB.
const MAX_MANIFEST_BYTES: u64 = 4 << 20;

/// Layers from which on no month is closed early: one a day for 82 years.
pub const MAX_PARTS: usize = 30_000;

/// The live layers with their generations.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manifest {
    /// Generation by layer.
    pub layers: BTreeMap<LayerId, u32>,
}

/// A manifest that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The text is not what was written.
    #[error("{path}: line {line} is not what was written; the store is not opened and nothing was changed")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
}

impl Manifest {
    /// Reads `MANIFEST` of a data directory.
    pub fn read(data: &Path) -> Result<Manifest, ManifestError> {
        let path = data.join("MANIFEST");
        let text = bounded::read(&path, MAX_MANIFEST_BYTES)
            .map_err(|source| ManifestError::Io { path: path.clone(), source })?;
        let damaged = |line| ManifestError::Damaged { path: path.clone(), line };
        let text = text.ok_or_else(|| damaged(1))?;
        let text = String::from_utf8(text).map_err(|_| damaged(1))?;
        Manifest::parse(&text).map_err(damaged)
    }

    /// Replaces `MANIFEST` durably: temporary file, fsync, rename, directory fsync. A crash before the
    /// rename leaves the old one, after it the new one.
    pub fn write(&self, data: &Path) -> Result<(), ManifestError> {
        let path = data.join("MANIFEST");
        let io = |source| ManifestError::Io { path: path.clone(), source };
        let temporary = data.join("MANIFEST.tmp");
        let mut file = File::create(&temporary).map_err(io)?;
        file.write_all(self.to_text().as_bytes()).map_err(io)?;
        file.sync_all().map_err(io)?;
        fs::rename(&temporary, &path).map_err(io)?;
        File::open(data).and_then(|dir| dir.sync_all()).map_err(io)
    }

    /// Directory of a layer, below the data directory.
    pub fn layer_dir(data: &Path, layer: LayerId, generation: u32) -> PathBuf {
        data.join("layers").join(format!("{layer}.g{generation}"))
    }

    fn to_text(&self) -> String {
        let mut text = format!("{FIRST_LINE}\n");
        for (layer, generation) in &self.layers {
            let _ = writeln!(text, "layer {layer} g{generation}");
        }
        let digest = blake3::hash(text.as_bytes());
        let _ = writeln!(text, "blake3 {digest}");
        text
    }

    /// The line at fault, from 1, when the text is no manifest.
    fn parse(text: &str) -> Result<Manifest, usize> {
        let mut manifest = Manifest::default();
        let lines: Vec<&str> = text.lines().collect();
        let (&last, body) = lines.split_last().ok_or(1usize)?;
        if body.first() != Some(&FIRST_LINE) {
            return Err(1);
        }
        for (number, line) in body.iter().enumerate().skip(1) {
            let layer = line
                .strip_prefix("layer ")
                .and_then(|rest| rest.split_once(" g"))
                .and_then(|(layer, generation)| Some((LayerId::parse(layer)?, generation.parse().ok()?)));
            let (layer, generation) = layer.ok_or(number + 1)?;
            if manifest.layers.insert(layer, generation).is_some() {
                return Err(number + 1);
            }
        }
        // The text must be the very one that this content is written as, digest included.
        if last.starts_with("blake3 ") && manifest.to_text() == text {
            Ok(manifest)
        } else {
            Err(lines.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_survives_no_changed_bit() {
        let mut manifest = Manifest::default();
        manifest.layers.insert(LayerId::parse("2026-10").unwrap(), 1);
        manifest.layers.insert(LayerId::parse("2026-11").unwrap(), 2);
        manifest.layers.insert(LayerId::parse("2026-10.p2").unwrap(), 1);
        let text = manifest.to_text();
        assert!(text.contains("layer 2026-10 g1\nlayer 2026-10.p2 g1\nlayer 2026-11 g2\n"), "{text}");
        assert_eq!(Manifest::parse(&text), Ok(manifest));
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(changed) = String::from_utf8(bytes) {
                assert!(Manifest::parse(&changed).is_err(), "bit {bit}");
            }
        }
        assert!(Manifest::parse("").is_err());
    }
}
