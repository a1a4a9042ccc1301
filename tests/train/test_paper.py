"""The paper's data from tiny files of the same formats: read correctly, refused in one line if missing or corrupt."""

from __future__ import annotations

import gzip
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
pytest.importorskip("lightning_fabric", reason="Lightning Fabric is missing: pip install 'espref[train]'")
from espref._output import FileError  # noqa: E402
from espref.train.data import UNKNOWN, collate  # noqa: E402
from espref.train.paper import LOADERS, sample_surface  # noqa: E402
from espref.train.presets import PRESETS  # noqa: E402

RNG = np.random.default_rng(0)


def idx(array: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    )


def write_mnist(root: Path, zipped: bool = True) -> dict[str, np.ndarray]:
    (root / "mnist").mkdir(parents=True)
    arrays = {}
    for part, n in (("train", 5), ("t10k", 3)):
        arrays[part] = RNG.integers(0, 256, size=(n, 28, 28))
        for name, array in ((f"{part}-images-idx3-ubyte", arrays[part]), (f"{part}-labels-idx1-ubyte", np.arange(n))):
            path = root / "mnist" / (name + ".gz" * zipped)
            path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    return arrays


def write_pictures(root: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is missing: pip install pillow")
    for name in ("Cat", "Dog"):
        (root / "cats-and-dogs" / name).mkdir(parents=True)
        for k in range(5):
            pixels = RNG.integers(0, 256, size=(20 + k, 30, 3), dtype=np.uint8)
            image.fromarray(pixels).save(root / "cats-and-dogs" / name / f"{k}.png")


CUBE = "OFF4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n"


def write_meshes(root: Path) -> None:
    for name in ("chair", "table"):
        for part in ("train", "test"):
            folder = root / "ModelNet40" / name / part
            folder.mkdir(parents=True)
            (folder / f"{name}_1.off").write_text(CUBE if part == "test" else CUBE.replace("OFF4", "OFF\n4"))


def write_imdb(root: Path) -> None:
    for part in ("train", "test"):
        for name in ("neg", "pos"):
            (root / "aclImdb" / part / name).mkdir(parents=True)
            for k in range(2):
                (root / "aclImdb" / part / name / f"{k}.txt").write_text(
                    f"A {name}ative film, number {k}. Très bien!", encoding="utf-8"
                )


def write_tweets(root: Path) -> None:
    folder = root / "tweeteval" / "sentiment"
    folder.mkdir(parents=True)
    for part in ("train", "test"):
        (folder / f"{part}_text.txt").write_text("bad day\nsome day\ngreat day \N{GRINNING FACE}\n", encoding="utf-8")
        (folder / f"{part}_labels.txt").write_text("0\n1\n2\n")


def write_iwslt(root: Path) -> None:
    (root / "iwslt14").mkdir(parents=True)
    for part in ("train", "test"):
        (root / "iwslt14" / f"{part}.de").write_text("ein Haus .\n\nzwei Häuser .\n", encoding="utf-8")
        (root / "iwslt14" / f"{part}.en").write_text("a house .\nnothing\ntwo houses .\n", encoding="utf-8")


WRITE = {
    "mnist": write_mnist,
    "cats-and-dogs": write_pictures,
    "modelnet40": write_meshes,
    "imdb": write_imdb,
    "tweeteval": write_tweets,
    "iwslt14": write_iwslt,
}


@pytest.mark.parametrize("name", LOADERS)
def test_small_files_are_read(name: str, tmp_path: Path) -> None:
    """Items of the right shapes, labels in range, batches that collate."""
    WRITE[name](tmp_path)
    data = LOADERS[name](tmp_path)
    assert len(data.train) >= 2 and len(data.test) >= 2
    items = [data.train[i] for i in range(len(data.train))]
    batch = collate(data.task, items)
    assert len(batch.labels) == len(items)
    if data.task != "translation":
        assert set(batch.labels.tolist()) <= set(range(len(data.classes)))


def test_mnist_pixels(tmp_path: Path) -> None:
    """Bytes over 255, gzipped or not."""
    for zipped in (True, False):
        arrays = write_mnist(tmp_path / str(zipped), zipped)
        data = LOADERS["mnist"](tmp_path / str(zipped))
        np.testing.assert_allclose(data.train[2][0][0], arrays["train"][2] / 255, atol=1e-7)
        assert [label for _, label in data.test] == [0, 1, 2]


def test_surfaces_are_sampled_uniformly() -> None:
    """Points lie on the triangles, in proportion to their areas, centred and within the unit ball; seeded."""
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 3]])
    triangles = np.array([[0, 1, 2], [0, 1, 3]])  # areas 1/2 and 3/2
    points = sample_surface(vertices, triangles, 4000, seed=1)
    assert np.array_equal(points, sample_surface(vertices, triangles, 4000, seed=1))
    assert np.isclose(np.linalg.norm(points, axis=1).max(), 1) and np.allclose(points.mean(axis=0), 0, atol=1e-12)
    flat = np.isclose(points[:, 2], points[:, 2].min(), atol=1e-9).mean()
    assert abs(flat - 0.25) < 0.03


def test_translation_leaves_out_empty_lines(tmp_path: Path) -> None:
    """Pairs stay paired; the target decodes to words."""
    write_iwslt(tmp_path)
    data = LOADERS["iwslt14"](tmp_path)
    assert len(data.train) == 2 and data.codec is not None
    assert [data.codec.decode(target.tolist()) for _, target in data.train] == ["a house .", "two houses ."]
    assert UNKNOWN not in data.train[0][0].tolist()


@pytest.mark.parametrize("name", LOADERS)
def test_what_is_missing_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message, one line, names the path."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(FileError, match="expected a file of the data set, there is none") as caught:
        LOADERS[name](tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


SPOILT = {
    "mnist": ("mnist/train-images-idx3-ubyte.gz", b"\x1f\x8b broken"),
    "mnist, cut": ("mnist/t10k-images-idx3-ubyte.gz", gzip.compress(idx(np.zeros((3, 28, 28)))[:-5])),
    "mnist, labels": ("mnist/train-labels-idx1-ubyte.gz", gzip.compress(idx(np.full(5, 11)))),
    "mnist, size": ("mnist/t10k-images-idx3-ubyte.gz", gzip.compress(idx(np.zeros((3, 20, 20))))),
    "mnist, none": ("mnist/train-images-idx3-ubyte.gz", gzip.compress(idx(np.zeros((0, 28, 28))))),
    "mnist, huge": ("mnist/train-labels-idx1-ubyte.gz", gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12)),
    "mnist, empty": ("mnist/train-labels-idx1-ubyte.gz", gzip.compress(b"")),
    "cats-and-dogs": ("cats-and-dogs/Cat/0.png", b"no image"),
    "cats-and-dogs, cut": ("cats-and-dogs/Dog/1.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0"),
    "modelnet40, fewer": ("ModelNet40/chair/train/chair_1.off", CUBE.replace("OFF4 4", "OFF4 2").encode()),
    "modelnet40, number": (
        "ModelNet40/chair/train/chair_1.off",
        CUBE.replace("3 0 1 2", f"3 0 1 {10**30}").encode(),
    ),
    "modelnet40": ("ModelNet40/chair/train/chair_1.off", b"OFF\n4 4 0\n0 0 0\n"),
    "modelnet40, corner": ("ModelNet40/chair/train/chair_1.off", CUBE.replace("3 0 1 2", "3 0 1 9").encode()),
    "modelnet40, header": ("ModelNet40/chair/train/chair_1.off", b"PLY"),
    "imdb, empty": ("aclImdb/test/pos/1.txt", b" \n"),
    "imdb": ("aclImdb/train/neg/0.txt", b"\xff\xfe bad"),
    "tweeteval": ("tweeteval/sentiment/train_labels.txt", b"0\n7\n2\n"),
    "tweeteval, short": ("tweeteval/sentiment/train_labels.txt", b"0\n1\n"),
    "iwslt14": ("iwslt14/train.en", b"one line\n"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_is_corrupt_is_named(case: str, tmp_path: Path) -> None:
    """The message, one line, names the file."""
    name, (path, content) = case.split(",")[0], SPOILT[case]
    WRITE[name](tmp_path)
    (tmp_path / path).write_bytes(content)

    def everything():
        data = LOADERS[name](tmp_path)
        return [part[i] for part in (data.train, data.test) for i in range(len(part))]

    with pytest.raises(FileError, match="expected") as caught:
        everything()
    assert Path(path).name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("cats-and-dogs", "Dog"), ("modelnet40", "chair/test"), ("imdb", "train/pos")],
)
def test_an_empty_folder_is_named(name: str, folder: str, tmp_path: Path) -> None:
    """One class without files is an error, not a data set of the other classes."""
    WRITE[name](tmp_path)
    (place,) = tmp_path.glob(f"*/{folder}")
    for path in place.iterdir():
        path.unlink()
    with pytest.raises(FileError, match="there is none") as caught:
        LOADERS[name](tmp_path)
    assert str(place) in str(caught.value)


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    """U+2028, U+0085 and a carriage return within a tweet are no new line, and CR LF is one."""
    write_tweets(tmp_path)
    path = tmp_path / "tweeteval" / "sentiment" / "train_text.txt"
    path.write_bytes("bad\u2028day\r\nso\x85me\rday\r\ngreat\x0cday".encode())
    data = LOADERS["tweeteval"](tmp_path)
    assert [(len(text), label) for text, label in data.train] == [(2, 0), (3, 1), (2, 2)]


def test_an_unknown_word_is_no_right_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guessing UNKNOWN scores nothing where the reference has a word that the vocabulary lacks."""
    from espref.train import model

    write_iwslt(tmp_path)
    (tmp_path / "iwslt14" / "test.en").write_text("zebra zebra zebra zebra\nx\nokapi okapi okapi okapi\n")
    data = LOADERS["iwslt14"](tmp_path)
    batch = collate(data.task, data.test)
    answers = types.SimpleNamespace(translate=lambda *_, **__: batch.labels)  # the truth, as far as ids go
    metrics = model._translation_metrics(answers, data, [batch])
    assert (batch.labels == UNKNOWN).all() and metrics["BLEU"] == metrics["exact"] == 0
    known = LOADERS["iwslt14"](tmp_path)._replace(test=data.train)
    batch = collate(known.task, known.test)
    assert model._translation_metrics(answers, known, [batch])["exact"] == 100


def test_the_hub_is_asked_when_there_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a stand-in for ``datasets.load_dataset``; what it raises becomes one line."""
    rows = [{"text": "fine day", "label": 1}, {"text": "bad", "label": 0}]
    asked = []

    def load_dataset(name, config=None):
        asked.append((name, config))
        if "imdb" in name:
            raise ConnectionError("offline\nreally")
        return {"train": rows, "test": rows}

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    data = LOADERS["tweeteval"](tmp_path)
    assert len(data.train) == 2 and data.train[0][1] == 1 and asked == [("cardiffnlp/tweet_eval", "sentiment")]
    with pytest.raises(
        FileError, match=r"stanfordnlp/imdb: expected its files in .*aclImdb, or the data set in the cache"
    ) as caught:
        LOADERS["imdb"](tmp_path)
    assert "\n" not in str(caught.value)


def test_presets_name_their_tasks(tmp_path: Path) -> None:
    """Every preset loads its data and has valid settings; the patches of MNIST have the size in the name."""
    from espref.train.config import Config

    for name, preset in PRESETS.items():
        assert preset.task in LOADERS and preset.source and Config(preset.task, **preset.settings)
        root = tmp_path / name
        WRITE[preset.task](root)
        data = preset.load(root)
        if name.startswith("mnist"):
            assert data.settings["patch_size"] == int(name.rsplit("-", 1)[1])
