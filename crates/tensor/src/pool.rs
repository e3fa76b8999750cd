//! The pool behind every large tensor: memory that was given back is handed out again.
//!
//! A training step makes the same maps again and again. Asking the system for them each time costs more than computing
//! them, because fresh pages must be cleared and mapped one by one.

#![allow(unsafe_code, reason = "buffers are allocated by alignment, large ones given to the system as huge pages")]

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Real;
use crate::aligned::LINE;

/// Smaller buffers are left to the allocator, which keeps them by itself.
const SMALLEST: usize = 1 << 12;

/// A huge page. Maps of several megabytes on ordinary pages cost a miss of the address cache every few rows.
const HUGE_PAGE: usize = 2 << 20;

/// A run of elements: a vector from outside, or a block of the pool's own.
pub(crate) enum Memory<T> {
    Vector(Vec<T>),
    Block(Block<T>),
}

impl<T: Real> Memory<T> {
    fn new(len: usize) -> Self {
        if len == 0 { Memory::Vector(Vec::new()) } else { Memory::Block(Block::new(len)) }
    }

    pub fn as_slice(&self) -> &[T] {
        match self {
            Memory::Vector(vector) => vector,
            // SAFETY: `len` elements were allocated and written.
            Memory::Block(block) => unsafe { std::slice::from_raw_parts(block.at.as_ptr(), block.len) },
        }
    }

    pub fn as_mut_slice(&mut self) -> &mut [T] {
        match self {
            Memory::Vector(vector) => vector,
            // SAFETY: `len` elements were allocated and written, and nobody else has them.
            Memory::Block(block) => unsafe { std::slice::from_raw_parts_mut(block.at.as_ptr(), block.len) },
        }
    }

    fn len(&self) -> usize {
        self.as_slice().len()
    }
}

/// Elements on whole lines of the cache, many of them on whole huge pages.
pub(crate) struct Block<T> {
    at: NonNull<T>,
    len: usize,
}

// SAFETY: it owns its elements, as a `Vec` does.
unsafe impl<T: Send> Send for Block<T> {}
// SAFETY: shared access only reads.
unsafe impl<T: Sync> Sync for Block<T> {}

impl<T> Block<T> {
    fn layout(len: usize) -> Layout {
        let bytes = len * size_of::<T>();
        let unit = if bytes < HUGE_PAGE { LINE } else { HUGE_PAGE };
        Layout::from_size_align(bytes.next_multiple_of(unit), unit).expect("a tensor's size fits the address space")
    }

    /// `len > 0` zeros.
    fn new(len: usize) -> Self {
        let layout = Self::layout(len);
        // SAFETY: the size is not zero; every element is written before it is read, and zero bytes are the number zero;
        // the advice changes no contents.
        unsafe {
            let memory = if layout.align() == HUGE_PAGE { alloc(layout) } else { alloc_zeroed(layout) };
            let Some(at) = NonNull::new(memory.cast::<T>()) else { handle_alloc_error(layout) };
            if layout.align() == HUGE_PAGE {
                #[cfg(all(target_os = "linux", not(miri)))]
                libc::madvise(at.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE);
                at.as_ptr().write_bytes(0, len);
            }
            Block { at, len }
        }
    }
}

impl<T> Drop for Block<T> {
    fn drop(&mut self) {
        // SAFETY: allocated with the same layout, and elements are plain numbers.
        unsafe { dealloc(self.at.as_ptr().cast(), Self::layout(self.len)) };
    }
}

/// A buffer that has waited through so many requests belongs to no step that is still being taken.
const PATIENCE: usize = 1 << 12;

/// The idle buffers of one element type. Beyond half again of what was ever in use at once, those go that nobody has
/// wanted for long. (A buffer may serve a smaller map, so that a step needs more buffers than it has maps alive; how many
/// more depends on the order of its maps.)
pub struct Pool<T> {
    state: Mutex<State<T>>,
    allocated: AtomicUsize,
}

struct State<T> {
    /// The one that waits longest first, with the request after which it was given back.
    idle: Vec<(usize, Memory<T>)>,
    requests: usize,
    /// Elements handed out, now and at most.
    used: usize,
    most_used: usize,
}

impl<T: Real> Pool<T> {
    /// An empty pool.
    #[must_use]
    pub const fn new() -> Self {
        let state = State { idle: Vec::new(), requests: 0, used: 0, most_used: 0 };
        Pool { state: Mutex::new(state), allocated: AtomicUsize::new(0) }
    }

    /// How many large buffers have been asked of the system so far.
    pub fn allocated(&self) -> usize {
        self.allocated.load(Ordering::Relaxed)
    }

    /// At least `len` elements of any value: the smallest idle buffer that is not twice as large, or a new one.
    pub(crate) fn take(&self, len: usize) -> Memory<T> {
        if len < SMALLEST {
            return Memory::new(len);
        }
        let mut state = self.lock();
        let fits = |buffer: &Memory<T>| (len..2 * len).contains(&buffer.len());
        let candidates = state.idle.iter().enumerate().filter(|(_, (_, buffer))| fits(buffer));
        let best = candidates.min_by_key(|(_, (_, buffer))| buffer.len()).map(|(at, _)| at);
        let buffer = best.map(|at| state.idle.remove(at).1);
        state.requests += 1;
        state.used += buffer.as_ref().map_or(len, Memory::len);
        state.most_used = state.most_used.max(state.used);
        drop(state);
        buffer.unwrap_or_else(|| {
            self.allocated.fetch_add(1, Ordering::Relaxed);
            Memory::new(len)
        })
    }

    /// Takes back a buffer of [`take`](Self::take).
    pub(crate) fn give(&self, buffer: Memory<T>) {
        if buffer.len() < SMALLEST {
            return;
        }
        let mut state = self.lock();
        state.used -= buffer.len();
        let now = state.requests;
        state.idle.push((now, buffer));
        let mut elements: usize = state.idle.iter().map(|(_, buffer)| buffer.len()).sum();
        while elements > state.most_used + state.most_used / 2 && now - state.idle[0].0 > PATIENCE {
            elements -= state.idle.remove(0).1.len();
        }
    }

    /// A panic elsewhere cannot leave the list half changed, so a poisoned lock is as good as any.
    fn lock(&self) -> std::sync::MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
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
        let at = first.as_slice().as_ptr();
        pool.give(first);
        let second = pool.take(9_000);
        assert_eq!((second.as_slice().as_ptr(), second.len(), pool.allocated()), (at, 10_000, 1));
        pool.give(second);
        assert_eq!(pool.take(5_000).len(), 5_000); // ten thousand would be a waste
        assert_eq!(pool.take(10_001).len(), 10_001);
        assert_eq!(pool.allocated(), 3);
    }

    #[test]
    fn large_buffers_lie_on_whole_huge_pages() {
        let mut memory = Memory::<f64>::new(1_000_003);
        assert_eq!(memory.as_slice().as_ptr() as usize % HUGE_PAGE, 0);
        assert!(memory.as_slice().iter().all(|&v| v == 0.0));
        memory.as_mut_slice()[1_000_002] = 1.0;
        assert_eq!((memory.len(), memory.as_slice()[1_000_002]), (1_000_003, 1.0));
    }

    #[test]
    fn every_buffer_starts_at_a_line() {
        for len in [1, 15, 100, 10_000, 200_000] {
            let memory = Memory::<f32>::new(len);
            assert_eq!((memory.as_slice().as_ptr() as usize % LINE, memory.len()), (0, len));
            assert!(memory.as_slice().iter().all(|&v| v == 0.0));
        }
    }

    #[test]
    fn the_pool_does_not_hoard() {
        let pool = Pool::<f64>::new();
        let idle = || pool.lock().idle.iter().map(|(_, buffer)| buffer.len()).collect::<Vec<_>>();
        for len in [10_000, 25_000, 60_000] {
            pool.give(pool.take(len));
        }
        assert_eq!(idle(), [10_000, 25_000, 60_000]); // more than 90,000, but wanted a moment ago
        for _ in 0..=PATIENCE {
            pool.give(pool.take(60_000));
        }
        assert_eq!(idle(), [25_000, 60_000]);
        let state = pool.lock();
        assert_eq!((state.used, state.most_used), (0, 60_000));
    }
}
