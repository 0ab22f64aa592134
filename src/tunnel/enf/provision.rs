//! A tunnel whose credentials are missing, or refused, gets new ones by itself, if its configuration says how. When that may
//! happen, and how often, is the session's to say; where they are kept, the daemon's. `docs/provisioning.md` says how another
//! provisioner is added.

use super::connect::options;
use super::session::Spec;
use crate::config::{self, Enrol, Host, Provisioner, Source};
use crate::error::{Class, chain};
use crate::identity::enrol::{self, EnrolError, Https, Login, Secret};
use crate::identity::{self, Algorithm, CreateError, NewKey, PublicKey, Version, next_key_file};
use crate::state::{Failure, Reason};
use crate::transport::dial::Options;
use crate::tunnel::reach::{asking, dialling};
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
    let got = match provisioner {
        Provisioner::Password => password(spec, enf, enrol).boxed().await,
    };
    Some(got.map_err(|failure| {
        // Of a network that is not there the reason is the network.
        let reason = if failure.class == Class::Transient { failure.reason } else { Reason::EnrolmentFailed };
        let text = format!("{}; enrolling anew at {} failed: {}", why.text, enrol.url.host, failure.text);
        Failure { reason, text, ..failure }
    }))
}

/// The files of `[identity]` are where this tunnel's credentials come from: no source before them has any.
fn files_count(spec: &Spec, enf: &config::Enf) -> bool {
    let passed = identity::credentials_directory();
    identity::find(&spec.tunnel, passed.as_deref())
        .is_ok_and(|source| source.files().first() == Some(&enf.identity.cert_file))
}

/// Enrols a key with the password that is stored for it.
async fn password(spec: &Spec, enf: &config::Enf, enrol: &Enrol) -> Result<(), Failure> {
    let refused = |error: EnrolError| Failure::from(&error);
    let user = enrol.user.clone().unwrap_or_default();
    let tunnel = &spec.tunnel.name;
    let passed = || Some(identity::credentials_directory()?.join(format!("{tunnel}.password")));
    let Some(file) = enrol.password_file.clone().or_else(passed) else {
        return Err(refused(EnrolError::NoPassword { user, tunnel: tunnel.clone() }));
    };
    let login = Login { user, password: Secret::read(&file).map_err(|error| refused(error.into()))? };
    let https = Https::new(enrol, &spec.tunnel.tpm).map_err(refused)?;
    let key = key(spec, enf).await?;
    let failed = |error: CreateError| refused(error.into());
    let public = PublicKey::of(&key).ok_or_else(|| {
        failed(CreateError::Key { algorithm: Algorithm::P256, source: rcgen::Error::UnsupportedSignatureAlgorithm })
    })?;

    let way = Way { https, options: options(spec, enf), host: enrol.url.host.clone(), reporter: spec.reporter.clone() };
    let dial = move || way.clone().dial().boxed();
    let enrolled = enrol::enrol(&enrol.url, &login, enrol.address, &public, dial).await.map_err(refused)?;
    let address = enrolled.address;
    let certificate = identity::self_signed(&key, address, Version::V3, SystemTime::now()).map_err(failed)?;
    let (kept, wait) = oneshot::channel();
    spec.reporter.report(SessionEvent::Enrolled { address, certificate, kept }).await;
    answer(wait).await
}

/// The key to enrol: one whose enrolment was begun and never ended, for the interface may know it already, and a password that
/// was good for one time is good for it alone then; else a new one, which is kept before the interface hears of it.
async fn key(spec: &Spec, enf: &config::Enf) -> Result<NewKey, Failure> {
    let failed = |error: CreateError| Failure::from(&EnrolError::from(error));
    // Where only a key in the TPM counts, that is what is made.
    let sources = &enf.identity.source;
    let in_tpm = sources.contains(&Source::Tpm) && !sources.contains(&Source::Files);
    let tpm = in_tpm.then_some(&spec.tunnel.tpm);
    let begun = enf.identity.key_file.file().map(|file| NewKey::begun(&next_key_file(file), tpm));
    if let Some(key) = begun.transpose().map_err(failed)?.flatten() {
        return Ok(key);
    }
    let key = NewKey::make(Algorithm::P256, tpm).map_err(failed)?;
    let (kept, wait) = oneshot::channel();
    spec.reporter.report(SessionEvent::Enrolling { key: key.pem(), kept }).await;
    answer(wait).await?;
    Ok(key)
}

/// The daemon's word.
async fn answer(wait: oneshot::Receiver<Result<(), Failure>>) -> Result<(), Failure> {
    wait.await.unwrap_or_else(|error| Err(Failure::new(Reason::EnrolmentFailed, Class::Bug, chain(&error))))
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
