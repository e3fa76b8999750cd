//! Image files against torchvision's transforms: `tests/golden/images` at the project's root, whose README tells what is there.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

use super::window::Window;
use super::{Photo, Recipe, decode};
use crate::{Resize, SetOptions};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/images")
}

/// The tensors of a golden file.
struct Golden(Vec<u8>);

impl Golden {
    fn read() -> Self {
        Golden(std::fs::read(folder().join("transforms.safetensors")).unwrap())
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        self.tensors().tensor(name).unwrap().data().to_vec()
    }

    fn words(&self, name: &str) -> Vec<[u8; 8]> {
        self.bytes(name).as_chunks().0.to_vec()
    }

    fn integers(&self, name: &str) -> Vec<i64> {
        self.words(name).into_iter().map(i64::from_le_bytes).collect()
    }

    fn window(&self, name: &str) -> Window {
        window(&self.integers(name))
    }

    /// The names in front of `/end`, of tensors that begin with `start`.
    fn cases(&self, start: &str, end: &str) -> Vec<String> {
        let tensors = self.tensors();
        let mut names: Vec<String> = tensors
            .names()
            .into_iter()
            .filter_map(|name| name.strip_prefix(start)?.strip_suffix(end).map(str::to_owned))
            .collect();
        names.sort();
        names
    }
}

fn window(values: &[i64]) -> Window {
    let [left, top, width, height] = values.iter().map(|&v| v as u32).collect::<Vec<_>>()[..] else { panic!() };
    Window { left, top, width, height }
}

/// Mean and largest difference of bytes.
fn difference(a: &[u8], b: &[u8]) -> (f64, u8) {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b));
    let sum: u64 = differences.clone().map(u64::from).sum();
    (sum as f64 / a.len() as f64, differences.max().unwrap())
}

fn recipe(size: usize, resize: Resize) -> Recipe {
    Recipe::new(&SetOptions { input_size: Some(size), resize: Some(resize), ..SetOptions::default() })
}

#[test]
fn windows_are_those_of_torchvision() {
    let golden = Golden::read();
    let (sizes, windows) = (golden.integers("windows/size"), golden.integers("windows/window"));
    let uniform: Vec<f64> = golden.words("windows/uniform").into_iter().map(f64::from_le_bytes).collect();
    assert_eq!((sizes.len() / 2, windows.len() / 4), (96, 96));
    for ((size, expected), uniform) in sizes.chunks(2).zip(windows.chunks(4)).zip(uniform.chunks(40)) {
        let mut uniform = uniform.iter().copied();
        let drawn = Window::random(size[0] as u32, size[1] as u32, || uniform.next().unwrap());
        assert_eq!(drawn, window(expected), "of {size:?}");
    }
}

#[test]
fn every_format_becomes_what_torchvision_makes_of_it() {
    let golden = Golden::read();
    let names = golden.cases("files/", "/part");
    assert_eq!(names.len(), 11);
    for name in names {
        let photo = decode(&folder().join(&name)).unwrap();
        let made: [(&str, Vec<u8>); 3] = [
            ("evaluation", recipe(32, Resize::Shorter).evaluation(&photo)),
            ("square", recipe(32, Resize::Square).evaluation(&photo)),
            ("part", recipe(32, Resize::Shorter).part(&photo, golden.window(&format!("files/{name}/window")))),
        ];
        for (what, input) in made {
            let (mean, largest) = difference(&input, &golden.bytes(&format!("files/{name}/{what}")));
            println!("{name} {what}: mean {mean:.4}, largest {largest}");
            // The four inks of a printer are no colours until somebody mixes them, each in their own way.
            let bounds = if name == "cmyk.jpg" { (0.02, 1) } else { (0.0, 0) };
            assert!(mean <= bounds.0 && largest <= bounds.1, "{name} {what}: mean {mean}, largest {largest}");
        }
    }
}

/// Real photos, where somebody has put them beside the project.
#[test]
fn photos_become_what_torchvision_makes_of_them() {
    let photos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/imagenet-sample/train");
    if !photos.exists() {
        println!("NOT RUN: `{}` is absent", photos.display());
        return;
    }
    let golden = Golden::read();
    let places = golden.integers("photos/places");
    let at_places = |input: Vec<u8>| -> Vec<u8> {
        let pixel = |place: &[i64]| input[3 * (224 * place[0] + place[1]) as usize..][..3].to_vec();
        places.chunks(2).flat_map(pixel).collect()
    };
    let names = golden.cases("photos/", "/part");
    assert!(names.len() > 15);
    let recipe = recipe(224, Resize::Shorter);
    for name in names {
        let photo: Photo = decode(&photos.join(&name)).unwrap();
        let part = golden.window(&format!("photos/{name}/window"));
        for (what, input) in [("evaluation", recipe.evaluation(&photo)), ("part", recipe.part(&photo, part))] {
            let (mean, largest) = difference(&at_places(input), &golden.bytes(&format!("photos/{name}/{what}")));
            println!("{name} {what}: mean {mean:.4}, largest {largest}");
            assert_eq!((mean, largest), (0.0, 0), "{name} {what}");
        }
    }
}
