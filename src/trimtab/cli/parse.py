"""Command lines to dataclasses: tyro, plus `--config file.yaml` and the names TRL uses."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import MISSING, Field, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

from trimtab.documented import attribute_docstrings
from trimtab.errors import ConfigError

T = TypeVar("T")

_ALIASES = {"--model-name-or-path": "--model", "--train-data": "--data", "--dataset-name": "--data"}

CONFIG_HELP = "YAML file with options, one `name: value` a line; the command line wins over it."


def parse(options: type[T], argv: Sequence[str], command: str, description: str) -> T:
    """Read a command's options. The command line wins over `--config`.

    Raises:
        ConfigError: a bad config file or an impossible value.
        SystemExit: `--help` (0) or an option that is not there (2), with tyro's own text.
    """
    import tyro

    set_up_logging()
    arguments = [_alias(argument) for argument in argv]
    arguments = _joined(options, _with_config(options, arguments))
    shown: Any = _as_shown(options)
    text = _with_aliases(options, description)
    given = tyro.cli(shown, prog=f"trimtab {command}", description=text, args=arguments)
    return options(**{f.name: getattr(given, f.name) for f in fields(options)})  # type: ignore[arg-type]


def _as_shown(options: type[Any]) -> type[Any]:
    """The options in the order of `--help`, with `--config`, which is read before tyro reads."""
    import tyro

    kinds, texts = get_type_hints(options, include_extras=True), attribute_docstrings(options)
    shown: list[tuple[str, object, object]] = []
    for option in _in_order(options):
        help_text = tyro.conf.arg(help=texts.get(option.name))
        default = field(default=option.default, default_factory=option.default_factory)
        shown.append((option.name, Annotated[kinds[option.name], help_text], default))
    file = Annotated[str | None, tyro.conf.arg(help=CONFIG_HELP, metavar="FILE")]
    shown.append(("config", file, field(default=None)))
    return make_dataclass(options.__name__, shown, kw_only=True)


def _in_order(options: type[Any]) -> list[Field[Any]]:
    """What must be given first, then a command's own options, then those that others have too."""
    homes = [vars(kind).get("__annotations__", {}) for kind in options.__mro__]

    def place(option: Field[Any]) -> int:
        required = option.default is MISSING and option.default_factory is MISSING
        first = max(i for i, names in enumerate(homes) if option.name in names)
        return -1 if required else first  # one that a command has in its own way stays in its place

    return sorted(fields(options), key=place)


def _with_aliases(options: type[Any], description: str) -> str:
    """A command's description, and the other names that its options have."""
    flags = {f"--{f.name}" for f in fields(options)}
    also = ", ".join(f"{alias} ({name})" for alias, name in _ALIASES.items() if name in flags)
    return f"{description} Also understood: {also}." if also else description


def set_up_logging() -> None:
    """Our own words on stderr; the libraries' only when something is wrong."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.basicConfig(format="trimtab: %(message)s", level=logging.WARNING)
    logging.getLogger("trimtab").setLevel(logging.INFO)


def quiet_libraries() -> None:
    """No progress bars from transformers, where it is there already; else the environment says so.

    It is not imported here: what can be refused without it is refused in a second.
    """
    if (transformers := sys.modules.get("transformers")) is not None:
        transformers.utils.logging.disable_progress_bar()


def _alias(argument: str) -> str:
    name, equals, value = argument.partition("=")
    plain = name.replace("_", "-") if name.startswith("--") else name
    return _ALIASES.get(plain, name) + equals + value


def _joined(options: type[Any], argv: list[str]) -> list[str]:
    """A list option that is given twice has the values of both; tyro would take the last alone."""
    lists = {
        f.name for f in fields(options) if "list" in str(f.type) and "Append" not in str(f.type)
    }
    kept: list[str] = []
    values: dict[str, list[str]] = {}
    into = kept
    for argument in argv:
        if argument.startswith("--"):
            flag, equals, value = argument.partition("=")
            into = values.setdefault(flag, []) if _option(flag) in lists else kept
            if into is not kept:
                into += [value] if equals else []
                continue
        into.append(argument)
    return [*kept, *(part for flag, given in values.items() for part in (flag, *given))]


def _with_config(options: type[Any], argv: list[str]) -> list[str]:
    """Replace `--config FILE` by those options in the file that the command line does not give."""
    argv = [part for a in argv for part in (a.split("=", 1) if a.startswith("--config=") else [a])]
    if "--config" not in argv:
        return argv
    at = argv.index("--config")
    if at + 1 >= len(argv):
        raise ConfigError("--config names no file", "write --config file.yaml")
    rest = [*argv[:at], *argv[at + 2 :]]
    given = {_option(argument) for argument in rest if argument.startswith("--")}
    return [*_read_config(options, Path(argv[at + 1]), given), *rest]


def _option(argument: str) -> str:
    """The option that an argument names: `--no-group-by-length` is `group_by_length`."""
    name = argument.partition("=")[0].removeprefix("--").replace("-", "_")
    return name.removeprefix("no_")


def _read_config(options: type[Any], path: Path, given: set[str]) -> list[str]:
    import yaml

    if not path.is_file():
        raise ConfigError(f"no config file at {path}", "check the path")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML ({error})", "mend the file") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no mapping", "write one `option: value` a line")
    known = {field.name: str(field.type) for field in fields(options)}
    arguments: list[str] = []
    for key, value in values.items():
        name = _alias(f"--{key}".replace("_", "-"))[2:].replace("-", "_")
        if name not in known:
            raise ConfigError(f"{path} has an unknown option {key!r}", "see --help for the names")
        if name not in given:
            arguments += _as_arguments(name.replace("_", "-"), value, known[name])
    return arguments


def _as_arguments(flag: str, value: object, kind: str) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        if kind != "bool":  # YAML reads `save_strategy: no` as false
            return [f"--{flag}", "yes" if value else "no"]
        return [f"--{flag}" if value else f"--no-{flag}"]
    if isinstance(value, dict):  # `preference: {helpful: 1, harmless: 0}`
        value = [f"{name}={item}" for name, item in value.items()]
    if "UseAppendAction" in kind:
        values = value if isinstance(value, list) else [value]
        return [part for item in values for part in (f"--{flag}", str(item))]
    if isinstance(value, list):
        texts = [str(item) for item in value]
        return [f"--{flag}", *(texts if "list" in kind else [",".join(texts)])]
    return [f"--{flag}", str(value)]
