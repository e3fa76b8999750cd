//! Maps and gradients that nobody has made yet: what the consumer computes while it loads, instead of a pass over memory
//! that writes it down.
//! ```text
//! a  = act((z − mean) · scale + shift)                a pending map: a batch norm and its rectifier       (pend.1)
//! dŷ = da · [act'(ŷ) ≠ 0],  Σ dŷ,  Σ dŷ·(z − mean)    what its consumer sends back, masked and summed     (pend.2)
//! dz = scale · (dŷ − offset − slope · (z − mean))     a pending gradient: (bn.7) for the convolution      (pend.3)
//! ```
//! mean, scale, shift, offset and slope are vectors over the channels. With the sums of (pend.2) the gradients of the
//! batch norm are known, (bn.5) and (bn.6), and (pend.3) is too: no batch norm is a pass of its own.

#![allow(unsafe_code, reason = "vectors are loaded through raw pointers")]

use super::batch_norm::BatchStats;
use super::moments::Sums;
use super::tile::{lanes, store_lanes};
use crate::parallel::split;
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Error, Real, Result, Tensor};

/// Elements that a load is ahead of itself: maps come from beyond the second cache, and blocks are too short for the
/// processor to see where they lead.
const AHEAD: usize = 1024;

/// Copies `from` to the beginning of `to`.
#[inline(always)]
fn copy<T: Real, V: Vector<T>>(from: &[T], to: &mut [T]) {
    for at in (0..from.len()).step_by(64 / size_of::<T>()) {
        V::prefetch(from.as_ptr().wrapping_add(at + AHEAD));
    }
    to[..from.len()].copy_from_slice(from);
}

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
        Loader {
            data: self.z.as_slice(),
            c: self.z.shape()[1],
            norm: self.norm.as_ref().map(|n| [n.mean.as_slice(), n.scale.as_slice(), n.shift.as_slice()]),
            rectifier: self.rectifier,
        }
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
        self.loader.load::<V>(self.first, self.out.len() / c, None, self.out, c);
    }
}

/// How kernels read a pending map.
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

    /// The pixels as they lie in memory, if that is what they are.
    pub fn as_is(&self, first: usize, pixels: usize) -> Option<&'a [T]> {
        self.norm.is_none().then(|| &self.data[first * self.c..(first + pixels) * self.c])
    }

    /// Makes `pixels` pixels, the rows `stride ≥ C` apart in `out` with zeros behind the channels; `minus [C]` is
    /// subtracted at the end.
    // ANCHOR: load
    #[inline(always)]
    pub fn load<V: Vector<T>>(&self, first: usize, pixels: usize, minus: Option<&[T]>, out: &mut [T], stride: usize) {
        let c = self.c;
        let data = &self.data[first * c..(first + pixels) * c];
        assert!(stride >= c && out.len() >= pixels * stride && minus.is_none_or(|m| m.len() == c));
        if self.norm.is_none() && minus.is_none() && stride == c {
            return copy::<T, V>(data, out);
        }
        for at in (0..stride).step_by(V::LANES) {
            let lanes = Lanes { at, read: V::LANES.min(c.saturating_sub(at)), write: V::LANES.min(stride - at) };
            // SAFETY: the slices hold `pixels` rows of C and of `stride` elements; where nothing is to be read, nothing is.
            unsafe {
                if (lanes.read, lanes.write) == (V::LANES, V::LANES) {
                    self.load_lanes::<V, true>(data, lanes, minus, out, stride, pixels);
                } else {
                    self.load_lanes::<V, false>(data, lanes, minus, out, stride, pixels);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn load_lanes<V: Vector<T>, const FULL: bool>(
        &self,
        data: &[T],
        Lanes { at, read, write }: Lanes,
        minus: Option<&[T]>,
        out: &mut [T],
        stride: usize,
        pixels: usize,
    ) {
        // SAFETY: the caller has checked the extents.
        unsafe {
            let (from, to) = (data.as_ptr().wrapping_add(at), out.as_mut_ptr().add(at));
            let vector = |of: &[T]| lanes::<T, V, FULL>(of.as_ptr().wrapping_add(at), read);
            let zero = V::splat(T::zero());
            let minus = minus.map_or(zero, vector);
            let Some([mean, scale, shift]) = self.norm.map(|norm| norm.map(vector)) else {
                for i in 0..pixels {
                    let x = from.wrapping_add(i * self.c);
                    V::prefetch(x.wrapping_add(AHEAD));
                    let x = lanes::<T, V, FULL>(x, read).sub(minus);
                    store_lanes::<T, V, FULL>(x, to.add(i * stride), write);
                }
                return;
            };
            let [low, high] = self.rectifier.bounds::<T>().map(V::splat);
            for i in 0..pixels {
                let z = from.wrapping_add(i * self.c);
                V::prefetch(z.wrapping_add(AHEAD));
                let z = lanes::<T, V, FULL>(z, read);
                let x = z.sub(mean).mul_add(scale, shift).max(low).min(high).sub(minus);
                store_lanes::<T, V, FULL>(x, to.add(i * stride), write);
            }
        }
    }
    // ANCHOR_END: load

    /// Turns `d = da` for the pixels from `first` on into dŷ in place, and adds to the sums, (pend.2).
    // ANCHOR: finish
    #[inline(always)]
    pub fn finish<V: Vector<T>>(&self, first: usize, d: &mut [T], sums: &mut Sums) {
        let c = self.c;
        let data = &self.data[first * c..first * c + d.len()];
        if self.norm.is_none() && self.rectifier == Rectifier::Identity {
            return;
        }
        for at in (0..c).step_by(V::LANES) {
            let n = V::LANES.min(c - at);
            // SAFETY: both slices hold the same rows of C elements, and `at + n ≤ C`.
            unsafe {
                if n == V::LANES {
                    self.finish_lanes::<V, true>(data, d, at, n, sums);
                } else {
                    self.finish_lanes::<V, false>(data, d, at, n, sums);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn finish_lanes<V: Vector<T>, const FULL: bool>(
        &self,
        data: &[T],
        d: &mut [T],
        at: usize,
        n: usize,
        sums: &mut Sums,
    ) {
        let c = self.c;
        let pixels = d.len() / c;
        // SAFETY: the caller has checked the extents.
        unsafe {
            let (z, d) = (data.as_ptr().add(at), d.as_mut_ptr().add(at));
            let [low, high] = self.rectifier.bounds::<T>().map(V::splat);
            let Some(norm) = self.norm else {
                for i in 0..pixels {
                    let y = lanes::<T, V, FULL>(z.add(i * c), n);
                    let dy = lanes::<T, V, FULL>(d.add(i * c), n).keep_between(y, low, high);
                    store_lanes::<T, V, FULL>(dy, d.add(i * c), n);
                }
                return;
            };
            let [mean, scale, shift] = norm.map(|v| lanes::<T, V, FULL>(v.as_ptr().add(at), n));
            let zero = V::splat(T::zero());
            // Two sums each: an addition need not wait for the one before it.
            let (mut first, mut second) = ([zero; 2], [zero; 2]);
            for pair in (0..pixels).step_by(2) {
                for half in 0..2 {
                    let i = pair + half;
                    if i == pixels {
                        break;
                    }
                    let centred = lanes::<T, V, FULL>(z.add(i * c), n).sub(mean);
                    let y = centred.mul_add(scale, shift);
                    let dy = lanes::<T, V, FULL>(d.add(i * c), n).keep_between(y, low, high);
                    store_lanes::<T, V, FULL>(dy, d.add(i * c), n);
                    first[half] = first[half].add(dy);
                    second[half] = dy.mul_add(centred, second[half]);
                }
            }
            sums.add_lanes(at, n, first[0].add(first[1]), second[0].add(second[1]));
        }
    }
    // ANCHOR_END: finish
}

/// Some channels: where they start, how many are read and how many written.
#[derive(Clone, Copy)]
struct Lanes {
    at: usize,
    read: usize,
    write: usize,
}

/// The gradient that the consumer of a pending map sends back, (pend.2).
#[derive(Clone, Debug)]
pub struct MaskedGrad<T: Real> {
    /// dŷ, `[N,C,H,W]`.
    pub dy: Tensor<T>,
    /// Σ dŷ and Σ dŷ·(z − mean), a channel; empty where the map has no norm.
    pub sums: [Vec<f64>; 2],
}

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
        let sums = split(da.as_mut_slice(), pixels, loader.c, |rows, d| {
            dispatch(Finish { loader: &loader, first: rows.start, d })
        });
        Ok(MaskedGrad { dy: da, sums: total(sums, &loader) })
    }

    /// Adds the gradient of another consumer of the same map.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ.
    pub fn add(&mut self, other: &MaskedGrad<T>) -> Result<()> {
        self.dy.zip_apply(&other.dy, |a, b| *a += b)?;
        for (a, b) in self.sums.iter_mut().zip(&other.sums) {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        }
        Ok(())
    }
}

/// The sums of all pieces, in their order; none where the map has no norm.
pub(crate) fn total<T: Real>(pieces: impl IntoIterator<Item = Sums>, map: &Loader<'_, T>) -> [Vec<f64>; 2] {
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
        const BLOCK: usize = 64; // pixels summed in `T`
        let c = self.loader.c;
        let mut sums = Sums::zeros(c);
        for (i, d) in self.d.chunks_mut(BLOCK * c).enumerate() {
            self.loader.finish::<V>(self.first + i * BLOCK, d, &mut sums);
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
        let vectors = [
            mean.clone(),
            vector(&|i| weight.as_slice()[i].f64() * per_deviation[i])?,
            vector(&|i| dbias[i] * share)?,
            vector(&|i| dweight[i] * per_deviation[i] * share)?,
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
        self.loader.load::<V>(self.first, self.out.len() / c, self.out, c);
    }
}

/// How kernels read a pending gradient.
pub(crate) struct GradLoader<'a, T> {
    dy: &'a [T],
    pub c: usize,
    through: Option<(&'a [T], [&'a [T]; 4])>,
}

impl<T: Real> GradLoader<'_, T> {
    /// Makes `pixels` pixels, the rows `stride ≥ C` apart in `out` with zeros behind the channels.
    #[inline(always)]
    pub fn load<V: Vector<T>>(&self, first: usize, pixels: usize, out: &mut [T], stride: usize) {
        let c = self.c;
        let rows = first * c..(first + pixels) * c;
        let dy = &self.dy[rows.clone()];
        let through = self.through.map(|(z, vectors)| (&z[rows], vectors));
        assert!(stride >= c && out.len() >= pixels * stride);
        if through.is_none() && stride == c {
            return copy::<T, V>(dy, out);
        }
        for at in (0..stride).step_by(V::LANES) {
            let lanes = Lanes { at, read: V::LANES.min(c.saturating_sub(at)), write: V::LANES.min(stride - at) };
            // SAFETY: the slices hold `pixels` rows of C and of `stride` elements; where nothing is to be read, nothing is.
            unsafe {
                if (lanes.read, lanes.write) == (V::LANES, V::LANES) {
                    self.load_lanes::<V, true>(dy, through, lanes, out, stride, pixels);
                } else {
                    self.load_lanes::<V, false>(dy, through, lanes, out, stride, pixels);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn load_lanes<V: Vector<T>, const FULL: bool>(
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
            let (from, to) = (dy.as_ptr().wrapping_add(at), out.as_mut_ptr().add(at));
            let Some((z, vectors)) = through else {
                for i in 0..pixels {
                    let dy = from.wrapping_add(i * self.c);
                    V::prefetch(dy.wrapping_add(AHEAD));
                    let dy = lanes::<T, V, FULL>(dy, read);
                    store_lanes::<T, V, FULL>(dy, to.add(i * stride), write);
                }
                return;
            };
            let z = z.as_ptr().wrapping_add(at);
            let [mean, scale, offset, slope] = vectors.map(|v| lanes::<T, V, FULL>(v.as_ptr().wrapping_add(at), read));
            for i in 0..pixels {
                let (z, dy) = (z.wrapping_add(i * self.c), from.wrapping_add(i * self.c));
                V::prefetch(z.wrapping_add(AHEAD));
                V::prefetch(dy.wrapping_add(AHEAD));
                let centred = lanes::<T, V, FULL>(z, read).sub(mean);
                let dy = lanes::<T, V, FULL>(dy, read).sub(offset);
                store_lanes::<T, V, FULL>(dy.sub(slope.mul(centred)).mul(scale), to.add(i * stride), write);
            }
        }
    }
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
