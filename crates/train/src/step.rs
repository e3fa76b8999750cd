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

#[cfg(test)]
mod tests {
    use gatefold_data::Kind;
    use gatefold_layers::EntryMut;

    use super::*;
    use crate::{Config, Trainer, evaluate};

    /// What a step says whose network has an infinity at `key`.
    fn step_with_infinity_at(wanted: &str) -> Taken {
        let data = gatefold_data::load(Kind::Digits, "embedded".as_ref(), Some(8)).unwrap();
        let mut trainer = Trainer::<f32>::new(Config::defaults(Kind::Digits), data).unwrap();
        trainer.model.network.walk_mut("", &mut |key, mut entry: EntryMut<'_, f32>| {
            if key == wanted {
                entry.value().as_mut_slice()[0] = f32::INFINITY;
            }
        });
        let batch = evaluate::batches(&trainer.model, trainer.test()).unwrap().next().unwrap().unwrap();
        let of_batch = Step { images: &batch.images, labels: &batch.labels, label_smoothing: 0.0, lr: 0.1 };
        step(&mut *trainer.model.network, &mut Sgd::new(0.9, 0.0), &of_batch, |_| {}).unwrap()
    }

    #[test]
    fn what_is_no_number_any_more_is_called_what_it_is() {
        assert!(matches!(step_with_infinity_at(""), Taken::Step { .. }));
        let statistic = "stem.bn.running_var";
        match step_with_infinity_at(statistic) {
            Taken::ValueNotFinite(what) => assert_eq!(what, NotFinite::Statistic(statistic.to_owned())),
            _ => panic!("the statistic was not looked at"),
        }
        assert!(matches!(step_with_infinity_at("classifier.bias"), Taken::LossNotFinite));
    }
}
