//! Generates the messages and the async ttRPC services from `protos/`.

use std::{env, fs, io, path::Path};

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

const PROTOS: [&str; 7] = [
    "protos/agent.proto",
    "protos/oci.proto",
    "protos/types.proto",
    "protos/csi.proto",
    "protos/health.proto",
    "protos/google/protobuf/empty.proto",
    "protos/kata.proto",
];

/// Inner attributes and doc comments of a file cannot stand in an included file; `mod.rs` sets what is needed.
fn strip_inner_attributes(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let kept: Vec<&str> =
            text.lines().filter(|line| !line.starts_with("#![") && !line.starts_with("//!")).collect();
        fs::write(&path, kept.join("\n"))?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=protos");
    let out = env::var("OUT_DIR")?;
    Codegen::new()
        .inputs(PROTOS)
        .include("protos")
        .out_dir(&out)
        .rust_protobuf()
        .rust_protobuf_customize(ProtobufCustomize::default().gen_mod_rs(false).generate_accessors(true))
        .customize(Customize { async_all: true, gen_mod: false, ..Default::default() })
        .run()?;
    strip_inner_attributes(Path::new(&out))?;
    Ok(())
}
