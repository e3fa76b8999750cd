//! One step of training, which the loop and the measurement of its speed share.

use gatefold_layers::{Cx, Entry};
use gatefold_models::Network;
use gatefold_tensor::{Real, Tensor};

use crate::error::NotFinite;
use crate::verify::classes;
use crate::{Result, Sgd};

/// A batch, and how far a step on it goes.
pub(crate) struct Step<'a, T: Real> {
    /// The normalised images, `[N,C,H,W]`.
    pub images: &'a Tensor<T>,
    /// The class of each.
    pub labels: &'a [usize],
    /// The share of the target that is spread over all classes.
    pub label_smoothing: f64,
    /// The learning rate.
    pub lr: f64,
}

/// A part of a step, in the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Forward,
    Loss,
    Backward,
    Optimiser,
    Statistics,
}

impl Part {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Part::Forward => "forward",
            Part::Loss => "loss",
            Part::Backward => "backward",
            Part::Optimiser => "optimiser",
            Part::Statistics => "statistics",
        }
    }
}

/// What a step has made of its batch.
pub(crate) enum Taken {
    /// The mean loss, and how many images were classified right.
    Step { loss: f64, correct: usize },
    /// The loss is no number; nothing was updated.
    LossNotFinite,
    /// This parameter or statistic is no number any more.
    ValueNotFinite(NotFinite),
}

/// Takes one step; `after` is told the end of each part.
// ANCHOR: step
pub(crate) fn step<T: Real>(
    network: &mut dyn Network<T>,
    sgd: &mut Sgd<T>,
    step: &Step<'_, T>,
    mut after: impl FnMut(Part),
) -> Result<Taken> {
    let cx = Cx::train();
    let logits = network.forward(&cx, &cx.input(step.images.clone(), false))?;
    after(Part::Forward);
    let loss = logits.cross_entropy(step.labels, step.label_smoothing)?;
    let value = loss.value().item()?.f64();
    after(Part::Loss);
    if !value.is_finite() {
        return Ok(Taken::LossNotFinite);
    }
    let gradients = cx.backward(&loss)?;
    let statistics = cx.into_statistics();
    after(Part::Backward);
    sgd.step(network, &gradients, step.lr)?;
    after(Part::Optimiser);
    statistics.apply(network)?;
    if let Some(value) = not_finite(network) {
        return Ok(Taken::ValueNotFinite(value));
    }
    let correct = classes(logits.value()).iter().zip(step.labels).filter(|(a, b)| a == b).count();
    after(Part::Statistics);
    Ok(Taken::Step { loss: value, correct })
}
// ANCHOR_END: step

/// The first parameter or statistic that is no number any more.
fn not_finite<T: Real>(network: &dyn Network<T>) -> Option<NotFinite> {
    let mut found = None;
    network.walk("", &mut |key, entry: Entry<'_, T>| {
        if found.is_none() && !entry.value().is_finite() {
            found = Some(match entry {
                Entry::Param(_) => NotFinite::Parameter(key.to_owned()),
                Entry::Buffer(_) => NotFinite::Statistic(key.to_owned()),
            });
        }
    });
    found
}
