"""The documents say what is true: their Python runs, and their tables agree with the code."""

import ast
import dataclasses
import inspect
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import farcall as fc
from farcall import _config

ROOT = Path(__file__).parents[1]
DOCUMENTS = ["README.md", *(f"docs/{each.name}" for each in sorted((ROOT / "docs").glob("*.md")))]
NEED_HOSTS = ["docs/ssh.md"]
NEED_PODS = ["docs/laptop.md"]  # executed by tests/deploy/test_kubernetes_workers.py
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXPECTED = re.compile(r"^(\s*)(\S.*?)\s+# -> (.*)$")  # an expression and the repr of its value
CHECK = """
def check(value, expected, line):
    if repr(value) != expected:
        raise SystemExit(f"line {line}: {value!r}, not {expected}")
"""


def blocks(text: str, language: str) -> list[tuple[int, str]]:
    """Return the blocks of a language with the number of their first line."""
    found = BLOCK.finditer(text)
    return [(text.count("\n", 0, each.start(2)) + 1, each[2]) for each in found if each[1] == language]


def checked(line: str, number: int) -> str:
    """Return a line of Python with its ``# -> value``, if it has one, made a check."""
    match = EXPECTED.match(line)
    if match is None:
        return line
    ast.parse(match[2], mode="eval")  # only an expression has a value to check
    return f"{match[1]}check(({match[2]}), {match[3]!r}, {number})"


def program(text: str) -> str:
    """Return all Python of a document as one program, a line for a line; the title makes room for an import."""
    lines = ["from checks import check"] + [""] * text.count("\n")
    for first, block in blocks(text, "python"):
        for number, line in enumerate(block.splitlines(), first):
            lines[number - 1] = checked(line, number)
    return "\n".join(lines) + "\n"


def run_python(name: str, folder: Path, path: str) -> None:
    """Run all Python blocks of a document in order in one program, and check values after ``# ->`` and printed text."""
    text = (ROOT / name).read_text()
    (folder / "document.py").write_text(program(text))
    (folder / "checks.py").write_text(CHECK)
    command = [sys.executable, "-W", "error", "document.py"]
    environment = os.environ | {"PATH": path}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=55, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for _, printed in blocks(text, "text"):
        assert printed in done.stdout


@pytest.mark.parametrize("name", [each for each in DOCUMENTS if each not in NEED_HOSTS + NEED_PODS])
def test_the_python_of_a_document_runs(name, tmp_path):
    """All Python blocks of a document run in order in one program; values after ``# ->`` and printed text are right."""
    run_python(name, tmp_path, os.environ["PATH"])


@pytest.mark.parametrize("name", NEED_HOSTS)
def test_the_python_of_a_document_runs_on_hosts(name, tmp_path, path_to_hosts):
    """The same, where the document speaks of host1, host2 and host3."""
    run_python(name, tmp_path, path_to_hosts)


def test_a_wrong_value_in_a_document_is_found():
    """The check of ``# -> value`` fails where the value differs, and names the line."""
    namespace: dict[str, object] = {}
    exec(CHECK, namespace)
    source = "title\n```python\nif True:\n    1 + 1   # -> {}\n```\n"
    exec(program(source.format(2)).partition("\n")[2], namespace)
    with pytest.raises(SystemExit, match="line 4: 2, not 3"):
        exec(program(source.format(3)).partition("\n")[2], namespace)


def settings_table() -> list[str]:
    """Return the rows of the table of settings, made from the source of the settings."""
    body = next(
        node
        for node in ast.parse(inspect.getsource(_config)).body
        if isinstance(node, ast.ClassDef) and node.name == "Config"
    ).body
    meanings = {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
    rows = []
    for field in dataclasses.fields(_config.Config):
        meaning = " ".join(meanings[field.name].split())
        rows.append(f"| `FARCALL_{field.name.upper()}` | {default_of(field.default)} | {meaning} |")
    return rows


def default_of(value: float) -> str:
    for unit, size in ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10):
        if isinstance(value, int) and value >= size and value % size == 0:
            return f"{value // size} {unit}"
    return f"{value:g}"


def test_every_setting_is_in_the_guide():
    """The table of settings is the one that the source of the settings gives."""
    text = (ROOT / "docs/guide.md").read_text()
    table = re.findall(r"^\| `FARCALL_.*$", text, re.MULTILINE)
    assert table == settings_table(), "the table should read\n" + "\n".join(settings_table())


def test_every_variable_that_the_code_reads_is_a_setting():
    """No FARCALL_ variable is read anywhere but in the settings, and documents name no others."""
    known = {f"FARCALL_{field.name.upper()}" for field in dataclasses.fields(_config.Config)}
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / name for name in DOCUMENTS)]:
        named = set(re.findall(r"FARCALL_[A-Z]\w*", path.read_text()))
        assert named <= known, path


def test_every_public_name_of_today_is_in_the_table_for_julians():
    """What Julia's users look for, they find: each public verb is in docs/julia.md, and each name there exists."""
    text = (ROOT / "docs/julia.md").read_text()
    named = set(re.findall(r"\bfc\.(\w+)", text))
    verbs = {name for name, value in vars(fc).items() if inspect.isfunction(value) and not name.startswith("_")}
    same = {"nprocs", "nworkers", "myid", "fetch", "wait", "isready"}  # "the same" in the table
    assert verbs <= named | same
    assert all(f"`{name}(" in text for name in same)
    assert named <= set(dir(fc))


@pytest.mark.parametrize("name", [*DOCUMENTS, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name):
    """Each relative link of a document names a file of the repository."""
    targets = re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text())
    assert all((ROOT / name).parent.joinpath(target).exists() for target in targets)
