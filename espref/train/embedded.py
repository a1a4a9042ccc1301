"""Real data that comes with packages, no download: scikit-learn's digits, and names of the world from CLDR."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .data import Codec, Data

#: Languages in Latin script whose CLDR names are told apart.
LANGUAGES = tuple(
    "cs da de en es et eu fi fr ga hr hu id is it lt lv ms nl pl pt ro sk sl sq sv sw tr vi".split()  # noqa: SIM905
)
TEST_SHARE = 0.2


def _split(size: int) -> tuple[list[int], list[int]]:
    """Which items train and which test: always the same ones."""
    order = np.random.default_rng(20).permutation(size).tolist()
    test = round(TEST_SHARE * size)
    return sorted(order[test:]), sorted(order[:test])


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images / 16.0, bunch.target


def _parted(task: str, items: list, classes: tuple[str, ...], settings: dict[str, int]) -> Data:
    train, test = _split(len(items))
    return Data(task, [items[i] for i in train], [items[i] for i in test], classes, settings)


def digits() -> Data:
    """1797 handwritten digits, 8 x 8 pixels, of scikit-learn: ten classes, in patches of 2 x 2."""
    images, labels = _digits()
    items = [
        (torch.tensor(image, dtype=torch.float32)[None], int(label))
        for image, label in zip(images, labels, strict=True)
    ]
    names = tuple(str(k) for k in range(10))
    return _parted("image", items, names, {"image_size": 8, "patch_size": 2, "channels": 1, "classes": 10})


def digit_points() -> Data:
    """The same digits as sets: each inked pixel a point (column, row, ink), all in [-1, 1]; sizes vary."""
    images, labels = _digits()
    items = []
    for image, label in zip(images, labels, strict=True):
        rows, columns = np.nonzero(image)
        points = np.column_stack([columns / 3.5 - 1, 1 - rows / 3.5, 2 * image[rows, columns] - 1])
        items.append((torch.tensor(points, dtype=torch.float32), int(label)))
    return _parted("points", items, tuple(str(k) for k in range(10)), {"features": 3, "classes": 10})


def _names(language: str) -> dict[str, str]:
    """Names of territories, languages and currencies in a language, by their codes."""
    from babel import Locale

    locale = Locale.parse(language)
    kinds = {"territory": locale.territories, "language": locale.languages, "currency": locale.currencies}
    return {f"{kind} {code}": name for kind, names in kinds.items() for code, name in names.items()}


def languages(per_language: int = 100) -> Data:
    """Names in 29 languages in Latin script, up to ``per_language`` each: which language is it?

    A name that two languages share has no right answer and is left out. Test names are of other things than training
    names: a language is recognised, not a name remembered.
    """
    tables = {language: _names(language) for language in LANGUAGES}
    seen: dict[str, set[str]] = {}
    for language, table in tables.items():
        for name in table.values():
            seen.setdefault(name, set()).add(language)
    codes = sorted(set().union(*tables.values()))
    rng = np.random.default_rng(21)
    codes = [codes[i] for i in rng.permutation(len(codes))]
    tested = set(codes[: round(TEST_SHARE * len(codes))])
    parts: dict[bool, list[tuple[str, int]]] = {False: [], True: []}
    for label, table in enumerate(tables.values()):
        for test, most in ((False, per_language), (True, per_language // 4)):
            own = [table[c] for c in codes if c in table and (c in tested) == test and len(seen[table[c]]) == 1]
            parts[test] += [(name, label) for name in own[:most]]
    codec = Codec([name for name, _ in parts[False]])
    length = max(len(name) for part in parts.values() for name, _ in part)
    train, test_ = ([(codec.encode(name), label) for name, label in parts[test]] for test in (False, True))
    settings = {"vocabulary": len(codec), "classes": len(LANGUAGES), "length": length}
    return Data("text", train, test_, LANGUAGES, settings)


def names(longest: int = 24) -> Data:
    """English names of territories, languages and currencies, up to ``longest`` characters, into German."""
    english, german = _names("en"), _names("de")
    shared = sorted(code for code in english if code in german)
    pairs = [(english[c], german[c]) for c in shared if max(len(english[c]), len(german[c])) <= longest]
    pairs = sorted(set(pairs))
    train, test = _split(len(pairs))
    source, target = Codec([pairs[i][0] for i in train]), Codec([pairs[i][1] for i in train])

    def encoded(part: list[int]) -> list[tuple[Tensor, Tensor]]:
        return [(source.encode(pairs[i][0]), target.encode(pairs[i][1])) for i in part]

    settings = {"source_vocabulary": len(source), "target_vocabulary": len(target), "length": longest + 2}
    return Data("translation", encoded(train), encoded(test), (), settings, target)


#: Task by name.
EMBEDDED: dict[str, Callable[[], Data]] = {
    "digits": digits,
    "digit-points": digit_points,
    "languages": languages,
    "names": names,
}
