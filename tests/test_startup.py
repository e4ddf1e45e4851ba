"""Nothing heavy is loaded before it is needed, and modules import downwards only."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import smolalign

PACKAGE = Path(smolalign.__file__).resolve().parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
CLI = {"cli", *(path.stem for path in PACKAGE.glob("cli_*.py"))}
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "pyarrow", "accelerate", "numpy", "huggingface_hub"}
HEAVY |= {"sklearn", "scipy", "rensa", "jinja2", "prompt_toolkit", "llguidance", "bm25s"}
# On an idle machine it takes half of that; the limit leaves room for a busy one.
HELP_SECONDS = 1.0


def imports(module: str, *, everywhere: bool = True) -> Iterator[str]:
    """Full names of the modules that a module imports: anywhere in it, or only when it is loaded itself."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree) if everywhere else _at_load(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            yield from (
                name if (name := f"{node.module}.{alias.name}") in MODULES else str(node.module) for alias in node.names
            )


def _at_load(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not typing_only and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            yield from _at_load(node)


def own(module: str) -> set[str]:
    return {name for name in imports(module) if name.split(".")[0] == "smolalign"}


def layer(module: str) -> int:
    """How high a module stands; it may import those of its own layer and of lower ones."""
    part = module.split(".")[1] if "." in module else ""
    by_part = {
        **dict.fromkeys(CLI, 7),
        "evaluation": 6,
        "commands": 6,
        "commands_launch": 6,
        "commands_look": 6,
        "cluster": 5,
        "console": 5,
        "console_eval": 5,
        "console_export": 5,
        "check": 5,
        "check_eval": 5,
        "fits": 5,
        "init": 5,
        "launch": 5,
        "preview": 5,
        "pretrain_ahead": 5,
        "look": 5,
        "pipeline": 4,
        "inputs": 4,
        "train": 3,
        "eval": 3,
        "serve": 3,
        "apps": 3,
        "export": 3,
        "run_page": 3,
        "model": 2,
        "quantization": 2,
        "checkpoint": 2,
        "hub": 2,
        "vocabulary": 2,
        "adapters": 2,
        "data": 2,
        "quality": 2,
        "chat": 2,
        "cost": 1,
        "pages": 2,
        "recipe": 1,
        "store": 1,
    }
    # A conversation in the terminal is an application, as training and evaluation are.
    return 3 if module == "smolalign.chat.session" else by_part.get(part, 0)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down_only(module: str) -> None:
    up = {other for other in own(module) if layer(other) > layer(module)}
    assert not up, f"{module} imports from above it: {up}"


@pytest.mark.parametrize(
    "module",
    sorted(
        name
        for name in MODULES
        if name.split(".")[1:2]
        in (["data"], ["quality"], ["chat"], ["model"], ["quantization"], ["train"], ["eval"], ["apps"], ["export"])
    ),
)
def test_what_works_on_data_and_models_knows_nothing_of_chain_and_screen(module: str) -> None:
    above = {"smolalign.pipeline", "smolalign.commands", "smolalign.cli", "smolalign.console", "smolalign.console_eval"}
    assert not own(module) & above


@pytest.mark.parametrize(
    "module", ["rows", "errors", "report", "outcome", "environment", "processes", "store", "chat.template"]
)
def test_the_lowest_modules_import_the_standard_library_and_each_other_only(module: str) -> None:
    others = {name.split(".")[0] for name in imports(f"smolalign.{module}")} - {"smolalign"}
    assert others <= sys.stdlib_module_names
    if module not in ("store", "chat.template"):
        assert not own(f"smolalign.{module}")


@pytest.mark.parametrize(
    ("library", "only"),
    [
        ("typer", {f"smolalign.{name}" for name in CLI}),
        ("rich", {"smolalign.console", "smolalign.console_eval", "smolalign.console_export"}),
    ],
)
def test_the_modules_of_the_screen_alone_import_its_libraries(library: str, only: set[str]) -> None:
    using = {module for module in MODULES if library in {name.split(".")[0] for name in imports(module)}}
    assert using == only


def loaded_by(code: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter has loaded after some code."""
    ended = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(ended.stdout.split())


@pytest.mark.parametrize(
    "modules",
    [
        "smolalign.cli, smolalign.commands, smolalign.commands_look, smolalign.evaluation",
        "smolalign.recipe.load, smolalign.recipe.shipped",
        "smolalign.check, smolalign.preview, smolalign.look, smolalign.launch",
        "smolalign.pipeline",
        "smolalign.data.load, smolalign.data.gather, smolalign.data.smoltalk",
        "smolalign.eval.judged",
        "smolalign.export.run, smolalign.export.source, smolalign.export.card",
    ],
)
def test_what_every_command_needs_loads_nothing_heavy(modules: str) -> None:
    assert not loaded_by(f"import {modules}") & HEAVY


def test_help_loads_neither_recipes_nor_anything_heavy() -> None:
    code = "import sys; from smolalign.cli import main; sys.argv = ['smolalign', '--help']\n"
    code += "try: main()\nexcept SystemExit as end: assert not end.code"
    assert not loaded_by(code) & (HEAVY | {"pydantic", "yaml"})


def test_a_chain_that_checks_its_files_wrong_is_refused_before_anything_heavy_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "sft.yaml").write_text("kind: sft\nmodel: ./gone\ndata: [{source: gone.jsonl}]\n")
    recipe = str(tmp_path / "sft.yaml")
    code = f"import sys; from smolalign.cli import main; sys.argv = ['smolalign', 'check', {recipe!r}]\n"
    code += "try: main()\nexcept SystemExit as end: assert end.code == 2"
    assert not loaded_by(code) & HEAVY


def test_the_version_is_said() -> None:
    ended = subprocess.run([sys.executable, "-m", "smolalign.cli", "--version"], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, f"smolalign {smolalign.__version__}\n")


def test_help_answers_at_once() -> None:
    seconds = []
    for _ in range(5):
        began = time.monotonic()
        ended = subprocess.run([sys.executable, "-m", "smolalign.cli", "--help"], capture_output=True, text=True)
        seconds.append(time.monotonic() - began)
        assert ended.returncode == 0
        assert "Assemble the SFT mixture" in ended.stdout
        if seconds[-1] < HELP_SECONDS / 2:
            break
    assert min(seconds) < HELP_SECONDS, seconds


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, smolalign.commands_look as commands; from smolalign.cli import main\n"
        # A shell that runs the suite in the background has its children ignore Ctrl-C.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "commands.check_recipes = lambda *_: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.argv = ['smolalign', 'check', 'nano']; main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 130
    assert ended.stderr.strip() == "stopped; run the same command again to go on"
