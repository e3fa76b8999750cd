//! The folder of a set: its files, opened with care, and the errors that name them.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::{Error, Result, SetOptions};

/// Deflate makes at most so many bytes of one (RFC 1951: a match of 258 bytes from two bits).
pub(super) const MAX_RATIO: u64 = 1032;

/// Where the files of one set lie.
pub(super) struct Place<'a> {
    pub set: &'static str,
    pub folder: PathBuf,
    data_dir: &'a Path,
    remedy: String,
}

impl<'a> Place<'a> {
    /// The folder that the options name, else the one with the `usual` name; `remedy` is what helps where a file is missing or
    /// broken.
    pub(super) fn new(
        set: &'static str,
        data_dir: &'a Path,
        usual: &str,
        options: &SetOptions,
        remedy: String,
    ) -> Self {
        let folder = match &options.folder {
            Some(folder) => data_dir.join(folder),
            None => data_dir.join(usual),
        };
        Place { set, folder, data_dir, remedy }
    }

    /// The folder of a set that `data get` fetches.
    pub(super) fn fetched(set: &'static str, data_dir: &'a Path, usual: &str, options: &SetOptions) -> Self {
        let remedy = format!("`gatefold data get {set} --data-dir {}` fetches it", data_dir.display());
        Place::new(set, data_dir, usual, options, remedy)
    }

    /// The path of a file of the set.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A regular file of the set and its size.
    pub(super) fn open(&self, path: &Path) -> Result<(File, u64)> {
        // Asked first: opening a pipe would wait for a writer.
        let metadata = std::fs::metadata(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => self.missing(path),
            _ => Error::io("read", path, e),
        })?;
        if !metadata.is_file() {
            return Err(self.broken(path, None, "this is no regular file"));
        }
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        Ok((file, metadata.len()))
    }

    fn missing(&self, path: &Path) -> Error {
        let usual = self.folder.strip_prefix(self.data_dir).unwrap_or(&self.folder);
        let is_inside = path.file_name().is_some_and(|name| self.data_dir.join(name).is_file());
        let remedy = match self.data_dir.ancestors().nth(usual.components().count()) {
            Some(above) if is_inside && usual.components().next().is_some() && self.data_dir.ends_with(usual) => {
                format!(
                    "the data folder is the one that contains `{}`: give `{}`",
                    usual.display(),
                    if above.as_os_str().is_empty() { Path::new(".") } else { above }.display()
                )
            }
            _ => self.remedy.clone(),
        };
        Error::Missing { set: self.set, path: path.to_owned(), remedy }
    }

    /// A file that does not hold what it should.
    pub(super) fn broken(&self, path: &Path, record: Option<usize>, problem: impl Into<String>) -> Error {
        Error::Broken { path: path.to_owned(), record, problem: problem.into(), remedy: self.remedy.clone() }
    }

    /// What reading a file met: the system's own errors stay what they are, everything else is the file's fault.
    pub(super) fn unreadable(&self, path: &Path, error: io::Error) -> Error {
        if error.raw_os_error().is_some() {
            return Error::io("read", path, error);
        }
        let problem = match error.kind() {
            io::ErrorKind::UnexpectedEof => format!("the file is cut off ({error})"),
            _ => error.to_string(),
        };
        self.broken(path, None, problem)
    }
}

/// An error in the contents of a file, in words.
pub(super) fn invalid(problem: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.into())
}
