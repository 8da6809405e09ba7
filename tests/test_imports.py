"""What a module may load: light commands, a torch-free curation, no licensed package."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = [
    folder.name
    for folder in sorted(ROOT.iterdir())
    if (folder / "__init__.py").exists() and folder.name != "tests"
]
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
HEAVY = (
    "torch",
    "smplx",
    "open3d",
    "mediapipe",
    "pandas",
    "scipy",
    "gradio",
    "cv2",
    "matplotlib",
    "trimesh",
)


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def loaded_by(*arguments):
    """Names of all modules that a Python process has imported, and its exit status."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[-1].strip() for line in lines}, done


def runs_as_command(path):
    """Whether the module has something to do under ``python -m``."""
    if path.name == "__main__.py":
        return True
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test):
            return True
    return False


COMMANDS = [module_name(path) for path in SOURCES if runs_as_command(path)]


def test_the_probe_sees_a_heavy_import():
    # Otherwise the tests below could not fail.
    modules, done = loaded_by("-c", "import torch")
    assert done.returncode == 0
    assert {"torch", "torch.nn"} <= modules


def test_packages_and_commands_are_found():
    assert {"bodymodel", "curation", "fitting"} <= set(PACKAGES)
    assert "fitting.demo" in COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_light(command):
    """Half a second is for loading tyro and numpy; one heavy import alone takes longer."""
    modules, done = loaded_by("-m", command, "--help")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "usage" in done.stdout.lower()
    assert not modules & set(HEAVY)


@pytest.mark.parametrize(
    "module",
    [module_name(p) for p in SOURCES if p.relative_to(ROOT).parts[0] == "curation"]
    + ["bodymodel", "bodymodel.spec", "bodymodel.keypoints", "bodymodel.body"],
)
def test_torch_free_modules_do_not_load_torch(module):
    modules, done = loaded_by("-c", f"import {module}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert not modules & {"torch", "open3d", "mediapipe", "gradio"}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_nothing_imports_what_a_user_may_not_have(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.add(node.module.split(".")[0])
    # smplx: its licence is for non-commercial research; it is an oracle of the tests, and a choice
    # of the reference solver.
    if module_name(path) != "fitting.reference_mesh":
        assert "smplx" not in imported
    assert not imported & {"pytest", "hypothesis", "tests"}
