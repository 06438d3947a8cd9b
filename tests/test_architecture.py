"""The layers of farcall, the proof that imports only point down, and that things stay small."""

import ast
import subprocess
import sys
import types
from pathlib import Path

import pytest

import farcall

ROOT = Path(farcall.__file__).parent
PATHS = sorted(ROOT.rglob("*.py"))

LEAVES = "_types _errors _config _version"
VERBS = f"{LEAVES} __init__ _remote _cluster _pool _pmap _timed _trace"

# A unit may import itself, the units named beside it, and nothing else of farcall, at any depth: an import inside a
# function or under TYPE_CHECKING counts like any other. "_wire.frames" allows that module alone.
MAY_IMPORT = {
    "_types": "",
    "_version": "",
    "_errors": "_types",
    "_config": "_types _errors",
    "_wire": LEAVES,
    "_transport": f"{LEAVES} _wire.frames",
    "_engines": LEAVES,
    "_node": f"{LEAVES} _wire _transport",
    "_remote": f"{LEAVES} _node",
    "_cluster": f"{LEAVES} _engines _node _remote",
    "_trace": f"{LEAVES} _node _remote _cluster",
    "_timed": f"{LEAVES} _remote _cluster _trace",
    "_pool": f"{LEAVES} _remote _cluster",
    "_pmap": f"{LEAVES} _remote _cluster _pool",
    "arrays": VERBS,
    "ode": f"{VERBS} arrays plots",
    "plots": "",
    "integrations": VERBS,
    "engines": "_engines",
    "random": "",
    "testing": f"{LEAVES} _wire _transport _engines _node",
    "_cli": f"{VERBS} engines",
    "__main__": "_cli",
    "__init__": f"{LEAVES} engines ode _remote _cluster _pool _pmap _timed _trace integrations",
}

# What the code does beyond the table of DESIGN.md, section 2. May only shrink.
DEVIATIONS = {
    "_remote": "_wire.frames _wire.messages _wire.pickles",
    "_cluster": "_transport.addresses",
    "_pool": "_node",
    "_pmap": "_node _wire.messages _wire.pickles",
    "_cli": "_node.worker",
}

# Below ``_cluster`` third-party packages are imported by these modules only; NumPy by anybody, inside a function.
BELOW_CLUSTER = {"_types", "_version", "_errors", "_config", "_wire", "_transport", "_engines", "_node", "_remote"}
SPEAKS_TO = {
    "cloudpickle": "_wire",
    "numba": "_wire.compiled",
    "llvmlite": "_wire.compiled",
    "aiohttp": "_engines.kubernetes",
    "cryptography": "_engines.certificates",
    "dask": "_engines.dask",
    "distributed": "_engines.dask",
    "kubernetes": "_engines.kubernetes.access",
    "mpi4py": "_engines.mpi",
    "plum": "_wire.generic",
    "yaml": "_engines.kubernetes.manifests",
}

LONGEST_MODULE = 500
LONGEST_BODY = 40
MOST_PARAMETERS = 7


def by_path(paths=PATHS):
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(ROOT)))


def module_of(path):
    """Return the dotted name of a module inside the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def unit_of(path):
    return module_of(path).partition(".")[0]


def tree_of(path):
    return ast.parse(path.read_text())


def imports(path):
    """Yield the line and the absolute dotted name of everything that a module imports."""
    package = (ROOT.name, *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            for alias in node.names:
                yield node.lineno, ".".join((*base, alias.name))


def own_imports(path):
    """Yield the line and the name inside the package of each import of the package's own; its root is __init__."""
    for line, name in imports(path):
        top, _, rest = name.partition(".")
        if top == ROOT.name:
            is_module = rest and any((ROOT / rest.partition(".")[0]).with_suffix(end).exists() for end in ("", ".py"))
            yield line, rest if is_module else "__init__"


def allows(allowed, name):
    """Whether one of the allowed names is the imported one, or holds it."""
    return any(f"{name}.".startswith(f"{each}.") for each in allowed.split())


@by_path()
def test_imports_point_down(path):
    """A unit imports the units below it, as the table says, and no others; a new unit needs a line there."""
    unit = unit_of(path)
    allowed = f"{unit} {MAY_IMPORT[unit]} {DEVIATIONS.get(unit, '')}"
    assert [(line, name) for line, name in own_imports(path) if not allows(allowed, name)] == []


@pytest.mark.parametrize("unit", DEVIATIONS)
def test_no_deviation_outlives_its_use(unit):
    """A deviation that the code does not need any more leaves the table."""
    used = [name for path in PATHS if unit_of(path) == unit for _, name in own_imports(path)]
    assert [each for each in DEVIATIONS[unit].split() if not any(allows(each, name) for name in used)] == []


@by_path([path for path in PATHS if unit_of(path) in BELOW_CLUSTER])
def test_third_party_packages_stay_where_they_belong(path):
    """Below ``_cluster`` one module speaks to each third-party package; NumPy is imported inside functions."""
    nodes = [node for function in functions(path) for node in ast.walk(function)]
    inside = {node.lineno for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))}
    wrong = []
    for line, name in imports(path):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top == ROOT.name or (top == "numpy" and line in inside):
            continue
        if not allows(SPEAKS_TO.get(top, ""), module_of(path)):
            wrong.append((line, name))
    assert wrong == []


def test_importing_farcall_imports_no_third_party_package_but_cloudpickle():
    """``import farcall`` is cheap: of what is installed it loads cloudpickle."""
    show = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = []
    for code in ("import farcall", "import cloudpickle, multiprocessing.process"):
        command = [sys.executable, "-c", f"{code}; {show}"]
        loaded.append(set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()))
    assert loaded[0] - loaded[1] - set(sys.stdlib_module_names) == {"farcall"}
    assert not loaded[0] & {"asyncio", "ssl"}  # which most programs do without, and every worker would pay for


# Small things


def functions(path):
    return [node for node in ast.walk(tree_of(path)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def length_of_body(function):
    """Return the lines of a function without its signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def count_parameters(function):
    arguments = function.args
    named = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for number, name in enumerate(named) if not (number == 0 and name in ("self", "cls"))])


@by_path()
def test_modules_stay_small(path):
    """No module is longer than anybody wants to read."""
    assert len(path.read_text().splitlines()) <= LONGEST_MODULE


@by_path()
def test_functions_stay_small(path):
    """A function's body fits on a screen."""
    lengths = {(each.name, each.lineno): length_of_body(each) for each in functions(path)}
    assert {name: length for name, length in lengths.items() if length > LONGEST_BODY} == {}


@by_path()
def test_parameter_lists_stay_short(path):
    """A function with more parameters wants an options dataclass."""
    counts = {(each.name, each.lineno): count_parameters(each) for each in functions(path)}
    assert {name: count for name, count in counts.items() if count > MOST_PARAMETERS} == {}


@by_path()
def test_no_global_statement(path):
    """State lives in objects."""
    assert [node.lineno for node in ast.walk(tree_of(path)) if isinstance(node, ast.Global)] == []


def test_no_drawer_for_odds_and_ends():
    """Every module is named for what it is about."""
    names = {part.strip("_") for path in PATHS for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not names & {"util", "utils", "utilities", "common", "helper", "helpers", "misc", "tools"}


def test_every_module_says_what_it_is_for():
    """Every module with code begins with a docstring."""
    assert [str(path) for path in PATHS if path.read_text().strip() and not ast.get_docstring(tree_of(path))] == []


# The public surface


def exports():
    """Return the names that ``__init__`` imports as themselves."""
    nodes = [node for node in tree_of(ROOT / "__init__.py").body if isinstance(node, ast.ImportFrom)]
    return [alias.name for node in nodes for alias in node.names if alias.asname == alias.name]


def test_public_names_are_one_explicit_list():
    """What ``farcall`` has without an underscore is what it imports as itself, and submodules."""
    public = {name for name in vars(farcall) if not name.startswith("_")}
    submodules = {name for name in public if is_submodule(getattr(farcall, name))}
    assert public - submodules == {name for name in exports() if not name.startswith("_")} - submodules


def is_submodule(value):
    return isinstance(value, types.ModuleType) and value.__name__.startswith(f"{ROOT.name}.")


def test_public_names_are_listed_once():
    """No name is exported twice, and each import of ``__init__`` exports."""
    names = exports()
    assert len(names) == len(set(names))
    nodes = [node for node in tree_of(ROOT / "__init__.py").body if isinstance(node, ast.ImportFrom)]
    assert len(names) == sum(len(node.names) for node in nodes)


@pytest.mark.parametrize("name", exports())
def test_public_names_are_documented(name):
    """Everything public that can have a docstring has one."""
    value = getattr(farcall, name)
    assert not (isinstance(value, type) or callable(value)) or value.__doc__
