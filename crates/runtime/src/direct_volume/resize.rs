//! `kata-runtime direct-volume resize`

use clap::Args;
use hyper::Method;
use serde_json::json;

use super::size::Bytes;
use super::{Host, Which};

/// Arguments of `direct-volume resize`.
#[derive(Debug, Args)]
pub(super) struct ResizeArgs {
    #[command(flatten)]
    which: Which,

    /// Its new size in bytes, or as Kubernetes writes quantities, such as 8Gi
    #[arg(long, value_name = "SIZE")]
    size: Bytes,
}

pub(super) fn run(args: &ResizeArgs, host: &Host<'_>) -> anyhow::Result<()> {
    let volume = &args.which.volume_path;
    let body = json!({ "VolumePath": volume, "Size": args.size.0 }).to_string();
    host.sandbox_of(volume)?.ask(Method::POST, "/direct-volume/resize", body.into()).map(drop)
}
