//! Every op: its output, its gradients, and the statistics of batch norm.

use gatefold_autograd::{Tape, Var};
use gatefold_tensor::kernels::conv::Geometry;
use gatefold_tensor::kernels::pending::Rectifier;
use gatefold_tensor::kernels::pool::Window;
use gatefold_tensor::{Real, Result, Tensor};

use super::{Case, Golden};

#[test]
fn ops_in_f64() {
    Golden::open("ops").for_each(|case| check::<f64>(case, 1e-13));
}

#[test]
fn ops_in_f32() {
    Golden::open("ops").for_each(|case| check::<f32>(case, 5e-6));
}

fn check<T: Real>(case: &Case<'_>, tolerance: f64) {
    let names: &[&str] = match case.group() {
        "conv2d" | "conv2d_per_sample" | "linear" if case.bool("bias") => &["x", "w", "b"],
        "conv2d" | "conv2d_per_sample" | "linear" => &["x", "w"],
        "batch_norm" => &["x", "weight", "bias"],
        "matmul" => &["a", "b"],
        _ => &["x"],
    };
    let tape = Tape::<T>::new();
    let inputs: Vec<_> = names.iter().map(|name| tape.leaf(case.tensor(name))).collect();
    let y = apply(case, &inputs, tolerance).unwrap_or_else(|error| panic!("{}: {error}", case.name));
    case.compare("y", y.value(), tolerance);
    let mut gradients = y.backward_with(case.tensor("dy")).unwrap();
    for (name, input) in names.iter().zip(&inputs) {
        let gradient = gradients.take(input).unwrap_or_else(|| panic!("{}: no d{name}", case.name));
        case.compare(&format!("d{name}"), &gradient, tolerance);
    }
}

fn apply<T: Real>(case: &Case<'_>, v: &[Var<T>], tolerance: f64) -> Result<Var<T>> {
    let x = &v[0];
    match case.group() {
        "conv2d" => x.conv2d(&v[1], v.get(2), &geometry(case)),
        "conv2d_per_sample" => {
            let [n, o, i, kh, kw] = v[1].value().dims("test", "w")?;
            x.conv2d_per_sample(&v[1].reshape([n * o, i, kh, kw])?, v.get(2), &geometry(case), Rectifier::Identity)
        }
        "batch_norm" => batch_norm(case, v, tolerance),
        "max_pool2d" => x.max_pool2d(&window(case)),
        "avg_pool2d" if case.bool("count_include_pad") => x.avg_pool2d(&window(case)),
        // Without the padding: divided by the share of the window that lies inside.
        "avg_pool2d" => {
            let inside = Var::constant(Tensor::<T>::ones(*x.shape())).avg_pool2d(&window(case))?;
            x.avg_pool2d(&window(case))?.mul(&Var::constant(inside.value().map(|share| T::one() / share)))
        }
        "global_avg_pool" => x.global_avg_pool(),
        "linear" => x.linear(&v[1], v.get(2)),
        "matmul" => x.matmul(&v[1]),
        "relu" => Ok(x.relu()),
        "relu6" => Ok(x.relu6()),
        "sigmoid" => Ok(x.sigmoid()),
        "softmax" => x.softmax(case.f64("temperature")),
        "cross_entropy" => x.cross_entropy(&case.labels(), case.f64("label_smoothing"))?.reshape([1]),
        other => panic!("no test knows the group `{other}`"),
    }
}

fn geometry(case: &Case<'_>) -> Geometry {
    let [stride, padding, dilation, groups] = ["stride", "padding", "dilation", "groups"].map(|key| case.usize(key));
    Geometry::default().stride(stride).padding(padding).dilation(dilation).groups(groups)
}

fn window(case: &Case<'_>) -> Window {
    Window::square(case.usize("k")).stride(case.usize("stride")).padding(case.usize("padding"))
}

fn batch_norm<T: Real>(case: &Case<'_>, v: &[Var<T>], tolerance: f64) -> Result<Var<T>> {
    let running = ["running_mean", "running_var"].map(|name| case.tensor::<T>(name));
    if case.option("mode") == "eval" {
        return v[0].batch_norm_eval(&running[0], &running[1], &v[1], &v[2], case.f64("eps"));
    }
    let (y, stats) = v[0].batch_norm_train(&v[1], &v[2], case.f64("eps"))?;
    let momentum = T::of(case.f64("momentum"));
    let batch = [stats.mean.clone(), stats.unbiased_var()];
    for ((name, mut running), batch) in ["running_mean_after", "running_var_after"].iter().zip(running).zip(batch) {
        running.zip_apply(&batch, |r, b| *r = (T::one() - momentum) * *r + momentum * b)?;
        case.compare(name, &running, tolerance);
    }
    Ok(y)
}
