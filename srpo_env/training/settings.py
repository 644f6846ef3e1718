"""Settings of the agents: what all of them share, their ranges, and their JSON form."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import gymnasium
import torch
import tyro

from srpo_env.cli.main import errors_as_sentences
from srpo_env.libero.look import DEFAULT_LOOK, Look
from srpo_env.libero.suites import get_suite
from srpo_env.registration import import_suite
from srpo_env.system.files import read_json
from srpo_env.training.checkpoint import newest_checkpoint
from srpo_env.training.evaluation import check_initial_states
from srpo_env.training.report import SETTINGS

AnySettings = TypeVar("AnySettings", bound="TorchSettings")
Settings = TypeVar("Settings", bound="RunSettings")


@dataclass(frozen=True, kw_only=True)
class TorchSettings:
    """Settings of everything that trains."""

    seed: int = 1  # random seed
    torch_threads: int = 2  # number of CPU threads of torch
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: cuda if available

    def check_numbers(
        self,
        min_values: Mapping[str, float] | None = None,
        max_values: Mapping[str, float] | None = None,
    ) -> None:
        """Checks that all numbers are in their ranges, and that other requirements are met.

        Args:
            min_values: Smallest values; a setting without one must be above 0.
            max_values: Largest values, of settings that have one.

        Raises:
            ValueError: If a number is out of its range, or NaN.
        """
        lowest, highest = {"seed": 0, **(min_values or {})}, max_values or {}
        for name, value in asdict(self).items():
            if type(value) not in (int, float):
                continue
            low, high = lowest.get(name), highest.get(name, math.inf)
            if not (value > 0 if low is None else value >= low):
                rule = "above 0" if low is None else f"at least {low:g}"
                raise ValueError(f"{flag(name)} must be {rule}, got {value}")
            if value > high:
                raise ValueError(f"{flag(name)} must be at most {high:g}, got {value}")
        self.check_requirements()

    def check_requirements(self) -> None:
        """Checks what is not a range; subclasses add to it."""

    def set_up_torch(self) -> str:
        """Seeds torch, sets its number of threads, and returns the device, ``cpu`` or ``cuda``.

        Raises:
            ValueError: If the device is ``cuda`` and torch finds none.
        """
        device = torch_device(self.device)
        torch.manual_seed(self.seed)
        torch.set_num_threads(self.torch_threads)
        return device

    def as_json(self, full_paths: bool = True) -> dict[str, Any]:
        """Returns the settings as JSON holds them; paths as their last part if not in full."""
        text = json.dumps(asdict(self), default=str if full_paths else lambda path: path.name)
        content: dict[str, Any] = json.loads(text)
        return content


@dataclass(frozen=True, kw_only=True)
class RunSettings(TorchSettings):
    """Settings of a run that has a folder."""

    resume: Path | None = None  # folder of a run to continue; its settings become the defaults
    exp_name: str = "run"  # part of the run's name
    run_dir: Path = Path("runs")  # folder in which the run's folder is created
    track: bool = False  # also send the metrics to Weights & Biases
    wandb_project_name: str = "srpo-env"  # project at Weights & Biases
    wandb_entity: str | None = None  # team at Weights & Biases

    fixed: ClassVar[tuple[str, ...]] = ()
    """settings, or properties of them, that a resumed run cannot change"""

    def check_requirements(self) -> None:
        """Checks that Weights & Biases is installed if it is used."""
        super().check_requirements()
        if self.track and importlib.util.find_spec("wandb") is None:
            raise ValueError("--track needs Weights & Biases: run `pip install wandb`")

    @classmethod
    def parse(cls: type[Settings], arguments: Sequence[str] | None = None) -> Settings:
        """Reads the command line; with ``--resume``, the settings of that run are the defaults.

        Wrong settings end the process with a message and exit code 2.

        Args:
            arguments: Arguments of the command line; default: those of this process.
        """
        args = parse_settings(cls, arguments)
        if args.resume is None:
            return args
        with errors_as_sentences(Path(sys.argv[0]).name):
            saved = cls.read(args.resume)
            args = tyro.cli(cls, args=arguments, default=saved)
            for name in cls.fixed:
                before, now = getattr(saved, name), getattr(args, name)
                if now != before:
                    raise ValueError(
                        f"{flag(name)} of a resumed run must stay {before!r}, got {now!r}: "
                        "start a new run"
                    )
            return args

    @classmethod
    def read(cls: type[Settings], folder: str | Path) -> Settings:
        """Reads the settings that a run wrote into its folder.

        Raises:
            FileNotFoundError: If the folder has no checkpoint or no settings.
            ValueError: If the settings are not those of this agent.
        """
        newest_checkpoint(folder)
        file = Path(folder) / SETTINGS
        try:
            content = read_json(file)
            if not isinstance(content, dict):
                raise ValueError("it must be an object")
            types_of = typing.get_type_hints(cls)
            unknown = set(content) ^ {field.name for field in fields(cls)}
            if unknown:
                raise ValueError(f"settings differ: {', '.join(sorted(unknown))}")
            return cls(**{name: _from_json(types_of[name], x) for name, x in content.items()})
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{file} does not hold the settings of this agent ({error}): start a new run"
            ) from error


@dataclass(frozen=True, kw_only=True)
class SuiteSettings(RunSettings):
    """Settings of a run in a LIBERO suite."""

    env_id: Annotated[str, tyro.conf.arg(aliases=["--env"])] = "libero-object"
    """LIBERO suite: libero-object, libero-spatial, libero-goal, libero-10 or libero-90; or
    MODULE:NAME of a suite of your own that the module registers"""
    look: Look = DEFAULT_LOOK
    """colours of the images: those of LIBERO's demonstrations, or of the installed MuJoCo"""

    def check_requirements(self) -> None:
        """Checks that the suite exists."""
        super().check_requirements()
        name = import_suite(self.env_id)
        if name != self.env_id:
            check_initial_states(get_suite(name))
        # srpo_env/libero is a task of the user's, by arguments that agents do not have.
        ids = {n for n in gymnasium.registry if n.startswith("srpo_env/")} - {"srpo_env/libero"}
        if self.gym_id not in ids:
            raise ValueError(f"--env must be one of {', '.join(sorted(ids))}, got {self.env_id!r}")

    @property
    def suite(self) -> str:
        """The suite's name with hyphens, as in ``libero-object``."""
        return re.split("[:/]", self.env_id)[-1].replace("_", "-")

    @property
    def gym_id(self) -> str:
        """The environment's id in Gymnasium's registry."""
        return f"{self.env_id.rpartition(':')[2].rpartition('/')[0] or 'srpo_env'}/{self.suite}"


def torch_device(name: str) -> str:
    """Returns the device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ValueError: If it is ``cuda`` and torch finds none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("--device cuda needs a GPU that torch can use, and torch finds none")
    return ("cuda" if available else "cpu") if name == "auto" else name


def parse_settings(
    settings: type[AnySettings], arguments: Sequence[str] | None = None
) -> AnySettings:
    """Reads the command line; wrong settings end the process with a message and exit code 2."""
    # Only new versions of tyro catch the errors of a dataclass's `__post_init__`.
    with errors_as_sentences(Path(sys.argv[0]).name):
        return tyro.cli(settings, args=arguments)


def flag(name: str) -> str:
    """Returns a setting's name on the command line."""
    return f"--{name.replace('_', '-')}"


def _from_json(hint: Any, value: Any) -> Any:
    """Returns a value as the type of its setting: JSON has neither paths nor tuples."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if isinstance(hint, types.UnionType):
        hint = next(option for option in hint.__args__ if option is not type(None))
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_from_json(hint.__args__[0], item) for item in value)
    return Path(value) if hint is Path and isinstance(value, str) else value
