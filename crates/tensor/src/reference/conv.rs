//! Convolution by its definition. With groups, c runs over the channels of o's group; outside the image x is 0.
//! ```text
//! y[n,o,i,j]  = b[o] + Σ_{c,u,v} w[o,c,u,v] · x[n,c, i·s+u·d−p, j·s+v·d−p]     (conv.1)
//! dw[o,c,u,v] = Σ_{n,i,j} dy[n,o,i,j] · x[n,c, i·s+u·d−p, j·s+v·d−p]           (conv.2)
//! dx[n,c,h,l] = Σ dy[n,o,i,j] · w[o,c,u,v] over i·s+u·d−p = h, j·s+v·d−p = l    (conv.3)
//! ```

use ndarray::ArrayViewD;

use crate::kernels::conv::{ConvGrads, Geometry, Sizes};
use crate::{Real, Result, Shape, Tensor};

/// `x[n, c, row − p, col − p]`, 0 outside the image.
fn padded<T: Real>(x: &ArrayViewD<'_, T>, geo: &Geometry, [n, c, row, col]: [usize; 4]) -> T {
    match (row.checked_sub(geo.padding[0]), col.checked_sub(geo.padding[1])) {
        (Some(h), Some(l)) => x.get([n, c, h, l]).copied().unwrap_or_else(T::zero),
        _ => T::zero(),
    }
}

/// (conv.1): `x [N,C,H,W]`, `w [O,C/g,kh,kw]`, `b [O]` → `[N,O,OH,OW]`.
///
/// # Errors
/// As [`kernels::conv::conv2d`](crate::kernels::conv::conv2d).
// ANCHOR: conv2d_reference
pub fn conv2d<T: Real>(x: &Tensor<T>, w: &Tensor<T>, b: Option<&Tensor<T>>, geo: &Geometry) -> Result<Tensor<T>> {
    let s = Sizes::check("conv2d", x, w, geo, false)?;
    b.map_or(Ok(()), |b| s.check_bias("conv2d", b))?;
    let (x, w, ([sh, sw], [dh, dw])) = (x.view(), w.view(), (geo.stride, geo.dilation));
    Ok(Tensor::from_fn(s.y_shape(), |index| {
        let (n, o, i, j) = (index[0], index[1], index[2], index[3]);
        let mut y = b.map_or(T::zero(), |b| b.view()[[o]]);
        for c in 0..s.cg() {
            for u in 0..s.kh {
                for v in 0..s.kw {
                    let pixel = [n, o / s.og() * s.cg() + c, i * sh + u * dh, j * sw + v * dw];
                    y += w[[o, c, u, v]] * padded(&x, geo, pixel);
                }
            }
        }
        y
    }))
}
// ANCHOR_END: conv2d_reference

/// (conv.2), (conv.3) and `db[o] = Σ_{n,i,j} dy[n,o,i,j]`: all three gradients.
///
/// # Errors
/// As [`kernels::conv::conv2d_backward`](crate::kernels::conv::conv2d_backward).
pub fn conv2d_backward<T: Real>(x: &Tensor<T>, w: &Tensor<T>, dy: &Tensor<T>, geo: &Geometry) -> Result<ConvGrads<T>> {
    let s = Sizes::check("conv2d_backward", x, w, geo, false)?;
    s.check_dy("conv2d_backward", dy)?;
    let dyv = dy.view();
    let db = Tensor::from_fn([s.o], |index| dyv.index_axis(ndarray::Axis(1), index[0]).iter().copied().sum());
    Ok(ConvGrads { dx: Some(grad_x(&s, w, dy)), dw: Some(grad_w(&s, x, dy)), db: Some(db) })
}

// ANCHOR: conv2d_backward_reference
/// (conv.2).
fn grad_w<T: Real>(s: &Sizes, x: &Tensor<T>, dy: &Tensor<T>) -> Tensor<T> {
    let (x, dy, [sh, sw], [dh, dw]) = (x.view(), dy.view(), s.geo.stride, s.geo.dilation);
    Tensor::from_fn([s.o, s.cg(), s.kh, s.kw], |index| {
        let (o, c, u, v) = (index[0], index[1], index[2], index[3]);
        let mut sum = T::zero();
        for n in 0..s.n {
            for i in 0..s.oh {
                for j in 0..s.ow {
                    let pixel = [n, o / s.og() * s.cg() + c, i * sh + u * dh, j * sw + v * dw];
                    sum += dy[[n, o, i, j]] * padded(&x, &s.geo, pixel);
                }
            }
        }
        sum
    })
}

/// (conv.3).
fn grad_x<T: Real>(s: &Sizes, w: &Tensor<T>, dy: &Tensor<T>) -> Tensor<T> {
    let (w, dy, [sh, sw], [dh, dw], [ph, pw]) = (w.view(), dy.view(), s.geo.stride, s.geo.dilation, s.geo.padding);
    Tensor::from_fn([s.n, s.c, s.h, s.w], |index| {
        let (n, channel, h, l) = (index[0], index[1], index[2], index[3]);
        let (group, c) = (channel / s.cg(), channel % s.cg());
        let mut sum = T::zero();
        for o in group * s.og()..(group + 1) * s.og() {
            for (u, i) in pairs(s.kh, s.oh).filter(|(u, i)| i * sh + u * dh == h + ph) {
                for (v, j) in pairs(s.kw, s.ow).filter(|(v, j)| j * sw + v * dw == l + pw) {
                    sum += dy[[n, o, i, j]] * w[[o, c, u, v]];
                }
            }
        }
        sum
    })
}
// ANCHOR_END: conv2d_backward_reference

/// All `(u, i)` with `u < taps` and `i < outputs`.
fn pairs(taps: usize, outputs: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..taps).flat_map(move |u| (0..outputs).map(move |i| (u, i)))
}

/// (conv.1) for every sample with its own `w [N·O,C/g,kh,kw]` and `b [N,O]`.
///
/// # Errors
/// As [`kernels::conv::conv2d_per_sample`](crate::kernels::conv::conv2d_per_sample).
pub fn conv2d_per_sample<T: Real>(
    x: &Tensor<T>,
    w: &Tensor<T>,
    b: Option<&Tensor<T>>,
    geo: &Geometry,
) -> Result<Tensor<T>> {
    let s = Sizes::check("conv2d_per_sample", x, w, geo, true)?;
    b.map_or(Ok(()), |b| s.check_bias("conv2d_per_sample", b))?;
    let of_sample = |n| {
        let b = b.map(|b| sample(b, n, 1)?.reshape([s.o])).transpose()?;
        conv2d(&sample(x, n, 1)?, &sample(w, n, s.o)?, b.as_ref(), geo)
    };
    stack(&(0..s.n).map(of_sample).collect::<Result<Vec<_>>>()?, s.y_shape())
}

/// (conv.2) without the sum over n, (conv.3) and the sum of `dy`, for every sample with its own kernels.
///
/// # Errors
/// As [`kernels::conv::conv2d_per_sample_backward`](crate::kernels::conv::conv2d_per_sample_backward).
pub fn conv2d_per_sample_backward<T: Real>(
    x: &Tensor<T>,
    w: &Tensor<T>,
    dy: &Tensor<T>,
    geo: &Geometry,
) -> Result<ConvGrads<T>> {
    let s = Sizes::check("conv2d_per_sample_backward", x, w, geo, true)?;
    s.check_dy("conv2d_per_sample_backward", dy)?;
    let of_sample = |n| conv2d_backward(&sample(x, n, 1)?, &sample(w, n, s.o)?, &sample(dy, n, 1)?, geo);
    let grads = (0..s.n).map(of_sample).collect::<Result<Vec<_>>>()?;
    let all = |part: fn(&ConvGrads<T>) -> &Option<Tensor<T>>, shape: Shape| -> Result<Option<Tensor<T>>> {
        let parts: Option<Vec<_>> = grads.iter().map(|g| part(g).clone()).collect();
        parts.map(|parts| stack(&parts, shape)).transpose()
    };
    Ok(ConvGrads {
        dx: all(|g| &g.dx, *x.shape())?,
        dw: all(|g| &g.dw, *w.shape())?,
        db: all(|g| &g.db, Shape::from([s.n, s.o]))?,
    })
}

/// Entries `n·count..(n+1)·count` along the first axis: the outermost in memory, whatever the rank.
fn sample<T: Real>(t: &Tensor<T>, n: usize, count: usize) -> Result<Tensor<T>> {
    let mut shape = t.shape().to_vec();
    let len = t.len() / shape[0] * count;
    shape[0] = count;
    Tensor::from_memory(&shape[..], t.as_slice()[n * len..][..len].to_vec())
}

/// The tensors one after the other along the first axis.
fn stack<T: Real>(parts: &[Tensor<T>], shape: impl Into<Shape>) -> Result<Tensor<T>> {
    Tensor::from_memory(shape, parts.iter().flat_map(|part| part.as_slice()).copied().collect())
}
