//! The kernels, forward and backward, one topic a file.
