//! Memory for vectors: a row of sixteen channels is one line of the cache, if it starts where a line does.

use std::ops::{Deref, DerefMut};

use crate::Real;

/// Bytes of a line of the cache. A vector that does not start where a line does lies in two of them.
pub(crate) const LINE: usize = 64;

/// A run of elements that starts at a line of the cache.
#[derive(Debug)]
pub(crate) struct Aligned<T> {
    memory: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Real> Aligned<T> {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        let memory = vec![T::zero(); len + LINE / size_of::<T>() - 1];
        let start = memory.as_ptr().align_offset(LINE).min(memory.len() - len);
        Aligned { memory, start, len }
    }

    /// Makes sure of `len` elements: where there are fewer, that many zeros take their place.
    pub fn lengthen(&mut self, len: usize) {
        if self.len < len {
            *self = Self::zeros(len);
        }
    }

    /// The same elements.
    pub fn copy(elements: &[T]) -> Self {
        let mut aligned = Self::zeros(elements.len());
        aligned.copy_from_slice(elements);
        aligned
    }
}

impl<T: Real> Clone for Aligned<T> {
    fn clone(&self) -> Self {
        Self::copy(self)
    }
}

impl<T> Default for Aligned<T> {
    /// No elements, and no memory.
    fn default() -> Self {
        Aligned { memory: Vec::new(), start: 0, len: 0 }
    }
}

impl<'a, T> IntoIterator for &'a Aligned<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_starts_at_a_line() {
        for len in [0, 1, 15, 16, 1000] {
            let (single, mut double) = (Aligned::<f32>::zeros(len), Aligned::<f64>::zeros(len));
            assert_eq!((single.len(), double.len()), (len, len));
            if cfg!(not(miri)) {
                assert_eq!((single.as_ptr() as usize % LINE, double.as_ptr() as usize % LINE), (0, 0));
            }
            double.fill(1.0);
            assert_eq!(Aligned::copy(&double).iter().sum::<f64>(), len as f64);
        }
        let mut memory = Aligned::<f32>::default();
        assert!(memory.is_empty());
        memory.lengthen(3);
        memory.fill(2.0);
        memory.lengthen(2);
        assert_eq!(memory[..], [2.0; 3]);
        memory.lengthen(5);
        assert_eq!(memory[..], [0.0; 5]);
    }
}
