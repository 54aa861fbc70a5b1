//! The built `kata-runtime`, run against temporary configuration trees.

mod check;
#[cfg(test)]
mod collect_data;
mod config;
#[cfg(test)]
mod console;
#[cfg(test)]
mod direct_volume;
#[cfg(test)]
mod documents;
mod env;
mod help;
mod inspect;
mod list;
mod logs;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod network;
#[cfg(test)]
mod shim;
#[cfg(test)]
mod small;
mod timeline;
#[cfg(test)]
mod tree;
