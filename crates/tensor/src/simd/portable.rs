//! Vectors as arrays: the compiler turns the loops into whatever the processor has.

use super::Vector;
use crate::Real;

const LANES: usize = 4;

/// Four elements.
#[derive(Clone, Copy)]
pub(crate) struct Portable<T>([T; LANES]);

impl<T: Real> Portable<T> {
    #[inline(always)]
    fn each(self, other: Self, f: impl Fn(T, T) -> T) -> Self {
        Portable(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl<T: Real> Vector<T> for Portable<T> {
    const LANES: usize = LANES;
    const REGISTERS: usize = 16;

    #[inline(always)]
    fn splat(value: T) -> Self {
        Portable([value; LANES])
    }

    #[inline(always)]
    unsafe fn load(from: *const T) -> Self {
        // SAFETY: the caller's promise.
        Portable(unsafe { from.cast::<[T; LANES]>().read() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut T) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[T; LANES]>().write(self.0) }
    }

    #[inline(always)]
    unsafe fn load_first(from: *const T, count: usize) -> Self {
        // SAFETY: only the first `count` elements are read.
        Portable(std::array::from_fn(|i| if i < count { unsafe { *from.add(i) } } else { T::zero() }))
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut T, count: usize) {
        for i in 0..count.min(LANES) {
            // SAFETY: only the first `count` elements are written.
            unsafe { *to.add(i) = self.0[i] }
        }
    }

    #[inline(always)]
    fn prefetch(_: *const T) {}

    #[inline(always)]
    fn prefetch_write(_: *const T) {}

    #[inline(always)]
    unsafe fn stream(self, to: *mut T) {
        // SAFETY: the caller's promise.
        unsafe { self.store(to) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.each(other, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.each(other, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.each(other, |a, b| a * b)
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, summand: Self) -> Self {
        self.mul(factor).add(summand)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.each(other, |a, b| if b > a { b } else { a })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.each(other, |a, b| if b < a { b } else { a })
    }

    #[inline(always)]
    fn keep_above(self, x: Self, low: Self) -> Self {
        Portable(std::array::from_fn(|i| if x.0[i] <= low.0[i] { T::zero() } else { self.0[i] }))
    }

    #[inline(always)]
    fn keep_below(self, x: Self, high: Self) -> Self {
        Portable(std::array::from_fn(|i| if x.0[i] >= high.0[i] { T::zero() } else { self.0[i] }))
    }

    #[inline(always)]
    fn interleave(self, other: Self) -> [Self; 2] {
        let element = |i: usize| if i.is_multiple_of(2) { self.0[i / 2] } else { other.0[i / 2] };
        [0, LANES].map(|first| Portable(std::array::from_fn(|i| element(first + i))))
    }
}
