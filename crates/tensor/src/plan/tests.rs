use super::*;
use crate::kernels::activation::{relu, relu6, sigmoid};
use crate::kernels::compose::compose_kernels;
use crate::kernels::conv::{conv2d, conv2d_per_sample};
use crate::kernels::linear::linear;
use crate::kernels::pending::{self, Pending};
use crate::kernels::pool::{Window, max_pool2d};
use crate::kernels::softmax::softmax;
use crate::kernels::testing::{assert_close, assert_same_bits, message};
use crate::random::randn;

const BATCHES: [usize; 4] = [0, 1, 3, 37];

/// One step on a map, beside the operation that it stands for.
fn assert_step<T: Real>(
    what: &str,
    input: [usize; 3],
    tolerance: f64,
    step: impl Fn(&mut Builder<T>, Map) -> Result<Map>,
    operation: impl Fn(&Tensor<T>) -> Tensor<T>,
) {
    let (mut builder, x) = Builder::new(input);
    let y = step(&mut builder, x).unwrap();
    let shape = builder.shape(y);
    let plan = builder.finish(y);
    for n in BATCHES {
        let x = randn::<T>([n, input[0], input[1], input[2]], 5);
        let (got, expected) = (plan.run(&x).unwrap(), operation(&x));
        assert_eq!(got.shape()[..], [n, shape.iter().product()], "{what}");
        let got = Tensor::from_memory(expected.shape(), got.as_slice().to_vec()).unwrap();
        assert_close(&format!("{what}, {n} images"), &got, &expected, tolerance);
    }
}

/// The awkward convolutions: every path, odd maps, strides, dilation, groups.
fn convolutions() -> Vec<([usize; 3], [usize; 4], Geometry)> {
    let geo = Geometry::default();
    vec![
        ([3, 9, 7], [16, 3, 3, 3], geo.padding(1)),
        ([16, 9, 7], [20, 16, 1, 1], geo),
        ([5, 4, 3], [1, 5, 1, 1], geo),
        ([1, 5, 5], [1, 1, 3, 3], geo.padding(1)),
        ([17, 9, 7], [17, 1, 3, 3], geo.padding(1).stride(2).groups(17)),
        ([6, 7, 8], [4, 3, 3, 3], geo.padding(1).groups(2)),
        ([7, 11, 6], [33, 7, 3, 3], geo.padding(2).dilation(2)),
        ([8, 9, 9], [8, 8, 1, 1], geo.stride(2)),
        ([4, 1, 1], [9, 4, 1, 1], geo),
    ]
}

fn every_convolution<T: Real>(tolerance: f64) {
    for (input, kernel, geo) in convolutions() {
        let (w, b) = (randn::<T>(kernel, 1), randn::<T>([kernel[0]], 2));
        for bias in [None, Some(&b)] {
            let what = format!("{kernel:?} on {input:?}, {geo:?}");
            let plain = |x: &Tensor<T>| conv2d(x, &w, bias, &geo).unwrap();
            let step = |rectifier| {
                let w = &w;
                move |p: &mut Builder<T>, x| p.conv(x, w, bias, &geo, rectifier)
            };
            assert_step(&what, input, tolerance, step(Rectifier::Identity), plain);
            assert_step(&what, input, tolerance, step(Rectifier::Relu), |x| relu(&plain(x)));
            assert_step(&what, input, tolerance, step(Rectifier::Relu6), |x| relu6(&plain(x)));
        }
    }
}

fn mean<T: Real>(x: &Tensor<T>) -> Tensor<T> {
    pending::global_avg_pool(&Pending::plain(x.clone())).unwrap()
}

#[test]
fn a_convolution_is_conv2d() {
    every_convolution::<f64>(1e-12);
    every_convolution::<f32>(1e-6);
}

#[test]
fn a_generated_convolution_is_composed_and_run_for_each_sample() {
    const M: usize = 5;
    for (input, [o, i, kh, kw], geo) in convolutions().into_iter().filter(|(.., geo)| geo.groups == 1) {
        let (base, w1) = (randn::<f64>([o, i, kh, kw], 1), randn::<f64>([M, i, kh, kw], 2));
        let (w2, b, b1) = (randn::<f64>([o, M, 1, 1], 3), randn::<f64>([o], 4), randn::<f64>([M], 6));
        let gates = randn::<f64>([M, input[0]], 7);
        for base in [None, Some(&base)] {
            let step = |p: &mut Builder<f64>, x| {
                let mean = p.global_avg_pool(x);
                let a = p.linear(mean, &gates, None, Rectifier::Identity)?;
                let kernels = Kernels { base, b: &b, w1: &w1, b1: &b1, w2: &w2 };
                p.generated_conv(x, a, &kernels, &geo, Rectifier::Relu)
            };
            assert_step(&format!("{o} kernels on {input:?}, {geo:?}"), input, 1e-12, step, |x| {
                let n = x.shape()[0];
                if n == 0 {
                    return Tensor::zeros([0, o, 1, 1]);
                }
                let a = linear(&mean(x), &gates, None).unwrap();
                let w = compose_kernels(base, &w2, Some(&a), &w1, 1).unwrap();
                let b = compose_kernels(
                    Some(&b.reshape([o, 1, 1, 1]).unwrap()),
                    &w2,
                    Some(&a),
                    &b1.reshape([M, 1, 1, 1]).unwrap(),
                    1,
                );
                let b = b.unwrap().reshape([n, o]).unwrap();
                relu(&conv2d_per_sample(x, &w, Some(&b), &geo).unwrap())
            });
        }
    }
}

#[test]
fn a_convolution_takes_kernels_that_a_step_has_made() {
    for (input, kernels, geo) in convolutions() {
        let len = kernels.iter().product();
        let (rows, b) = (randn::<f64>([len, input[0]], 7), randn::<f64>([kernels[0]], 4));
        let step = |p: &mut Builder<f64>, x| {
            let mean = p.global_avg_pool(x);
            let w = p.linear(mean, &rows, None, Rectifier::Identity)?;
            p.conv_per_sample(x, (w, kernels), &b, &geo, Rectifier::Relu)
        };
        assert_step(&format!("{kernels:?} on {input:?}, {geo:?}"), input, 1e-12, step, |x| {
            let (n, [o, i, kh, kw]) = (x.shape()[0], kernels);
            if n == 0 {
                return Tensor::zeros([0, o, 1, 1]);
            }
            let w = linear(&mean(x), &rows, None).unwrap();
            let w = Tensor::from_memory([n * o, i, kh, kw], w.as_slice().to_vec()).unwrap();
            let b = b.as_slice().repeat(n);
            let b = Tensor::from_vec([n, o], b).unwrap();
            relu(&conv2d_per_sample(x, &w, Some(&b), &geo).unwrap())
        });
    }
}

#[test]
fn the_small_steps_are_their_operations() {
    let input = [70, 13, 11];
    assert_step::<f64>("mean", input, 1e-13, |p, x| Ok(p.global_avg_pool(x)), mean);
    assert_step::<f32>("mean", input, 1e-6, |p, x| Ok(p.global_avg_pool(x)), mean);
    assert_step::<f64>("sigmoid", input, 0.0, |p, x| Ok(p.sigmoid(x)), sigmoid);
    let window = Window::square(3).stride(2).padding(1);
    assert_step::<f64>("max", input, 0.0, |p, x| p.max_pool(x, &window), |x| max_pool2d(x, &window).unwrap().0);
    let flat = |x: &Tensor<f64>| x.reshape([x.shape()[0], 6]).unwrap();
    assert_step::<f64>("softmax", [6, 1, 1], 0.0, |p, x| p.softmax(x, 3.0), |x| softmax(&flat(x), 3.0).unwrap());
    let (w, b) = (randn::<f64>([10, 6], 1), randn::<f64>([10], 2));
    let step = |p: &mut Builder<f64>, x| p.linear(x, &w, Some(&b), Rectifier::Identity);
    assert_step::<f64>("linear", [6, 1, 1], 1e-13, step, |x| linear(&flat(x), &w, Some(&b)).unwrap());
}

#[test]
fn maps_join_and_part() {
    let input = [6, 3, 5];
    let squares = |p: &mut Builder<f64>, x| {
        let s = p.sigmoid(x);
        p.add(x, s, Rectifier::Relu)
    };
    assert_step::<f64>("add", input, 1e-15, squares, |x| {
        let mut y = x.clone();
        y.zip_apply(&sigmoid(x), |y, s| *y += s).unwrap();
        relu(&y)
    });
    let scaled = |p: &mut Builder<f64>, x| {
        let mean = p.global_avg_pool(x);
        p.scale(x, mean)
    };
    assert_step::<f64>("scale", input, 1e-14, scaled, |x| {
        let mean = mean(x);
        Tensor::from_fn(x.shape(), |at| x.view()[at] * mean.view()[[at[0], at[1]].as_slice()])
    });
    let shuffled = |p: &mut Builder<f64>, x| {
        let s = p.sigmoid(x);
        p.gather(&[(x, 5), (s, 0), (x, 2), (s, 3)])
    };
    assert_step::<f64>("gather", input, 0.0, shuffled, |x| {
        let s = sigmoid(x);
        Tensor::from_fn([x.shape()[0], 4, 3, 5], |at| {
            let (from, channel) = [(x, 5), (&s, 0), (x, 2), (&s, 3)][at[1]];
            from.view()[[at[0], channel, at[2], at[3]].as_slice()]
        })
    });
}

/// A residual block behind a stem: maps of several sizes that live at once.
fn network() -> Plan<f32> {
    let (mut p, x) = Builder::new([3, 33, 31]);
    let same = Geometry::default().padding(1);
    let conv = |p: &mut Builder<f32>, x: Map, kernel: [usize; 4], geo: &Geometry| {
        p.conv(x, &randn(kernel, kernel[1] as u64), None, geo, Rectifier::Relu).unwrap()
    };
    let stem = conv(&mut p, x, [24, 3, 3, 3], &same);
    let wide = conv(&mut p, stem, [40, 24, 1, 1], &Geometry::default());
    let deep = conv(&mut p, wide, [40, 1, 3, 3], &same.groups(40));
    let thin = conv(&mut p, deep, [24, 40, 1, 1], &Geometry::default());
    let sum = p.add(stem, thin, Rectifier::Identity).unwrap();
    let mean = p.global_avg_pool(sum);
    let y = p.linear(mean, &randn([10, 24], 9), None, Rectifier::Identity).unwrap();
    p.finish(y)
}

#[test]
fn maps_share_memory_only_when_they_do_not_meet() {
    let plan = network();
    // stem and wide, deep beside both, thin in the place of wide: three maps at once.
    let pixels = 33 * 31;
    assert_eq!(plan.layout.elements(), pixels * (24 + 40 + 40));
    let x = randn::<f32>([2, 3, 33, 31], 3);
    let two = plan.run(&x).unwrap();
    assert!(two.max_abs() > 0.0);
    assert_eq!(plan.run(&x).unwrap().as_slice(), two.as_slice(), "what lay in memory before must not matter");
}

#[test]
fn the_bits_depend_neither_on_the_threads_nor_on_the_batch() {
    let plan = network();
    let x = randn::<f32>([23, 3, 33, 31], 3);
    assert!(23 > plan.images, "the batch must be cut");
    assert_same_bits("plan", || vec![plan.run(&x).unwrap()]);
    let (whole, image) = (plan.run(&x).unwrap(), 3 * 33 * 31);
    for n in [0, 11, 22] {
        let one = Tensor::from_memory([1, 3, 33, 31], x.as_slice()[n * image..][..image].to_vec()).unwrap();
        assert_eq!(plan.run(&one).unwrap().as_slice(), &whole.as_slice()[n * 10..][..10]);
    }
}

#[test]
fn what_does_not_fit_is_an_error_with_numbers() {
    let (mut p, x) = Builder::<f32>::new([3, 8, 8]);
    let geo = Geometry::default();
    let w = |shape: [usize; 4]| Tensor::<f32>::zeros(shape);
    assert!(message(p.conv(x, &w([4, 2, 1, 1]), None, &geo, Rectifier::Relu)).contains("3 input channels"));
    assert!(message(p.linear(x, &Tensor::zeros([2, 3]), None, Rectifier::Relu)).contains("[N, 3]"));
    let mean = p.global_avg_pool(x);
    assert!(message(p.add(x, mean, Rectifier::Relu)).contains("[3, 8, 8]"));
    assert!(message(p.scale(mean, x)).contains("[3, 1, 1]"));
    assert!(message(p.softmax(mean, f64::NAN)).contains("temperature"));
    assert!(message(p.softmax(x, 1.0)).contains("[3, 1, 1]"));
    assert!(message(p.gather(&[(x, 3)])).contains("[4, 8, 8]"));
    assert!(message(p.gather(&[])).contains("at least one channel"));
    let (b, b1) = (Tensor::zeros([4]), Tensor::zeros([5]));
    let kernels = Kernels { base: None, b: &b, w1: &w([5, 3, 1, 1]), b1: &b1, w2: &w([4, 5, 1, 1]) };
    let generated = |p: &mut Builder<f32>, kernels: &Kernels<'_, f32>, geo| {
        message(p.generated_conv(x, mean, kernels, &geo, Rectifier::Relu))
    };
    assert!(generated(&mut p, &kernels, geo).contains("[5, 1, 1]"));
    assert!(generated(&mut p, &kernels, geo.groups(3)).contains("one group"));
    assert!(generated(&mut p, &Kernels { w2: &w([4, 6, 1, 1]), ..kernels }, geo).contains("[O, 5, 1, 1]"));
    assert!(generated(&mut p, &Kernels { base: Some(&w([3, 3, 1, 1])), ..kernels }, geo).contains("[4, 3, 1, 1]"));
    assert!(generated(&mut p, &Kernels { b1: &b, ..kernels }, geo).contains("[5]"));
    let per_sample = p.conv_per_sample(x, (mean, [4, 3, 1, 1]), &b, &geo, Rectifier::Relu);
    assert!(message(per_sample).contains("[12, 1, 1]"));
    assert!(message(p.conv_per_sample(x, (mean, [3, 1, 1, 1]), &b1, &geo, Rectifier::Relu)).contains("[O, 3, kh, kw]"));
    let plan = p.finish(mean);
    assert!(message(plan.run(&Tensor::zeros([1, 3, 8, 9]))).contains("[N, 3, 8, 8]"));
    assert_eq!(plan.run(&Tensor::zeros([0, 3, 8, 8])).unwrap().shape()[..], [0, 3]);
}

#[test]
fn an_input_is_a_plan_already() {
    let (p, x) = Builder::<f64>::new([2, 1, 1]);
    let x_values = randn::<f64>([3, 2, 1, 1], 1);
    assert_eq!(p.finish(x).run(&x_values).unwrap().as_slice(), x_values.as_slice());
}
