//! Clipping by the global norm, as PyTorch's `torch.nn.utils.clip_grad_norm_` does it (Pascanu, Mikolov, Bengio 2013).
//!
//! ```text
//! ‖g‖ = √Σ g²          over the gradients of all parameters together            (clip.1)
//! g ← g · min(1, c/(‖g‖ + 1e-6))                                                (clip.2)
//! ```
//! Before the weight decay, which is no part of the gradient of the loss.

use gatefold_layers::{Entry, ParamGradients, Walk};
use gatefold_tensor::{Real, Tensor};
use rayon::prelude::*;

/// Elements that one task sums up, whatever the number of threads.
const TASK: usize = 1 << 14;

/// (clip.1), added up in f64 in the order of the parameters.
pub(crate) fn norm<T: Real>(network: &dyn Walk<T>, gradients: &ParamGradients<T>) -> f64 {
    let mut sum = 0.0;
    network.walk("", &mut |_, entry| {
        if let Entry::Param(param) = entry {
            sum += gradients.get(param).map_or(0.0, squares);
        }
    });
    sum.sqrt()
}

/// (clip.2) with the limit c. Gradients without a norm become NaN, which the step reports.
pub(crate) fn clip<T: Real>(network: &dyn Walk<T>, gradients: &mut ParamGradients<T>, limit: f64) {
    let factor = limit / (norm(network, gradients) + 1e-6);
    // A norm that is no number has to arrive.
    if factor < 1.0 || factor.is_nan() {
        gradients.scale(T::of(factor));
    }
}

fn squares<T: Real>(g: &Tensor<T>) -> f64 {
    let of_task = |g: &[T]| g.iter().map(|g| g.f64() * g.f64()).sum::<f64>();
    let tasks: Vec<f64> = g.as_slice().par_chunks(TASK).map(of_task).collect();
    tasks.iter().sum()
}

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;
    use gatefold_layers::{Cx, Param, walk_fields};

    use super::*;

    struct Net<T: Real> {
        a: Param<T>,
        b: Param<T>,
        unused: Param<T>,
    }

    walk_fields!(impl<T> Net<T> { a, b, unused });

    /// A network, and gradients of it with these values.
    fn gradients<T: Real>(a: &[f64], b: &[f64]) -> (Net<T>, ParamGradients<T>) {
        let tensor = |c: &[f64]| Tensor::from_vec([c.len()], c.iter().map(|&c| T::of(c)).collect()).unwrap();
        let param = |c: &[f64]| Param::new(Tensor::zeros([c.len()]));
        let (net, cx) = (Net { a: param(a), b: param(b), unused: param(&[1.0]) }, Cx::train());
        let of =
            |param: &Param<T>, c| param.var(&cx).mul(&cx.input(tensor(c), false)).unwrap().sum(&[0], false).unwrap();
        let loss = of(&net.a, a).add(&of(&net.b, b)).unwrap();
        let gradients = cx.backward(&loss).unwrap();
        (net, gradients)
    }

    #[test]
    fn a_long_gradient_is_shortened_and_a_short_one_left_alone() {
        // ‖(2, 3, 6)‖ = 7, over both parameters together.
        let (net, mut g) = gradients::<f64>(&[2.0, 3.0], &[-6.0]);
        assert_eq!(norm(&net, &g), 7.0);
        clip(&net, &mut g, 7.5);
        assert_eq!((g.get(&net.a).unwrap().to_vec(), g.get(&net.b).unwrap().to_vec()), (vec![2.0, 3.0], vec![-6.0]));
        clip(&net, &mut g, 3.5);
        let factor = 3.5 / 7.000001;
        let (a, b) = (g.get(&net.a).unwrap().to_vec(), g.get(&net.b).unwrap().to_vec());
        assert_eq!((a, b), (vec![2.0 * factor, 3.0 * factor], vec![-6.0 * factor]));
        assert!(g.get(&net.unused).is_none());
    }

    #[test]
    fn values_are_those_of_pytorch() {
        // a.grad = arange(1, 6)/3, b.grad = tensor([-2.5, 0.125]); clip_grad_norm_([a, b], 1.5), PyTorch 2, float64.
        let a: Vec<f64> = (1..6).map(|i| f64::from(i) / 3.0).collect();
        let (net, mut g) = gradients::<f64>(&a, &[-2.5, 0.125]);
        assert_relative_eq!(norm(&net, &g), 3.518058571301949, max_relative = 1e-14);
        clip(&net, &mut g, 1.5);
        let clipped: Vec<f64> = [&net.a, &net.b].iter().flat_map(|p| g.get(p).unwrap().to_vec()).collect();
        let expected = [
            0.14212380144971848,
            0.28424760289943696,
            0.42637140434915544,
            0.5684952057988739,
            0.7106190072485924,
            -1.0659285108728886,
            0.05329642554364443,
        ];
        for (value, expected) in clipped.iter().zip(expected) {
            assert_relative_eq!(*value, expected, max_relative = 1e-14);
        }
    }

    #[test]
    fn a_gradient_of_many_elements_has_the_same_norm() {
        let n = 3 * TASK + 5;
        let (net, g) = gradients::<f32>(&vec![0.5; n], &[0.0]);
        assert_eq!(norm(&net, &g), 0.5 * (n as f64).sqrt());
    }

    #[test]
    fn an_infinity_is_not_hidden() {
        for value in [f64::INFINITY, f64::NAN] {
            let (net, mut g) = gradients::<f32>(&[1.0, value], &[1.0]);
            clip(&net, &mut g, 1.0);
            assert!(!g.get(&net.a).unwrap().is_finite());
        }
    }
}
