//! `enftunctl rotate`: other tokens for a tunnel of kind `aws-iot`. They come from a file, standard input or the terminal, and go
//! to the daemon as a descriptor: neither a command line nor a message of the bus has them.

use super::CliError;
use crate::dbus::client::Client;
use crate::terminal::password;
use crate::tunnel::aws::tokens::{LIMIT, TokenError, Tokens};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The tunnel.
    name: String,
    /// The access token in the first line and, if there is one, the client token in the second. Standard input, or the terminal,
    /// when left out or -.
    file: Option<PathBuf>,
}

pub async fn run(args: Args) -> Result<(), CliError> {
    let Args { name, file } = args;
    let client = Client::connect().await?;
    // Who mistyped the name is not asked for a secret.
    let (_, tunnel) = client.tunnel(&name).await?;
    if tunnel.forwards.is_none() {
        return Err(CliError::NoTokens { tunnel: name, kind: tunnel.kind });
    }
    let text = read(&name, file.as_deref().filter(|file| *file != Path::new("-")))?;
    Tokens::parse(&text)?;
    let passed = passed(&text).map_err(CliError::Output)?;
    Ok(client.rotate(&name, passed.as_fd()).await?)
}

/// What is in the file, or comes from somewhere else.
fn read(name: &str, file: Option<&Path>) -> Result<Zeroizing<String>, CliError> {
    let Some(file) = file else {
        if io::stdin().is_terminal() {
            let prompt = format!("Access token of {name}: ");
            return Ok(password::Source::Asked.read(&prompt)?);
        }
        return text("standard input", io::stdin());
    };
    match File::open(file) {
        Ok(opened) => text(&format!("the file {}", file.display()), opened),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(CliError::NoFile(file.to_owned())),
        Err(source) => Err(TokenError::Read { place: file.display().to_string(), source }.into()),
    }
}

fn text(place: &str, reader: impl Read) -> Result<Zeroizing<String>, CliError> {
    // Never grown: what it grows out of stays in memory.
    let mut text = Zeroizing::new(String::with_capacity(LIMIT + 1));
    let read = reader.take(LIMIT as u64 + 1).read_to_string(&mut text);
    read.map_err(|source| TokenError::Read { place: place.to_owned(), source })?;
    if text.len() > LIMIT { Err(TokenError::TooLong.into()) } else { Ok(text) }
}

/// A descriptor to read this from, which has no name.
fn passed(text: &str) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"tokens", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}
