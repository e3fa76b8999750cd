//! `doctor`: what this machine offers, and whether the program works on it.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use gatefold_data::catalogue::{self, State};
use gatefold_layers::{Activation, ConvKind, Cx, EntryMut, Init, Site as _, SiteSpec, Walk};
use gatefold_models::{Backbone, Description, Model, Normalisation, NotFoldable};
use gatefold_tensor::random::randn;
use gatefold_train::verify::{Limits, compare};

use crate::place;

/// Options of `doctor`.
#[derive(clap::Args)]
pub struct Args {
    /// The folder that contains the sets [default: GATEFOLD_DATA, else the user's data directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Prints what there is; the answer is no if the self-check fails.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let unknown = || "unknown".to_owned();
    let cores = std::thread::available_parallelism().map_or_else(|_| unknown(), |cores| cores.to_string());
    let build = if cfg!(debug_assertions) { "debug build: slow" } else { "release build" };
    let data_dir = place::data_dir(args.data_dir.as_deref());
    writeln!(out, "gatefold  {} ({build})", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "system    {} {}", std::env::consts::OS, std::env::consts::ARCH)?;
    writeln!(out, "cpu       {}", field("/proc/cpuinfo", "model name").unwrap_or_else(unknown))?;
    writeln!(out, "features  {}", features())?;
    writeln!(out, "cores     {cores}")?;
    writeln!(out, "threads   {}", rayon::current_num_threads())?;
    writeln!(out, "memory    {}", memory().unwrap_or_else(unknown))?;
    writeln!(out, "data      {}", data_dir.display())?;
    for entry in catalogue::list(&data_dir) {
        let state = match entry.state {
            State::Embedded => "embedded".to_owned(),
            State::Present(_) => "present".to_owned(),
            State::Incomplete(_, files) => format!("incomplete: {} missing or of another size", files.join(", ")),
            State::Absent(_) => "absent".to_owned(),
        };
        writeln!(out, "  {:<9} {state}", entry.kind)?;
    }
    let (mut well, limit) = (true, Limits::default().algebra);
    for &conv in ConvKind::NAMES {
        let ratio = match self_check(conv).map_err(|error| error.downcast::<NotFoldable>()) {
            Ok(ratio) => ratio,
            Err(Ok(why)) => {
                writeln!(out, "fold      {conv}: NOT FOLDABLE: {}", why.source)?;
                continue;
            }
            Err(Err(error)) => return Err(error),
        };
        let equal = ratio <= limit;
        well &= equal;
        let verdict = if equal { "EQUAL" } else { "NOT EQUAL" };
        writeln!(out, "fold      {conv}: {verdict}, {ratio:.1e} of the scale in f64, {limit:e} is allowed")?;
    }
    Ok(ExitCode::from(u8::from(!well)))
}

/// What the processor can do, of what matters to the kernels.
fn features() -> String {
    #[cfg(target_arch = "x86_64")]
    let detected = [
        ("sse2", is_x86_feature_detected!("sse2")),
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
        ("avx", is_x86_feature_detected!("avx")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(target_arch = "aarch64")]
    let detected = [("neon", std::arch::is_aarch64_feature_detected!("neon"))];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let detected: [(&str, bool); 0] = [];
    let names: Vec<_> = detected.into_iter().filter_map(|(name, has)| has.then_some(name)).collect();
    if names.is_empty() { "none detected".to_owned() } else { names.join(" ") }
}

/// The first `key : value` of a file of the kernel's.
fn field(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let (_, value) = text.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == key)?;
    Some(value.trim().to_owned())
}

fn memory() -> Option<String> {
    let gib = |key| {
        let kib: f64 = field("/proc/meminfo", key)?.strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib / f64::from(1 << 20))
    };
    Some(format!("{:.1} GiB, {:.1} GiB of it available", gib("MemTotal")?, gib("MemAvailable")?))
}

/// Folds a random network of one kind in f64: the worst ratio of all its sites and of the logits. A kind that SmallNet's
/// pointwise sites cannot hold is folded at a 3x3 site by itself.
fn self_check(conv: &str) -> anyhow::Result<f64> {
    let conv = ConvKind::named(conv).ok_or_else(|| anyhow::anyhow!("{conv} is no kind of convolution"))?;
    if conv.smallest_kernel() > 1 {
        return site_check(&conv);
    }
    let description = Description {
        backbone: Backbone::SmallNet,
        width: 0.5,
        conv,
        folded: false,
        input: [3, 16, 16],
        classes: (0..10).map(|class| class.to_string()).collect(),
        dataset: "none".to_owned(),
        normalisation: Normalisation { maximum: 255, mean: vec![0.0; 3], std: vec![1.0; 3] },
    };
    let mut model: Model<f64> = Model::new(description, 1)?;
    move_parameters(&mut *model.network);
    let cx = Cx::train();
    model.network.forward(&cx, &cx.input(randn([8, 3, 16, 16], 2), false))?;
    cx.into_statistics().apply(&mut *model.network)?;

    let folded = model.fold()?;
    Ok(compare(&*model.network, &*folded.network, [Ok(randn([4, 3, 16, 16], 3))])?.worst())
}

/// Folds one random site in f64: the ratio of its outputs.
fn site_check(conv: &ConvKind) -> anyhow::Result<f64> {
    let mut site = conv.build::<f64>(SiteSpec::same(8, 8, 3, 1), &Init::new(1))?;
    move_parameters(&mut *site);
    let cx = Cx::train();
    site.forward(&cx, &cx.input(randn([8, 8, 6, 5], 2), false), Activation::Relu)?;
    cx.into_statistics().apply(&mut *site)?;

    let (folded, cx) = (site.fold()?, Cx::eval());
    let x = cx.input(randn([4, 8, 6, 5], 3), false);
    let (y, z) = (site.forward(&cx, &x, Activation::Relu)?, folded.forward(&cx, &x, Activation::Relu)?);
    Ok(y.value().max_abs_diff(z.value())? / y.value().max_abs())
}

/// A new batch norm is all but the identity, which any fold survives: every parameter is moved.
fn move_parameters(module: &mut (impl Walk<f64> + ?Sized)) {
    let mut seed = 0;
    module.walk_mut("", &mut |_, entry| {
        if let EntryMut::Param(param) = entry {
            seed += 1;
            let noise = randn::<f64>(*param.value.shape(), seed);
            for (value, noise) in param.value.as_mut_slice().iter_mut().zip(noise.as_slice()) {
                *value += 0.05 * noise;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_folds_to_the_same_function() {
        for &conv in ConvKind::NAMES {
            if conv == "se" {
                assert!(self_check(conv).unwrap_err().is::<NotFoldable>());
                continue;
            }
            let ratio = self_check(conv).unwrap();
            // Not 0 either: two sums in another order never agree to the last bit, the same network would.
            assert!(ratio > 0.0 && ratio <= Limits::default().algebra, "{conv}: {ratio:e}");
        }
    }

    #[test]
    fn a_file_without_the_key_has_no_field() {
        assert_eq!(field("/nowhere", "model name"), None);
    }
}
