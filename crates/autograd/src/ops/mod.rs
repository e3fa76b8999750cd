//! The operations, one small file each: what is saved, and how the gradient goes back.

mod activation;
pub(crate) mod batch_norm;
mod broadcast;
mod compose_kernels;
mod concat;
mod conv2d;
mod cross_entropy;
pub(crate) mod folded_site;
mod join;
mod linear;
mod matmul;
mod pool;
mod reduce;
mod reshape;
mod softmax;
