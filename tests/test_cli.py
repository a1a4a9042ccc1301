"""The command line: what it prints, writes and returns, and what it says to bad input."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

import espref
from espref import benchmarks, expected_sliced_plan, sample_directions, standardise, transport_cost
from espref.app import cli, plan
from espref.claims import LEDGER, circle, measurements, real_problems
from espref.claims import expected as expected_claims

pytest.importorskip("rich")


@pytest.fixture
def clouds(tmp_path, monkeypatch):
    """Two planar clouds in files of the working directory, with a header in one of them."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 2)), rng.normal(size=(9, 2)) + [3, 0]
    np.savetxt("x.csv", x, delimiter=",", header="east,north", comments="", fmt="%.17g")
    np.save("y.npy", y)
    np.savetxt("w.csv", np.arange(12))
    return x, y


def run(capsys, *words):
    """Exit code, standard output, standard error."""
    try:
        code = cli.main(list(words))
    except SystemExit as leave:
        code = leave.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_verify_prints_every_claim_once(capsys):
    """One row per claim with its residual, and the summary below; exit status 0 when none fails."""
    code, out, _ = run(capsys, "verify", "--only", "line.*", "--seeds", "1")
    names = [identifier.split(".")[1] for identifier in LEDGER if identifier.startswith("line.")]
    assert code == 0
    assert all(out.count(f"  {name} ") == 1 for name in names)
    assert f"{len(names)} claims: {len(names)} hold, 0 are refuted as stated, 0 failed" in out
    assert "8 synthetic, 3 real problems" in out


def test_only_takes_parts_and_patterns(capsys):
    """--only selects by a part of the identifier or by a pattern; --list measures nothing."""
    for pattern in ("birkhoff", "expected.birk*", "*birkhoff"):
        code, out, _ = run(capsys, "verify", "--list", "--only", pattern)
        assert (code, out.split()) == (0, ["expected.birkhoff", "theorem"])
    code, out, _ = run(capsys, "verify", "--list")
    assert code == 0 and [row.split()[0] for row in out.splitlines()] == list(LEDGER)


def test_broken_library_is_found(capsys, monkeypatch):
    """When the code is wrong a claim fails, is named below the tables, and the exit status is 1."""
    monkeypatch.setattr(expected_claims.expected, "gibbs_weights", lambda costs, beta, prior=None: np.ones(len(costs)))
    code, out, _ = run(capsys, "verify", "--only", "expected.gibbs*", "--seeds", "1")
    assert code == 1 and "failed: expected.gibbs-weights-are-optimal" in out and "1 failed" in out


def test_claim_that_raises_fails(capsys, monkeypatch):
    """An exception inside a check counts as failure, and the other claims are still run."""
    monkeypatch.delattr(circle.circle, "circle_plan")
    code, out, _ = run(capsys, "verify", "--only", "*marginals", "--seeds", "1")
    assert code == 1 and "AttributeError" in out and "4 claims: 3 hold" in out


def test_json_holds_what_was_measured(capsys, tmp_path):
    """Residuals, tolerances, companions, problems, versions; valid JSON without NaN."""
    path = tmp_path / "v.json"
    assert run(capsys, "verify", "--only", "line.", "--seeds", "1", "--json", str(path))[0] == 0
    found = json.loads(path.read_text(), parse_constant=pytest.fail)
    entry = {entry["id"]: entry for entry in found["claims"]}["line.few-entries"]
    assert entry["verdict"] == "holds" and entry["residual"] <= entry["tolerance"] and entry["runs"] == 11
    assert entry["statement"].startswith("Without ties") and entry["measured"].startswith("number of entries")
    assert entry["companions"] == [{"dropped": "distinct values", "residual": 2.0, "at_least": 1}]
    assert found["environment"]["espref"] == espref.__version__ and len(found["problems"]) == 11
    assert os.listdir(tmp_path) == ["v.json"]


def test_missing_extras_are_told(capsys, monkeypatch):
    """Claims that need a missing module are skipped with the pip line, real data too; that is no failure."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(measurements, "find_spec", lambda name: None)
    code, out, _ = run(capsys, "verify", "--only", "sorted-is-optimal", "--seeds", "1")
    assert code == 0 and "skipped" in out and "real data skipped: pip install 'espref[verify]'" in out
    assert "1 skipped" in out and "8 synthetic problems" in out


def test_own_clouds(capsys, clouds):
    """Claims about pairs of clouds run on the user's files, weights included; those about fixed examples do not."""
    words = ("--source", "x.csv", "--target", "y.npy", "--source-weights", "w.csv")
    code, out, err = run(capsys, "verify", *words, "--html", "own.html")
    assert (code, err) == (0, "") and "1 user problem" in out
    assert "sorted-is-optimal" in out and "three-against-three" not in out and "birkhoff" not in out
    page = Path("own.html").read_text(encoding="utf-8")
    assert "your clouds: n = 12, m = 9, d = 2" in page


@pytest.mark.parametrize("source", ["y.npy", "one.npy"])
def test_own_clouds_without_a_scale(capsys, clouds, source):
    """A cloud beside itself, and one point repeated: every claim holds or is not measurable, and none fails."""
    np.save("one.npy", np.ones((3, 2)))
    code, out, _ = run(capsys, "verify", "--source", source, "--target", "y.npy")
    assert code == 0 and "0 failed" in out


@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_own_units_do_not_matter(capsys, clouds, shift):
    """Clouds far from the origin, or in tiny units, are moved and scaled first: no claim fails by rounding."""
    x, y = clouds
    np.save("x.npy", 1e-30 * (x + shift))
    np.save("z.npy", 1e-30 * (y + shift))
    assert run(capsys, "verify", "--source", "x.npy", "--target", "z.npy", "--only", "[le]*")[0] == 0


def _awkward(name, rng):
    """Clouds whose costs are far smaller than their extent, or far larger than their spread."""
    x, line = rng.normal(size=(60, 3)), rng.normal(size=(60, 1))
    centres = 10 * rng.normal(size=(2, 5, 2))
    return {
        "nearly the same": (x, x + 1e-6 * rng.normal(size=x.shape)),
        "nearly the same, on the line": (line, line + 1e-3 * rng.normal(size=line.shape)),
        "far apart": (x, x[:50] ** 2 + 1e3),
        "clusters": tuple(np.repeat(c, 13, axis=0) + 0.01 * rng.normal(size=(65, 2)) for c in centres),
        "on one line": tuple(np.outer(rng.normal(size=40), [1.0, 2.0]) for _ in range(2)),
    }[name]


@pytest.mark.parametrize(
    "name",
    ["nearly the same", "nearly the same, on the line", "far apart", "clusters", "on one line"],
)
@pytest.mark.trust  # make test runs four of the clouds of test_own_clouds.py
def test_own_clouds_of_awkward_shapes(capsys, tmp_path, monkeypatch, name):
    """No claim fails by the rounding errors of its own check, or of an oracle."""
    monkeypatch.chdir(tmp_path)
    for path, points in zip(("x.npy", "y.npy"), _awkward(name, np.random.default_rng(0)), strict=True):
        np.save(path, points)
    code, out, _ = run(capsys, "verify", "--source", "x.npy", "--target", "y.npy")
    assert code == 0, [row for row in out.splitlines() if "failed" in row]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("verify", "--only", "no-such-claim"), "--only: expected part of an identifier"),
        (("verify", "--seeds", "0"), "--seeds: expected a whole number >= 1, got 0"),
        (("verify", "--source", "x.csv"), "--source, --target: expected both files, or neither"),
        (("verify", "--source-weights", "w.csv"), "--source, --target: expected both files, or neither"),
        (("verify", "--source", "no.csv", "--target", "y.npy"), "no.csv: No such file or directory"),
        (("verify", "--source", "x.csv", "--target", "w.csv"), "w.csv: expected 2 columns like x.csv, got 1"),
        (("verify", "--source", "x.csv", "--target", "y.npy", "--only", "Lebedev"), "--only: expected part of"),
        (("verify", "--source", "x.csv", "--target", "y.npy", "--only", "haar"), "--only: no claim that matches"),
        (("verify", "--json", "no/v.json"), "no/v.json: the folder "),
        (("plan", "x.csv", "y.npy", "-o", "."), ".: expected a file to write, this is a folder"),
        (("plan", "x.csv", "nan.npy", "-o", "p.npz"), "nan.npy: row 2: expected finite numbers, got nan"),
        (("plan", "x.csv", "y.npy", "-o", "p.npz", "--beta", "-1"), "beta: expected a number >= 0"),
        (("plan", "x.csv", "y.npy", "-o", "p.npz", "--p", "0.5"), "p: expected a number >= 1"),
        (("plan", "x.csv", "y.npy", "-o", "p.npz", "--slices", "0"), "--slices: expected a whole number >= 1"),
        (("plan", "x.csv", "y.npy", "-o", "p.npz", "--method", "lebedev"), "dim: expected 3 for Lebedev"),
        (("plan", "x.csv", "y.npy", "-o", "p.npz", "--target-weights", "w.csv"), "w.csv: expected 9 weights"),
        (("bench", "no-such-suite"), "suite: expected one of all, plans, planfree, attention"),
        (("cite", "nobody1900nothing"), "keys: expected keys among espref, espref-misc, liu2025est"),
    ],
)
def test_bad_input_is_one_line(capsys, clouds, words, message):
    """Exit code 2, one line that names the file or option, no traceback, and nothing is written."""
    np.save("nan.npy", np.array([[0.0, 1.0], [np.nan, 1.0]]))
    before = sorted(os.listdir())
    code, _, err = run(capsys, *words)
    assert code == 2 and err.startswith(f"espref: {message}") and err.count("\n") == 1
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("words", [(), ("no-such-command",), ("plan", "x.csv", "y.npy"), ("verify", "--seeds", "x")])
def test_wrong_usage(capsys, words):
    """argparse says how the command is used, exit code 2."""
    code, _, err = run(capsys, *words)
    assert code == 2 and err.startswith("usage: espref")


def test_plan_is_the_expected_plan(capsys, clouds):
    """The file holds the library's own plan for the same options, and the printed costs are those of the plans."""
    x, y = clouds
    words = ("plan", "x.csv", "y.npy", "-o", "out.npz", "--slices", "16", "--beta", "0.5", "--seed", "3")
    code, out, err = run(capsys, *words, "--source-weights", "w.csv", "--png", "out.png")
    assert (code, err) == (0, "")
    a = (np.arange(12) / 11) / (np.arange(12) / 11).sum()
    result = expected_sliced_plan(x, y, sample_directions(16, 2, rng=3), a, beta=0.5)
    saved = sparse.load_npz("out.npz")
    assert abs(saved - result.plan).max() == 0
    costs = {row[:22].strip(): float(row[22:36]) for row in out.splitlines()[4:]}
    assert costs["expected sliced plan"] == pytest.approx(transport_cost(saved, x, y), rel=1e-5)
    assert costs["exact transport"] <= costs["cheapest slice"] <= costs["expected sliced plan"]
    assert costs["exact transport"] <= costs["entropic (Sinkhorn)"] <= costs["independent coupling"]
    assert Path("out.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("method", ["orthogonal", "sobol", "equispaced", "axes"])
def test_plan_by_every_method(capsys, clouds, method):
    """Each scheme has a number of slices that suits it by default."""
    assert run(capsys, "plan", "x.csv", "y.npy", "-o", "p.npz", "--method", method)[0] == 0


def test_plan_with_lebedev_weights(capsys, clouds):
    """In space the Lebedev rule brings its own weights."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 7, 3))
    np.save("x3.npy", x)
    np.save("y3.npy", y)
    assert run(capsys, "plan", "x3.npy", "y3.npy", "-o", "p.npz", "--method", "lebedev")[0] == 0
    directions = sample_directions(110, 3, method="lebedev")
    prior = espref.direction_weights(110, 3, method="lebedev")
    assert abs(sparse.load_npz("p.npz") - expected_sliced_plan(x, y, directions, prior=prior).plan).max() == 0
    assert np.ptp(prior) > 0


def test_plan_leaves_large_oracles_out(capsys, clouds, monkeypatch):
    """Beyond a number of pairs, and without POT, exact and entropic transport are left out with a line that says so."""
    monkeypatch.setattr(plan, "MOST_PAIRS", 100)
    code, out, _ = run(capsys, "plan", "x.csv", "y.npy", "-o", "p.npz")
    assert code == 0 and "left out beyond 1e+02 pairs" in out and "exact transport" not in out
    monkeypatch.setattr(plan, "MOST_PAIRS", 10_000)
    monkeypatch.setattr(plan, "find_spec", lambda name: None)
    code, out, _ = run(capsys, "plan", "x.csv", "y.npy", "-o", "p.npz")
    assert code == 0 and "pip install 'espref[verify]'" in out


def test_plan_between_equal_clouds(capsys, clouds):
    """A cloud against itself costs nothing, whatever the oracles make of it; single points are clouds."""
    assert run(capsys, "plan", "x.csv", "x.csv", "-o", "p.npz", "--png", "p.png")[0] == 0
    np.save("one.npy", [[1.0, 2.0]])
    assert run(capsys, "plan", "one.npy", "one.npy", "-o", "p.npz", "--png", "p.png")[0] == 0


def test_bench_writes_its_rows(capsys, tmp_path, monkeypatch):
    """The table shows each row, the file holds them with versions and commit; a missed target is exit code 1."""
    rows = [{"name": "fast", "measured": 7.0, "unit": "times", "target": ">= 5", "ok": True, "detail": "median of 3"}]
    monkeypatch.setattr("espref.benchmarks.plans.run", lambda: rows)
    path = tmp_path / "bench.json"
    code, out, _ = run(capsys, "bench", "plans", "--json", str(path))
    assert code == 0 and "fast" in out and "7 times" in out and "met" in out
    found = json.loads(path.read_text())
    assert found["rows"] == [{"suite": "plans", **rows[0], "environment": 0}]
    (made_with,) = found["environments"]
    assert made_with["espref"] == espref.__version__ and {"commit", "date", "command", "blas"} <= set(made_with)
    rows[0]["ok"] = False
    code, out, _ = run(capsys, "bench", "plans", "--json", str(path))
    assert code == 1 and "missed" in out


def test_every_suite_says_what_it_measures():
    """The description of a suite is the docstring of its module, also of one that is registered from elsewhere."""
    names = (*benchmarks.SPEED, *benchmarks.TRUST, "transformers")
    assert [benchmarks.about(name).split()[0] for name in names[:2]] == ["Expected", "Attention"]
    assert all("." in benchmarks.about(name) for name in names) and set(benchmarks.REGISTERED) == {"transformers"}
    assert benchmarks.about("transformers").startswith("Training")
    with pytest.raises(ValueError, match="suite: expected one of plans"):
        benchmarks.about("no-such-suite")


def test_interrupt(tmp_path):
    """Ctrl-C ends a run with exit code 130 and one line; no file, half or whole, is left."""
    code = (
        "import os, signal, sys, threading; from espref.app.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it\n"
        f"threading.Timer(1, os.kill, (os.getpid(), {int(signal.SIGINT)})).start()\n"
        f"sys.exit(main(['verify', '--seeds', '500', '--json', {str(tmp_path / 'v.json')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (130, "espref: interrupted\n")
    assert os.listdir(tmp_path) == []


def test_closed_pipe():
    """A reader that has had enough, as head has, is no error."""
    words = f"{sys.executable} -m espref cite | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("@software{espref")


def test_narrow_encodings(tmp_path):
    """A terminal that cannot show a character still gets the tables."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    words = [sys.executable, "-m", "espref", "verify", "--only", "line.marginals", "--seeds", "1"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "1 claim: 1 hold" in done.stdout


def test_real_problems_are_deterministic():
    """The same seed draws the same pixels and digits."""
    for first, second in zip(real_problems(4), real_problems(4), strict=True):
        assert np.array_equal(first.x, second.x) and np.array_equal(first.b, second.b)


@pytest.mark.parametrize(("how", "said"), [("joint", "together"), ("each", "each by itself")])
def test_standardised_plan(capsys, clouds, how, said):
    """The plan between clouds in standard units, and a line that says so."""
    code, out, _ = run(capsys, "plan", "x.csv", "y.npy", "-o", "q.npz", "--standardise", how, "--slices", "5")
    assert code == 0 and f"standardised {said}: mean 0, deviation 1" in out
    scaled = standardise(*clouds, how)
    expected = expected_sliced_plan(scaled.x, scaled.y, sample_directions(5, 2, rng=0)).cost
    with np.load("q.npz") as saved:
        assert saved["standardise"] == how and saved["cost"] == pytest.approx(expected, rel=1e-12)
