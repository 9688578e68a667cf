//! Certificates of a control plane: one authority, made anew for each, and what it signs. By rcgen, so that no
//! openssl has to be installed and nothing is parsed by hand.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// A certificate authority, whose certificate is a file.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: PathBuf,
    directory: PathBuf,
}

/// A certificate and its private key, as PEM files.
pub(super) struct Identity {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// The keys of service account tokens, as PEM files.
pub(super) struct TokenKeys {
    pub(super) private: PathBuf,
    pub(super) public: PathBuf,
}

impl Authority {
    /// A new authority that keeps its files in `directory`.
    pub(super) fn new(directory: &Path) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "lb-tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = directory.join("ca.crt");
        write(&certificate, &params.self_signed(&key)?.pem())?;
        Ok(Self { issuer: Issuer::new(params, key), certificate, directory: directory.to_owned() })
    }

    pub(super) fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// For a server that is reached by these addresses and names.
    pub(super) fn server(&self, name: &str, addresses: &[IpAddr], names: &[&str]) -> Result<Identity> {
        let sans = addresses.iter().map(ToString::to_string).chain(names.iter().map(|name| (*name).to_owned()));
        let mut params = CertificateParams::new(sans.collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(name, params)
    }

    /// For a client: kube-apiserver takes the common name for the user and the organization for a group of theirs.
    pub(super) fn client(&self, user: &str, group: Option<&str>) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&user.replace(':', "-"), params)
    }

    /// A key pair for service account tokens: the key that signs them, and the one that checks them.
    pub(super) fn token_keys(&self) -> Result<TokenKeys> {
        let keys = TokenKeys {
            private: self.directory.join("service-account.key"),
            public: self.directory.join("service-account.pub"),
        };
        let pair = KeyPair::generate()?;
        write(&keys.private, &pair.serialize_pem())?;
        write(&keys.public, &pair.public_key_pem())?;
        Ok(keys)
    }

    fn sign(&self, name: &str, params: CertificateParams) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let identity = Identity {
            certificate: self.directory.join(format!("{name}.crt")),
            key: self.directory.join(format!("{name}.key")),
        };
        write(&identity.certificate, &certificate.pem())?;
        write(&identity.key, &key.serialize_pem())?;
        Ok(identity)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
