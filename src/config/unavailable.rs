//! What the configuration reference documents and this build does not carry out. It is never silently ignored: whoever
//! writes it learns that it would have no effect.

use super::reader::Item;
use super::values::Complaint;

/// A cargo feature, whether this build has it, and what it is to the user.
const FEATURES: &[(&str, bool, &str)] =
    &[("enrol", cfg!(feature = "enrol"), "enrolment"), ("tpm", cfg!(feature = "tpm"), "what is in a TPM")];

impl Item<'_> {
    /// Says that this asks for `feature`, if it is not there.
    pub(super) fn asks_for(&self, feature: &str) {
        if let Some((_, _, what)) = FEATURES.iter().find(|(name, there, _)| *name == feature && !there) {
            let complaint = Complaint::new(&format!("{what} is not available in this build"));
            self.key_error(complaint.help(&format!("build with --features {feature}, or leave it out")));
        }
    }
}
