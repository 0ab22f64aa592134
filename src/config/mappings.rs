//! Port mapping files of AWS's local proxy: which port or target each service has, as it is written. What a target may be is
//! judged by whoever uses them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A directory deeper than this is not looked into: links may lead in circles.
const DEEPEST: usize = 16;
/// A file larger than this is no port mapping file.
const LARGEST: u64 = 1 << 20;

/// What the files say of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Port or target, as it is written.
    pub target: String,
    /// The file.
    pub file: PathBuf,
    /// Where in the file.
    pub line: usize,
}

/// What all files say, the first for each service; and what there is to say about the rest.
#[derive(Debug, Default)]
pub struct Mappings {
    /// By service.
    pub services: BTreeMap<String, Mapping>,
    /// The files that could be read, in the order in which they are looked at.
    pub files: Vec<PathBuf>,
    /// A line for each thing that was left out.
    pub warnings: Vec<String>,
}

/// Why nothing could be read.
#[derive(Debug, thiserror::Error)]
#[error("read the port mapping files in {}", path.display())]
pub struct MappingsError {
    /// The directory, or file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// Reads a file, or every regular file in a directory and below it, by name. A file that cannot be understood is left out as
/// a whole, with a warning.
pub fn read(path: &Path) -> Result<Mappings, MappingsError> {
    let failed = |source| MappingsError { path: path.to_owned(), source };
    let mut mappings = Mappings::default();
    if fs::metadata(path).map_err(failed)?.is_dir() {
        let entries = sorted(path).map_err(failed)?;
        entries.into_iter().for_each(|entry| mappings.look_at(&entry, 1));
    } else {
        mappings.add(path);
    }
    Ok(mappings)
}

/// Whether `text` is one of these files and not of another language: something in it, and only targets.
pub fn is_mappings(text: &str) -> bool {
    parse(text).is_ok_and(|entries| {
        !entries.is_empty() && entries.iter().all(|(_, target, _)| super::parse_application(target).is_ok())
    })
}

/// The directory is there, and something is in it.
pub fn is_filled(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
}

fn sorted(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    Ok(entries)
}

impl Mappings {
    fn look_at(&mut self, path: &Path, depth: usize) {
        match fs::metadata(path) {
            Ok(found) if found.is_dir() && depth < DEEPEST => match sorted(path) {
                Ok(entries) => entries.into_iter().for_each(|entry| self.look_at(&entry, depth + 1)),
                Err(error) => self.skip(path, &error.to_string()),
            },
            Ok(found) if found.is_dir() => self.skip(path, "it is too deep"),
            Ok(found) if found.is_file() => self.add(path),
            Ok(_) => {}
            Err(error) => self.skip(path, &error.to_string()),
        }
    }

    fn add(&mut self, path: &Path) {
        let text = match fs::metadata(path).map(|found| found.len()) {
            Ok(length) if length > LARGEST => return self.skip(path, "it is too large"),
            Ok(_) => match fs::read_to_string(path) {
                Ok(text) => text,
                Err(error) => return self.skip(path, &error.to_string()),
            },
            Err(error) => return self.skip(path, &error.to_string()),
        };
        let entries = match parse(&text) {
            Ok(entries) => entries,
            Err(why) => return self.skip(path, &why),
        };
        self.files.push(path.to_owned());
        for (service, target, line) in entries {
            if let Some(first) = self.services.get(&service) {
                let place = format!("{}:{}", first.file.display(), first.line);
                self.warnings.push(format!("{}:{line}: {service} is at {place} already, which holds", path.display()));
                continue;
            }
            self.services.insert(service, Mapping { target, file: path.to_owned(), line });
        }
    }

    fn skip(&mut self, path: &Path, why: &str) {
        self.warnings.push(format!("{} is left out of the port mapping files: {why}", path.display()));
    }
}

/// `service = target`, one a line; `#` and `;` begin a comment line. In a `[section]` its name and a dot go before the
/// service.
fn parse(text: &str) -> Result<Vec<(String, String, usize)>, String> {
    let mut entries: Vec<(String, String, usize)> = Vec::new();
    let mut section = String::new();
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{}.", name.trim());
            continue;
        }
        let Some((service, target)) = line.split_once('=').map(|(service, target)| (service.trim(), target.trim()))
        else {
            return Err(format!("line {number} is not SERVICE = TARGET"));
        };
        if service.is_empty() || target.is_empty() {
            return Err(format!("line {number} has nothing on one side of the ="));
        }
        let service = format!("{section}{service}");
        if let Some((.., first)) = entries.iter().find(|(name, ..)| *name == service) {
            return Err(format!("line {number} has {service:?}, and so has line {first}"));
        }
        entries.push((service, target.to_owned(), number));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        directory
    }

    fn targets(mappings: &Mappings) -> Vec<(&str, &str)> {
        mappings.services.iter().map(|(service, mapping)| (service.as_str(), mapping.target.as_str())).collect()
    }

    #[test]
    fn services_are_found_in_several_files_whatever_their_order() {
        for (first, second) in [("a.ini", "b.ini"), ("b.ini", "a.ini")] {
            let directory = directory(&[(first, "SSH=22\n"), (second, "web = 10.0.0.1:80\n")]);
            let mappings = read(directory.path()).unwrap();
            assert_eq!(targets(&mappings), [("SSH", "22"), ("web", "10.0.0.1:80")]);
            assert_eq!((mappings.files.len(), mappings.warnings.len()), (2, 0));
        }
    }

    #[test]
    fn files_below_are_read_too_and_the_first_hit_wins() {
        let text = "# comment\n; another\n\nSSH = 22\n[lab]\nweb=/run/web.sock\n";
        let directory = directory(&[("a", text), ("deep/er/b", "SSH=2222\nvnc=5900\n"), ("z", "vnc=1\n")]);
        let mappings = read(directory.path()).unwrap();
        assert_eq!(targets(&mappings), [("SSH", "22"), ("lab.web", "/run/web.sock"), ("vnc", "5900")]);
        assert_eq!(mappings.services["SSH"].line, 4);
        assert_eq!(mappings.warnings.len(), 2, "{:?}", mappings.warnings);
        assert!(mappings.warnings[0].contains("deep/er/b:1: SSH is at"), "{:?}", mappings.warnings);
    }

    #[test]
    fn a_file_that_cannot_be_understood_is_left_out_with_a_warning() {
        for (bad, why) in [
            ("SSH=22\nnonsense\n", "line 2 is not"),
            ("SSH=22\nSSH=23\n", "line 2 has \"SSH\", and so has line 1"),
            ("=22\n", "line 1 has nothing"),
            ("web=\n", "line 1 has nothing"),
        ] {
            let directory = directory(&[("bad", bad), ("good", "vnc=5900\n")]);
            let mappings = read(directory.path()).unwrap();
            assert_eq!(targets(&mappings), [("vnc", "5900")]);
            let [warning] = mappings.warnings.as_slice() else { panic!("{:?}", mappings.warnings) };
            assert!(warning.contains("bad is left out") && warning.contains(why), "{warning}");
        }
        let directory = directory(&[]);
        fs::write(directory.path().join("binary"), [0xff, 0xfe, 0]).unwrap();
        fs::write(directory.path().join("large"), vec![b'#'; 2 << 20]).unwrap();
        std::os::unix::fs::symlink(directory.path(), directory.path().join("round")).unwrap();
        let mappings = read(directory.path()).unwrap();
        assert!(mappings.services.is_empty() && mappings.files.is_empty(), "{mappings:?}");
        assert!(is_filled(directory.path()) && !is_filled(&directory.path().join("binary")));
    }

    #[test]
    fn one_file_can_be_read_by_itself_and_a_missing_one_is_an_error() {
        let directory = directory(&[("one", "SSH=22\n")]);
        assert_eq!(targets(&read(&directory.path().join("one")).unwrap()), [("SSH", "22")]);
        assert!(read(&directory.path().join("none")).unwrap_err().to_string().contains("none"));
    }
}
