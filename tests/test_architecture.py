"""The house stands as it was drawn: floors, sizes, names, and what an import may pull in."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import memopt

SOURCE = Path(__file__).parent.parent / "src"
PACKAGE = SOURCE / "memopt"

FLOORS = {
    "base": 0,
    **dict.fromkeys(("codecs", "policies", "stores", "text", "embedding"), 1),
    **dict.fromkeys(("paging", "pressure", "journal"), 2),
    **dict.fromkeys(("sessions", "collections", "recall", "answers", "kvcache"), 3),
    **dict.fromkeys(("context", "learn"), 4),
    **dict.fromkeys(("memory", "wiring", "directory", "maintenance", "upkeep"), 5),
    **dict.fromkeys(
        (
            "aio",
            "client",
            "owner",
            "parts",
            "past",
            "figures",
            "recalling",
            "wiring_recall",
            "admitting",
            "answering",
            "wiring_answers",
            "wiring_context",
            "wiring_storage",
        ),
        5,
    ),
    **dict.fromkeys(("server", "adapters", "bench", "testing"), 6),
    "cli": 7,
}
FRONT = 5
"""The floor whose modules lie beside each other in the package's root and may know each other;
`import memopt` is its door, open to the floors above."""

LINES_MAX = 550
FUNCTION_LINES_MAX = 80
BASE_MAY_IMPORT = frozenset({"msgspec"})
EMPTY_NAMES = frozenset({"utils", "util", "common", "helpers", "core", "manager", "v2", "misc"})
FORBIDDEN_IMPORTS = frozenset({"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"})
HEAVY = frozenset(
    {
        "agents",
        "click",
        "IPython",
        "langchain_core",
        "langgraph",
        "matplotlib",
        "openai",
        "pandas",
        "PIL",
        "pydantic",
        "rich",
        "scipy",
        "sentence_transformers",
        "tokenizers",
        "torch",
        "transformers",
        "typer",
    }
)


class Module(NamedTuple):
    name: str
    """Dotted, such as memopt.base.units; memopt for the package's own __init__."""
    path: Path
    tree: ast.Module
    lines: int

    def __repr__(self) -> str:
        return self.name


class Import(NamedTuple):
    target: str
    line: int
    relative: bool


def module_of(path: Path, root: Path) -> Module:
    parts = path.relative_to(root).with_suffix("").parts
    name = ".".join(part for part in parts if part != "__init__")
    text = path.read_text("utf-8")
    return Module(name, path, ast.parse(text, str(path)), len(text.splitlines()))


MODULES = [module_of(path, SOURCE) for path in sorted(PACKAGE.rglob("*.py"))]
every_module = pytest.mark.parametrize("module", MODULES, ids=repr)


def imports(tree: ast.AST) -> Iterator[Import]:
    """Every import wherever it stands: at the top, in a function, under TYPE_CHECKING, or by
    import_module with a name that can be read."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for name in names:
                    yield Import(name.name, node.lineno, False)
            case ast.ImportFrom(module=source, names=names, level=level):
                for name in names:
                    yield Import(f"{source or ''}.{name.name}".strip("."), node.lineno, level > 0)
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module"),
                args=[ast.Constant(value=str(target)), *_],
            ):
                yield Import(target, node.lineno, False)


def unit(name: str) -> str:
    """The package, or the root module, that a dotted name below memopt belongs to; "" for memopt
    itself, which is also where a name that memopt re-exports comes from."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOORS else ""


def wrong_imports(name: str, tree: ast.AST) -> list[str]:
    """What in `tree` breaks the rule that imports point down."""
    mine = unit(name)
    my_floor = FLOORS.get(mine, FRONT)
    wrong = []
    for target, line, relative in imports(tree):
        if relative:
            wrong.append(f"line {line}: a relative import of {target}")
        if target.split(".")[0] != "memopt":
            continue
        theirs = unit(target)
        their_floor = FLOORS.get(theirs, FRONT)
        both_in_front = my_floor == their_floor == FRONT and theirs != ""
        if theirs == mine and mine != "":
            continue
        if their_floor >= my_floor and not both_in_front:
            wrong.append(f"line {line}: floor {my_floor} imports {target} of floor {their_floor}")
    return wrong


@every_module
def test_imports_point_to_a_lower_floor(module: Module) -> None:
    assert wrong_imports(module.name, module.tree) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("memopt.base.units", "from memopt.codecs.frame import Frame"),
        ("memopt.base.units", "import memopt"),
        ("memopt.codecs.frame", "from memopt.policies.lru import Lru"),
        ("memopt.sessions.session", "def f():\n    import memopt.memory"),
        ("memopt.paging.pager", "if TYPE_CHECKING:\n    from memopt.sessions import session"),
        ("memopt.memory", "from memopt import open"),
        ("memopt.memory", "from memopt.cli import main"),
        ("memopt.bench.replay", "from memopt.testing import faults"),
        ("memopt.bench.replay", "importlib.import_module('memopt.cli')"),
        ("memopt.codecs.frame", "from .zstd import Zstd"),
    ],
)
def test_a_wrong_import_is_noticed(name: str, source: str) -> None:
    assert wrong_imports(name, ast.parse(source))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        (
            "memopt.codecs.frame",
            "from memopt.codecs.zstd import Zstd\nfrom memopt.base import units",
        ),
        ("memopt.memory", "from memopt.wiring import wire\nfrom memopt.sessions.session import S"),
        ("memopt", "from memopt.memory import open\nfrom memopt.base.errors import MemoptError"),
        ("memopt.bench.replay", "import memopt\nfrom memopt import Memory"),
        ("memopt.cli", "from memopt.bench.replay import replay"),
        ("memopt.base.units", "import re\nimport msgspec"),
    ],
)
def test_a_right_import_is_let_through(name: str, source: str) -> None:
    assert wrong_imports(name, ast.parse(source)) == []


@every_module
def test_every_module_has_its_place_in_the_house(module: Module) -> None:
    assert module.name == "memopt" or module.name.split(".")[1] in FLOORS


@pytest.mark.parametrize("module", [m for m in MODULES if unit(m.name) == "base"], ids=repr)
def test_the_ground_floor_needs_the_standard_library_and_msgspec_alone(module: Module) -> None:
    roots = {imported.target.split(".")[0] for imported in imports(module.tree)}
    assert roots - sys.stdlib_module_names - BASE_MAY_IMPORT - {"memopt"} == set()


@every_module
def test_modules_and_functions_are_small(module: Module) -> None:
    assert module.lines <= LINES_MAX
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert long == []


@every_module
def test_every_module_says_what_it_is(module: Module) -> None:
    assert (ast.get_docstring(module.tree) or "").strip()


@every_module
def test_names_say_something(module: Module) -> None:
    assert EMPTY_NAMES.isdisjoint(module.name.split("."))


@pytest.mark.parametrize("module", [m for m in MODULES if m.path.stem == "__init__"], ids=repr)
def test_an_init_file_only_re_exports(module: Module) -> None:
    others = [
        f"line {node.lineno}: {type(node).__name__}"
        for node in module.tree.body[1:]  # the first statement is the docstring
        if not isinstance(node, ast.Import | ast.ImportFrom) and not _assigns_a_dunder(node)
    ]
    assert others == []


def _assigns_a_dunder(node: ast.stmt) -> bool:
    """`__all__ = […]` and its like: a literal bound to a dunder name."""
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            literal = isinstance(value, ast.Constant | ast.List | ast.Tuple)
            return literal and name.startswith("__") and name.endswith("__")
    return False


@every_module
def test_nothing_unpickles_or_evaluates(module: Module) -> None:
    roots = {imported.target.split(".")[0] for imported in imports(module.tree)}
    assert roots.isdisjoint(FORBIDDEN_IMPORTS)
    for node in ast.walk(module.tree):
        match node:
            case ast.Call(func=ast.Name(id="eval" | "exec" | "compile" | "__import__" as name)):
                pytest.fail(f"line {node.lineno} calls {name}")
            case ast.keyword(arg="allow_pickle", value=value):
                assert isinstance(value, ast.Constant), f"line {value.lineno}"
                assert value.value is False, f"line {value.lineno}"


def test_all_is_complete_and_sorted() -> None:
    assert list(memopt.__all__) == sorted(memopt.__all__)
    [front] = [module for module in MODULES if module.name == "memopt"]
    bound = {
        name.asname or name.name
        for node in front.tree.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert bound == set(memopt.__all__) - {"__version__"}
    assert all(hasattr(memopt, name) for name in memopt.__all__)


def test_importing_memopt_pulls_in_nothing_optional() -> None:
    script = "import sys, memopt; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "memopt" in loaded
    assert loaded & HEAVY == set()


def test_no_two_test_modules_have_one_name() -> None:
    """pytest would take one for the other, and collect neither."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
