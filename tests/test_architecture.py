"""The plan of the house: who may import whom, what a phase may not ask, and what every function owes its reader."""

import ast
import doctest
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
    "tasks/base.py": ("Predictor", "Metric", "Sink", "Producer"),
    "tasks/source.py": ("Source",),
    "tasks/objective.py": ("Objective",),
    "tasks/output.py": ("Output",),
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
