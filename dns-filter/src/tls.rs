//! Certificates for encrypted channels, read from files and read again when those change.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{ServerConfig, SupportedProtocolVersion, version};

/// A chain of certificates and its key, in PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The server's certificate first.
    pub chain: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The certificate in use.
pub struct Certificate {
    files: CertificateFiles,
    current: Arc<Current>,
    /// When the files were last changed that were looked at last, whether they were in order or not.
    looked_at: Mutex<[Option<SystemTime>; 2]>,
}

#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Certificate {
    /// # Errors
    /// A file cannot be read, or the key is not the certificate's; it says which and what to do.
    pub fn read(files: CertificateFiles) -> Result<Self, String> {
        let looked_at = Mutex::new(files.changed());
        let current = Arc::new(Current(ArcSwap::from_pointee(files.read()?)));
        Ok(Self { files, current, looked_at })
    }

    /// Reads the files again if they have changed, and says whether another certificate is in use now.
    ///
    /// # Errors
    /// They are not in order; the certificate before them stays. Said once for each change.
    pub fn follow(&self) -> Result<bool, String> {
        let mut looked_at = self.looked_at.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = self.files.changed();
        if *looked_at == changed {
            return Ok(false);
        }
        *looked_at = changed;
        self.current.0.store(Arc::new(self.files.read()?));
        Ok(true)
    }

    /// TLS 1.2 and 1.3 for a stream, for protocols by their names in ALPN. Clients that name none are served.
    pub(crate) fn for_streams(&self, protocols: &[&[u8]]) -> Result<TlsAcceptor, String> {
        let config = self.config(&[&version::TLS13, &version::TLS12], protocols)?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// The same for QUIC, where TLS is of version 1.3, and clients name a protocol (RFC 9001, §8.1).
    pub(crate) fn for_quic(&self, protocol: &[u8]) -> Result<ServerConfig, String> {
        self.config(&[&version::TLS13], &[protocol])
    }

    fn config(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        protocols: &[&[u8]],
    ) -> Result<ServerConfig, String> {
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .map_err(|error| error.to_string())?;
        let mut config = config.with_no_client_auth().with_cert_resolver(self.current.clone());
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(config)
    }
}

impl CertificateFiles {
    fn read(&self) -> Result<CertifiedKey, String> {
        let (chain_file, key_file) = (self.chain.display(), self.key.display());
        let chain =
            CertificateDer::pem_file_iter(&self.chain).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let chain = chain.map_err(|error| format!("{chain_file}: {error}"))?;
        if chain.is_empty() {
            return Err(format!("{chain_file} holds no certificate (PEM, the server's first)"));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| format!("{key_file}: {error}"))?;
        CertifiedKey::from_der(chain, key, &provider())
            .map_err(|error| format!("{key_file} is not the key of {chain_file}: {error}"))
    }

    fn changed(&self) -> [Option<SystemTime>; 2] {
        [&self.chain, &self.key].map(|file| fs::metadata(file).and_then(|about| about.modified()).ok())
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
