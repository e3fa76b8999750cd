//! Maps that meet, (pend.4), such as the branches of a site. Their sum is pending like they are: a depthwise convolution behind
//! it makes the rows that it reads, and all others have it made.

#![allow(unsafe_code, reason = "vectors are loaded through raw pointers")]

use super::join::block;
use super::{Loader, Pending, Rectifier};
use crate::aligned::Aligned;
use crate::kernels::ahead::Stretch;
use crate::kernels::tile::{load, store};
use crate::parallel::split;
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Error, Real, Result, Shape, Tensor};

/// `y = act(Σ a_k)`, (pend.4), which nobody has made.
#[derive(Clone, Debug)]
pub struct PendingSum<T: Real> {
    maps: Vec<Pending<T>>,
    rectifier: Rectifier,
}

impl<T: Real> PendingSum<T> {
    /// Of maps of one shape `[N,C,H,W]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ, [`Error::Invalid`] if there is no map.
    pub fn new(maps: Vec<Pending<T>>, rectifier: Rectifier) -> Result<Self> {
        const OP: &str = "sum_maps";
        let Some(first) = maps.first() else { return Err(Error::invalid(OP, "there is no map to sum")) };
        first.z.dims::<4>(OP, "x")?;
        if let Some(other) = maps.iter().find(|map| map.z.shape() != first.z.shape()) {
            return Err(Error::shape(OP, "x", format!("{:?}", first.z.shape()), other.z.shape()));
        }
        Ok(PendingSum { maps, rectifier })
    }

    /// `[N,C,H,W]`.
    pub fn shape(&self) -> &Shape {
        self.maps[0].z.shape()
    }

    /// The rectifier of the sum.
    pub fn rectifier(&self) -> Rectifier {
        self.rectifier
    }

    /// The maps.
    pub fn maps(&self) -> &[Pending<T>] {
        &self.maps
    }

    /// Whether no map has a rectifier of its own: then all have the same gradient, that behind the rectifier of the sum.
    pub fn is_linear(&self) -> bool {
        self.maps.iter().all(|map| map.rectifier == Rectifier::Identity)
    }

    /// The sum itself: one pass over memory.
    #[must_use]
    pub fn make(&self) -> Tensor<T> {
        let mut y = Tensor::any(*self.shape());
        if y.is_empty() {
            return y;
        }
        let c = self.shape()[1];
        let pixels = y.len() / c;
        split(y.as_mut_slice(), pixels, c, |rows, y| dispatch(Make { rows: self.rows(), first: rows.start, y }));
        y
    }

    /// For one task.
    pub(crate) fn rows(&self) -> SumRows<'_, T> {
        SumRows {
            maps: self.maps.iter().map(Pending::loader).collect(),
            rectifier: self.rectifier,
            made: Aligned::default(),
        }
    }
}

/// Makes pixels of a sum, with a task's scratch.
pub(crate) struct SumRows<'a, T: Real> {
    maps: Vec<Loader<'a, T>>,
    rectifier: Rectifier,
    made: Aligned<T>,
}

impl<'a, T: Real> SumRows<'a, T> {
    pub fn maps(&self) -> &[Loader<'a, T>] {
        &self.maps
    }

    pub fn rectifier(&self) -> Rectifier {
        self.rectifier
    }

    /// The pixels `y` from `first` on.
    #[inline(always)]
    pub fn make<V: Vector<T>>(&mut self, first: usize, y: &mut [T]) {
        let SumRows { maps, rectifier, made } = self;
        let pixels = y.len() / maps[0].c;
        let [low, high] = rectifier.bounds::<T>().map(V::splat);
        made.lengthen(y.len());
        maps[0].load_asking::<V>(first, pixels, y);
        for map in &maps[1..] {
            map.load_asking::<V>(first, pixels, &mut made[..]);
            y.iter_mut().zip(&made[..]).for_each(|(y, &a)| *y += a);
        }
        for y in y.chunks_mut(V::LANES) {
            // SAFETY: the chunk has that many elements.
            unsafe { store::<T, V>(load::<T, V>(y.as_ptr(), y.len()).max(low).min(high), y.as_mut_ptr(), y.len()) };
        }
    }
}

struct Make<'a, T: Real> {
    rows: SumRows<'a, T>,
    first: usize,
    y: &'a mut [T],
}

impl<T: Real> Kernel<T> for Make<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<T>>(self) {
        let Make { mut rows, first, y } = self;
        let c = rows.maps[0].c;
        let step = block(c);
        for (i, y) in y.chunks_mut(step * c).enumerate() {
            Stretch::after(y).ask_to_write::<V>();
            rows.make::<V>(first + i * step, y);
        }
    }
}
