//! The catalogue of data sets: what there is, where it lies, where it comes from.
//!
//! [`get`] takes an archive that lies in the data folder, else downloads one from the first source that serves it; either
//! way every file is held against its SHA-256 before the set appears under its name, by one rename.

mod download;
mod unpack;

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::dataset::hex;
use crate::sets::Files;
use crate::{Error, Kind, Result};

/// A place where the archive of a set can be had, and what must come from there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The address of the archive.
    pub url: Cow<'static, str>,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: Cow<'static, str>,
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
    /// The size of its files in bytes, unpacked where they come packed.
    pub bytes: u64,
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

/// What [`get`] tells while it works.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// An archive that lies in the data folder is tried first.
    Archive(&'a Path),
    /// A source is asked; `have` bytes of its archive are here already.
    Source {
        /// Its address.
        url: &'a str,
        /// Bytes kept from an earlier attempt.
        have: u64,
    },
    /// Bytes of the archive that are here, of all.
    Bytes {
        /// Bytes on the disk.
        done: u64,
        /// Bytes of the whole archive.
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
    /// It was unpacked.
    Fetched {
        /// The folder it is in.
        folder: PathBuf,
        /// The address or the archive it came from.
        from: String,
        /// Where an incomplete or wrong folder of the same name was moved to; nothing in it was changed.
        moved: Option<PathBuf>,
    },
}

/// All sets and where they stand. Looks at sizes only.
pub fn list(data_dir: &Path) -> Vec<Entry> {
    let entry = |&kind: &Kind| {
        let set = kind.set();
        let (bytes, state) = match &set.files {
            Some(files) => (files.members.iter().map(|member| member.size).sum(), state(files, data_dir)),
            None => (set.embedded.map_or(0, |(file, _)| file.len() as u64), State::Embedded),
        };
        Entry { kind, about: set.about, terms: set.terms, home: set.home, bytes, state }
    };
    Kind::ALL.iter().map(entry).collect()
}

fn state(files: &Files, data_dir: &Path) -> State {
    let folder = data_dir.join(files.folder);
    let has_size =
        |member: &Member| fs::metadata(folder.join(member.name)).is_ok_and(|m| m.is_file() && m.len() == member.size);
    let wrong: Vec<_> = files.members.iter().filter(|member| !has_size(member)).map(|member| member.name).collect();
    match (wrong.is_empty(), folder.exists()) {
        (true, _) => State::Present(folder),
        (false, true) => State::Incomplete(folder, wrong),
        (false, false) => State::Absent(folder),
    }
}

/// Compares every file of a set with its size and SHA-256: each file with its verdict, [`Error::Missing`],
/// [`Error::Broken`] or [`Error::Io`].
pub fn verify(kind: Kind, data_dir: &Path) -> Vec<(PathBuf, Result<()>)> {
    let set = kind.set();
    let embedded = set.embedded.iter().map(|(file, sha256)| {
        let path = PathBuf::from(format!("{} (embedded)", set.name));
        let verdict = compare(&path, set.name, &hex(&Sha256::digest(file)), sha256);
        (path, verdict)
    });
    let files = set.files.iter().flat_map(|files| verify_files(set.name, files, data_dir));
    embedded.chain(files).collect()
}

fn verify_files(set: &'static str, files: &Files, data_dir: &Path) -> Vec<(PathBuf, Result<()>)> {
    let verdict = |member: &Member| {
        let path = data_dir.join(files.folder).join(member.name);
        let verdict = verify_file(set, &path, member);
        (path, verdict)
    };
    files.members.iter().map(verdict).collect()
}

fn verify_file(set: &'static str, path: &Path, member: &Member) -> Result<()> {
    let metadata = fs::metadata(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Error::Missing { set, path: path.to_owned(), remedy: fetch_remedy(set) },
        _ => Error::io("read", path, e),
    })?;
    if !metadata.is_file() || metadata.len() != member.size {
        let problem = format!("it has {} bytes, expected {}", metadata.len(), member.size);
        return Err(Error::Broken { path: path.to_owned(), record: None, problem, remedy: fetch_remedy(set) });
    }
    compare(path, set, &sha256_of(path)?, member.sha256)
}

fn compare(path: &Path, set: &str, got: &str, expected: &str) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    let problem = format!("its SHA-256 is {got}, expected {expected}");
    Err(Error::Broken { path: path.to_owned(), record: None, problem, remedy: fetch_remedy(set) })
}

fn fetch_remedy(set: &str) -> String {
    format!("`gatefold data get {set}` fetches it")
}

/// SHA-256 of a file, in hexadecimal.
fn sha256_of(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 17]);
    loop {
        match file.read(&mut buffer).map_err(|e| Error::io("read", path, e))? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Brings a set into `data_dir`, from the places where it is published. `progress` is told what happens.
///
/// An archive that somebody placed in `data_dir` under its official name is used before anything is downloaded. A download
/// that breaks off goes on where it stopped, now or at the next call.
///
/// # Errors
/// [`Error::Download`] if no place serves it, with the reason of each and where to place the archive by hand;
/// [`Error::Io`] if something cannot be written.
pub fn get(kind: Kind, data_dir: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Got> {
    let sources = kind.set().files.as_ref().map_or(&[][..], |files| files.sources);
    get_from(kind, sources, data_dir, progress)
}

/// As [`get`], from other places. Whatever they serve, the unpacked files must be the official ones.
///
/// # Errors
/// As [`get`].
pub fn get_from(
    kind: Kind,
    sources: &[Source],
    data_dir: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Got> {
    match &kind.set().files {
        None => Ok(Got::Embedded),
        Some(files) => get_files(kind.name(), files, sources, data_dir, progress),
    }
}

fn get_files(
    set: &'static str,
    files: &Files,
    sources: &[Source],
    data_dir: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Got> {
    let folder = data_dir.join(files.folder);
    if verify_files(set, files, data_dir).iter().all(|(_, verdict)| verdict.is_ok()) {
        return Ok(Got::Present(folder));
    }
    fs::create_dir_all(data_dir).map_err(|e| Error::io("create", data_dir, e))?;
    let mut failures = Vec::new();
    let mut failed = |from: String, why: String, progress: &mut dyn FnMut(Progress<'_>)| {
        progress(Progress::Failed { from: &from, why: &why });
        failures.push(format!("{from}: {why}"));
    };

    let by_hand = data_dir.join(files.archive);
    if by_hand.is_file() {
        let from = by_hand.display().to_string();
        progress(Progress::Archive(&by_hand));
        progress(Progress::Unpacking);
        match unpack::install(&by_hand, files, data_dir) {
            Ok(moved) => return Ok(Got::Fetched { folder, from, moved }),
            Err(Failure::Local(error)) => return Err(error),
            Err(Failure::There(why)) => failed(from, why, progress),
        }
    }
    for source in sources {
        // Named by the contents: sources of one archive go on with each other's part, others never mix.
        let contents: String = source.sha256.chars().filter(char::is_ascii_hexdigit).take(8).collect();
        let part = data_dir.join(format!(".{}.{contents}.part", files.archive));
        let fetched = download::download(source, &part, progress).and_then(|()| {
            progress(Progress::Unpacking);
            unpack::install(&part, files, data_dir)
        });
        match fetched {
            Ok(moved) => {
                // The set is in place: a part that stays behind only takes room.
                let _ = fs::remove_file(&part);
                return Ok(Got::Fetched { folder, from: source.url.to_string(), moved });
            }
            Err(Failure::Local(error)) => return Err(error),
            Err(Failure::There(why)) => failed(source.url.to_string(), why, progress),
        }
    }
    let remedy = format!(
        "place the archive as `{}` and run `gatefold data get {set} --data-dir {}` again",
        by_hand.display(),
        data_dir.display()
    );
    Err(Error::Download { set, failures, remedy })
}

/// Why an archive did not become a set.
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
