//! Loops over the rows of small panels, whole vectors wide.

#![allow(unsafe_code, reason = "vectors are loaded through raw pointers")]

use crate::Real;
use crate::kernels::tile::row_product;
use crate::simd::Vector;

/// diag(a) V, both panels of as many rows as `a` has elements.
#[inline(always)]
pub(super) fn scale_rows<T: Real, V: Vector<T>>(v: &[T], a: &[T], scaled: &mut [T]) {
    let row = v.len() / a.len();
    assert!(row.is_multiple_of(V::LANES) && scaled.len() == v.len() && v.len() == row * a.len());
    for (i, &a) in a.iter().enumerate() {
        let a = V::splat(a);
        for at in (i * row..(i + 1) * row).step_by(V::LANES) {
            // SAFETY: both panels hold whole vectors.
            unsafe { V::load(v.as_ptr().add(at)).mul(a).store(scaled.as_mut_ptr().add(at)) };
        }
    }
}

/// V diag(a), both panels of rows as long as `a`, which has whole vectors too.
#[inline(always)]
pub(super) fn scale_columns<T: Real, V: Vector<T>>(v: &[T], a: &[T], scaled: &mut [T]) {
    let row = a.len();
    assert!(row.is_multiple_of(V::LANES) && scaled.len() == v.len() && v.len().is_multiple_of(row));
    for at in (0..row).step_by(V::LANES) {
        // SAFETY: the panels and `a` hold whole vectors.
        unsafe {
            let a = V::load(a.as_ptr().add(at));
            for at in (at..v.len()).step_by(row) {
                V::load(v.as_ptr().add(at)).mul(a).store(scaled.as_mut_ptr().add(at));
            }
        }
    }
}

/// Sums of products of two panels by rows, over a batch and therefore in f64. A row has as many sums as a vector has
/// elements, which are added up at the end: that is what takes time.
pub(super) struct RowProducts(Vec<[f64; 16]>);

impl RowProducts {
    pub fn zeros(rows: usize) -> Self {
        RowProducts(vec![[0.0; 16]; rows])
    }

    /// Adds those of `a` and `b`.
    #[inline(always)]
    pub fn add<T: Real, V: Vector<T>>(&mut self, a: &[T], b: &[T]) {
        let row = a.len() / self.0.len();
        assert!(row.is_multiple_of(V::LANES) && b.len() == a.len() && a.len() == row * self.0.len());
        let mut lanes = [T::zero(); 16];
        assert!(V::LANES <= lanes.len());
        for (i, sums) in self.0.iter_mut().enumerate() {
            // SAFETY: both panels hold whole vectors, and sixteen elements are at least one.
            unsafe {
                let (a, b) = (a.as_ptr().add(i * row), b.as_ptr().add(i * row));
                row_product::<T, V>(a, b, row).store(lanes.as_mut_ptr());
            }
            for j in 0..16 {
                sums[j] += lanes[j].f64();
            }
        }
    }

    /// The sum of each row.
    pub fn finish(self) -> Vec<f64> {
        self.0.iter().map(|sums| sums.iter().sum()).collect()
    }
}
