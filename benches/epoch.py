#!/usr/bin/env python3
"""An epoch of CIFAR-10 beside its bare steps: what the loader, the evaluation and the checkpoint cost.

Each round measures steps by `gatefold bench`, lets `gatefold train` go through three epochs and takes the second and the third from
end to end, as lines are added to `metrics.jsonl`. Both are ordinary processes: under SCHED_FIFO the system takes a twentieth of each
second away, which an epoch feels and a step's median does not, and the loader has to wait for the threads that train.

    cargo build --release
    python3 benches/epoch.py --data-dir DIR
"""
import argparse, json, math, pathlib, statistics, subprocess, tempfile, time

IMAGES = 50_000


def command(verb, *words):
    return [options.gatefold, verb, "--conv", options.conv, "--threads", str(options.threads), *words]


def step():
    """Milliseconds of a bare step."""
    words = command("bench", "--batch-size", str(options.batch), "--seconds", "2", "--json")
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])["ms_median"]


def epochs():
    """Seconds of the second and the third epoch."""
    with tempfile.TemporaryDirectory() as directory:
        out = pathlib.Path(directory) / "run"
        words = ["cifar10", "--data-dir", options.data_dir, "--batch-size", str(options.batch), "--epochs", "4", "--out", str(out)]
        said = pathlib.Path(directory) / "said"
        with said.open("w") as to:
            train = subprocess.Popen(command("train", *words), stdout=to, stderr=to)
        ends = []
        while len(ends) < 3:
            if train.poll() is not None:
                raise SystemExit(said.read_text())
            metrics = out / "metrics.jsonl"
            if metrics.exists() and metrics.read_text().count("\n") > len(ends):
                ends.append(time.monotonic())
            time.sleep(0.01)
        train.kill()
        train.wait()
    return [end - begin for begin, end in zip(ends, ends[1:])]


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--gatefold", default="target/release/gatefold", help="the program [default: %(default)s]")
parser.add_argument("--data-dir", required=True, help="where `gatefold data get cifar10` has put the images")
parser.add_argument("--conv", default="mdconv")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--batch", type=int, default=128)
parser.add_argument("--rounds", type=int, default=3)
options = parser.parse_args()
if not pathlib.Path(options.gatefold).is_file():
    parser.error(f"there is no program {options.gatefold}: build it with `cargo build --release`, or name it with --gatefold")

steps, whole = [], []
for _ in range(options.rounds):
    steps.append(step())
    whole += epochs()
    steps.append(step())
    print(f"steps of {steps[-2]:.1f} and {steps[-1]:.1f} ms around epochs of {whole[-2]:.2f} and {whole[-1]:.2f} s", flush=True)
count = math.ceil(IMAGES / options.batch)
for name, of in [("median", statistics.median), ("best", min)]:
    bare = count * of(steps) / 1000
    print(f"{name}: an epoch takes {of(whole):.2f} s, its {count} bare steps {bare:.2f} s: {of(whole) / bare:.2f} times")
