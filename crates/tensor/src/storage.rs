//! The memory behind a tensor: shared until somebody writes.

use std::sync::Arc;

use crate::Real;

/// A dense run of elements, reference counted and copied on write.
#[derive(Clone)]
pub(crate) struct Storage<T: Real>(Arc<Vec<T>>);

impl<T: Real> Storage<T> {
    pub(crate) fn from_vec(elements: Vec<T>) -> Self {
        Storage(Arc::new(elements))
    }

    pub(crate) fn filled(len: usize, value: T) -> Self {
        Storage::from_vec(vec![value; len])
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        &self.0
    }

    /// The elements for writing; copied first if another tensor shares them.
    pub(crate) fn make_mut(&mut self) -> &mut [T] {
        Arc::<Vec<T>>::make_mut(&mut self.0)
    }
}
