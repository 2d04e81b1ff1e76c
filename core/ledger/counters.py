"""What /metrics counts: rows that are raised in the very transaction that moves a task, so that they survive
restarts and are the same from every API process. core/db/tables.py has the table, app/routes/metrics.py shows it."""

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from core.db.tables import counters
from core.db.upsert import for_each_dialect

COUNTER = ""  # a counter's `bound`
SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
BOUNDS = [*map(str, SECONDS), "+Inf"]


@dataclass(frozen=True)
class Count:
    name: str
    engine: str
    amount: int = 1


@dataclass(frozen=True)
class Duration:
    """`seconds` to add to the histogram `name`."""

    name: str
    engine: str
    seconds: float


def _raised(statement: Any) -> dict[str, Any]:
    return {name: counters.c[name] + statement.excluded[name] for name in ("count", "total")}


UPSERT = for_each_dialect(counters, _raised)


def count(connection: sa.Connection, *observations: Count | Duration) -> None:
    """Add the observations to their counters."""
    sums: dict[tuple[str, str, str], tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for seen in observations:
        bound, amount, total = COUNTER, 1, 0.0
        if isinstance(seen, Duration):
            bound, total = BOUNDS[bisect_left(SECONDS, seen.seconds)], max(0.0, seen.seconds)
        else:
            amount = seen.amount
        key = (seen.name, seen.engine, bound)
        sums[key] = (sums[key][0] + amount, sums[key][1] + total)
    # Sorted, so that two transactions lock their rows in the same order.
    rows = [
        {"name": name, "engine": engine, "bound": bound, "count": count, "total": total}
        for (name, engine, bound), (count, total) in sorted(sums.items())
    ]
    if rows:
        connection.execute(UPSERT[connection.dialect.name], rows)


@dataclass(frozen=True)
class Histogram:
    """Observations per bucket (not cumulative) by upper bound, and the sum of all in seconds."""

    counts: dict[str, int]
    total: float

    @property
    def count(self) -> int:
        return sum(self.counts.values())


def read_counters(connection: sa.Connection) -> dict[tuple[str, str], int]:
    """Every counter by (name, engine)."""
    columns = sa.select(counters.c.name, counters.c.engine, counters.c.count)
    rows = connection.execute(columns.where(counters.c.bound == COUNTER))
    return {(name, engine): count for name, engine, count in rows}


def read_histograms(connection: sa.Connection) -> dict[tuple[str, str], Histogram]:
    """Every histogram by (name, engine)."""
    found: dict[tuple[str, str], Histogram] = {}
    for name, engine, bound, count, total in connection.execute(sa.select(counters).where(counters.c.bound != COUNTER)):
        before = found.get((name, engine), Histogram(dict.fromkeys(BOUNDS, 0), 0.0))
        found[name, engine] = Histogram(before.counts | {bound: count}, before.total + total)
    return found
