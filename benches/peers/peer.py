"""One measurement of one peer in this process: a JSON line on stdout. `compare.py` starts it."""

import argparse
import json
import os
import statistics
import time


def options():
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", help="eager | compile | frozen | jit | onnxruntime | export")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--model", default="smallnet")
    parser.add_argument("--conv", default="static")
    parser.add_argument("--mode", choices=["train", "infer"], default="train")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--onnx", help="the file that `export` writes and `onnxruntime` reads")
    parser.add_argument("--no-realtime", action="store_true")
    return parser.parse_args()


def peak_rss_mib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def realtime():
    """Puts all threads under SCHED_FIFO, so that what else the machine does cannot disturb them: does it succeed?"""
    try:
        for thread in os.listdir("/proc/self/task"):
            os.sched_setscheduler(int(thread), os.SCHED_FIFO, os.sched_param(5))
        return True
    except OSError:
        return False


def measure(step, args):
    """The times of single steps, in ms. The first step compiles, and half a second more warms up."""
    step()
    fifo = not args.no_realtime and realtime()
    for_seconds(step, 0.5, 3)
    times = sorted(for_seconds(step, args.seconds, 5))
    return {
        "ms_median": statistics.median(times),
        "ms_min": times[0],
        "ms_max": times[-1],
        "steps": len(times),
        "realtime": fifo,
    }


def for_seconds(step, seconds, at_least):
    times, end = [], time.perf_counter() + seconds
    while len(times) < at_least or time.perf_counter() < end:
        start = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def torch_step(args):
    import torch

    import networks

    torch.set_num_threads(args.threads)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    network = networks.build(args.model, args.conv, layout)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    torch.manual_seed(1)
    images = torch.randn(args.batch_size, 3, 32, 32).to(memory_format=layout)
    labels = torch.randint(0, 10, (args.batch_size,))
    if args.mode == "train":
        step = training(args, network.train(), images, labels)
    else:
        step = inference(args, networks.random_statistics(network).eval(), images)
    return step, {"version": torch.__version__, "parameters": parameters}


def training(args, network, images, labels):
    import torch

    import networks

    sgd = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
    loss_of = lambda images, labels: networks.loss(network, images, labels)
    if args.peer == "compile":
        loss_of = torch.compile(loss_of)

    def step():
        sgd.zero_grad(set_to_none=True)
        loss = loss_of(images, labels)
        loss.backward()
        sgd.step()
        return loss.item()

    return step


def inference(args, network, images):
    import torch

    network.requires_grad_(False)
    no_gradients = torch.inference_mode
    if args.peer == "frozen":
        import torch._inductor.config

        torch._inductor.config.freezing = True
        network, no_gradients = torch.compile(network), torch.no_grad
    elif args.peer == "jit":
        network = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(network, images)))

    def step():
        with no_gradients():
            return network(images)

    return step


def onnxruntime_step(args):
    import numpy
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = args.threads
    session = onnxruntime.InferenceSession(args.onnx, settings, providers=["CPUExecutionProvider"])
    images = numpy.random.default_rng(1).standard_normal((args.batch_size, 3, 32, 32), dtype="float32")
    return lambda: session.run(None, {"images": images}), {"version": onnxruntime.__version__}


def export(args):
    """The network in use, every batch norm folded into the convolution before it, for one batch size."""
    import torch
    from torch.fx.experimental.optimization import fuse

    import networks

    network = networks.random_statistics(networks.build(args.model, args.conv)).eval()
    images = torch.randn(args.batch_size, 3, 32, 32)
    with torch.no_grad():
        folded = fuse(network).eval()
        assert torch.allclose(folded(images), network(images), atol=1e-3), "folding changed the network"
        names = {"input_names": ["images"], "output_names": ["logits"]}
        torch.onnx.export(folded, (images,), args.onnx, opset_version=17, dynamo=False, **names)


def main():
    args = options()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    if args.peer == "export":
        export(args)
        return
    step, about = onnxruntime_step(args) if args.peer == "onnxruntime" else torch_step(args)
    before = peak_rss_mib()
    result = measure(step, args)
    result["images_per_s"] = 1e3 * args.batch_size / result["ms_median"]
    result.update(about, peak_rss_mib=peak_rss_mib(), rss_before_mib=before)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
