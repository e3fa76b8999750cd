//! `run.json`: what the configuration of a run does not say, and how the run stands.

use std::fs;
use std::path::{Path, PathBuf};

use gatefold_data::Loaded;
use serde::{Deserialize, Serialize};

use crate::{Config, Error, Result, RunDir};

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

/// `run.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    #[serde(flatten)]
    start: Start,
    seed: u64,
    /// Of the training and the test images.
    #[serde(default)]
    data_checksums: Option<[String; 2]>,
    /// When and where the run was taken up again.
    #[serde(default)]
    resumed: Vec<Start>,
    finished: Option<String>,
    status: Status,
}

/// When a run began or was taken up again, by which program and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Start {
    version: String,
    machine: Machine,
    threads: usize,
    data_dir: PathBuf,
    started: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Machine {
    processor: String,
    cores: usize,
    system: String,
}

impl Start {
    fn now(data_dir: &Path) -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Start {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine: Machine {
                processor: model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned()),
                cores: std::thread::available_parallelism().map_or(1, usize::from),
                system: std::env::consts::OS.to_owned(),
            },
            threads: rayon::current_num_threads(),
            data_dir: data_dir.to_owned(),
            started: now(),
        }
    }
}

impl RunRecord {
    /// Of a run that begins now.
    pub fn new(config: &Config, loaded: &Loaded, data_dir: &Path) -> Self {
        RunRecord {
            start: Start::now(data_dir),
            seed: config.seed,
            data_checksums: Some(checksums(loaded)),
            resumed: Vec::new(),
            finished: None,
            status: Status::Running,
        }
    }

    /// Of a run that goes on now: what it recorded when it began stays, and `loaded` has to be the data that it began
    /// with. Where it recorded nothing, its record begins now.
    ///
    /// # Errors
    /// [`Error::DataChanged`] if the images are other ones; [`Error::Io`] and [`Error::Checkpoint`] if `run.json` cannot
    /// be read.
    pub fn resume(dir: &RunDir, config: &Config, loaded: &Loaded, data_dir: &Path) -> Result<Self> {
        let path = dir.record();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(RunRecord::new(config, loaded, data_dir));
            }
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        let mut record: RunRecord = serde_json::from_slice(&text).map_err(|e| Error::Checkpoint {
            path: path.clone(),
            problem: format!("no record of a run: {e}"),
            remedy: Some(format!("move `{}` away: the run then goes on without a look at its data", path.display())),
        })?;
        let found = checksums(loaded);
        let recorded = record.data_checksums.get_or_insert_with(|| found.clone());
        for (part, (recorded, found)) in ["training", "test"].into_iter().zip(recorded.iter().zip(&found)) {
            if recorded != found {
                let (recorded, found) = (recorded.clone(), found.clone());
                let (run, data_dir) = (dir.path().to_owned(), data_dir.to_owned());
                return Err(Error::DataChanged { part, recorded, found, data_dir, run });
            }
        }
        record.resumed.push(Start::now(data_dir));
        record.finished = None;
        record.status = Status::Running;
        Ok(record)
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

fn checksums(loaded: &Loaded) -> [String; 2] {
    [loaded.split.train.checksum(), loaded.split.test.checksum()]
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use gatefold_data::{Kind, load};
    use serde_json::Value;

    use super::*;

    struct Run {
        _folder: tempfile::TempDir,
        dir: RunDir,
        config: Config,
        loaded: Loaded,
    }

    fn run() -> Run {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::defaults(Kind::Digits);
        let dir = RunDir::create(&folder.path().join("run"), &config).unwrap();
        let loaded = load(Kind::Digits, Path::new("embedded"), Some(10)).unwrap();
        Run { _folder: folder, dir, config, loaded }
    }

    impl Run {
        fn json(&self) -> Value {
            serde_json::from_slice(&fs::read(self.dir.record()).unwrap()).unwrap()
        }

        fn resume(&self) -> Result<RunRecord> {
            RunRecord::resume(&self.dir, &self.config, &self.loaded, Path::new("elsewhere"))
        }
    }

    #[test]
    fn a_record_says_how_the_run_stands() {
        let run = run();
        let mut record = RunRecord::new(&run.config, &run.loaded, Path::new("data"));
        record.save(&run.dir).unwrap();
        assert_eq!((&run.json()["status"], &run.json()["finished"]), (&"running".into(), &Value::Null));
        record.finish(Status::Finished);
        record.save(&run.dir).unwrap();
        let json = run.json();
        assert_eq!((&json["status"], &json["seed"]), (&"finished".into(), &0.into()));
        assert_eq!(json["data_checksums"][0], run.loaded.split.train.checksum());
        assert!(json["machine"]["cores"].as_u64().unwrap() > 0 && json["finished"].is_string());
    }

    #[test]
    fn a_run_that_goes_on_keeps_its_record() {
        let run = run();
        let mut record = RunRecord::new(&run.config, &run.loaded, Path::new("data"));
        record.start.started = "2001-02-03T04:05:06Z".to_owned();
        record.seed = 7;
        record.finish(Status::Interrupted);
        record.save(&run.dir).unwrap();
        run.resume().unwrap().save(&run.dir).unwrap();
        let json = run.json();
        assert_eq!((&json["started"], &json["seed"]), (&"2001-02-03T04:05:06Z".into(), &7.into()));
        assert_eq!((&json["status"], &json["finished"]), (&"running".into(), &Value::Null));
        assert_eq!((&json["data_dir"], &json["resumed"][0]["data_dir"]), (&"data".into(), &"elsewhere".into()));
        // And once more.
        run.resume().unwrap().save(&run.dir).unwrap();
        assert_eq!(run.json()["resumed"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn other_images_are_refused_and_both_sums_named() {
        for part in ["training", "test"] {
            let mut run = run();
            let mut record = RunRecord::new(&run.config, &run.loaded, Path::new("data"));
            record.save(&run.dir).unwrap();
            let set = if part == "test" { &mut run.loaded.split.test } else { &mut run.loaded.split.train };
            let before = set.checksum();
            set.truncate(9);
            let after = set.checksum();
            let error = run.resume().unwrap_err();
            let text = error.to_string();
            assert!(text.contains(part) && text.contains(&before) && text.contains(&after), "{text}");
            assert_eq!(error.exit_status(), 3);
            assert!(error.remedy().unwrap().contains("gatefold train --config"), "{:?}", error.remedy());
            // Nothing to compare with.
            record.data_checksums = None;
            record.save(&run.dir).unwrap();
            assert_eq!(run.resume().unwrap().data_checksums.unwrap()[usize::from(part == "test")], after);
        }
    }

    #[test]
    fn a_record_that_is_missing_begins_and_a_broken_one_is_named() {
        let run = run();
        assert_eq!(run.resume().unwrap().resumed, []);
        fs::write(run.dir.record(), "{\"seed\":").unwrap();
        let error = run.resume().unwrap_err();
        assert!(error.to_string().contains("run.json") && error.remedy().is_some(), "{error}");
        assert_eq!(error.exit_status(), 4);
    }
}
