"""A run of the ledger and its document: one function for command line and site, one layout, permanent identifiers."""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import math
import re
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest

import espref.train.claims
from espref.app import cli, verify
from espref.claims import LEDGER, SEEDS, cite_claim, default_problems, measurements, run_ledger, synthetic_problems
from espref.claims.ledger import Claim

ROOT = Path(__file__).parent.parent
NAMES = ("line.few-entries", "expected.ties-break-the-identity", "expected.marginals", "circle.rotation")


@pytest.fixture(scope="module")
def measured() -> measurements.Run:
    return run_ledger([LEDGER[name] for name in NAMES], synthetic_problems(0), 1, note="a note")


def valid(document: Any) -> bool:
    return not list(jsonschema.Draft202012Validator(measurements.schema()).iter_errors(document))


def test_document_follows_its_schema(measured: measurements.Run, tmp_path: Path) -> None:
    """What is written is valid, is read back as it was, and its SHA-256 is that of the file."""
    path = tmp_path / "ledger.json"
    checksum = measurements.write(path, measured)
    document, found = measurements.read(path)
    assert checksum == found == hashlib.sha256(path.read_bytes()).hexdigest()
    assert document == measurements.to_document(measured) and valid(document)
    assert [entry["id"] for entry in document["claims"]] == list(NAMES) and document["note"] == "a note"
    assert [entry["residual"] for entry in document["claims"]] == [outcome.residual for outcome in measured.outcomes]
    assert all(entry["worst"] or entry["runs"] == 1 for entry in document["claims"])
    assert "+" not in (document["environment"]["commit"] or "") and "dirty" in document["environment"]


def test_schema_refuses_what_is_incomplete(measured: measurements.Run) -> None:
    """Without any one of its fields, with one more, or with a "+" in the commit, a document is not valid."""
    jsonschema.Draft202012Validator.check_schema(measurements.schema())
    document = measurements.to_document(measured)
    places = (document, document["environment"], document["problems"][0], document["claims"][0])
    for number, place in enumerate(places):
        for name in place:
            broken = copy.deepcopy(document)
            del (broken, broken["environment"], broken["problems"][0], broken["claims"][0])[number][name]
            assert not valid(broken), name
    assert not valid(document | {"more": 1})
    assert not valid(document | {"environment": document["environment"] | {"commit": "0123abc+"}})


def test_numbers_that_json_has_not_are_null(measured: measurements.Run) -> None:
    """Infinities and NaN become null."""
    odd = measured.outcomes[0]._replace(residual=math.nan, companions=(math.inf,))
    document = measurements.to_document(measured._replace(outcomes=[odd]))
    assert document["claims"][0]["residual"] is None and document["claims"][0]["companions"][0]["residual"] is None
    json.dumps(document, allow_nan=False)
    assert valid(document)


def test_what_is_published_checks_itself(measured: measurements.Run, tmp_path: Path) -> None:
    """The checksum beside the document has the format of sha256sum."""
    checksum = measurements.publish(tmp_path, measured)
    assert (tmp_path / "ledger.json.sha256").read_text() == f"{checksum}  ledger.json\n"
    assert hashlib.sha256((tmp_path / "ledger.json").read_bytes()).hexdigest() == checksum


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"document": "espref ledger", "schema": 2}', "[" * 100_000])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    """The message names the file and what writes such documents."""
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json: expected a document of espref verify --json"):
        measurements.read(path)


def test_damaged_documents_are_refused(measured: measurements.Run, tmp_path: Path) -> None:
    """Whatever field is missing or of another type, the message names it; what jsonschema refuses is refused here."""
    document = measurements.to_document(measured)
    path = tmp_path / "ledger.json"
    for number in range(4):
        place = (document, document["environment"], document["problems"][0], document["claims"][0])[number]
        for name, value in place.items():
            for damage in ("missing", "another type", "NaN"):
                broken = copy.deepcopy(document)
                part = (broken, broken["environment"], broken["problems"][0], broken["claims"][0])[number]
                if damage == "missing":
                    del part[name]
                else:
                    part[name] = math.nan if damage == "NaN" else {"a": 1} if isinstance(value, list | str) else [value]
                assert not valid(broken) or damage == "NaN"
                path.write_text(json.dumps(broken))
                with pytest.raises(ValueError, match=r"ledger\.json: expected a document") as told:
                    measurements.read(path)
                assert damage == "NaN" or name in str(told.value)


def test_one_run_for_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`espref verify` without options and run_ledger() without arguments, which the site calls, measure the same claims
    on the same problems with the same seeds."""
    calls: list[tuple[list[str], list[str], int]] = []

    def record(entries: Any, problems: Any, seeds: int, before: Any) -> Any:
        calls.append(([entry.id for entry in entries], [problem.name for problem in problems], seeds))
        return iter(())

    monkeypatch.setattr(measurements, "run", record)
    assert cli.main(["verify"]) == 0 and run_ledger().seeds == SEEDS
    assert calls[0] == calls[1] and calls[0] == (list(LEDGER), [p.name for p in default_problems()[0]], SEEDS)
    assert verify.Selection([]).seeds == SEEDS and len(calls[0][1]) == 11 * SEEDS
    text = (ROOT / "docs" / "_ext" / "ledger.py").read_text(encoding="utf-8")
    assert "run_ledger()" in text and "problems(" not in text


def test_identifiers_are_permanent() -> None:
    """Every claim is listed, and every listed claim is in the ledger unless it was retired, with version and reason;
    an identifier that was retired is not given to another claim."""
    listed = measurements.identifiers()
    text = files("espref.claims").joinpath("identifiers.txt").read_text(encoding="utf-8")
    assert len(listed) == sum(bool(line) and not line.startswith("#") for line in text.splitlines())  # none twice
    retired = {name for name, rest in listed.items() if rest}
    assert not set(LEDGER) - set(listed), "new claims: add them to espref/claims/identifiers.txt"
    assert set(LEDGER) == set(listed) - retired, "a claim that goes is retired in espref/claims/identifiers.txt"
    assert all(re.fullmatch(r"retired \d+\.\d+\.\d+: .+", listed[name]) for name in retired)


def test_corrections_name_their_version() -> None:
    """A corrected claim says since when, and how."""
    for entry in LEDGER.values():
        assert not entry.corrected or re.match(r"\d+\.\d+\.\d+: .", entry.corrected), entry.id


@pytest.mark.parametrize(
    ("kind", "source", "origin"),
    [
        ("theorem", "liu2025est, mahey2023swgg", "liu2025est, mahey2023swgg"),
        ("theorem", "", "derived here, not peer-reviewed"),
        ("refutation", "liu2025est", "derived here, not peer-reviewed; about a statement of liu2025est"),
        ("measurement", "", "measured here, not peer-reviewed"),
        ("property", "", "a property of this software"),
        ("property", "flamary2021pot", "a property of this software, compared with flamary2021pot"),
    ],
)
def test_origin(kind: Any, source: str, origin: str) -> None:
    """Each claim says where it comes from."""
    assert Claim("line.x", kind, "A.", source, lambda: 0.0, 0.0, "at most", "fixed").origin == origin


def test_claim_is_cited_with_its_run(measured: measurements.Run, tmp_path: Path) -> None:
    """BibTeX of the claim and its sources, and a sentence with identifier, version, commit, residual, tolerance, hash;
    all of it is that of the run, not of what is running."""
    about = measured.environment | {"espref": "0.9.0", "commit": "0123abc", "dirty": True, "date": "2031-02-03"}
    path = tmp_path / "ledger.json"
    checksum = measurements.write(path, measured._replace(environment=about))
    text = cite_claim("expected.marginals", path)
    entry, sentence = text.split("\n\n")[0], text.split("\n\n")[-1]
    assert entry.startswith("@misc{espref-expected-marginals,") and entry.count("{") == entry.count("}")
    assert "year = {2031}" in entry and checksum in entry and "{The espref authors}" in entry
    residual = measured.outcomes[2].residual
    assert sentence.startswith("Claim expected.marginals of espref 0.9.0 (commit 0123abc with uncommitted changes) hol")
    assert not re.search(r"(?<!\\)[#%&_]", entry.split("note = ")[1].splitlines()[0])
    assert f"residual {residual:.2g}, tolerance: at most 1e-14, worst on " in sentence
    assert sentence.endswith(f"; ledger.json, SHA-256 {checksum}.")
    assert re.findall(r"^@\w+\{(.+),$", text, flags=re.M)[1:] == LEDGER["expected.marginals"].sources
    assert "is refuted as stated: residual 0.5" in cite_claim("expected.ties-break-the-identity", path)
    with pytest.raises(ValueError, match=r"ledger\.json: no measurement of line\.marginals"):
        cite_claim("line.marginals", path)


def test_claim_is_cited_without_a_run() -> None:
    """Without a run the version that is running is named, and the tolerance, but no residual."""
    text = cite_claim("line.marginals")
    assert text.splitlines()[-1].startswith(f"Claim line.marginals of espref {espref.__version__} (commit ")
    assert "tolerance: at most" in text and "not measured in this citation" in text and "residual" not in text
    with pytest.raises(ValueError, match=r"identifier: expected one of a claim .*, got 'line.nothing'"):
        cite_claim("line.nothing")


def test_cite_on_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Claims and keys can be mixed; --run is about claims only, and a claim that does not exist is one line."""
    path = tmp_path / "ledger.json"
    assert cli.main(["verify", "--only", "line.marginals", "--seeds", "1", "--json", str(path)]) == 0
    assert f"SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}" in " ".join(capsys.readouterr().out.split())
    assert valid(json.loads(path.read_text()))
    assert cli.main(["cite", "line.marginals", "prillo2020softsort", "--run", str(path)]) == 0
    out = capsys.readouterr().out
    assert (
        "line.marginals of espref" in out and out.rstrip().endswith("}") and "@inproceedings{prillo2020softsort" in out
    )
    for words, message in (
        (["cite", "espref", "--run", str(path)], "espref: --run: expected a claim to cite"),
        (["cite", "line.nothing"], "espref: keys: expected keys among espref"),
        (["cite", "line.marginals", "--run", str(tmp_path / "none.json")], "espref: "),
    ):
        assert cli.main(words) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith(message) and err.count("\n") == 1


def test_numbers_of_boxes_are_permanent(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the site a claim is numbered by its place in the list, wherever its box stands on the page; a claim that was
    retired keeps its number."""
    for package in ("sphinx", "docutils"):
        pytest.importorskip(package)
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    pages = importlib.import_module("ledger")
    listed = {"line.third": "", "lift.first": "", "line.gone": "retired 0.3.0: wrong", "line.first": ""}
    monkeypatch.setattr(measurements, "identifiers", lambda: listed)
    numbers = {"theorem": {"box-claim-line-first": (1, 1), "box-claim-line-third": (1, 2), "other": (1, 3)}}
    pages.keep_numbers(None, SimpleNamespace(toc_fignumbers={"ledger/line": numbers}))
    assert numbers["theorem"] == {"box-claim-line-first": (1, 3), "box-claim-line-third": (1, 1), "other": (1, 3)}
