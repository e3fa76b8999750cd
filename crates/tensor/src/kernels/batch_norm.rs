//! Batch normalisation (Ioffe & Szegedy 2015, algorithm 1). Statistics of channel c over the M values of all other axes.
//! ```text
//! μ[c]         = 1/M Σ_{n,i,j} x[n,c,i,j]                                          (bn.1)
//! σ²[c]        = 1/M Σ_{n,i,j} (x[n,c,i,j] − μ[c])²                                (bn.2)
//! x̂[n,c,i,j]   = (x[n,c,i,j] − μ[c]) / √(σ²[c] + eps)                              (bn.3)
//! y[n,c,i,j]   = weight[c] · x̂[n,c,i,j] + bias[c]                                  (bn.4)
//! dbias[c]     = Σ_{n,i,j} dy[n,c,i,j]                                             (bn.5)
//! dweight[c]   = Σ_{n,i,j} dy[n,c,i,j] · x̂[n,c,i,j]                                (bn.6)
//! dx[n,c,i,j]  = weight[c]/√(σ²[c] + eps) · (dy[n,c,i,j] − dbias[c]/M − x̂[n,c,i,j] · dweight[c]/M)   (bn.7)
//! dx[n,c,i,j]  = weight[c]/√(σ²[c] + eps) · dy[n,c,i,j]      where μ and σ² are constants            (bn.8)
//! ```
//! The variance is gathered in one pass over memory: each block of rows is summed up around a shift close to the mean,
//! and blocks are joined in f64 by the formulas of Chan, Golub & LeVeque (1983). `E[x²] − E[x]²` would lose every digit
//! in f32 once the mean is a thousand deviations.

#[cfg(test)]
mod tests;

use std::ops::Range;

use super::moments::{Moments, Sums};
use super::rows::{block, for_each_chunk, sum_rows, wide, widen};
use crate::{Error, Real, Result, Tensor};

/// The statistics of one batch.
#[derive(Clone, Debug)]
pub struct BatchStats<T: Real> {
    /// (bn.1), `[C]`.
    pub mean: Tensor<T>,
    /// (bn.2), biased (divided by [`count`](Self::count)), `[C]`.
    pub var: Tensor<T>,
    /// M, the number of values a channel has.
    pub count: usize,
}

impl<T: Real> BatchStats<T> {
    /// From moments; fewer than two values have no variance.
    pub(crate) fn of(op: &'static str, moments: Moments) -> Result<Self> {
        let (c, count) = (moments.mean.len(), moments.count as usize);
        if count < 2 {
            let message =
                format!("{count} values a channel have no variance; train with a larger batch or use eval mode");
            return Err(Error::invalid(op, message));
        }
        let vector = |values: Vec<f64>| Tensor::from_memory([c], values.into_iter().map(T::of).collect());
        let var = moments.squares.iter().map(|squares| squares / count as f64).collect();
        Ok(BatchStats { mean: vector(moments.mean)?, var: vector(var)?, count })
    }

    /// The variance divided by M − 1, `[C]`: what running statistics track, as in PyTorch.
    #[must_use]
    pub fn unbiased_var(&self) -> Tensor<T> {
        let factor = T::of(self.count as f64 / (self.count as f64 - 1.0));
        self.var.map(|var| var * factor)
    }
}

/// The gradients of a batch normalisation; `None` where not wanted.
#[derive(Clone, Debug)]
pub struct BatchNormGrads<T: Real> {
    /// The input's, in its shape.
    pub dx: Option<Tensor<T>>,
    /// The weight's, `[C]`.
    pub dweight: Option<Tensor<T>>,
    /// The bias's, `[C]`.
    pub dbias: Option<Tensor<T>>,
}

/// Normalises by the batch's own statistics, (bn.1) to (bn.4), and returns them.
///
/// # Shapes
/// `x [N,C]`, `[N,C,L]` or `[N,C,H,W]`; `weight`, `bias [C]` → `y` as `x`, statistics `[C]`.
///
/// # Errors
/// [`Error::Shape`] if the shapes disagree; [`Error::Invalid`] if a channel has fewer than two values, which have no
/// variance, or if `eps` is negative or not finite.
// ANCHOR: batch_norm_train
pub fn batch_norm_train<T: Real>(
    x: &Tensor<T>,
    weight: &Tensor<T>,
    bias: &Tensor<T>,
    eps: f64,
) -> Result<(Tensor<T>, BatchStats<T>)> {
    const OP: &str = "batch_norm_train";
    let rows = Rows::of(OP, x)?;
    rows.check_vectors(OP, [("weight", weight), ("bias", bias)])?;
    check_eps(OP, eps)?;
    let stats = rows.statistics(OP)?;
    let y = rows.normalise(&stats.mean, &stats.var, weight, bias, eps);
    Ok((y.reshape(x.shape())?, stats))
}
// ANCHOR_END: batch_norm_train

/// The statistics alone, (bn.1) and (bn.2).
///
/// # Errors
/// As [`batch_norm_train`].
pub fn statistics<T: Real>(x: &Tensor<T>) -> Result<BatchStats<T>> {
    const OP: &str = "batch_norm_train";
    Rows::of(OP, x)?.statistics(OP)
}

/// The gradients of [`batch_norm_train`], (bn.5) to (bn.7), as far as `want` (x, weight, bias) asks for them.
///
/// # Shapes
/// As [`batch_norm_train`]; `dy` as `x`.
///
/// # Errors
/// As [`batch_norm_train`], and if `dy` or the statistics do not fit `x`.
pub fn batch_norm_train_backward<T: Real>(
    x: &Tensor<T>,
    weight: &Tensor<T>,
    stats: &BatchStats<T>,
    eps: f64,
    dy: &Tensor<T>,
    want: [bool; 3],
) -> Result<BatchNormGrads<T>> {
    const OP: &str = "batch_norm_train_backward";
    if Rows::of(OP, x)?.count() != stats.count {
        let message = format!("statistics of {} values a channel do not belong to x {:?}", stats.count, x.shape());
        return Err(Error::invalid(OP, message));
    }
    backward(OP, x, [&stats.mean, &stats.var, weight], eps, dy, want, true)
}

/// Normalises by given statistics, (bn.3) and (bn.4).
///
/// # Shapes
/// `x [N,C]`, `[N,C,L]` or `[N,C,H,W]`; `mean`, `var`, `weight`, `bias [C]` → `y` as `x`.
///
/// # Errors
/// [`Error::Shape`] if the shapes disagree; [`Error::Invalid`] if `eps` is negative or not finite.
pub fn batch_norm_eval<T: Real>(
    x: &Tensor<T>,
    mean: &Tensor<T>,
    var: &Tensor<T>,
    weight: &Tensor<T>,
    bias: &Tensor<T>,
    eps: f64,
) -> Result<Tensor<T>> {
    const OP: &str = "batch_norm_eval";
    let rows = Rows::of(OP, x)?;
    rows.check_vectors(OP, [("mean", mean), ("var", var), ("weight", weight), ("bias", bias)])?;
    check_eps(OP, eps)?;
    rows.normalise(mean, var, weight, bias, eps).reshape(x.shape())
}

/// The gradients of [`batch_norm_eval`], (bn.5), (bn.6) and (bn.8), as far as `want` (x, weight, bias) asks for them;
/// the statistics are constants.
///
/// # Shapes
/// As [`batch_norm_eval`]; `dy` as `x`.
///
/// # Errors
/// As [`batch_norm_eval`], and if `dy` has not the shape of `x`.
pub fn batch_norm_eval_backward<T: Real>(
    x: &Tensor<T>,
    mean: &Tensor<T>,
    var: &Tensor<T>,
    weight: &Tensor<T>,
    eps: f64,
    dy: &Tensor<T>,
    want: [bool; 3],
) -> Result<BatchNormGrads<T>> {
    backward("batch_norm_eval_backward", x, [mean, var, weight], eps, dy, want, false)
}

// ANCHOR: batch_norm_backward
fn backward<T: Real>(
    op: &'static str,
    x: &Tensor<T>,
    [mean, var, weight]: [&Tensor<T>; 3],
    eps: f64,
    dy: &Tensor<T>,
    [want_x, want_weight, want_bias]: [bool; 3],
    through_statistics: bool,
) -> Result<BatchNormGrads<T>> {
    let rows = Rows::of(op, x)?;
    rows.check_vectors(op, [("mean", mean), ("var", var), ("weight", weight)])?;
    check_eps(op, eps)?;
    if dy.shape() != x.shape() {
        return Err(Error::shape(op, "dy", format!("{:?}", x.shape()), dy.shape()));
    }
    let dy = Rows::of(op, dy)?;
    let per_deviation: Vec<f64> = var.as_slice().iter().map(|var| 1.0 / (var.f64() + eps).sqrt()).collect();
    let scale = || weight.as_slice().iter().zip(&per_deviation).map(|(weight, p)| weight.f64() * p);

    let sums = if want_weight || want_bias || (want_x && through_statistics) {
        rows.gradient_sums(&dy, mean)
    } else {
        Sums::zeros(rows.c)
    };
    let dweight: Vec<f64> = sums.second.iter().zip(&per_deviation).map(|(sum, p)| sum * p).collect(); // (bn.6)
    let dbias = sums.first; // (bn.5)
    let dx = match (want_x, through_statistics) {
        (false, _) => None,
        (true, false) => Some(dy.scale(scale().map(T::of))), // (bn.8)
        (true, true) => {
            let m = rows.count() as f64;
            let slope = dweight.iter().zip(&per_deviation).map(|(dweight, p)| T::of(dweight * p / m));
            let offset = dbias.iter().map(|dbias| T::of(dbias / m));
            Some(rows.train_dx(&dy, mean, scale().map(T::of), offset, slope)) // (bn.7)
        }
    };
    let vector = |values: Vec<f64>| Tensor::from_memory([rows.c], values.into_iter().map(T::of).collect());
    Ok(BatchNormGrads {
        dx: dx.map(|dx| dx.reshape(x.shape())).transpose()?,
        dweight: want_weight.then(|| vector(dweight)).transpose()?,
        dbias: want_bias.then(|| vector(dbias)).transpose()?,
    })
}
// ANCHOR_END: batch_norm_backward

fn check_eps(op: &'static str, eps: f64) -> Result<()> {
    if eps >= 0.0 && eps.is_finite() {
        Ok(())
    } else {
        Err(Error::invalid(op, format!("eps is {eps}; it must be finite and not negative")))
    }
}

/// A tensor as rows of channels, which is how ranks 2 and 4 lie in memory; rank 3 is copied.
struct Rows<T: Real> {
    x: Tensor<T>,
    c: usize,
}

impl<T: Real> Rows<T> {
    fn of(op: &'static str, x: &Tensor<T>) -> Result<Self> {
        match x.shape()[..] {
            [_, c] | [_, c, _, _] if c > 0 => Ok(Rows { x: x.clone(), c }),
            [n, c, l] if c > 0 => Ok(Rows { x: x.reshape([n, c, l, 1])?, c }),
            _ => Err(Error::shape(op, "x", "[N, C], [N, C, L] or [N, C, H, W] with C ≥ 1", x.shape())),
        }
    }

    /// M.
    fn count(&self) -> usize {
        self.x.len() / self.c
    }

    fn check_vectors<const K: usize>(&self, op: &'static str, vectors: [(&'static str, &Tensor<T>); K]) -> Result<()> {
        for (arg, vector) in vectors {
            if vector.shape()[..] != [self.c] {
                let expected = format!("[{}], one value a channel of x", self.c);
                return Err(Error::shape(op, arg, expected, vector.shape()));
            }
        }
        Ok(())
    }

    /// (bn.1), (bn.2).
    fn statistics(&self, op: &'static str) -> Result<BatchStats<T>> {
        let (c, count) = (self.c, self.count());
        let x = self.x.as_slice();
        let of_rows = |rows: Range<usize>| Moments::of(&x[rows.start * c..rows.end * c], c);
        let moments = sum_rows(count, c, of_rows, |a, b| a.join(&b)).unwrap_or_else(|| Moments::none(c));
        BatchStats::of(op, moments)
    }

    /// (bn.3), (bn.4). The mean is subtracted first: folding it into the bias cancels digits.
    fn normalise(
        &self,
        mean: &Tensor<T>,
        var: &Tensor<T>,
        weight: &Tensor<T>,
        bias: &Tensor<T>,
        eps: f64,
    ) -> Tensor<T> {
        let scale = weight.as_slice().iter().zip(var.as_slice());
        let scale = widen(scale.map(|(weight, var)| T::of(weight.f64() / (var.f64() + eps).sqrt())));
        let [mean, bias] = [mean, bias].map(|v| widen(v.as_slice().iter().copied()));
        self.map_wide(|x, y| {
            let n = y.len();
            let (x, mean, scale, bias) = (&x[..n], &mean[..n], &scale[..n], &bias[..n]);
            for i in 0..n {
                y[i] = (x[i] - mean[i]) * scale[i] + bias[i];
            }
        })
    }

    /// The rows times one factor a channel.
    fn scale(&self, factor: impl ExactSizeIterator<Item = T> + Clone) -> Tensor<T> {
        let factor = widen(factor);
        self.map_wide(|x, y| {
            let n = y.len();
            let (x, factor) = (&x[..n], &factor[..n]);
            for i in 0..n {
                y[i] = x[i] * factor[i];
            }
        })
    }

    /// `scale · (dy − offset − slope · (x − mean))`: (bn.7) with what is constant a channel multiplied out.
    fn train_dx(
        &self,
        dy: &Rows<T>,
        mean: &Tensor<T>,
        scale: impl ExactSizeIterator<Item = T> + Clone,
        offset: impl ExactSizeIterator<Item = T> + Clone,
        slope: impl ExactSizeIterator<Item = T> + Clone,
    ) -> Tensor<T> {
        let (scale, offset, slope) = (widen(scale), widen(offset), widen(slope));
        let (mean, width) = (widen(mean.as_slice().iter().copied()), wide(self.c));
        let (x, dy) = (self.x.as_slice(), dy.x.as_slice());
        let mut dx = Tensor::zeros(self.x.shape());
        for_each_chunk(dx.as_mut_slice(), width, |start, dx| {
            let rows = x[start..].chunks(width).zip(dy[start..].chunks(width));
            for (dx, (x, dy)) in dx.chunks_mut(width).zip(rows) {
                let n = dx.len();
                let (x, dy, mean) = (&x[..n], &dy[..n], &mean[..n]);
                let (scale, offset, slope) = (&scale[..n], &offset[..n], &slope[..n]);
                for i in 0..n {
                    dx[i] = scale[i] * (dy[i] - offset[i] - slope[i] * (x[i] - mean[i]));
                }
            }
        });
        dx
    }

    /// Σ dy and Σ dy · (x − mean) a channel.
    fn gradient_sums(&self, dy: &Rows<T>, mean: &Tensor<T>) -> Sums {
        let (c, x, dy) = (self.c, self.x.as_slice(), dy.x.as_slice());
        let mean = widen(mean.as_slice().iter().copied());
        let of_rows = |rows: Range<usize>| {
            let (x, dy) = (&x[rows.start * c..rows.end * c], &dy[rows.start * c..rows.end * c]);
            let mut sums = Sums::zeros(c);
            for (x, dy) in x.chunks(block(c)).zip(dy.chunks(block(c))) {
                sums.add(x, dy, &mean, |x, dy, mean| [dy, dy * (x - mean)]);
            }
            sums
        };
        sum_rows(self.count(), c, of_rows, |a, b| a.join(&b)).unwrap_or_else(|| Sums::zeros(c))
    }

    /// A tensor of this shape, each wide row computed from the wide row here.
    fn map_wide(&self, f: impl Fn(&[T], &mut [T]) + Send + Sync) -> Tensor<T> {
        let (x, width) = (self.x.as_slice(), wide(self.c));
        let mut y = Tensor::zeros(self.x.shape());
        for_each_chunk(y.as_mut_slice(), width, |start, y| {
            for (y, x) in y.chunks_mut(width).zip(x[start..].chunks(width)) {
                f(x, y);
            }
        });
        y
    }
}
