"""What the commands do in several processes, and on clusters."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smolalign import launch
from smolalign.commands import (
    neighbours,
    one_recipe,
    read_chain,
    report_checks,
    run_one,
    say_what_would_run,
    show_results,
    step_name,
)
from smolalign.console import print_finding, print_line, print_step
from smolalign.errors import UserError, UserErrors
from smolalign.launch import Launch, plan
from smolalign.pipeline import StepResult, default_run_folder, find_done, require_division
from smolalign.processes import LAUNCHED
from smolalign.recipe.batch import divide
from smolalign.recipe.load import Recipe, load_recipe
from smolalign.recipe.schema import TrainStep
from smolalign.recipe.shipped import LAUNCH_CONFIGS, RECIPES, find_recipe
from smolalign.store import is_done, write_text

_SECONDS_BETWEEN_LOOKS = 1.0


def launch_one(
    kind: str,
    argument: str | None,
    overrides: Sequence[str],
    out: Path | None,
    *,
    fresh: bool,
    dry_run: bool,
    planned: Launch,
    explain: bool = False,
    model: str | None = None,
    data: Sequence[str] | None = None,
) -> None:
    """One training step in several processes, each of which does what `run_one` does, unless the step is done."""
    recipe = one_recipe(kind, argument, overrides, model, data)
    require_division(recipe, planned.processes)
    if not dry_run:
        _, done = find_done(step_name(recipe), recipe, out or default_run_folder(recipe))
    if dry_run or (done and not fresh):
        run_one(kind, argument, overrides, out, fresh=False, dry_run=dry_run, explain=explain, model=model, data=data)
        return
    arguments = [kind, *([argument] if argument is not None else []), *overrides]
    for option, values in (("--model", [model]), ("--data", data or []), ("--out", [out])):
        arguments += [word for value in values if value is not None for word in (option, str(value))]
    launch.launch([*arguments, *(["--fresh"] if fresh else []), *(["--explain"] if explain else [])], planned)


def launch_chain(
    argument: str,
    overrides: Sequence[str],
    out: Path | None,
    *,
    fresh: bool,
    dry_run: bool,
    planned: Launch,
    step: str | None = None,
) -> None:
    """`smolalign run --launch`: each training step in several processes, each other step in one, on machine 0."""
    steps, run_folder = read_chain(argument, overrides, out, step)
    wanted = {name: recipe for name, recipe in steps.items() if step in (None, name)}
    _require_divisions(wanted, planned.processes)
    if fresh and planned.machines > 1:
        raise UserError("--fresh on several machines", mend=f"remove {run_folder} instead, once, before they begin")
    if dry_run:
        say_what_would_run(steps, run_folder, step)
        return
    words = ["run", argument, *overrides, "--out", str(run_folder), *(["--fresh"] if fresh else [])]
    results = [_launched(name, recipe, run_folder, words, planned, fresh) for name, recipe in wanted.items()]
    if planned.machine == 0:
        show_results(results, run_folder)


def _launched(
    name: str, recipe: Recipe, run_folder: Path, words: Sequence[str], planned: Launch, fresh: bool
) -> StepResult:
    """A step of the chain, done before or now."""
    resolved, done = find_done(name, recipe, run_folder)
    if done and not fresh:
        if planned.machine == 0:
            print_step(name, done.manifest, True)
        return done
    if isinstance(recipe.step, TrainStep):
        launch.launch([*words, "--step", name], planned)
    elif planned.machine == 0:
        _in_own_process([*words, "--step", name])
    # Other machines wait for what the first one does alone, and writes last.
    while not is_done(run_folder / name, resolved.fingerprint):
        if planned.machine == 0:
            raise UserError(f"the step {name} ended, but is not done", where=str(run_folder / name))
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    _, result = find_done(name, recipe, run_folder)
    assert result is not None
    return StepResult(name, result.folder, result.manifest, cached=False)


def _in_own_process(words: Sequence[str]) -> None:
    """A step that takes one process, and leaves the memory of devices free when it is done. It says itself what ends
    it."""
    ended = subprocess.run(
        [sys.executable, "-m", "smolalign.cli", *words], env={**os.environ, LAUNCHED: "1"}, check=False
    )
    if ended.returncode:
        raise SystemExit(ended.returncode if ended.returncode > 0 else 128 - ended.returncode)


def _require_divisions(steps: Mapping[str, Recipe], processes: int) -> None:
    """Raises UserErrors with every step whose global batch does not divide."""
    problems = []
    for recipe in steps.values():
        try:
            require_division(recipe, processes)
        except UserError as error:
            problems.append(error)
    if problems:
        raise UserErrors(problems)


def write_slurm_job(
    argument: str,
    overrides: Sequence[str],
    out: Path | None,
    file: Path | None,
    *,
    gpus: int,
    nodes: int,
    config: str,
    asked: Mapping[str, Any],
) -> None:
    """`smolalign launch --slurm`: write the job file, print it, and say how it is submitted."""
    from smolalign.cluster.job import Job, job_name, require_devices, trains
    from smolalign.cluster.slurm import Slurm, slurm_script

    kind, steps, run_folder = _checked(argument, overrides, out, gpus * nodes)
    plan(gpus * nodes, config)
    own = Path(config)
    job = Job(
        job_name(run_folder.name),
        (kind, _place(argument, Path.cwd()), *overrides, "--out", str(run_folder)),
        trains(steps.values()),
        gpus,
        nodes,
        str(own.resolve()) if own.is_file() else config,
    )
    require_devices(job)
    _write(file or Path(f"{job.name}.slurm"), slurm_script(job, Slurm(**asked), Path.cwd()), "sbatch")


def write_sky_task(
    argument: str,
    overrides: Sequence[str],
    out: Path | None,
    file: Path | None,
    *,
    gpus: int,
    nodes: int,
    config: str,
    gpu_type: str | None,
    storage: str | None,
) -> None:
    """`smolalign launch --skypilot`: write the task file, print it, and say how it is submitted."""
    from smolalign.cluster.job import Job, extras, job_name, local_files, require_devices, trains
    from smolalign.cluster.skypilot import KEPT, Sky, remote_place, sky_task, submit_command

    if gpu_type is None:
        raise UserError("--skypilot needs the kind of GPU", mend="add --gpu-type, such as --gpu-type H100")
    if not (LAUNCH_CONFIGS / f"{config}.yaml").is_file():
        names = ", ".join(sorted(path.stem for path in LAUNCH_CONFIGS.glob("*.yaml")))
        raise UserError(f"--config {config} is not on the rented machine", mend=f"name one of {names}")
    kind, steps, run_folder = _checked(argument, overrides, out, gpus * nodes)
    recipe_file = find_recipe(argument)
    shipped = recipe_file.resolve().is_relative_to(RECIPES.resolve())
    # The pipeline's own file may be in none of its steps.
    files = [] if shipped else local_files([load_recipe(recipe_file), *steps.values()])
    if out is None and storage is not None:
        run_folder = Path(KEPT) / run_folder.name
    job = Job(
        job_name(run_folder.name),
        (kind, _place(argument, remote_place(files)), *overrides, "--out", str(run_folder)),
        trains(steps.values()),
        gpus,
        nodes,
        config,
    )
    require_devices(job)
    asked = Sky(gpu_type, storage)
    target = file or Path(f"{job.name}.sky.yaml")
    _write(target, sky_task(job, asked, files, extras(steps.values())), submit_command(job, asked, str(target)))


def _checked(
    argument: str, overrides: Sequence[str], out: Path | None, processes: int
) -> tuple[str, dict[str, Recipe], Path]:
    """The command, the steps and the run's folder of a recipe in which nothing wrong was found.

    What it takes of memory is not looked at: the machine that it runs on is another one.
    """
    from smolalign.check import check_steps

    file = find_recipe(argument)
    kind = load_recipe(file, () if load_recipe(file).kind == "pipeline" else overrides).kind
    if kind == "pipeline":
        command = "run"
        steps, run_folder = read_chain(argument, overrides, out)
        around: dict[str, Recipe] = steps
        only = None
    else:
        command = kind
        recipe = load_recipe(file, overrides)
        name = step_name(recipe)
        steps, run_folder = {name: recipe}, out or default_run_folder(recipe)
        around, only = {**neighbours(recipe), name: recipe}, name
    _require_divisions(steps, processes)
    report_checks(check_steps(around, run_folder, only, memory=False))
    for name, recipe in steps.items() if processes > 1 else ():
        if isinstance(recipe.step, TrainStep) and recipe.step.global_batch_size is None:
            alone, together = (divide(None, recipe.step.trainer, count).rows for count in (1, processes))
            told = f"{together} rows a step, {alone} in one process: global_batch_size is what keeps them"
            print_finding(name, told, warning=True)
    return command, steps, run_folder


def _place(argument: str, folder: Path) -> str:
    """A recipe as it is named in a folder: a shipped one by its name, a file by its path from there."""
    file = find_recipe(argument)
    if file.resolve().is_relative_to(RECIPES.resolve()):
        return file.resolve().relative_to(RECIPES.resolve()).with_suffix("").as_posix()
    return os.path.relpath(os.path.abspath(file), folder)


def _write(file: Path, text: str, submit: str) -> None:
    """Write a job file unless another one is there, print it, and say with what it is submitted."""
    if file.exists() and (not file.is_file() or file.read_text(encoding="utf-8") != text):
        raise UserError(
            f"{file} is there already, and differs", mend="choose another name with --out-file, or remove it"
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write there: {error.strerror}", where=str(file)) from None
    write_text(file, text)
    print_line(text.rstrip("\n"))
    print_line(
        f"wrote {file}; submit it with:  {submit if submit.startswith('sky') else shlex.join([submit, str(file)])}"
    )
