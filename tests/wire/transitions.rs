//! Nothing leaves while something happens: one story for each thing that can happen.
