//! The verbs, one file each: what they take, and what they do.

pub mod bench;
pub mod data;
pub mod doctor;
pub mod eval;
pub mod fold;
pub mod gradcheck;
pub mod import;
pub mod predict;
pub mod recipes;
pub mod resume;
pub mod summary;
pub mod train;
pub mod verify;
