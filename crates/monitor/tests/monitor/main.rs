//! The program as it runs, among made-up shims and a made-up container manager.

#[cfg(test)]
mod cri;
#[cfg(test)]
mod discovery;
#[cfg(test)]
mod events;
#[cfg(test)]
mod figures;
#[cfg(test)]
mod pages;
#[cfg(test)]
mod programs;
#[cfg(test)]
mod scene;
#[cfg(test)]
mod scrapes;
#[cfg(test)]
mod security;
