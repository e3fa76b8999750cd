//! Checkpoints: the network, the optimiser's momenta, the average of the weights and every counter, enough to continue with the same bits.

use std::collections::BTreeMap;
use std::path::Path;

use gatefold_models::Model;
use gatefold_models::file::{self, FileError, Stored};
use gatefold_tensor::{Real, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Sgd;
use crate::average::Average;

/// Before the names of the momenta.
const MOMENTUM: &str = "optimizer.momentum.";

/// Before the names of the averaged values, if weights are averaged.
const AVERAGE: &str = "optimizer.average.";

/// How far a run has come, and what the epoch under way has summed up.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Epochs finished.
    pub epoch: usize,
    /// Batches finished of the epoch under way.
    pub batch: usize,
    /// Optimiser steps in all.
    pub step: usize,
    /// Sum over the images of the epoch under way of their loss.
    pub loss_sum: f64,
    /// Images of the epoch under way that were classified right while training.
    pub correct: usize,
    /// Images of the epoch under way.
    pub seen: usize,
    /// The best test accuracy of an epoch so far, in percent.
    pub best: Option<f64>,
}

/// Writes a checkpoint.
///
/// # Errors
/// [`FileError::Io`]; a checkpoint that was there before is then still there.
pub(crate) fn save<T: Real>(
    path: &Path,
    model: &Model<T>,
    sgd: &Sgd<T>,
    average: Option<&Average<T>>,
    progress: &Progress,
) -> Result<(), FileError> {
    let mut tensors = model.stored();
    let averaged = average.into_iter().flat_map(Average::values);
    tensors.extend(averaged.map(|(key, e)| (format!("{AVERAGE}{key}"), Stored::from(e))));
    tensors.extend(sgd.velocity().iter().map(|(key, v)| (format!("{MOMENTUM}{key}"), Stored::from(v))));
    let metadata = json!({ "model": model.description.to_json(), "progress": progress }).to_string();
    file::write(path, Some(metadata), &tensors)
}

/// What a checkpoint holds.
pub(crate) struct Checkpoint<T: Real> {
    /// The network.
    pub model: Model<T>,
    /// The momenta, by parameter.
    pub momenta: BTreeMap<String, Tensor<T>>,
    /// The averaged values, by state-dict key; none where weights are not averaged.
    pub average: BTreeMap<String, Tensor<T>>,
    /// How far the run has come.
    pub progress: Progress,
}

/// Reads a checkpoint.
///
/// # Errors
/// [`FileError`] if it is not a checkpoint, or its tensors do not fit its description.
pub(crate) fn load<T: Real>(path: &Path) -> Result<Checkpoint<T>, FileError> {
    let format = |message: String| FileError::Format { path: path.to_owned(), message };
    let contents = file::read(path)?;
    let model = Model::from_contents(&contents, path)?;
    let text = contents.metadata.as_deref().unwrap_or_default();
    let invalid = |e: serde_json::Error| format(format!("its progress cannot be read: {e}"));
    let mut json: serde_json::Value = serde_json::from_str(text).map_err(invalid)?;
    if json["progress"].is_null() {
        return Err(format("it is a model, not a checkpoint: it has no progress to resume from".to_owned()));
    }
    let progress = serde_json::from_value(json["progress"].take()).map_err(invalid)?;
    let below = |prefix: &str| {
        let of = contents.tensors.iter();
        of.filter_map(|(key, value)| Some((key.strip_prefix(prefix)?.to_owned(), value.to()))).collect()
    };
    Ok(Checkpoint { model, momenta: below(MOMENTUM), average: below(AVERAGE), progress })
}

#[cfg(test)]
mod tests {
    use gatefold_data::Kind;

    use super::*;
    use crate::{Config, Trainer};

    #[test]
    fn every_number_is_read_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let mut loaded = gatefold_data::load(Kind::Digits, folder.path(), Some(1)).unwrap();
        // A quick parser reads the neighbour of the first two.
        for awkward in [10.848400556328233, 0.1 + 0.2, 1.0 / 3.0, 5e-324] {
            loaded.normalisation.mean = vec![awkward];
            let trainer = Trainer::<f32>::new(Config::defaults(Kind::Digits), loaded.clone()).unwrap();
            let progress = Progress { epoch: 3, loss_sum: awkward, best: Some(awkward), ..Progress::default() };
            let average = Average::new(0.9, &*trainer.model.network);
            save(&path, &trainer.model, &Sgd::new(0.9, 0.0), Some(&average), &progress).unwrap();
            let Checkpoint { model, momenta, average: values, progress: read } = load::<f32>(&path).unwrap();
            assert_eq!((read, momenta.len()), (progress, 0));
            assert_eq!(&values, average.values());
            assert_eq!(model.description, trainer.model.description);
            assert_eq!(model.stored(), trainer.model.stored());
        }
    }
}
