//! Where things lie: the data directory, and the weights of a model that the user names.

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use gatefold_models::FileError;

/// The environment variable that names the data directory.
pub const DATA_VARIABLE: &str = "GATEFOLD_DATA";

/// The data directory: `flag`, else the variable `GATEFOLD_DATA`, else the user's data directory of this program, else `data` in the
/// current directory (where the user has no home).
pub fn data_dir(flag: Option<&Path>) -> PathBuf {
    if let Some(path) = flag {
        return path.to_owned();
    }
    if let Some(path) = std::env::var_os(DATA_VARIABLE).filter(|path| !path.is_empty()) {
        return path.into();
    }
    directories::ProjectDirs::from("", "", "gatefold").map_or_else(|| "data".into(), |dirs| dirs.data_dir().to_owned())
}

/// The weights that `path` names: of a run's directory its `model.safetensors`, or, while it is not finished, its last checkpoint; else
/// `path` itself, which must be there.
///
/// # Errors
/// [`FileError::Io`] with kind `NotFound`: nothing lies at `path`, or it is a directory without weights.
pub fn model_file(path: &Path) -> anyhow::Result<PathBuf> {
    if !path.is_dir() {
        let found = path.try_exists().map_err(|source| FileError::Io { path: path.to_owned(), source })?;
        return if found { Ok(path.to_owned()) } else { Err(missing(path, "there is no such file or run directory")) };
    }
    let weights = ["model.safetensors", "checkpoints/last.safetensors"].map(|name| path.join(name));
    let found = weights.into_iter().find(|file| file.is_file());
    found.ok_or_else(|| missing(path, "the directory holds neither model.safetensors nor checkpoints/last.safetensors: name a run directory or a file"))
}

fn missing(path: &Path, why: &str) -> anyhow::Error {
    FileError::Io { path: path.to_owned(), source: Error::new(ErrorKind::NotFound, why) }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(error: &anyhow::Error) -> ErrorKind {
        match error.downcast_ref() {
            Some(FileError::Io { source, .. }) => source.kind(),
            _ => panic!("{error}"),
        }
    }

    #[test]
    fn a_run_directory_stands_for_its_weights() {
        let run = tempfile::tempdir().unwrap();
        let error = model_file(run.path()).unwrap_err();
        assert_eq!(kind(&error), ErrorKind::NotFound);
        assert!(error.to_string().contains("neither"), "{error}");

        let (last, model) = (run.path().join("checkpoints/last.safetensors"), run.path().join("model.safetensors"));
        std::fs::create_dir(run.path().join("checkpoints")).unwrap();
        std::fs::write(&last, "").unwrap();
        assert_eq!(model_file(run.path()).unwrap(), last);
        std::fs::write(&model, "").unwrap();
        assert_eq!(model_file(run.path()).unwrap(), model);
        assert_eq!(model_file(&model).unwrap(), model);
        assert_eq!(kind(&model_file(&run.path().join("other")).unwrap_err()), ErrorKind::NotFound);
    }

    #[test]
    fn a_flag_names_the_data_directory() {
        assert_eq!(data_dir(Some(Path::new("here"))), Path::new("here"));
    }
}
