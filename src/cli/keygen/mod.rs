//! `enftunctl keygen NAME`: a new key and certificate of a tunnel. Works without the daemon, which notices the new pair by
//! itself. Everything is looked at before anything is asked, said or written; the pair that is there stays until there is
//! another, whole (`identity::save`).

mod ask;
#[cfg(feature = "enrol")]
mod enrol;
mod error;
mod target;

pub use error::KeygenError;

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ipnet::Ipv6Net;
use nix::sys::prctl;
use serde::Serialize;

use self::target::{Made, Old, Target};
use super::{CliError, args, load_tunnel, output, time};
use crate::config::{self, Enf, Kind, Place, Tunnel, Wanted};
use crate::files;
use crate::identity::{
    self, Algorithm, CreateError, Credentials, NewKey, Staged, Version, clock_is_wrong, day, next_key_file,
    own_address, seconds,
};
use crate::paths::{DAEMON_USER, Paths};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The tunnel's name.
    name: String,
    /// An IPv6 address; or a /64 to get one in; or auto, to get one in the network of the user. enrol.address when left out.
    #[arg(value_parser = config::parse_wanted, conflicts_with_all = ["renew", "cert"])]
    address: Option<Wanted>,
    /// Who asks for the address; enrol.user when left out.
    #[arg(long, value_name = "NAME", value_parser = config::parse_user, conflicts_with = "alone")]
    user: Option<String>,
    /// Takes the password from the first line of a file that nobody else can read; - is the standard input. Otherwise it is that of
    /// enrol.password_file, else the systemd credential NAME.password, else it is asked for at the terminal, else read from
    /// the standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "alone")]
    password_file: Option<PathBuf>,
    /// The kind of key; with --renew that of the certificate that is there, else p256.
    #[arg(long, value_name = "KIND", conflicts_with = "cert")]
    algorithm: Option<Algorithm>,
    /// Makes a certificate without extensions (X.509 v1), for old routers; with --renew where the one that is there has none.
    #[arg(long, conflicts_with_all = ["csr", "cert"])]
    v1: bool,
    /// Asks nobody: for routers that are given certificates by hand.
    #[arg(long, group = "alone")]
    self_signed: bool,
    /// Makes a request for a certificate of a CA of your own, and the key that waits for it beside the one in use.
    #[arg(long, group = "alone")]
    csr: bool,
    /// Puts the certificate that came for the request in place, with its key.
    #[arg(long, value_name = "FILE", group = "alone", conflicts_with = "renew")]
    cert: Option<PathBuf>,
    /// Makes the key in the TPM of [tpm]; so it does without being told where the key that is there is in a TPM, and where
    /// identity.source has "tpm" and not "files".
    #[arg(long, conflicts_with = "cert")]
    tpm: bool,
    /// Makes a new pair for the address of the certificate that is there.
    #[arg(long)]
    renew: bool,
    /// Replaces what is there without a question.
    #[arg(long)]
    yes: bool,
    /// How long getting the address may take at most.
    #[arg(long, default_value = "60s", value_parser = time::duration, conflicts_with = "alone")]
    timeout: Duration,
    /// Whose the files will be, if root makes them.
    #[arg(long, value_name = "USER", default_value = DAEMON_USER)]
    owner: String,
    /// Prints JSON instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config_dir: args::ConfigDir,
}

/// What was made.
#[derive(Debug, Serialize)]
struct Done<'a> {
    tunnel: &'a str,
    /// `enrolled`, `self-signed`, `request` or `installed`.
    made: &'static str,
    address: Ipv6Addr,
    network: Option<Ipv6Net>,
    algorithm: Option<&'static str>,
    in_tpm: bool,
    /// Microseconds since 1970.
    not_after: Option<i64>,
    cert_file: &'a Path,
    key_file: &'a Path,
    request_file: Option<&'a Path>,
    replaced: bool,
}

/// How a certificate comes to be.
enum Way {
    /// The interface gives the address.
    #[cfg(feature = "enrol")]
    Enrol(Box<enrol::Interface>),
    /// It is said which.
    SelfSigned(Ipv6Addr),
    /// It is said which, and a CA signs.
    Request(Ipv6Addr),
}

pub async fn run(args: Args) -> Result<(), CliError> {
    // A core dump would hold a password and a private key.
    prctl::set_dumpable(false).map_err(|error| CliError::Start(error.into()))?;
    let paths = Paths { config: args.config_dir.path.clone(), ..Paths::default() };
    let tunnel = load_tunnel(&args.name, &paths)?;
    let Kind::Enf(enf) = &tunnel.kind else { return Err(KeygenError::Kind(tunnel.name.clone()).into()) };
    let target = Target::look(&tunnel.name, &enf.identity, &args.owner)?;
    match &args.cert {
        Some(file) => install(&args, &tunnel, &target, file),
        None => make(&args, &tunnel, enf, &target).await,
    }
}

async fn make(args: &Args, tunnel: &Tunnel, enf: &Enf, target: &Target) -> Result<(), CliError> {
    let name = tunnel.name.as_str();
    let renewed = renewed(args, name, target)?;
    let wanted = match (renewed, args.address, &enf.enrol) {
        (Some(old), ..) => Some(Wanted::Exactly(old.address)),
        (_, Some(wanted), _) => Some(wanted),
        (.., enrol) => enrol.as_ref().map(|enrol| enrol.address),
    };
    let algorithm = args.algorithm.or(renewed.and_then(|old| old.algorithm)).unwrap_or_default();
    let version = if args.v1 || renewed.is_some_and(|old| old.v1) { Version::V1 } else { Version::V3 };
    #[cfg_attr(not(feature = "enrol"), expect(unused_mut))]
    let mut way = way(args, tunnel, enf, wanted)?;
    let now = SystemTime::now();
    if !matches!(way, Way::Request(_)) && clock_is_wrong(seconds(now)) {
        return Err(KeygenError::Create(CreateError::Clock { now: seconds(now) }).into());
    }
    confirm(args, name, target, &way, algorithm)?;
    #[cfg(feature = "enrol")]
    if let Way::Enrol(interface) = &mut way {
        interface.take_password()?;
    }

    let in_tpm = args.tpm || target.in_tpm;
    let key = NewKey::make(algorithm, in_tpm.then_some(&tunnel.tpm)).map_err(KeygenError::from)?;
    let made = target.make_directories()?;
    let staged = identity::stage(&target.files, key.pem().expose(), target.owner);
    let staged = staged.map_err(KeygenError::from)?;
    let (address, network, word) = match &way {
        #[cfg(feature = "enrol")]
        Way::Enrol(interface) => {
            let enrolled = interface.enrol(&key).await?;
            (enrolled.address, enrolled.network, "enrolled")
        }
        Way::SelfSigned(address) => (*address, None, "self-signed"),
        Way::Request(address) => return request(args, name, target, *address, &key, staged, made),
    };
    let certificate = identity::self_signed(&key, address, version, now).map_err(KeygenError::from)?;
    staged.commit(&certificate).map_err(KeygenError::from)?;
    made.keep();
    // Its key is gone.
    let _ = fs::remove_file(target.files.request_file());
    let not_after = now.checked_add(identity::LIFETIME).map(seconds);
    finish(args, target, Done { not_after, network, ..done(name, target, word, address, Some(algorithm), in_tpm) })
}

/// The certificate that is renewed, if one is.
fn renewed(args: &Args, tunnel: &str, target: &Target) -> Result<Option<Old>, KeygenError> {
    let nothing = |source| KeygenError::NothingToRenew { tunnel: tunnel.to_owned(), source };
    args.renew.then(|| target::look_at(&target.files.cert_file).map_err(nothing)).transpose()
}

#[cfg_attr(not(feature = "enrol"), expect(unused_variables))]
fn way(args: &Args, tunnel: &Tunnel, enf: &Enf, wanted: Option<Wanted>) -> Result<Way, KeygenError> {
    if !args.self_signed && !args.csr {
        #[cfg(feature = "enrol")]
        return Ok(Way::Enrol(Box::new(enrol::Interface::new(args, tunnel, enf, wanted.unwrap_or_default())?)));
        #[cfg(not(feature = "enrol"))]
        return Err(KeygenError::NotBuilt(tunnel.name.clone()));
    }
    let Some(Wanted::Exactly(address)) = wanted else {
        let option = if args.csr { "--csr" } else { "--self-signed" };
        return Err(KeygenError::Usage(format!(
            "{option} asks nobody for an address, so say which: `enftunctl keygen {} ADDRESS {option}`",
            tunnel.name
        )));
    };
    Ok(if args.csr { Way::Request(address) } else { Way::SelfSigned(address) })
}

/// Says what will happen, and asks whether it shall, if somebody is there.
fn confirm(args: &Args, tunnel: &str, target: &Target, way: &Way, algorithm: Algorithm) -> Result<(), KeygenError> {
    if args.yes {
        return Ok(());
    }
    let files = &target.files;
    let old = target::look_at(&files.cert_file);
    let old =
        old.map_or_else(|_| String::new(), |old| format!(" of {}, good until {}", old.address, day(old.not_after)));
    let mut lost = Vec::new();
    if target.occupied && !matches!(way, Way::Request(_)) {
        lost.push(format!("the certificate and the key of {tunnel}{old} would be replaced"));
    }
    if files.request_file().exists() && next_key_file(&files.key_file).exists() {
        lost.push(format!("the key would go that waits for a certificate ({})", files.request_file().display()));
    }
    let lost = lost.join(", and ");
    if !ask::somebody_is_there() {
        let meant = lost.is_empty() || args.renew && !lost.contains("waits");
        let more = if target.occupied && !args.renew { "; --renew keeps the address" } else { "" };
        return if meant { Ok(()) } else { Err(KeygenError::Unconfirmed { what: lost, more }) };
    }
    let mut text = format!("{tunnel}: a new {algorithm} key");
    let _ = match way {
        #[cfg(feature = "enrol")]
        Way::Enrol(interface) => write!(text, " for {interface}"),
        Way::SelfSigned(address) => write!(text, " and a certificate for {address}, signed by itself"),
        Way::Request(address) => write!(text, " and a request for a certificate for {address}"),
    };
    let _ = match way {
        Way::Request(_) => write!(text, "\n  {}", files.request_file().display()),
        _ => write!(text, "\n  {}\n  {}", files.cert_file.display(), files.key_file.display()),
    };
    if !lost.is_empty() {
        let _ = write!(text, "\nThen {lost}.");
    }
    text.lines().for_each(|line| eprintln!("{}", output::clean(line)));
    ask::confirm("Go on?")
}

/// Leaves the key beside the one in use, and says what its certificate has to be.
fn request(
    args: &Args,
    tunnel: &str,
    target: &Target,
    address: Ipv6Addr,
    key: &NewKey,
    staged: Staged,
    made: Made,
) -> Result<(), CliError> {
    let file = target.files.request_file();
    let text = identity::request(key, address).map_err(KeygenError::from)?;
    files::replace(&file, text.as_bytes(), 0o644)
        .map_err(|source| KeygenError::Request { path: file.clone(), source })?;
    staged.keep();
    made.keep();
    let algorithm = identity::PublicKey::of(key).map(|key| key.algorithm());
    let waiting = next_key_file(&target.files.key_file);
    finish(
        args,
        target,
        Done {
            request_file: Some(&file),
            key_file: &waiting,
            replaced: false,
            ..done(tunnel, target, "request", address, algorithm, key.is_in_tpm())
        },
    )
}

/// A certificate came for the key that waits for it.
fn install(args: &Args, tunnel: &Tunnel, target: &Target, file: &Path) -> Result<(), CliError> {
    let name = tunnel.name.as_str();
    let waiting = next_key_file(&target.files.key_file);
    if !waiting.exists() {
        return Err(KeygenError::NoRequest { tunnel: name.to_owned(), key_file: waiting }.into());
    }
    let loaded = identity::load_at(file, &Place::File(waiting), &tunnel.tpm, SystemTime::now());
    let (credentials, address) = loaded
        .and_then(|credentials| own_address(&credentials).map(|address| (credentials, address)))
        .map_err(KeygenError::from)?;
    let Credentials { chain, not_after, .. } = &credentials;
    let text: String = chain.iter().map(|certificate| identity::certificate_pem(certificate.to_vec())).collect();
    let in_tpm = fs::read(next_key_file(&target.files.key_file)).is_ok_and(|key| identity::tpm::is_blob(&key));
    identity::complete(&target.files, &text, target.owner).map_err(KeygenError::from)?;
    let _ = fs::remove_file(target.files.request_file());
    let algorithm = chain.first().and_then(|leaf| Algorithm::of_spki(&identity::public_key_of(leaf)?));
    finish(
        args,
        target,
        Done { not_after: Some(*not_after), ..done(name, target, "installed", address, algorithm, in_tpm) },
    )
}

fn done<'a>(
    tunnel: &'a str,
    target: &'a Target,
    made: &'static str,
    address: Ipv6Addr,
    algorithm: Option<Algorithm>,
    in_tpm: bool,
) -> Done<'a> {
    Done {
        tunnel,
        made,
        address,
        network: None,
        algorithm: algorithm.map(Algorithm::as_str),
        in_tpm,
        not_after: None,
        cert_file: &target.files.cert_file,
        key_file: &target.files.key_file,
        request_file: None,
        replaced: target.occupied,
    }
}

/// Says what was made, and what is next.
fn finish(args: &Args, target: &Target, done: Done<'_>) -> Result<(), CliError> {
    if target.owner.is_none() {
        let owner = &args.owner;
        eprintln!(
            "note: the files are yours, and enftund reads them as the user {owner}: `chown {owner} FILE…` as root"
        );
    }
    let tunnel = done.tunnel;
    if args.json {
        const MICROSECONDS: i64 = 1_000_000;
        return output::json(&Done {
            not_after: done.not_after.map(|seconds| seconds.saturating_mul(MICROSECONDS)),
            ..done
        });
    }
    if let Some(file) = done.request_file {
        output::line(&format!("request      {}", file.display()))?;
        output::line(&format!("its key      {}", done.key_file.display()))?;
        let next = "Have your CA sign the request, then put the certificate in place";
        return output::line(&format!("{next}: enftunctl keygen {tunnel} --cert FILE"));
    }
    let until = done.not_after.map_or_else(String::new, |not_after| format!(", until {}", day(not_after)));
    output::line(&format!("{tunnel} is {}{until}", done.address))?;
    output::line(&format!("certificate  {}", done.cert_file.display()))?;
    output::line(&format!("key          {}", done.key_file.display()))?;
    if done.made == "self-signed" {
        let name = format!("{}.pem", done.address);
        output::line(&format!("The router takes it once the certificate is in its endpoints_dir, as {name}."))?;
    }
    output::line(&format!(
        "A tunnel that is up goes over to it by itself, and its connections go on; otherwise: systemctl start enftun@{tunnel}"
    ))
}
