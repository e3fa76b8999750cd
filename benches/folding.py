#!/usr/bin/env python3
"""Fits the constants of `folding_pays` (crates/layers/src/sites/multi_layer.rs) to the figures of benches/folding.rs:
least squares of the relative error over both forms, no constant below zero. Needs numpy.

    cargo bench --bench folding > folding.csv && python3 benches/folding.py folding.csv
"""

import sys

import numpy as np

NAMES = ["PIXEL", "EXPANDED", "BRANCH", "FOLDED", "KERNEL", "COVARIANCE", "BATCH", "a step of either form"]


def features(cin, cout, m, samples, positions, gated):
    """What each constant counts in the expanded form and in the folded one."""
    pixels, nothing, one = samples * positions, np.zeros_like(m), np.ones_like(m)
    products = pixels * (cin * cout + m * (cin + cout))
    passes = pixels * (cin + cout)
    expanded = [3 * products, passes, pixels * m * (1 + gated), nothing, nothing, nothing, nothing, one]
    per_sample = [gated * samples * m * cin * cout, gated * samples * cin**2]
    batch = cin**2 * (cout + m)
    folded = [pixels * (3 * cin * cout + 2 * cin**2), nothing, nothing, passes, *per_sample, batch, one]
    return np.stack(expanded, 1), np.stack(folded, 1)


def fit(features, times):
    """Non-negative least squares by leaving out, one after the other, what would fall below zero."""
    relative, kept = features / times[:, None], list(range(features.shape[1]))
    while True:
        values = np.linalg.lstsq(relative[:, kept], np.ones(len(times)), rcond=None)[0]
        if values.min() >= 0:
            break
        kept.pop(int(values.argmin()))
    constants = np.zeros(features.shape[1])
    constants[kept] = values
    return constants


def judge(name, folds, expanded, folded):
    lost = np.where(folds, folded, expanded) / np.minimum(expanded, folded) - 1
    right = np.mean(folds == (folded < expanded))
    print(f"{name:16} the faster form at {right:.1%} of {len(lost)} points; loses {lost.mean():.2%} on average, {lost.max():.0%} at worst")


def main():
    data = np.genfromtxt(sys.argv[1], delimiter=",", names=True)
    expanded, folded = 1e6 * data["expanded_ms"], 1e6 * data["folded_ms"]
    columns = (data["cin"], data["cout"], data["m"], data["samples"], data["side"] ** 2, data["gated"])
    of_expanded, of_folded = features(*columns)
    constants = fit(np.vstack([of_expanded, of_folded]), np.concatenate([expanded, folded]))
    for name, constant in zip(NAMES, constants):
        print(f"{name:22} {constant:.4g} ns")
    for name, predicted, times in [("expanded", of_expanded, expanded), ("folded", of_folded, folded)]:
        off = np.sqrt(np.mean((predicted @ constants / times - 1) ** 2))
        print(f"{name}: off by {off:.0%} (root mean square)")
    judge("the fit:", of_folded @ constants < of_expanded @ constants, expanded, folded)
    judge("auto, as built:", data["auto_folds"] == 1, expanded, folded)
    judge("always expanded:", np.zeros(len(folded), bool), expanded, folded)
    judge("always folded:", np.ones(len(folded), bool), expanded, folded)


if __name__ == "__main__":
    main()
