//! Loss and accuracy over a whole set, and the logits themselves.

use std::sync::Arc;

use gatefold_data::{Dataset, Loader, Normalisation, Options};
use gatefold_layers::Cx;
use gatefold_models::{Inference, Model};
use gatefold_tensor::{Real, Tensor};

use crate::Result;
use crate::verify::classes;

/// Images in a batch of an evaluation; the figures do not depend on it but for rounding.
pub const BATCH: usize = 100;

/// What a model makes of a set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// The mean cross-entropy.
    pub loss: f64,
    /// Images classified right.
    pub correct: usize,
    /// Images in all.
    pub images: usize,
}

impl Evaluation {
    /// The share classified right, in percent.
    pub fn accuracy(&self) -> f64 {
        100.0 * self.correct as f64 / self.images.max(1) as f64
    }
}

/// The normalisation in a model's description, as the data crate takes it.
pub fn normalisation<T: Real>(model: &Model<T>) -> Normalisation {
    let of = &model.description.normalisation;
    Normalisation { mean: of.mean.clone(), std: of.std.clone() }
}

/// Batches of normalised images and labels, in file order.
///
/// # Errors
/// As [`Loader::new`].
pub fn batches<T: Real>(model: &Model<T>, data: &Arc<Dataset>) -> Result<Loader<T>> {
    Ok(Loader::new(data, &normalisation(model), &Options::evaluation(BATCH), 0, 0)?)
}

/// The images of a set as a model takes them: normalised, in batches, in file order.
#[derive(Debug, Clone)]
pub struct Images {
    data: Arc<Dataset>,
    normalisation: Normalisation,
}

impl Images {
    /// Those of `data`.
    pub fn new(data: &Arc<Dataset>, normalisation: Normalisation) -> Self {
        Images { data: Arc::clone(data), normalisation }
    }

    /// The batches, `[N,C,H,W]` each.
    ///
    /// # Errors
    /// As [`Loader::new`].
    pub fn batches<T: Real>(&self) -> Result<impl Iterator<Item = Result<Tensor<T>>>> {
        let loader = Loader::new(&self.data, &self.normalisation, &Options::evaluation(BATCH), 0, 0)?;
        Ok(loader.map(|batch| Ok(batch?.images)))
    }
}

/// Evaluates `model` over `data` in file order; `logits` sees those of each batch, `[N, classes]`.
///
/// # Errors
/// As the loader, and if an image or a label does not fit the model.
pub fn evaluate<T: Real>(
    model: &Model<T>,
    data: &Arc<Dataset>,
    mut logits: impl FnMut(&Tensor<T>),
) -> Result<Evaluation> {
    let mut evaluation = Evaluation { loss: 0.0, correct: 0, images: 0 };
    let (cx, inference) = (Cx::eval(), Inference::new(model)?);
    for batch in batches(model, data)? {
        let batch = batch?;
        let of_batch = cx.input(inference.logits(&batch.images)?, false);
        let count = batch.labels.len();
        evaluation.loss += of_batch.cross_entropy(&batch.labels, 0.0)?.value().item()?.f64() * count as f64;
        evaluation.correct += classes(of_batch.value()).iter().zip(&batch.labels).filter(|(a, b)| a == b).count();
        evaluation.images += count;
        logits(of_batch.value());
    }
    evaluation.loss /= evaluation.images.max(1) as f64;
    Ok(evaluation)
}
