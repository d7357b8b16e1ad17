"""The layout: imports point down, no circles, and heavy or private libraries stay in their rooms."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [
    {"ceeh.errors", "ceeh.types"},
    {"ceeh.runtime"},
    {"ceeh.starter"},
    {"ceeh.config"},
    {"ceeh.run"},
    {"ceeh.pretrained"},
    {"ceeh.data"},
    {"ceeh.evaluation"},
    {"ceeh.modules"},
    {"ceeh.callbacks", "ceeh.memory", "ceeh.reporting", "ceeh.tracking"},
    {"ceeh.export"},
    {"ceeh.assembly"},
    {"ceeh.dry_run"},
    {
        *("ceeh.__main__", "ceeh.compare", "ceeh.evaluate", "ceeh.fit", "ceeh.init"),
        *("ceeh.rollouts", "ceeh.sft", "ceeh.study"),
    },
]
"""From the ground up. A unit imports those below it, and its own files; not its neighbors."""
LEVEL = {unit: level for level, units in enumerate(LAYERS) for unit in units}


def imports(file: Path) -> set[str]:
    """Modules that `file` imports, lazily too. `from a import b` counts as a.b where that is a module."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                path = ROOT / module.replace(".", "/")
                is_module = path.with_suffix(".py").is_file() or path.is_dir()
                found.add(module if is_module else node.module)
    return found


def module_of(file: Path, root: Path) -> str:
    return ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def unit(module: str) -> str:
    """The file or folder at the top of `ceeh` that `module` belongs to."""
    return ".".join(module.split(".")[:2])


def graph(root: Path) -> dict[str, set[str]]:
    return {module_of(file, root): imports(file) for file in sorted(root.glob("ceeh/**/*.py"))}


def upward(modules: dict[str, set[str]]) -> list[str]:
    """`ceeh` itself, the face of the package, is above all others: it imports them when they are used."""
    found = []
    for module, imported in modules.items():
        if module == "ceeh":
            continue
        for other in imported:
            if not other.startswith("ceeh.") or unit(other) == unit(module):
                continue
            if LEVEL[unit(other)] >= LEVEL[unit(module)]:
                found.append(f"{module} imports {other}")
    return found


def circles(modules: dict[str, set[str]]) -> list[str]:
    """Modules from which a way of imports leads back to them; faces (`__init__`) are left out."""
    found = []
    for start in modules:
        seen, to_visit = set(), list(modules[start])
        while to_visit:
            module = to_visit.pop()
            if module == start:
                found.append(start)
                break
            if module not in seen and module in modules:
                seen.add(module)
                to_visit += modules[module]
    return found


MODULES = graph(ROOT)


def test_every_unit_has_a_layer() -> None:
    assert {unit(module) for module in MODULES if "." in module} == set(LEVEL)


def test_no_import_points_upward_or_sideways() -> None:
    assert upward(MODULES) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(MODULES) == []


def test_a_planted_upward_import_and_a_planted_circle_are_found() -> None:
    planted = MODULES | {
        "ceeh.config.rules": MODULES["ceeh.config.rules"] | {"ceeh.modules.policy"}
    }
    assert upward(planted) == ["ceeh.config.rules imports ceeh.modules.policy"]
    planted = MODULES | {
        "ceeh.modules.head": MODULES["ceeh.modules.head"] | {"ceeh.modules.policy"}
    }
    assert {"ceeh.modules.head", "ceeh.modules.policy"} <= set(circles(planted))


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("vllm", ("ceeh.data.engine.",)),
        ("mlflow", ("ceeh.tracking.",)),
        ("peft", ("ceeh.modules.lora", "ceeh.modules.merged_weights", "ceeh.modules.policy")),
        ("matplotlib", ("ceeh.reporting.",)),
        (
            "ceeh.assembly",
            ("ceeh.assembly.", "ceeh.dry_run", "ceeh.fit", "ceeh.sft", "ceeh.study"),
        ),
    ],
)
def test_a_library_is_imported_in_its_room_alone(library: str, rooms: tuple[str, ...]) -> None:
    users = [
        module
        for module, imported in MODULES.items()
        if any(name == library or name.startswith(f"{library}.") for name in imported)
    ]
    assert users, f"nothing imports {library}: take it off the list"
    assert [user for user in users if not user.startswith(rooms)] == []


def test_types_and_errors_import_without_torch() -> None:
    """Workers that grade answers unpickle a Prompt: each of them would load torch."""
    program = "import sys, ceeh.types, ceeh.errors; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_tests_lie_where_the_code_lies() -> None:
    """A folder of tests for each folder of the package, so that a file's tests are found."""
    folders = {module.split(".")[1] for module in MODULES if module.count(".") == 2}
    assert {folder for folder in folders if not (ROOT / "tests" / folder).is_dir()} == set()
