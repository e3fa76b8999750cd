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
    kernels: Kernels,
}

/// How the kernels of convolutions start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernels {
    Uniform,
    KaimingFanOut,
}

impl Init {
    /// All values named by `seed`.
    pub fn new(seed: u64) -> Self {
        Init { seed, next: Cell::new(0), kernels: Kernels::Uniform }
    }

    /// The same, with the kernels of convolutions from N(0, 2/(k²·O)): He et al. 2015 (their eq. 14), and torchvision's
    /// MobileNetV2 and ResNet.
    #[must_use]
    pub fn kaiming_fan_out(self) -> Self {
        Init { kernels: Kernels::KaimingFanOut, ..self }
    }

    /// The kernels of a convolution, `[O, I, k, k]`.
    pub(crate) fn kernels<T: Real>(&self, shape: [usize; 4]) -> Tensor<T> {
        let [o, i, kh, kw] = shape;
        match self.kernels {
            Kernels::Uniform => self.uniform(shape, i * kh * kw),
            Kernels::KaimingFanOut => self.normal(shape, (2.0 / (o * kh * kw) as f64).sqrt()),
        }
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
