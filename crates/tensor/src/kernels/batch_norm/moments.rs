//! Sums and moments of rows of channels: added up in `T` inside a block, joined in f64.

use crate::Real;
use crate::kernels::rows::{add_column_sums, block, fold, widen};

/// Two sums a channel.
pub(super) struct Sums {
    pub first: Vec<f64>,
    pub second: Vec<f64>,
}

impl Sums {
    pub fn zeros(c: usize) -> Self {
        Sums { first: vec![0.0; c], second: vec![0.0; c] }
    }

    /// Adds the sums of other rows.
    pub fn join(&mut self, other: &Sums) {
        self.first.iter_mut().zip(&other.first).for_each(|(a, b)| *a += b);
        self.second.iter_mut().zip(&other.second).for_each(|(a, b)| *a += b);
    }

    /// Adds both terms of every element of a block, `mean` being a wide row.
    pub fn add<T: Real>(&mut self, a: &[T], b: &[T], mean: &[T], terms: impl Fn(T, T, T) -> [T; 2]) {
        let width = mean.len();
        let (mut first, mut second) = (vec![T::zero(); width], vec![T::zero(); width]);
        for (a, b) in a.chunks(width).zip(b.chunks(width)) {
            let n = a.len();
            let (b, mean, first, second) = (&b[..n], &mean[..n], &mut first[..n], &mut second[..n]);
            for i in 0..n {
                let [p, q] = terms(a[i], b[i], mean[i]);
                first[i] += p;
                second[i] += q;
            }
        }
        fold(&first, &mut self.first);
        fold(&second, &mut self.second);
    }
}

/// Mean and sum of squared deviations of some rows, a channel.
pub(super) struct Moments {
    count: f64,
    pub mean: Vec<f64>,
    pub squares: Vec<f64>,
}

impl Moments {
    pub fn none(c: usize) -> Self {
        Moments { count: 0.0, mean: vec![0.0; c], squares: vec![0.0; c] }
    }

    /// Of rows, block by block. A block is summed around the mean of what came before it, the first one around its
    /// own: what differs from that mean is then part of the variance anyway, so nothing cancels.
    pub fn of<T: Real>(x: &[T], c: usize) -> Self {
        let mut moments = Moments::none(c);
        for x in x.chunks(block(c)) {
            let count = (x.len() / c) as f64;
            let mut near = moments.mean.clone();
            if moments.count == 0.0 {
                add_column_sums(x, &mut near);
                near.iter_mut().for_each(|sum| *sum /= count);
            }
            let shift = widen(near.iter().map(|&mean| T::of(mean)));
            let mut sums = Sums::zeros(c);
            sums.add(x, x, &shift, |x, _, shift| {
                let d = x - shift;
                [d, d * d]
            });
            let mut block = Moments { count, mean: sums.first, squares: sums.second };
            for ((mean, squares), shift) in block.mean.iter_mut().zip(&mut block.squares).zip(&shift) {
                *squares -= *mean * *mean / count;
                *mean = shift.f64() + *mean / count;
                if *squares < 0.0 {
                    *squares = 0.0; // rounding of a constant channel; a NaN stays
                }
            }
            moments.join(&block);
        }
        moments
    }

    /// Takes in the rows of `other`: the squares grow by the squared distance of the means.
    // ANCHOR: join_moments
    pub fn join(&mut self, other: &Moments) {
        let count = self.count + other.count;
        for (c, (mean, squares)) in self.mean.iter_mut().zip(&mut self.squares).enumerate() {
            let distance = other.mean[c] - *mean;
            *squares += other.squares[c] + distance * distance * self.count * other.count / count;
            *mean += distance * other.count / count;
        }
        self.count = count;
    }
    // ANCHOR_END: join_moments
}
