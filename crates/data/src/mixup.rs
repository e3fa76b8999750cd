//! Mixup (Zhang, Cissé, Dauphin, Lopez-Paz 2018): a batch is mixed with a permutation of itself.
//!
//! ```text
//! λ  ~ Beta(α, α), once a batch;  π a permutation of the batch                  (mixup.1)
//! x' = λ·x + (1 − λ)·x_π                                                        (mixup.2)
//! L' = λ·L(y) + (1 − λ)·L(y_π)                                                  (mixup.3)
//! ```
//! Normalised images are mixed: the normalisation is affine and the shares sum to 1, so mixing before it is the same.

use gatefold_tensor::random::{Purpose, normal, stream};
use gatefold_tensor::{Real, Tensor};
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

/// How strongly images are mixed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mixup {
    /// α of Beta(α, α), above 0: near 0 hardly at all, 1 by uniform shares.
    pub alpha: f64,
}

/// What the images of a batch have been mixed with.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixed {
    /// λ, the share of each image's own pixels and label.
    pub share: f64,
    /// The class of the image that each has been mixed with.
    pub labels: Vec<usize>,
}

impl Mixup {
    /// λ and π of a batch of `images`, (mixup.1), named by seed, epoch and batch alone.
    pub(crate) fn draw(self, seed: u64, epoch: u64, batch: usize, images: usize) -> (f64, Vec<usize>) {
        let mut rng = stream(seed, Purpose::Mixup, epoch, batch as u64);
        let share = beta(self.alpha, &mut rng);
        let mut partners: Vec<usize> = (0..images).collect();
        partners.shuffle(&mut rng);
        (share, partners)
    }
}

/// (mixup.2) in place.
pub(crate) fn mix<T: Real>(images: &mut Tensor<T>, share: f64, partners: &[usize]) {
    let size = images.len() / partners.len().max(1);
    let own = images.as_slice().to_vec();
    let (share, rest) = (T::of(share), T::of(1.0 - share));
    for (x, &partner) in images.as_mut_slice().chunks_exact_mut(size).zip(partners) {
        let other = &own[partner * size..][..size];
        x.iter_mut().zip(other).for_each(|(x, &other)| *x = share * *x + rest * other);
    }
}

/// A value of Beta(α, α): X/(X + Y) of two Gamma variates, by their logarithms, which do not vanish for a small α.
fn beta(alpha: f64, rng: &mut impl Rng) -> f64 {
    let (x, y) = (ln_gamma_variate(alpha, rng), ln_gamma_variate(alpha, rng));
    1.0 / (1.0 + (y - x).exp())
}

/// The logarithm of a value of Gamma(α, 1) (Marsaglia and Tsang 2000; below 1 by Gamma(α) = Gamma(α + 1)·U^(1/α)).
fn ln_gamma_variate(alpha: f64, rng: &mut impl Rng) -> f64 {
    // In (0, 1]: its logarithm is a number.
    let uniform = |rng: &mut _| 1.0 - RngExt::random::<f64>(rng);
    if alpha < 1.0 {
        let u: f64 = uniform(rng);
        return ln_gamma_variate(alpha + 1.0, rng) + u.ln() / alpha;
    }
    let d = alpha - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = normal(rng);
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && uniform(rng).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return (d * v).ln();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_the_moments_of_the_beta_distribution() {
        for alpha in [0.001, 0.2, 1.0, 4.0, 1000.0] {
            let draws: Vec<f64> = (0..20_000).map(|batch| Mixup { alpha }.draw(5, 1, batch, 0).0).collect();
            assert!(draws.iter().all(|share| (0.0..=1.0).contains(share)), "α = {alpha}");
            let mean = draws.iter().sum::<f64>() / 2e4;
            let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 2e4;
            // Var of Beta(α, α) is 1/(4·(2α + 1)).
            let expected = 0.25 / (2.0 * alpha + 1.0);
            assert!((mean - 0.5).abs() < 0.01, "α = {alpha}: mean {mean}");
            assert!((variance / expected - 1.0).abs() < 0.05, "α = {alpha}: variance {variance}, not {expected}");
        }
    }

    #[test]
    fn a_uniform_share_is_uniform() {
        let draws: Vec<f64> = (0..20_000).map(|batch| Mixup { alpha: 1.0 }.draw(1, 0, batch, 0).0).collect();
        for tenth in 1..10 {
            let limit = f64::from(tenth) / 10.0;
            let below = draws.iter().filter(|&&share| share < limit).count() as f64 / 2e4;
            assert!((below - limit).abs() < 0.015, "{below} below {limit}");
        }
    }

    #[test]
    fn a_draw_belongs_to_its_seed_epoch_and_batch() {
        let mixup = Mixup { alpha: 0.5 };
        let draw = mixup.draw(1, 2, 3, 16);
        assert_eq!(draw, mixup.draw(1, 2, 3, 16));
        for other in [mixup.draw(2, 2, 3, 16), mixup.draw(1, 3, 3, 16), mixup.draw(1, 2, 4, 16)] {
            assert!(draw.0 != other.0 && draw.1 != other.1, "{draw:?} {other:?}");
        }
        let mut partners = draw.1;
        partners.sort_unstable();
        assert_eq!(partners, (0..16).collect::<Vec<_>>());
    }

    #[test]
    fn images_are_mixed_as_computed_by_hand() {
        let mut images = Tensor::from_vec([3, 1, 1, 2], vec![0.0f64, 8.0, 4.0, -4.0, 16.0, 1.0]).unwrap();
        mix(&mut images, 0.75, &[1, 2, 2]);
        assert_eq!(images.to_vec(), [1.0, 5.0, 7.0, -2.75, 16.0, 1.0]);
    }
}
