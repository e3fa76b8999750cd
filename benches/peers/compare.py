#!/usr/bin/env python3
"""Sets gatefold's step beside PyTorch's and onnxruntime's in one interleaved run; see README.md."""

import argparse
import collections
import json
import os
import pathlib
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PACKAGES = ["torch", "onnx", "onnxruntime", "safetensors"]
# glibc returns large blocks to the system at every free: half of PyTorch's step are page faults. Kept memory is its best.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
WIDTHS = {"smallnet": "1", "mobilenetv2": "0.35", "shufflenetv2": "0.5", "resnet18": "0.25"}
KINDS = ["static", "maconv", "mdconv", "dyconv", "condconv", "weightnet", "dcd", "dynamicfilter", "se", "expandnet"]
# Only where the kernel is larger than 1x1 do these differ from a static convolution.
WIDE = ["acnet", "repvgg"]
NETWORKS = [(model, conv) for model in WIDTHS for conv in KINDS + (WIDE if model == "resnet18" else [])]
JOBS = [("train", 128), ("infer", 128), ("infer", 1)]
# In use gatefold runs what it folded to, and of that onnxruntime and the frozen forms know these.
IN_USE = [("smallnet", "static"), ("smallnet", "maconv"), ("smallnet", "mdconv"), ("mobilenetv2", "static")]
TORCH = {
    "train": [("torch eager", ["eager"]), ("torch compile", ["compile"])],
    "infer": [("torch eager", ["eager"]), ("torch frozen", ["frozen"]), ("torch jit", ["jit"])],
}
OURS = "gatefold"

Row = collections.namedtuple("Row", "model conv mode batch threads")


def options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=pathlib.Path, default=ROOT / "target/peers/venv", help="made if it is not there")
    parser.add_argument("--gatefold", type=pathlib.Path, default=ROOT / "target/release/gatefold", help="a release build")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "target/peers", help="for exported files and caches")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("peers.jsonl"), help="JSON lines, appended to")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2, help="measured seconds of each run")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rows", default="", help="a regular expression over e.g. `smallnet mdconv train 128 2t`")
    parser.add_argument("--contenders", default="", help="a regular expression over the names in the table")
    more = "one more, see README.md; several are allowed"
    parser.add_argument("--contender", type=outsider, action="append", default=[], metavar="NAME=COMMAND", help=more)
    parser.add_argument("--timeout", type=float, default=300, help="seconds of one run, compilation included")
    parser.add_argument("--no-realtime", action="store_true", help="measure without SCHED_FIFO")
    parser.add_argument("--table", type=pathlib.Path, nargs="+", help="only print the table of these files")
    return parser.parse_args()


def outsider(text):
    """Name and words of a contender from outside; the words may hold `{model}` and the other fields of a row."""
    title, _, command = text.partition("=")
    words = shlex.split(command)
    try:
        [word.format(**dict.fromkeys((*Row._fields, "seconds"), 0)) for word in words]
    except (KeyError, IndexError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error} is no field of a row: {', '.join(Row._fields)}, seconds")
    if not (title and words):
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=COMMAND")
    return title, words


def name(row):
    return f"{row.model} {row.conv} {row.mode} {row.batch} {row.threads}t"


def rows(args):
    for model, conv in NETWORKS:
        for mode, batch in JOBS:
            for threads in map(int, args.threads.split(",")):
                row = Row(model, conv, mode, batch, threads)
                measured = mode == "train" or (model, conv) in IN_USE
                if measured and re.search(args.rows, name(row)):
                    yield row


def contenders(row, args):
    """Name, command and environment of everybody who can run `row`."""
    python = args.venv / "bin/python"
    common = ["--model", row.model, "--conv", row.conv, "--mode", row.mode, "--batch-size", row.batch]
    common += ["--threads", row.threads, "--seconds", args.seconds]
    all_of_them = [(OURS, realtime(args) + [args.gatefold, "bench", "--json", "--width", WIDTHS[row.model]] + common, {})]
    peer = [python, "-W", "ignore", HERE / "peer.py"]
    common += ["--no-realtime"] if args.no_realtime else []
    for title, variant in TORCH[row.mode]:
        for layout in [[], ["--channels-last"]]:
            suffix = " channels_last" if layout else ""
            all_of_them.append((title + suffix, peer + variant + layout + common, ALLOCATOR))
    if row.mode == "infer":
        all_of_them.append(("onnxruntime", peer + ["onnxruntime", "--onnx", onnx_file(row, args)] + common, {}))
    for title, words in args.contender:
        words = [word.format(**row._asdict(), seconds=args.seconds) for word in words]
        all_of_them.append((title, realtime(args) + words, {}))
    return [one for one in all_of_them if re.search(args.contenders, one[0])]


def realtime(args):
    """How a whole process comes under SCHED_FIFO, where that is permitted."""
    chrt = shutil.which("chrt")
    command = [chrt, "-f", "5"]
    allowed = chrt and not args.no_realtime and subprocess.run(command + ["true"], capture_output=True).returncode == 0
    return command if allowed else []


def onnx_file(row, args):
    return args.work / f"{row.model}-{row.conv}-{row.batch}.onnx"


def prepare(args):
    args.work.mkdir(parents=True, exist_ok=True)
    python = args.venv / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", args.venv], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    for row in rows(args):
        if row.mode == "infer" and not onnx_file(row, args).exists():
            what = ["--model", row.model, "--conv", row.conv, "--batch-size", str(row.batch)]
            command = [python, "-W", "ignore", HERE / "peer.py", "export", "--onnx", onnx_file(row, args)] + what
            subprocess.run(command, check=True, capture_output=True)


def run(command, extra, args):
    """The result of one process, or what it said last as `error`."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(args.work / "inductor"), **extra}
    try:
        done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=args.timeout)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {args.timeout:.0f} s"}
    except OSError as error:
        return {"error": str(error)}
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return parsed(lines[-1])
    said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return {"error": next((text for text in said if text.startswith("error:")), said[-1])}


def parsed(text):
    try:
        result = json.loads(text)
        missing = {"ms_median", "peak_rss_mib"} - result.keys()
    except (ValueError, AttributeError):
        return {"error": f"its last line is no JSON object: {text}"}
    return {"error": f"it says nothing of {', '.join(sorted(missing))}"} if missing else result


def measure(args):
    """Every round takes every row, and in a row one contender after the other: A B C A B C."""
    for round_number in range(args.rounds):
        for row in rows(args):
            for contender, command, extra in contenders(row, args):
                result = run(command, extra, args)
                if contender == OURS:
                    result["realtime"] = command[0] != args.gatefold
                load = os.getloadavg()[0]
                result |= row._asdict() | {"contender": contender, "round": round_number, "load": load}
                result["when"] = time.strftime("%Y-%m-%dT%H:%M:%S")
                with args.out.open("a") as out:
                    out.write(json.dumps(result) + "\n")
                figure = f"{result['ms_median']:9.3f} ms" if "ms_median" in result else f"failed: {result['error']}"
                print(f"round {round_number + 1}  {name(row):32} {contender:26} {figure}", file=sys.stderr, flush=True)


def table(results):
    of_row = collections.defaultdict(lambda: collections.defaultdict(list))
    failed = {}
    for result in results:
        row = Row(*(result[field] for field in Row._fields))
        if "error" in result:
            failed[row, result["contender"]] = result["error"]
        else:
            of_row[row][result["contender"]].append(result)
    print("Median of the runs' medians in ms, and in brackets the best run; `faster` = best peer / gatefold, by either.\n")
    print("`MiB` = largest resident set, for the best peer with its growth over the imported library and the network.\n")
    print("| network | mode | batch | threads | gatefold | MiB | best peer | its ms | its MiB | best run of any peer | faster | faster, best runs |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    order = lambda row: (NETWORKS.index((row.model, row.conv)), JOBS.index((row.mode, row.batch)), row.threads)
    for row in sorted(of_row, key=order):
        print(line(row, of_row[row]))
    print()
    for row in sorted(of_row, key=order):
        cells = [f"{contender} {figures(runs)}" for contender, runs in of_row[row].items()]
        print(f"- {name(row)}: " + ", ".join(cells))
    for (row, contender), error in failed.items():
        print(f"- {name(row)}: {contender} failed: {error}")
    real = {result["realtime"] for result in results if "realtime" in result}
    print("\nSCHED_FIFO: " + {(True,): "on", (False,): "off"}.get(tuple(real), "on in some runs only, do not compare"))


def median(runs):
    return statistics.median(run["ms_median"] for run in runs)


def best(runs):
    return min(run["ms_median"] for run in runs)


def mib(runs):
    """The largest resident set, and how much of it came after the import where a run says so."""
    largest = max(runs, key=lambda run: run["peak_rss_mib"])
    growth = largest["peak_rss_mib"] - largest.get("rss_before_mib", 0)
    return f"{largest['peak_rss_mib']:.0f}" + (f" (+{growth:.0f})" if "rss_before_mib" in largest else "")


def figures(runs):
    return f"{median(runs):.3f} ({best(runs):.3f}, {len(runs)} runs, {mib(runs)} MiB)"


def line(row, of):
    peers = {contender: runs for contender, runs in of.items() if contender != OURS}
    ours = of.get(OURS)
    cells = [f"{row.model} {row.conv}", row.mode, row.batch, row.threads]
    cells += [f"{median(ours):.3f} ({best(ours):.3f})", mib(ours)] if ours else ["-"] * 2
    if peers:
        first = min(peers, key=lambda contender: median(peers[contender]))
        fastest = min(peers, key=lambda contender: best(peers[contender]))
        cells += [first, f"{median(peers[first]):.3f}", mib(peers[first]), f"{best(peers[fastest]):.3f} {fastest}"]
    else:
        cells += ["-"] * 4
    if ours and peers:
        check_parameters(row, ours, peers)
        cells += [f"{median(peers[first]) / median(ours):.2f}x", f"{best(peers[fastest]) / best(ours):.2f}x"]
    else:
        cells += ["-"] * 2
    return "| " + " | ".join(map(str, cells)) + " |"


def check_parameters(row, ours, peers):
    """Two networks of different size are no comparison."""
    counts = {run["parameters"] for runs in [ours, *peers.values()] for run in runs if "parameters" in run}
    if len(counts) > 1:
        sys.exit(f"{name(row)}: the contenders have different numbers of parameters: {sorted(counts)}")


def main():
    args = options()
    if not args.table:
        prepare(args)
        measure(args)
    results = [json.loads(text) for path in args.table or [args.out] for text in path.read_text().splitlines()]
    table(results)


if __name__ == "__main__":
    main()
