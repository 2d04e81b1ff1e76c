"""How long steps take here, as measured: a moving mean for each engine, kind and size. What ETAs are made of."""

import statistics
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from core.db.tables import step_durations
from core.db.upsert import for_each_dialect
from core.task import Step

# The first few count alike; from then on each new one moves the mean by this share, so that it follows changes.
NEWEST_SHARE = 0.2
MOST_SIZES = 200  # of one engine and kind


def _new_means(statement: Any) -> dict[str, Any]:
    columns = step_durations.c
    count = columns.count + 1
    share = sa.case((count < 1 / NEWEST_SHARE, 1.0 / count), else_=NEWEST_SHARE)
    means = {
        name: columns[name] + share * (statement.excluded[name] - columns[name])
        for name in ("seconds", "render_seconds")
    }
    return {"count": count, "work": statement.excluded.work} | means


ALL = sa.select(step_durations)
UPSERT = for_each_dialect(step_durations, _new_means)


@dataclass(frozen=True)
class StepProfile:
    """What a step's time depends on. `work` says how a size that was never measured compares with those that were."""

    engine: str
    """Empty if the step needs none."""
    kind: str
    size: str
    work: float


@dataclass(frozen=True)
class StepDuration:
    """How long a step takes, in seconds: `render` of them it has the engine; the `finalize` seconds after that overlap
    the worker's next step."""

    render: float
    finalize: float

    @property
    def seconds(self) -> float:
        return self.render + self.finalize


def profile_of(step: Step) -> StepProfile:
    return StepProfile(step.engine or "", step.kind, step.size, step.work)


def record_duration(
    connection: sa.Connection, profile: StepProfile, seconds: float, render: float | None = None
) -> None:
    """Record that a step of this profile took `seconds`, `render` of them in the render stage; None: all."""
    seconds = max(0.0, seconds)  # a clock may have been set back
    render = seconds if render is None else min(render, seconds)
    connection.execute(
        UPSERT[connection.dialect.name], vars(profile) | {"seconds": seconds, "render_seconds": render, "count": 1}
    )


def delete_rare(connection: sa.Connection) -> None:
    """Keep the sizes that are asked for most; callers could invent any number."""
    columns = step_durations.c
    place = sa.func.row_number().over(
        partition_by=[columns.engine, columns.kind], order_by=[columns.count.desc(), columns.size]
    )
    ranked = sa.select(columns.engine, columns.kind, columns.size, place.label("place")).subquery()
    rare = sa.select(ranked.c.engine, ranked.c.kind, ranked.c.size).where(ranked.c.place > MOST_SIZES)
    for engine, kind, size in connection.execute(rare).all():
        its = sa.and_(columns.engine == engine, columns.kind == kind, columns.size == size)
        connection.execute(step_durations.delete().where(its))


LinearFit = tuple[float, float]
"""The seconds that every step takes, and those for each unit of work."""


class StepDurations:
    """All measured means, as they were when this was made."""

    def __init__(self, connection: sa.Connection) -> None:
        self._rows = connection.execute(ALL).all()
        self._fits_of: dict[tuple[str, str], tuple[LinearFit, LinearFit] | None] = {}
        self._exact = {
            (row.engine, row.kind, row.size): StepDuration(row.render_seconds, row.seconds - row.render_seconds)
            for row in self._rows
        }

    def __len__(self) -> int:
        return len(self._rows)

    def of(self, profile: StepProfile) -> StepDuration | None:
        """Return what was measured for this size, else what other sizes say by their work; None if there are none."""
        exact = self._exact.get((profile.engine, profile.kind, profile.size))
        if exact is not None:
            return exact
        if (profile.engine, profile.kind) not in self._fits_of:
            self._fits_of[profile.engine, profile.kind] = self._fits(profile.engine, profile.kind)
        fits = self._fits_of[profile.engine, profile.kind]
        return fits and StepDuration(*(max(0.0, same + slope * profile.work) for same, slope in fits))

    def _fits(self, engine: str, kind: str) -> tuple[LinearFit, LinearFit] | None:
        """Return the fits of the render and of the finalize stages."""
        alike = [row for row in self._rows if (row.engine, row.kind) == (engine, kind) and row.work > 0]
        work = [float(row.work) for row in alike]
        renders, finalizes = [row.render_seconds for row in alike], [row.seconds - row.render_seconds for row in alike]
        return (fit_line(work, renders), fit_line(work, finalizes)) if alike else None


def fit_line(work: list[float], seconds: list[float]) -> LinearFit:
    mean = statistics.mean(seconds)
    if len(set(work)) < 2:
        return 0.0, mean / work[0]
    slope, same = statistics.linear_regression(work, seconds)
    return (same, slope) if slope > 0 else (mean, 0.0)
