"""What pyproject.toml, the Makefile and the README promise is there."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from setuptools import find_packages

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
README = (ROOT / "README.md").read_text()
CONSTRAINTS = {
    re.sub(r"[-_.]+", "-", requirement.name).lower(): requirement
    for requirement in (
        Requirement(line)
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )
}
REQUIREMENTS = [
    Requirement(text)
    for text in PROJECT["project"]["dependencies"]
    + [r for extra in PROJECT["project"]["optional-dependencies"].values() for r in extra]
]


def listed_packages():
    find = PROJECT["tool"]["setuptools"]["packages"]["find"]
    return set(find_packages(str(ROOT), include=find["include"]))


def test_every_package_of_ours_is_listed_and_no_other():
    ours = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in ROOT.glob("[a-z]*/**/__init__.py")
        if path.relative_to(ROOT).parts[0] not in ("tests", "build", "demo")
    }
    assert listed_packages() == ours
    assert {"bodymodel", "curation", "fitting"} <= ours


def test_import_rules_cover_every_package():
    tops = {name.split(".")[0] for name in listed_packages()}
    assert set(PROJECT["tool"]["importlinter"]["root_packages"]) == tops


def test_package_data_is_shipped():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["*"]
    for package in listed_packages():
        folder = ROOT / Path(*package.split("."))
        shipped = {path for pattern in patterns for path in folder.glob(pattern)}
        data = {
            path
            for path in (*folder.glob("*"), *folder.glob("data/**/*"))
            if path.is_file() and path.suffix not in (".py", ".pyc", ".pyi")
        }
        assert data <= shipped, f"{package}: not matched by package-data"


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda r: r.name)
def test_requirements_are_bounded_and_pinned_to_a_version_that_satisfies_them(requirement):
    operators = {spec.operator for spec in requirement.specifier}
    assert operators & {"<", "=="}, "an upper bound, so that a new major is a decision"
    pin = CONSTRAINTS[re.sub(r"[-_.]+", "-", requirement.name).lower()]
    (spec,) = pin.specifier
    assert spec.operator == "=="
    assert requirement.specifier.contains(spec.version)


def test_constraints_hold_nothing_but_names_and_versions():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    for line in lines:
        assert line.startswith("#") or re.fullmatch(r"[\w.-]+==[\w.]+", line), line


def test_tables_and_numbers_load_together():
    # pyarrow 26 installs beside numpy 1 and then refuses to be imported.
    done = subprocess.run(
        [sys.executable, "-c", "import numpy, pandas, pyarrow.parquet, scipy.optimize"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert version("numpy").startswith("1.26")


def code_blocks(text):
    return re.findall(r"```(?:sh|bash|console)?\n(.*?)```", text, re.S)


def commands_in_readme():
    return [
        line.strip().removeprefix("$ ")
        for block in code_blocks(README)
        for line in block.splitlines()
    ]


def test_readme_stays_short():
    assert len(README.splitlines()) < 200


def test_readme_modules_exist():
    modules = set(re.findall(r"python -m ([a-z_]+(?:\.[a-z_]+)*)", README))
    assert "fitting.run" in modules
    missing = [m for m in modules if find_spec(m) is None]
    assert not missing


def test_readme_flags_exist():
    """Every flag that a README line gives to one of our commands is in that command's help."""
    helps = {}
    for line in commands_in_readme():
        match = re.search(r"python -m ([a-z_.]+)(.*)", line.split("#")[0])
        if not match:
            continue
        module, rest = match.groups()
        if module not in helps:
            done = subprocess.run(
                [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            helps[module] = done.stdout
        for flag in re.findall(r"(--[a-z][a-z0-9-]*)", rest):
            assert flag in helps[module], f"{module} has no {flag}"


def test_readme_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.M))
    assert {"demo", "test"} <= named <= targets


def test_links_and_pictures_of_the_documents_resolve():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if not link.startswith(("http://", "https://")):
                assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_licence_files_are_there_and_say_what_they_must():
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    notice = (ROOT / "NOTICE").read_text()
    for credit in ("NAVER", "MakeHuman", "mocap.cs.cmu.edu", "NSF EIA-0196217"):
        assert credit in notice


def test_setup_script_refuses_an_unsuitable_python(tmp_path):
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "setup.sh"), "run"],
        env={"PATH": "/usr/bin:/bin", "PYTHON": "/bin/false"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Python 3.11 or 3.12" in done.stderr


def test_setup_script_names_missing_libraries_in_one_line_to_who_is_not_root(tmp_path):
    def script(name, text):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    # A machine without libusb and without the venv module, and a user who is not root.
    script("id", "echo 1000")
    script(
        "python",
        f"""case "$*" in *libusb*|*ensurepip*) exit 1;; esac; exec {sys.executable} "$@" """,
    )
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "setup.sh"), "run"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHON": str(tmp_path / "python")},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert line.endswith(f"sudo apt-get install libusb-1.0-0 python{version}-venv")
