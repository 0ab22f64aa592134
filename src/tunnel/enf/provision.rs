//! A tunnel whose credentials are missing, or refused, gets new ones by itself, if its configuration says how. When that may
//! happen, and how often, is the session's to say; where they are kept, the daemon's. `docs/provisioning.md` says how another
//! provisioner is added.

use super::connect::{asking, dialling, options};
use super::session::Spec;
use crate::config::{self, Enrol, Host, Provisioner, Source};
use crate::error::{Class, chain};
use crate::identity::enrol::{self, EnrolError, Https, Login, Secret};
use crate::identity::{self, Algorithm, CreateError, Fresh, NewKey, PublicKey, Version};
use crate::state::{Failure, Reason};
use crate::transport::dial::Options;
use crate::tunnel::{Reporter, SessionEvent};
use futures_util::FutureExt;
use std::time::SystemTime;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::client::TlsStream;

/// Gets new credentials and has them kept, for the sake of `why`; none: the tunnel has no provisioner, or new files would not
/// be looked at.
pub(super) async fn provision(spec: &Spec, enf: &config::Enf, why: &Failure) -> Option<Result<(), Failure>> {
    let enrol = enf.enrol.as_ref()?;
    let provisioner = enrol.provisioner?;
    if !files_count(spec, enf) {
        return None;
    }
    log::info!(ENFTUN_TUNNEL = spec.tunnel.name.as_str(); "{}; enrolling anew at {}", why.text, enrol.url.host);
    let fresh = match provisioner {
        Provisioner::Password => password(spec, enf, enrol).boxed().await,
    };
    let failed = |failure: Failure| {
        // Of a network that is not there the reason is the network.
        let reason = if failure.class == Class::Transient { failure.reason } else { Reason::EnrolmentFailed };
        let text = format!("{}; enrolling anew at {} failed: {}", why.text, enrol.url.host, failure.text);
        Failure { reason, text, ..failure }
    };
    Some(match fresh {
        Ok(fresh) => keep(spec, fresh).await.map_err(failed),
        Err(error) => Err(failed(Failure::from(&error))),
    })
}

/// The files of `[identity]` are where this tunnel's credentials come from: no source before them has any.
fn files_count(spec: &Spec, enf: &config::Enf) -> bool {
    let passed = identity::credentials_directory();
    identity::find(&spec.tunnel, passed.as_deref())
        .is_ok_and(|source| source.files().first() == Some(&enf.identity.cert_file))
}

/// Enrols a new key with the password that is stored for it.
async fn password(spec: &Spec, enf: &config::Enf, enrol: &Enrol) -> Result<Fresh, EnrolError> {
    let user = enrol.user.clone().unwrap_or_default();
    let tunnel = &spec.tunnel.name;
    let passed = || Some(identity::credentials_directory()?.join(format!("{tunnel}.password")));
    let Some(file) = enrol.password_file.clone().or_else(passed) else {
        return Err(EnrolError::NoPassword { user, tunnel: tunnel.clone() });
    };
    let login = Login { user, password: Secret::read(&file)? };
    let https = Https::new(enrol, &spec.tunnel.tpm)?;
    // Where only a key in the TPM counts, that is what is made.
    let sources = &enf.identity.source;
    let in_tpm = sources.contains(&Source::Tpm) && !sources.contains(&Source::Files);
    let key = NewKey::make(Algorithm::P256, in_tpm.then_some(&spec.tunnel.tpm))?;
    let public = PublicKey::of(&key)
        .ok_or(CreateError::Key { algorithm: Algorithm::P256, source: rcgen::Error::UnsupportedSignatureAlgorithm })?;

    let way = Way { https, options: options(spec, enf), host: enrol.url.host.clone(), reporter: spec.reporter.clone() };
    let dial = move || way.clone().dial().boxed();
    let address = enrol::enrol(&enrol.url, &login, enrol.address, &public, dial).await?.address;
    let certificate = identity::self_signed(&key, address, Version::V3, SystemTime::now())?;
    Ok(Fresh { address, certificate, key: key.pem() })
}

/// The way to the interface, as the tunnel's own sockets go.
#[derive(Clone)]
struct Way {
    https: Https,
    options: Options,
    host: Host,
    reporter: Reporter,
}

impl Way {
    /// It takes everything along: futures that borrow could not go from thread to thread, by the compiler's lights.
    async fn dial(self) -> Result<TlsStream<TcpStream>, EnrolError> {
        let Self { https, options, host, reporter } = self;
        let told = reporter.clone();
        let ask = move |servers| asking(told, servers).boxed();
        let go = move |addresses| async move { dialling(reporter, &host, addresses, Vec::new()).await }.boxed();
        https.dial(&options, ask, go).await
    }
}

/// Has the daemon keep them, and waits until they are.
async fn keep(spec: &Spec, fresh: Fresh) -> Result<(), Failure> {
    let (kept, wait) = oneshot::channel();
    spec.reporter.report(SessionEvent::Enrolled { fresh, kept }).await;
    wait.await.unwrap_or_else(|error| Err(Failure::new(Reason::EnrolmentFailed, Class::Bug, chain(&error))))
}
