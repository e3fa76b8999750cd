//! The catalogue of data sets: what there is, where it lies, where it comes from.

/// A place where the archive of a set can be had, and what must come from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// The address of the archive.
    pub url: &'static str,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: &'static str,
}

/// A file of an unpacked set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The name inside the set's folder.
    pub name: &'static str,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: &'static str,
}
