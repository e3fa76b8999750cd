//! What can go wrong in a run. A message says what failed and where; the cause is its `source`, and
//! [`remedy`](Error::remedy) says what to do, as a command where there is one.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use gatefold_models::FileError;

/// The result of everything fallible in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Something failed while a run was prepared, trained, stored or checked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller asked for something without meaning.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do instead.
        remedy: Option<String>,
    },
    /// Data could not be found, read or served.
    #[error(transparent)]
    Data(#[from] gatefold_data::Error),
    /// A key of the configuration, or the text of its file.
    #[error("{place}: {message}")]
    Config {
        /// Where the key or the text comes from: `the configuration file`, `--set conv.m=zwei`.
        place: String,
        /// What is wrong, and what was expected.
        message: String,
        /// What to do instead.
        remedy: Option<String>,
    },
    /// A checkpoint or a run directory does not hold what it should.
    #[error("{}: {problem}", path.display())]
    Checkpoint {
        /// The file or the directory.
        path: PathBuf,
        /// What was expected and what came.
        problem: String,
        /// What to do.
        remedy: Option<String>,
    },
    /// A model file could not be read or written.
    #[error(transparent)]
    Model(#[from] FileError),
    /// The loss or a value behind a layer is no longer finite.
    #[error("training diverged in epoch {epoch}, step {step}: {what} is not finite")]
    Diverged {
        /// The epoch, counted from 0.
        epoch: usize,
        /// The optimiser step, counted from 0 over the whole run.
        step: u64,
        /// What was the first not to be finite.
        what: NotFinite,
    },
    /// The images of a run are not those that it began with.
    #[error(
        "`{}` began with other {part} images: their checksum was {recorded}, that of those in `{}` is {found}",
        run.display(),
        data_dir.display()
    )]
    DataChanged {
        /// `training` or `test`.
        part: &'static str,
        /// The checksum in `run.json`.
        recorded: String,
        /// That of the images read now.
        found: String,
        /// Where they were read.
        data_dir: PathBuf,
        /// The directory of the run.
        run: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried: `create`, `write`, …
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
        /// What to do, where that is known.
        remedy: Option<String>,
    },
    /// The user stopped the run; its checkpoint is written.
    #[error("interrupted; the checkpoint is written")]
    Interrupted {
        /// The run directory.
        run: PathBuf,
    },
    /// The network does not fit its options or its input.
    #[error(transparent)]
    Tensor(#[from] gatefold_tensor::Error),
}

/// A value that is a NaN or an infinity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotFinite {
    /// The loss, with every layer's output finite.
    Loss,
    /// The output of the layer of this path.
    Output(String),
    /// The parameter of this key.
    Parameter(String),
    /// The running statistic of this key.
    Statistic(String),
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotFinite::Loss => f.write_str("the loss"),
            NotFinite::Output(path) => write!(f, "the output of layer `{path}`"),
            NotFinite::Parameter(key) => write!(f, "the parameter `{key}`"),
            NotFinite::Statistic(key) => write!(f, "the statistic `{key}`"),
        }
    }
}

/// The exit status of a program that ends with an error of data: 2 usage, 3 data, 6 input or output.
pub fn data_exit_status(error: &gatefold_data::Error) -> u8 {
    match error.kind() {
        gatefold_data::ErrorKind::Usage => 2,
        gatefold_data::ErrorKind::Data => 3,
        gatefold_data::ErrorKind::Io => 6,
    }
}

/// The exit status of a program that ends with an error of a model file: 4 the file, 6 input or output.
pub fn file_exit_status(error: &FileError) -> u8 {
    match error {
        FileError::Io { .. } => 6,
        _ => 4,
    }
}

/// What to do about an error of a model file, if that is known.
pub fn file_remedy(error: &FileError) -> Option<String> {
    let (path, source) = match error {
        FileError::Io { path, source } => (path, Some(source)),
        FileError::Format { path, .. } => (path, None),
        FileError::Misfit { .. } => {
            let form = "the size of its images chooses the form of the network: give it with `--input CxHxW`";
            return Some(format!("{form}, or name another file"));
        }
        _ => return None,
    };
    let run = path.parent().filter(|folder| folder.ends_with("checkpoints")).and_then(Path::parent);
    match source.map(io::Error::kind) {
        Some(kind) => io_remedy(path, kind),
        None => Some(match run {
            Some(run) if path.ends_with("last.safetensors") => format!(
                "`{}` may be whole: copy it over this file and go on from the best epoch with `gatefold resume {}`",
                path.with_file_name("best.safetensors").display(),
                run.display()
            ),
            _ => "name another file, or write this one again with the program that made it".to_owned(),
        }),
    }
}

/// What to do where the file system refused.
fn io_remedy(path: &Path, kind: io::ErrorKind) -> Option<String> {
    use io::ErrorKind::{FileTooLarge, NotFound, QuotaExceeded, StorageFull};
    if let Some(file) = path.ancestors().skip(1).find(|part| part.is_file()) {
        return Some(format!("`{}` is a file: name a folder instead", file.display()));
    }
    match kind {
        StorageFull | QuotaExceeded | FileTooLarge => {
            Some("make room there; `gatefold resume RUN` goes on from the last checkpoint of a run".to_owned())
        }
        NotFound => Some("look at the path: it names nothing that is there".to_owned()),
        _ => None,
    }
}

impl Error {
    /// The exit status of a program that ends with this error: 2 usage, 3 data, 4 configuration or checkpoint,
    /// 5 diverged, 6 input or output, 130 interrupted.
    pub fn exit_status(&self) -> u8 {
        match self {
            Error::Usage { .. } => 2,
            Error::Data(error) => data_exit_status(error),
            Error::DataChanged { .. } => 3,
            Error::Config { .. } | Error::Checkpoint { .. } | Error::Tensor(_) => 4,
            Error::Model(error) => file_exit_status(error),
            Error::Diverged { .. } => 5,
            Error::Io { .. } => 6,
            Error::Interrupted { .. } => 130,
        }
    }

    /// What to do about it, if that is known and not part of the message.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Error::Usage { remedy, .. }
            | Error::Config { remedy, .. }
            | Error::Checkpoint { remedy, .. }
            | Error::Io { remedy, .. } => remedy.clone(),
            Error::Diverged { .. } => {
                Some("train with a smaller learning rate or a warm-up: `--lr 0.01`, `--set warmup-epochs=5`".to_owned())
            }
            Error::Interrupted { run } => Some(format!("go on with `gatefold resume {}`", run.display())),
            Error::DataChanged { run, .. } => Some(format!(
                "give the folder of the images that it began with by `--data-dir`, or begin anew with \
                 `gatefold train --config {} --out DIR`",
                run.join("config.toml").display()
            )),
            Error::Model(error) => file_remedy(error),
            Error::Data(_) | Error::Tensor(_) => None,
        }
    }

    /// A file system call that failed.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let remedy = io_remedy(path, source.kind());
        Error::Io { action, path: path.to_owned(), source, remedy }
    }

    /// A checkpoint or a run directory that does not hold what it should.
    pub(crate) fn checkpoint(path: &Path, problem: impl Into<String>) -> Self {
        Error::Checkpoint { path: path.to_owned(), problem: problem.into(), remedy: None }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn every_kind_has_its_exit_status() {
        let path = PathBuf::from("x");
        let io = || io::Error::other("full");
        let cases = [
            (Error::Usage { message: "no".into(), remedy: None }, 2),
            (Error::Config { place: "lr".into(), message: "no".into(), remedy: None }, 4),
            (Error::checkpoint(&path, "short"), 4),
            (Error::Model(FileError::Io { path: path.clone(), source: io() }), 6),
            (Error::Model(FileError::Format { path: path.clone(), message: "no".into() }), 4),
            (Error::Diverged { epoch: 1, step: 2, what: NotFinite::Loss }, 5),
            (Error::io("write", &path, io()), 6),
            (Error::Interrupted { run: path.clone() }, 130),
            (Error::Tensor(gatefold_tensor::Error::invalid("conv2d", "no")), 4),
            (Error::Data("digit".parse::<gatefold_data::Kind>().unwrap_err()), 2),
        ];
        for (error, status) in cases {
            assert_eq!(error.exit_status(), status, "{error}");
        }
        let missing = gatefold_data::load(gatefold_data::Kind::Cifar10, Path::new("/nowhere"), None).unwrap_err();
        assert_eq!(Error::from(missing).exit_status(), 3);
        let broken = gatefold_data::Error::Io { action: "read", path, source: io(), remedy: None };
        assert_eq!(Error::from(broken).exit_status(), 6);
    }

    #[test]
    fn messages_name_the_place_and_keep_the_cause_and_the_remedy_apart() {
        for (what, name) in [
            (NotFinite::Loss, "the loss"),
            (NotFinite::Output("blocks.1.pointwise".into()), "the output of layer `blocks.1.pointwise`"),
            (NotFinite::Parameter("stem.conv.weight".into()), "the parameter `stem.conv.weight`"),
            (NotFinite::Statistic("stem.bn.running_var".into()), "the statistic `stem.bn.running_var`"),
        ] {
            let error = Error::Diverged { epoch: 3, step: 120, what };
            assert_eq!(error.to_string(), format!("training diverged in epoch 3, step 120: {name} is not finite"));
            assert!(error.remedy().unwrap().contains("--lr"));
        }

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let path = file.join("below");
        let error = Error::io("create", &path, std::fs::create_dir(&path).unwrap_err());
        assert_eq!(error.to_string(), format!("cannot create `{}`", path.display()));
        assert!(error.source().is_some());
        assert_eq!(error.remedy().unwrap(), format!("`{}` is a file: name a folder instead", file.display()));

        let file = |path: &str| FileError::Format { path: path.into(), message: "no".into() };
        let error = Error::Model(file("runs/a/checkpoints/last.safetensors"));
        assert!(error.remedy().unwrap().ends_with("`gatefold resume runs/a`"), "{:?}", error.remedy());
        assert!(Error::Model(file("x.safetensors")).remedy().unwrap().contains("another file"));
        let misfit = FileError::Misfit { path: "x".into(), message: "no".into() };
        assert!(Error::Model(misfit).remedy().unwrap().contains("`--input CxHxW`"));
        let full = io::ErrorKind::StorageFull.into();
        assert!(Error::Model(FileError::Io { path: "x".into(), source: full }).remedy().unwrap().contains("make room"));

        let error = Error::Interrupted { run: "runs/a".into() };
        assert_eq!(error.remedy().unwrap(), "go on with `gatefold resume runs/a`");
    }
}
