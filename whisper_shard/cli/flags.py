"""TOML first, flags after: one parser, one set of types, one set of errors for both.

A TOML file has one table per command (``[prepare]``, ``[train]`` ...), so one file can hold a whole recipe. Its leaves
become flags placed before the ones of the command line.
"""

import contextlib
import dataclasses
import inspect
import io
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from whisper_shard.config.toml import is_steps, steps_of
from whisper_shard.errors import ConfigError, suggest

TABLES = ("prepare", "verify", "inspect", "bench", "train", "score", "demo", "doctor")
"""Tables that a TOML file can have: the commands."""
_IN_OUR_WORDS = (
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
"""What the parser says, and what we say: the argument, its value, what it must be."""
Config = TypeVar("Config")


def load_config(
    kind: type[Config], *, command: str, argv: Sequence[str], positionals: Mapping[str, str]
) -> tuple[Config, dict[str, str]]:
    """Parse a command line, with the table ``[command]`` of ``--config FILE.toml`` standing before its flags.

    Args:
        kind: The command's configuration class.
        command: Name of the command, and of its TOML table.
        argv: Arguments after the command's name.
        positionals: Help text of each required positional argument, by name.

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
    flags = list(_toml_flags(kind, {name: value for name, value in table.items() if not is_steps(kind, name)}))
    steps = {name: tuple(table.get(name, default)) for name, default in steps_of(kind).items()}
    _refuse_unknown_flags(kind, rest, command)
    arguments = dataclasses.make_dataclass(
        "arguments",
        [
            *(
                (name, Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=text, metavar=name.upper())])
                for name, text in positionals.items()
            ),
            (
                "options",
                Annotated[kind, tyro.conf.arg(name="")],
                dataclasses.field(default=kind(**dict.fromkeys(steps, ()))),
            ),
        ],
        kw_only=True,
    )
    arguments.__doc__ = kind.__doc__
    description = f"{inspect.cleandoc(kind.__doc__ or '')}\n\n{_describe_file(command, list(steps))}"
    with _one_line_errors(command):
        parsed: Any = tyro.cli(
            arguments, prog=f"whisper-shard {command}", description=description, args=[*flags, *rest]
        )
    # Steps are put in only now: tyro would show those of the default as flags, which they are not.
    return dataclasses.replace(parsed.options, **steps), {name: getattr(parsed, name) for name in positionals}


def _describe_file(command: str, steps: Sequence[str]) -> str:
    text = f"Every flag can also be set in a TOML file: --config FILE.toml, table [{command}]."
    return text + f" Only there: {', '.join(f'[[{command}.{name}]]' for name in steps)}." if steps else text


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
    table = content.get(command, {})
    known = {field.name: field.default for field in dataclasses.fields(kind)}
    for name, value in table.items():
        if name not in known:
            raise ConfigError(f"{file}: [{command}] has no knob {name!r}{suggest(name, list(known))}")
        if isinstance(known[name], bool) and not isinstance(value, bool):
            raise ConfigError(f"{file}: [{command}] {name} is {value!r}; it must be true or false")
        if isinstance(value, list) and not isinstance(known[name], tuple):
            raise ConfigError(f"{file}: [{command}] {name} is {value}; it must be one value, not a list")
        if is_steps(kind, name) and not (isinstance(value, list) and all(isinstance(step, dict) for step in value)):
            raise ConfigError(f"{file}: [{command}] {name} must be a list of tables: [[{command}.{name}]]")
        if isinstance(value, dict):
            raise ConfigError(f"{file}: [{command}] {name} must be a plain value, not a table")
    return cast(Mapping[str, Any], table)


def _toml_flags(kind: type, table: Mapping[str, Any]) -> Iterator[str]:
    """Yield the knobs of a table as flags: lists first, and behind them one that ends their words."""
    lists = {name: value for name, value in table.items() if isinstance(value, list)}
    knobs = dataclasses.fields(kind)
    end = {} if not lists else next({k.name: k.default} for k in knobs if isinstance(k.default, int | float | str))
    for name, value in {**lists, **end, **table}.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            yield flag if value else "--no-" + flag[2:]
        elif isinstance(value, list):
            yield from (flag, *map(str, value))
        else:
            yield f"{flag}={value}"


def _refuse_unknown_flags(kind: type, argv: Sequence[str], command: str) -> None:
    known = ["--help", "--config"]
    for field in dataclasses.fields(kind):
        if is_steps(kind, field.name):
            continue
        flag = "--" + field.name.replace("_", "-")
        known += [flag, "--no-" + flag[2:]] if field.type in (bool, "bool") else [flag]
    for argument in argv:
        flag = argument.split("=")[0].replace("_", "-")
        if argument.startswith("--") and flag not in known:
            raise ConfigError(f"whisper-shard {command}: unknown flag {flag}{suggest(flag, known)}")


@contextlib.contextmanager
def _one_line_errors(command: str) -> Iterator[None]:
    """Turn the parser's boxes about bad values into a ConfigError; let help and usage pass."""
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            yield
    except SystemExit as stop:
        lines = [line.strip("\u2502 ") for line in captured.getvalue().splitlines()[1:]]
        text = " ".join(lines[: next((i for i, line in enumerate(lines) if line.startswith("\u2500")), len(lines))])
        if stop.code != 2:
            raise
        for pattern, words in _IN_OUR_WORDS:
            text = re.sub(pattern, words, text)
        raise ConfigError(f"whisper-shard {command}: {text}; see whisper-shard {command} --help") from None
