//! The registry's side: manifest, configuration and layers of one image, each checked against its digest.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::{OciDescriptor, OciImageManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, ParseError, Reference};
use serde::Deserialize;
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::media::{Layer, UnknownLayer};
use crate::unpack::{self, UnpackError};

/// A registry that does not answer for so long is gone.
const CONNECT: Duration = Duration::from_secs(15);
/// The same once it has answered.
const SILENCE: Duration = Duration::from_secs(60);

/// This machine's, as images call it.
const ARCHITECTURE: &str = match std::env::consts::ARCH.as_bytes() {
    b"x86_64" => "amd64",
    b"aarch64" => "arm64",
    _ => std::env::consts::ARCH,
};

/// An image could not be pulled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PullError {
    /// No threads, no descriptors.
    #[error("The program cannot begin: is the guest out of memory?")]
    Runtime(#[source] io::Error),
    /// No client.
    #[error(
        "The connection to registries cannot be prepared: check the proxy's address, and that the guest has certificate \
         authorities in /etc/ssl/certs"
    )]
    Client(#[source] Box<OciDistributionError>),
    /// No reference.
    #[error(
        "{image:?} is no reference of an image: it must be like registry/name:tag or registry/name@sha256:…"
    )]
    Reference {
        /// What was given.
        image: String,
        /// Why not.
        source: ParseError,
    },
    /// The registry has it not, or gives something else.
    #[error(
        "{image} cannot be pulled: check that the guest reaches the registry, that the image is there for {ARCHITECTURE} \
         and that it needs no password"
    )]
    Manifest {
        /// The image.
        image: String,
        /// Why not.
        source: Box<OciDistributionError>,
    },
    /// Its configuration is broken.
    #[error("The configuration of {image} is not understood: build the image anew")]
    Config {
        /// The image.
        image: String,
        /// Why not.
        source: serde_json::Error,
    },
    /// It is another machine's.
    #[error(
        "{image} is made for {os}/{architecture}, not for linux/{ARCHITECTURE}: name an image for this machine"
    )]
    Platform {
        /// The image.
        image: String,
        /// Its operating system.
        os: String,
        /// Its architecture.
        architecture: String,
    },
    /// Manifest and configuration do not belong together.
    #[error(
        "The manifest of {image} has {layers} layers, its configuration {described}: build the image anew"
    )]
    Count {
        /// The image.
        image: String,
        /// Those of the manifest.
        layers: usize,
        /// Those of the configuration.
        described: usize,
    },
    /// A layer in another form.
    #[error("The layer {digest} of {image} cannot be unpacked")]
    Form {
        /// The image.
        image: String,
        /// The layer.
        digest: String,
        /// Why not.
        source: UnknownLayer,
    },
    /// The registry does not give a layer.
    #[error("The registry does not give the layer {digest} of {image}: push the image anew")]
    NoLayer {
        /// The image.
        image: String,
        /// The layer.
        digest: String,
        /// Why not.
        source: Box<OciDistributionError>,
    },
    /// A layer is not what it should be, or does not fit.
    #[error("The layer {digest} of {image} cannot be unpacked to {}", root.display())]
    Unpack {
        /// The image.
        image: String,
        /// The layer.
        digest: String,
        /// Where.
        root: PathBuf,
        /// Why not.
        source: UnpackError,
    },
    /// The unpacking thread has died.
    #[error("Unpacking ended without a result: report this")]
    Died(#[from] tokio::task::JoinError),
}

type Result<T> = std::result::Result<T, PullError>;

/// What of an image's configuration is needed to check it.
#[derive(Debug, Deserialize)]
struct ImageConfig {
    os: String,
    architecture: String,
    rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// The way to registries.
pub(crate) struct Registry(Client);

impl Registry {
    /// TLS everywhere but for those named in `plain_http`.
    pub(crate) fn new(
        plain_http: Vec<String>,
        https_proxy: Option<String>,
        no_proxy: Option<String>,
    ) -> Result<Self> {
        // The process has no other provider; a second call would change nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = ClientConfig {
            protocol: ClientProtocol::HttpsExcept(plain_http),
            connect_timeout: Some(CONNECT),
            read_timeout: Some(SILENCE),
            https_proxy,
            no_proxy,
            user_agent: concat!("kata-image-pull/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        Ok(Self(Client::try_from(config).map_err(|source| PullError::Client(source.into()))?))
    }

    /// Unpacks `image` into `root`; the digest of its manifest.
    pub(crate) async fn pull(&self, image: &str, root: &Path) -> Result<String> {
        let reference: Reference =
            image.parse().map_err(|source| PullError::Reference { image: image.to_owned(), source })?;
        let pulled = self.0.pull_manifest_and_config(&reference, &RegistryAuth::Anonymous).await;
        let (manifest, digest, config) = pulled
            .map_err(|source| PullError::Manifest { image: image.to_owned(), source: source.into() })?;
        for (layer, diff_id) in layers(image, &manifest, &config)? {
            self.unpack(&reference, root, (layer, diff_id)).await?;
        }
        Ok(digest)
    }

    /// Unpacks one layer while it comes.
    async fn unpack(
        &self,
        reference: &Reference,
        root: &Path,
        (descriptor, diff_id): (&OciDescriptor, String),
    ) -> Result<()> {
        let (image, digest) = (reference.to_string(), descriptor.digest.clone());
        let layer = Layer::of(&descriptor.media_type).map_err(|source| PullError::Form {
            image: image.clone(),
            digest: digest.clone(),
            source,
        })?;
        // Its end is an error if the digest is another.
        let stream = self.0.pull_blob_stream(reference, descriptor).await.map_err(|source| {
            PullError::NoLayer { image: image.clone(), digest: digest.clone(), source: source.into() }
        })?;
        let bytes = SyncIoBridge::new(StreamReader::new(stream.stream));
        let place = root.to_owned();
        let unpacked = tokio::task::spawn_blocking(move || unpack::layer(&place, bytes, layer, &diff_id));
        let root = root.to_owned();
        unpacked.await?.map_err(|source| PullError::Unpack { image, digest, root, source })
    }
}

/// The layers, lowest first, with the digest of what each unpacks to.
fn layers<'a>(
    image: &str,
    manifest: &'a OciImageManifest,
    config: &str,
) -> Result<Vec<(&'a OciDescriptor, String)>> {
    let config: ImageConfig = serde_json::from_str(config)
        .map_err(|source| PullError::Config { image: image.to_owned(), source })?;
    let ImageConfig { os, architecture, rootfs } = config;
    if os != "linux" || architecture != ARCHITECTURE {
        return Err(PullError::Platform { image: image.to_owned(), os, architecture });
    }
    let (layers, described) = (manifest.layers.len(), rootfs.diff_ids.len());
    if layers != described {
        return Err(PullError::Count { image: image.to_owned(), layers, described });
    }
    Ok(manifest.layers.iter().zip(rootfs.diff_ids).collect())
}
