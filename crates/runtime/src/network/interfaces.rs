//! `kata-runtime network list`, `add` and `remove`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use hyper::Method;
use kata_sandbox::{Interface, IpAddress};

use super::Listed;
use crate::global::Global;
use crate::management::{Sandbox, part};
use crate::table::{self, Align};
use crate::{input, output};

const PATH: &str = "/network/interfaces";

/// Arguments of `network add`.
#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// The sandbox's id, or a beginning of it that no other has
    sandbox: String,

    /// The interface's name in the pod's network namespace
    #[arg(required_unless_present = "file")]
    interface: Option<String>,

    /// Its name in the guest, if it shall be another
    #[arg(long)]
    name: Option<String>,

    /// Its largest packet in the guest, in bytes
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,

    /// Its address in the guest with the length of the prefix, such as 10.1.0.2/24; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    address: Vec<IpAddress>,

    /// All of this as JSON in the form of the agent's protocol, as `list --json` prints it; `-` is standard input
    #[arg(long, conflicts_with_all = ["interface", "name", "mtu", "address"])]
    file: Option<PathBuf>,
}

/// Arguments of `network remove`.
#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// The sandbox's id, or a beginning of it that no other has
    sandbox: String,

    /// The interface's name, in the guest or in the pod's network namespace
    interface: String,
}

/// `network list`
pub(super) fn list(args: &Listed, global: &Global) -> anyhow::Result<()> {
    let answer = Sandbox::find(&global.root, &args.sandbox)?.ask(Method::GET, PATH, Vec::new())?;
    let interfaces: Vec<Interface> =
        serde_json::from_slice(&answer).context("The shim's answer is no list")?;
    if args.json {
        return output::json(&interfaces);
    }
    let head = ["NAME", "HARDWARE ADDRESS", "MTU", "CONNECTED TO", "ADDRESSES"].map(str::to_owned);
    let row = |interface: &Interface| {
        let addresses: Vec<String> = interface.addresses.iter().map(IpAddress::to_string).collect();
        let device = if interface.device.is_empty() { "-" } else { &interface.device };
        let Interface { name, mac, mtu, .. } = interface;
        [name.clone(), mac.clone(), mtu.to_string(), device.to_owned(), addresses.join(" ")]
    };
    let rows: Vec<_> = [head].into_iter().chain(interfaces.iter().map(row)).collect();
    let align = [Align::Left, Align::Left, Align::Right, Align::Left, Align::Left];
    Ok(output::lines(table::lines(align, &rows))?)
}

/// `network add`
pub(super) fn add(args: &AddArgs, global: &Global) -> anyhow::Result<()> {
    let body = match &args.file {
        Some(file) => input::read(file)?,
        None => serde_json::to_vec(&Interface {
            device: args.interface.clone().unwrap_or_default(),
            name: args.name.clone().unwrap_or_default(),
            mtu: args.mtu.unwrap_or_default(),
            addresses: args.address.clone(),
            ..Interface::default()
        })?,
    };
    Sandbox::find(&global.root, &args.sandbox)?.ask(Method::POST, PATH, body).map(drop)
}

/// `network remove`
pub(super) fn remove(args: &RemoveArgs, global: &Global) -> anyhow::Result<()> {
    let path = format!("{PATH}/{}", part(&args.interface));
    Sandbox::find(&global.root, &args.sandbox)?.ask(Method::DELETE, &path, Vec::new()).map(drop)
}
