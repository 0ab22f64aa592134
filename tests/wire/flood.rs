//! A flood from another core while the whole table is replaced, again and again.
