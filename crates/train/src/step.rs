//! One step of training, which the loop and the measurement of its speed share.

use gatefold_autograd::Var;
use gatefold_data::Mixed;
use gatefold_layers::{Cx, Entry, ParamGradients, Statistics};
use gatefold_models::Network;
use gatefold_tensor::{Real, Tensor};

use crate::error::NotFinite;
use crate::verify::classes;
use crate::{Config, Result, Sgd, clip};

/// A batch, and how far a step on it goes.
pub(crate) struct Step<'a, T: Real> {
    /// The normalised images, `[N,C,H,W]`.
    pub images: &'a Tensor<T>,
    /// The class of each.
    pub labels: &'a [usize],
    /// What the images are mixed with, if they are.
    pub mixed: Option<&'a Mixed>,
    /// The share of the target that is spread over all classes.
    pub label_smoothing: f64,
    /// The learning rate.
    pub lr: f64,
    /// The longest gradient; 0 for no limit.
    pub clip_norm: f64,
    /// The parts of the batch that batch norms see apart, at least 1.
    pub bn_parts: usize,
}

impl<'a, T: Real> Step<'a, T> {
    /// On a plain batch, as a configuration says.
    pub fn new(config: &Config, images: &'a Tensor<T>, labels: &'a [usize], lr: f64) -> Self {
        let Config { label_smoothing, clip_norm, bn_parts, .. } = *config;
        Step { images, labels, mixed: None, label_smoothing, lr, clip_norm, bn_parts }
    }

    /// The parts, as `torch.chunk` cuts: each of ⌈N/parts⌉ images, the last one of what is left.
    pub fn parts(&self) -> Result<Vec<BatchPart<'a, T>>> {
        let (images, size) = (self.labels.len(), self.labels.len().div_ceil(self.bn_parts));
        let [n, c, h, w] = self.images.dims("step", "images")?;
        if n != images || self.bn_parts == 1 {
            // A number of labels that is wrong is an error of the loss.
            let partners = self.mixed.map(|mixed| &mixed.labels[..]);
            return Ok(vec![BatchPart { images: self.images.clone(), labels: self.labels, partners, share: 1.0 }]);
        }
        let part = |start: usize| {
            let range = start..images.min(start + size);
            let pixels = &self.images.as_slice()[range.start * c * h * w..range.end * c * h * w];
            Ok(BatchPart {
                images: Tensor::from_memory([range.len(), c, h, w], pixels.to_vec())?,
                labels: &self.labels[range.clone()],
                partners: self.mixed.map(|mixed| &mixed.labels[range.clone()]),
                share: range.len() as f64 / images as f64,
            })
        };
        (0..images).step_by(size).map(part).collect()
    }

    /// The mean loss over a part, times its share of the batch; (mixup.3) where images are mixed.
    fn loss(&self, logits: &Var<T>, part: &BatchPart<'_, T>) -> Result<Var<T>> {
        let scaled = |loss: Var<T>, factor: f64| match factor {
            1.0 => Ok(loss),
            _ => loss.mul(&Var::constant(Tensor::scalar(T::of(factor)))),
        };
        let own = logits.cross_entropy(part.labels, self.label_smoothing)?;
        let loss = match (self.mixed, part.partners) {
            (Some(mixed), Some(partners)) => {
                let other = logits.cross_entropy(partners, self.label_smoothing)?;
                scaled(own, mixed.share)?.add(&scaled(other, 1.0 - mixed.share)?)?
            }
            _ => own,
        };
        Ok(scaled(loss, part.share)?)
    }

    /// How many images of a part are classified right: as the label with the larger share, where they are mixed.
    fn correct(&self, logits: &Tensor<T>, part: &BatchPart<'_, T>) -> usize {
        let labels = match (self.mixed, part.partners) {
            (Some(mixed), Some(partners)) if mixed.share < 0.5 => partners,
            _ => part.labels,
        };
        classes(logits).iter().zip(labels).filter(|(a, b)| a == b).count()
    }
}

/// A part of a batch.
pub(crate) struct BatchPart<'a, T: Real> {
    /// `[N,C,H,W]`.
    pub images: Tensor<T>,
    labels: &'a [usize],
    /// The labels of what the images are mixed with.
    partners: Option<&'a [usize]>,
    /// Of the batch.
    share: f64,
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
///
/// Where batch norms see parts of a batch apart, it is as on so many devices (PyTorch's `DataParallel`): each part is
/// normalised by its own statistics, the gradient is that of the mean loss over the whole batch, and the running
/// statistics follow the first part, the first device's.
// ANCHOR: step
pub(crate) fn step<T: Real>(
    network: &mut dyn Network<T>,
    sgd: &mut Sgd<T>,
    step: &Step<'_, T>,
    mut after: impl FnMut(Part),
) -> Result<Taken> {
    let (mut value, mut correct) = (0.0, 0);
    let mut passed: Option<(ParamGradients<T>, Statistics<T>)> = None;
    for part in step.parts()? {
        let cx = Cx::train();
        let logits = network.forward(&cx, &cx.input(part.images.clone(), false))?;
        after(Part::Forward);
        let loss = step.loss(&logits, &part)?;
        value += loss.value().item()?.f64();
        correct += step.correct(logits.value(), &part);
        after(Part::Loss);
        if !value.is_finite() {
            return Ok(Taken::LossNotFinite);
        }
        let gradients = cx.backward(&loss)?;
        match &mut passed {
            None => passed = Some((gradients, cx.into_statistics())),
            Some((sum, _)) => sum.add(gradients)?,
        }
        after(Part::Backward);
    }
    let Some((mut gradients, statistics)) = passed else { return Ok(Taken::Step { loss: value, correct }) };
    if step.clip_norm > 0.0 {
        clip::clip(network, &mut gradients, step.clip_norm);
    }
    sgd.step(network, &gradients, step.lr)?;
    after(Part::Optimiser);
    statistics.apply(network)?;
    if let Some(value) = not_finite(network) {
        return Ok(Taken::ValueNotFinite(value));
    }
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
        let of_batch = Step::new(trainer.config(), &batch.images, &batch.labels, 0.1);
        step(&mut *trainer.model.network, &mut Sgd::new(0.9, 0.0), &of_batch, |_| {}).unwrap()
    }

    /// A small network, and a batch of 11 images for it.
    fn digits() -> (Trainer<f64>, gatefold_data::Batch<f64>) {
        let data = gatefold_data::load(Kind::Digits, "embedded".as_ref(), Some(40)).unwrap();
        let trainer = Trainer::<f64>::new(Config::defaults(Kind::Digits), data).unwrap();
        let options = gatefold_data::Options::evaluation(11);
        let normalisation = evaluate::normalisation(&trainer.model);
        let mut loader = gatefold_data::Loader::new(trainer.train(), &normalisation, &options, 0, 0).unwrap();
        let batch = loader.next().unwrap().unwrap();
        (trainer, batch)
    }

    /// A part of a batch, as a batch.
    fn rows(images: &Tensor<f64>, range: std::ops::Range<usize>) -> Tensor<f64> {
        let [_, c, h, w] = images.dims("test", "images").unwrap();
        let size = c * h * w;
        let pixels = images.as_slice()[range.start * size..range.end * size].to_vec();
        Tensor::from_memory([range.len(), c, h, w], pixels).unwrap()
    }

    fn take(trainer: &mut Trainer<f64>, of: &Step<'_, f64>) -> f64 {
        // η = 1 without momentum and decay: the difference of the weights is the gradient.
        match step(&mut *trainer.model.network, &mut Sgd::new(0.0, 0.0), of, |_| {}).unwrap() {
            Taken::Step { loss, .. } => loss,
            _ => panic!("the step diverged"),
        }
    }

    #[test]
    fn parts_are_normalised_apart_and_the_first_one_is_tracked() {
        let (mut whole, batch) = digits();
        let start = whole.model.network.state();
        let of = Step::new(whole.config(), &batch.images, &batch.labels, 1.0);
        let parts = Step { bn_parts: 4, ..of };
        // ⌈11/4⌉ images in each; two are the least that give batch norm two values in a map of one pixel.
        let lengths: Vec<usize> = parts.parts().unwrap().iter().map(|part| part.labels.len()).collect();
        assert_eq!(lengths, [3, 3, 3, 2]);
        let loss = take(&mut whole, &parts);
        let mut mean_loss = 0.0;
        let mut gradient = std::collections::BTreeMap::<String, Vec<f64>>::new();
        for (number, range) in [0..3, 3..6, 6..9, 9..11].into_iter().enumerate() {
            let (mut alone, _) = digits();
            let (images, share) = (rows(&batch.images, range.clone()), range.len() as f64 / 11.0);
            let config = alone.config().clone();
            mean_loss += share * take(&mut alone, &Step::new(&config, &images, &batch.labels[range], 1.0));
            for (key, value) in alone.model.network.state() {
                if key.contains("running_") {
                    let tracked = &whole.model.network.state()[&key];
                    assert_eq!(number == 0, &value == tracked, "{key} of part {number}");
                } else {
                    let sum = gradient.entry(key.clone()).or_insert_with(|| vec![0.0; value.len()]);
                    let pairs = start[&key].as_slice().iter().zip(value.as_slice());
                    sum.iter_mut().zip(pairs).for_each(|(sum, (before, after))| *sum += share * (before - after));
                }
            }
        }
        assert!((loss - mean_loss).abs() < 1e-12, "{loss} and {mean_loss}");
        for (key, sum) in &gradient {
            let after = &whole.model.network.state()[key];
            for ((before, after), sum) in start[key].as_slice().iter().zip(after.as_slice()).zip(sum) {
                assert!(
                    (before - after - sum).abs() < 1e-10 * (1.0 + sum.abs()),
                    "{key}: {} and {sum}",
                    before - after
                );
            }
        }
        // Another number of parts is another step.
        let (mut two, _) = digits();
        take(&mut two, &Step { bn_parts: 2, ..Step::new(whole.config(), &batch.images, &batch.labels, 1.0) });
        assert_ne!(two.model.network.state(), whole.model.network.state());
    }

    #[test]
    fn more_parts_than_images_are_one_image_each() {
        let (trainer, batch) = digits();
        let step = Step { bn_parts: 64, ..Step::new(trainer.config(), &batch.images, &batch.labels, 1.0) };
        assert_eq!(step.parts().unwrap().len(), 11);
    }

    #[test]
    fn a_mixed_loss_is_the_share_of_both() {
        let (_, batch) = digits();
        let partners: Vec<usize> = batch.labels.iter().map(|label| (label + 3) % 10).collect();
        let loss = |labels: &[usize], mixed: Option<&Mixed>| {
            let (mut trainer, _) = digits();
            let config = Config { label_smoothing: 0.1, ..trainer.config().clone() };
            let plain = Step::new(&config, &batch.images, labels, 1.0);
            let loss = take(&mut trainer, &Step { mixed, ..plain });
            (loss, trainer.model.network.state()["classifier.bias"].to_vec())
        };
        let mixed = Mixed { share: 0.3, labels: partners.clone() };
        let (own, other, both) = (loss(&batch.labels, None), loss(&partners, None), loss(&batch.labels, Some(&mixed)));
        assert!((both.0 - (0.3 * own.0 + 0.7 * other.0)).abs() < 1e-12);
        for ((own, other), both) in own.1.iter().zip(&other.1).zip(&both.1) {
            assert!((both - (0.3 * own + 0.7 * other)).abs() < 1e-12);
        }
    }

    #[test]
    fn smoothing_and_clipping_reach_the_step() {
        let (_, batch) = digits();
        let after = |config: Config| {
            let (mut trainer, _) = digits();
            let before = trainer.model.network.state();
            let loss = take(&mut trainer, &Step::new(&config, &batch.images, &batch.labels, 1.0));
            let moved = before.iter().filter(|(key, _)| !key.contains("running_")).map(|(key, before)| {
                let after = &trainer.model.network.state()[key];
                before.as_slice().iter().zip(after.as_slice()).map(|(b, a)| (b - a).powi(2)).sum::<f64>()
            });
            (loss, moved.sum::<f64>().sqrt())
        };
        let plain = after(Config::defaults(Kind::Digits));
        let smoothed = after(Config { label_smoothing: 0.2, ..Config::defaults(Kind::Digits) });
        assert!((plain.0 - smoothed.0).abs() > 1e-6, "{plain:?} {smoothed:?}");
        let limit = plain.1 / 2.0;
        let clipped = after(Config { clip_norm: limit, ..Config::defaults(Kind::Digits) });
        assert!((clipped.1 - limit).abs() < 1e-5 * limit, "{clipped:?}, limit {limit}");
        assert_eq!(after(Config { clip_norm: 1e9, ..Config::defaults(Kind::Digits) }), plain);
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
