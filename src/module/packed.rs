//! The objects inside this binary, which `build.rs` packed into one LZ4 block for each table:
//! objects of modules have most of their BTF in common.

use std::sync::OnceLock;

use anyhow::Result;
use anyhow::anyhow;

use super::Family;

/// Objects that are unpacked together, when the first of them is asked for.
pub(super) struct Packed {
    /// LZ4 block (no frame) of all of them, one behind the other.
    pub(super) block: &'static [u8],
    /// Bytes of what is in it.
    pub(super) len: usize,
    /// Name, family, and where in it the object begins and how long it is.
    pub(super) objects: &'static [(&'static str, Family, usize, usize)],
    /// What was in it; an error is kept as well.
    pub(super) unpacked: OnceLock<Result<Vec<u8>, String>>,
}

impl Packed {
    /// Name, family and bytes of each object.
    ///
    /// # Errors
    ///
    /// The binary was built wrong, or is damaged.
    pub(super) fn objects(
        &'static self,
    ) -> Result<impl Iterator<Item = (&'static str, Family, &'static [u8])>> {
        let unpack = || {
            let unpacked = lz4_flex::block::decompress(self.block, self.len);
            let unpacked = unpacked.map_err(|e| e.to_string())?;
            let whole = self.objects.iter().all(|o| o.2 + o.3 <= unpacked.len());
            whole
                .then_some(unpacked)
                .ok_or_else(|| "some are missing".to_owned())
        };
        let unpacked = self.unpacked.get_or_init(unpack).as_ref();
        let bytes = unpacked.map_err(|e| anyhow!("the programs inside this binary: {e}"))?;
        let object = |(name, family, at, len): &(_, _, usize, usize)| {
            (*name, *family, &bytes[*at..*at + *len])
        };
        Ok(self.objects.iter().map(object))
    }
}
