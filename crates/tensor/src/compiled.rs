//! The vectorised kernels of both element types, compiled here and only here.
//!
//! A generic function is compiled in every crate that calls it, unless it is never inlined and a crate below has compiled
//! it already. Of [`dispatch`](crate::simd::dispatch) that holds, for every kernel that is reached from this list; a
//! kernel that is missed works as well, but each program and each test pays for it.

use std::hint::black_box;

use crate::Real;
use crate::kernels::blocks::gemm_parallel;
use crate::kernels::conv::{
    conv2d_pending, conv2d_pending_backward, conv2d_site, conv2d_site_backward, conv2d_sum, conv2d_sum_backward,
};
use crate::kernels::folded::{PendingSite, folded_backward, folded_forward, sample_moments, sample_moments_backward};
use crate::kernels::pending::{self, MaskedGrad, Pending, PendingGrad, PendingSum};
use crate::kernels::transpose::transpose;
use crate::plan::Plan;

/// Reaches everything that dispatches. Nobody calls it.
fn reach<T: Real>() {
    black_box([
        conv2d_pending::<T> as *const (),
        conv2d_pending_backward::<T> as *const (),
        sample_moments::<T> as *const (),
        sample_moments_backward::<T> as *const (),
        folded_forward::<T> as *const (),
        folded_backward::<T> as *const (),
        PendingSite::<T>::make as *const (),
        conv2d_site::<T> as *const (),
        conv2d_site_backward::<T> as *const (),
        PendingSum::<T>::make as *const (),
        conv2d_sum::<T> as *const (),
        conv2d_sum_backward::<T> as *const (),
        pending::gate::<T> as *const (),
        pending::gate_backward::<T> as *const (),
        pending::global_avg_pool::<T> as *const (),
        pending::global_avg_pool_backward::<T> as *const (),
        Pending::<T>::make as *const (),
        PendingGrad::<T>::make as *const (),
        MaskedGrad::<T>::of as *const (),
        MaskedGrad::<T>::add as *const (),
        gemm_parallel::<T> as *const (),
        transpose::<T> as *const (),
        Plan::<T>::run as *const (),
    ]);
}

#[used]
static REACHED: [fn(); 2] = [reach::<f32>, reach::<f64>];
