//! TLS with a certificate authority made for the occasion.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// Why a certificate cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("no certificate for {names}: {reason}")]
pub struct TlsError {
    names: String,
    reason: String,
}

/// A certificate authority that lives as long as this value, and its servers' certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// The certificate and the key of a server.
#[derive(Clone)]
pub struct Tls {
    pub(crate) acceptor: TlsAcceptor,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// If there is no randomness for a key.
    pub fn new() -> Result<Authority, TlsError> {
        let wrong = |e: rcgen::Error| TlsError { names: "an authority".into(), reason: e.to_string() };
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "fairway apiserver");
        let key = KeyPair::generate().map_err(wrong)?;
        Ok(Authority(CertifiedIssuer::self_signed(params, key).map_err(wrong)?))
    }

    /// Its certificate, which clients need, as PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a server under some names and addresses. Each call makes another.
    ///
    /// # Errors
    /// If a name is none.
    pub fn server(&self, names: &[String]) -> Result<Tls, TlsError> {
        let failed = |reason: String| TlsError { names: names.join(", "), reason };
        let wrong = |e: rcgen::Error| failed(e.to_string());
        let mut params = CertificateParams::new(names.to_vec()).map_err(wrong)?;
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(wrong)?;
        let certificate = params.signed_by(&key, &self.0).map_err(wrong)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|c| c.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key));
        let mut config = config.map_err(|e| failed(e.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Tls { acceptor: TlsAcceptor::from(Arc::new(config)) })
    }
}
