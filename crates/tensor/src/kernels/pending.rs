//! Maps and gradients that nobody has made yet: what the consumer computes while it loads, instead of a pass over memory
//! that writes it down.
//! ```text
//! a  = act((z − mean) · scale + shift)                a pending map: a batch norm and its rectifier       (pend.1)
//! dŷ = da · [act'(ŷ) ≠ 0],  Σ dŷ,  Σ dŷ·(z − mean)    what its consumer sends back, masked and summed     (pend.2)
//! dz = scale · dŷ + offset + slope · (z − mean)       a pending gradient: (bn.7) for the convolution      (pend.3)
//! y  = act(Σ a_k)                                     maps that meet, such as the branches of a site      (pend.4)
//! y  = g ⊙ a,  dg = Σ_p dy ⊙ a,  da = g ⊙ dy          a map weighed by a gate g a sample and channel      (pend.5)
//! ```
//! mean, scale, shift, offset and slope are vectors over the channels. With the sums of (pend.2) the gradients of the
//! batch norm are known, (bn.5) and (bn.6), and (pend.3) is too: no batch norm is a pass of its own.

#![allow(unsafe_code, reason = "vectors are loaded through raw pointers")]

mod finish;
mod grad;
mod join;
mod maker;
mod sum;
#[cfg(test)]
mod tests;

pub(crate) use finish::{Finisher, Masking, Read};
pub(crate) use grad::{GradLoader, total};
pub use grad::{GradSums, MaskedGrad, NormGrads, PendingGrad, Through};
pub use join::{gate, gate_backward, global_avg_pool, global_avg_pool_backward};
pub(crate) use maker::Maker;
use maker::Strip;
pub use sum::PendingSum;
pub(crate) use sum::SumRows;

use super::ahead::Stretch;
use super::batch_norm::BatchStats;
use super::tile::{lanes, store_lanes};
use crate::parallel::split;
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Error, Real, Result, Tensor};

/// The rectifier of a pending map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rectifier {
    /// None.
    #[default]
    Identity,
    /// max(x, 0).
    Relu,
    /// min(max(x, 0), 6).
    Relu6,
}

impl Rectifier {
    /// Its lower and upper end: loops clamp without asking which rectifier it is.
    #[inline(always)]
    pub(crate) fn bounds<T: Real>(self) -> [T; 2] {
        match self {
            Rectifier::Identity => [T::neg_infinity(), T::infinity()],
            Rectifier::Relu => [T::zero(), T::infinity()],
            Rectifier::Relu6 => [T::zero(), T::of(6.0)],
        }
    }
}

/// A normalisation, one value a channel: `ŷ = (z − mean) · scale + shift`.
#[derive(Clone, Debug)]
pub struct Norm<T: Real> {
    /// `[C]`.
    pub mean: Tensor<T>,
    /// weight/√(σ² + eps), `[C]`.
    pub scale: Tensor<T>,
    /// bias, `[C]`.
    pub shift: Tensor<T>,
}

impl<T: Real> Norm<T> {
    /// (bn.3) and (bn.4) as one scale and one shift.
    ///
    /// # Errors
    /// [`Error::Shape`] if the vectors differ in length.
    pub fn new(mean: &Tensor<T>, var: &Tensor<T>, weight: &Tensor<T>, bias: &Tensor<T>, eps: f64) -> Result<Self> {
        let mut scale = weight.clone();
        scale.zip_apply(var, |weight, var| *weight = T::of(weight.f64() / (var.f64() + eps).sqrt()))?;
        for vector in [mean, bias] {
            if vector.shape() != weight.shape() {
                return Err(Error::shape("batch_norm", "vector", format!("{:?}", weight.shape()), vector.shape()));
            }
        }
        Ok(Norm { mean: mean.clone(), scale, shift: bias.clone() })
    }
}

/// A pending map, (pend.1); without norm and rectifier it is `z` itself.
#[derive(Clone, Debug)]
pub struct Pending<T: Real> {
    /// What lies in memory, `[N,C,H,W]`.
    pub z: Tensor<T>,
    /// The normalisation.
    pub norm: Option<Norm<T>>,
    /// The rectifier after it. Without a norm `z` is rectified already, and only the gradient asks for it.
    pub rectifier: Rectifier,
}

impl<T: Real> Pending<T> {
    /// A map with nothing pending.
    pub fn plain(z: Tensor<T>) -> Self {
        Pending { z, norm: None, rectifier: Rectifier::Identity }
    }

    /// A map that is rectified already, so that only its gradient is masked.
    pub fn rectified(y: &Tensor<T>, rectifier: Rectifier) -> Self {
        Pending { z: y.clone(), norm: None, rectifier }
    }

    /// Whether nothing is pending, neither for the value nor for its gradient.
    pub fn is_plain(&self) -> bool {
        self.norm.is_none() && self.rectifier == Rectifier::Identity
    }

    /// A batch norm of `z`, and a rectifier behind it.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `z` is `[N,C,H,W]` and the norm has C channels.
    pub fn normed(z: Tensor<T>, norm: Norm<T>, rectifier: Rectifier) -> Result<Self> {
        let [_, c, _, _] = z.dims("batch_norm", "x")?;
        if norm.scale.shape()[..] != [c] {
            return Err(Error::shape("batch_norm", "weight", format!("[{c}]"), norm.scale.shape()));
        }
        Ok(Pending { z, norm: Some(norm), rectifier })
    }

    /// The map itself, (pend.1): one pass over memory, none where nothing is pending.
    #[must_use]
    pub fn make(&self) -> Tensor<T> {
        if self.norm.is_none() {
            return self.z.clone();
        }
        let loader = self.loader();
        let mut made = Tensor::any(self.z.shape());
        let pixels = self.z.len() / loader.c;
        split(made.as_mut_slice(), pixels, loader.c, |rows, out| {
            dispatch(Make { loader: &loader, first: rows.start, out });
        });
        made
    }

    pub(crate) fn loader(&self) -> Loader<'_, T> {
        let c = self.z.shape()[1];
        let norm = self.norm.as_ref().map(|n| [n.mean.as_slice(), n.scale.as_slice(), n.shift.as_slice()]);
        // Kernels read whole vectors of them.
        assert!(norm.iter().flatten().all(|vector| vector.len() == c), "a norm of {c} channels");
        Loader { data: self.z.as_slice(), c, norm, rectifier: self.rectifier }
    }
}

struct Make<'a, T> {
    loader: &'a Loader<'a, T>,
    first: usize,
    out: &'a mut [T],
}

impl<T: Real> Kernel<T> for Make<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector<T>>(self) {
        let c = self.loader.c;
        self.loader.load_asking::<V>(self.first, self.out.len() / c, self.out);
    }
}

/// How kernels read a pending map.
#[derive(Clone, Copy)]
pub(crate) struct Loader<'a, T> {
    data: &'a [T],
    pub c: usize,
    norm: Option<[&'a [T]; 3]>,
    rectifier: Rectifier,
}

impl<'a, T: Real> Loader<'a, T> {
    /// Of a map of `c` channels with nothing pending.
    pub fn plain(data: &'a [T], c: usize) -> Self {
        Loader { data, c, norm: None, rectifier: Rectifier::Identity }
    }

    /// As [`Pending::is_plain`].
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        self.norm.is_none() && self.rectifier == Rectifier::Identity
    }

    /// The same; of a `c` that it knows the compiler can make use.
    #[inline(always)]
    pub fn of_channels(&self, c: usize) -> Self {
        assert!(c == self.c);
        Loader { c, ..*self }
    }

    /// The pixels as they lie in memory, if that is what they are.
    pub fn as_is(&self, first: usize, pixels: usize) -> Option<&'a [T]> {
        self.norm.is_none().then(|| &self.data[first * self.c..(first + pixels) * self.c])
    }

    /// What the load of the block after these pixels, or of a later one, will read.
    #[inline(always)]
    pub fn ahead(&self, first: usize, pixels: usize) -> Stretch<T> {
        Stretch::beyond(&self.data[first * self.c..(first + pixels) * self.c])
    }

    /// [`load`](Self::load) where nobody else asks for memory [`ahead`](Self::ahead): it does, vector by vector.
    #[inline(always)]
    pub fn load_asking<V: Vector<T>>(&self, first: usize, pixels: usize, out: &mut [T]) {
        self.load_with::<V, true>(first, pixels, None, out, self.c);
    }

    /// Makes `pixels` pixels, the rows `stride ≥ C` apart in `out`; a vector that C does not fill is filled with zeros as
    /// far as the stride goes. `minus [C]` is subtracted at the end.
    #[inline(always)]
    pub fn load<V: Vector<T>>(&self, first: usize, pixels: usize, minus: Option<&[T]>, out: &mut [T], stride: usize) {
        self.load_with::<V, false>(first, pixels, minus, out, stride);
    }

    #[inline(always)]
    fn load_with<V: Vector<T>, const ASKS: bool>(
        &self,
        first: usize,
        pixels: usize,
        minus: Option<&[T]>,
        out: &mut [T],
        stride: usize,
    ) {
        let c = self.c;
        let data = &self.data[first * c..(first + pixels) * c];
        let width = c.next_multiple_of(V::LANES).min(stride);
        assert!(stride >= c && out.len() + stride >= pixels * stride + width && minus.is_none_or(|m| m.len() == c));
        if self.norm.is_none() && minus.is_none() && stride == c {
            if ASKS {
                self.ahead(first, pixels).ask_to_read::<V>();
            }
            return out[..data.len()].copy_from_slice(data);
        }
        for at in (0..c).step_by(V::LANES) {
            let lanes = Lanes { at, read: V::LANES.min(c - at), write: V::LANES.min(width - at) };
            // SAFETY: the slices hold `pixels` rows of C and of `width` elements.
            unsafe {
                match ((lanes.read, lanes.write) == (V::LANES, V::LANES), self.norm.is_some()) {
                    (true, true) => self.load_lanes::<V, true, true, ASKS>(first, lanes, minus, out, stride, pixels),
                    (true, false) => self.load_lanes::<V, true, false, ASKS>(first, lanes, minus, out, stride, pixels),
                    (false, true) => self.load_lanes::<V, false, true, ASKS>(first, lanes, minus, out, stride, pixels),
                    (false, false) => {
                        self.load_lanes::<V, false, false, ASKS>(first, lanes, minus, out, stride, pixels)
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn load_lanes<V: Vector<T>, const FULL: bool, const NORM: bool, const ASKS: bool>(
        &self,
        first: usize,
        Lanes { at, read, write }: Lanes,
        minus: Option<&[T]>,
        out: &mut [T],
        stride: usize,
        pixels: usize,
    ) {
        // SAFETY: the caller has checked the extents.
        unsafe {
            let (c, of) = (self.c, self.masking(first, pixels));
            let (from, to) = (of.z.as_ptr().wrapping_add(at), out.as_mut_ptr().add(at));
            let maker = Maker::<V, NORM>::new::<T, FULL>(&of, at, read);
            let minus = match minus {
                Some(minus) => lanes::<T, V, FULL>(minus.as_ptr().add(at), read),
                None => V::splat(T::zero()),
            };
            // A block is walked channels outside, pixels inside: its own order would ask for most of it too late.
            let ahead = Stretch::beyond(of.z);
            for i in 0..pixels {
                if ASKS {
                    V::prefetch(ahead.element(at * pixels + i * V::LANES));
                }
                let x = maker.pixel(lanes::<T, V, FULL>(from.wrapping_add(i * c), read));
                store_lanes::<T, V, FULL>(x.sub(minus), to.add(i * stride), write);
            }
        }
    }
}

/// Some channels: where they start, how many are read and how many written.
#[derive(Clone, Copy)]
struct Lanes {
    at: usize,
    read: usize,
    write: usize,
}

/// The statistics of a map from the moments that its pieces have gathered.
pub(crate) fn statistics<T: Real>(
    op: &'static str,
    pieces: impl IntoIterator<Item = super::moments::Moments>,
) -> Result<BatchStats<T>> {
    let mut pieces = pieces.into_iter();
    let mut all = pieces.next().ok_or_else(|| Error::invalid(op, "no values have no statistics"))?;
    pieces.for_each(|piece| all.join(&piece));
    BatchStats::of(op, all)
}
