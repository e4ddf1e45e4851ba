"""The wheel carries everything that `smolalign run nano` needs, so that it works outside a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def unpacked_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as an installer lays it out."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(out)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (wheel,) = out.glob("smolalign-*.whl")
    site = out / "site"
    zipfile.ZipFile(wheel).extractall(site)
    return site


def run_from(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the unpacked package, not the checkout, from a folder of its own."""
    command = [sys.executable, "-m", "smolalign.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_holds_the_recipes_and_the_nano_data(unpacked_wheel: Path) -> None:
    shipped = unpacked_wheel / "smolalign" / "shipped"
    for part in ("recipes", "data/nano"):
        here = {p.relative_to(ROOT / part) for p in (ROOT / part).rglob("*") if p.is_file()}
        there = {p.relative_to(shipped / part) for p in (shipped / part).rglob("*") if p.is_file()}
        assert here == there


def test_the_wheel_holds_every_file_of_the_package(unpacked_wheel: Path) -> None:
    """Templates, styles and scripts of pages too, which no import would miss."""
    package = (ROOT / "smolalign").rglob("*")
    here = {p.relative_to(ROOT) for p in package if p.is_file() and "__pycache__" not in p.parts}
    assert {".py", ".jinja", ".css", ".js"} <= {path.suffix for path in here}
    assert {path for path in here if not (unpacked_wheel / path).is_file()} == set()


def test_the_installed_package_finds_its_recipes_and_their_data_from_an_empty_folder(
    unpacked_wheel: Path, tmp_path: Path
) -> None:
    ran = run_from(unpacked_wheel, tmp_path, "run", "nano", "--dry-run")
    assert ran.returncode == 0, ran.stderr
    assert "nothing wrong was found" in ran.stdout
    assert f"pretrain: would run into {Path('runs/nano/pretrain')}" in ran.stdout
    assert list(tmp_path.iterdir()) == []
