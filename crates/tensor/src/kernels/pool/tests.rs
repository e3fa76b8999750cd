use super::*;
use crate::kernels::pending::Pending;
use crate::kernels::testing::{assert_close, assert_gradient, assert_same_bits, message};
use crate::random::randn;
use crate::reference::pool as reference;

fn cases() -> Vec<([usize; 4], Window)> {
    vec![
        ([2, 3, 6, 4], Window::square(2)),
        ([2, 3, 7, 5], Window::square(3).stride(2).padding(1)),
        ([1, 1, 5, 8], Window::square(3).stride(1)),
        ([3, 5, 4, 9], Window { kernel: [2, 3], stride: [1, 2], padding: [1, 0] }),
        ([2, 2, 1, 3], Window::square(4).stride(1).padding(2)),
        ([0, 2, 4, 4], Window::square(2)),
        ([4, 20, 33, 31], Window::square(3).stride(2).padding(1)), // large enough for several tasks
    ]
}

#[test]
fn windows_are_the_definition() {
    for (shape, window) in cases() {
        let x = randn::<f64>(shape, 1);
        let what = format!("{shape:?} {window:?}");
        let (y, found) = max_pool2d(&x, &window).unwrap();
        let expected = reference::max_pool2d(&x, &window);
        assert_close(&what, &y, &expected, 0.0);
        let dy = randn::<f64>(y.shape(), 2);
        let dx = max_pool2d_backward(x.shape(), &found, &dy).unwrap();
        assert_close(&what, &dx, &reference::max_pool2d_backward(&x, &window, &dy), 1e-14);
        assert_close(&what, &avg_pool2d(&x, &window).unwrap(), &reference::avg_pool2d(&x, &window), 1e-14);
        let dx = avg_pool2d_backward(x.shape(), &window, &dy).unwrap();
        assert_close(&what, &dx, &reference::avg_pool2d_backward(x.shape(), &window, &dy), 1e-14);
    }
}

#[test]
fn the_global_mean_is_the_definition() {
    for shape in [[2, 3, 5, 4], [1, 1, 1, 1], [0, 3, 2, 2], [2, 0, 3, 3], [3, 70, 30, 31]] {
        let x = randn::<f32>(shape, 1);
        let map = Pending::plain(x.clone());
        let y = global_avg_pool(&map).unwrap();
        assert_close(&format!("{shape:?}"), &y, &reference::global_avg_pool(&x), 1e-5);
        let dx = global_avg_pool_backward(&map, &y, None).unwrap().dy;
        let expected = Tensor::from_fn(shape, |i| y.view()[[i[0], i[1]]] / (shape[2] * shape[3]) as f32);
        assert_close(&format!("{shape:?}"), &dx, &expected, 1e-7);
    }
}

#[test]
fn gradients_are_central_differences() {
    for (shape, window) in cases().into_iter().filter(|(shape, _)| shape[1] < 20) {
        let x = randn::<f64>(shape, 1);
        let (y, found) = max_pool2d(&x, &window).unwrap();
        let dy = randn::<f64>(y.shape(), 2);
        let dx = max_pool2d_backward(x.shape(), &found, &dy).unwrap();
        assert_gradient("max", &x, &dx, &dy, |x| max_pool2d(x, &window).unwrap().0);
        let dx = avg_pool2d_backward(x.shape(), &window, &dy).unwrap();
        assert_gradient("avg", &x, &dx, &dy, |x| avg_pool2d(x, &window).unwrap());
        let dy = randn::<f64>([shape[0], shape[1]], 3);
        let dx = global_avg_pool_backward(&Pending::plain(x.clone()), &dy, None).unwrap().dy;
        assert_gradient("global", &x, &dx, &dy, |x| global_avg_pool(&Pending::plain(x.clone())).unwrap());
    }
}

#[test]
fn of_equal_values_the_first_is_the_maximum_and_a_nan_beats_all() {
    let x = Tensor::from_vec([1, 1, 2, 4], vec![1.0f32, 1.0, f32::NAN, 9.0, 1.0, 0.0, 2.0, 3.0]).unwrap();
    let (y, found) = max_pool2d(&x, &Window::square(2)).unwrap();
    assert_eq!((y.as_slice()[0], &found[..]), (1.0, &[0, 2][..]));
    assert!(y.as_slice()[1].is_nan());
    let lowest = Tensor::full([1, 1, 2, 2], f32::NEG_INFINITY);
    assert_eq!(max_pool2d(&lowest, &Window::square(2).stride(1).padding(1)).unwrap().1, [0, 0, 1, 0, 0, 1, 2, 2, 3]);
}

#[test]
fn the_bits_do_not_depend_on_the_threads() {
    let (x, window) = (randn::<f32>([4, 20, 33, 31], 1), Window::square(3).stride(2).padding(1));
    assert_same_bits("pool", || {
        let (y, found) = max_pool2d(&x, &window).unwrap();
        let dx = max_pool2d_backward(x.shape(), &found, &y).unwrap();
        let mean = global_avg_pool(&Pending::plain(x.clone())).unwrap();
        vec![avg_pool2d(&x, &window).unwrap(), avg_pool2d_backward(x.shape(), &window, &y).unwrap(), y, dx, mean]
    });
}

#[test]
fn wrong_arguments_are_errors_with_numbers() {
    let x = Tensor::<f32>::zeros([2, 3, 4, 5]);
    let zeros = |shape: &[usize]| Pending::plain(Tensor::<f32>::zeros(shape));
    assert!(message(global_avg_pool(&zeros(&[2, 3, 0, 4]))).contains("no positions"));
    let error = message(global_avg_pool_backward(&zeros(&[2, 3, 4, 5]), &Tensor::zeros([3, 2]), None));
    assert_eq!(error, "global_avg_pool_backward: `dy` has shape [3, 2], expected [2, 3]");
    for window in [Window::square(0), Window::square(2).stride(0), Window::square(3).padding(2)] {
        assert!(message(max_pool2d(&x, &window)).contains("padding of at most half the kernel"));
        assert!(message(avg_pool2d(&x, &window)).contains("padding of at most half the kernel"));
    }
    assert!(message(max_pool2d(&x, &Window::square(5))).contains("does not fit a map of 4 x 5"));
    assert!(message(max_pool2d(&x, &Window::square(usize::MAX).padding(1 << 40))).contains("does not fit"));
    let (y, mut found) = max_pool2d(&x, &Window::square(2)).unwrap();
    assert!(message(max_pool2d_backward(x.shape(), &found[1..], &y)).contains("`found`"));
    found[3] = 20;
    assert!(message(max_pool2d_backward(x.shape(), &found, &y)).contains("place 20, but a map has 20 positions"));
    assert!(message(avg_pool2d_backward(x.shape(), &Window::square(2), &x)).contains("[2, 3, 2, 2]"));
}
