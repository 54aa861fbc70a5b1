//! Requests of a runtime to the agent: decoding, and all that is done with them before a jail is started. The first byte
//! says which request.
#![no_main]

use kata_agent::fuzzing::is_exec_id;
use kata_fuzz::request;
use kata_protocol::{agent, kata};
use libfuzzer_sys::fuzz_target;
use protobuf::Message;

fuzz_target!(|input: &[u8]| {
    if let Some((kind, body)) = input.split_first() {
        // What is not understood is refused by ttRPC.
        let _ = handle(*kind, body);
    }
});

fn handle(kind: u8, body: &[u8]) -> protobuf::Result<()> {
    match kind % 11 {
        0 => {
            let asked = kata::StartSandboxRequest::parse_from_bytes(body)?;
            asked.sandbox.storages.iter().for_each(request::storage);
            asked.interfaces.iter().for_each(request::interface);
            asked.routes.Routes.iter().for_each(request::route);
            asked.neighbors.ARPNeighbors.iter().for_each(request::neighbor);
            container(&asked.container.unwrap_or_default());
        }
        1 => container(&kata::ContainerRequest::parse_from_bytes(body)?),
        2 => {
            let mut asked = kata::ExecRequest::parse_from_bytes(body)?;
            request::container_id(&asked.container_id);
            let _ = is_exec_id(&asked.exec_id);
            request::process(asked.process.mut_or_insert_default());
        }
        3 => {
            let asked = agent::CreateContainerRequest::parse_from_bytes(body)?;
            request::container(&asked.container_id, asked.OCI.get_or_default(), &asked.storages);
            request::devices(asked.OCI.get_or_default(), &asked.devices);
        }
        4 => {
            let mut asked = agent::ExecProcessRequest::parse_from_bytes(body)?;
            request::container_id(&asked.container_id);
            request::process(asked.process.mut_or_insert_default());
        }
        5 => {
            let asked = agent::UpdateContainerRequest::parse_from_bytes(body)?;
            request::container_id(&asked.container_id);
            request::resources(&asked.resources);
        }
        6 => {
            let asked = agent::CreateSandboxRequest::parse_from_bytes(body)?;
            asked.storages.iter().for_each(request::storage);
        }
        8 => request::interface(&agent::UpdateInterfaceRequest::parse_from_bytes(body)?.interface),
        9 => {
            let asked = agent::UpdateRoutesRequest::parse_from_bytes(body)?;
            asked.routes.Routes.iter().for_each(request::route);
        }
        10 => {
            let asked = agent::AddARPNeighborsRequest::parse_from_bytes(body)?;
            asked.neighbors.ARPNeighbors.iter().for_each(request::neighbor);
        }
        _ => request::container_id(&agent::SignalProcessRequest::parse_from_bytes(body)?.container_id),
    }
    Ok(())
}

fn container(asked: &kata::ContainerRequest) {
    request::container(&asked.container_id, asked.oci.get_or_default(), &asked.storages);
    request::devices(asked.oci.get_or_default(), &asked.devices);
}
