//! Tensors on the CPU: shapes, storage, and the kernels of convolutional networks, forward and backward.
//!
//! Shapes are *logical*: images are `[N, C, H, W]`, kernels `[O, I, k, k]`, as in PyTorch. Every rank-4 tensor lies
//! *channels last* in memory (`N, H, W, C` and `O, k, k, I`); every other rank is row-major. A tensor is always
//! dense, reference counted and copied on write.
//!
//! Each kernel in [`kernels`] has a naive twin in [`reference`](mod@reference), written straight from its equation; the tests
//! hold one against the other. This crate knows nothing of differentiation: a backward kernel is a function of
//! tensors like any other.

mod aligned;
mod compiled;
mod error;
pub mod kernels;
pub mod parallel;
pub mod plan;
pub mod pool;
pub mod random;
mod real;
pub mod reference;
mod shape;
pub mod simd;
mod storage;
mod tensor;

pub use error::{Error, Result};
pub use real::{Dtype, Real};
pub use shape::Shape;
pub use tensor::Tensor;
