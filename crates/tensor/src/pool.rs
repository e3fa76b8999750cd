//! The pool behind every large tensor: memory that was given back is handed out again.
//!
//! A training step makes the same maps again and again. Asking the system for them each time costs more than computing
//! them, because fresh pages must be cleared and mapped one by one.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Real;

/// Smaller buffers are left to the allocator, which keeps them by itself.
const SMALLEST: usize = 1 << 12;
/// Idle bytes the pool keeps at most; beyond that the buffer that waits longest is freed.
const MOST_IDLE: usize = 128 << 20;

/// The idle buffers of one element type, the one that waits longest first.
pub struct Pool<T> {
    idle: Mutex<Vec<Vec<T>>>,
    allocated: AtomicUsize,
}

impl<T: Real> Pool<T> {
    /// An empty pool.
    #[must_use]
    pub const fn new() -> Self {
        Pool { idle: Mutex::new(Vec::new()), allocated: AtomicUsize::new(0) }
    }

    /// How many large buffers have been asked of the system so far.
    pub fn allocated(&self) -> usize {
        self.allocated.load(Ordering::Relaxed)
    }

    /// At least `len` elements of any value: the smallest idle buffer that is not twice as large, or a new one.
    pub(crate) fn take(&self, len: usize) -> Vec<T> {
        if len < SMALLEST {
            return vec![T::zero(); len];
        }
        let mut idle = self.lock();
        let fits = |buffer: &Vec<T>| (len..2 * len).contains(&buffer.len());
        let best = idle.iter().enumerate().filter(|(_, b)| fits(b)).min_by_key(|(_, b)| b.len()).map(|(at, _)| at);
        match best {
            Some(at) => idle.remove(at),
            None => {
                drop(idle);
                self.allocated.fetch_add(1, Ordering::Relaxed);
                vec![T::zero(); len]
            }
        }
    }

    /// Takes a buffer back.
    pub(crate) fn give(&self, buffer: Vec<T>) {
        if buffer.len() < SMALLEST {
            return;
        }
        let mut idle = self.lock();
        idle.push(buffer);
        let bytes = |idle: &[Vec<T>]| idle.iter().map(|b| size_of::<T>() * b.len()).sum::<usize>();
        while bytes(&idle) > MOST_IDLE {
            idle.remove(0);
        }
    }

    /// A panic elsewhere cannot leave the list half changed, so a poisoned lock is as good as any.
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<T>>> {
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<T: Real> Default for Pool<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Element types with a pool; sealed away behind [`Real`].
pub trait Pooled: Sized + 'static {
    /// The pool of this type, one for the process.
    fn pool() -> &'static Pool<Self>;
}

macro_rules! pooled {
    ($t:ty) => {
        impl Pooled for $t {
            fn pool() -> &'static Pool<$t> {
                static POOL: Pool<$t> = Pool::new();
                &POOL
            }
        }
    };
}

pooled!(f32);
pooled!(f64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_given_back_is_handed_out_again() {
        let pool = Pool::<f32>::new();
        let first = pool.take(10_000);
        let at = first.as_ptr();
        pool.give(first);
        let second = pool.take(9_000);
        assert_eq!((second.as_ptr(), second.len(), pool.allocated()), (at, 10_000, 1));
        pool.give(second);
        assert_eq!(pool.take(5_000).len(), 5_000); // ten thousand would be a waste
        assert_eq!(pool.take(10_001).len(), 10_001);
        assert_eq!(pool.allocated(), 3);
    }

    #[test]
    fn the_pool_does_not_hoard() {
        let pool = Pool::<f64>::new();
        let half = MOST_IDLE / size_of::<f64>() / 2;
        for len in [half, half + 2, half + 1] {
            pool.give(vec![0.0; len]);
        }
        let idle: Vec<usize> = pool.lock().iter().map(Vec::len).collect();
        assert_eq!(idle, [half + 1]);
    }
}
