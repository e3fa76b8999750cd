//! The memory behind a tensor: shared until somebody writes, pooled when nobody needs it any more.

use std::sync::Arc;

use crate::Real;
use crate::pool::Memory;

/// A dense run of elements, reference counted and copied on write.
#[derive(Clone)]
pub(crate) struct Storage<T: Real>(Arc<Buffer<T>>);

/// Memory of which the first `len` elements belong to the tensor.
struct Buffer<T: Real> {
    memory: Memory<T>,
    len: usize,
    /// Whether it goes back to the pool.
    pooled: bool,
}

impl<T: Real> Buffer<T> {
    fn any(len: usize) -> Self {
        Buffer { memory: T::pool().take(len), len, pooled: true }
    }
}

impl<T: Real> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.pooled {
            T::pool().give(std::mem::replace(&mut self.memory, Memory::Vector(Vec::new())));
        }
    }
}

impl<T: Real> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        let mut buffer = Buffer::any(self.len);
        buffer.memory.as_mut_slice()[..self.len].copy_from_slice(&self.memory.as_slice()[..self.len]);
        buffer
    }
}

impl<T: Real> Storage<T> {
    pub(crate) fn from_vec(elements: Vec<T>) -> Self {
        Storage(Arc::new(Buffer { len: elements.len(), memory: Memory::Vector(elements), pooled: false }))
    }

    pub(crate) fn filled(len: usize, value: T) -> Self {
        let mut storage = Storage::any(len);
        storage.make_mut().fill(value);
        storage
    }

    /// `len` elements of any value, for who writes every one of them.
    pub(crate) fn any(len: usize) -> Self {
        Storage(Arc::new(Buffer::any(len)))
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        &self.0.memory.as_slice()[..self.0.len]
    }

    /// The elements for writing; copied first if another tensor shares them.
    pub(crate) fn make_mut(&mut self) -> &mut [T] {
        let buffer = Arc::make_mut(&mut self.0);
        &mut buffer.memory.as_mut_slice()[..buffer.len]
    }
}
