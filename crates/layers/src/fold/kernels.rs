//! Kernels that stand beside or behind each other, as one kernel. k, a and b are odd; t = (k − 1)/2 is the central tap.
//!
//! ```text
//! Σ_q w[o,q,u,v] · w_1[q,c]               (w behind the 1 x 1 kernels w_1; q over the channels of o's group)   (kernels.1)
//! Σ_{q,u,v} w[o,q,u,v] · c[q]             (what w makes of a constant map where every tap meets it)            (kernels.2)
//! w[o,c,t+i,t+j] + s[o,c,i+(a−1)/2,j+(b−1)/2]                              (s over the same windows as w)      (kernels.3)
//! e[o,c,u,v] = 1 where c is o in its group and u = v = t, else 0                (gives its input back)         (kernels.4)
//! ```

use gatefold_tensor::{Error, Real, Result, Tensor};

/// (kernels.1): the kernels of `w` behind the 1 x 1 convolution `w1`.
///
/// # Shapes
/// `w [O,Q/g,k,k]`, `w1 [Q,C/g,1,1]` → `[O,C/g,k,k]`.
/// # Errors
/// [`Error::Shape`] if the channels disagree.
pub fn behind_pointwise<T: Real>(w: &Tensor<T>, w1: &Tensor<T>, groups: usize) -> Result<Tensor<T>> {
    const OP: &str = "behind_pointwise";
    let ([o, qg, kh, kw], [q, c, one, uno]) = (w.dims(OP, "w")?, w1.dims(OP, "w1")?);
    check_groups(OP, groups, o, q)?;
    if [qg, one, uno] != [q / groups, 1, 1] {
        return Err(Error::shape(OP, "w1", format!("[{}, C/g, 1, 1]", qg * groups), w1.shape()));
    }
    let mut composed = Tensor::zeros([o, c, kh, kw]);
    // Channels last in memory: a tap of w is a row over Q/g, a kernel of w_1 a row over C/g.
    let taps = w.as_slice().chunks_exact(qg).zip(composed.as_mut_slice().chunks_exact_mut(c));
    for (i, (w, composed)) in taps.enumerate() {
        let group = i / (kh * kw) / (o / groups);
        let kernels = w1.as_slice()[group * qg * c..].chunks_exact(c);
        for (&w, w1) in w.iter().zip(kernels) {
            composed.iter_mut().zip(w1).for_each(|(sum, &w1)| *sum += w * w1);
        }
    }
    Ok(composed)
}

/// (kernels.2): what the kernels of `w` make of a map that is `c` everywhere.
///
/// # Shapes
/// `w [O,Q/g,k,k]`, `c [Q]` → `[O]`.
/// # Errors
/// [`Error::Shape`] if the channels disagree.
pub fn of_constant<T: Real>(w: &Tensor<T>, c: &Tensor<T>, groups: usize) -> Result<Tensor<T>> {
    const OP: &str = "of_constant";
    let ([o, qg, kh, kw], [q]) = (w.dims(OP, "w")?, c.dims(OP, "c")?);
    check_groups(OP, groups, o, q)?;
    if qg != q / groups {
        return Err(Error::shape(OP, "c", format!("[{}]", qg * groups), c.shape()));
    }
    let mut sums = Tensor::zeros([o]);
    for (o_, (sum, w)) in sums.as_mut_slice().iter_mut().zip(w.as_slice().chunks_exact(kh * kw * qg)).enumerate() {
        let c = &c.as_slice()[o_ / (o / groups) * qg..][..qg];
        *sum = w.chunks_exact(qg).flat_map(|tap| tap.iter().zip(c)).fold(T::zero(), |sum, (&w, &c)| sum + w * c);
    }
    Ok(sums)
}

/// (kernels.3): adds kernels that look through the middle of the same windows.
///
/// # Shapes
/// `w [O,I,k,k]`, `s [O,I,a,b]` with odd a, b of at most k.
/// # Errors
/// [`Error::Shape`] if `s` has other channels, or does not stand on taps of `w`.
pub fn add_centred<T: Real>(w: &mut Tensor<T>, s: &Tensor<T>) -> Result<()> {
    const OP: &str = "add_centred";
    let ([o, i, kh, kw], [of_o, of_i, a, b]) = (w.dims(OP, "w")?, s.dims(OP, "s")?);
    let centred = |k: usize, a: usize| a <= k && (k - a).is_multiple_of(2);
    if [of_o, of_i] != [o, i] || !centred(kh, a) || !centred(kw, b) {
        return Err(Error::shape(OP, "s", format!("[{o}, {i}, a, b] centred on {kh} x {kw} taps"), s.shape()));
    }
    let (top, left) = ((kh - a) / 2, (kw - b) / 2);
    let rows = s.as_slice().chunks_exact(b * i);
    for (row, s) in rows.enumerate() {
        let (o, u) = (row / a, row % a);
        let w = &mut w.as_mut_slice()[((o * kh + top + u) * kw + left) * i..][..b * i];
        w.iter_mut().zip(s).for_each(|(w, &s)| *w += s);
    }
    Ok(())
}

/// (kernels.4): the k x k kernels that give their input back, `[C,C/g,k,k]`.
///
/// # Errors
/// [`Error::Invalid`] if the groups do not divide the channels, or k is even.
pub fn identity<T: Real>(channels: usize, groups: usize, k: usize) -> Result<Tensor<T>> {
    check_groups("identity", groups, channels, channels)?;
    if k.is_multiple_of(2) {
        return Err(Error::invalid("identity", format!("a {k} x {k} kernel has no central tap")));
    }
    let (cg, t) = (channels / groups, k / 2);
    Ok(Tensor::from_fn([channels, cg, k, k], |at| {
        if [at[1], at[2], at[3]] == [at[0] % cg, t, t] { T::one() } else { T::zero() }
    }))
}

fn check_groups(op: &'static str, groups: usize, o: usize, c: usize) -> Result<()> {
    if groups == 0 || !o.is_multiple_of(groups) || !c.is_multiple_of(groups) {
        return Err(Error::invalid(op, format!("{groups} groups do not divide {o} output and {c} input channels")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use gatefold_tensor::kernels::conv::{Geometry, conv2d};
    use gatefold_tensor::random::randn;

    use super::*;

    #[track_caller]
    fn same(a: &Tensor<f64>, b: &Tensor<f64>) {
        assert_eq!(a.shape(), b.shape());
        assert!(b.max_abs() > 0.1 && a.max_abs_diff(b).unwrap() < 1e-12 * b.max_abs(), "{a:?} {b:?}");
    }

    #[test]
    fn a_pointwise_convolution_before_another_is_part_of_it() {
        for groups in [1, 2, 3] {
            let (w1, w) = (randn([12, 6 / groups, 1, 1], 1), randn([6, 12 / groups, 3, 3], 2));
            let (x, geo) = (randn([2, 6, 5, 4], 3), Geometry::default().groups(groups));
            let u = conv2d(&x, &w1, None, &geo).unwrap();
            let y = conv2d(&u, &w, None, &geo.stride(2).padding(1)).unwrap();
            let composed = behind_pointwise(&w, &w1, groups).unwrap();
            same(&conv2d(&x, &composed, None, &geo.stride(2).padding(1)).unwrap(), &y);
        }
    }

    #[test]
    fn a_constant_before_a_convolution_is_a_constant_behind_it() {
        for groups in [1, 2] {
            let (w, c) = (randn([4, 6 / groups, 3, 3], 1), randn([6], 2));
            let map = Tensor::from_fn([1, 6, 3, 3], |at| c.as_slice()[at[1]]);
            let y = conv2d(&map, &w, None, &Geometry::default().groups(groups)).unwrap();
            same(&of_constant(&w, &c, groups).unwrap(), &y.reshape([4]).unwrap());
        }
    }

    #[test]
    fn kernels_over_the_same_windows_add_up() {
        let (w, x, geo) = (randn::<f64>([3, 2, 5, 5], 1), randn([2, 2, 7, 6], 2), Geometry::default());
        for ([a, b], padding) in [([5, 1], [2, 0]), ([1, 5], [0, 2]), ([1, 1], [0, 0]), ([3, 3], [1, 1])] {
            let s = randn([3, 2, a, b], 3);
            let mut y = conv2d(&x, &w, None, &geo.padding(2)).unwrap();
            y.zip_apply(&conv2d(&x, &s, None, &Geometry { padding, ..geo }).unwrap(), |y, s| *y += s).unwrap();
            let mut sum = w.clone();
            add_centred(&mut sum, &s).unwrap();
            same(&conv2d(&x, &sum, None, &geo.padding(2)).unwrap(), &y);
        }
    }

    #[test]
    fn the_identity_gives_its_input_back() {
        for groups in [1, 2, 6] {
            let x = randn::<f64>([2, 6, 4, 5], 1);
            let geo = Geometry::default().padding(1).groups(groups);
            same(&conv2d(&x, &identity(6, groups, 3).unwrap(), None, &geo).unwrap(), &x);
        }
    }

    #[test]
    fn kernels_that_do_not_fit_are_errors() {
        let (w, w1) = (randn::<f64>([4, 6, 3, 3], 1), randn([6, 2, 1, 1], 2));
        assert!(behind_pointwise(&w, &randn([5, 2, 1, 1], 2), 1).is_err());
        assert!(behind_pointwise(&w, &w1, 4).is_err());
        assert!(of_constant(&w, &randn([5], 2), 1).is_err());
        assert!(add_centred(&mut w.clone(), &randn([4, 6, 2, 2], 2)).is_err());
        assert!(add_centred(&mut w.clone(), &randn([4, 6, 5, 5], 2)).is_err());
        assert!(identity::<f64>(4, 1, 2).is_err() && identity::<f64>(4, 3, 3).is_err());
    }
}
