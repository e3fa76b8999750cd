//! The definitions: naive loops straight from the equations, no cleverness, ever. Slow, and the oracle of every test.

pub mod activation;
pub mod batch_norm;
pub mod broadcast;
pub mod compose;
pub mod concat;
pub mod conv;
pub mod cross_entropy;
pub mod linear;
pub mod matmul;
pub mod pool;
pub mod reduce;
pub mod softmax;
