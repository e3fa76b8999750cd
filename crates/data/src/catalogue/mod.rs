//! The catalogue of data sets: what there is, where it lies, where it comes from.
//!
//! [`get`] takes an archive that lies in the data folder, else downloads one from the first source that serves it. Every
//! download is held against its SHA-256, and so is every file of an archive where its checksum is published; a set's folder
//! appears under its name, whole, by one rename, and a file that is no archive likewise.

mod download;
mod fetch;
mod sums;
mod supply;
mod unpack;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::dataset::hex;
use crate::{Error, Kind, Result};

pub(crate) use supply::{ByHand, Download, Files, Form, Supply, Verdicts};
pub use supply::{Member, Source};

/// A set and where it stands on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which set.
    pub kind: Kind,
    /// What its images are and how many there are.
    pub about: &'static str,
    /// Under which terms it may be used.
    pub terms: &'static str,
    /// Its page on the web.
    pub home: &'static str,
    /// The size of its files in bytes, unpacked where they come packed and that is known; 0 of a set that its user places.
    pub bytes: u64,
    /// Of a set that cannot be fetched: how to place it.
    pub by_hand: Option<&'static str>,
    /// Whether it is here.
    pub state: State,
}

/// Whether a set is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Part of the program.
    Embedded,
    /// Every file is in this folder and has its size. Only [`verify`] knows whether the contents are right.
    Present(PathBuf),
    /// The folder is there; these files are missing or have another size.
    Incomplete(PathBuf, Vec<&'static str>),
    /// Nothing is in this folder.
    Absent(PathBuf),
}

/// Why a file is taken to be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// It has the SHA-256 that is published.
    Published,
    /// No checksum is published for it; it has the one that it had when its archive, whose checksum was right, was unpacked.
    Kept,
    /// No checksum is known; it has the right size, where that is known.
    Unknown,
    /// It is the user's, and it can be read.
    Readable,
}

/// What [`get`] tells while it works.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// An archive that lies in the data folder is tried first.
    Archive(&'a Path),
    /// A source is asked; `have` bytes of its file are here already.
    Source {
        /// Its address.
        url: &'a str,
        /// Bytes kept from an earlier attempt.
        have: u64,
    },
    /// Bytes of the file that are here, of all.
    Bytes {
        /// Bytes on the disk.
        done: u64,
        /// Bytes of the whole file.
        total: u64,
    },
    /// The archive is whole; it is unpacked and its files are checked.
    Unpacking,
    /// An archive or a source did not serve; the next is tried.
    Failed {
        /// The path or the address.
        from: &'a str,
        /// The reason.
        why: &'a str,
    },
}

/// How [`get`] came to the set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    /// It is part of the program.
    Embedded,
    /// It was in this folder already, whole and right.
    Present(PathBuf),
    /// It was fetched.
    Fetched {
        /// The folder it is in.
        folder: PathBuf,
        /// The addresses or the archive it came from.
        from: Vec<String>,
        /// Where an incomplete or wrong folder, or files, of the same name were moved to; nothing in them was changed.
        moved: Vec<PathBuf>,
    },
}

/// All sets and where they stand. Looks at sizes only.
pub fn list(data_dir: &Path) -> Vec<Entry> {
    let entry = |&kind: &Kind| {
        let set = kind.set();
        let (bytes, by_hand, state) = match &set.supply {
            Supply::Embedded { file, .. } => (file.len() as u64, None, State::Embedded),
            Supply::Download(files) => (files.bytes(), None, state(files, data_dir)),
            Supply::ByHand(by_hand) => (0, Some(by_hand.how), (by_hand.state)(data_dir)),
        };
        Entry { kind, about: set.about, terms: set.terms, home: set.home, bytes, by_hand, state }
    };
    Kind::ALL.iter().map(entry).collect()
}

fn state(files: &Files, data_dir: &Path) -> State {
    let folder = data_dir.join(files.folder);
    let has_size = |member: &Member| {
        let metadata = fs::metadata(folder.join(member.name));
        metadata.is_ok_and(|m| m.is_file() && member.size.is_none_or(|size| m.len() == size))
    };
    let expected = files.expected(false);
    let wrong: Vec<_> = expected.iter().filter(|member| !has_size(member)).map(|member| member.name).collect();
    match (wrong.is_empty(), folder.exists()) {
        (true, _) => State::Present(folder),
        (false, true) => State::Incomplete(folder, wrong),
        (false, false) => State::Absent(folder),
    }
}

/// Compares every file of a set with its size and SHA-256; of a set that its user places, reads every file. Each file with its
/// verdict: [`Error::Missing`], [`Error::Broken`] or [`Error::Io`].
pub fn verify(kind: Kind, data_dir: &Path) -> Vec<(PathBuf, Result<Proof>)> {
    let set = kind.set();
    match &set.supply {
        Supply::Embedded { file, sha256 } => {
            let path = PathBuf::from(format!("{} (embedded)", set.name));
            let verdict = sums::compare(&path, set.name, &hex(&Sha256::digest(file)), sha256);
            vec![(path, verdict.map(|()| Proof::Published))]
        }
        Supply::Download(files) => sums::verify_files(set.name, files, data_dir),
        Supply::ByHand(by_hand) => {
            let verdicts = (by_hand.verify)(data_dir).into_iter();
            verdicts.map(|(path, verdict)| (path, verdict.map(|()| Proof::Readable))).collect()
        }
    }
}

/// Brings a set into `data_dir`, from the places where it is published; with `optional`, also those of its files that it is
/// whole without. `progress` is told what happens.
///
/// An archive that somebody placed in `data_dir` under its official name is used before anything is downloaded. A download
/// that breaks off goes on where it stopped, now or at the next call.
///
/// # Errors
/// [`Error::Download`] if no place serves it, with the reason of each and where to place the archive by hand;
/// [`Error::NotServed`] of a set that cannot be fetched; [`Error::Io`] if something cannot be written.
pub fn get(kind: Kind, data_dir: &Path, optional: bool, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Got> {
    match &kind.set().supply {
        Supply::Embedded { .. } => Ok(Got::Embedded),
        Supply::Download(files) => fetch::get_files(kind.name(), files, data_dir, optional, progress),
        Supply::ByHand(by_hand) => match (by_hand.state)(data_dir) {
            State::Present(folder) => Ok(Got::Present(folder)),
            _ => Err(Error::NotServed { set: kind.name(), how: by_hand.how }),
        },
    }
}

/// Why a download did not become a set.
enum Failure {
    /// The source or the archive is at fault: another one may serve.
    There(String),
    /// This machine is at fault: no other source would help.
    Local(Error),
}

impl Failure {
    fn local(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
        move |e| Failure::Local(Error::io(action, path, e))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Local(error)
    }
}

#[cfg(test)]
mod server;
#[cfg(test)]
mod tests;
