"""Parses the command line and the TOML file of ``--config`` into a configuration.

A TOML file has one table per command (``[prepare]``, ``[train]`` ...), so one file can hold a whole recipe. Its values
become flags in front of those of the command line: one parser, one set of types, one set of errors for both.
"""

import contextlib
import dataclasses
import inspect
import io
import os
import re
import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from whisper_shard.config.hints import hint_at_setting
from whisper_shard.config.plugins import list_plugin_settings
from whisper_shard.config.settings import Section, describe_settings, list_sections, list_settings, replace_settings
from whisper_shard.errors import ConfigError, suggest

TABLES = ("prepare", "index", "filter", "verify", "inspect", "bench", "train", "score", "transcribe", "demo", "doctor")
"""Tables that a TOML file can have: the commands."""
_REWORDED = (
    (r"Missing from .*?: ", "needs "),
    (r"([A-Z]+) (\S.*?) \(required\)", r"\1 (\2)"),
    (r"Missing value for argument '(\S+)'\. Expected 1 .*", r"\1 needs a value"),
    (r"Missing value for argument '(\S+)'\. Expected (\d+) .*", r"\1 needs \2 values"),
    (r"Error parsing (\S+): invalid literal for int\(\) with base 10: (.*)", r"\1 is \2; it must be a whole number"),
    (r"Error parsing (\S+): could not convert string to float: (.*)", r"\1 is \2; it must be a number"),
    (r"Error parsing (\S+): no type matching (\S+) .*? from \[(.*?)\].*", r"\1 is \3; it must be \2"),
    (r"Error parsing (\S+): Could not .*? arguments:? \[(.*?)\].*", r"\1 is \2; it must be numbers"),
    (r"invalid choice (.*?) for argument '(\S+)'\. Expected one of \((.*?)\) ?\.", r"\2 is \1; it must be one of \3"),
    (r"Unrecognized options: (.*)", r"unexpected \1: it is not a flag, and no argument is missing"),
)
"""Patterns of tyro's messages, and the messages shown instead: the argument, its value, what it must be."""
Config = TypeVar("Config")


def load_config(
    kind: type[Config],
    *,
    command: str,
    argv: Sequence[str],
    positionals: Mapping[str, str],
    repeated: str = "",
    replaced: Mapping[str, str] | None = None,
    note: str = "",
) -> tuple[Config, dict[str, Any]]:
    """Parse a command line; its flags override the table ``[command]`` of ``--config FILE.toml``.

    Args:
        kind: The command's configuration class.
        command: Name of the command, and of its TOML table.
        argv: Arguments after the command's name.
        positionals: Help text of each required positional argument, by name.
        repeated: Name of the positional argument that may be given several times; empty: none.
        replaced: Positional arguments that are left out, and empty, where a setting is given: the setting by name.
        note: What ``--help`` says below the description.

    Returns:
        The configuration, and the positional arguments by name.

    Raises:
        ConfigError: Unknown flag or TOML key (with the nearest that exists), wrong type, impossible value, or a
            required argument that is missing.
        SystemExit: After ``--help``, with code 0.
    """
    import tyro

    file, rest = _take_config_flag(list(argv))
    table = _read_table(file, command, kind) if file else {}
    defaults = list_plugin_settings(kind)
    plugins = {name: tuple(table.get(name, default)) for name, default in defaults.items()}
    flags = _toml_flags(kind, {name: value for name, value in table.items() if name not in plugins})
    _check_flag_names(kind, rest, command)
    left_out = {name for name, setting in (replaced or {}).items() if _is_given(setting, table, rest)}
    positionals = {name: text for name, text in positionals.items() if name not in left_out}
    arguments = _make_arguments(kind, positionals, repeated=repeated, without=plugins)
    with _one_line_errors(command), _colors_as_wanted():
        # OmitArgPrefixes: a setting in a section is --lr, not --optimizer.lr.
        parsed: Any = tyro.cli(
            arguments,
            prog=f"whisper-shard {command}",
            description=f"{inspect.cleandoc(kind.__doc__ or '')}\n\n{_describe_file(command, list(plugins))}\n\n{note}",
            args=[*flags, *rest],
            config=(tyro.conf.OmitArgPrefixes,),
        )
    sections = [getattr(parsed, _member_of(section)) for section in list_sections(kind)]
    values = {field.name: getattr(section, field.name) for section in sections for field in dataclasses.fields(section)}
    paths = {name: getattr(parsed, name) for name in positionals}
    return replace_settings(kind(), {**values, **plugins}), {**dict.fromkeys(left_out, ""), **paths}


def _is_given(setting: str, table: Mapping[str, Any], argv: Sequence[str]) -> bool:
    """Return whether a setting is in the TOML file or on the command line."""
    flag = "--" + setting.replace("_", "-")
    return bool(table.get(setting)) or any(word == flag or word.startswith(f"{flag}=") for word in argv)


def _make_arguments(kind: type, positionals: Mapping[str, str], *, repeated: str, without: Collection[str]) -> type:
    """Return a dataclass with the positional arguments, and one dataclass of settings for each section of --help."""
    import tyro

    helps = describe_settings(kind)
    members: list[tuple[str, Any, Any]] = [
        (
            name,
            Annotated[
                tuple[str, ...] if name == repeated else str,
                tyro.conf.Positional,
                tyro.conf.arg(
                    help=text,
                    metavar=f"{name.upper()} ..." if name == repeated else name.upper(),
                    help_behavior_hint=_describe_default if name == repeated else None,
                ),
            ],
            dataclasses.field(),
        )
        for name, text in positionals.items()
    ]
    for section in list_sections(kind):
        settings = [field for field in section.fields if field.name not in without]
        made = dataclasses.make_dataclass(
            section.name,
            [(field.name, _as_argument(field, helps[field.name]), _default_of(field)) for field in settings],
            kw_only=True,
        )
        made.__doc__ = section.description
        title = tyro.conf.arg(name="" if section.name == "options" else section.name)
        members.append((_member_of(section), Annotated[made, title], dataclasses.field(default_factory=made)))
    arguments = dataclasses.make_dataclass("arguments", members, kw_only=True)
    arguments.__doc__ = kind.__doc__
    return arguments


def _member_of(section: Section) -> str:
    return f"{section.name}_options"  # not the name of an argument, which may be that of the section


def _as_argument(field: dataclasses.Field[Any], text: str) -> Any:
    """Return the type of a setting with its help."""
    import tyro

    choices = [choice for choice in get_args(field.type) if choice] if get_origin(field.type) is Literal else []
    metavar = "{" + ",".join(choices) + "}" if choices else None  # tyro would also show the empty one
    return Annotated[field.type, tyro.conf.arg(help=text, help_behavior_hint=_describe_default, metavar=metavar)]


def _default_of(field: dataclasses.Field[Any]) -> Any:
    return dataclasses.field(default=field.default)


def _describe_default(default: str) -> str:
    """Return a default as help shows it; an empty one is explained by the help text itself."""
    words = {"''": "", "": "", "True": "(default: on)", "False": "(default: off)"}
    return words.get(default, f"(default: {default})")


@contextlib.contextmanager
def _colors_as_wanted() -> Iterator[None]:
    """Let help be printed without colors if NO_COLOR is set, which tyro does not look at; https://no-color.org."""
    if not os.environ.get("NO_COLOR"):
        yield
        return
    plain = io.StringIO()  # no terminal, so tyro does not color what it prints
    try:
        with contextlib.redirect_stdout(plain):
            yield
    finally:
        sys.stdout.write(plain.getvalue())


def _describe_file(command: str, plugins: Sequence[str]) -> str:
    text = f"Every flag can also be set in a TOML file: --config FILE.toml, table [{command}]."
    return text + f" Only there: {', '.join(f'[[{command}.{name}]]' for name in plugins)}." if plugins else text


def _take_config_flag(argv: list[str]) -> tuple[Path | None, list[str]]:
    for position, argument in enumerate(argv):
        if argument == "--config":
            if position + 1 == len(argv):
                raise ConfigError("--config needs a file: --config FILE.toml")
            return Path(argv[position + 1]), argv[:position] + argv[position + 2 :]
        if argument.startswith("--config="):
            return Path(argument.removeprefix("--config=")), argv[:position] + argv[position + 1 :]
    return None, argv


def _read_table(file: Path, command: str, kind: type) -> Mapping[str, Any]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot read the configuration: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from error
    for name, table in content.items():
        if not isinstance(table, dict):
            raise ConfigError(
                f"{file}: {name} is outside of any table; put it below [{command}], if that is its command"
            )
        if name not in TABLES:
            raise ConfigError(f"{file}: unknown table [{name}]{suggest(name, TABLES)}; there are {', '.join(TABLES)}")
    chosen: Mapping[str, Any] = content.get(command, {})
    _check_table(chosen, kind, file=file, command=command)
    return chosen


def _check_table(table: Mapping[str, Any], kind: type, *, file: Path, command: str) -> None:
    """Check what would be lost or misread when values become flags; the rest is checked with the flags.

    Raises:
        ConfigError: An unknown setting, or a value of the wrong shape.
    """
    where = f"{file}: [{command}]"
    known = {name: field.default for name, field in list_settings(kind).items()}
    plugins = list_plugin_settings(kind)
    for name, value in table.items():
        if name not in known:
            raise ConfigError(f"{where} has no setting {name!r}{hint_at_setting(name, list(known), command=command)}")
        if isinstance(known[name], bool) and not isinstance(value, bool):
            raise ConfigError(f"{where} {name} is {value!r}; it must be true or false")
        if isinstance(value, list) and not isinstance(known[name], tuple):
            raise ConfigError(f"{where} {name} is {value}; it must be one value, not a list")
        if name in plugins and not (isinstance(value, list) and all(isinstance(plugin, dict) for plugin in value)):
            raise ConfigError(f"{where} {name} must be a list of tables: [[{command}.{name}]]")
        if isinstance(value, dict):
            raise ConfigError(f"{where} {name} must be a plain value, not a table")


def _toml_flags(kind: type, table: Mapping[str, Any]) -> Iterator[str]:
    """Yield the settings of a table as flags.

    The values could become tyro's default instead, but tyro neither converts nor checks defaults: types would need
    checks of their own here, and mistakes in a file would read differently from those on the command line.
    """
    # Lists come first, and a flag with a single value behind them: else a list would take positionals for its own.
    lists = {name: value for name, value in table.items() if isinstance(value, list)}
    scalars = {name: f.default for name, f in list_settings(kind).items() if isinstance(f.default, int | float | str)}
    end = dict(list(scalars.items())[:1]) if lists else {}
    for name, value in {**lists, **end, **table}.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            yield flag if value else "--no-" + flag[2:]
        elif isinstance(value, list):
            yield from (flag, *map(str, value))
        else:
            yield f"{flag}={value}"


def _check_flag_names(kind: type, argv: Sequence[str], command: str) -> None:
    """Check that each argument that looks like a flag is one.

    Raises:
        ConfigError: It is not; names the nearest flag.
    """
    plugins = list_plugin_settings(kind)
    settings = {name: field for name, field in list_settings(kind).items() if name not in plugins}
    switches = {f"no_{name}" for name, field in settings.items() if field.type in (bool, "bool")}
    known = {"help", "config", *settings, *switches}
    for argument in argv:
        name = argument.removeprefix("--").split("=")[0].replace("-", "_")
        if argument.startswith("--") and name not in known:
            hint = hint_at_setting(name, [*settings, "config"], command=command, as_flag=True)
            raise ConfigError(f"whisper-shard {command}: unknown flag --{name.replace('_', '-')}{hint}")


@contextlib.contextmanager
def _one_line_errors(command: str) -> Iterator[None]:
    """Turn the boxes that tyro draws around bad values into a ConfigError; leave help alone."""
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            yield
    except SystemExit as stop:
        lines = [line.strip("\u2502 ") for line in captured.getvalue().splitlines()[1:]]
        text = " ".join(lines[: next((i for i, line in enumerate(lines) if line.startswith("\u2500")), len(lines))])
        if stop.code != 2:
            raise
        for pattern, words in _REWORDED:
            text = re.sub(pattern, words, text)
        raise ConfigError(f"whisper-shard {command}: {text}; see whisper-shard {command} --help") from None
