//! Stochastic gradient descent with momentum, step by step as PyTorch's `torch.optim.SGD` takes it.
//!
//! ```text
//! g  ← dL/dp + λ·p            weight decay λ, on every parameter or on kernels     (sgd.1)
//! v  ← g in the first step,  μ·v + g afterwards                                    (sgd.2)
//! p  ← p − η·v                learning rate η                                      (sgd.3)
//! ```
//! No dampening, no Nesterov. A parameter without a gradient is left alone, with its velocity.
//!
//! Values of p and v below the smallest normal number are written as zero: where a gradient dies (a dead channel, say),
//! λ and μ shrink them for ever, and arithmetic on denormals is a hundred times slower.

use std::collections::BTreeMap;

use gatefold_layers::{Entry, EntryMut, ParamGradients, Walk};
use gatefold_tensor::{Error, Real, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::Result;

/// Elements that one task updates: less is not worth a thread.
const TASK: usize = 1 << 14;

/// The parameters that weight decay shrinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecayScope {
    /// All: plain SGD.
    All,
    /// Those of two or more dimensions: the kernels of convolutions and the matrices of linear layers, without biases and
    /// without the scales and shifts of batch norms.
    Kernels,
}

/// The optimiser and its state, by state-dict key.
#[derive(Debug, Clone)]
pub struct Sgd<T: Real> {
    /// μ, at least 0 and below 1. Without momentum no velocity is kept.
    pub momentum: f64,
    /// λ, at least 0.
    pub weight_decay: f64,
    /// What λ shrinks.
    pub scope: DecayScope,
    velocity: BTreeMap<String, Tensor<T>>,
}

impl<T: Real> Sgd<T> {
    /// Before the first step; the weight decay on all parameters.
    pub fn new(momentum: f64, weight_decay: f64) -> Self {
        Sgd { momentum, weight_decay, scope: DecayScope::All, velocity: BTreeMap::new() }
    }

    /// One step, (sgd.1) to (sgd.3), with learning rate `lr`.
    ///
    /// # Errors
    /// [`Error::Shape`] if a gradient or a velocity has another shape than its parameter, which is then left alone, and
    /// so are all that come after it.
    pub fn step(&mut self, network: &mut dyn Walk<T>, gradients: &ParamGradients<T>, lr: f64) -> Result<()> {
        let mut result = Ok(());
        network.walk_mut("", &mut |key, entry| {
            let EntryMut::Param(param) = entry else { return };
            let Some(gradient) = gradients.get(param) else { return };
            if result.is_ok() {
                result = self.update(key, &mut param.value, gradient, lr);
            }
        });
        Ok(result?)
    }

    fn update(&mut self, key: &str, p: &mut Tensor<T>, g: &Tensor<T>, lr: f64) -> Result<(), Error> {
        let fits = |arg, tensor: &Tensor<T>| match tensor.shape() == p.shape() {
            true => Ok(()),
            false => Err(Error::shape("sgd", arg, format!("{:?}, that of `{key}`", p.shape()), tensor.shape())),
        };
        fits("gradient", g)?;
        let (lr, decay, momentum) = (T::of(lr), T::of(self.decay_of(p)), T::of(self.momentum));
        if momentum == T::zero() {
            each(p, g, |p, g| *p = normal(*p - lr * (g + decay * *p)));
            return Ok(());
        }
        match self.velocity.get_mut(key) {
            Some(v) => {
                fits("velocity", v)?;
                each_with(p, v, g, |p, v, g| {
                    *v = normal(momentum * *v + (g + decay * *p));
                    *p = normal(*p - lr * *v);
                });
            }
            None => {
                let mut v = Tensor::zeros(*p.shape());
                each_with(p, &mut v, g, |p, v, g| {
                    *v = normal(g + decay * *p);
                    *p = normal(*p - lr * *v);
                });
                self.velocity.insert(key.to_owned(), v);
            }
        }
        Ok(())
    }

    /// λ on a parameter.
    fn decay_of(&self, p: &Tensor<T>) -> f64 {
        match self.scope {
            DecayScope::Kernels if p.shape().len() < 2 => 0.0,
            _ => self.weight_decay,
        }
    }

    /// v of every parameter that has had a gradient, by state-dict key: what a checkpoint stores.
    pub fn velocity(&self) -> &BTreeMap<String, Tensor<T>> {
        &self.velocity
    }

    /// Takes up the velocities of a checkpoint of `network`. A parameter without one begins as in a first step.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a key that is no parameter of the network, [`Error::Shape`] for another shape than the
    /// parameter's; nothing is changed then.
    pub fn load_velocity(&mut self, velocity: BTreeMap<String, Tensor<T>>, network: &dyn Walk<T>) -> Result<()> {
        let mut shapes = BTreeMap::new();
        network.walk("", &mut |key, entry| {
            if let Entry::Param(param) = entry {
                shapes.insert(key.to_owned(), *param.value.shape());
            }
        });
        for (key, v) in &velocity {
            match shapes.get(key) {
                None => return Err(Error::invalid("sgd", format!("`{key}` is no parameter of the network")).into()),
                Some(shape) if shape != v.shape() => {
                    let expected = format!("{shape:?}, that of `{key}`");
                    return Err(Error::shape("sgd", "velocity", expected, v.shape()).into());
                }
                Some(_) => {}
            }
        }
        self.velocity = velocity;
        Ok(())
    }
}

/// `x`, or zero where it is denormal; not a number stays what it is.
pub(crate) fn normal<T: Real>(x: T) -> T {
    if x.abs() < T::min_positive_value() { T::zero() } else { x }
}

fn each<T: Real>(p: &mut Tensor<T>, g: &Tensor<T>, update: impl Fn(&mut T, T) + Sync) {
    let tasks = p.as_mut_slice().par_chunks_mut(TASK).zip(g.as_slice().par_chunks(TASK));
    tasks.for_each(|(p, g)| p.iter_mut().zip(g).for_each(|(p, &g)| update(p, g)));
}

fn each_with<T: Real>(p: &mut Tensor<T>, v: &mut Tensor<T>, g: &Tensor<T>, update: impl Fn(&mut T, &mut T, T) + Sync) {
    let (p, v) = (p.as_mut_slice().par_chunks_mut(TASK), v.as_mut_slice().par_chunks_mut(TASK));
    p.zip(v).zip(g.as_slice().par_chunks(TASK)).for_each(|((p, v), g)| {
        p.iter_mut().zip(v).zip(g).for_each(|((p, v), &g)| update(p, v, g));
    });
}

#[cfg(test)]
mod tests {
    use gatefold_layers::{Buffer, Cx, Param, walk_fields};

    use super::*;

    /// L = Σ c ⊙ used, so that dL/dused = c; `unused` has no gradient.
    struct Net<T: Real> {
        used: Param<T>,
        unused: Param<T>,
        seen: Buffer<T>,
    }

    walk_fields!(impl<T> Net<T> { used, unused, seen });

    fn net<T: Real>(used: &[f64]) -> Net<T> {
        let tensor =
            |values: &[f64]| Tensor::from_vec([values.len()], values.iter().map(|&v| T::of(v)).collect()).unwrap();
        let (used, other) = (tensor(used), tensor(&[7.0]));
        Net { used: Param::new(used), unused: Param::new(other.clone()), seen: Buffer::new(other) }
    }

    fn gradients<T: Real>(net: &Net<T>, c: &[f64]) -> ParamGradients<T> {
        let cx = Cx::train();
        let c = Tensor::from_vec([c.len()], c.iter().map(|&v| T::of(v)).collect()).unwrap();
        let loss = net.used.var(&cx).mul(&cx.input(c, false)).unwrap().sum(&[0], false).unwrap();
        cx.backward(&loss).unwrap()
    }

    #[test]
    fn steps_are_those_computed_by_hand() {
        // λ = 0.5, μ = 0.5; every number is exact in binary.
        let mut net = net::<f64>(&[1.0, -2.0]);
        let mut sgd = Sgd::new(0.5, 0.5);
        // g = [1, 1] + 0.5·[1, −2] = [1.5, 0]; v = g; p = [1, −2] − 0.5·v = [0.25, −2]
        let g = gradients(&net, &[1.0, 1.0]);
        sgd.step(&mut net, &g, 0.5).unwrap();
        assert_eq!(net.used.value.to_vec(), [0.25, -2.0]);
        assert_eq!(sgd.velocity()["used"].to_vec(), [1.5, 0.0]);
        // g = [2, −1] + 0.5·[0.25, −2] = [2.125, −2]; v = 0.5·[1.5, 0] + g = [2.875, −2]; p = p − 0.25·v
        let g = gradients(&net, &[2.0, -1.0]);
        sgd.step(&mut net, &g, 0.25).unwrap();
        assert_eq!(sgd.velocity()["used"].to_vec(), [2.875, -2.0]);
        assert_eq!(net.used.value.to_vec(), [-0.46875, -1.5]);
        // What has no gradient and what is no parameter stay as they are, without a velocity.
        assert_eq!((net.unused.value.to_vec(), net.seen.value.to_vec()), (vec![7.0], vec![7.0]));
        assert_eq!(sgd.velocity().keys().collect::<Vec<_>>(), ["used"]);
    }

    #[test]
    fn kernels_alone_shrink_where_the_scope_says_so() {
        struct Layer<T: Real> {
            weight: Param<T>,
            bias: Param<T>,
        }
        walk_fields!(impl<T> Layer<T> { weight, bias });
        for (momentum, scope, bias) in [
            (0.5, DecayScope::All, 1.0 - 0.5 * (1.0 + 0.5)),
            (0.5, DecayScope::Kernels, 1.0 - 0.5),
            (0.0, DecayScope::All, 1.0 - 0.5 * (1.0 + 0.5)),
            (0.0, DecayScope::Kernels, 1.0 - 0.5),
        ] {
            let weight = Param::new(Tensor::ones([1, 2]));
            let mut layer = Layer::<f64> { weight, bias: Param::new(Tensor::ones([2])) };
            let cx = Cx::train();
            let sum = layer.weight.var(&cx).add(&layer.bias.var(&cx)).unwrap().sum(&[0, 1], false).unwrap();
            let gradients = cx.backward(&sum).unwrap();
            let mut sgd = Sgd { scope, ..Sgd::new(momentum, 0.5) };
            sgd.step(&mut layer, &gradients, 0.5).unwrap();
            assert_eq!(layer.weight.value.to_vec(), [1.0 - 0.5 * (1.0 + 0.5); 2]);
            assert_eq!(layer.bias.value.to_vec(), [bias; 2], "{momentum} {scope:?}");
        }
    }

    #[test]
    fn without_momentum_nothing_is_kept() {
        let mut net = net::<f32>(&[1.0]);
        let mut sgd = Sgd::new(0.0, 0.5);
        for expected in [0.25, -0.3125] {
            let g = gradients(&net, &[1.0]);
            sgd.step(&mut net, &g, 0.5).unwrap();
            assert_eq!(net.used.value.to_vec(), [expected]);
        }
        assert!(sgd.velocity().is_empty());
    }

    #[test]
    fn long_tensors_take_the_same_steps() {
        let n = 3 * TASK + 5;
        let start: Vec<f64> = (0..n).map(|i| (i as f64).sin()).collect();
        let c: Vec<f64> = (0..n).map(|i| (i as f64).cos()).collect();
        let (mut net, mut sgd) = (net::<f64>(&start), Sgd::new(0.9, 5e-4));
        let (mut p, mut v) = (start, vec![0.0; n]);
        for _ in 0..3 {
            let g = gradients(&net, &c);
            sgd.step(&mut net, &g, 0.1).unwrap();
            for i in 0..n {
                v[i] = 0.9 * v[i] + (c[i] + 5e-4 * p[i]);
                p[i] -= 0.1 * v[i];
            }
        }
        assert_eq!(net.used.value.to_vec(), p);
    }

    #[test]
    fn denormals_become_zero_and_nan_stays() {
        let tiny = f64::from(f32::MIN_POSITIVE);
        let mut net = net::<f32>(&[1.5 * tiny, tiny, f64::NAN]);
        let mut sgd = Sgd::new(0.5, 0.0);
        for _ in 0..2 {
            // v = 0.75·tiny is denormal, and zero in both steps: the parameter keeps its value.
            let g = gradients(&net, &[0.75 * tiny, 0.0, 0.0]);
            sgd.step(&mut net, &g, 1.0).unwrap();
            assert_eq!(sgd.velocity()["used"].to_vec()[0], 0.0);
            assert_eq!(net.used.value.to_vec()[..2], [1.5 * f32::MIN_POSITIVE, f32::MIN_POSITIVE]);
        }
        // A velocity that is normal leaves 0.5·tiny of the parameter, which is not.
        let g = gradients(&net, &[tiny, 0.0, 0.0]);
        sgd.step(&mut net, &g, 1.0).unwrap();
        assert_eq!(net.used.value.to_vec()[0], 0.0);
        assert!(net.used.value.to_vec()[2].is_nan());
    }

    #[test]
    fn a_run_goes_on_from_its_velocities() {
        let (mut one, mut two) = (net::<f32>(&[1.0, 2.0]), net::<f32>(&[1.0, 2.0]));
        let (mut through, mut first) = (Sgd::new(0.9, 0.1), Sgd::new(0.9, 0.1));
        let g = gradients(&one, &[1.0, -1.0]);
        through.step(&mut one, &g, 0.1).unwrap();
        let g = gradients(&two, &[1.0, -1.0]);
        first.step(&mut two, &g, 0.1).unwrap();
        let mut resumed = Sgd::new(0.9, 0.1);
        resumed.load_velocity(first.velocity().clone(), &two).unwrap();
        let g = gradients(&one, &[3.0, 1.0]);
        through.step(&mut one, &g, 0.1).unwrap();
        let g = gradients(&two, &[3.0, 1.0]);
        resumed.step(&mut two, &g, 0.1).unwrap();
        assert_eq!(one.used.value.to_vec(), two.used.value.to_vec());
        assert_eq!(through.velocity(), resumed.velocity());
    }

    #[test]
    fn velocities_of_another_network_are_refused() {
        let net = net::<f32>(&[1.0, 2.0]);
        let mut sgd = Sgd::new(0.9, 0.0);
        for (key, len) in [("used", 3), ("seen", 1), ("nobody", 1)] {
            let foreign = BTreeMap::from([(key.to_owned(), Tensor::zeros([len]))]);
            let error = sgd.load_velocity(foreign, &net).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
            assert!(sgd.velocity().is_empty());
        }
    }
}
