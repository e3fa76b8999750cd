//! B's stored tensors beside those that it should hold, and what their difference looks like.

use std::collections::BTreeMap;

use gatefold_tensor::Tensor;

/// Tensors by their keys.
pub(super) type State = BTreeMap<String, Tensor<f64>>;

/// The largest difference, over the tensor's largest value, that rounding explains: f32 moves a value by 6e-8 of itself.
const ROUNDING: f64 = 1e-6;

/// Whether two states have the same keys and shapes.
pub(super) fn same_form(a: &State, b: &State) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|((key_a, a), (key_b, b))| key_a == key_b && a.shape() == b.shape())
}

/// A tensor of B that is not what it should be.
struct Differing<'a> {
    key: String,
    expected: &'a Tensor<f64>,
    given: &'a Tensor<f64>,
    /// max|Δ| over the largest value expected.
    ratio: f64,
}

impl Differing<'_> {
    /// Whether this is the bias of a convolution, into which a batch norm's shift folds.
    fn is_shift(&self) -> bool {
        self.key.ends_with("conv.bias") || self.key.ends_with("conv1.bias") || self.key.ends_with("conv2.bias")
    }
}

/// How `given` differs from `expected`, which has the same form, in words; `None` if it does not, or by no more than
/// rounding. `groups` are those of the convolution, `prefix` is put before every key.
pub(super) fn difference(expected: &State, given: &State, prefix: &str, groups: usize) -> Option<String> {
    let mut differing: Vec<_> = (expected.iter().zip(given.values()))
        .map(|((key, expected), given)| {
            let apart = expected.max_abs_diff(given).unwrap_or(f64::NAN);
            let ratio = if apart == 0.0 { 0.0 } else { apart / expected.max_abs() };
            Differing { key: gatefold_layers::join(prefix, key), expected, given, ratio }
        })
        .filter(|tensor| tensor.ratio.is_nan() || tensor.ratio > ROUNDING)
        .collect();
    differing.sort_by(|a, b| b.ratio.total_cmp(&a.ratio));
    if differing.is_empty() {
        return None;
    }
    let natures = [not_finite, swapped, recorded, shifted, scaled, other];
    natures.into_iter().find_map(|nature| nature(&differing, groups))
}

/// The tensors in words: one of them with its difference, and how many others there are.
fn named(tensor: &Differing<'_>, differing: &[Differing<'_>]) -> String {
    let Differing { key, ratio, .. } = tensor;
    let others = match differing.len() {
        1 => String::new(),
        2 => ", as is one more tensor".to_owned(),
        n => format!(", as are {} more tensors", n - 1),
    };
    format!("`{key}` is {ratio:.1e} of its largest value off{others}")
}

fn not_finite(differing: &[Differing<'_>], _: usize) -> Option<String> {
    let tensor = differing.iter().find(|tensor| !tensor.given.is_finite())?;
    Some(format!("not finite: `{}` of B holds a NaN or an infinity", tensor.key))
}

/// Every kernel of B is one of A's, but not the one in its place.
fn swapped(differing: &[Differing<'_>], groups: usize) -> Option<String> {
    differing.iter().find_map(|Differing { key, expected, given, .. }| {
        let (expected, given) = (kernels(expected), kernels(given));
        let largest = largest(expected.iter().copied().flatten());
        let equal = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= ROUNDING * largest);
        let moved = moved(expected.len(), |of_a, of_b| equal(expected[of_a], given[of_b]))?;
        let (to, from) = moved[0];
        let per_group = (expected.len() / groups).max(1);
        let (what, to, from) = match groups > 1 && to / per_group != from / per_group {
            true => ("group", to / per_group, from / per_group),
            false => ("channel", to, from),
        };
        Some(format!(
            "{what}s mixed up: in `{key}` {what} {to} has the kernels of {what} {from} ({} kernels moved)",
            moved.len()
        ))
    })
}

/// Where B has the things of A in another order: which ones stand elsewhere, each with the place it has in A. `None` if
/// the order is no other, or B has something that A has not.
pub(super) fn moved(count: usize, equal: impl Fn(usize, usize) -> bool) -> Option<Vec<(usize, usize)>> {
    let elsewhere = (0..count).filter(|&i| !equal(i, i));
    let moved = elsewhere.map(|of_b| Some((of_b, (0..count).find(|&of_a| equal(of_a, of_b))?)));
    let moved = moved.collect::<Option<Vec<_>>>()?;
    let mut places: Vec<_> = moved.iter().map(|&(_, of_a)| of_a).collect();
    places.sort_unstable();
    let same_places = places.into_iter().eq(moved.iter().map(|&(of_b, _)| of_b));
    (same_places && !moved.is_empty()).then_some(moved)
}

/// Running statistics themselves, where B is not folded.
fn recorded(differing: &[Differing<'_>], _: usize) -> Option<String> {
    let all = differing.iter().all(|tensor| tensor.key.contains("running_"));
    all.then(|| format!("statistics: {}", named(&differing[0], differing)))
}

/// Only biases of convolutions.
fn shifted(differing: &[Differing<'_>], _: usize) -> Option<String> {
    let named = named(&differing[0], differing);
    let all = differing.iter().all(Differing::is_shift);
    all.then(|| format!("statistics: the kernels agree, {named}, as after another running mean or β"))
}

/// Kernels that are multiples of A's, and perhaps biases: a batch norm scales each output channel.
fn scaled(differing: &[Differing<'_>], _: usize) -> Option<String> {
    let kernel = differing.iter().find(|tensor| tensor.expected.shape().len() == 4)?;
    let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
    for tensor in differing.iter().filter(|tensor| !tensor.is_shift()) {
        if tensor.expected.shape().len() != kernel.expected.shape().len() {
            return None;
        }
        let (expected, given) = (kernels(tensor.expected), kernels(tensor.given));
        let allowed = ROUNDING * largest(expected.iter().copied().flatten());
        for (a, b) in expected.iter().zip(given) {
            let factor = factor(a, b);
            if a.iter().zip(b).any(|(a, b)| (factor * a - b).abs() > allowed) {
                return None;
            }
            (least, most) = (least.min(factor), most.max(factor));
        }
    }
    let named = named(kernel, differing);
    Some(format!("statistics: {named}, kernels times {least:.4} to {most:.4}, as after another running variance or γ"))
}

fn other(differing: &[Differing<'_>], _: usize) -> Option<String> {
    Some(format!("weights or statistics: {}", named(&differing[0], differing)))
}

/// The f that brings f·a closest to b; 1 where a is all zeros.
fn factor(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    if dot(a, a) == 0.0 { 1.0 } else { dot(a, b) / dot(a, a) }
}

/// The values that belong to each output: contiguous, as the output comes first in memory.
fn kernels(tensor: &Tensor<f64>) -> Vec<&[f64]> {
    let outputs = tensor.shape().first().copied().unwrap_or(1).max(1);
    tensor.as_slice().chunks_exact((tensor.len() / outputs).max(1)).collect()
}

fn largest<'a>(values: impl Iterator<Item = &'a f64>) -> f64 {
    values.fold(0.0, |largest, value| value.abs().max(largest))
}

#[cfg(test)]
mod tests {
    use gatefold_tensor::random::randn;

    use super::*;

    fn state<const N: usize>(tensors: [(&str, &Tensor<f64>); N]) -> State {
        tensors.into_iter().map(|(key, tensor)| (key.to_owned(), tensor.clone())).collect()
    }

    /// The first value times `factor`.
    fn first(tensor: &Tensor<f64>, factor: f64) -> Tensor<f64> {
        let mut changed = tensor.clone();
        changed.as_mut_slice()[0] *= factor;
        changed
    }

    fn ones(shape: [usize; 1]) -> Tensor<f64> {
        Tensor::ones(shape)
    }

    #[test]
    fn rounding_is_no_difference() {
        let w = randn([4, 3, 3, 3], 1);
        let rounded = w.cast::<f32>().cast();
        assert_ne!(w, rounded);
        assert_eq!(difference(&state([("w", &w)]), &state([("w", &rounded)]), "", 1), None);
    }

    #[test]
    fn the_form_is_keys_and_shapes() {
        let (a, b) = (ones([2]), ones([3]));
        assert!(same_form(&state([("w", &a)]), &state([("w", &a.map(|x| 2.0 * x))])));
        assert!(!same_form(&state([("w", &a)]), &state([("v", &a)])));
        assert!(!same_form(&state([("w", &a)]), &state([("w", &b)])));
        assert!(!same_form(&state([("w", &a)]), &state([("w", &a), ("x", &a)])));
    }

    #[test]
    fn the_worst_tensor_is_named() {
        let (w, v) = (ones([4]), ones([4]));
        let given = state([("v", &first(&v, 1.01)), ("w", &first(&w, 1.5)), ("x", &w)]);
        let found = difference(&state([("v", &v), ("w", &w), ("x", &w)]), &given, "site", 1).unwrap();
        assert_eq!(found, "weights or statistics: `site.w` is 5.0e-1 of its largest value off, as is one more tensor");
    }

    #[test]
    fn a_nan_is_named_before_all() {
        let (w, v) = (ones([4]), ones([4]));
        let given = state([("v", &first(&v, f64::NAN)), ("w", &first(&w, 100.0))]);
        let found = difference(&state([("v", &v), ("w", &w)]), &given, "", 1).unwrap();
        assert_eq!(found, "not finite: `v` of B holds a NaN or an infinity");
    }

    #[test]
    fn kernels_in_each_others_place_are_mixed_groups() {
        let w = randn([6, 2, 3, 3], 3);
        let moved = |to: [usize; 6]| Tensor::from_fn([6, 2, 3, 3], |i| w.view()[[to[i[0]], i[1], i[2], i[3]]]);
        let found = |to, groups| difference(&state([("w", &w)]), &state([("w", &moved(to))]), "", groups).unwrap();
        let of_group = "groups mixed up: in `w` group 0 has the kernels of group 2 (4 kernels moved)";
        assert_eq!(found([4, 5, 2, 3, 0, 1], 3), of_group);
        let of_channel = "channels mixed up: in `w` channel 2 has the kernels of channel 3 (2 kernels moved)";
        assert_eq!(found([0, 1, 3, 2, 4, 5], 3), of_channel);
        assert_eq!(found([0, 1, 3, 2, 4, 5], 1), of_channel);
    }

    #[test]
    fn another_order_has_the_same_things() {
        let of = |a: &[i32], b: &[i32]| moved(a.len(), |of_a, of_b| a[of_a] == b[of_b]);
        assert_eq!(of(&[1, 2, 3, 4], &[1, 4, 2, 3]), Some(vec![(1, 3), (2, 1), (3, 2)]));
        assert_eq!(of(&[1, 2, 3], &[1, 2, 3]), None);
        assert_eq!(of(&[1, 2, 3], &[1, 3, 5]), None);
        // One thing in place of another is no order.
        assert_eq!(of(&[1, 2, 0], &[0, 2, 0]), None);
    }

    #[test]
    fn scaled_kernels_are_a_variance() {
        let (w, b) = (randn([3, 2, 1, 1], 4), randn([3], 5));
        let factors = [0.98, 1.0, -1.5];
        let scaled = Tensor::from_fn([3, 2, 1, 1], |i| factors[i[0]] * w.view()[[i[0], i[1], 0, 0]]);
        let expected = state([("conv.bias", &b), ("conv.weight", &w)]);
        let given = state([("conv.bias", &first(&b, 1.1)), ("conv.weight", &scaled)]);
        let found = difference(&expected, &given, "", 1).unwrap();
        assert!(found.starts_with("statistics: `conv.weight` is "), "{found}");
        assert!(found.contains(" kernels times -1.5000 to 1.0000, as after another running variance"), "{found}");
        // The kernels are named, even where a bias is further off.
        let given = state([("conv.bias", &b.map(|b| 3.0 * b)), ("conv.weight", &scaled)]);
        assert!(difference(&expected, &given, "", 1).unwrap().starts_with("statistics: `conv.weight` is "));
        // A single weight is no scale.
        let found =
            difference(&expected, &state([("conv.bias", &b), ("conv.weight", &first(&w, 1.1))]), "", 1).unwrap();
        assert!(found.starts_with("weights or statistics"), "{found}");
        // Nor is any bias of an attention network, alone or beside kernels that are scaled.
        let expected = state([("attention.fc1.bias", &b), ("conv.weight", &w)]);
        for w in [&w, &scaled] {
            let given = state([("attention.fc1.bias", &first(&b, 1.1)), ("conv.weight", w)]);
            assert!(difference(&expected, &given, "", 1).unwrap().starts_with("weights or statistics"));
        }
    }

    #[test]
    fn biases_alone_are_a_mean() {
        let (w, b) = (randn([3, 2, 1, 1], 4), ones([3]));
        let expected = state([("conv.bias", &b), ("conv.weight", &w)]);
        let given = state([("conv.bias", &first(&b, 1.02)), ("conv.weight", &w)]);
        let found = difference(&expected, &given, "", 1).unwrap();
        assert!(found.starts_with("statistics: the kernels agree, `conv.bias` is 2.0e-2"), "{found}");
    }

    #[test]
    fn running_statistics_name_themselves() {
        let v = ones([3]);
        let expected = state([("bn.running_var", &v), ("bn.weight", &v)]);
        let given = state([("bn.running_var", &first(&v, 1.01)), ("bn.weight", &v)]);
        let found = difference(&expected, &given, "stem", 1).unwrap();
        assert_eq!(found, "statistics: `stem.bn.running_var` is 1.0e-2 of its largest value off");
    }
}
