"""Every family of timm, one small model of each kind: ``swap_attention`` leaves it unchanged, or refuses it by name.

``python tests/models/timm_families.py`` builds all models without memory for their weights, takes the smallest of each
family and of each set of types within it, checks these, and writes the record of docs/models.md. With names of models,
only their rows.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from standin import import_timm
from torch import nn

from espref.nn import SinkhornAttention, SoftmaxAttention, swap_attention, swap_report

sys.path.insert(0, str(Path(__file__).parent.parent))

timm = import_timm()
SUITE = "timm"
TARGET = "unchanged to 1e-5, or refused"
TOLERANCE = 1e-5
EFFECT = 1e-4  # what another attention must change at least, for the comparison to mean something
EXCHANGED, REFUSED, NONE = "exchanged", "refused", "no attention"


class Outcome(NamedTuple):
    """What ``swap_attention`` does with one model."""

    result: str  # EXCHANGED, REFUSED or NONE
    modules: int  # how many were exchanged
    reasons: str  # of what was refused, by type


def family(name: str) -> str:
    """The module of timm that a model is from."""
    return timm.models._registry._model_to_module[name]


def built(name: str, device: str = "meta") -> nn.Module:
    """A model with random weights, by default without memory for them."""
    with torch.device(device), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return timm.create_model(name).eval()


def outcome(name: str) -> Outcome:
    """By exchanging the attention of a model on the meta device."""
    model = built(name)
    try:
        swap_attention(model, SoftmaxAttention)
    except ValueError as error:
        result = NONE if "found none" in str(error) else REFUSED
        return Outcome(result, 0, "; ".join(types_and_reasons(model)))
    return Outcome(EXCHANGED, len(swap_report(model).exchanged), "")


def types_and_reasons(model: nn.Module) -> Iterator[str]:
    """``type: reason`` of what cannot be exchanged, each once."""
    for text in dict.fromkeys(swap_report(model).left.values()):
        name, _, reason = text.partition(": ")
        if reason != "can be exchanged":
            yield f"{name.rpartition('.')[2]}: {reason}"


def difference(name: str) -> tuple[float, float]:
    """Relative to the largest output, how far it moves with softmax attention in place, and with Sinkhorn's.

    Weights are made larger than at initialisation, so that attention is far from uniform and has an effect.
    """
    torch.manual_seed(0)
    model = built(name, "cpu")
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if "qkv" in path and parameter.ndim == 2:
                parameter.mul_(8)
            elif max(parameter.shape) == parameter.numel():  # biases and scales
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        if sum(parameter.numel() for parameter in model.parameters()) > 50e6:
            model.blocks = model.blocks[:2]
        x = torch.randn(1, *model.default_cfg["input_size"])
        before = model(x)
        after = swap_attention(model, SoftmaxAttention)(x)
        other = swap_attention(model, SinkhornAttention, n_iter=1)(x)
    size = before.abs().max()
    return float((after - before).abs().max() / size), float((other - before).abs().max() / size)


def representatives() -> list[str]:
    """Of each family, and of each set of types in it, the smallest model."""
    smallest: dict[tuple[str, ...], tuple[int, str]] = {}
    for name in timm.list_models():
        model = built(name)
        left = swap_report(model).left.values()
        kinds = sorted({text.partition(": ")[0] for text in left})
        size = sum(parameter.numel() for parameter in model.parameters())
        place = (family(name), *kinds)
        smallest[place] = min(smallest.get(place, (size, name)), (size, name))
    return sorted(name for _, name in smallest.values())


def row(name: str) -> dict[str, Any]:
    """The row of a model in the record."""
    import records

    result, modules, reasons = outcome(name)
    ok, detail = None, f"{result}. {reasons}" if reasons else result
    if result == EXCHANGED:
        softmax, sinkhorn = difference(name)
        ok = softmax <= TOLERANCE < EFFECT < sinkhorn
        detail = f"largest difference {softmax:.1e}"
    made = records.row(SUITE, f"{family(name)}: {name}", modules, "modules exchanged", TARGET, ok, detail)
    return made | {"environment": made["environment"] | {"timm": timm.__version__}}


def main() -> int:
    """Write the record; exit code 1 if a model is changed."""
    from espref.benchmarks import records

    rows = sorted(map(row, sys.argv[1:] or representatives()), key=lambda made: made["name"])
    path = records.FOLDER / "models-timm.json"
    if sys.argv[1:]:
        old = {made["name"]: made for made in records.read(path)["rows"]}
        rows = list((old | {made["name"]: made for made in rows}).values())
    records.write(path, {"rows": rows})
    for made in rows:
        print(made["name"], made["ok"], made["detail"])
    return int(any(made["ok"] is False for made in rows))


if __name__ == "__main__":
    sys.exit(main())
