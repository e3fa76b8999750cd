//! Counter-based randomness: `(seed, purpose, a, b)` names a stream, so the same bits come whatever the number of
//! threads and after an interruption; no generator state is ever saved.

use rand::{Rng, RngExt, SeedableRng};
pub use rand_chacha::ChaCha8Rng;

use crate::{Real, Shape, Tensor};

/// What a random stream is for: streams of different purposes never meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Initial values of parameters; `a` counts the parameters.
    Init = 1,
    /// The order of the training images; `a` is the epoch.
    Shuffle = 2,
    /// Augmentation; `a` is the epoch, `b` the image's index in the file.
    Augment = 3,
    /// Test inputs and random projections.
    Test = 4,
    /// Mixup; `a` is the epoch, `b` the batch.
    Mixup = 5,
}

/// The stream named by `(seed, purpose, a, b)`.
pub fn stream(seed: u64, purpose: Purpose, a: u64, b: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (part, word) in key.chunks_exact_mut(8).zip([seed, purpose as u64, a, b]) {
        part.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// A value of U(low, high).
pub fn uniform(rng: &mut impl Rng, low: f64, high: f64) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

/// A value of N(0, 1), by the Box-Muller transform.
pub fn normal(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

/// A tensor of N(0, 1) for tests, named by `seed`; drawn in logical order.
pub fn randn<T: Real>(shape: impl Into<Shape>, seed: u64) -> Tensor<T> {
    let mut rng = stream(seed, Purpose::Test, 0, 0);
    Tensor::from_fn(shape, |_| T::of(normal(&mut rng)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_its_value_and_no_other() {
        let draw = |s, p, a, b| stream(s, p, a, b).random::<u64>();
        assert_eq!(draw(1, Purpose::Augment, 2, 3), draw(1, Purpose::Augment, 2, 3));
        assert_ne!(draw(1, Purpose::Augment, 2, 3), draw(1, Purpose::Augment, 3, 2));
        assert_ne!(draw(1, Purpose::Augment, 2, 3), draw(1, Purpose::Shuffle, 2, 3));
    }

    #[test]
    fn randn_has_the_moments_of_a_normal_distribution() {
        let x = randn::<f64>([10_000], 5);
        let mean = x.as_slice().iter().sum::<f64>() / 1e4;
        let variance = x.as_slice().iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / 1e4;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "mean {mean}, variance {variance}");
    }
}
