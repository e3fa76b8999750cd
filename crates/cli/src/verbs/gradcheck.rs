//! `gradcheck`: every gradient against central differences.

use std::io::Write as _;
use std::process::ExitCode;

use gatefold_autograd::{GradCheck, GradCheckError, cases};
use gatefold_train::Error;

/// Options of `gradcheck`.
#[derive(clap::Args)]
pub struct Args {
    /// Check this operation alone, for example conv2d [default: all]
    #[arg(long, value_name = "NAME")]
    op: Option<String>,
}

/// Runs the cases and prints a line of each; the answer is no if one fails.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let cases = chosen(args.op.as_deref())?;
    let check = GradCheck::default();
    let mut out = std::io::stdout().lock();
    let mut failed = 0;
    for case in &cases {
        let (verdict, detail) = match case.run(&check) {
            Ok(report) => {
                let worst = report.worst.map_or(0.0, |worst| worst.ratio);
                ("ok  ", format!("{:>5} entries, worst {worst:.1e} of what is allowed", report.entries))
            }
            Err(GradCheckError::Mismatch(worst)) => ("FAIL", worst.to_string()),
            Err(GradCheckError::Op(error)) => ("FAIL", error.to_string()),
        };
        failed += usize::from(verdict == "FAIL");
        writeln!(out, "{verdict} {:<18} {:<38} {detail}", case.op, case.name)?;
    }
    let (count, GradCheck { step, atol, rtol, .. }) = (cases.len(), check);
    let allowed = format!("step {step:e}, allowed {atol:e} + {rtol:e} |numeric|, f64");
    match failed {
        0 => writeln!(out, "all {count} cases pass ({allowed})")?,
        _ => writeln!(out, "{failed} of {count} cases fail ({allowed})")?,
    }
    Ok(ExitCode::from(u8::from(failed > 0)))
}

/// The cases of one operation, or all.
fn chosen(op: Option<&str>) -> Result<Vec<cases::Case>, Error> {
    let mut cases = cases::all();
    let Some(op) = op else { return Ok(cases) };
    let mut known: Vec<_> = cases.iter().map(|case| case.op).collect();
    known.dedup();
    cases.retain(|case| case.op == op);
    if cases.is_empty() {
        let remedy = Some(format!("name one of {}", known.join(", ")));
        return Err(Error::Usage { message: format!("--op {op}: there is no such operation"), remedy });
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_chosen_by_name_and_an_unknown_one_told_the_known() {
        let of_conv = chosen(Some("conv2d")).unwrap();
        assert!(of_conv.len() > 1 && of_conv.len() < chosen(None).unwrap().len());
        assert!(of_conv.iter().all(|case| case.op == "conv2d"));
        let error = chosen(Some("conv")).err().unwrap();
        assert_eq!(error.exit_status(), 2);
        assert!(error.remedy().unwrap().contains("conv2d, conv2d_per_sample"));
    }
}
