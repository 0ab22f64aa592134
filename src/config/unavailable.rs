//! What the configuration reference documents and this version does not carry out. It is never silently ignored: whoever
//! writes it learns that it would have no effect.

use super::reader::Item;
use super::values::Complaint;

/// A feature, as the readers call it, and what it is to the user. A feature that arrives deletes its line here.
const UNAVAILABLE: &[(&str, &str)] = &[
    ("advertise", "a host behind this one"),
    ("enrol", "enrolment"),
    ("router enrol", "the enrolment interface"),
    ("tpm", "a key in a TPM"),
];

impl Item<'_> {
    /// Says that this asks for `feature`, if it is not there yet.
    pub(super) fn asks_for(&self, feature: &str) {
        if let Some((_, what)) = UNAVAILABLE.iter().find(|(name, _)| *name == feature) {
            self.key_error(Complaint::new(&format!("{what} is not available in this version")));
        }
    }
}
