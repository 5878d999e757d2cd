//! Certificate and key of the door for clients: read from PEM files, checked, replaced while connections are served.
//!
//! TLS 1.3 alone: rustls is built without 1.2. What a file holds never stands in an error; a name, a mode and a time do.

mod validity;

#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, ServerConfig};
use zeroize::Zeroizing;

use crate::config::TlsFiles;

/// Largest file: 16 certificates with the largest keys have under 64 KiB.
const MAX_PEM_BYTES: usize = 256 * 1024;

/// Longest chain.
const MAX_CERTIFICATES: usize = 16;

/// Days before the end of a certificate from which on it is said at each load.
const WARN_DAYS: i64 = 14;

const DAY_SECONDS: i64 = 24 * 3600;

/// Why certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {what}")]
pub struct TlsError {
    file: String,
    what: String,
    /// What to do.
    pub hint: &'static str,
}

/// What was loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// When the server's certificate ends, RFC 3339; empty where that cannot be read.
    pub valid_until: String,
    /// What is wrong with it though it is served: clients will refuse it, not this server.
    pub warning: Option<String>,
}

/// The certificate that is served. Replaced whole by [`Certificate::reload`]; read at each handshake.
pub struct Certificate {
    files: TlsFiles,
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    /// Reads both files. `now_seconds` is the time since 1970, to say whether the certificate is over.
    ///
    /// # Errors
    /// A file cannot be read, is not what it should be, or lets others read the key; the two do not belong together.
    pub fn load(files: &TlsFiles, now_seconds: i64) -> Result<(Arc<Certificate>, Loaded), TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let (certified, loaded) = read_both(files, &provider, now_seconds)?;
        let current = RwLock::new(Arc::new(certified));
        Ok((Arc::new(Certificate { files: files.clone(), provider, current }), loaded))
    }

    /// Reads both files again. Handshakes from now on see the new certificate; connections go on.
    ///
    /// # Errors
    /// As [`Certificate::load`]; the old certificate is served on.
    pub fn reload(&self, now_seconds: i64) -> Result<Loaded, TlsError> {
        let (certified, loaded) = read_both(&self.files, &self.provider, now_seconds)?;
        *self.current.write() = Arc::new(certified);
        Ok(loaded)
    }

    /// What a listener needs: TLS 1.3, this certificate, HTTP/2 or HTTP/1.1, no early data.
    pub fn server_config(self: &Arc<Self>) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider knows TLS 1.3");
        let mut config = builder.with_no_client_auth().with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().clone())
    }
}

/// Neither certificate nor key.
impl fmt::Debug for Certificate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Certificate").field("files", &self.files).finish_non_exhaustive()
    }
}

fn read_both(
    files: &TlsFiles,
    provider: &CryptoProvider,
    now_seconds: i64,
) -> Result<(CertifiedKey, Loaded), TlsError> {
    let chain = chain(&files.certificate)?;
    let key = private_key(&files.private_key)?;
    let signing = provider.key_provider.load_private_key(key).map_err(|_| {
        fault(
            &files.private_key,
            "is a key that cannot be used",
            "Ed25519, ECDSA on P-256, P-384 or P-521, or RSA of 2,048 bits or more",
        )
    })?;
    let loaded = look_at(&chain[0], now_seconds);
    let certified = CertifiedKey::new(chain, signing);
    match certified.keys_match() {
        Ok(()) => Ok((certified, loaded)),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            let certificate = files.certificate.display();
            Err(fault(
                &files.private_key,
                format!("is not the key of the first certificate in {certificate}"),
                "the server's own certificate comes first, then the intermediate ones; after a renewal replace both files",
            ))
        }
        Err(_) => Err(fault(
            &files.certificate,
            "its first certificate cannot be read",
            "X.509, version 3, as PEM; ask who issued it",
        )),
    }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let (pem, _) = read(path)?;
    // One more than allowed, to see that there are too many.
    let found = CertificateDer::pem_slice_iter(&pem).take(MAX_CERTIFICATES + 1);
    let chain: Vec<_> = found.collect::<Result<_, _>>().map_err(|_| not_pem(path))?;
    if chain.is_empty() {
        return Err(fault(path, "holds no certificate", "PEM, with a line `-----BEGIN CERTIFICATE-----`"));
    }
    if chain.len() > MAX_CERTIFICATES {
        let hint = "the server's own certificate and the intermediate ones; not the collection of all roots";
        return Err(fault(path, format!("holds over {MAX_CERTIFICATES} certificates"), hint));
    }
    Ok(chain)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let (pem, metadata) = read(path)?;
    let own = rustix::process::geteuid().as_raw();
    if lets_others_in(metadata.mode(), metadata.uid(), own) {
        let mode = metadata.mode() & 0o777;
        return Err(fault(
            path,
            format!("mode {mode:03o} lets others at the key"),
            "chmod 600, owned by the server's user; ask who read it meanwhile, and renew it if in doubt",
        ));
    }
    let mut keys = PrivateKeyDer::pem_slice_iter(&pem);
    let Some(first) = keys.next() else {
        let is_encrypted = pem.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED);
        return Err(match is_encrypted {
            true => fault(
                path,
                "is encrypted with a passphrase, which nobody can type here",
                "`openssl pkey -in FILE -out PLAIN` takes it off; protect the file by its mode",
            ),
            false => fault(path, "holds no private key", "PEM, with a line `-----BEGIN PRIVATE KEY-----`"),
        });
    };
    let first = first.map_err(|_| not_pem(path))?;
    if keys.next().is_some() {
        return Err(fault(path, "holds more than one private key", "leave the one of the certificate"));
    }
    Ok(first)
}

const ENCRYPTED: &[u8] = b"ENCRYPTED PRIVATE KEY";

/// Whether a key file of this mode and owner is open to others than the server and root.
///
/// Where root owns the file and the server is not root, the group may read: this is how secrets of systemd (its access
/// list shows as the group's bit) and of Kubernetes reach a server without privileges, which could not read them otherwise.
fn lets_others_in(mode: u32, owner: u32, own: u32) -> bool {
    let allowed = if owner == 0 && own != 0 { 0o740 } else { 0o700 };
    mode & 0o777 & !allowed != 0
}

fn read(path: &Path) -> Result<(Zeroizing<Vec<u8>>, std::fs::Metadata), TlsError> {
    // Room for all at once, so that no piece of a key is left behind where a buffer grew.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_PEM_BYTES + 1));
    let mut open = || -> io::Result<std::fs::Metadata> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        file.take(MAX_PEM_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        Ok(metadata)
    };
    let metadata = open().map_err(|error| {
        fault(
            path,
            format!("cannot be read: {error}"),
            "check the path, and that the server's user may read it",
        )
    })?;
    if bytes.len() > MAX_PEM_BYTES {
        return Err(fault(path, format!("has over {MAX_PEM_BYTES} bytes"), "is it the right file?"));
    }
    Ok((bytes, metadata))
}

/// Says when a certificate ends, and whether clients will take it.
fn look_at(certificate: &CertificateDer<'_>, now_seconds: i64) -> Loaded {
    let Some(validity) = validity::of(certificate) else {
        let warning = "its time of validity cannot be read".to_owned();
        return Loaded { valid_until: String::new(), warning: Some(warning) };
    };
    let days = (validity.not_after - now_seconds) / DAY_SECONDS;
    let warning = if now_seconds > validity.not_after {
        Some("it has expired: clients refuse it".to_owned())
    } else if now_seconds < validity.not_before {
        Some("it is not valid yet: clients refuse it".to_owned())
    } else if days < WARN_DAYS {
        Some(format!("it expires in {days} days"))
    } else {
        None
    };
    Loaded { valid_until: validity::shown(validity.not_after), warning }
}

fn not_pem(path: &Path) -> TlsError {
    fault(
        path,
        "is not whole PEM",
        "a section begins with a line `-----BEGIN …-----` and ends with its `-----END …-----`",
    )
}

fn fault(path: &Path, what: impl Into<String>, hint: &'static str) -> TlsError {
    TlsError { file: path.display().to_string(), what: what.into(), hint }
}
