#!/usr/bin/env python3
"""Trains every kind of convolution for a moment, folds it, verifies it, and prints a table; see README.md."""

import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
KINDS = ["static", "maconv", "mdconv", "dyconv", "condconv", "weightnet", "dcd", "dynamicfilter", "se", "expandnet"]
# Only where the kernel is larger than 1x1 do these differ from a static convolution.
WIDE = ["acnet", "repvgg"]
JOBS = {
    "smallnet": (KINDS, ["--model", "smallnet"], [], "smallnet x1"),
    "mobilenetv2": (KINDS, ["--model", "mobilenetv2", "--width", "0.35"], ["--limit", "10000"], "mobilenetv2 x0.35"),
    "resnet18": (["static"] + WIDE, ["--model", "resnet18", "--width", "0.25"], ["--limit", "5000"], "resnet18 x0.25"),
}
# Where the usual learning rate, 0.1, is too large: the network stays at chance.
RATES = {("mobilenetv2", "dynamicfilter"): ["--lr", "0.02"]}


def options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gatefold", type=pathlib.Path, default=ROOT / "target/release/gatefold", help="a release build")
    parser.add_argument("--data-dir", type=pathlib.Path, required=True, help="the folder with CIFAR-10")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("kinds"), help="for run directories and the table")
    parser.add_argument("--networks", default=",".join(JOBS), help="some of " + ", ".join(JOBS))
    parser.add_argument("--kinds", default="", help="some kinds only, by commas")
    parser.add_argument("--epochs", type=int, default=2, help="at least 2, so that a loss can fall")
    parser.add_argument("--seconds", type=float, default=1.5, help="measured seconds of each speed")
    return parser.parse_args()


def run(command, statuses=(0,)):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode not in statuses:
        sys.exit(f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def speed(gatefold, network, kind, mode, seconds):
    row = run([gatefold, "bench", *network, "--conv", kind, "--mode", mode, "--seconds", seconds, "--json"])
    return json.loads(row.splitlines()[0])["images_per_s"]


def main():
    args = options()
    args.out.mkdir(parents=True, exist_ok=True)
    lines = [
        "| network | kind | parameters | MACs | folded: parameters | MACs | images/s train | infer | loss first → last | test % | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in args.networks.split(","):
        kinds, network, data, title = JOBS[name]
        for kind in kinds:
            if args.kinds and kind not in args.kinds.split(","):
                continue
            out = args.out / f"{name}-{kind}"
            train = [args.gatefold, "train", "cifar10", "--data-dir", args.data_dir, *network, *data]
            train += ["--conv", kind, "--epochs", args.epochs, "--out", out]
            train += RATES.get((name, kind), [])
            # 3: NOT FOLDABLE, which is the right answer of some kinds.
            printed = run(train, statuses=(0, 3)).splitlines()
            verdict = next((line for line in printed[::-1] if line.startswith(("EQUAL", "NOT"))), "?").split(":")[0].split(" over")[0]
            epochs = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
            first, last = epochs[0]["train_loss"], epochs[-1]["train_loss"]
            counts = json.loads(run([args.gatefold, "summary", *network, "--conv", kind, "--json"]))
            trained, folded = counts["trained"], counts["folded"]
            train_speed = speed(args.gatefold, network, kind, "train", args.seconds)
            infer_speed = speed(args.gatefold, network, kind, "infer", args.seconds) if folded else None
            number = lambda value: "-" if value is None else f"{value:,.0f}"
            of = lambda side, key: number(side[key]) if side else "-"
            lines.append(
                f"| {title} | {kind} | {of(trained, 'parameters')} | {of(trained, 'macs')} | {of(folded, 'parameters')} | "
                f"{of(folded, 'macs')} | {number(train_speed)} | {number(infer_speed)} | {first:.3f} → {last:.3f} | "
                f"{epochs[-1]['test_accuracy']:.1f} | {verdict} |"
            )
            print(lines[-1], flush=True)
            (args.out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
