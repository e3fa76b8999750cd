//! The memory behind a tensor: shared until somebody writes, pooled when nobody needs it any more.

use std::sync::Arc;

use crate::Real;

/// A dense run of elements, reference counted and copied on write.
#[derive(Clone)]
pub(crate) struct Storage<T: Real>(Arc<Buffer<T>>);

/// Memory from the pool, of which the first `len` elements belong to the tensor.
struct Buffer<T: Real> {
    memory: Vec<T>,
    len: usize,
}

impl<T: Real> Drop for Buffer<T> {
    fn drop(&mut self) {
        T::pool().give(std::mem::take(&mut self.memory));
    }
}

impl<T: Real> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        let mut memory = T::pool().take(self.len);
        memory[..self.len].copy_from_slice(&self.memory[..self.len]);
        Buffer { memory, len: self.len }
    }
}

impl<T: Real> Storage<T> {
    pub(crate) fn from_vec(elements: Vec<T>) -> Self {
        Storage(Arc::new(Buffer { len: elements.len(), memory: elements }))
    }

    pub(crate) fn filled(len: usize, value: T) -> Self {
        let mut storage = Storage::any(len);
        storage.make_mut().fill(value);
        storage
    }

    /// `len` elements of any value, for who writes every one of them.
    pub(crate) fn any(len: usize) -> Self {
        Storage(Arc::new(Buffer { memory: T::pool().take(len), len }))
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        &self.0.memory[..self.0.len]
    }

    /// The elements for writing; copied first if another tensor shares them.
    pub(crate) fn make_mut(&mut self) -> &mut [T] {
        let buffer = Arc::make_mut(&mut self.0);
        &mut buffer.memory[..buffer.len]
    }
}
