"""What became of the generators' samples, and how good the masks are: counts, likeness, memory, exact truth."""

from pathlib import Path
from typing import Any

import pandas as pd

from lib.core.params import Params
from lib.report.cells import Part, share, short
from lib.report.scores import read_json

MASK_METHODS = {
    "measured": "measured",
    "cosine_rgb_otsu": "cosine_rgb_otsu (published)",
    "grey_difference": "grey difference, Otsu",
}

SAMPLES_NOTE = """Requests = accepted + rejected + failed. Masks are known where the generator tells them, else \
measured from the change. Real ones accepted: the share of the real defects that pass the gate, each compared with the \
others; where it is low, the gate is too narrow. Kernel distance: about 0 for samples that spread as the real ones do, \
2 at most; it rises where they lie elsewhere, and where they are too much alike. It and diversity are taken on \
features of EfficientNet-Lite0, which learned from ImageNet; they rank generators on one data set and are not \
Inception KID. Memorised: the share of samples that lie much nearer to a real defect than two real ones of a type \
usually lie to each other; `-` where no type has defects in two pictures."""


def gates(params: Params, metrics: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """The gate's numbers by generator and category."""
    numbers = {name: read_json(metrics / "masks" / f"{name}.json") for name in params.generators}
    return {name: {category: of[category] for category in params.dataset.categories} for name, of in numbers.items()}


def memorised(params: Params, metrics: Path) -> dict[str, dict[str, float | None]]:
    """The share in [0, 1] of accepted samples that copy a real defect, by generator and category; None if unknown."""
    fidelity = read_json(metrics / "fidelity.json")
    return {
        generator: {name: fidelity[generator][name]["memorised_share"] for name in params.dataset.categories}
        for generator in params.generators
    }


def empty_arms(params: Params, metrics: Path) -> frozenset[tuple[str, str]]:
    """Generators, and categories in which none of their samples was accepted: such an arm learns from real defects
    alone."""
    return frozenset(
        (generator, category)
        for generator, of_category in gates(params, metrics).items()
        for category, gate in of_category.items()
        if not gate["accepted"]
    )


def samples_table(params: Params, metrics: Path) -> pd.DataFrame:
    """Raises ValueError where a request is neither accepted nor rejected nor failed."""
    rows, fidelity = [], read_json(metrics / "fidelity.json")
    for generator, of_category in gates(params, metrics).items():
        for category, gate in of_category.items():
            likeness = fidelity[generator][category]
            accepted, rejected = gate["accepted"], sum(gate["rejected"].values())
            if (outcomes := accepted + rejected + gate["failed"]) != gate["samples"]:
                raise ValueError(f"{generator}, {category}: {gate['samples']} requests, {outcomes} with an outcome")
            reasons = [f"{count} {reason}" for reason, count in (gate["rejected"] | gate["failures"]).items()]
            rows.append(
                {
                    "generator": generator,
                    "category": category,
                    "requests": gate["samples"],
                    "accepted": f"{accepted} ({gate['acceptance_rate']:.0%})",
                    "rejected": rejected,
                    "failed": gate["failed"],
                    "real ones accepted": share(gate["real_acceptance_rate"]),
                    "masks": gate["masks"],
                    "pixels changed outside of the box": gate["pixels_changed_outside"],
                    "kernel distance": short(likeness["kernel_distance"]),
                    "diversity": short(likeness["diversity"]),
                    "diversity of real ones": short(likeness["diversity_real"]),
                    "memorised": share(likeness["memorised_share"]),
                    "rejected or failed because": "; ".join(reasons) or "-",
                }
            )
    return pd.DataFrame(rows)


def truth(path: Path) -> Part:
    title, scores = "Masks against the exact truth", read_json(path)
    if not scores:
        none = "The data set has no twins (the same picture without its defect), so there is no exact truth to hold."
        return Part(title, None, none)
    rows = [
        {"category and type": name, **{head: short(of[key]) for key, head in MASK_METHODS.items()}}
        for name, of in scores.items()
    ]
    note = "Mean IoU of masks taken from autoencoder round trips of a defect picture and its defect-free twin."
    return Part(title, pd.DataFrame(rows), note)
