"""Data-parallel learners: what the ranks of ``torchrun`` add up, share and agree on.

Each rank is a process with environments, groups and random numbers of its own, and a copy of the
policy. The ranks share the gradients and what rewards depend on, never observations.

A process that was not started by ``torchrun`` is alone: it uses the same code, and nothing is sent.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from srpo_env.system.text import one_line
from srpo_env.training.signals import check_signals

T = TypeVar("T")

TIMEOUT = timedelta(hours=2)
"""Maximum time that a rank waits for the others: for their rollouts, or for an evaluation."""


class LostRankError(ConnectionError):
    """Another rank has ended, or does not answer."""


@dataclass(frozen=True)
class Ranks:
    """The place of this process among the ranks; by default, it is alone."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """Number of processes."""
    local_size: int = 1
    """Number of processes on this host."""

    @classmethod
    def join(cls) -> Ranks:
        """Joins the ranks that ``torchrun`` has started; each GPU of a host serves one of them.

        Only the first rank prints from then on, except errors.

        Raises:
            ValueError: If this process runs with fewer GPUs than ranks.
        """
        if not {"RANK", "WORLD_SIZE"} <= set(os.environ):
            return cls()
        local_rank, local_size = (
            int(os.environ.get(name, default))
            for name, default in (("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))
        )
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if gpus:
            if local_size > gpus:
                raise ValueError(
                    f"--nproc-per-node must be at most the number of GPUs, {gpus}, got {local_size}"
                )
            torch.cuda.set_device(local_rank)
        # Objects and numbers of the CPU go through gloo also where gradients go through nccl.
        backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT)
        ranks = cls(dist.get_rank(), dist.get_world_size(), local_size)
        if not ranks.is_first:
            sys.stdout = open(os.devnull, "w")
        return ranks

    def leave(self) -> None:
        """Leaves the ranks; may be called twice."""
        if self.size > 1 and dist.is_initialized():
            # Before torch 2.8, destroying the group waits for gloo's threads without releasing
            # Python's interpreter lock, for which they may wait: a deadlock. Deleting gloo's part
            # of the group releases the lock, so that part is kept until the end.
            group = dist.distributed_c10d._get_default_group()
            gloo = group._get_backend(torch.device("cpu"))
            del group
            dist.destroy_process_group()
            del gloo

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that prints, logs and saves."""
        return self.rank == 0

    def seed(self, seed: int) -> int:
        """Returns a seed of this rank's own; the first one keeps ``seed``."""
        if self.is_first:
            return seed
        return int(np.random.SeedSequence((seed, self.rank)).generate_state(1)[0])

    def split(self, settings: T, *names: str) -> T:
        """Returns settings in which some numbers, of all ranks together, are this rank's share.

        Args:
            settings: A dataclass.
            *names: Names of the numbers.

        Raises:
            ValueError: If a number cannot be divided.
        """
        numbers = {name: getattr(settings, name) for name in names}
        for name, number in numbers.items():
            if number % self.size:
                raise ValueError(
                    f"--{name.replace('_', '-')} must be a multiple of the number of ranks, "
                    f"{self.size}, got {number}"
                )
        shares: Any = {name: number // self.size for name, number in numbers.items()}
        own: T = replace(settings, **shares)  # type: ignore[type-var]
        return own

    # --- What all ranks call together, in the same order ---

    def sum(self, *numbers: float) -> list[float]:
        """Adds up numbers over all ranks; all of them get the same sums, to the bit."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        with _explained():
            dist.all_reduce(total)
        sums: list[float] = total.tolist()
        return sums

    def mean_logs(self, logs: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Returns the mean of each logged number, whose parts of the ranks add up."""
        means = [float(np.mean([log[name] for log in logs])) for name in logs[0]]
        return dict(zip(logs[0], self.sum(*means), strict=True))

    def gather(self, item: T) -> list[T]:
        """Returns the item of each rank, in the order of the ranks."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        with _explained():
            dist.all_gather_object(items, item)
        return items

    def from_first(self, make: Callable[[], T]) -> T:
        """Returns what the first rank makes."""
        item: list[Any] = [make() if self.is_first else None]
        if self.size > 1:
            with _explained():
                dist.broadcast_object_list(item, src=0)
        result: T = item[0]
        return result

    def gather_in_first(self, item: T) -> list[T]:
        """Returns the items of all ranks in the first rank; an empty list in the others."""
        if self.size == 1:
            return [item]
        items: list[Any] | None = [None] * self.size if self.is_first else None
        with _explained():
            dist.gather_object(item, items, dst=0)
        return items or []

    def wait(self) -> None:
        """Waits until all ranks have come here."""
        self.sum(0.0)

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Adds up the gradients over all ranks, in place; all of them get the same, to the bit.

        Not torch's DistributedDataParallel, which averages the gradients, whatever the number of
        examples of each rank, and works only through the module's ``forward``.
        """
        if self.size == 1:
            return
        works = []
        with _explained():
            for parameter in parameters:
                if not parameter.requires_grad:
                    continue
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                works.append(dist.all_reduce(parameter.grad, async_op=True))
            for work in works:
                work.wait()

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Copies tensors from the first rank to all others, in place.

        Different processors may round differently, and the copies of a policy drift apart.
        """
        if self.size == 1:
            return
        with _explained(), torch.no_grad():
            for tensor in tensors:
                dist.broadcast(tensor, src=0)


@contextmanager
def _explained() -> Iterator[None]:
    """Names the usual reason for an error in a communication, after a stop signal that one."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        check_signals()
        raise LostRankError(
            f"another rank has ended or does not answer ({one_line(error)}); its own output says "
            "why"
        ) from error
