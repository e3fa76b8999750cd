//! Gradients of pending maps: what their consumers send back, and what passes on through the batch norm.

#![allow(unsafe_code, reason = "vectors are loaded through raw pointers")]

use super::{Lanes, Loader, Pending, Rectifier};
use crate::kernels::ahead::Stretch;
use crate::kernels::broadcast::add_to;
use crate::kernels::moments::Sums;
use crate::kernels::tile::{lanes, store_lanes};
use crate::parallel::{PASS, PIECES, ranges, run_tasks, split};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Error, Real, Result, Tensor};

/// Pixels summed in `T`.
const BLOCK: usize = 64;

/// The gradient that the consumer of a pending map sends back, (pend.2).
#[derive(Clone, Debug)]
pub struct MaskedGrad<T: Real> {
    /// dŷ, `[N,C,H,W]`.
    pub dy: Tensor<T>,
    /// Empty where the map has no norm.
    pub sums: GradSums,
}

/// Σ dŷ and Σ dŷ·(z − mean), a channel each, (pend.2).
pub type GradSums = [Vec<f64>; 2];

impl<T: Real> MaskedGrad<T> {
    /// From the gradient of the map itself, in one pass.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ.
    pub fn of(map: &Pending<T>, mut da: Tensor<T>) -> Result<Self> {
        if da.shape() != map.z.shape() {
            return Err(Error::shape("batch_norm", "dy", format!("{:?}", map.z.shape()), da.shape()));
        }
        let loader = map.loader();
        let pixels = da.len() / loader.c;
        let sums = if map.is_plain() {
            Vec::new()
        } else if map.rectifier == Rectifier::Identity {
            // Nothing is masked: the gradient stays as it is, in memory that others may share.
            let da = da.as_slice();
            run_tasks(ranges(pixels, PIECES), PASS * da.len(), |rows| {
                let d = &da[rows.start * loader.c..rows.end * loader.c];
                dispatch(SumUp { loader: &loader, first: rows.start, d })
            })
        } else {
            split(da.as_mut_slice(), pixels, loader.c, |rows, d| {
                dispatch(Finish { loader: &loader, first: rows.start, d })
            })
        };
        Ok(MaskedGrad { dy: da, sums: total(sums, &loader) })
    }

    /// Adds the gradient of another consumer of the same map.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ.
    pub fn add(&mut self, other: &MaskedGrad<T>) -> Result<()> {
        add_to(&mut self.dy, &other.dy)?;
        self.add_sums(&other.sums);
        Ok(())
    }

    pub(super) fn add_sums(&mut self, other: &GradSums) {
        for (a, b) in self.sums.iter_mut().zip(other) {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        }
    }
}

/// The sums of all pieces, in their order; none where the map has no norm.
pub(crate) fn total<T: Real>(pieces: impl IntoIterator<Item = Sums>, map: &Loader<'_, T>) -> GradSums {
    let mut total = Sums::zeros(if map.norm.is_some() { map.c } else { 0 });
    pieces.into_iter().for_each(|sums| total.join(&sums));
    [total.first, total.second]
}

struct Finish<'a, T> {
    loader: &'a Loader<'a, T>,
    first: usize,
    d: &'a mut [T],
}

impl<T: Real> Kernel<T> for Finish<'_, T> {
    type Output = Sums;
    #[inline(always)]
    fn run<V: Vector<T>>(self) -> Sums {
        let c = self.loader.c;
        let mut sums = Sums::zeros(c);
        for (i, d) in self.d.chunks_mut(BLOCK * c).enumerate() {
            self.loader.finish::<V>(self.first + i * BLOCK, d, &mut sums);
        }
        sums
    }
}

struct SumUp<'a, T> {
    loader: &'a Loader<'a, T>,
    first: usize,
    d: &'a [T],
}

impl<T: Real> Kernel<T> for SumUp<'_, T> {
    type Output = Sums;
    #[inline(always)]
    fn run<V: Vector<T>>(self) -> Sums {
        let c = self.loader.c;
        let mut sums = Sums::zeros(c);
        for (i, d) in self.d.chunks(BLOCK * c).enumerate() {
            self.loader.sum_up::<V>(self.first + i * BLOCK, d, &mut sums);
        }
        sums
    }
}

/// The batch norm that a gradient still has to pass, one value a channel, (pend.3).
#[derive(Clone, Debug)]
pub struct Through<T: Real> {
    /// The batch norm's input, `[N,C,H,W]`.
    pub z: Tensor<T>,
    /// mean, scale, offset, slope, each `[C]`.
    pub vectors: [Tensor<T>; 4],
}

/// A pending gradient, (pend.3); without a batch norm to pass it is `dy` itself.
#[derive(Clone, Debug)]
pub struct PendingGrad<T: Real> {
    /// What lies in memory, `[N,C,H,W]`.
    pub dy: Tensor<T>,
    /// What it has to pass.
    pub through: Option<Through<T>>,
}

/// The gradients of a batch norm from the sums of (pend.2).
#[derive(Clone, Debug)]
pub struct NormGrads<T: Real> {
    /// The input's, (bn.7) pending; (bn.8) where the statistics are constants.
    pub dx: PendingGrad<T>,
    /// (bn.6), `[C]`.
    pub dweight: Tensor<T>,
    /// (bn.5), `[C]`.
    pub dbias: Tensor<T>,
}

impl<T: Real> PendingGrad<T> {
    /// A gradient with nothing pending.
    pub fn plain(dy: Tensor<T>) -> Self {
        PendingGrad { dy, through: None }
    }

    /// The gradients of the batch norm behind `map`, by the batch's own statistics or by constant ones.
    ///
    /// # Errors
    /// [`Error::Shape`] if the vectors differ in length.
    pub fn through(
        map: &Pending<T>,
        weight: &Tensor<T>,
        [mean, var]: [&Tensor<T>; 2],
        own_statistics: bool,
        eps: f64,
        grad: MaskedGrad<T>,
    ) -> Result<NormGrads<T>> {
        let c = weight.len();
        let count = (map.z.len() / c) as f64;
        let per_deviation: Vec<f64> = var.as_slice().iter().map(|var| 1.0 / (var.f64() + eps).sqrt()).collect();
        let [dbias, products] = grad.sums; // (bn.5)
        let dweight: Vec<f64> = products.iter().zip(&per_deviation).map(|(sum, p)| sum * p).collect(); // (bn.6)
        let share = if own_statistics { 1.0 / count } else { 0.0 };
        let vector = |f: &dyn Fn(usize) -> f64| Tensor::from_memory([c], (0..c).map(|i| T::of(f(i))).collect());
        let scale = |i: usize| weight.as_slice()[i].f64() * per_deviation[i];
        let vectors = [
            mean.clone(),
            vector(&scale)?,
            vector(&|i| -scale(i) * dbias[i] * share)?,
            vector(&|i| -scale(i) * dweight[i] * per_deviation[i] * share)?,
        ];
        Ok(NormGrads {
            dx: PendingGrad { dy: grad.dy, through: Some(Through { z: map.z.clone(), vectors }) },
            dweight: vector(&|i| dweight[i])?,
            dbias: vector(&|i| dbias[i])?,
        })
    }

    /// The gradient itself, (pend.3): one pass over memory, none where nothing is pending.
    #[must_use]
    pub fn make(self) -> Tensor<T> {
        if self.through.is_none() {
            return self.dy;
        }
        let mut made = Tensor::any(self.dy.shape());
        let loader = self.loader();
        let pixels = made.len() / loader.c;
        split(made.as_mut_slice(), pixels, loader.c, |rows, out| {
            dispatch(MakeGrad { loader: &loader, first: rows.start, out });
        });
        made
    }

    pub(crate) fn loader(&self) -> GradLoader<'_, T> {
        GradLoader {
            dy: self.dy.as_slice(),
            c: self.dy.shape()[1],
            through: self.through.as_ref().map(|t| (t.z.as_slice(), t.vectors.each_ref().map(Tensor::as_slice))),
        }
    }
}

struct MakeGrad<'a, T> {
    loader: &'a GradLoader<'a, T>,
    first: usize,
    out: &'a mut [T],
}

impl<T: Real> Kernel<T> for MakeGrad<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector<T>>(self) {
        let c = self.loader.c;
        self.loader.load_asking::<V>(self.first, self.out.len() / c, self.out);
    }
}

/// How kernels read a pending gradient.
#[derive(Clone, Copy)]
pub(crate) struct GradLoader<'a, T> {
    dy: &'a [T],
    pub c: usize,
    through: Option<(&'a [T], [&'a [T]; 4])>,
}

impl<T: Real> GradLoader<'_, T> {
    /// As [`Loader::of_channels`].
    #[inline(always)]
    pub fn of_channels(&self, c: usize) -> Self {
        assert!(c == self.c);
        GradLoader { c, ..*self }
    }

    /// What the load of the block after these pixels, or of a later one, will read, in two stretches.
    #[inline(always)]
    pub fn ahead(&self, first: usize, pixels: usize) -> [Stretch<T>; 2] {
        let rows = first * self.c..(first + pixels) * self.c;
        let dy = Stretch::beyond(&self.dy[rows.clone()]);
        self.through.map_or(dy.halves(), |(z, _)| [dy, Stretch::beyond(&z[rows])])
    }

    /// [`load`](Self::load) where nobody else asks for memory [`ahead`](Self::ahead): it does, vector by vector.
    #[inline(always)]
    pub fn load_asking<V: Vector<T>>(&self, first: usize, pixels: usize, out: &mut [T]) {
        self.load_with::<V, true>(first, pixels, out, self.c);
    }

    /// Makes `pixels` pixels, the rows `stride ≥ C` apart in `out` with zeros behind the channels.
    #[inline(always)]
    pub fn load<V: Vector<T>>(&self, first: usize, pixels: usize, out: &mut [T], stride: usize) {
        self.load_with::<V, false>(first, pixels, out, stride);
    }

    #[inline(always)]
    fn load_with<V: Vector<T>, const ASKS: bool>(&self, first: usize, pixels: usize, out: &mut [T], stride: usize) {
        let c = self.c;
        let rows = first * c..(first + pixels) * c;
        let dy = &self.dy[rows.clone()];
        let through = self.through.map(|(z, vectors)| (&z[rows], vectors));
        let width = c.next_multiple_of(V::LANES).min(stride);
        assert!(stride >= c && out.len() + stride >= pixels * stride + width);
        if through.is_none() && stride == c {
            if ASKS {
                Stretch::beyond(dy).ask_to_read::<V>();
            }
            return out[..dy.len()].copy_from_slice(dy);
        }
        for at in (0..c).step_by(V::LANES) {
            let lanes = Lanes { at, read: V::LANES.min(c - at), write: V::LANES.min(width - at) };
            // SAFETY: the slices hold `pixels` rows of C and of `width` elements.
            unsafe {
                if (lanes.read, lanes.write) == (V::LANES, V::LANES) {
                    self.load_lanes::<V, true, ASKS>(dy, through, lanes, out, stride, pixels);
                } else {
                    self.load_lanes::<V, false, ASKS>(dy, through, lanes, out, stride, pixels);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn load_lanes<V: Vector<T>, const FULL: bool, const ASKS: bool>(
        &self,
        dy: &[T],
        through: Option<(&[T], [&[T]; 4])>,
        Lanes { at, read, write }: Lanes,
        out: &mut [T],
        stride: usize,
        pixels: usize,
    ) {
        // SAFETY: the caller has checked the extents.
        unsafe {
            let (c, from, to) = (self.c, dy.as_ptr().wrapping_add(at), out.as_mut_ptr().add(at));
            let ask = |ahead: Stretch<T>, i: usize| {
                if ASKS {
                    V::prefetch(ahead.element(at * pixels + i * V::LANES));
                }
            };
            let ahead_dy = Stretch::beyond(dy);
            let Some((z, vectors)) = through else {
                for i in 0..pixels {
                    ask(ahead_dy, i);
                    let dy = lanes::<T, V, FULL>(from.wrapping_add(i * c), read);
                    store_lanes::<T, V, FULL>(dy, to.add(i * stride), write);
                }
                return;
            };
            let ahead_z = Stretch::beyond(z);
            let z = z.as_ptr().wrapping_add(at);
            let [mean, scale, offset, slope] = vectors.map(|v| lanes::<T, V, FULL>(v.as_ptr().wrapping_add(at), read));
            for i in 0..pixels {
                ask(ahead_z, i);
                ask(ahead_dy, i);
                let centred = lanes::<T, V, FULL>(z.wrapping_add(i * c), read).sub(mean);
                let dy = lanes::<T, V, FULL>(from.wrapping_add(i * c), read);
                let dz = dy.mul_add(scale, centred.mul_add(slope, offset));
                store_lanes::<T, V, FULL>(dz, to.add(i * stride), write);
            }
        }
    }
}
