//! `timeline`: written when the type is there.
