//! The kernels, forward and backward, one topic a file.

pub mod activation;
mod ahead;
pub mod batch_norm;
pub mod blocks;
pub mod broadcast;
pub mod compose;
pub mod concat;
pub mod conv;
pub mod cross_entropy;
pub mod folded;
pub mod gemm;
#[cfg(test)]
mod known;
pub mod linear;
pub mod matmul;
mod moments;
pub mod pending;
pub mod pool;
pub mod reduce;
mod rows;
pub mod softmax;
#[cfg(test)]
pub(crate) mod testing;
mod tile;
pub(crate) mod transpose;
