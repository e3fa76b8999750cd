//! What can go wrong with data: each message says what failed and where, why, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// The result of every fallible operation on data.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an error is about; a program derives its exit status from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The caller asked for something that does not exist or has no meaning.
    Usage,
    /// A data set is missing, incomplete or broken.
    Data,
    /// A file or a network connection failed.
    Io,
}

/// Something failed while data was found, fetched, read or served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No data set has this name.
    #[error("unknown data set `{name}`: did you mean `{nearest}`? There are {known}")]
    UnknownSet {
        /// The name asked for.
        name: String,
        /// The known name nearest to it.
        nearest: &'static str,
        /// All known names.
        known: String,
    },
    /// An option or an argument has no meaning.
    #[error("{what}: {why}")]
    Invalid {
        /// The option or argument.
        what: &'static str,
        /// What is wrong with it, with the numbers.
        why: String,
    },
    /// A file of a set is not there.
    #[error("{set}: `{}` does not exist; {remedy}", path.display())]
    Missing {
        /// The data set.
        set: &'static str,
        /// The file that was looked for.
        path: PathBuf,
        /// What to do.
        remedy: String,
    },
    /// A file is there and does not hold what it should.
    #[error("{}: {problem}; {remedy}", place(path, *record))]
    Broken {
        /// The file.
        path: PathBuf,
        /// The record in the file, counted from 0.
        record: Option<usize>,
        /// What was expected and what came.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// A file or folder could not be read or written.
    #[error("cannot {action} `{}`: {source}{}", path.display(), remedy.as_deref().map(|r| format!("; {r}")).unwrap_or_default())]
    Io {
        /// What was tried: `read`, `create`, …
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The cause.
        source: io::Error,
        /// What to do, where that is known.
        remedy: Option<String>,
    },
    /// No place served the archive of a set.
    #[error("{set} could not be fetched:{}\n{remedy}", failures.iter().map(|failure| format!("\n  {failure}")).collect::<String>())]
    Download {
        /// The data set.
        set: &'static str,
        /// Each place with its reason.
        failures: Vec<String>,
        /// What to do.
        remedy: String,
    },
    /// A set that no server gives away.
    #[error("{set} cannot be fetched: {how}")]
    NotServed {
        /// The data set.
        set: &'static str,
        /// How its user places it.
        how: &'static str,
    },
    /// The background thread of a loader panicked: a bug, reported where its batch was awaited.
    #[error("the loader's thread panicked: {0}")]
    Panicked(String),
    /// The tensor of a batch could not be made.
    #[error(transparent)]
    Tensor(#[from] gatefold_tensor::Error),
}

impl Error {
    /// What the error is about.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::UnknownSet { .. } | Error::Invalid { .. } => ErrorKind::Usage,
            Error::Missing { .. }
            | Error::Broken { .. }
            | Error::NotServed { .. }
            | Error::Panicked(_)
            | Error::Tensor(_) => ErrorKind::Data,
            Error::Io { .. } | Error::Download { .. } => ErrorKind::Io,
        }
    }

    pub(crate) fn invalid(what: &'static str, why: impl Into<String>) -> Self {
        Error::Invalid { what, why: why.into() }
    }

    /// A file system call that failed. Where a part of the path is a file and not a folder, the message names that part.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        // To the folder that was to be created, the path itself may be in the way.
        let above = usize::from(source.kind() != io::ErrorKind::AlreadyExists);
        let remedy = path
            .ancestors()
            .skip(above)
            .find(|part| part.is_file())
            .map(|part| format!("`{}` is a file, not a folder: name a folder instead", part.display()));
        Error::Io { action, path: path.to_owned(), source, remedy }
    }
}

fn place(path: &Path, record: Option<usize>) -> String {
    match record {
        Some(record) => format!("`{}`, record {record}", path.display()),
        None => format!("`{}`", path.display()),
    }
}
