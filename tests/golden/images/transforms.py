"""Writes the golden images: what torchvision's transforms make of image files and of random numbers.

    python transforms.py --photos DIR     DIR holds train/CLASS/FILE, photos of any size

README.md lists what is written.
"""

import argparse
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from torchvision import transforms
from torchvision.transforms import functional as F

HERE = Path(__file__).parent
SCALE, RATIO = (0.08, 1.0), (3.0 / 4.0, 4.0 / 3.0)


class Draws:
    """Stands in for `torch` where torchvision draws: uniform numbers from a list."""

    tensor, log, exp = staticmethod(torch.tensor), staticmethod(torch.log), staticmethod(torch.exp)

    def __init__(self, numbers):
        self.numbers = iter(numbers)

    def empty(self, _count):
        return self

    def uniform_(self, low, high):
        low, high = float(low), float(high)
        return torch.tensor([low + (high - low) * next(self.numbers)], dtype=torch.float64)

    def randint(self, low, high, size):
        assert low == 0 and size == (1,)
        return torch.tensor([int((high - low) * next(self.numbers))])


def window(size, numbers):
    """(left, top, width, height) of RandomResizedCrop in an image of size (width, height)."""
    with mock.patch("torchvision.transforms.transforms.torch", Draws(numbers)):
        top, left, height, width = transforms.RandomResizedCrop.get_params(Image.new("RGB", size), SCALE, RATIO)
    return left, top, width, height


def evaluation(image, size):
    side = round(size * 256 / 224)
    return np.asarray(F.center_crop(F.resize(image, side), size))


def square(image, size):
    side = round(size * 256 / 224)
    return np.asarray(F.center_crop(F.resize(image, [side, side]), size))


def part(image, window, size):
    left, top, width, height = window
    return np.asarray(F.resized_crop(image, top, left, height, width, [size, size]))


def formula(width, height, channels):
    """Waves, edges and noise."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    noise = np.random.default_rng(width * 1000 + height).integers(0, 40, (height, width, channels))
    waves = [110 + 100 * np.sin(x / (3 + c) + y / (9 - c)) for c in range(channels)]
    edges = 60 * ((x // 11 + y // 7) % 2)
    return np.clip(np.stack(waves, -1) + edges[..., None] + noise - 20, 0, 255).astype(np.uint8)


def files():
    """Name and image of each file; written on the way."""
    rgb, grey, rgba = formula(61, 47, 3), formula(40, 90, 1)[..., 0], formula(33, 33, 4)
    plan = [
        ("rgb.png", Image.fromarray(rgb), {}),
        ("wide.bmp", Image.fromarray(formula(96, 37, 3)), {}),
        ("grey.png", Image.fromarray(grey), {}),
        ("alpha.png", Image.fromarray(rgba), {}),
        ("palette.png", Image.fromarray(rgb).quantize(64), {}),
        ("lossless.webp", Image.fromarray(formula(52, 64, 3)), {"lossless": True}),
        ("photo.jpg", Image.fromarray(formula(64, 48, 3)), {"quality": 95, "subsampling": 0}),
        ("halved.jpg", Image.fromarray(formula(75, 50, 3)).resize((150, 100)), {"quality": 90, "subsampling": 2}),
        (
            "progressive.jpg",
            Image.fromarray(formula(64, 48, 3)),
            {"quality": 95, "subsampling": 0, "progressive": True},
        ),
        ("grey.jpg", Image.fromarray(grey), {"quality": 95}),
        ("cmyk.jpg", Image.fromarray(formula(64, 48, 4), "CMYK"), {"quality": 95, "subsampling": 0}),
    ]
    for name, image, options in plan:
        image.save(HERE / name, **options)
        with Image.open(HERE / name) as written:
            yield name, written.convert("RGB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    args = parser.parse_args()
    random = np.random.default_rng(0)
    tensors = {}

    sizes = [(500, 375), (375, 500), (224, 224), (1, 1), (3, 200), (200, 3), (640, 426), (31, 17)] * 12
    numbers = random.random((len(sizes), 40))
    numbers[:8, ::2] = 0.999  # nothing fits: the centre
    tensors["windows/size"] = np.array(sizes, dtype=np.int64)
    tensors["windows/uniform"] = numbers
    tensors["windows/window"] = np.array([window(*case) for case in zip(sizes, numbers)], dtype=np.int64)

    for name, image in files():
        chosen = window(image.size, random.random(40))
        tensors[f"files/{name}/window"] = np.array(chosen, dtype=np.int64)
        tensors[f"files/{name}/evaluation"] = evaluation(image, 32)
        tensors[f"files/{name}/square"] = square(image, 32)
        tensors[f"files/{name}/part"] = part(image, chosen, 32)

    places = np.stack([random.integers(0, 224, 256), random.integers(0, 224, 256)], -1)
    tensors["photos/places"] = places
    chosen = sorted(args.photos.glob("train/*/*_original_size.JPEG")) + sorted(args.photos.glob("train/*/*.JPEG"))[::60]
    for path in chosen:
        with Image.open(path) as photo:
            image = photo.convert("RGB")
        key = f"photos/{path.parent.name}/{path.name}"
        shown = window(image.size, random.random(40))
        tensors[f"{key}/window"] = np.array(shown, dtype=np.int64)
        for name, input in [("evaluation", evaluation(image, 224)), ("part", part(image, shown, 224))]:
            tensors[f"{key}/{name}"] = input[places[:, 0], places[:, 1]]
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, HERE / "transforms.safetensors")
    print(f"{len(tensors)} tensors; {len(chosen)} photos")


if __name__ == "__main__":
    main()
