//! Named cases for gradient checks: every operation over shapes in which a mistake shows. Batches of several samples,
//! maps that are not square, odd sizes under a stride, groups, dilation, rectangular kernels, inputs that are broadcast
//! or used twice.

use gatefold_tensor::kernels::conv::Geometry;
use gatefold_tensor::kernels::pending::Rectifier;
use gatefold_tensor::kernels::pool::Window;
use gatefold_tensor::random::randn;
use gatefold_tensor::{Result, Shape, Tensor};

use crate::{GradCheck, GradCheckError, NormBy, Report, SiteLayer, Var};

/// A function of some inputs, whose gradient with respect to each of them can be checked.
pub struct Case {
    /// The operation, by its name on the tape.
    pub op: &'static str,
    /// What is special about this case of it.
    pub name: &'static str,
    /// Where the gradient is checked: away from kinks by far more than a step.
    pub inputs: Vec<Tensor<f64>>,
    function: Box<Function>,
}

type Function = dyn Fn(&[Var<f64>]) -> Result<Var<f64>>;

impl Case {
    fn new(
        op: &'static str,
        name: &'static str,
        inputs: impl Into<Vec<Tensor<f64>>>,
        function: impl Fn(&[Var<f64>]) -> Result<Var<f64>> + 'static,
    ) -> Self {
        Case { op, name, inputs: inputs.into(), function: Box::new(function) }
    }

    /// The function of the case at any inputs of these shapes.
    ///
    /// # Errors
    /// As the operation.
    pub fn apply(&self, inputs: &[Var<f64>]) -> Result<Var<f64>> {
        (self.function)(inputs)
    }

    /// Holds the gradient against central differences.
    ///
    /// # Errors
    /// As [`GradCheck::run`].
    pub fn run(&self, check: &GradCheck) -> Result<Report, GradCheckError> {
        check.run(&self.inputs, &self.function)
    }
}

/// All cases, those of an operation one after another.
pub fn all() -> Vec<Case> {
    let groups = [
        convolutions(),
        compositions(),
        normalisations(),
        folded_sites(),
        pools(),
        dense(),
        pointwise(),
        rearrangements(),
    ];
    groups.into_iter().flatten().collect()
}

/// Random values, the seed being the number of elements: inputs of different shapes differ.
fn random(shape: impl Into<Shape>) -> Tensor<f64> {
    let shape = shape.into();
    randn(shape, shape.elements() as u64)
}

/// Random values at least 0.1 away from each of `kinks`.
fn away_from(kinks: &'static [f64], shape: impl Into<Shape>) -> Tensor<f64> {
    random(shape).map(|x| {
        let x = 4.0 * x;
        kinks.iter().fold(x, |x, kink| if (x - kink).abs() < 0.1 { kink + 0.1_f64.copysign(x - kink) } else { x })
    })
}

/// Values in no order, any two at least 0.03 apart: a step changes no maximum.
fn distinct(shape: impl Into<Shape>) -> Tensor<f64> {
    let shape = shape.into();
    let (count, mut next) = (shape.elements(), 0);
    assert!(count % 61 != 0, "61 must be a unit modulo {count}");
    Tensor::from_fn(shape, |_| {
        next += 61;
        0.03 * (next % count) as f64 - 1.0
    })
}

fn convolutions() -> Vec<Case> {
    let geo = Geometry::default();
    let conv = |name, x: [usize; 4], w: [usize; 4], bias: bool, geo: Geometry| {
        let mut inputs = vec![random(x), random(w)];
        inputs.extend(bias.then(|| random([w[0]])));
        Case::new("conv2d", name, inputs, move |v| v[0].conv2d(&v[1], v.get(2), &geo))
    };
    let per_sample = |name, x: [usize; 4], w: [usize; 4], bias: bool, geo: Geometry| {
        let mut inputs = vec![random(x), random([x[0] * w[0], w[1], w[2], w[3]])];
        inputs.extend(bias.then(|| random([x[0], w[0]])));
        Case::new("conv2d_per_sample", name, inputs, move |v| {
            v[0].conv2d_per_sample(&v[1], v.get(2), &geo, Rectifier::Identity)
        })
    };
    let rectangular = Geometry { stride: [2, 1], padding: [0, 2], dilation: [1, 2], groups: 1 };
    vec![
        conv("1x1", [3, 4, 3, 5], [5, 4, 1, 1], true, geo),
        conv("1x1, stride 2, odd map", [2, 3, 5, 7], [4, 3, 1, 1], false, geo.stride(2)),
        conv("1x1, 2 groups", [2, 4, 3, 4], [6, 2, 1, 1], true, geo.groups(2)),
        conv("3x3 without padding", [2, 3, 5, 4], [4, 3, 3, 3], false, geo),
        conv("3x3, stride 2, odd map", [2, 3, 5, 7], [4, 3, 3, 3], true, geo.padding(1).stride(2)),
        conv("3x3, stride 2, even map", [2, 2, 6, 4], [3, 2, 3, 3], false, geo.padding(1).stride(2)),
        conv("3x3, 2 groups, dilation 2", [2, 4, 5, 6], [6, 2, 3, 3], true, geo.padding(2).dilation(2).groups(2)),
        conv("3x3, stride beyond the kernel", [2, 2, 9, 10], [3, 2, 3, 3], true, geo.stride(4)),
        conv("5x5, stride 3", [2, 2, 7, 8], [3, 2, 5, 5], false, geo.padding(2).stride(3)),
        conv("padding beyond the kernel", [2, 2, 2, 3], [3, 2, 3, 3], true, geo.padding(3)),
        conv("3x2 kernel, each axis its own", [2, 3, 6, 5], [4, 3, 3, 2], true, rectangular),
        conv("depthwise 3x3", [2, 5, 4, 5], [5, 1, 3, 3], false, geo.padding(1).groups(5)),
        conv("depthwise 3x3, stride 2, odd map", [2, 4, 5, 7], [4, 1, 3, 3], true, geo.padding(1).stride(2).groups(4)),
        conv("depthwise 5x5, dilation 2", [2, 3, 6, 5], [3, 1, 5, 5], false, geo.padding(4).dilation(2).groups(3)),
        conv("depthwise, 2 outputs a channel", [2, 3, 4, 5], [6, 1, 3, 3], true, geo.padding(1).groups(3)),
        Case::new("conv2d", "rectified as it is written", [random([2, 3, 5, 4]), random([4, 3, 3, 3])], move |v| {
            v[0].conv2d_rectified(&v[1], None, &geo.padding(1), Rectifier::Relu)
        }),
        per_sample("1x1", [3, 4, 3, 5], [5, 4, 1, 1], false, geo),
        per_sample("3x3, stride 2, odd map", [3, 3, 5, 7], [4, 3, 3, 3], true, geo.padding(1).stride(2)),
        per_sample("3x3, 2 groups, dilation 2", [2, 4, 5, 6], [6, 2, 3, 3], true, geo.padding(2).dilation(2).groups(2)),
        per_sample("3x2 kernel, each axis its own", [2, 3, 6, 5], [4, 3, 3, 2], false, rectangular),
        per_sample("depthwise 3x3", [2, 4, 4, 5], [4, 1, 3, 3], true, geo.padding(1).groups(4)),
    ]
}

fn compositions() -> Vec<Case> {
    // W_1 [m,I,k,k], W_2 [O,m/g,1,1], then a [N,m] and W_b [O,I,k,k] where they are.
    let compose = |name, [n, o, i, k, m, groups]: [usize; 6], gated: bool, bypass: bool| {
        let mut inputs = vec![random([m, i, k, k]), random([o, m / groups, 1, 1])];
        inputs.extend(gated.then(|| random([n, m])));
        inputs.extend(bypass.then(|| random([o, i, k, k])));
        Case::new("compose_kernels", name, inputs, move |v| {
            let (a, base) = (gated.then(|| &v[2]), bypass.then(|| &v[v.len() - 1]));
            v[0].compose_kernels(&v[1], a, base, groups)
        })
    };
    vec![
        compose("gate and base", [3, 4, 3, 3, 5, 1], true, true),
        compose("gate", [2, 3, 4, 1, 5, 1], true, false),
        compose("base", [1, 4, 3, 3, 2, 1], false, true),
        compose("neither", [1, 4, 2, 3, 7, 1], false, false),
        compose("gate and base, 2 groups", [2, 6, 2, 3, 4, 2], true, true),
        compose("base, 3 groups", [1, 6, 2, 1, 3, 3], false, true),
        compose("one coefficient", [2, 3, 2, 3, 1, 1], true, true),
    ]
}

fn normalisations() -> Vec<Case> {
    let train = |name, x: Tensor<f64>| {
        let c = x.shape()[1];
        let inputs = [x, random([c]), random([c]).map(|b| b + 0.5)];
        Case::new("batch_norm_train", name, inputs, |v| Ok(v[0].batch_norm_train(&v[1], &v[2], 1e-5)?.0))
    };
    let eval = |name, x: Tensor<f64>| {
        let c = x.shape()[1];
        let (mean, var) = (random([c]), random([c]).map(|v| v * v + 0.1));
        let inputs = [x, random([c]), random([c]).map(|b| b + 0.5)];
        Case::new("batch_norm_eval", name, inputs, move |v| v[0].batch_norm_eval(&mean, &var, &v[1], &v[2], 1e-5))
    };
    vec![
        train("maps", random([2, 3, 3, 5])),
        train("maps, one pixel", random([5, 3, 1, 1])),
        train("maps, mean far from 0", random([2, 3, 4, 3]).map(|x| x + 30.0)),
        train("vectors", random([5, 4])),
        train("sequences", random([3, 2, 5])),
        eval("maps", random([2, 3, 3, 5])),
        eval("vectors", random([5, 4])),
        // Batch norms that nobody writes down, read by every kind of convolution and by ops that know nothing of them.
        pending("1x1 behind 3x3", Rectifier::Relu, [3, 5, 10], |y, w| {
            y.conv2d(&w.reshape([2, 5, 1, 1])?, None, &Geometry::default())
        }),
        pending("3x3 behind 3x3", Rectifier::Relu6, [2, 4, 72], |y, w| {
            y.conv2d(&w.reshape([2, 4, 3, 3])?, None, &Geometry::default().padding(1))
        }),
        pending("3x3, stride 2", Rectifier::Relu, [2, 4, 72], |y, w| {
            y.conv2d(&w.reshape([2, 4, 3, 3])?, None, &Geometry::default().padding(1).stride(2))
        }),
        pending("3x3 in groups", Rectifier::Relu, [2, 4, 36], |y, w| {
            y.conv2d(&w.reshape([2, 2, 3, 3])?, None, &Geometry::default().padding(1).groups(2))
        }),
        pending("depthwise, stride 2", Rectifier::Relu, [2, 5, 45], |y, w| {
            y.conv2d(&w.reshape([5, 1, 3, 3])?, None, &Geometry::default().padding(1).stride(2).groups(5))
        }),
        pending("no rectifier, one kernel a sample", Rectifier::Identity, [2, 3, 12], |y, w| {
            y.conv2d_per_sample(&w.reshape([4, 3, 1, 1])?, None, &Geometry::default(), Rectifier::Identity)
        }),
        pending("read pending and made", Rectifier::Relu, [2, 4, 36], |y, w| {
            let z = y.conv2d(&w.reshape([4, 1, 3, 3])?, None, &Geometry::default().padding(1).groups(4))?;
            z.add(&y.mul(y)?)
        }),
        pending("summed with others, then rectified", Rectifier::Relu, [2, 3, 9], |y, w| {
            let z = y.conv2d(&w.reshape([3, 3, 1, 1])?, None, &Geometry::default())?;
            let sum = Var::sum_maps(&[y, &z, y], Rectifier::Relu)?;
            Var::sum_maps(
                &[&sum.conv2d(&w.reshape([3, 3, 1, 1])?, None, &Geometry::default())?, &sum],
                Rectifier::Identity,
            )
        }),
        pending("summed, read by a depthwise convolution", Rectifier::Identity, [2, 3, 27], |y, w| {
            let (w, geo) = (w.reshape([3, 1, 3, 3])?, Geometry::default().padding(1).groups(3));
            let z = y.conv2d(&w, None, &geo)?;
            Var::sum_maps(&[y, &z, y], Rectifier::Relu)?.conv2d(&w, None, &geo.stride(2))
        }),
        pending("summed, read by two", Rectifier::Identity, [2, 2, 18], |y, w| {
            let (w, geo) = (w.reshape([2, 1, 3, 3])?, Geometry::default().padding(1).groups(2));
            let sum = Var::sum_maps(&[&y.conv2d(&w, None, &geo)?, y], Rectifier::Relu6)?;
            sum.conv2d(&w, None, &geo)?.add(&sum.conv2d(&w, None, &geo)?)
        }),
        pending("summed, read as it is and made", Rectifier::Identity, [2, 4, 36], |y, w| {
            let (w, geo) = (w.reshape([4, 1, 3, 3])?, Geometry::default().padding(1).groups(4));
            let sum = Var::sum_maps(&[y, y], Rectifier::Relu)?;
            sum.conv2d(&w, None, &geo)?.add(&sum.mul(&sum)?)
        }),
        pending("summed behind rectifiers, read by a depthwise convolution", Rectifier::Relu, [2, 3, 27], |y, w| {
            let (w, geo) = (w.reshape([3, 1, 3, 3])?, Geometry::default().padding(1).groups(3));
            let z = y.conv2d(&w, None, &geo)?;
            Var::sum_maps(&[y, &z], Rectifier::Relu)?.conv2d(&w, None, &geo)
        }),
        pending("a mean, and a gate from it", Rectifier::Relu, [2, 4, 16], |y, w| {
            y.gate(&y.global_avg_pool()?.linear(&w.reshape([4, 4])?, None)?.sigmoid())
        }),
        pending("gated without a rectifier", Rectifier::Identity, [3, 5, 15], |y, w| y.gate(&w.reshape([3, 5])?)),
        pending("read twice, and again behind another norm", Rectifier::Relu6, [2, 3, 9], |y, w| {
            let w = w.reshape([3, 3, 1, 1])?;
            let (z, stats) = y.conv2d_with_statistics(&w, None, &Geometry::default())?;
            let ones = Var::constant(Tensor::ones([3]));
            let z = z.pending_norm(NormBy::Batch(&stats), &ones, &ones, 1e-5, Rectifier::Identity)?;
            z.conv2d(&w, None, &Geometry::default())?.add(&y.conv2d(&w, None, &Geometry::default())?)
        }),
        Case::new("pending_norm", "given statistics", [random([2, 3, 4, 5]), random([3]), random([3])], |v| {
            let (mean, var) = (random([3]), random([3]).map(|v| v * v + 0.1));
            v[0].pending_norm(NormBy::Given(&mean, &var), &v[1], &v[2], 1e-5, Rectifier::Identity)
        }),
    ]
}

fn folded_sites() -> Vec<Case> {
    // x, then W, γ, β of the bypass, W_1 and W_2, then the gates; or gates from the map's own means. Then the kernels of
    // depthwise convolutions that read what the site gives.
    let read_by = |readers: usize, name, [n, c, o, m, h, w]: [usize; 6], bypass: bool, gates: Gates, rectifier| {
        let mut inputs = vec![random([n, c, h, w])];
        for (rows, columns) in [(o, c), (m, c), (o, m)].into_iter().skip(usize::from(!bypass)) {
            inputs.extend([random([rows, columns, 1, 1]), random([rows]).map(|v| v + 0.3), random([rows])]);
        }
        match gates {
            Gates::None => {}
            Gates::Given => inputs.push(random([n, m])),
            Gates::OfTheMeans => inputs.push(random([m, c])),
        }
        inputs.extend((0..readers).map(|_| random([o, 1, 3, 3])));
        Case::new("folded_site", name, inputs, move |v| {
            let layer = |i: usize| SiteLayer {
                weight: v[i].clone(),
                gamma: v[i + 1].clone(),
                beta: v[i + 2].clone(),
                eps: 1e-5,
            };
            let moments = v[0].sample_moments(gates != Gates::None)?;
            let branch = if bypass { 4 } else { 1 };
            let a = match gates {
                Gates::None => None,
                Gates::Given => Some(v[branch + 6].clone()),
                Gates::OfTheMeans => Some(moments.mean()?.linear(&v[branch + 6], None)?.sigmoid()),
            };
            let layers = (bypass.then(|| layer(1)), layer(branch), layer(branch + 3));
            let y = moments.folded_site((layers.0.as_ref(), &layers.1, &layers.2), a.as_ref(), rectifier)?.0;
            let geo = Geometry::default().groups(o);
            let read = |i: usize| y.conv2d(&v[v.len() - 1 - i], None, &geo.padding(i + 1).dilation(i + 1));
            (1..readers).try_fold(if readers > 0 { read(0)? } else { y.clone() }, |sum, i| sum.add(&read(i)?))
        })
    };
    let site = |name, sizes, bypass, gates, rectifier| read_by(0, name, sizes, bypass, gates, rectifier);
    let single = |readers: usize, name, [n, c, o, h, w]: [usize; 5], rectifier| {
        let layer = [random([o, c, 1, 1]), random([o]).map(|v| v + 0.3), random([o])];
        let kernels = (0..readers).map(|_| random([o, 1, 3, 3]));
        let inputs: Vec<_> = [random([n, c, h, w])].into_iter().chain(layer).chain(kernels).collect();
        Case::new("single_site", name, inputs, move |v: &[Var<f64>]| {
            let layer = SiteLayer { weight: v[1].clone(), gamma: v[2].clone(), beta: v[3].clone(), eps: 1e-5 };
            let y = v[0].sample_moments(false)?.single_site(&layer, rectifier)?.0;
            let geo = Geometry::default().groups(o);
            let read = |i: usize| y.conv2d(&v[4 + i], None, &geo.padding(i + 1).dilation(i + 1));
            (1..readers).try_fold(if readers > 0 { read(0)? } else { y.clone() }, |sum, i| sum.add(&read(i)?))
        })
    };
    let moments = |name, x, per_sample| {
        Case::new("sample_moments", name, [random(x)], move |v| Ok(v[0].sample_moments(per_sample)?.all()))
    };
    vec![
        moments("for each sample", [3, 4, 2, 5], true),
        moments("of the batch", [2, 3, 4, 3], false),
        read_by(1, "read by a depthwise convolution", [2, 3, 4, 3, 3, 4], true, Gates::Given, Rectifier::Relu),
        read_by(2, "read by two, without a rectifier", [2, 2, 3, 2, 4, 3], true, Gates::None, Rectifier::Identity),
        read_by(2, "read by two", [3, 2, 3, 2, 2, 3], false, Gates::OfTheMeans, Rectifier::Relu6),
        site("no gate", [2, 3, 4, 5, 3, 2], true, Gates::None, Rectifier::Relu),
        site("no gate, no bypass", [2, 3, 2, 4, 2, 3], false, Gates::None, Rectifier::Identity),
        site("gates", [3, 4, 3, 5, 3, 2], true, Gates::Given, Rectifier::Identity),
        site("gates of the means", [3, 4, 5, 6, 2, 3], true, Gates::OfTheMeans, Rectifier::Relu),
        site("gates of the means, no bypass", [2, 5, 3, 4, 3, 3], false, Gates::OfTheMeans, Rectifier::Relu6),
        site("one position", [4, 3, 2, 3, 1, 1], true, Gates::OfTheMeans, Rectifier::Identity),
        site("one sample", [1, 3, 4, 2, 3, 4], true, Gates::OfTheMeans, Rectifier::Relu),
        site("one channel", [2, 1, 1, 1, 3, 2], true, Gates::Given, Rectifier::Identity),
        single(0, "alone", [2, 3, 4, 3, 2], Rectifier::Relu),
        single(0, "alone, one sample", [1, 4, 3, 2, 3], Rectifier::Identity),
        single(1, "read by a depthwise convolution", [3, 2, 5, 3, 4], Rectifier::Relu6),
        single(2, "read by two, without a rectifier", [2, 1, 3, 4, 3], Rectifier::Identity),
        single(2, "read by two", [2, 3, 4, 2, 3], Rectifier::Relu),
    ]
}

/// Where the gates of a folded site come from.
#[derive(Clone, Copy, PartialEq)]
enum Gates {
    None,
    Given,
    OfTheMeans,
}

/// Convolution, its statistics, a pending batch norm, and `read` of that, whose kernels have `weights` elements.
fn pending(
    name: &'static str,
    rectifier: Rectifier,
    [n, c, weights]: [usize; 3],
    read: impl Fn(&Var<f64>, &Var<f64>) -> Result<Var<f64>> + 'static,
) -> Case {
    let inputs =
        [random([n, 3, 5, 4]), random([c, 3, 3, 3]), random([c]).map(|w| 2.0 * w), random([c]), random([weights])];
    Case::new("pending_norm", name, inputs, move |v| {
        let (z, stats) = v[0].conv2d_with_statistics(&v[1], None, &Geometry::default().padding(1))?;
        read(&z.pending_norm(NormBy::Batch(&stats), &v[2], &v[3], 1e-5, rectifier)?, &v[4])
    })
}

fn pools() -> Vec<Case> {
    let max =
        |name, x: [usize; 4], w: Window| Case::new("max_pool2d", name, [distinct(x)], move |v| v[0].max_pool2d(&w));
    let avg = |name, x: [usize; 4], w: Window| Case::new("avg_pool2d", name, [random(x)], move |v| v[0].avg_pool2d(&w));
    let rectangular = Window { kernel: [3, 2], stride: [1, 2], padding: [1, 0] };
    vec![
        Case::new("global_avg_pool", "odd map", [random([2, 3, 3, 5])], |v| v[0].global_avg_pool()),
        max("2x2, odd map", [2, 3, 5, 7], Window::square(2)),
        max("3x3, stride 2, padded", [2, 3, 6, 5], Window::square(3).stride(2).padding(1)),
        max("3x3, stride 1, padded", [2, 2, 4, 3], Window::square(3).stride(1).padding(1)),
        max("3x2 windows", [2, 2, 4, 5], rectangular),
        avg("2x2, odd map", [2, 3, 5, 7], Window::square(2)),
        avg("3x3, stride 2, padded", [2, 3, 6, 5], Window::square(3).stride(2).padding(1)),
        avg("3x2 windows", [2, 2, 4, 5], rectangular),
    ]
}

fn dense() -> Vec<Case> {
    let cross_entropy = |name, smoothing: f64| {
        let labels = [2, 0, 4, 2];
        Case::new("cross_entropy", name, [random([4, 5])], move |v| v[0].cross_entropy(&labels, smoothing))
    };
    let matmul = |name, a: Tensor<f64>, b: Tensor<f64>| Case::new("matmul", name, [a, b], |v| v[0].matmul(&v[1]));
    let softmax =
        |name, t: f64, x: Tensor<f64>| Case::new("softmax", name, [x.map(|x| t * x)], move |v| v[0].softmax(t));
    let x_and_w = [random([3, 4]), random([5, 4])];
    let with_bias = [random([3, 4]), random([5, 4]), random([5])];
    vec![
        Case::new("linear", "bias", with_bias, |v| v[0].linear(&v[1], v.get(2))),
        Case::new("linear", "no bias", x_and_w, |v| v[0].linear(&v[1], None)),
        matmul("matrices", random([3, 4]), random([4, 5])),
        matmul("batches", random([2, 3, 4]), random([2, 4, 5])),
        softmax("temperature 1", 1.0, random([3, 5])),
        softmax("temperature 30", 30.0, random([2, 4])),
        softmax("temperature 0.25, rank 3", 0.25, random([2, 3, 4])),
        cross_entropy("plain", 0.0),
        cross_entropy("smoothing", 0.1),
    ]
}

fn pointwise() -> Vec<Case> {
    let add = |name, a: Tensor<f64>, b: Tensor<f64>| Case::new("add", name, [a, b], |v| v[0].add(&v[1]));
    let mul = |name, a: Tensor<f64>, b: Tensor<f64>| Case::new("mul", name, [a, b], |v| v[0].mul(&v[1]));
    let map = [2, 3, 4, 5];
    let sum = |name, rectifier, parts: Vec<Tensor<f64>>| {
        Case::new("sum_maps", name, parts, move |v| Var::sum_maps(&v.iter().collect::<Vec<_>>(), rectifier))
    };
    vec![
        sum("one", Rectifier::Relu, vec![away_from(&[0.0], [2, 3, 3, 5])]),
        sum("three", Rectifier::Identity, vec![random(map), random(map), random(map)]),
        Case::new("gate", "maps", [random(map), random([2, 3])], |v| v[0].gate(&v[1])),
        Case::new("relu", "maps", [away_from(&[0.0], [2, 3, 3, 5])], |v| Ok(v[0].relu())),
        Case::new("relu", "vectors", [away_from(&[0.0], [3, 7])], |v| Ok(v[0].relu())),
        Case::new("relu6", "maps", [away_from(&[0.0, 6.0], [2, 3, 3, 5])], |v| Ok(v[0].relu6())),
        Case::new("sigmoid", "vectors", [random([3, 7]).map(|x| 3.0 * x)], |v| Ok(v[0].sigmoid())),
        Case::new("sigmoid", "maps", [random([2, 3, 2, 4])], |v| Ok(v[0].sigmoid())),
        add("same shape", random(map), random(map)),
        add("a value a channel", random(map), random([3, 1, 1])),
        add("row and column", random([3, 1]), random([4])),
        mul("same shape", random(map), random(map)),
        mul("a value a sample and channel", random(map), random([2, 3, 1, 1])),
        mul("a value a position", random(map), random([4, 5])),
        mul("both broadcast", random([2, 1, 4, 1]), random([3, 1, 5])),
        mul("a scalar", random([3, 4]), random([1])),
        // An input used twice gets the sum of both gradients.
        Case::new("mul", "an input by itself", [random([2, 3, 4, 5])], |v| v[0].mul(&v[0])),
        Case::new("add", "one input through two paths", [random([3, 5])], |v| v[0].sigmoid().add(&v[0].softmax(1.0)?)),
        Case::new("conv2d", "an input as its own kernel", [random([3, 3, 3, 3])], |v| {
            v[0].conv2d(&v[0], None, &Geometry::default().padding(1))
        }),
    ]
}

fn rearrangements() -> Vec<Case> {
    let reduce = |op, name, x: Tensor<f64>, axes: &'static [usize], keep: bool| {
        Case::new(op, name, [x], move |v| if op == "sum" { v[0].sum(axes, keep) } else { v[0].mean(axes, keep) })
    };
    let concat =
        |name, axis: usize, parts: [Tensor<f64>; 3]| Case::new("concat", name, parts, move |v| Var::concat(v, axis));
    let narrow = |name, axis: usize, start: usize, len: usize| {
        Case::new("narrow", name, [random([2, 5, 3, 4])], move |v| v[0].narrow(axis, start, len))
    };
    let map = [2, 3, 4, 5];
    vec![
        reduce("sum", "all axes", random(map), &[0, 1, 2, 3], false),
        reduce("sum", "channels kept", random(map), &[0, 2, 3], true),
        reduce("sum", "first axis", random([3, 4]), &[0], false),
        reduce("mean", "positions", random(map), &[2, 3], false),
        reduce("mean", "channels", random(map), &[1], true),
        reduce("mean", "last axis", random([2, 3, 5]), &[2], false),
        concat("channels", 1, [random([2, 3, 3, 4]), random([2, 1, 3, 4]), random([2, 2, 3, 4])]),
        concat("batch", 0, [random([1, 2, 3, 4]), random([3, 2, 3, 4]), random([2, 2, 3, 4])]),
        concat("rows", 2, [random([2, 3, 1, 4]), random([2, 3, 2, 4]), random([2, 3, 5, 4])]),
        concat("vectors", 1, [random([2, 3]), random([2, 1]), random([2, 4])]),
        Case::new("concat", "an input beside itself", [random([2, 3, 2, 3])], |v| {
            Var::concat(&[v[0].clone(), v[0].clone()], 1)
        }),
        narrow("channels", 1, 2, 2),
        narrow("columns", 3, 0, 3),
        narrow("all", 0, 0, 2),
        // The parts in another order, one of them left out.
        Case::new("split", "parts swapped, one dropped", [random([2, 6, 3, 2])], |v| {
            let parts = v[0].split(1, &[2, 1, 3])?;
            Var::concat(&[parts[2].clone(), parts[0].clone()], 1)
        }),
        Case::new("channel_shuffle", "two groups", [random([2, 6, 3, 2])], |v| v[0].channel_shuffle(2)),
        Case::new("channel_shuffle", "three groups", [random([2, 6, 3, 2])], |v| v[0].channel_shuffle(3)),
        Case::new("reshape", "maps to vectors", [random(map)], |v| v[0].reshape([2, 60])),
        Case::new("reshape", "vectors to maps", [random([2, 60])], |v| v[0].reshape([2, 5, 3, 4])),
        Case::new("reshape", "maps to other maps", [random(map)], |v| v[0].reshape([3, 5, 2, 4])),
        Case::new("reshape_memory", "maps to vectors", [random(map)], |v| v[0].reshape_memory([2, 60])),
        Case::new("reshape_memory", "vectors to maps", [random([2, 60])], |v| v[0].reshape_memory([2, 5, 3, 4])),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::Tape;

    #[test]
    fn every_gradient_is_that_of_the_central_difference() {
        let check = GradCheck { step: 1e-5, atol: 1e-7, rtol: 1e-6, seed: 1 };
        for case in all() {
            let report = case.run(&check).unwrap_or_else(|error| panic!("{}, {}: {error}", case.op, case.name));
            assert_eq!(report.entries, case.inputs.iter().map(Tensor::len).sum::<usize>());
            // A random projection and random inputs: a check that compares zeros checks nothing.
            assert!(report.worst.is_some(), "{}, {}", case.op, case.name);
        }
    }

    #[test]
    fn every_operation_has_a_case_and_every_case_its_own_name() {
        let cases = all();
        let names: BTreeSet<_> = cases.iter().map(|case| (case.op, case.name)).collect();
        assert_eq!(names.len(), cases.len());
        let with_a_case: BTreeSet<_> = cases.iter().map(|case| case.op).collect();
        let with_a_file: BTreeSet<_> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/ops"))
            .unwrap()
            .flat_map(|file| {
                // The names that the ops of the file go by: the literals that `name` returns or that are handed on.
                let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
                text.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
            })
            .filter(|name| {
                name.len() > 2 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            })
            .collect();
        let missing: Vec<_> = with_a_file.iter().filter(|op| !with_a_case.contains(op.as_str())).collect();
        assert!(missing.is_empty(), "no case for {missing:?}");
        assert!(with_a_file.len() >= 20, "the ops are not where they were: {with_a_file:?}");
    }

    #[test]
    fn a_gradient_is_the_same_whoever_else_wants_one() {
        for case in all() {
            let tape = Tape::new();
            let leaves: Vec<_> = case.inputs.iter().map(|x| tape.leaf(x.clone())).collect();
            let y = case.apply(&leaves).unwrap();
            let dy = randn::<f64>(*y.shape(), 9);
            let mut together = y.backward_with(dy.clone()).unwrap();
            for (i, leaf) in leaves.iter().enumerate() {
                let tape = Tape::new();
                let alone: Vec<_> = (case.inputs.iter().enumerate())
                    .map(|(j, x)| if i == j { tape.leaf(x.clone()) } else { Var::constant(x.clone()) })
                    .collect();
                let mut gradients = case.apply(&alone).unwrap().backward_with(dy.clone()).unwrap();
                let (alone, together) = (gradients.take(&alone[i]).unwrap(), together.take(leaf).unwrap());
                assert_eq!(alone.to_vec(), together.to_vec(), "{}, {}, input {i}", case.op, case.name);
            }
        }
    }

    #[test]
    fn constants_record_nothing() {
        for case in all() {
            let constants: Vec<_> = case.inputs.iter().map(|x| Var::constant(x.clone())).collect();
            assert!(!case.apply(&constants).unwrap().is_recorded(), "{}, {}", case.op, case.name);
        }
    }
}
