//! The kernels, forward and backward, one topic a file.

pub mod compose;
pub mod conv;
pub mod gemm;
