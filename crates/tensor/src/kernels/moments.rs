//! Sums and moments of rows of channels: added up in `T` inside a block, joined in f64.

#![allow(unsafe_code, reason = "vectors are loaded through raw pointers")]

use super::tile::lanes;
use crate::Real;
use crate::kernels::rows::{add_column_sums, block, fold, widen};
use crate::simd::Vector;

/// Two sums a channel.
pub(crate) struct Sums {
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

    /// Adds vectors of sums to the channels `at .. at + n`.
    #[inline(always)]
    pub fn add_lanes<T: Real, V: Vector<T>>(&mut self, at: usize, n: usize, first: V, second: V) {
        let mut lanes = [T::zero(); 16];
        assert!(V::LANES <= 16 && n <= V::LANES);
        for (vector, sums) in [(first, &mut self.first), (second, &mut self.second)] {
            // SAFETY: sixteen elements are at least a vector.
            unsafe { vector.store(lanes.as_mut_ptr()) };
            sums[at..at + n].iter_mut().zip(&lanes).for_each(|(sum, lane)| *sum += lane.f64());
        }
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

/// A sum of squares that rounding may have left below zero, as that of a constant channel; a NaN stays.
pub(crate) fn at_least_zero<T: Real>(squares: T) -> T {
    if squares < T::zero() { T::zero() } else { squares }
}

/// Mean and sum of squared deviations of some rows, a channel.
pub(crate) struct Moments {
    pub count: f64,
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
                *squares = at_least_zero(*squares);
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

/// The moments of rows that a kernel has just written, gathered while they are in cache: summed up around the first
/// row, which is as far from the mean as any value is, so that a large mean cancels no digits.
pub(crate) struct RowMoments<T> {
    pivot: Vec<T>,
    sums: Sums,
    count: usize,
}

impl<T: Real> RowMoments<T> {
    pub fn none(c: usize) -> Self {
        RowMoments { pivot: Vec::new(), sums: Sums::zeros(c), count: 0 }
    }

    /// Takes in `rows`, C elements each.
    #[inline(always)]
    pub fn add<V: Vector<T>>(&mut self, rows: &[T], c: usize) {
        assert!(c == self.sums.first.len());
        if self.count == 0 {
            self.pivot = rows[..c].to_vec();
        }
        self.count += rows.len() / c;
        for at in (0..c).step_by(V::LANES) {
            let n = V::LANES.min(c - at);
            // SAFETY: `n` elements from `at` on lie inside every row and inside the vectors of length C.
            unsafe {
                if n == V::LANES {
                    self.add_channels::<V, true>(rows, c, at, n);
                } else {
                    self.add_channels::<V, false>(rows, c, at, n);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn add_channels<V: Vector<T>, const FULL: bool>(&mut self, rows: &[T], c: usize, at: usize, n: usize) {
        let (pixels, row) = (rows.len() / c, rows[at..].as_ptr());
        // SAFETY: the caller has checked the extents.
        unsafe {
            let pivot = lanes::<T, V, FULL>(self.pivot.as_ptr().add(at), n);
            let zero = V::splat(T::zero());
            // Two sums each: an addition need not wait for the one before it.
            let (mut first, mut second) = ([zero; 2], [zero; 2]);
            for pair in (0..pixels).step_by(2) {
                for half in 0..2 {
                    if pair + half == pixels {
                        break;
                    }
                    let d = lanes::<T, V, FULL>(row.add((pair + half) * c), n).sub(pivot);
                    first[half] = first[half].add(d);
                    second[half] = d.mul_add(d, second[half]);
                }
            }
            self.sums.add_lanes(at, n, first[0].add(first[1]), second[0].add(second[1]));
        }
    }

    /// Mean and squared deviations of all rows taken in.
    pub fn finish(self) -> Moments {
        let RowMoments { pivot, sums: Sums { first: mut mean, second: mut squares }, count } = self;
        let count = count as f64;
        for ((mean, squares), pivot) in mean.iter_mut().zip(&mut squares).zip(pivot) {
            *squares -= *mean * *mean / count;
            *mean = pivot.f64() + *mean / count;
            *squares = at_least_zero(*squares);
        }
        Moments { count, mean, squares }
    }
}
