//! What `examples` prints.

/// Examples of use.
pub(crate) const TEXT: &str = r#"An agent on this host, without a VM:

  KATA_AGENT_SERVER_ADDR=unix:///run/agent.sock kata-agent
  kata-agent-ctl connect --server-address unix:///run/agent.sock -c Check

The agent of a VM: by vsock, by the VMM's unix socket, or by the id of its sandbox:

  kata-agent-ctl connect --server-address vsock://3:1024 -c GetGuestDetails
  kata-agent-ctl connect --server-address unix:///run/vm/kata.hvsock --hybrid-vsock -c GetGuestDetails
  kata-agent-ctl connect --sandbox 4f2a -c GetGuestDetails

Arguments as pairs, as JSON, from a file:

  kata-agent-ctl connect --sandbox 4f2a -c "SignalProcess container_id=web signal=15"
  kata-agent-ctl connect --sandbox 4f2a -c 'SignalProcess json://{"container_id": "web", "signal": 15}'
  kata-agent-ctl connect --sandbox 4f2a -c "UpdateInterface file:///tmp/interface.json"

A container's whole life, by an OCI bundle that the agent sees; its id is made up and the same in all requests:

  kata-agent-ctl connect --server-address unix:///run/agent.sock --bundle-dir /tmp/bundle \
      -c CreateSandbox -c CreateContainer -c StartContainer -c WaitProcess -c RemoveContainer -c DestroySandbox

Ten health checks, one a second, at most 500 ms each:

  printf 'repeat 10\nCheck\n' | kata-agent-ctl connect --sandbox 4f2a --timeout 500ms -f -

What there is, and the fields of a request:

  kata-agent-ctl connect --sandbox 4f2a -c list -c "help CopyFile"
"#;
