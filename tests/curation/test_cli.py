"""Settings from files and flags: the flag wins, misspelt keys are named, hashes are stable."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import tyro
import yaml

from curation.cli import ConfigError, config_hash, load_config, parse_command_line, plain_config


@dataclass(frozen=True)
class Stage:
    max_iters: int = 3
    weight: float = 1.0


@dataclass(frozen=True)
class Solver:
    stages: tuple[Stage, ...] = (Stage(), Stage(4))
    tolerance: float = 1e-3


@dataclass(frozen=True)
class Settings:
    data: tyro.conf.Positional[Path]
    """Where the photos are."""
    config: Path | None = None
    """Settings file."""
    batch_size: int | Literal["auto"] = "auto"
    """Persons at a time."""
    resume: bool = True
    """Go on."""
    fit: Solver = Solver()


def write(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return path


def test_the_command_line_wins_over_the_file(tmp_path):
    path = write(
        tmp_path, "batch_size: 8\nresume: false\nfit: {stages: [{}, {max_iters: 7, weight: 1e-3}]}"
    )
    settings = parse_command_line(
        Settings, ["d", "--config", str(path), "--batch-size", "2", "--fit.stages.0.max-iters", "9"]
    )
    assert settings.data == Path("d")
    assert settings.batch_size == 2
    assert settings.resume is False
    assert settings.fit.stages == (Stage(9), Stage(7, 0.001))
    assert settings.config == path
    assert parse_command_line(Settings, ["d", f"--config={path}"]).batch_size == 8


def test_the_file_may_name_the_data(tmp_path):
    path = write(tmp_path, "data: photos")
    assert parse_command_line(Settings, ["--config", str(path)]).data == Path("photos")


def test_data_is_required_even_with_a_file(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        parse_command_line(Settings, ["--config", str(write(tmp_path, "batch_size: 8"))])
    assert error.value.code == 2
    assert "required" in capsys.readouterr().err.lower()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("bach_size: 3", r"bach_size: no such setting; did you mean batch_size"),
        ("fit: {stages: [{}, {max_itres: 1}]}", r"fit\.stages\.1\.max_itres: .* max_iters\?"),
        ("fit: {tolerance: small}", r"fit\.tolerance: .*number.* got 'small'"),
        ("batch_size: many", r"batch_size"),
        ("- 1", r"expected a mapping"),
        ("a: [", r"not YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_the_path(tmp_path, text, match):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=match):
        load_config(Settings, path)
    with pytest.raises(SystemExit) as error:
        parse_command_line(Settings, ["d", "--config", str(path)])
    assert error.value.code == 2


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_config(Settings, tmp_path / "none.yaml")


def test_unknown_flags_get_a_suggestion(capsys):
    with pytest.raises(SystemExit) as error:
        parse_command_line(Settings, ["d", "--bach-size", "3"])
    assert error.value.code == 2
    assert "--batch-size" in capsys.readouterr().err


def test_resolved_settings_survive_a_file(tmp_path):
    settings = Settings(Path("d"), fit=Solver((Stage(5, 0.5),)))
    path = write(tmp_path, yaml.safe_dump(plain_config(settings)))
    assert load_config(Settings, path) == settings


def test_the_hash_heeds_what_changes_results():
    base = plain_config(Settings(Path("d")))
    other = plain_config(Settings(Path("elsewhere")))
    assert config_hash(base) != config_hash(other)
    assert config_hash(base, {"data"}) == config_hash(other, {"data"})
    deeper = plain_config(Settings(Path("d"), fit=Solver((Stage(), Stage(5)))))
    assert config_hash(base, {"data"}) != config_hash(deeper, {"data"})
    assert config_hash(base) == config_hash(dict(reversed(base.items())))
