"""A misspelt key, group or config name ends in one sentence with the nearest spelling, not in a traceback."""

import argparse
import contextlib
import difflib
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import hydra
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue

from ko_asr.errors import UserError, exit_on_error
from ko_asr.training.record import run_name


def recipe(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """``hydra.main`` for a script of recipes/, with the configs of conf/; bad input ends with exit 2.

    ``config_name`` is the config that is taken when the command line names none.
    """

    def decorate(task: Callable[[DictConfig], None]) -> Callable[[], None]:
        folder = Path(task.__code__.co_filename).resolve().parents[1] / "conf"

        @functools.wraps(task)
        def guarded(config: DictConfig) -> None:
            with exit_on_error(), _first_rank_prints(), config_errors(folder, config_name):
                config.name = run_name(str(config.name), HydraConfig.get().overrides.task)
                task(config)

        run = hydra.main(version_base="1.3", config_path=str(folder), config_name=config_name)(guarded)

        def main() -> None:
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra prints several lines and exits 1
            with exit_on_error(), config_errors(folder, config_name):
                check_arguments(sys.argv[1:])
                run()

        return main

    return decorate


@contextlib.contextmanager
def _first_rank_prints() -> Iterator[None]:
    """Let only the first process of a run write to standard output; errors show of every one."""
    if is_first_rank(os.environ):
        yield
        return
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def is_first_rank(environment: Mapping[str, str]) -> bool:
    """True in the only process of a run or its first, by what torchrun, srun and Lightning set.

    NeMo's is_global_rank_zero says the same, but takes seconds to import.
    """
    for name in ("RANK", "SLURM_PROCID"):
        if name in environment:
            return environment[name] == "0"
    return all(environment.get(name, "0") == "0" for name in ("NODE_RANK", "LOCAL_RANK"))


@contextlib.contextmanager
def config_errors(folder: Path, config_name: str) -> Iterator[None]:
    """Turn errors of composing or reading a config of ``folder`` into UserError."""
    try:
        yield
    except MissingConfigException as error:
        raise UserError(_missing(error, folder)) from error
    except (InterpolationResolutionError, MissingMandatoryValue) as error:
        key = f" for {error.full_key}" if error.full_key else ""
        raise UserError(f"the config has no value{key}: {str(error).splitlines()[0]}") from error
    except HydraException as error:
        raise UserError(_refused(error, folder, config_name)) from error


def _missing(error: MissingConfigException, folder: Path) -> str:
    """The sentence for a config, or an option of a group, that does not exist."""
    wanted = error.missing_cfg_file or ""
    options = list(error.options or ()) or sorted(path.stem for path in folder.glob("*.yaml"))
    kind = f"option {wanted.replace('/', '=')}" if "/" in wanted else f"config {wanted}"
    return f"no {kind} in {folder}: choose one of {', '.join(options)}{_nearest(Path(wanted).name, options)}"


def _refused(error: HydraException, folder: Path, config_name: str) -> str:
    """The sentence for an override of a key that does not exist, or that Hydra cannot read."""
    key = re.match(r"Could not override '(.+?)'", str(error))
    if isinstance(error, ConfigCompositionException) and key:
        near = _nearest(key[1], _keys(folder, config_name))
        return f"the config has no key {key[1]}{near} (+{key[1]}=... adds a new one)"
    first = " ".join(str(error).split("\nSee ")[0].split())
    return f"an override on the command line cannot be applied: {first}"


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _keys(folder: Path, config_name: str) -> list[str]:
    """Every dotted key and group of the config that the command line names, else of ``config_name``."""
    named = _named_config(sys.argv[1:])
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(folder.resolve()), version_base="1.3"):
        config = compose(named or config_name)
    groups = [path.name for path in folder.iterdir() if path.is_dir()]
    return [*groups, *_dotted(config)]


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise UserError for what is neither an option of Hydra nor key=value, or where the two are mixed."""
    parser = get_args_parser()
    # The parser is made elsewhere, so that it cannot be a subclass with an error of its own.
    parser.error = _refuse_option  # type: ignore[method-assign]
    known, unknown = parser.parse_known_args(arguments)
    for word in unknown:
        if word.startswith("-"):
            key = word.lstrip("-").partition("=")[0]
            raise UserError(f"no option {word}: keys of the config are written {key}=VALUE, without dashes")
    if mixed := [word for word in unknown if "=" in word]:
        raise UserError(f"{mixed[0]} stands after another option: write all key=value together, at the end")
    for word in (*known.overrides, *unknown):
        if word.startswith("=") or ("=" not in word and not word.startswith("~")):
            raise UserError(f"'{word}' is no key=value: write it without spaces around =, such as size=s")


def _refuse_option(message: str) -> NoReturn:
    raise UserError(f"the command line cannot be read ({message}): --help lists the options")


def _named_config(arguments: Sequence[str]) -> str | None:
    """The config that Hydra's own option chooses on the command line."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config-name", "-cn")
    parser.add_argument("--cfg", "-c")  # else it would count as an abbreviation of -cn
    return parser.parse_known_args(arguments)[0].config_name


def _dotted(config: DictConfig) -> list[str]:
    """All dotted keys of a config, branches included."""
    found: list[str] = []

    def visit(node: object, prefix: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                found.append(f"{prefix}{key}")
                visit(value, f"{prefix}{key}.")

    visit(OmegaConf.to_container(config, resolve=False), "")
    return found
