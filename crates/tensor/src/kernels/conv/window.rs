//! The rows of a map as a convolution slides over them: made once, padded with zeros at both ends, and kept as long as
//! the kernel reaches them.

use crate::Real;
use crate::aligned::Aligned;
use crate::kernels::pending::{GradLoader, Loader, Masking, Rectifier};
use crate::simd::Vector;

/// Where rows come from.
pub(super) trait Rows<T: Real> {
    /// Elements of a pixel, if the loops over them are compiled for that number, [`Vector::KNOWS`]; else 0.
    const KNOWN: usize = 0;
    /// Whether they lie in memory, which is asked for ahead.
    const IN_MEMORY: bool = false;
    /// Elements of a pixel.
    fn channels(&self) -> usize;
    /// Makes row `row` of the batch, `pixels` pixels, for place `slot` of a window.
    fn make<V: Vector<T>>(&mut self, row: usize, pixels: usize, slot: usize, out: &mut [T]);

    /// Where row `row` of the batch can be read, [`pending`](Self::pending) as it is: of a window, if it is not in memory.
    #[inline(always)]
    fn line<V: Vector<T>>(window: &mut Window<T, Self>, row: usize) -> *const T
    where
        Self: Sized,
    {
        window.made::<V>(row).0.as_ptr()
    }

    /// What is pending of the pixels of a [line](Self::line).
    #[inline(always)]
    fn pending(&self) -> Masking<'_, T> {
        Masking { z: &[], norm: None, rectifier: Rectifier::Identity }
    }
}

impl<T: Real> Rows<T> for &Loader<'_, T> {
    const IN_MEMORY: bool = true;

    fn channels(&self) -> usize {
        self.c
    }

    #[inline(always)]
    fn make<V: Vector<T>>(&mut self, row: usize, pixels: usize, _slot: usize, out: &mut [T]) {
        self.load_asking::<V>(row * pixels, pixels, out);
    }

    #[inline(always)]
    fn line<V: Vector<T>>(window: &mut Window<T, Self>, row: usize) -> *const T {
        window.source.masking(row * window.pixels, window.pixels).z.as_ptr()
    }

    #[inline(always)]
    fn pending(&self) -> Masking<'_, T> {
        self.masking(0, 0)
    }
}

impl<T: Real> Rows<T> for &GradLoader<'_, T> {
    fn channels(&self) -> usize {
        self.c
    }

    #[inline(always)]
    fn make<V: Vector<T>>(&mut self, row: usize, pixels: usize, _slot: usize, out: &mut [T]) {
        self.load_asking::<V>(row * pixels, pixels, out);
    }
}

/// Places of a window that keeps at least the last `height` rows: a power of two, for a division takes as long as the row
/// of a tile.
pub(super) fn slots(height: usize) -> usize {
    height.next_power_of_two()
}

/// The last rows that were asked for. Rows are counted over the whole batch.
pub(super) struct Window<T, R> {
    pub source: R,
    /// Pixels of a row.
    pub pixels: usize,
    left: usize,
    row_len: usize,
    memory: Aligned<T>,
    held: Vec<Option<usize>>,
}

impl<T: Real, R: Rows<T>> Window<T, R> {
    /// For rows of `pixels` pixels, `left` and `right` pixels of zeros around them, at least the last `height` rows kept.
    /// Behind the last row a vector more can be read.
    pub fn new(source: R, pixels: usize, [left, right]: [usize; 2], height: usize) -> Self {
        let (c, height) = (source.channels(), slots(height));
        let row_len = (left + pixels + right) * c;
        Window {
            source,
            pixels,
            left: left * c,
            row_len,
            memory: Aligned::zeros(height * row_len + 16),
            held: vec![None; height],
        }
    }

    /// Row `row` of the batch, from its zeros on the left; good until `height` further rows were asked for.
    #[inline(always)]
    pub fn row<V: Vector<T>>(&mut self, row: usize) -> *const T {
        let slot = row & (self.held.len() - 1);
        let memory = &mut self.memory[slot * self.row_len..][..self.row_len];
        if self.held[slot] != Some(row) {
            self.held[slot] = Some(row);
            let inner = &mut memory[self.left..][..self.pixels * self.source.channels()];
            self.source.make::<V>(row, self.pixels, slot, inner);
        }
        memory.as_ptr()
    }

    /// The same without its zeros, its place, and the source.
    #[inline(always)]
    pub fn made<V: Vector<T>>(&mut self, row: usize) -> (&[T], usize, &mut R) {
        self.row::<V>(row);
        let slot = row & (self.held.len() - 1);
        let len = self.pixels * self.source.channels();
        (&self.memory[slot * self.row_len + self.left..][..len], slot, &mut self.source)
    }
}
