//! A line an epoch: `metrics.csv` for people and spreadsheets, `metrics.jsonl` for programs.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::{Error, Result, RunDir};

/// What an epoch has come to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// From 0.
    pub epoch: usize,
    /// The learning rate.
    pub lr: f64,
    /// Mean loss over the training images, while training.
    pub train_loss: f64,
    /// Percent of the training images classified right, while training.
    pub train_accuracy: f64,
    /// Mean loss over the test images.
    pub test_loss: f64,
    /// Percent of the test images classified right.
    pub test_accuracy: f64,
    /// Training images a second, the evaluation not counted.
    pub images_per_second: f64,
    /// Seconds of training.
    pub seconds: f64,
}

/// The epochs of a run so far.
#[derive(Debug)]
pub struct Metrics {
    dir: RunDir,
    epochs: Vec<Epoch>,
}

impl Metrics {
    /// Those of a run, cut back to the first `keep` epochs: what a checkpoint knows of.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Checkpoint`] if a line is no epoch.
    pub fn open(dir: &RunDir, keep: usize) -> Result<Self> {
        let path = dir.metrics();
        let mut epochs = Vec::new();
        if path.exists() {
            let text = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
            for line in text.lines().take(keep) {
                let broken = |e: serde_json::Error| Error::checkpoint(&path, format!("a line is no epoch: {e}"));
                epochs.push(serde_json::from_str(line).map_err(broken)?);
            }
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
