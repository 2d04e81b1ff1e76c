"""How long steps take here, as measured: a moving mean for each engine, verb and size. What ETAs are made of."""

import statistics
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from core.tables import speeds
from core.task import Step

# The first few count alike; from then on each new one moves the mean by this share, so that it follows changes.
NEWEST_SHARE = 0.2
MOST_SIZES = 200  # of one engine and verb


def _upsert(insert: Any) -> Any:
    statement = insert(speeds)
    count = speeds.c.count + 1
    share = sa.case((count < 1 / NEWEST_SHARE, 1.0 / count), else_=NEWEST_SHARE)
    mean = speeds.c.seconds + share * (statement.excluded.seconds - speeds.c.seconds)
    raised = {"count": count, "seconds": mean, "work": statement.excluded.work}
    return statement.on_conflict_do_update(index_elements=list(speeds.primary_key), set_=raised)


UPSERT = {"postgresql": _upsert(postgresql.insert), "sqlite": _upsert(sqlite.insert)}


@dataclass(frozen=True)
class Kind:
    """What a step's time depends on. `work` says how a size that was never measured compares with those that were."""

    engine: str
    verb: str
    size: str
    work: float


def kind_of(step: Step, engine: str) -> Kind:
    return Kind(engine, step.verb, step.size, step.work)


def add(connection: sa.Connection, kind: Kind, seconds: float) -> None:
    """A step of this kind took `seconds`, 0 or more."""
    connection.execute(UPSERT[connection.dialect.name], vars(kind) | {"seconds": max(0.0, seconds), "count": 1})


def forget_rare(connection: sa.Connection) -> None:
    """Keep the sizes that are asked for most; callers could invent any number."""
    place = sa.func.row_number().over(
        partition_by=[speeds.c.engine, speeds.c.verb], order_by=[speeds.c.count.desc(), speeds.c.size]
    )
    ranked = sa.select(speeds.c.engine, speeds.c.verb, speeds.c.size, place.label("place")).subquery()
    rare = sa.select(ranked.c.engine, ranked.c.verb, ranked.c.size).where(ranked.c.place > MOST_SIZES)
    for engine, verb, size in connection.execute(rare).all():
        its = sa.and_(speeds.c.engine == engine, speeds.c.verb == verb, speeds.c.size == size)
        connection.execute(speeds.delete().where(its))


class Speeds:
    """Every mean there is."""

    def __init__(self, connection: sa.Connection) -> None:
        self._rows = connection.execute(sa.select(speeds)).all()
        self._lines: dict[tuple[str, str], tuple[float, float] | None] = {}
        self._exact = {(row.engine, row.verb, row.size): float(row.seconds) for row in self._rows}

    def __len__(self) -> int:
        return len(self._rows)

    def seconds(self, kind: Kind) -> float | None:
        """Measured for this very size, else reckoned from the others by their work; None where there are none."""
        exact = self._exact.get((kind.engine, kind.verb, kind.size))
        if exact is not None:
            return exact
        if (kind.engine, kind.verb) not in self._lines:
            self._lines[kind.engine, kind.verb] = self._line(kind.engine, kind.verb)
        line = self._lines[kind.engine, kind.verb]
        return line and max(0.0, line[0] + line[1] * kind.work)

    def _line(self, engine: str, verb: str) -> tuple[float, float] | None:
        """The seconds that every step takes, and those for each unit of work."""
        alike = [row for row in self._rows if (row.engine, row.verb) == (engine, verb) and row.work > 0]
        if not alike:
            return None
        mean = statistics.mean(row.seconds for row in alike)
        if len({row.work for row in alike}) < 2:
            return 0.0, mean / alike[0].work
        slope, same = statistics.linear_regression([row.work for row in alike], [row.seconds for row in alike])
        return (same, slope) if slope > 0 else (mean, 0.0)
