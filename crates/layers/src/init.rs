//! Initial values. Every parameter has its own random stream, named by the seed and by its place in the order of
//! construction: the same seed gives the same network, in f32 the rounded values of f64.

use std::cell::Cell;

use gatefold_tensor::random::{self, ChaCha8Rng, Purpose};
use gatefold_tensor::{Real, Shape, Tensor};

/// Hands out initial values, parameter after parameter.
#[derive(Debug)]
pub struct Init {
    seed: u64,
    next: Cell<u64>,
}

impl Init {
    /// All values named by `seed`.
    pub fn new(seed: u64) -> Self {
        Init { seed, next: Cell::new(0) }
    }

    fn stream(&self) -> ChaCha8Rng {
        random::stream(self.seed, Purpose::Init, self.next.replace(self.next.get() + 1), 0)
    }

    /// U(−1/√fan_in, 1/√fan_in): PyTorch's default of convolutions and linear layers, weights and biases.
    pub fn uniform<T: Real>(&self, shape: impl Into<Shape>, fan_in: usize) -> Tensor<T> {
        let (bound, mut rng) = (1.0 / (fan_in.max(1) as f64).sqrt(), self.stream());
        Tensor::from_fn(shape, |_| T::of(random::uniform(&mut rng, -bound, bound)))
    }

    /// N(0, deviation²).
    pub fn normal<T: Real>(&self, shape: impl Into<Shape>, deviation: f64) -> Tensor<T> {
        let mut rng = self.stream();
        Tensor::from_fn(shape, |_| T::of(deviation * random::normal(&mut rng)))
    }
}
