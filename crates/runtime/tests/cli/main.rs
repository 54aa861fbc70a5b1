//! The built `kata-runtime`, run against temporary configuration trees.

mod check;
mod config;
#[cfg(test)]
mod direct_volume;
mod env;
mod help;
#[cfg(test)]
mod network;
mod timeline;
#[cfg(test)]
mod tree;
