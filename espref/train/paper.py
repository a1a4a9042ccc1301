"""The paper's data, read from the files in which it is distributed.

Each loader looks below a root folder. MNIST, IMDb and TweetEval are asked of Hugging Face ``datasets``, where that is
installed (extra ``hub``), when their folder is not there. What is missing is named with the place where it was looked
for; a corrupt file is named and nothing is loaded. Files are read as numbers and text only, never unpickled.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._output import FileError
from .data import Codec, Data


def _needs(folder: Path, *names: str) -> list[Path]:
    """The files or folders of these names; the first that is missing is named."""
    for name in names:
        if not (folder / name).exists():
            raise FileError(f"{(folder / name).absolute()}: expected a file of the data set, there is none")
    return [folder / name for name in names]


def _listed(folder: Path, *suffixes: str) -> list[Path]:
    """The files of a folder with these suffixes, sorted; there must be one."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    if not found:
        raise FileError(f"{folder}: expected {' or '.join(suffixes)} files, there is none")
    return found


def _lines(path: Path) -> list[str]:
    """Lines end at line feeds only: U+2028 and its like occur within sentences of real data."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: expected text in UTF-8, byte {error.start} is none") from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


# Images


def _idx(path: Path) -> np.ndarray:
    """An array in the idx format of MNIST, gzipped or not."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise FileError(f"{path}: expected a gzipped idx file, {error}") from error
    rank = raw[3] if len(raw) >= 4 else 0
    if raw[:3] != b"\x00\x00\x08" or not 1 <= rank <= 3 or len(raw) < 4 + 4 * rank:
        raise FileError(f"{path}: expected an idx file of bytes")
    shape = tuple(int(size) for size in np.frombuffer(raw, ">u4", rank, 4))
    if len(raw) != 4 + 4 * rank + math.prod(shape):
        raise FileError(f"{path}: expected {math.prod(shape)} entries of shape {shape}, the file is cut or too long")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def mnist(root: Path, patch_size: int = 7) -> Data:
    """MNIST from its four idx files in root/mnist, 28 x 28 pixels; patches of 7 unless the preset says otherwise."""
    folder = root / "mnist"
    parts: list[Any] = []
    if not folder.exists() and (hub := _hub("ylecun/mnist", folder)):
        train, test = (
            [(_picture(row["image"], 28, "L"), int(row["label"])) for row in hub[s]] for s in ("train", "test")
        )
        return Data("image", train, test, tuple("0123456789"), _image_settings(28, patch_size, 1, 10))
    for part in ("train", "t10k"):
        names = [f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"]
        paths = [folder / name if (folder / name).exists() else folder / f"{name}.gz" for name in names]
        images, labels = (_idx(path) for path in _needs(folder, *(path.name for path in paths)))
        if images.shape[1:] != (28, 28) or not len(images):
            raise FileError(f"{paths[0]}: expected images of 28 x 28 pixels, got shape {images.shape}")
        if labels.shape != (len(images),) or labels.max() > 9:
            raise FileError(f"{paths[1]}: expected a digit for each of {len(images)} images")
        parts.append(
            [(torch.tensor(x / 255, dtype=torch.float32)[None], int(y)) for x, y in zip(images, labels, strict=True)]
        )
    return Data("image", parts[0], parts[1], tuple("0123456789"), _image_settings(28, patch_size, 1, 10))


def _image_settings(size: int, patch: int, channels: int, classes: int) -> dict[str, int]:
    return {"image_size": size, "patch_size": patch, "channels": channels, "classes": classes}


def _picture(image: Any, size: int, mode: str) -> Tensor:
    """A Pillow image as (C, size, size) in [0, 1]."""
    pixels = np.asarray(image.convert(mode).resize((size, size)), dtype=np.float32) / 255
    return torch.tensor(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())


class Pictures:
    """Image files, opened when asked for; a file that is no image is named."""

    def __init__(self, files: Sequence[tuple[Path, int]], size: int) -> None:
        self.files, self.size = list(files), size
        self.labels = [label for _, label in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        from PIL import Image

        path, label = self.files[place]
        try:
            with Image.open(path) as image:
                return _picture(image, self.size, "RGB"), label
        except Exception as error:  # Pillow raises SyntaxError, ValueError and others for broken files
            raise FileError(f"{path}: expected an image, {error}") from error


def cats_and_dogs(root: Path, image_size: int = 64, patch_size: int = 8) -> Data:
    """Cats vs Dogs from root/cats-and-dogs/Cat and .../Dog, image files; a fifth of them tests, always the same."""
    folder = root / "cats-and-dogs"
    files: list[tuple[Path, int]] = []
    for label, name in enumerate(("Cat", "Dog")):
        (place,) = _needs(folder, name)
        files += [(path, label) for path in _listed(place, ".jpg", ".jpeg", ".png")]
    order = np.random.default_rng(20).permutation(len(files))
    cut = len(files) // 5
    test, train = ([files[i] for i in sorted(part)] for part in (order[:cut], order[cut:]))
    settings = _image_settings(image_size, patch_size, 3, 2)
    return Data("image", Pictures(train, image_size), Pictures(test, image_size), ("cat", "dog"), settings)


# Point clouds


def _off(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and triangles of a mesh in the OFF format; ModelNet's headers may lack their line break."""
    words = " ".join(_lines(path)).split()
    if not words or not words[0].startswith("OFF"):
        raise FileError(f"{path}: expected a mesh that begins with OFF")
    words = [words[0][3:], *words[1:]] if words[0] != "OFF" else words[1:]
    try:
        n, faces = int(words[0]), int(words[1])
        vertices = np.array(words[3 : 3 + 3 * n], dtype=np.float64).reshape(n, 3)
        triangles = np.array(words[3 + 3 * n :], dtype=np.int64).reshape(faces, 4)
    except (ValueError, IndexError, OverflowError) as error:
        raise FileError(f"{path}: expected as many vertices and triangles as the header says, {error}") from error
    corners = triangles[:, 1:]
    if (
        faces < 1
        or (triangles[:, 0] != 3).any()
        or corners.min() < 0
        or corners.max() >= n
        or not np.isfinite(vertices).all()
    ):
        raise FileError(f"{path}: expected triangles between finite vertices")
    return vertices, corners


def sample_surface(vertices: np.ndarray, triangles: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """``count`` points uniform on a surface, centred, within the unit ball: (count, 3)."""
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
    return points / max(np.linalg.norm(points, axis=1).max(), 1e-300)


class Meshes:
    """Point clouds sampled from mesh files when asked for."""

    def __init__(self, files: Sequence[tuple[Path, int]], points: int) -> None:
        self.files, self.points = list(files), points
        self.labels = [label for _, label in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        path, label = self.files[place]
        return torch.tensor(sample_surface(*_off(path), self.points, seed=place), dtype=torch.float32), label


def modelnet40(root: Path, points: int = 1024) -> Data:
    """ModelNet40 from root/ModelNet40/<class>/train and test/*.off: points uniform on the surfaces."""
    (folder,) = _needs(root, "ModelNet40")
    classes = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir()))
    if not classes:
        raise FileError(f"{folder}: expected a folder for each class, there is none")
    parts: list[Any] = []
    for part in ("train", "test"):
        places = _needs(folder, *(f"{name}/{part}" for name in classes))
        files = [(path, label) for label, place in enumerate(places) for path in _listed(place, ".off")]
        parts.append(Meshes(files, points))
    return Data("points", parts[0], parts[1], classes, {"features": 3, "classes": len(classes)})


# Text


def _texts(train: list[tuple[str, int]], test: list[tuple[str, int]], classes: tuple[str, ...], longest: int) -> Data:
    codec = Codec((text for text, _ in train), words=True, most=20_000)
    parts = [[(codec.encode(text, longest), label) for text, label in part] for part in (train, test)]
    return Data(
        "text", parts[0], parts[1], classes, {"vocabulary": len(codec), "classes": len(classes), "length": longest}
    )


def imdb(root: Path, length: int = 512) -> Data:
    """IMDb reviews from root/aclImdb/{train,test}/{neg,pos}/*.txt, cut after 512 words."""
    names = ("neg", "pos")
    parts: list[Any] = []
    if not (root / "aclImdb").exists() and (hub := _hub("stanfordnlp/imdb", root / "aclImdb")):
        parts = [[(row["text"], int(row["label"])) for row in hub[part]] for part in ("train", "test")]
        return _texts(parts[0], parts[1], names, length)
    for part in ("train", "test"):
        folders = _needs(root / "aclImdb", *(f"{part}/{name}" for name in names))
        parts.append([(_review(path), k) for k, place in enumerate(folders) for path in _listed(place, ".txt")])
    return _texts(parts[0], parts[1], names, length)


def _review(path: Path) -> str:
    text = "\n".join(_lines(path))
    if not text.strip():
        raise FileError(f"{path}: expected a text, the file is empty")
    return text


def tweeteval(root: Path, length: int = 128) -> Data:
    """TweetEval's sentiment task from root/tweeteval/sentiment/{train,test}_{text,labels}.txt, cut after 128 words."""
    folder, names = root / "tweeteval" / "sentiment", ("negative", "neutral", "positive")
    parts: list[Any] = []
    if not folder.exists() and (hub := _hub("cardiffnlp/tweet_eval", folder, "sentiment")):
        parts = [[(row["text"], int(row["label"])) for row in hub[part]] for part in ("train", "test")]
        return _texts(parts[0], parts[1], names, length)
    for part in ("train", "test"):
        texts, labels = (_lines(path) for path in _needs(folder, f"{part}_text.txt", f"{part}_labels.txt"))
        path = folder / f"{part}_labels.txt"
        if len(texts) != len(labels) or not texts:
            raise FileError(f"{path}: expected {len(texts)} labels, a line each, got {len(labels)}")
        wrong = [row for row, label in enumerate(labels, 1) if label.strip() not in ("0", "1", "2")]
        if wrong:
            raise FileError(f"{path}: line {wrong[0]}: expected 0, 1 or 2, got {labels[wrong[0] - 1]!r}")
        parts.append([(text, int(label)) for text, label in zip(texts, labels, strict=True)])
    return _texts(parts[0], parts[1], names, length)


def iwslt14(root: Path, length: int = 64) -> Data:
    """IWSLT'14 German to English from root/iwslt14/{train,test}.{de,en}, a sentence a line, by lower-case words.

    Pairs with an empty side, or a side over ``length`` words, are left out, of the test too.
    """
    folder = root / "iwslt14"
    sides: dict[str, list[tuple[str, str]]] = {}
    for part in ("train", "test"):
        german, english = (_lines(path) for path in _needs(folder, f"{part}.de", f"{part}.en"))
        if len(german) != len(english) or not german:
            raise FileError(f"{folder / part}.en: expected {len(german)} lines as in {part}.de, got {len(english)}")
        sides[part] = list(zip(german, english, strict=True))
    codecs = [Codec((pair[k] for pair in sides["train"]), words=True, most=10_000) for k in (0, 1)]
    parts: list[Any] = []
    for pairs in sides.values():
        items = [tuple(codec.encode(text) for codec, text in zip(codecs, pair, strict=True)) for pair in pairs]
        parts.append([item for item in items if all(0 < len(side) <= length for side in item)])
    settings = {"source_vocabulary": len(codecs[0]), "target_vocabulary": len(codecs[1]), "length": length + 2}
    return Data("translation", parts[0], parts[1], (), settings, codecs[1])


def _hub(name: str, folder: Path, config: str | None = None) -> Any:
    """A data set through Hugging Face ``datasets``, from its cache or the hub; None where that is not installed.

    ``folder`` is where its files are looked for first.
    """
    try:
        import datasets
    except ImportError:
        return None
    try:
        return datasets.load_dataset(name, config)
    except Exception as error:
        raise FileError(
            f"{name}: expected its files in {folder}, or it in the cache of datasets or on the hub, "
            f"{type(error).__name__}"
        ) from error


#: Task by name.
LOADERS: dict[str, Callable[[Path], Data]] = {
    "mnist": mnist,
    "cats-and-dogs": cats_and_dogs,
    "modelnet40": modelnet40,
    "imdb": imdb,
    "tweeteval": tweeteval,
    "iwslt14": iwslt14,
}
