"""docs/rfc-compliance.md: every test it cites exists, and every row has a test or a reason."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "rfc-compliance.md"
CITED = re.compile(r"^([a-z0-9_]+(?:/[a-z0-9_]+)*\.py)::(\w+)(?:\[(.+)\])?$")
BETWEEN = re.compile(r", (?=[a-z0-9_]+/)")
SECTION = re.compile(r"^RFC \d{3,5} (?:§\d+(?:\.\d+)*|REQ-\d+)$")


@cache
def rows() -> list[list[str]]:
    """The cells of every row, without the headings."""
    found = []
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| RFC "):
            found.append([cell.strip() for cell in line.strip().strip("|").split("|")])
    return found


@cache
def names_in(path: Path) -> frozenset[str]:
    """The tests that a file defines: functions, and hypothesis machines by their class."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    # Test<Machine> = Machine.TestCase
    assigned = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    return frozenset(n for n in functions | assigned | classes if n.lower().startswith("test"))


@cache
def vectors() -> frozenset[str]:
    """The names of all golden vectors."""
    names: list[str] = []
    for path in sorted((ROOT / "tests" / "vectors").glob("*.toml")):
        text = path.read_text(encoding="utf-8")
        names += (vector["name"] for vector in tomllib.loads(text)["vector"])
    return frozenset(names)


def cited(cell: str) -> list[str]:
    """The tests of a row; a cell that begins with a dash gives a reason instead."""
    return [] if cell.startswith("-") else BETWEEN.split(cell)


def problem(cell: str) -> str | None:
    """What is wrong with the last cell of a row, or None."""
    if cell.startswith("-"):
        return None if len(cell) > 4 else "neither test nor reason"
    for item in cited(cell):
        match = CITED.match(item)
        if not match:
            return f"no test: {item!r}"
        path, name, vector = match.groups()
        if not (ROOT / "tests" / path).is_file():
            return f"no such file: {path}"
        if name not in names_in(ROOT / "tests" / path):
            return f"no such test: {item}"
        if vector is not None and vector not in vectors():
            return f"no such vector: {vector}"
    return None


def test_the_table_is_read():
    assert len(rows()) > 100
    for rfc in ("7915", "6146", "6052", "6791", "4884", "8021"):
        assert any(row[0].startswith(f"RFC {rfc} ") for row in rows()), rfc


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row[0]} {row[1][:40]}")
def test_every_row_has_a_test_that_exists_or_a_reason(row):
    assert len(row) == 4, "a row has four cells"
    section, asked, how, shown = row
    assert SECTION.match(section), section
    assert asked
    assert how
    assert problem(shown) is None


def test_no_row_twice():
    keys = [(row[0], row[1]) for row in rows()]
    assert sorted(set(keys)) == sorted(keys)


def test_every_line_of_a_table_is_a_row():
    """A typing error in the first cell would hide a row from the checks."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.startswith("|")]
    headings = [line for line in table if line.startswith(("| section |", "|---"))]
    assert len(table) - len(headings) == len(rows())


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("", "no test"),
        ("-", "neither"),
        ("yes", "no test"),
        ("unit/test_nothing.py::test_it", "no such file"),
        ("unit/test_checksum.py::test_nothing_at_all", "no such test"),
        ("unit/test_vectors.py::test_vector[of nothing]", "no such vector"),
        ("unit/test_checksum.py::test_ipv4_header, unit/test_checksum.py", "no test"),
    ],
)
def test_the_checks_bite(cell, words):
    found = problem(cell)
    assert found is not None
    assert words in found
