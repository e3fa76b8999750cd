//! Comparing files with their checksums. Where a publisher gives none for a file, the one it had when its archive was unpacked
//! is kept beside it, in `SHA256SUMS`, in the form that `sha256sum -c` reads.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Proof;
use super::supply::{Files, Member};
use crate::dataset::hex;
use crate::{Error, Result};

/// The file of the checksums that were kept.
pub(super) const KEPT: &str = "SHA256SUMS";
/// Bytes of it that are read.
const MAX_KEPT: u64 = 1 << 20;

/// Each file of a set that lies in `data_dir`, with its verdict; optional files where they are there.
pub(super) fn verify_files(set: &'static str, files: &Files, data_dir: &Path) -> Vec<(PathBuf, Result<Proof>)> {
    let folder = data_dir.join(files.folder);
    let required = files.expected(false);
    let kept = kept(&folder);
    let wanted = files
        .expected(true)
        .into_iter()
        .filter(|member| required.contains(member) || folder.join(member.name).exists());
    let verdict = |member: Member| {
        let path = folder.join(member.name);
        let verdict = verify_file(set, &path, &member, kept.get(member.name).map(String::as_str));
        (path, verdict)
    };
    wanted.map(verdict).collect()
}

pub(super) fn verify_file(set: &'static str, path: &Path, member: &Member, kept: Option<&str>) -> Result<Proof> {
    let metadata = fs::metadata(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Error::Missing { set, path: path.to_owned(), remedy: fetch_remedy(set) },
        _ => Error::io("read", path, e),
    })?;
    let broken = |problem| Error::Broken { path: path.to_owned(), record: None, problem, remedy: fetch_remedy(set) };
    if !metadata.is_file() {
        return Err(broken("this is no regular file".into()));
    }
    if let Some(size) = member.size
        && metadata.len() != size
    {
        return Err(broken(format!("it has {} bytes, expected {size}", metadata.len())));
    }
    let (expected, proof) = match (member.sha256, kept) {
        (Some(published), _) => (published, Proof::Published),
        (None, Some(kept)) => (kept, Proof::Kept),
        (None, None) => return Ok(Proof::Unknown),
    };
    compare(path, set, &sha256_of(path)?, expected)?;
    Ok(proof)
}

pub(super) fn compare(path: &Path, set: &str, got: &str, expected: &str) -> Result<()> {
    if got.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    let problem = format!("its SHA-256 is {got}, expected {expected}");
    Err(Error::Broken { path: path.to_owned(), record: None, problem, remedy: fetch_remedy(set) })
}

fn fetch_remedy(set: &str) -> String {
    format!("`gatefold data get {set}` fetches it")
}

/// SHA-256 of a file, in hexadecimal.
pub(super) fn sha256_of(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 17]);
    loop {
        match file.read(&mut buffer).map_err(|e| Error::io("read", path, e))? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// The checksums that were kept in a folder, by file name.
fn kept(folder: &Path) -> BTreeMap<String, String> {
    let mut text = String::new();
    let read = File::open(folder.join(KEPT)).and_then(|file| file.take(MAX_KEPT).read_to_string(&mut text));
    if read.is_err() {
        return BTreeMap::new();
    }
    let line = |line: &str| line.split_once("  ").map(|(sum, name)| (name.to_owned(), sum.to_owned()));
    text.lines().filter_map(line).collect()
}

/// The text of [`KEPT`] for files and their checksums.
pub(super) fn lines(sums: &[(&str, String)]) -> String {
    sums.iter().map(|(name, sum)| format!("{sum}  {name}\n")).collect()
}
