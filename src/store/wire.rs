//! Bounds-checked reading of fixed-width big-endian fields.

/// Input ended before the field, or a length points past the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the bytes end before the field at offset {at}")]
pub struct Short {
    /// Offset of the field that does not fit.
    pub at: usize,
}

/// A position in a byte slice. Every read checks its bounds.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from the start.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    /// Bytes not read yet.
    pub fn rest(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Offset of the next field.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Short> {
        let end =
            self.at.checked_add(n).filter(|end| *end <= self.bytes.len()).ok_or(Short { at: self.at })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let at = self.at;
        self.take(N)?.try_into().map_err(|_| Short { at })
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Short> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self) -> Result<u16, Short> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self) -> Result<u32, Short> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self) -> Result<u64, Short> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A `u32` length and that many bytes.
    pub fn bytes32(&mut self) -> Result<&'a [u8], Short> {
        let len = self.u32()?;
        self.take(len as usize)
    }

    /// A `u16` length and that many bytes.
    pub fn bytes16(&mut self) -> Result<&'a [u8], Short> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// A `u16` length and that many bytes of UTF-8.
    pub fn text16(&mut self) -> Result<&'a str, Short> {
        let at = self.at;
        std::str::from_utf8(self.bytes16()?).map_err(|_| Short { at })
    }
}

/// Appends a `u32` length and `bytes`. Panics over 4 GiB, which every limit upstream excludes.
pub fn put_bytes32(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(
        &u32::try_from(bytes.len()).expect("lengths are bounded far below 4 GiB").to_be_bytes(),
    );
    out.extend_from_slice(bytes);
}

/// Appends a `u16` length and `bytes`. Panics over 64 KiB, which every limit upstream excludes.
pub fn put_bytes16(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(
        &u16::try_from(bytes.len()).expect("names are bounded far below 64 KiB").to_be_bytes(),
    );
    out.extend_from_slice(bytes);
}
