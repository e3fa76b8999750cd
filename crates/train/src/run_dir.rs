//! The directory of a run: what was asked, what happened, and what came out. Nothing in it is ever overwritten by
//! another run, and every file is written whole or not at all.

use std::path::{Path, PathBuf};
use std::{fs, io};

use gatefold_models::file::write_atomic;

use crate::{Config, ConfigFile, Error, Result};

/// A run's directory.
#[derive(Debug, Clone)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// Makes the directory and writes the configuration into it.
    ///
    /// # Errors
    /// [`Error::Usage`] if something is there already; [`Error::Io`].
    pub fn create(path: &Path, config: &Config) -> Result<Self> {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(|e| Error::io("create", path, e))?;
        }
        // Made here or not at all: two runs that begin together never share a directory.
        fs::create_dir(path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists(path),
            _ => Error::io("create", path, error),
        })?;
        let dir = RunDir(path.to_owned());
        for folder in ["checkpoints", "folded", "plots"] {
            let folder = path.join(folder);
            fs::create_dir(&folder).map_err(|e| Error::io("create", &folder, e))?;
        }
        dir.write("config.toml", &config.to_toml())?;
        Ok(dir)
    }

    /// A run that exists, and its configuration.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Config`] if its configuration is none.
    pub fn open(path: &Path) -> Result<(Self, Config)> {
        let file = ConfigFile::read(&path.join("config.toml"))?;
        let config = Config::resolve(Some(&file), toml::Table::new(), &[])?;
        Ok((RunDir(path.to_owned()), config))
    }

    /// `runs/<date>-<model>-<conv>`, with a number behind it where that is taken.
    pub fn default_path(config: &Config) -> PathBuf {
        let date = jiff::Timestamp::now().strftime("%Y-%m-%d");
        let name = format!("{date}-{}-{}", config.backbone.name(), config.conv.name());
        free_path(Path::new("runs"), &name)
    }

    /// Writes a text file in the directory.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.0.join(name);
        let written: io::Result<()> = write_atomic(&path, |out| out.write_all(text.as_bytes()));
        written.map_err(|e| Error::io("write", &path, e))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// `run.json`.
    pub fn record(&self) -> PathBuf {
        self.0.join("run.json")
    }

    /// `metrics.jsonl`.
    pub fn metrics(&self) -> PathBuf {
        self.0.join("metrics.jsonl")
    }

    /// `checkpoints/last.safetensors`.
    pub fn last_checkpoint(&self) -> PathBuf {
        self.0.join("checkpoints/last.safetensors")
    }

    /// `checkpoints/best.safetensors`: of the epoch with the best test accuracy.
    pub fn best_checkpoint(&self) -> PathBuf {
        self.0.join("checkpoints/best.safetensors")
    }

    /// `model.safetensors`: weights and statistics only.
    pub fn model(&self) -> PathBuf {
        self.0.join("model.safetensors")
    }

    /// `ema.safetensors`: the averaged weights, if weights are averaged.
    pub fn averaged_model(&self) -> PathBuf {
        self.0.join("ema.safetensors")
    }

    /// `folded/model.safetensors`.
    pub fn folded_model(&self) -> PathBuf {
        self.0.join("folded/model.safetensors")
    }

    /// `folded/equivalence.json`.
    pub fn equivalence(&self) -> PathBuf {
        self.0.join("folded/equivalence.json")
    }
}

fn exists(path: &Path) -> Error {
    let resume = match path.join("config.toml").is_file() {
        true => format!(", or go on with `gatefold resume {}`", path.display()),
        false => String::new(),
    };
    Error::Usage {
        message: format!("`{}` exists, and a run never overwrites anything", path.display()),
        remedy: Some(format!("name another directory with `--out`{resume}")),
    }
}

/// `folder/name`, with a number behind it where that is taken.
fn free_path(folder: &Path, name: &str) -> PathBuf {
    let numbered = (2..).map(|i| folder.join(format!("{name}-{i}")));
    let mut candidates = std::iter::once(folder.join(name)).chain(numbered);
    candidates.find(|path| !path.exists()).expect("numbers do not end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let config = Config::defaults(gatefold_data::Kind::Digits);
        RunDir::create(&path, &config).unwrap();
        let error = RunDir::create(&path, &config).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(error.remedy().unwrap().contains("gatefold resume"), "{error}");
        let error = RunDir::create(folder.path(), &config).unwrap_err();
        assert!(!error.remedy().unwrap().contains("gatefold resume"), "there is no run to go on with");
        assert_eq!(RunDir::open(&path).unwrap().1, config);
    }

    #[test]
    fn a_path_below_a_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = RunDir::create(&file.join("run"), &Config::defaults(gatefold_data::Kind::Digits)).unwrap_err();
        assert_eq!(error.exit_status(), 6);
        assert!(error.remedy().unwrap().contains("is a file"));
    }

    #[test]
    fn what_is_no_run_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let error = RunDir::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains("config.toml"), "{error}");
        assert_eq!(error.exit_status(), 6);
        fs::write(folder.path().join("config.toml"), "epochs = 0").unwrap();
        let error = RunDir::open(folder.path()).unwrap_err();
        let place = format!("`{}`: `epochs` is 0", folder.path().join("config.toml").display());
        assert!(error.to_string().starts_with(&place), "{error}");
        assert_eq!(error.exit_status(), 4);
    }

    #[test]
    fn a_taken_name_gets_a_number() {
        let folder = tempfile::tempdir().unwrap();
        let free = || free_path(folder.path(), "2024-05-06-smallnet-mdconv");
        let mut names = Vec::new();
        for _ in 0..3 {
            let path = free();
            fs::create_dir(&path).unwrap();
            names.push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
        let base = "2024-05-06-smallnet-mdconv";
        assert_eq!(names, [base.to_owned(), format!("{base}-2"), format!("{base}-3")]);
    }
}
