//! Placeholder until the golden texts stand.
