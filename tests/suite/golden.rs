//! PyTorch's values, from `tests/golden` (its README says what each tensor is): every op, every kind of site and the first
//! steps of training, in f64 and in f32.

mod ops;
mod sites;
mod trajectory;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;

use gatefold_tensor::{Real, Tensor};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value};

/// A file of golden values, with the geometry of its cases.
struct Golden {
    name: &'static str,
    bytes: Vec<u8>,
    cases: Map<String, Value>,
    /// The tensors that a test has asked for. In the end, these have to be all.
    used: RefCell<BTreeSet<String>>,
}

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden"].iter().collect()
}

fn read(file: &str) -> Vec<u8> {
    std::fs::read(folder().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

impl Golden {
    /// `<name>.safetensors`, and those cases of `cases.json` that belong to it.
    fn open(name: &'static str) -> Self {
        let mut cases: Map<String, Value> = serde_json::from_slice(&read("cases.json")).unwrap();
        cases.retain(|case, _| case.starts_with("site/") == (name == "sites"));
        assert!(cases.len() > 30, "only {} cases for {name}", cases.len());
        Golden { cases, ..Self::without_cases(name) }
    }

    /// `<name>.safetensors`, and the cases of `<name>.json`.
    fn with_own_cases(name: &'static str) -> Self {
        let cases = serde_json::from_slice(&read(&format!("{name}.json"))).unwrap();
        Golden { cases, ..Self::without_cases(name) }
    }

    /// `<name>.safetensors` alone.
    fn without_cases(name: &'static str) -> Self {
        Golden { name, bytes: read(&format!("{name}.safetensors")), cases: Map::new(), used: RefCell::default() }
    }

    /// Runs `test` on every case, and sees to it that every tensor of the file was used.
    fn for_each(&self, test: impl Fn(&Case<'_>)) {
        for (name, geometry) in &self.cases {
            test(&Case { golden: self, name, geometry });
        }
        self.assert_all_used();
    }

    /// The tensors below a prefix as a case without geometry; below none, all of them.
    fn part<'a>(&'a self, name: &'a str) -> Case<'a> {
        Case { golden: self, name, geometry: &Value::Null }
    }

    fn assert_all_used(&self) {
        let used = self.used.borrow();
        let unused: Vec<_> = self.names().into_iter().filter(|name| !used.contains(name)).collect();
        assert!(unused.is_empty(), "{}: no test looks at {unused:?}", self.name);
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    fn names(&self) -> Vec<String> {
        self.file().names().into_iter().map(str::to_owned).collect()
    }
}

/// One case of a file.
struct Case<'a> {
    golden: &'a Golden,
    /// `<group>/<case>`.
    name: &'a str,
    geometry: &'a Value,
}

impl Case<'_> {
    fn group(&self) -> &str {
        self.name.split('/').next().unwrap()
    }

    /// An option of the case.
    fn option(&self, key: &str) -> &Value {
        self.geometry.get(key).unwrap_or_else(|| panic!("{}: no option `{key}` in cases.json", self.name))
    }

    fn usize(&self, key: &str) -> usize {
        usize::try_from(self.option(key).as_u64().unwrap()).unwrap()
    }

    fn f64(&self, key: &str) -> f64 {
        self.option(key).as_f64().unwrap()
    }

    fn bool(&self, key: &str) -> bool {
        self.option(key).as_bool().unwrap()
    }

    fn key(&self, tensor: &str) -> String {
        if self.name.is_empty() { tensor.to_owned() } else { format!("{}/{tensor}", self.name) }
    }

    /// The keys of the tensors below `prefix`, without it.
    fn below(&self, prefix: &str) -> Vec<String> {
        let prefix = self.key(prefix);
        let names = self.golden.names();
        names.iter().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect()
    }

    fn data(&self, tensor: &str, expected: &[Dtype]) -> (Dtype, Vec<usize>, Vec<u8>) {
        let key = self.key(tensor);
        let file = self.golden.file();
        let view = file.tensor(&key).unwrap_or_else(|error| panic!("{key}: {error}"));
        assert!(expected.contains(&view.dtype()), "{key} is {:?}", view.dtype());
        self.golden.used.borrow_mut().insert(key);
        (view.dtype(), view.shape().to_vec(), view.data().to_vec())
    }

    fn tensor<T: Real>(&self, tensor: &str) -> Tensor<T> {
        let (dtype, shape, data) = self.data(tensor, &[Dtype::F32, Dtype::F64]);
        let elements = match dtype {
            Dtype::F32 => data.as_chunks::<4>().0.iter().map(|b| T::of(f64::from(f32::from_le_bytes(*b)))).collect(),
            _ => data.as_chunks::<8>().0.iter().map(|b| T::of(f64::from_le_bytes(*b))).collect(),
        };
        Tensor::from_vec(&shape[..], elements).unwrap()
    }

    fn labels(&self) -> Vec<usize> {
        let (_, _, data) = self.data("labels", &[Dtype::I64]);
        data.as_chunks::<8>().0.iter().map(|b| usize::try_from(i64::from_le_bytes(*b)).unwrap()).collect()
    }

    /// Fails unless max |found − golden| ≤ tolerance · max(1, max |golden|).
    fn compare<T: Real>(&self, tensor: &str, found: &Tensor<T>, tolerance: f64) {
        self.compare_at_scale(tensor, found, tolerance, 1.0);
    }

    /// Fails unless max |found − golden| ≤ tolerance · max(floor, max |golden|).
    fn compare_at_scale<T: Real>(&self, tensor: &str, found: &Tensor<T>, tolerance: f64, floor: f64) {
        let golden = self.tensor::<f64>(tensor);
        let found = found.cast::<f64>();
        assert_eq!(found.shape(), golden.shape(), "{}/{tensor}: shapes", self.name);
        let (apart, limit) = (found.max_abs_diff(&golden).unwrap(), tolerance * golden.max_abs().max(floor));
        // False for a NaN.
        assert!(apart <= limit, "{}/{tensor}: {apart:e} apart from PyTorch's, limit {limit:e}", self.name);
    }
}
