//! What can go wrong in a run. A message says what failed and where; the cause is its `source`, and
//! [`remedy`](Error::remedy) says what to do, as a command where there is one.

use std::io;
use std::path::{Path, PathBuf};

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
    #[error("training diverged in epoch {epoch}, step {step}: {}", value_at(layer.as_deref()))]
    Diverged {
        /// The epoch, counted from 0.
        epoch: usize,
        /// The optimiser step, counted from 0 over the whole run.
        step: u64,
        /// The first layer whose output is not finite, if one was found.
        layer: Option<String>,
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

fn value_at(layer: Option<&str>) -> String {
    match layer {
        Some(layer) => format!("the output of layer `{layer}` is not finite"),
        None => "the loss is not finite".to_owned(),
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

impl Error {
    /// The exit status of a program that ends with this error: 2 usage, 3 data, 4 configuration or checkpoint,
    /// 5 diverged, 6 input or output, 130 interrupted.
    pub fn exit_status(&self) -> u8 {
        match self {
            Error::Usage { .. } => 2,
            Error::Data(error) => data_exit_status(error),
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
            Error::Data(_) | Error::Model(_) | Error::Tensor(_) => None,
        }
    }

    /// A file system call that failed. Where a part of the path is a file and not a folder, the remedy names that part.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let file = path.ancestors().skip(1).find(|part| part.is_file());
        let remedy = file.map(|part| format!("`{}` is a file: name a folder instead", part.display()));
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
            (Error::Diverged { epoch: 1, step: 2, layer: None }, 5),
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
        let error = Error::Diverged { epoch: 3, step: 120, layer: Some("blocks.1.pointwise".into()) };
        let text = "training diverged in epoch 3, step 120: the output of layer `blocks.1.pointwise` is not finite";
        assert_eq!(error.to_string(), text);
        assert!(error.remedy().unwrap().contains("--lr"));

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let path = file.join("below");
        let error = Error::io("create", &path, std::fs::create_dir(&path).unwrap_err());
        assert_eq!(error.to_string(), format!("cannot create `{}`", path.display()));
        assert!(error.source().is_some());
        assert_eq!(error.remedy().unwrap(), format!("`{}` is a file: name a folder instead", file.display()));

        let error = Error::Interrupted { run: "runs/a".into() };
        assert_eq!(error.remedy().unwrap(), "go on with `gatefold resume runs/a`");
    }
}
