"""The plan of the house: who may import whom, what a phase may not ask, and what every function owes its reader."""

import ast
import doctest
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tasks import TASKS, kinds

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    [
        ROOT / "main.py",
        ROOT / "config.py",
        *(path for room in ("models", "utils", "tasks") for path in (ROOT / room).rglob("*.py")),
    ]
)
ALLOWED = {
    "main": {"config", "tasks", "utils"},
    "config": {"utils"},
    "tasks": {"config", "tasks", "models", "utils"},
    "models": {"models", "utils"},
    "utils": {"utils"},
}
KIND_FILES = {
    f"{part}.py" for part in ("settings", "source", "objective", "predictor", "metric", "sinks", "output", "task")
}
ABSENT = {"distill": {"sinks.py"}}  # it writes no prediction files


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported_rooms(tree: ast.AST) -> set[str]:
    rooms = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            rooms.add(node.module.split(".")[0])
    return rooms & set(ALLOWED)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_run_one_way(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert imported_rooms(ast.parse(path.read_text())) <= ALLOWED[room]


@pytest.mark.parametrize("path", sorted((ROOT / "models").glob("*.py")), ids=name_of)
def test_heads_do_not_import_tasks(path):
    assert "tasks" not in imported_rooms(ast.parse(path.read_text()))


# --- import circles --------------------------------------------------------------------------------------------------


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


class Imports(ast.NodeVisitor):
    """Modules that a file imports, at its top and inside functions; not for type checkers only."""

    def __init__(self, modules: frozenset[str]):
        self.modules, self.found = modules, set()

    def visit_If(self, node: ast.If) -> None:
        for part in node.orelse if "TYPE_CHECKING" in ast.unparse(node.test) else [node]:
            self.generic_visit(part)

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= {alias.name for alias in node.names} & self.modules

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            inside = f"{node.module}.{alias.name}"
            self.found |= {inside if inside in self.modules else str(node.module)} & self.modules


def import_graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Modules that each module imports, by the modules' source texts."""
    graph = {}
    for module, text in sources.items():
        visitor = Imports(frozenset(sources))
        visitor.visit(ast.parse(text))
        graph[module] = visitor.found - {module}
    return graph


def circle_in(graph: Mapping[str, set[str]]) -> list[str]:
    """A circle of imports, from a module back to it; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def rooms_of_utils(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The same between the folders of utils and the files beside them."""
    rooms: dict[str, set[str]] = {}
    for module, imported in graph.items():
        if module.startswith("utils."):
            room = module.split(".")[1]
            others = {name.split(".")[1] for name in imported if name.startswith("utils.")}
            rooms[room] = rooms.get(room, set()) | others - {room}
    return rooms


def test_no_module_imports_itself_by_way_of_others():
    graph = import_graph({module_of(path): path.read_text() for path in SOURCES})
    assert "utils.raster.dependencies" in graph["tasks.item"]
    assert not circle_in(graph)


def test_no_folder_of_utils_imports_itself_by_way_of_others():
    rooms = rooms_of_utils(import_graph({module_of(path): path.read_text() for path in SOURCES}))
    assert {"geometry", "runtime"} <= rooms["data"] | rooms["store"]
    assert not circle_in(rooms)


def test_a_circle_is_found_also_in_functions_and_not_for_type_checkers():
    lazy = "def load():\n    from utils.b.two import x\n"
    typing = "if TYPE_CHECKING:\n    from utils.b.two import x\n"
    for one, circle in ((lazy, {"utils.a.one", "utils.b.two"}), (typing, set())):
        graph = import_graph({"utils.a.one": one, "utils.b.two": "import utils.a.one", "utils.c": "import utils.a.one"})
        assert set(circle_in(graph)) == circle
        assert set(circle_in(rooms_of_utils(graph))) == {name.split(".")[1] for name in circle}


# --- files -----------------------------------------------------------------------------------------------------------


def test_files_beside_the_folders_of_utils_are_the_published_ones_and_errors():
    files = {path.stem for path in (ROOT / "utils").glob("*.py")} - {"__init__"}
    assert files == {"data", "errors", "logging", "losses", "metrics", "optim"}


def test_no_file_has_more_than_700_lines():
    lines = {name_of(path): len(path.read_text().splitlines()) for path in [*SOURCES, *(ROOT / "tests").rglob("*.py")]}
    assert {name: number for name, number in lines.items() if number > 700} == {}, "divide them by subject"


@pytest.mark.parametrize(
    "folder", [*(ROOT / "tasks" / kind for kind in TASKS), ROOT / "tests" / "kinds" / "boxes"], ids=name_of
)
def test_the_folders_of_all_kinds_have_the_same_file_names(folder):
    missing = KIND_FILES - {path.name for path in folder.glob("*.py")}
    assert missing == ABSENT.get(folder.name, set())


# --- phases ----------------------------------------------------------------------------------------------------------


def without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return tree


@pytest.mark.parametrize("path", sorted((ROOT / "tasks" / "phases").glob("*.py")), ids=name_of)
def test_no_phase_asks_which_task_it_runs(path):
    tree = without_docstrings(ast.parse(path.read_text()))
    classes = {task.partition(":")[2] for _, task in TASKS.values()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            assert node.attr != "kind", f"{path.name}:{node.lineno} reads .kind"
        if isinstance(node, ast.Name):
            assert node.id not in classes, f"{path.name}:{node.lineno} names {node.id}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = set(node.value.replace(".", " ").split())
            assert not words & set(TASKS), f"{path.name}:{node.lineno} names a task"
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            asked = {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)}
            assert not any(name.endswith("Task") for name in asked), (
                f"{path.name}:{node.lineno} asks for a task's class"
            )


def functions_of(tree: ast.Module):
    """Module functions, classes and methods; not nested functions, dunder methods or bodies without behaviour."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("__"):
                    yield f"{node.name}.{method.name}", method


def has_behaviour(node: ast.AST) -> bool:
    """Whether there is anything an example could show: not an interface's empty, constant or refusing method."""
    if isinstance(node, ast.ClassDef):
        declared = [statement for statement in node.body if not isinstance(statement, ast.Expr)]
        if declared and isinstance(declared[0], ast.AnnAssign):
            return False  # a record or a section of settings: its fields, and methods with examples of their own
        bases = {getattr(base, "id", "") for base in node.bases}
        return not bases & {"ABC", "Protocol", "Task", "Metric", "Sink", "Predictor"} or bool(
            set(bases) - {"ABC", "Protocol"}
        )
    if any(
        getattr(decorator, "id", getattr(decorator, "attr", "")) in ("abstractmethod", "overload", "override")
        for decorator in node.decorator_list
    ):
        return False
    body = [
        statement
        for statement in node.body
        if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
    ]
    return not all(isinstance(statement, ast.Pass) for statement in body)


INTERFACES = {
    "tasks/sample.py": ("Producer",),
    "tasks/predictor.py": ("Predictor",),
    "tasks/source.py": ("Source",),
    "tasks/objective.py": ("Objective",),
    "tasks/output.py": ("Metric", "Sink", "Output"),
    "tasks/task.py": ("Task",),
}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_function_has_an_example(path):
    interfaces = INTERFACES.get(name_of(path), ())
    without = [
        name
        for name, node in functions_of(ast.parse(path.read_text()))
        if has_behaviour(node) and ">>>" not in (ast.get_docstring(node) or "") and name.split(".")[0] not in interfaces
    ]
    assert not without, f"no doctest: {', '.join(without)}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_examples_state_what_they_print(path):
    parser = doctest.DocTestParser()
    silent = []
    for name, node in functions_of(ast.parse(path.read_text())):
        examples = parser.get_examples(ast.get_docstring(node) or "")
        if examples and not any(example.want for example in examples):
            silent.append(name)
    assert len(silent) <= 3, f"examples that print nothing: {', '.join(silent)}"


def test_every_setting_is_described():
    def check(model):
        for name, field in model.model_fields.items():
            nested = getattr(field.annotation, "model_fields", None)
            if nested is not None:
                check(field.annotation)
            else:
                assert field.description, f"{model.__name__}.{name} has no description"

    for kind_class in kinds().values():
        check(kind_class)
