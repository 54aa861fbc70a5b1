//! The forms in which layers come (OCI image specification, "Image Layer Filesystem Changeset").

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    /// Not at all.
    Plain,
    /// `gzip`.
    Gzip,
    /// `zstd`.
    Zstd,
}

/// A layer that is no archive this program reads.
#[derive(Debug, thiserror::Error)]
#[error(
    "The type of the layer is {media_type:?}: tar archives are read, plain or compressed with gzip or zstd, and not encrypted; \
     convert the image"
)]
pub(crate) struct UnknownLayer {
    media_type: String,
}

impl Layer {
    /// By its media type, OCI's or Docker's.
    pub(crate) fn of(media_type: &str) -> Result<Self, UnknownLayer> {
        let archive = [
            "application/vnd.oci.image.layer.v1.",
            "application/vnd.oci.image.layer.nondistributable.v1.",
            "application/vnd.docker.image.rootfs.diff.",
            "application/vnd.docker.image.rootfs.foreign.diff.",
        ]
        .iter()
        .find_map(|family| media_type.strip_prefix(family));
        match archive {
            Some("tar") => Ok(Self::Plain),
            Some("tar+gzip" | "tar.gzip") => Ok(Self::Gzip),
            Some("tar+zstd" | "tar.zstd") => Ok(Self::Zstd),
            _ => Err(UnknownLayer { media_type: media_type.to_owned() }),
        }
    }

    /// The archive in `bytes`. Read to its end, it has read `bytes` to theirs.
    pub(crate) fn archive<'a>(self, bytes: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        let bytes = BufReader::with_capacity(64 * 1024, bytes);
        Ok(match self {
            Self::Plain => Box::new(bytes),
            Self::Gzip => Box::new(MultiGzDecoder::new(bytes)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(bytes)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn both_families_of_types_are_known_and_others_are_not() {
        let known = [
            ("application/vnd.oci.image.layer.v1.tar", Layer::Plain),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Layer::Zstd),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Layer::Gzip),
        ];
        for (media_type, layer) in known {
            assert_eq!(Layer::of(media_type).unwrap(), layer);
        }
        for media_type in ["", "application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "text/plain"] {
            let refused = Layer::of(media_type).unwrap_err().to_string();
            assert!(refused.contains(&format!("{media_type:?}")), "{refused}");
        }
    }

    #[test]
    fn what_follows_in_further_parts_is_read_too() {
        let gzip = |text: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = |text: &[u8]| zstd::encode_all(text, 1).unwrap();
        for (layer, parts) in [
            (Layer::Plain, [b"ab".to_vec(), b"cd".to_vec()]),
            (Layer::Gzip, [gzip(b"ab"), gzip(b"cd")]),
            (Layer::Zstd, [zstd(b"ab"), zstd(b"cd")]),
        ] {
            let (bytes, mut text) = (parts.concat(), String::new());
            layer.archive(&bytes[..]).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "abcd", "{layer:?}");
        }
    }
}
