//! `enftunctl import FILE`: the C client's configuration, or the port mapping files of AWS's local proxy, as ours. Works without the daemon; writes no file that it was not
//! told to, and replaces none without `--force`.

use super::{CliError, args, output};
use crate::config::{self, Finding, Severity};
use crate::files;
use crate::paths::Paths;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The C client's file, such as /etc/enftun/enf0.conf; or a port mapping file of AWS's local proxy, or a directory of them.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Writes the tunnel file there instead of printing it; its name gives the tunnel its name.
    #[arg(long, value_name = "FILE", conflicts_with = "install")]
    output: Option<PathBuf>,
    /// Writes the tunnel file to its place in the configuration directory: tunnels/NAME.toml.
    #[arg(long)]
    install: bool,
    /// What the tunnel is called with --install; that of the C client's file, without its .conf, when left out.
    #[arg(long, value_name = "NAME", requires = "install")]
    name: Option<String>,
    /// Replaces a file that is there.
    #[arg(long)]
    force: bool,
    /// Prints a JSON document instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config_dir: args::ConfigDir,
}

impl Args {
    /// The file to write, if any.
    fn target(&self) -> Option<PathBuf> {
        if !self.install {
            return self.output.clone();
        }
        let stem = self.file.file_stem().unwrap_or_default().to_string_lossy();
        let name = self.name.as_deref().unwrap_or(&stem);
        let paths = Paths { config: self.config_dir.path.clone(), ..Paths::default() };
        // A path is no name; what is wrong with the rest of it is found when the result is read.
        Some(paths.tunnel_file(&name.replace('/', "?")))
    }
}

pub fn run(args: Args) -> Result<(), CliError> {
    if matches!(args.file.try_exists(), Ok(false)) {
        return Err(CliError::NoFile(args.file));
    }
    let config::Imported { mut toml, mut findings } = config::import(&args.file);
    let target = args.target();
    if let (Some(text), Some(target)) = (&toml, &target) {
        let wrong = errors_in(text, target, &args.config_dir.path);
        if !wrong.is_empty() {
            findings.extend(wrong);
            toml = None;
        }
    }
    if let (Some(text), Some(target)) = (&toml, &target) {
        write(target, text, &args)?;
    }
    if args.json {
        let mut document = config::findings_json(&findings);
        if let Some(object) = document.as_object_mut() {
            let written = target.as_ref().filter(|_| toml.is_some()).map(|path| path.to_string_lossy().into_owned());
            object.insert("output".to_owned(), written.into());
            object.insert("toml".to_owned(), toml.clone().into());
        }
        output::document(&document)?;
    } else {
        for finding in &findings {
            eprintln!("{finding}\n");
        }
        match (&toml, &target) {
            (Some(_), Some(target)) => output::line(&format!("wrote {}", target.display()))?,
            (Some(text), None) => output::text(text)?,
            (None, _) => {}
        }
    }
    match findings.iter().filter(|finding| finding.severity == Severity::Error).count() {
        0 => Ok(()),
        errors => Err(CliError::Configuration { errors }),
    }
}

/// What would keep the daemon from using the file: its name, say.
fn errors_in(text: &str, target: &Path, config_dir: &Path) -> Vec<Finding> {
    let name = target.file_stem().unwrap_or_default().to_string_lossy();
    let (_, findings) = config::parse_tunnel(&name, target, config_dir, text);
    findings.into_iter().filter(|finding| finding.severity == Severity::Error).collect()
}

fn write(target: &Path, text: &str, args: &Args) -> Result<(), CliError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => CliError::Exists(target.to_owned()),
        _ => CliError::Write { file: target.to_owned(), source },
    };
    if let Some(directory) = target.parent().filter(|directory| args.install && !directory.exists()) {
        std::fs::create_dir(directory).map_err(failed)?;
    }
    // The daemon is not root and must read it; there is no secret in it.
    if args.force {
        files::replace(target, text.as_bytes(), 0o644)
    } else {
        files::create(target, text.as_bytes(), 0o644)
    }
    .map_err(failed)
}
