//! `identity.tpm` of the C client: where its TPM is, for the key of TLS and for new ones.

use super::super::findings::Severity;
use super::super::tpm::{PERSISTENT, tcti};
use super::super::values::{Complaint, quoted};
use super::Translation;
use super::libconfig::{Setting, Value};
use super::translation::{Old, path};

const DEVICE: &str = "/dev/tpm0";

impl Translation {
    /// Writes `[tpm]`. A build without TPMs writes nothing, for it would refuse that.
    pub(super) fn tpm(&mut self, old: &mut Old<'_>) {
        let Some(setting) = old.take("tpm") else { return };
        if !cfg!(feature = "tpm") {
            let text = "has no counterpart: keys in a TPM are not available in this build";
            return self.warn(&path(old, "tpm"), &setting.place, text.to_owned());
        }
        let Value::Group(settings) = &setting.value else {
            let text = format!("is {}, where a group belongs: the C client ignored it", setting.value.kind());
            return self.warn(&path(old, "tpm"), &setting.place, text);
        };
        let mut group = Old { path: "identity.tpm", settings, known: Vec::new() };
        self.way(&mut group, setting);
        self.parent(&mut group);
        let why = "keys are made in the hierarchy of the owner, or under tpm.parent";
        if let Some((number, place)) = self.integer(&mut group, "hierarchy", "0", |_| None)
            && !matches!(number, 0 | 0x4000_0001)
        {
            self.warn("identity.tpm.hierarchy", &place, format!("has no counterpart: {why}"));
        }
        if let Some(password) = group.take("password") {
            let text = "is not written to the new file, which everybody may read";
            let help = "write it to a file that only user enftun may read, and that to password_file below [tpm]";
            self.say(Severity::Warning, "identity.tpm.password", &password.place, Complaint::new(text).help(help));
        }
        self.unknown(&group);
    }

    /// `tpm.tcti`.
    fn way(&mut self, group: &mut Old<'_>, whole: &Setting) {
        let kind = self.text(group, "tcti", "\"device\"").map_or("device", |(kind, _)| kind);
        let device = self.text(group, "device", &quoted(DEVICE)).map_or(DEVICE, |(device, _)| device);
        let host = self.text(group, "socket_host", "\"localhost\"").map_or("localhost", |(host, _)| host);
        let port = self.text(group, "socket_port", "\"2321\"").map_or("2321", |(port, _)| port);
        let written = match kind {
            "device" => {
                let managed = device.strip_prefix("/dev/tpm").filter(|rest| rest.chars().all(|c| c.is_ascii_digit()));
                let managed = managed.map(|number| format!("/dev/tpmrm{number}"));
                if let Some(managed) = &managed {
                    let text = format!(
                        "{device} serves one program at a time; the same TPM through the kernel's resource manager, \
                         {managed}, is written"
                    );
                    self.warn("identity.tpm.device", &whole.place, text);
                }
                format!("device:{}", managed.as_deref().unwrap_or(device))
            }
            "socket" => format!("mssim:host={host},port={port}"),
            other => {
                let text = format!(
                    "{} is neither device nor socket, on which the C client gave up; it is left out",
                    quoted(other)
                );
                return self.warn("identity.tpm.tcti", &whole.place, text);
            }
        };
        match tcti(&written) {
            Ok(written) => self.write("tpm", "tcti", written),
            Err(complaint) => self.warn("identity.tpm", &whole.place, format!("{}; it is left out", complaint.text)),
        }
    }

    /// `tpm.parent`.
    fn parent(&mut self, group: &mut Old<'_>) {
        let Some((number, place)) = self.integer(group, "parent", "0", |_| None) else { return };
        // Handles of persistent keys are beyond what the old language calls a number, and negative for it.
        match number.cast_unsigned() {
            handle if PERSISTENT.contains(&handle) => self.write("tpm", "parent", format!("{handle:#x}")),
            0 => {
                let text = "the C client makes keys under 0x81000001, and puts a storage key there; here they are made \
                            under the owner's hierarchy";
                let help = "write parent = \"0x81000001\" below [tpm] if there is such a key";
                self.say(Severity::Warning, "identity.tpm.parent", &place, Complaint::new(text).help(help));
            }
            other => {
                let text = format!("{other:#x} is no persistent handle; it is left out");
                self.warn("identity.tpm.parent", &place, text);
            }
        }
    }
}
