//! A line an epoch: `metrics.csv` for people and spreadsheets, `metrics.jsonl` for programs.

use std::fs;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{Error, Result, RunDir};

/// What an epoch has come to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Epoch {
    /// From 0.
    pub epoch: usize,
    /// The learning rate.
    pub lr: f64,
    /// Mean loss over the training images, while training. A value that is not finite is null in JSON.
    #[serde(deserialize_with = "null_is_nan")]
    pub train_loss: f64,
    /// Percent of the training images classified right, while training.
    pub train_accuracy: f64,
    /// Mean loss over the test images.
    #[serde(deserialize_with = "null_is_nan")]
    pub test_loss: f64,
    /// Percent of the test images classified right.
    pub test_accuracy: f64,
    /// Mean loss of the averaged weights over the test images, if weights are averaged.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "null_is_some_nan")]
    pub ema_loss: Option<f64>,
    /// Percent of the test images that the averaged weights classify right, if weights are averaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_accuracy: Option<f64>,
    /// Training images a second, the evaluation not counted.
    #[serde(deserialize_with = "null_is_nan")]
    pub images_per_second: f64,
    /// Seconds of training.
    pub seconds: f64,
}

fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

fn null_is_some_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    null_is_nan(deserializer).map(Some)
}

/// The epochs of a run so far.
#[derive(Debug)]
pub struct Metrics {
    dir: RunDir,
    epochs: Vec<Epoch>,
}

impl Metrics {
    /// Those of a run, cut back to the first `keep` epochs: what a checkpoint knows of. The files follow with the next
    /// [`append`](Self::append).
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Checkpoint`] if the epochs before `keep` are not all there.
    pub fn open(dir: &RunDir, keep: usize) -> Result<Self> {
        let path = dir.metrics();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        let mut epochs = Vec::new();
        for (i, line) in text.lines().take(keep).enumerate() {
            let broken = |why: String| Error::checkpoint(&path, format!("line {}: {why}", i + 1));
            let epoch: Epoch = serde_json::from_str(line).map_err(|e| broken(format!("no epoch: {e}")))?;
            if epoch.epoch != i {
                return Err(broken(format!("epoch {}, expected epoch {i}", epoch.epoch)));
            }
            epochs.push(epoch);
        }
        if epochs.len() < keep {
            let have = epochs.len();
            return Err(Error::checkpoint(&path, format!("{have} epochs, but the checkpoint stands after {keep}")));
        }
        Ok(Metrics { dir: dir.clone(), epochs })
    }

    /// All epochs so far.
    pub fn epochs(&self) -> &[Epoch] {
        &self.epochs
    }

    /// Adds an epoch and writes both files.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn append(&mut self, epoch: &Epoch) -> Result<()> {
        self.epochs.push(epoch.clone());
        let mut csv = csv::Writer::from_writer(Vec::new());
        let mut lines = String::new();
        for epoch in &self.epochs {
            csv.serialize(epoch).expect("an epoch is a flat record");
            lines += &serde_json::to_string(epoch).expect("an epoch is plain data");
            lines.push('\n');
        }
        let csv =
            String::from_utf8(csv.into_inner().expect("writing to memory does not fail")).expect("numbers are UTF-8");
        self.dir.write("metrics.csv", &csv)?;
        self.dir.write("metrics.jsonl", &lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    fn epoch(epoch: usize) -> Epoch {
        Epoch {
            epoch,
            lr: 0.1,
            train_loss: 1.0 / (epoch + 3) as f64,
            train_accuracy: 50.0,
            test_loss: 0.75,
            test_accuracy: 97.5,
            ema_loss: None,
            ema_accuracy: None,
            images_per_second: 1234.5,
            seconds: 0.5,
        }
    }

    fn run() -> (tempfile::TempDir, RunDir) {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::create(&folder.path().join("run"), &Config::defaults(gatefold_data::Kind::Digits)).unwrap();
        (folder, dir)
    }

    #[test]
    fn both_files_hold_every_epoch() {
        let (_folder, dir) = run();
        let mut metrics = Metrics::open(&dir, 0).unwrap();
        for i in 0..3 {
            metrics.append(&epoch(i)).unwrap();
        }
        let csv = fs::read_to_string(dir.path().join("metrics.csv")).unwrap();
        let lines: Vec<_> = csv.lines().collect();
        assert_eq!(lines.len(), 4);
        let header = "epoch,lr,train_loss,train_accuracy,test_loss,test_accuracy,images_per_second,seconds";
        assert_eq!((lines[0], lines[2]), (header, "1,0.1,0.25,50.0,0.75,97.5,1234.5,0.5"));
        let json = fs::read_to_string(dir.metrics()).unwrap();
        let back: Vec<Epoch> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(back, (0..3).map(epoch).collect::<Vec<_>>());
    }

    #[test]
    fn averaged_weights_have_columns_of_their_own() {
        let (_folder, dir) = run();
        let mut metrics = Metrics::open(&dir, 0).unwrap();
        let averaged = |i, loss| Epoch { ema_loss: Some(loss), ema_accuracy: Some(98.0), ..epoch(i) };
        metrics.append(&averaged(0, f64::NAN)).unwrap();
        let mut metrics = Metrics::open(&dir, 1).unwrap();
        metrics.append(&averaged(1, 0.5)).unwrap();
        let csv = fs::read_to_string(dir.path().join("metrics.csv")).unwrap();
        let header = "epoch,lr,train_loss,train_accuracy,test_loss,test_accuracy,ema_loss,ema_accuracy,images_per_second,seconds";
        let lines: Vec<_> = csv.lines().collect();
        assert_eq!((lines[0], lines[2]), (header, "1,0.1,0.25,50.0,0.75,97.5,0.5,98.0,1234.5,0.5"));
        assert_eq!(Metrics::open(&dir, 2).unwrap().epochs()[1], averaged(1, 0.5));
    }

    #[test]
    fn a_run_that_goes_on_keeps_what_its_checkpoint_knows() {
        let (_folder, dir) = run();
        let mut metrics = Metrics::open(&dir, 0).unwrap();
        (0..4).for_each(|i| metrics.append(&epoch(i)).unwrap());
        let mut metrics = Metrics::open(&dir, 2).unwrap();
        assert_eq!(metrics.epochs(), [epoch(0), epoch(1)]);
        let again = Epoch { test_accuracy: 1.0, ..epoch(2) };
        metrics.append(&again).unwrap();
        assert_eq!(Metrics::open(&dir, 3).unwrap().epochs(), [epoch(0), epoch(1), again]);
        assert_eq!(fs::read_to_string(dir.path().join("metrics.csv")).unwrap().lines().count(), 4);
    }

    #[test]
    fn values_that_are_not_finite_are_read_back() {
        let (_folder, dir) = run();
        let mut metrics = Metrics::open(&dir, 0).unwrap();
        metrics.append(&Epoch { test_loss: f64::INFINITY, ..epoch(0) }).unwrap();
        assert!(Metrics::open(&dir, 1).unwrap().epochs()[0].test_loss.is_nan());
    }

    #[test]
    fn epochs_that_are_missing_or_broken_are_errors() {
        let (_folder, dir) = run();
        assert_eq!(Metrics::open(&dir, 1).unwrap_err().exit_status(), 4);
        let second = serde_json::to_string(&epoch(1)).unwrap();
        for (text, says) in
            [("{\"epoch\":0", "line 1: no epoch"), (second.as_str(), "line 1: epoch 1, expected epoch 0")]
        {
            fs::write(dir.metrics(), text).unwrap();
            let error = Metrics::open(&dir, 1).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
