"""Command lines from dataclasses: flags by tyro, files by pydantic, one hash for both. Torch-free.

Every command of the project reads its settings so: a frozen dataclass is the settings; its fields
are the flags, and their docstrings the help. ``--config FILE.yaml`` gives values for fields, the
command line wins over the file, and the resolved settings can be written down and hashed.
"""

import argparse
import contextlib
import dataclasses
import difflib
import hashlib
import json
import sys
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["ConfigError", "config_hash", "load_config", "parse_command_line", "plain_config"]

T = TypeVar("T")


class ConfigError(ValueError):
    """A settings file that does not fit the settings. The message names the file and the field."""


def parse_command_line(
    kind: type[T], argv: Sequence[str] | None = None, prog: str = "", description: str = ""
) -> T:
    """Return the settings that the command line, the file it names and the defaults give.

    Exits with status 2, as argparse does, on bad usage: unknown flags (with a suggestion), values
    of a wrong type, a settings file with a misspelt key (with its path).

    Args:
        kind: A dataclass with a field ``config: Path | None`` for the file.
        argv: The arguments, those of the process by default.
        prog: Name of the command in the help.
        description: Shown above the flags.
    """
    import tyro

    arguments = list(sys.argv[1:] if argv is None else argv)
    before = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    before.add_argument("--config", type=Path)
    path = None
    # A bare "--config" is tyro's to complain about.
    with contextlib.suppress(argparse.ArgumentError):
        path = before.parse_known_args(arguments)[0].config
    default = None
    if path is not None:
        try:
            default = load_config(kind, path)
        except ConfigError as error:
            sys.stderr.write(f"{error}\n")
            raise SystemExit(2) from None
    return tyro.cli(
        kind, prog=prog or None, description=description, args=arguments, default=default
    )


def load_config(kind: type[T], path: Path) -> T:
    """Return the settings in a YAML file, checked field by field.

    Fields that the file leaves out keep their defaults; those without default are left to the
    command line (``tyro.MISSING``).

    Args:
        kind: The dataclass of the settings; nested dataclasses are nested mappings.
        path: Of the file.

    Raises:
        ConfigError: If the file cannot be read, a key is unknown, or a value has a wrong type.
    """
    import pydantic
    import tyro
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: not YAML: {error}") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"--config {path}: expected a mapping of settings, got {values!r}")
    _refuse_unknown(kind, values, path, "")

    required = [
        f.name
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
        and f.name not in values
    ]
    adapter = pydantic.TypeAdapter(kind)
    # A placeholder that any of our required fields (paths, names) takes; replaced below.
    try:
        loaded = adapter.validate_python(values | dict.fromkeys(required, "."))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise ConfigError(
            f"--config {path}: {where}: {first['msg']}; got {first['input']!r}"
        ) from None
    return dataclasses.replace(loaded, **dict.fromkeys(required, tyro.MISSING))


def _refuse_unknown(kind: Any, values: Any, path: Path, where: str) -> None:
    """Walk the values along the types: pydantic lets unknown keys of plain dataclasses pass."""
    if dataclasses.is_dataclass(kind) and isinstance(values, Mapping):
        hints = typing.get_type_hints(kind)
        known = [f.name for f in dataclasses.fields(kind)]
        for key, value in values.items():
            if key not in known:
                close = difflib.get_close_matches(str(key), known, 1)
                hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
                raise ConfigError(f"--config {path}: {where}{key}: no such setting; {hint}")
            _refuse_unknown(hints[key], value, path, f"{where}{key}.")
        return
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        for argument in arguments:
            if dataclasses.is_dataclass(argument):
                _refuse_unknown(argument, values, path, where)
    elif origin in (tuple, list) and isinstance(values, list):
        for index, value in enumerate(values):
            item = arguments[0] if len(arguments) < 2 or arguments[-1] is ... else None
            item = arguments[min(index, len(arguments) - 1)] if item is None else item
            _refuse_unknown(item, value, path, f"{where}{index}.")


def plain_config(settings: Any) -> dict[str, Any]:
    """Return a dataclass as plain YAML types: dicts, lists, numbers, strings."""
    return {f.name: _plain(getattr(settings, f.name)) for f in dataclasses.fields(settings)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain_config(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [_plain(item) for item in items]
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def config_hash(settings: Mapping[str, Any], leave_out: Collection[str] = ()) -> str:
    """Return 16 hex digits that stand for the settings.

    Args:
        settings: Of plain_config.
        leave_out: Top-level settings that do not change results.
    """
    kept = {k: v for k, v in settings.items() if k not in leave_out}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
