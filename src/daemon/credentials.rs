//! The files that sessions are made with: certificate, key, tokens and trust anchors. When what is in them changes, a live session
//! gets a successor with the new ones, and a tunnel that waits because of the old ones waits no longer.

use super::{Answer, Caller, Daemon, Refusal};
use crate::config::{self, Identity, Place};
use crate::error::{Class, chain};
use crate::identity::{self, KeyText, PairFiles, SaveError};
use crate::logging::message;
use crate::paths::STATE_DIR;
use crate::state::{Event, Failure, Reason, Target};
use crate::tunnel::aws::tokens::{Kept, Tokens};
use std::fs::DirBuilder;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What tells one content of the files from another; of no use to anybody else.
pub(super) type Fingerprint = u64;

/// The files that a session of this tunnel is made with, as far as they can be found.
fn files(tunnel: &config::Tunnel) -> Vec<PathBuf> {
    let passed = identity::credentials_directory();
    let source = identity::find(tunnel, passed.as_deref());
    let own = source.map_or_else(|_| Vec::new(), |source| source.files());
    own.into_iter().chain(others(tunnel)).collect()
}

/// Trust anchors, tokens, and what a provisioner enrols with. What is in a TPM is not watched: the next session reads it.
fn others(tunnel: &config::Tunnel) -> Vec<PathBuf> {
    let enrol = tunnel.kind.enf().and_then(|enf| enf.enrol.as_ref()).filter(|enrol| enrol.provisioner.is_some());
    let theirs = enrol.map(|enrol| [enrol.ca_cert_file.file(), enrol.password_file.as_deref()]);
    let all =
        [tunnel.remote.ca_cert_file.as_ref().and_then(Place::file)].into_iter().chain(theirs.into_iter().flatten());
    // What is kept of tokens is our own, wherever it is: only what somebody else writes is news.
    let tokens = tunnel.kind.aws().map(|_| kept_tokens(tunnel, Path::new(STATE_DIR)).files());
    all.flatten().map(Path::to_owned).chain(tokens.into_iter().flatten()).collect()
}

/// The tokens of a tunnel, and what is kept of them in a state directory.
pub(super) fn kept_tokens(tunnel: &config::Tunnel, state: &Path) -> Kept {
    Kept::new(tunnel, state, identity::credentials_directory().as_deref())
}

/// What is in the files now, and who may read them; a file that cannot be read is as one that is not there.
async fn fingerprint(hasher: RandomState, tunnel: Arc<config::Tunnel>) -> Option<Fingerprint> {
    let read = move || {
        let mode = |file: &PathBuf| Some(std::fs::metadata(file).ok()?.permissions().mode());
        let contents: Vec<_> =
            files(&tunnel).into_iter().map(|file| (mode(&file), std::fs::read(&file).ok())).collect();
        hasher.hash_one(contents)
    };
    tokio::task::spawn_blocking(read).await.ok()
}

/// Keeps a new key beside the pair in use, in directories that are made, for the own user only, if they are not there.
pub(super) async fn keep_key(own: Identity, key: KeyText) -> Result<(), Failure> {
    on_disk(own, move |files| {
        for file in [&files.cert_file, &files.key_file] {
            let Some(directory) = file.parent() else { continue };
            DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| {
                let help =
                    "the daemon may write below its state directory: set identity.cert_file and identity.key_file";
                let text = format!("cannot make the directory {}: {error}; {help}", directory.display());
                Failure::new(Reason::EnrolmentFailed, Class::Environment, text)
            })?;
        }
        identity::stage(files, key.expose(), None).map_err(|error| not_saved(&error))?.keep();
        Ok(())
    })
    .await
}

/// Puts the certificate of that key, and the key, in the place of the pair in use.
pub(super) async fn keep_certificate(own: Identity, certificate: String) -> Result<(), Failure> {
    on_disk(own, move |files| identity::complete(files, &certificate, None).map_err(|error| not_saved(&error))).await
}

fn not_saved(error: &SaveError) -> Failure {
    Failure::new(Reason::EnrolmentFailed, error.class(), chain(error))
}

/// Does this with the files of `[identity]`, where it may wait for the disk.
async fn on_disk(
    own: Identity,
    change: impl FnOnce(&PairFiles) -> Result<(), Failure> + Send + 'static,
) -> Result<(), Failure> {
    let Place::File(key_file) = own.key_file else {
        let text = "identity.key_file is in the TPM, and a new key would be in a file";
        return Err(Failure::new(Reason::EnrolmentFailed, Class::Configuration, text));
    };
    let files = PairFiles { cert_file: own.cert_file, key_file };
    let changed = tokio::task::spawn_blocking(move || change(&files)).await;
    changed.unwrap_or_else(|error| Err(Failure::new(Reason::EnrolmentFailed, Class::Bug, chain(&error))))
}

impl Daemon {
    /// Keeps new tokens of a tunnel, and has it begin a session with them if it is wanted.
    pub(super) async fn rotate_tokens(
        &mut self,
        name: &str,
        tokens: &Tokens,
        caller: &Caller,
    ) -> Result<Answer, Refusal> {
        let tunnel = self.tunnels.get(name).ok_or_else(|| Refusal::NotFound(name.to_owned()))?;
        if tunnel.config.kind.aws().is_none() {
            let kind = tunnel.config.kind.as_str();
            return Err(Refusal::Unsupported(format!("{name} is of kind {kind}, which has no tokens")));
        }
        log::info!(MESSAGE_ID = message::REQUEST, ENFTUN_TUNNEL = name, ENFTUN_REQUEST = "rotate",
            ENFTUN_CALLER = caller.to_string(); "new tokens of {name}, given by {caller}");
        let (kept, tokens) = (kept_tokens(&tunnel.config, &self.paths.state), tokens.clone());
        let rotated = tokio::task::spawn_blocking(move || kept.rotate(tokens)).await;
        let failed = |error: &(dyn std::error::Error + 'static)| Refusal::Failed(chain(error));
        rotated.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        if let Some(tunnel) = self.tunnels.get_mut(name).filter(|tunnel| tunnel.state.target == Target::Up) {
            tunnel.remotes.reset();
            self.feed(name, Event::Reconnect(Reason::User)).await;
        }
        Ok(Answer::Done)
    }

    /// The files of all tunnels are watched, and no others.
    pub(super) fn watch_credentials(&mut self) {
        let passed = identity::credentials_directory();
        let of =
            |tunnel: &config::Tunnel| identity::candidates(tunnel, passed.as_deref()).into_iter().chain(others(tunnel));
        let all: Vec<PathBuf> = self.tunnels.values().flat_map(|tunnel| of(&tunnel.config)).collect();
        self.credentials.watch(all);
    }

    /// A session is about to read them: what changes from now on is news.
    pub(super) async fn note_credentials(&mut self, name: &str) {
        let Some(config) = self.tunnels.get(name).map(|tunnel| tunnel.config.clone()) else { return };
        let fingerprint = fingerprint(self.random.clone(), config).await;
        if let Some(tunnel) = self.tunnels.get_mut(name) {
            tunnel.credentials = fingerprint;
        }
    }

    /// Some of the files may have changed.
    pub(super) async fn look_at_credentials(&mut self) {
        for name in self.names() {
            let Some(tunnel) = self.tunnels.get(&name) else { continue };
            let now = fingerprint(self.random.clone(), tunnel.config.clone()).await;
            if tunnel.credentials.is_some() && tunnel.credentials != now {
                log::info!(ENFTUN_TUNNEL = name.as_str(); "the credentials of {name} changed on disk");
                self.feed(&name, Event::Renewed).await;
            }
        }
    }
}
