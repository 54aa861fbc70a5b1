//! CNI plugins called by hand, as a container manager calls them: version 1.0.0 of the specification.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::command::{Finished, Live};
use crate::configuration::PLUGINS;
use crate::containerd::Containerd;
use crate::failure::fail;
use crate::network::Network;

/// An interface that a plugin has made in a namespace.
#[must_use = "delete it as it was added"]
pub struct Attachment<'n> {
    network: &'n Network,
    interface: String,
    configuration: Value,
    addresses: Vec<String>,
}

/// `ipam` of a plugin: `host-local` with one range for each of these subnets.
pub fn host_local(containerd: &Containerd, subnets: &[&str]) -> Value {
    let ranges: Vec<Value> = subnets.iter().map(|subnet| json!([{ "subnet": subnet }])).collect();
    json!({ "type": "host-local", "dataDir": containerd.directory(), "ranges": ranges })
}

impl Network {
    /// `ADD`: the plugin that the configuration names makes this interface.
    #[track_caller]
    pub fn attach(&self, interface: &str, configuration: Value) -> Attachment<'_> {
        let mut configuration = configuration;
        configuration["cniVersion"] = json!("1.0.0");
        configuration["name"] = json!(interface);
        let added = call("ADD", self, interface, &configuration).ok();
        let result: Value = serde_json::from_slice(&added.stdout)
            .unwrap_or_else(|e| fail(format_args!("The plugin gives no JSON ({e}): {added:?}")));
        let ips = result["ips"].as_array().into_iter().flatten();
        let addresses = ips.filter_map(|ip| ip["address"].as_str()?.split('/').next().map(str::to_owned));
        let addresses = addresses.collect();
        // With it a plugin knows what it has made.
        configuration["prevResult"] = result;
        Attachment { network: self, interface: interface.to_owned(), configuration, addresses }
    }
}

impl Attachment<'_> {
    /// The interface's addresses, in the order of the ranges.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// `DEL`.
    #[track_caller]
    pub fn delete(self) {
        call("DEL", self.network, &self.interface, &self.configuration).ok().done();
    }
}

#[track_caller]
fn call(verb: &str, network: &Network, interface: &str, configuration: &Value) -> Finished {
    let plugin = configuration["type"].as_str().expect("a configuration names its plugin");
    let mut command = Command::new(Path::new(PLUGINS).join(plugin));
    command.env("CNI_COMMAND", verb).env("CNI_PATH", PLUGINS).env("CNI_NETNS", network.path());
    command.env("CNI_CONTAINERID", network.name()).env("CNI_IFNAME", interface);
    let mut plugin = Live::spawn(&mut command);
    let stdin = plugin.stdin.as_mut().expect("standard input is a pipe");
    stdin.write_all(configuration.to_string().as_bytes()).expect("the plugin reads its configuration");
    plugin.finish()
}
