//! A pointwise site of three convolutions and three batch norms as one affine map: outputs, gradients and running
//! statistics of the expanded form at about the price of one convolution.
//!
//! Behind a 1x1 convolution t = W x the batch statistics follow from the moments of x alone: mean(t) = W μ and
//! var(t) = diag(W C Wᵀ), with μ and C the mean and the covariance of x over samples and positions. So every batch norm
//! inside the site is known before any convolution runs, and the branch tensors are never made.
//!
//! Index 0 is the bypass, 1 and 2 are the convolutions of the branch, b is the sample, x_b is Cin × P.
//! ```text
//! μ_b = mean_p x_b    C_b = mean_p (x_b − μ_b)(x_b − μ_b)ᵀ    μ = mean_b μ_b    δ_b = μ_b − μ    C = mean_b (C_b + δ_b δ_bᵀ)
//! s_0 = γ_0 / √(diag(W_0 C W_0ᵀ) + ε)                                                            (ft.1)
//! s_1 = γ_1 / √(diag(W_1 C W_1ᵀ) + ε),    V = diag(s_1) W_1                                      (ft.2)
//! a_b = gate(F(μ_b));  MAConv: 1                                                                 (ft.3)
//! K_b = W_2 diag(a_b) V,    e_b = W_2 (a_b ⊙ (V δ_b + β_1))                                      (ft.4)
//! m_2 = mean_b e_b                                                                               (ft.5)
//! v_2 = mean_b [ diag(K_b C_b K_bᵀ) + (e_b − m_2)² ],    s_2 = γ_2 / √(v_2 + ε)                  (ft.6)
//! M_b = diag(s_0) W_0 + diag(s_2) K_b,    f_b = β_0 + s_0 ⊙ W_0 δ_b + β_2 + s_2 ⊙ (e_b − m_2)
//! y_b = M_b (x_b − μ_b 1ᵀ) + f_b 1ᵀ                                                              (ft.7)
//! dx_b = M_bᵀ dy_b + 2/P dC_b (x_b − μ_b 1ᵀ) + h_b 1ᵀ,    h_b = (dμ_b − M_bᵀ g_b)/P,  g_b = Σ_p dy_b    (ft.8)
//! ```
//! Everything is centred, so that a large mean cancels no digits; sums over the batch and the scales are in f64. Without
//! a gate nothing depends on the sample, and the whole batch counts as *one* sample of N·P positions: that is the only
//! difference between MAConv and MDConv here. A convolution and its batch norm without a branch are (ft.9), see
//! [`single_forward`].

mod backward;
mod correlate;
mod forward;
mod moments;
mod panels;
mod samples;
mod saved;
mod single;
mod site;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use backward::{FoldedGrads, LayerGrads, folded_backward};
pub use correlate::Correlations;
pub(crate) use correlate::{Correlation, Correlator};
pub use forward::{Folded, folded_forward};
pub use moments::{MomentsGrad, sample_moments, sample_moments_backward};
pub use single::{Single, SingleGrads, single_backward, single_forward};
pub use site::PendingSite;
pub(crate) use site::SiteRows;

use crate::parallel::{PIECES, ranges};
use crate::{Error, Real, Result, Tensor};

/// A convolution of the site and the batch norm behind it.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a, T: Real> {
    /// W `[rows, columns, 1, 1]`.
    pub weight: &'a Tensor<T>,
    /// γ `[rows]`.
    pub gamma: &'a Tensor<T>,
    /// β `[rows]`.
    pub beta: &'a Tensor<T>,
    /// ε.
    pub eps: f64,
}

impl<T: Real> Layer<'_, T> {
    fn check(&self, op: &'static str, name: &'static str, [rows, columns]: [usize; 2]) -> Result<()> {
        check_shape(op, name, self.weight, &[rows, columns, 1, 1])?;
        if rows * columns == 0 {
            return Err(Error::shape(op, name, "at least one row and one column", self.weight.shape()));
        }
        check_shape(op, "gamma", self.gamma, &[rows])?;
        check_shape(op, "beta", self.beta, &[rows])
    }
}

/// The three convolutions of a site.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a, T: Real> {
    /// W_0 `[Cout, Cin]`, if the bypass is there.
    pub bypass: Option<Layer<'a, T>>,
    /// W_1 `[m, Cin]`.
    pub first: Layer<'a, T>,
    /// W_2 `[Cout, m]`.
    pub second: Layer<'a, T>,
}

impl<T: Real> Site<'_, T> {
    fn check(&self, op: &'static str, [c, o, m]: [usize; 3]) -> Result<()> {
        self.first.check(op, "W_1", [m, c])?;
        self.second.check(op, "W_2", [o, m])?;
        self.bypass.as_ref().map_or(Ok(()), |bypass| bypass.check(op, "W_0", [o, c]))
    }
}

fn check_shape<T: Real>(op: &'static str, arg: &'static str, value: &Tensor<T>, expected: &[usize]) -> Result<()> {
    if value.shape()[..] == *expected {
        return Ok(());
    }
    Err(Error::shape(op, arg, format!("{expected:?}"), value.shape()))
}

/// The extents: `samples` groups of `positions` pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sizes {
    samples: usize,
    positions: usize,
    c: usize,
    o: usize,
    m: usize,
}

impl Sizes {
    fn check<T: Real>(op: &'static str, x: &Tensor<T>, site: &Site<'_, T>, a: Option<&Tensor<T>>) -> Result<Self> {
        let [n, c, h, w] = x.dims(op, "x")?;
        let [o, m, _, _] = site.second.weight.dims(op, "W_2")?;
        site.check(op, [c, o, m])?;
        if let Some(a) = a {
            check_shape(op, "a", a, &[n, m])?;
        }
        let (samples, positions) = grouped(n, h * w, a.is_some());
        Ok(Sizes { samples, positions, c, o, m })
    }

    /// Values a channel has.
    fn count(&self) -> usize {
        self.samples * self.positions
    }

    fn check_count(&self, op: &'static str) -> Result<()> {
        if self.count() < 2 {
            let message = "1 value a channel has no variance; train with a larger batch or use eval mode";
            return Err(Error::invalid(op, message));
        }
        Ok(())
    }
}

/// Samples and positions of each: without a gate the batch counts as one.
fn grouped(n: usize, positions: usize, per_sample: bool) -> (usize, usize) {
    if per_sample { (n, positions) } else { (1, n * positions) }
}

/// A task of a pass over the pixels: some samples, or a part of one where there are few. One after the other, they share
/// the task's scratch.
#[derive(Debug, Clone)]
struct Task(Vec<(usize, Range<usize>)>);

impl Task {
    /// All tasks, in the order of the pixels.
    fn all(samples: usize, positions: usize) -> Vec<Task> {
        if samples >= PIECES {
            let whole = |b| (b, b * positions..(b + 1) * positions);
            return ranges(samples, PIECES).into_iter().map(|samples| Task(samples.map(whole).collect())).collect();
        }
        let parts = PIECES.div_ceil(samples.max(1));
        let of_sample = |b| {
            let part = move |p: Range<usize>| Task(vec![(b, b * positions + p.start..b * positions + p.end)]);
            ranges(positions, parts).into_iter().map(part)
        };
        (0..samples).flat_map(of_sample).collect()
    }

    /// The pixels from the first sample's to the last one's.
    fn pixels(&self) -> Range<usize> {
        let end = |part: Option<&(usize, Range<usize>)>| part.map_or(0..0, |(_, pixels)| pixels.clone());
        end(self.0.first()).start..end(self.0.last()).end
    }
}

/// Adds up consecutive results of the same sample.
fn join_parts<A>(parts: impl IntoIterator<Item = (usize, A)>, mut join: impl FnMut(&mut A, A)) -> Vec<A> {
    let mut of_sample: Vec<A> = Vec::new();
    for (b, part) in parts {
        match of_sample.get_mut(b) {
            Some(sum) => join(sum, part),
            None => of_sample.push(part),
        }
    }
    of_sample
}

/// Pixels of a block: it stays in the first cache.
fn block(c: usize, o: usize) -> usize {
    ((1 << 11) / c.max(o)).clamp(8, 32)
}

/// `pixels` in blocks of at most `step`.
fn blocks(pixels: Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> {
    pixels.clone().step_by(step).map(move |start| start..(start + step).min(pixels.end))
}

fn to_f64<T: Real>(values: &[T]) -> Vec<f64> {
    values.iter().map(|v| v.f64()).collect()
}

fn tensor<T: Real>(shape: &[usize], values: &[f64]) -> Result<Tensor<T>> {
    Tensor::from_memory(shape, values.iter().map(|&v| T::of(v)).collect())
}

/// A row a sample: the means and the covariances.
fn check_moments<T: Real>(op: &'static str, s: &Sizes, moments: &Tensor<T>) -> Result<()> {
    check_shape(op, "moments", moments, &[s.samples, s.c + s.c * s.c])
}
