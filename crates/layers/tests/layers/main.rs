//! The layers and sites from outside: gradients, the identity of two forms, folds, gates and statistics.

mod folded;
mod folds;
mod forms;
mod gates;
mod generated;
mod gradients;
mod reparameterised;
mod statistics;
mod support;
