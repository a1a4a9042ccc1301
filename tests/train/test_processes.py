"""Several processes train the model of one: under torchrun, with gloo on this CPU."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
pytest.importorskip("lightning_fabric", reason="Lightning Fabric is missing: pip install 'espref[train]'")
from torch.torch_version import TorchVersion  # noqa: E402

from espref.app.cli import main  # noqa: E402
from espref.train.processes import OLDEST_FSDP  # noqa: E402

NEEDS_FSDP = pytest.mark.skipif(TorchVersion(torch.__version__) < OLDEST_FSDP, reason="FSDP needs PyTorch 2.9")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
LAUNCHER = [sys.executable, "-m", "torch.distributed.run"]
HERE = ["--master-port=0", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]


def words(out: Path, *options: str, task: str = "digits") -> list[str]:
    """The command line of a small run."""
    return ["train", task, "--dim", "8", "--depth", "1", "--heads", "2", "--out", str(out), *options]


def two(command: list[str]) -> list[str]:
    """The command in two processes."""
    return [*LAUNCHER, "--nproc-per-node=2", *HERE, "-m", "espref", *command]


def trained(command: list[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done


def result(out: Path) -> dict[str, Any]:
    (path,) = out.glob("*/metrics.json")
    return json.loads(path.read_text())


def histories(first: Path, second: Path) -> list[tuple[dict[str, float], dict[str, float]]]:
    return list(zip(result(first)["history"], result(second)["history"], strict=True))


@pytest.mark.parametrize(
    "batch",
    [
        "64",  # 195 items: the last batch of three is shared two to one
        pytest.param("194", marks=pytest.mark.trust),  # the second process has no share of the last batch
    ],
)
def test_two_processes_are_one(batch: str, tmp_path: Path) -> None:
    """DDP, equal global batch: the same losses to rounding."""
    options = ("--epochs", "2", "--fraction", "0.135", "--batch", batch)
    assert main(words(tmp_path / "one", *options)) == 0
    trained(two(words(tmp_path / "two", *options)))
    assert (result(tmp_path / "one")["processes"], result(tmp_path / "two")["processes"]) == (1, 2)
    for first, second in histories(tmp_path / "one", tmp_path / "two"):
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-4)
    assert len(list((tmp_path / "two").glob("*.png"))) == 2


@NEEDS_FSDP
@pytest.mark.trust
@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("digits", "--slicers learned --anneal 0.5"),
        ("names", "--attention esp-balanced"),
        ("digit-points", ""),
    ],
)
def test_a_sharded_model_is_the_model(task: str, options: str, tmp_path: Path) -> None:
    """FSDP: the losses, metrics, weights and moments of one process to rounding, in whole tensors."""
    options = f"--epochs 2 --fraction 0.1 {options}"
    assert main(words(tmp_path / "one", *options.split(), task=task)) == 0
    trained(two(words(tmp_path / "two", *options.split(), "--strategy", "fsdp", task=task)))
    one, other = result(tmp_path / "one"), result(tmp_path / "two")
    assert other["sharded"] and not one["sharded"] and other["parameters"] == one["parameters"]
    for first, second in histories(tmp_path / "one", tmp_path / "two"):
        assert second == pytest.approx(first, rel=1e-4)
    paths = [next((tmp_path / name).glob("*/checkpoint.pt")) for name in ("one", "two")]
    one, other = (torch.load(path, weights_only=True) for path in paths)
    torch.testing.assert_close(other["model"], one["model"], rtol=0, atol=1e-3)
    torch.testing.assert_close(other["optimizer"]["state"], one["optimizer"]["state"], rtol=0, atol=1e-3)
    assert other["scheduler"] == one["scheduler"]


SHARDED = """
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from espref.nn.transformer import TranslationTransformer
from espref.train.processes import shard

distributed.init_process_group("gloo")
torch.manual_seed(0)
model = TranslationTransformer(source_vocabulary=9, target_vocabulary=9, length=7, dim=8, depth=2, heads=2)
whole = sum(p.numel() for p in model.parameters())
tokens = torch.arange(10).reshape(2, 5) % 9
before = model.translate(tokens, begin=1, end=2, limit=4)
shard(model, {"data_parallel": init_device_mesh("cpu", (2,))})
assert all(isinstance(block, FSDPModule) for block in [*model.encoder.blocks, *model.blocks])
here = torch.tensor([sum(p.to_local().numel() for p in model.parameters())])
assert 0.4 * whole < here < 0.6 * whole, (here, whole)
distributed.all_reduce(here)
assert here == whole
assert torch.equal(model.translate(tokens, begin=1, end=2, limit=4), before)
if distributed.get_rank() == 1:
    assert "tau=elsewhere" in repr(model)
else:
    assert "tau=0.1" in repr(model)
distributed.destroy_process_group()
"""


@NEEDS_FSDP
@pytest.mark.trust
def test_every_process_holds_its_part(tmp_path: Path) -> None:
    """Half of the parameters of every block; the same translations; a model can be printed by one process."""
    (tmp_path / "sharded.py").write_text(SHARDED)
    trained([*LAUNCHER, "--nproc-per-node=2", *HERE, str(tmp_path / "sharded.py")])


@pytest.mark.trust
def test_two_machines_are_two_processes(tmp_path: Path) -> None:
    """torchrun with two nodes of one process each, both on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "espref", *words(tmp_path, "--epochs", "1", "--fraction", "0.1")]
    place = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}"]
    nodes = [
        subprocess.Popen(
            [*LAUNCHER, *place, f"--node-rank={rank}", *command],
            env=ENVIRONMENT,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        for rank in range(2)
    ]
    errors = [node.communicate(timeout=100)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], errors
    assert result(tmp_path)["processes"] == 2


@pytest.mark.trust
@pytest.mark.parametrize(
    ("strategy", "processes"), [("ddp", 1), *(pytest.param("fsdp", n, marks=NEEDS_FSDP) for n in (1, 2))]
)
def test_a_killed_worker_leaves_a_usable_checkpoint(strategy: str, processes: int, tmp_path: Path) -> None:
    """The others end with an error, and the run can be resumed to its end, by one process too."""
    options = ("--epochs", "20", "--fraction", "0.3")
    command = two(words(tmp_path, *options, "--strategy", strategy))
    parent = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/checkpoint.pt")) and time.monotonic() < deadline:
        time.sleep(0.2)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, errors = parent.communicate(timeout=120)
    assert parent.returncode != 0 and ("SIGKILL" in errors or "Signal 9" in errors)
    saved = len(torch.load(next(tmp_path.glob("*/checkpoint.pt")), weights_only=True)["history"])
    assert 1 <= saved < 20
    if processes == 1:
        assert main(words(tmp_path, *options)) == 0
    else:
        trained(command)
    assert len(result(tmp_path)["history"]) == 20
