"""The paper's data, read from the files in which it is distributed.

Each loader looks below a root folder. If the folder of MNIST, IMDb or TweetEval is missing, the data comes from Hugging
Face ``datasets``, where that is installed (extra ``hub``). An error names the missing or corrupt file. Files are read
as numbers and text only, never unpickled.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from .._output import FileError
from .data import Codec, Data


def _needs(folder: Path, *names: str) -> list[Path]:
    """The files or folders of these names in a folder; all must exist."""
    paths = [folder / name for name in names]
    for path in paths:
        if not path.exists():
            raise FileError(f"{path.absolute()}: expected a file of the data set, there is none")
    return paths


def _listed(folder: Path, *suffixes: str) -> list[Path]:
    """The files of a folder with these suffixes, sorted; at least one."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    if not paths:
        raise FileError(f"{folder}: expected {' or '.join(suffixes)} files, there is none")
    return paths


def _lines(path: Path) -> list[str]:
    """The lines of a text, split at line feeds only: U+2028 and the like occur within sentences of real data."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: expected text in UTF-8, byte {error.start} is not") from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


# Images


def _idx(path: Path) -> NDArray[np.uint8]:
    """The array in a file of MNIST's idx format, gzipped or not."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise FileError(f"{path}: expected a gzipped idx file, {error}") from error
    rank = raw[3] if len(raw) >= 4 else 0
    if raw[:3] != b"\x00\x00\x08" or not 1 <= rank <= 3 or len(raw) < 4 + 4 * rank:
        raise FileError(f"{path}: expected an idx file of bytes")
    shape = tuple(int(size) for size in np.frombuffer(raw, ">u4", rank, 4))
    if len(raw) != 4 + 4 * rank + math.prod(shape):
        raise FileError(
            f"{path}: expected {math.prod(shape)} entries for shape {shape}, the file is truncated or too long"
        )
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def mnist(root: Path, patch_size: int = 7) -> Data:
    """MNIST from its four idx files in root/mnist, 28 x 28 pixels in patches of 7 x 7 by default."""
    folder = root / "mnist"
    hub = _hub("ylecun/mnist", folder)
    if hub:
        train, test = (
            [(_picture(row["image"], 28, "L"), int(row["label"])) for row in hub[part]] for part in ("train", "test")
        )
    else:
        train, test = (_mnist_part(folder, part) for part in ("train", "t10k"))
    return Data("image", train, test, tuple("0123456789"), _image_settings(28, patch_size, 1, 10))


def _mnist_part(folder: Path, part: str) -> list[tuple[Tensor, int]]:
    names = [f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"]
    paths = _needs(folder, *(name if (folder / name).exists() else f"{name}.gz" for name in names))
    images, labels = map(_idx, paths)
    if images.shape[1:] != (28, 28) or not len(images):
        raise FileError(f"{paths[0]}: expected images of 28 x 28 pixels, got shape {images.shape}")
    if labels.shape != (len(images),) or labels.max() > 9:
        raise FileError(f"{paths[1]}: expected a digit for each of {len(images)} images")
    return [(torch.tensor(x / 255, dtype=torch.float32)[None], int(y)) for x, y in zip(images, labels, strict=True)]


def _image_settings(size: int, patch: int, channels: int, classes: int) -> dict[str, int]:
    return {"image_size": size, "patch_size": patch, "channels": channels, "classes": classes}


def _picture(image: Any, size: int, mode: str) -> Tensor:
    """A Pillow image as (C, size, size) in [0, 1]."""
    pixels = np.asarray(image.convert(mode).resize((size, size)), dtype=np.float32) / 255
    return torch.tensor(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())


class Files(Dataset[tuple[Tensor, int]]):
    """Items read from files when they are accessed, by ``read(path, index)``."""

    def __init__(self, files: list[tuple[Path, int]], read: Callable[[Path, int], Tensor]) -> None:
        self.files, self.read = files, read
        self.labels = [label for _, label in files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        return self.read(path, index), label


def cats_and_dogs(root: Path, image_size: int = 64, patch_size: int = 8) -> Data:
    """Cats vs Dogs from image files in root/cats-and-dogs/Cat and .../Dog; a fixed random fifth of them is the test."""

    def read(path: Path, index: int) -> Tensor:
        from PIL import Image

        try:
            with Image.open(path) as image:
                return _picture(image, image_size, "RGB")
        except Exception as error:  # Pillow raises SyntaxError, ValueError and others for broken files
            raise FileError(f"{path}: expected an image, {error}") from error

    folder = root / "cats-and-dogs"
    files: list[tuple[Path, int]] = []
    for label, name in enumerate(("Cat", "Dog")):
        (subfolder,) = _needs(folder, name)
        files += [(path, label) for path in _listed(subfolder, ".jpg", ".jpeg", ".png")]
    order = np.random.default_rng(20).permutation(len(files))
    n_test = len(files) // 5
    train, test = (Files([files[i] for i in sorted(part)], read) for part in (order[n_test:], order[:n_test]))
    return Data("image", train, test, ("cat", "dog"), _image_settings(image_size, patch_size, 3, 2))


# Point clouds


def _off(path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vertices (n, 3) and triangles (m, 3) of an OFF file; ModelNet's headers may lack their line break."""
    words = " ".join(_lines(path)).split()
    if not words or not words[0].startswith("OFF"):
        raise FileError(f"{path}: expected a mesh that begins with OFF")
    words = [words[0][3:], *words[1:]] if words[0] != "OFF" else words[1:]
    try:
        n, n_faces = int(words[0]), int(words[1])
        vertices = np.array(words[3 : 3 + 3 * n], dtype=np.float64).reshape(n, 3)
        triangles = np.array(words[3 + 3 * n :], dtype=np.int64).reshape(n_faces, 4)
    except (ValueError, IndexError, OverflowError) as error:
        raise FileError(f"{path}: expected as many vertices and triangles as the header says, {error}") from error
    corners = triangles[:, 1:]
    if (
        n_faces < 1
        or (triangles[:, 0] != 3).any()
        or corners.min() < 0
        or corners.max() >= n
        or not np.isfinite(vertices).all()
    ):
        raise FileError(f"{path}: expected triangles between finite vertices")
    return vertices, corners


def sample_surface(
    vertices: NDArray[np.float64], triangles: NDArray[np.int64], count: int, seed: int = 0
) -> NDArray[np.float64]:
    """Points (count, 3) uniform on a surface, centred, and scaled into the unit ball."""
    rng = np.random.default_rng(seed)
    a, b, c = vertices[triangles].transpose(1, 0, 2)
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    if not areas.sum() > 0:
        areas = np.ones(len(areas))
    chosen = rng.choice(len(areas), count, p=areas / areas.sum())
    u, w = rng.random((2, count, 1))
    root = np.sqrt(u)
    points = (1 - root) * a[chosen] + root * (1 - w) * b[chosen] + root * w * c[chosen]
    points -= points.mean(axis=0)
    radius = float(np.linalg.norm(points, axis=1).max())
    scaled: NDArray[np.float64] = points / max(radius, 1e-300)
    return scaled


def modelnet40(root: Path, points: int = 1024) -> Data:
    """ModelNet40 from root/ModelNet40/<class>/{train,test}/*.off, as points uniform on the surfaces."""

    def read(path: Path, index: int) -> Tensor:
        return torch.tensor(sample_surface(*_off(path), points, seed=index), dtype=torch.float32)

    (folder,) = _needs(root, "ModelNet40")
    classes = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir()))
    if not classes:
        raise FileError(f"{folder}: expected a folder for each class, there is none")
    parts = []
    for part in ("train", "test"):
        subfolders = _needs(folder, *(f"{name}/{part}" for name in classes))
        files = [(path, label) for label, subfolder in enumerate(subfolders) for path in _listed(subfolder, ".off")]
        parts.append(Files(files, read))
    return Data("points", parts[0], parts[1], classes, {"features": 3, "classes": len(classes)})


# Text


Texts = list[tuple[str, int]]


def _text_task(parts: Iterable[Texts], classes: tuple[str, ...], length: int) -> Data:
    """Labelled texts for training and test as a task, by words, cut after ``length``."""
    train, test = parts
    codec = Codec((text for text, _ in train), words=True, size=20_000)
    items, test_items = ([(codec.encode(text, length), label) for text, label in part] for part in (train, test))
    settings = {"vocabulary": len(codec), "classes": len(classes), "length": length}
    return Data("text", items, test_items, classes, settings)


def imdb(root: Path, length: int = 512) -> Data:
    """IMDb reviews from root/aclImdb/{train,test}/{neg,pos}/*.txt, cut after 512 words."""
    classes, folder = ("neg", "pos"), root / "aclImdb"

    def read(part: str) -> Texts:
        subfolders = _needs(folder, *(f"{part}/{name}" for name in classes))
        return [(_review(path), k) for k, subfolder in enumerate(subfolders) for path in _listed(subfolder, ".txt")]

    hub = _hub("stanfordnlp/imdb", folder)
    return _text_task((_hub_texts(hub[part]) if hub else read(part) for part in ("train", "test")), classes, length)


def _review(path: Path) -> str:
    text = "\n".join(_lines(path))
    if not text.strip():
        raise FileError(f"{path}: expected a text, the file is empty")
    return text


def tweeteval(root: Path, length: int = 128) -> Data:
    """TweetEval's sentiment task from root/tweeteval/sentiment/{train,test}_{text,labels}.txt, cut after 128 words."""
    folder = root / "tweeteval" / "sentiment"

    def read(part: str) -> Texts:
        paths = _needs(folder, f"{part}_text.txt", f"{part}_labels.txt")
        texts, labels = map(_lines, paths)
        if len(texts) != len(labels) or not texts:
            raise FileError(f"{paths[1]}: expected one label per line for {len(texts)} texts, got {len(labels)}")
        for row, label in enumerate(labels, 1):
            if label.strip() not in ("0", "1", "2"):
                raise FileError(f"{paths[1]}: line {row}: expected 0, 1 or 2, got {label!r}")
        return [(text, int(label)) for text, label in zip(texts, labels, strict=True)]

    hub = _hub("cardiffnlp/tweet_eval", folder, "sentiment")
    parts = (_hub_texts(hub[part]) if hub else read(part) for part in ("train", "test"))
    return _text_task(parts, ("negative", "neutral", "positive"), length)


def iwslt14(root: Path, length: int = 64) -> Data:
    """IWSLT'14 German to English from root/iwslt14/{train,test}.{de,en}, one sentence per line, by lower-case words.

    Pairs with an empty side, or with more than ``length`` words on one side, are left out, also in the test.
    """
    folder = root / "iwslt14"
    pairs: dict[str, list[tuple[str, str]]] = {}
    for part in ("train", "test"):
        german, english = (_lines(path) for path in _needs(folder, f"{part}.de", f"{part}.en"))
        if len(german) != len(english) or not german:
            raise FileError(f"{folder / part}.en: expected {len(german)} lines as in {part}.de, got {len(english)}")
        pairs[part] = list(zip(german, english, strict=True))
    codecs = [Codec((pair[side] for pair in pairs["train"]), words=True, size=10_000) for side in (0, 1)]
    parts = []
    for sentences in pairs.values():
        items = [tuple(codec.encode(text) for codec, text in zip(codecs, pair, strict=True)) for pair in sentences]
        parts.append([item for item in items if all(0 < len(ids) <= length for ids in item)])
    settings = {"source_vocabulary": len(codecs[0]), "target_vocabulary": len(codecs[1]), "length": length + 2}
    return Data("translation", parts[0], parts[1], (), settings, codecs[1])


def _hub(name: str, folder: Path, config: str | None = None) -> Any:
    """A data set through Hugging Face ``datasets``; None if its own ``folder`` exists, or without that package."""
    if folder.exists():
        return None
    try:
        import datasets
    except ImportError:
        return None
    try:
        return datasets.load_dataset(name, config)
    except Exception as error:
        raise FileError(
            f"{name}: expected its files in {folder}, or the data set in the cache of datasets or on the hub, "
            f"{type(error).__name__}"
        ) from error


def _hub_texts(rows: Any) -> Texts:
    return [(row["text"], int(row["label"])) for row in rows]


#: Loader by task.
LOADERS: dict[str, Callable[[Path], Data]] = {
    "mnist": mnist,
    "cats-and-dogs": cats_and_dogs,
    "modelnet40": modelnet40,
    "imdb": imdb,
    "tweeteval": tweeteval,
    "iwslt14": iwslt14,
}
