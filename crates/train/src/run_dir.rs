//! The directory of a run: what was asked, what happened, and what came out. Nothing in it is ever overwritten by
//! another run, and every file is written whole or not at all.

use std::path::{Path, PathBuf};
use std::{fs, io};

use gatefold_models::file::write_atomic;
use serde::Serialize;

use crate::{Config, Error, Result};

/// A run's directory.
#[derive(Debug, Clone)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// Makes the directory and writes the configuration into it.
    ///
    /// # Errors
    /// [`Error::Usage`] if something is there already; [`Error::Io`].
    pub fn create(path: &Path, config: &Config) -> Result<Self> {
        if path.exists() {
            return Err(Error::Usage {
                message: format!("`{}` exists, and a run never overwrites anything", path.display()),
                remedy: Some(format!("name another directory with `--out`, or `gatefold resume {}`", path.display())),
            });
        }
        let dir = RunDir(path.to_owned());
        for folder in ["checkpoints", "folded", "plots"] {
            let folder = path.join(folder);
            fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
        }
        dir.write("config.toml", &config.to_toml())?;
        Ok(dir)
    }

    /// A run that exists, and its configuration.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Config`] if its configuration is none.
    pub fn open(path: &Path) -> Result<(Self, Config)> {
        let file = path.join("config.toml");
        let text = fs::read_to_string(&file).map_err(|e| Error::io("read", &file, e))?;
        let config = Config::resolve(Some(&text), toml::Table::new(), &[])?;
        Ok((RunDir(path.to_owned()), config))
    }

    /// `runs/<date>-<model>-<conv>`, with a number behind it where that is taken.
    pub fn default_path(config: &Config) -> PathBuf {
        let date = jiff::Timestamp::now().strftime("%Y-%m-%d");
        let name = format!("{date}-{}-{}", config.backbone.name(), config.conv.name());
        let numbered = (2..).map(|i| Path::new("runs").join(format!("{name}-{i}")));
        let mut candidates = std::iter::once(Path::new("runs").join(&name)).chain(numbered);
        candidates.find(|path| !path.exists()).expect("numbers do not end")
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

    /// `folded/model.safetensors`.
    pub fn folded_model(&self) -> PathBuf {
        self.0.join("folded/model.safetensors")
    }

    /// `folded/equivalence.json`.
    pub fn equivalence(&self) -> PathBuf {
        self.0.join("folded/equivalence.json")
    }
}

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Under way, or killed.
    Running,
    /// Trained to the end.
    Finished,
    /// Stopped by the user; it can be resumed.
    Interrupted,
    /// A value was no number any more.
    Diverged,
    /// Ended by another error.
    Failed,
}

/// `run.json`: what the configuration does not say.
#[derive(Debug, Clone, Serialize)]
pub struct RunRecord {
    version: &'static str,
    machine: Machine,
    threads: usize,
    seed: u64,
    data_dir: PathBuf,
    /// Of the training and the test images.
    data_checksums: [String; 2],
    started: String,
    finished: Option<String>,
    status: Status,
}

#[derive(Debug, Clone, Serialize)]
struct Machine {
    processor: String,
    cores: usize,
    system: &'static str,
}

impl RunRecord {
    /// Of a run that begins now.
    pub fn new(config: &Config, loaded: &gatefold_data::Loaded, data_dir: &Path) -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        RunRecord {
            version: env!("CARGO_PKG_VERSION"),
            machine: Machine {
                processor: model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned()),
                cores: std::thread::available_parallelism().map_or(1, usize::from),
                system: std::env::consts::OS,
            },
            threads: rayon::current_num_threads(),
            seed: config.seed,
            data_dir: data_dir.to_owned(),
            data_checksums: [loaded.split.train.checksum(), loaded.split.test.checksum()],
            started: now(),
            finished: None,
            status: Status::Running,
        }
    }

    /// The run ended now.
    pub fn finish(&mut self, status: Status) {
        self.finished = Some(now());
        self.status = status;
    }

    /// Writes `run.json`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, dir: &RunDir) -> Result<()> {
        let json = serde_json::to_string_pretty(self).expect("a record is plain data");
        dir.write("run.json", &format!("{json}\n"))
    }
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let config = Config::defaults("digits");
        RunDir::create(&path, &config).unwrap();
        assert_eq!(RunDir::create(&path, &config).unwrap_err().exit_status(), 2);
        assert_eq!(RunDir::open(&path).unwrap().1, config);
    }

    #[test]
    fn a_path_below_a_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = RunDir::create(&file.join("run"), &Config::defaults("digits")).unwrap_err();
        assert_eq!(error.exit_status(), 6);
        assert!(error.remedy().unwrap().contains("is a file"));
    }
}
