"""Equations 3 to 5 and the bookkeeping of groups, as slow loops without code of the library.

`Ambiguous` is raised where a comparison is decided by rounding; such inputs are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field


class Ambiguous(Exception):
    """A comparison whose sides are equal but for rounding."""


def is_below(value, limit):
    """Whether ``value <= limit``, if rounding does not decide it."""
    if value == limit == 0:
        return True
    if abs(value - limit) <= 1e-9 * max(abs(value), abs(limit)):
        raise Ambiguous
    return value < limit


def distance_of(one, other):
    return math.sqrt(math.fsum((a - b) ** 2 for a, b in zip(one, other, strict=True)))


def mean_of(points):
    return [math.fsum(values) / len(points) for values in zip(*points, strict=True)]


def median_of(values):
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def centers_of(successes):
    """Eq. 3: DBSCAN as Ester et al. (1996) describe it, with the radius that the docs define."""
    count = len(successes)
    if count < 2:
        return [list(point) for point in successes]
    min_samples = max(2, round(math.log(count)))
    table = [[distance_of(one, other) for other in successes] for one in successes]
    nearest = [sorted(row)[min_samples - 1] for row in table]
    limit = 3 * median_of(nearest)
    typical = [value for value in nearest if is_below(value, limit)]
    largest = max(math.sqrt(math.fsum(x * x for x in point)) for point in successes)
    radius = max(1.5 * max(typical), 1e-6 * largest, 2.3e-308)
    near = [[j for j in range(count) if is_below(table[i][j], radius)] for i in range(count)]
    labels = [None] * count
    num_clusters = 0
    for first in range(count):
        if labels[first] is not None or len(near[first]) < min_samples:
            continue
        reached = [first]
        while reached:
            point = reached.pop()
            if labels[point] is None:
                labels[point] = num_clusters
                if len(near[point]) >= min_samples:
                    reached += near[point]
        num_clusters += 1
    centers = [mean_of([successes[i] for i in range(count) if labels[i] == label])
               for label in range(num_clusters)]  # fmt: skip
    return centers + [list(successes[i]) for i in range(count) if labels[i] is None]


def rewards_of(distances, formula, weight):
    """Eq. 5, of the failures of one group."""
    if not distances:
        return []
    spread, largest = max(distances) - min(distances), max(map(abs, distances))
    if spread == 0 or is_below(spread, 1e-6 * largest):
        return [weight / 2] * len(distances)
    scaled = [d / largest for d in distances]
    if formula == "paper":
        mean = math.fsum(scaled) / len(scaled)
        deviation = math.sqrt(math.fsum((d - mean) ** 2 for d in scaled) / len(scaled))
        scores = [(d - mean) / deviation for d in scaled]
    else:
        low, high = min(scaled), max(scaled)
        scores = [10 * ((d - low) / (high - low) - 0.5) for d in scaled]
    return [weight / (1 + math.exp(score)) for score in scores]


def scored(latents, successes, formula="paper", weight=0.8):
    """Eqs. 3 to 5: the distance, or None, and the reward of each episode of one group."""
    centers = centers_of([h for h, won in zip(latents, successes, strict=True) if won])
    if not centers:
        return [(None, 0.0)] * len(latents)
    distances = [min(distance_of(h, center) for center in centers) for h in latents]
    failed = [i for i, won in enumerate(successes) if not won]
    rewards = [1.0] * len(latents)
    values = rewards_of([distances[i] for i in failed], formula, weight)
    for index, reward in zip(failed, values, strict=True):
        rewards[index] = reward
    return list(zip(distances, rewards, strict=True))


def potential_of(path, reference, success):
    """The progress potential at each moment of a path, from its definition."""
    left = []
    for time in range(len(path)):
        nearest = [min(distance_of(moment, other) for moment in path[: time + 1])
                   for other in reference]  # fmt: skip
        left.append(math.fsum(nearest) / len(nearest))
    size = max(math.sqrt(math.fsum(x * x for x in moment)) for moment in reference)
    covered = left[0] - left[-1]
    if covered == 0 or is_below(covered, 1e-6 * max(left[0], size)):
        return [0.0] * (len(path) - 1) + [float(success)]
    return [(left[0] - now) / (covered if success else left[0]) for now in left]


def shares_of(potential, steps, length):
    """What each step earns of a return: linear between the moments, all at the end without any."""
    known = {0: None}
    known.update(dict(zip(steps, potential, strict=True)))  # the last of equal steps
    if known[0] is None:
        known[0] = potential[0]
    values = []
    for step in range(length + 1):
        before = max(s for s in known if s <= step)
        after = min((s for s in known if s >= step), default=before)
        weight = (step - before) / (after - before) if after > before else 0.0
        values.append(known[before] + weight * (known[after] - known[before]))
    total = values[-1] - values[0]
    if total <= 0:
        return [0.0] * (length - 1) + [1.0]
    return [(values[t + 1] - values[t]) / total for t in range(length)]


@dataclass
class Record:
    """An episode, running or ended."""

    number: int
    slot: int
    first: int
    key: int
    last: int | None = None
    success: bool = False
    latent: list[float] | None = None
    distance: float | None = None
    reward: float = 0.0


@dataclass
class Book:
    """Which episode is in which group, and what it earns."""

    group_size: int
    reference: str
    formula: str
    weight: float
    memory_size: int
    started: int = 0
    open: list[list[Record]] = field(default_factory=list)
    complete: list[list[Record]] = field(default_factory=list)
    closed: list[list[Record]] = field(default_factory=list)
    memory: dict[int, tuple[list, list]] = field(default_factory=dict)

    def start(self, slot, first, key):
        record = Record(self.started, slot, first, key)
        self.started += 1
        self.place(record)
        return record

    def place(self, record):
        for group in self.open:
            if group[0].key == record.key and len(group) < self.group_size:
                group.append(record)
                return
        self.open.append([record])

    def abandon(self, record):
        for group in self.open:
            if record in group:
                group.remove(record)
        self.open = [group for group in self.open if group]

    def after_step(self, ended):
        """Scores what a step has ended."""
        if self.reference == "memory":
            self.pay_from_memory(ended)
        full = [
            g for g in self.open if len(g) == self.group_size and all(r.last is not None for r in g)
        ]
        self.open = [group for group in self.open if not any(group is other for other in full)]
        if self.reference == "task":
            self.complete += full
        else:
            self.score(full)

    def close(self):
        due = self.complete + [
            [record for record in group if record.last is not None]
            for group in self.open
            if any(record.last is not None for record in group)
        ]
        self.complete = []
        self.score(due)
        running = sorted(
            (record for group in self.open for record in group if record.last is None),
            key=lambda record: record.number,
        )
        self.open = []
        for record in running:
            self.place(record)

    def score(self, groups):
        sets = groups
        if self.reference == "task":
            tasks = {}
            for record in (record for group in groups for record in group):
                tasks.setdefault(record.key, []).append(record)
            sets = tasks.values()
        if self.reference != "memory":
            for records in sets:
                values = scored([r.latent for r in records], [r.success for r in records],
                                self.formula, self.weight)  # fmt: skip
                for record, (distance, reward) in zip(records, values, strict=True):
                    record.distance, record.reward = distance, reward
        self.closed += groups

    def pay_from_memory(self, ended):
        tasks = {}
        for record in ended:
            tasks.setdefault(record.key, []).append(record)
        for task, records in tasks.items():
            old_successes, old_failures = self.memory.get(task, ([], []))
            new_successes = [record.latent for record in records if record.success]
            new_failures = [record.latent for record in records if not record.success]
            room = max(0, self.memory_size - len(new_successes))
            kept = old_successes[max(0, len(old_successes) - room) :]
            kept_failures = old_failures[
                max(0, len(old_failures) - max(0, self.memory_size - len(new_failures))):
            ]  # fmt: skip
            latents = kept + kept_failures + [record.latent for record in records]
            wins = [True] * len(kept) + [False] * len(kept_failures)
            wins += [record.success for record in records]
            values = scored(latents, wins, self.formula, self.weight)[-len(records):]  # fmt: skip
            for record, (distance, reward) in zip(records, values, strict=True):
                record.distance, record.reward = distance, reward
            size = self.memory_size
            self.memory[task] = (
                (old_successes + new_successes)[-size:],
                (old_failures + new_failures)[-size:],
            )
