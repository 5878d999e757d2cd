//! Certificates that are served, replaced and refused, and handshakes over memory.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, ServerConnection};

use super::*;

/// 2026-01-01.
const NOW: i64 = 1_767_225_600;

/// A directory with a certificate and its key.
struct Placed {
    dir: tempfile::TempDir,
    files: TlsFiles,
}

/// Certificate and key, as PEM, valid from `from` to `to`.
fn made(from: (i32, u8, u8), to: (i32, u8, u8)) -> (String, String) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
    params.not_after = rcgen::date_time_ymd(to.0, to.1, to.2);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn usual() -> (String, String) {
    made((2025, 1, 1), (2030, 1, 1))
}

impl Placed {
    fn new((certificate, key): &(String, String)) -> Placed {
        let dir = tempfile::tempdir().unwrap();
        let files =
            TlsFiles { certificate: dir.path().join("chain.pem"), private_key: dir.path().join("key.pem") };
        let placed = Placed { dir, files };
        placed.put(certificate, key);
        placed
    }

    fn put(&self, certificate: &str, key: &str) {
        std::fs::write(&self.files.certificate, certificate).unwrap();
        std::fs::write(&self.files.private_key, key).unwrap();
        self.mode(0o600);
    }

    fn mode(&self, mode: u32) {
        std::fs::set_permissions(&self.files.private_key, Permissions::from_mode(mode)).unwrap();
    }

    /// Loading must fail, and say this.
    fn refused(&self, expected: &str) {
        let error = Certificate::load(&self.files, NOW).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expected), "{text}");
        assert!(!error.hint.is_empty());
        assert!(text.starts_with(self.dir.path().to_str().unwrap()), "{text}");
        let files = [&self.files.certificate, &self.files.private_key];
        let held = files.map(|file| std::fs::read_to_string(file).unwrap()).join("\n");
        assert!(!held.lines().any(|line| line.len() > 16 && text.contains(line)), "{text}");
    }
}

/// Handshakes over memory with a client that trusts `root` alone; what client and server then say of each other.
fn handshake(
    certificate: &Arc<Certificate>,
    root: &str,
    protocols: &[&[u8]],
) -> Result<ServerConnection, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let mut client =
        ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut server = ServerConnection::new(certificate.server_config()).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(server)
}

#[test]
fn a_client_that_trusts_the_certificate_speaks_tls_1_3() {
    // The client holds the certificate against the real clock.
    let pair = made((2020, 1, 1), (2120, 1, 1));
    let placed = Placed::new(&pair);
    let (certificate, loaded) = Certificate::load(&placed.files, NOW).unwrap();
    assert_eq!(loaded, Loaded { valid_until: "2120-01-01T00:00:00Z".to_owned(), warning: None });
    for (offered, agreed) in [
        (&[b"h2".as_slice(), b"http/1.1"][..], Some(&b"h2"[..])),
        (&[b"http/1.1".as_slice()], Some(b"http/1.1")),
        (&[], None),
    ] {
        let server = handshake(&certificate, &pair.0, offered).unwrap();
        assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(server.alpn_protocol(), agreed);
    }
    assert!(handshake(&certificate, &usual().0, &[]).is_err(), "another root is not trusted");
}

#[test]
fn a_renewed_certificate_is_served_and_a_bad_one_changes_nothing() {
    let old = made((2020, 1, 1), (2120, 1, 1));
    let placed = Placed::new(&old);
    let (certificate, _) = Certificate::load(&placed.files, NOW).unwrap();
    let renewed = made((2020, 1, 1), (2121, 1, 1));

    placed.put(&renewed.0, &old.1);
    let error = certificate.reload(NOW).unwrap_err();
    assert!(error.to_string().contains("is not the key of the first certificate"), "{error}");
    handshake(&certificate, &old.0, &[]).unwrap();

    placed.put(&renewed.0, &renewed.1);
    assert_eq!(certificate.reload(NOW).unwrap().valid_until, "2121-01-01T00:00:00Z");
    handshake(&certificate, &renewed.0, &[]).unwrap();
    assert!(handshake(&certificate, &old.0, &[]).is_err());
}

#[test]
fn a_certificate_out_of_time_is_served_with_a_warning() {
    for (from, to, expected) in [
        ((2020, 1, 1), (2025, 12, 31), Some("it has expired: clients refuse it")),
        ((2026, 1, 2), (2030, 1, 1), Some("it is not valid yet: clients refuse it")),
        ((2020, 1, 1), (2026, 1, 9), Some("it expires in 8 days")),
        ((2020, 1, 1), (2026, 1, 16), None),
    ] {
        let placed = Placed::new(&made(from, to));
        let (_, loaded) = Certificate::load(&placed.files, NOW).unwrap();
        assert_eq!(loaded.warning.as_deref(), expected, "{to:?}");
    }
}

#[test]
fn each_fault_of_the_files_is_named() {
    let (pair, other) = (usual(), usual());
    let placed = Placed::new(&pair);
    let (certificate, key) = (pair.0.as_str(), pair.1.as_str());
    let cut = |pem: &str| pem[..pem.len() / 2].to_owned();
    for (certificate, key, expected) in [
        (certificate, other.1.as_str(), "is not the key of the first certificate in"),
        (&format!("{}{certificate}", other.0), key, "is not the key of the first certificate in"),
        ("", key, "holds no certificate"),
        (key, key, "holds no certificate"),
        (&cut(certificate), key, "is not whole PEM"),
        (&certificate.repeat(MAX_CERTIFICATES + 1), key, "holds over 16 certificates"),
        (certificate, "", "holds no private key"),
        (certificate, certificate, "holds no private key"),
        (certificate, &cut(key), "is not whole PEM"),
        (certificate, &key.repeat(2), "holds more than one private key"),
        (certificate, &key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"), "is encrypted with a passphrase"),
        (certificate, &format!("{key}{}", "x".repeat(MAX_PEM_BYTES)), "has over 262144 bytes"),
        // Base64 of something else.
        (
            certificate,
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "a key that cannot be used",
        ),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            key,
            "its first certificate cannot be read",
        ),
    ] {
        placed.put(certificate, key);
        placed.refused(expected);
    }
    placed.put(certificate, &format!("{key}\n"));
    Certificate::load(&placed.files, NOW).unwrap();

    let gone = TlsFiles { certificate: PathBuf::from("/nowhere/chain.pem"), ..placed.files.clone() };
    let error = Certificate::load(&gone, NOW).unwrap_err().to_string();
    assert!(error.contains("/nowhere/chain.pem: cannot be read: No such file"), "{error}");
}

#[test]
fn a_key_of_another_kind_is_taken() {
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let pair = (params.self_signed(&key).unwrap().pem(), key.serialize_pem());
    let (certificate, _) = Certificate::load(&Placed::new(&pair).files, NOW).unwrap();
    handshake(&certificate, &pair.0, &[]).unwrap();
}

#[test]
fn a_key_that_others_read_is_refused() {
    let placed = Placed::new(&usual());
    for mode in [0o640, 0o604, 0o660, 0o644, 0o610, 0o777] {
        placed.mode(mode);
        placed.refused(&format!("mode {mode:03o} lets others at the key"));
    }
    for mode in [0o600, 0o400, 0o700] {
        placed.mode(mode);
        Certificate::load(&placed.files, NOW).unwrap();
    }
    // Owned by root, read by a server that is not root: through its group, or an access list that shows so.
    assert!(!lets_others_in(0o440, 0, 1000) && !lets_others_in(0o640, 0, 1000));
    for (mode, owner, own) in [(0o444, 0, 1000), (0o460, 0, 1000), (0o440, 1000, 1000), (0o440, 0, 0)] {
        assert!(lets_others_in(mode, owner, own), "{mode:o} {owner} {own}");
    }
}

#[test]
fn nothing_of_a_key_is_shown() {
    let pair = usual();
    let placed = Placed::new(&pair);
    let (certificate, _) = Certificate::load(&placed.files, NOW).unwrap();
    let shown = format!("{certificate:?}");
    assert!(shown.contains("key.pem") && shown.len() < 400, "{shown}");
}
