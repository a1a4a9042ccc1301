"""Real data that comes with packages, without a download: scikit-learn's digits, and names from the CLDR in Babel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from .data import Codec, Data

#: Languages in Latin script, recognised by their names in the CLDR.
LANGUAGES = tuple(
    "cs da de en es et eu fi fr ga hr hu id is it lt lv ms nl pl pt ro sk sl sq sv sw tr vi".split()  # noqa: SIM905
)
TEST_SHARE = 0.2


def _split(size: int) -> tuple[list[int], list[int]]:
    """Indices of the training and of the test items, the same in every run."""
    order = np.random.default_rng(20).permutation(size).tolist()
    n_test = round(TEST_SHARE * size)
    return sorted(order[n_test:]), sorted(order[:n_test])


def _digits(task: str, encode: Callable[[NDArray[np.float64]], NDArray[np.float64]], settings: dict[str, int]) -> Data:
    """The digits as a task: each image (8, 8), with values in [0, 1], becomes the input ``encode(image)``."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs = [torch.tensor(encode(image / 16.0), dtype=torch.float32) for image in bunch.images]
    items = list(zip(inputs, bunch.target.tolist(), strict=True))
    train, test = ([items[i] for i in part] for part in _split(len(items)))
    return Data(task, train, test, tuple("0123456789"), {**settings, "classes": 10})


def digits() -> Data:
    """1797 handwritten digits of scikit-learn, 8 x 8 pixels in patches of 2 x 2, ten classes."""
    return _digits("image", lambda image: image[None], {"image_size": 8, "patch_size": 2, "channels": 1})


def digit_points() -> Data:
    """The same digits as sets of points of varying size: (column, row, ink) of each inked pixel, in [-1, 1]."""

    def points(image: NDArray[np.float64]) -> NDArray[np.float64]:
        rows, columns = np.nonzero(image)
        return np.column_stack([columns / 3.5 - 1, 1 - rows / 3.5, 2 * image[rows, columns] - 1])

    return _digits("points", points, {"features": 3})


def _names(language: str) -> dict[str, str]:
    """Names of territories, languages and currencies in a language, by kind and code."""
    from babel import Locale

    locale = Locale.parse(language)
    kinds = {"territory": locale.territories, "language": locale.languages, "currency": locale.currencies}
    return {f"{kind} {code}": name for kind, names in kinds.items() for code, name in names.items()}


def languages(per_language: int = 100) -> Data:
    """Names of territories, languages and currencies in one of 29 languages in Latin script: which language is it?

    Each language has up to ``per_language`` training names, and a quarter as many for the test. Names that two
    languages share have no right answer and are left out. No territory, language or currency is named in both parts,
    so that a model must recognise the language and cannot remember the name.
    """
    tables = {language: _names(language) for language in LANGUAGES}
    n_languages = Counter(name for table in tables.values() for name in set(table.values()))
    codes = sorted(set().union(*tables.values()))
    codes = [codes[i] for i in np.random.default_rng(21).permutation(len(codes))]
    n_test = round(TEST_SHARE * len(codes))
    parts: list[list[tuple[str, int]]] = []
    for part, size in ((codes[n_test:], per_language), (codes[:n_test], per_language // 4)):
        names = [[t[code] for code in part if code in t and n_languages[t[code]] == 1] for t in tables.values()]
        parts.append([(name, label) for label, own in enumerate(names) for name in own[:size]])
    codec = Codec(name for name, _ in parts[0])
    length = max(len(name) for part in parts for name, _ in part)
    train, test = ([(codec.encode(name), label) for name, label in part] for part in parts)
    settings = {"vocabulary": len(codec), "classes": len(LANGUAGES), "length": length}
    return Data("text", train, test, LANGUAGES, settings)


def names(length: int = 24) -> Data:
    """English names of territories, languages and currencies into German, up to 24 characters by default."""
    english, german = _names("en"), _names("de")
    named = {(english[code], german[code]) for code in english if code in german}
    pairs = sorted(pair for pair in named if max(map(len, pair)) <= length)
    parts = [[pairs[i] for i in part] for part in _split(len(pairs))]
    source, target = (Codec(pair[side] for pair in parts[0]) for side in (0, 1))
    train, test = ([(source.encode(a), target.encode(b)) for a, b in part] for part in parts)
    settings = {"source_vocabulary": len(source), "target_vocabulary": len(target), "length": length + 2}
    return Data("translation", train, test, (), settings, target)


#: Loader by task.
EMBEDDED: dict[str, Callable[[], Data]] = {
    "digits": digits,
    "digit-points": digit_points,
    "languages": languages,
    "names": names,
}
