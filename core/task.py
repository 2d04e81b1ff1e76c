"""Tasks and steps, as they are recorded and as the ledger holds them. Pure: no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from core.status import Status


@dataclass(frozen=True)
class NewStep:
    """A step to record."""

    kind: str
    queue: str
    params: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    """The names of earlier steps of the task whose artifacts it uses, in order."""
    size: str = ""
    """Steps of one kind and size take about as long."""
    work: float = 0.0
    """What the time of steps of different sizes compares by."""
    name: str = ""
    """Its own in the task; if empty, its position."""
    engine: str | None = None
    """That it needs; None: it needs none."""
    weight: float | None = None
    """Its share in the task's progress, beside those of the other steps; None: by its work."""
    reserved_weight: float = 0.0
    """The share that is kept for the steps that it adds once it has planned them."""
    essential: bool = True
    """Its failure ends the task at once; if not, whatever does not need it goes on."""
    max_attempts: int | None = None
    """That may be lost before it fails; None: as many as the operator allows."""
    content_key: str | None = None
    """The same for steps that make the same (core/plan/content_key.py)."""
    finished: "FinishedStep | None" = None
    """What an earlier step with this content key made: there is nothing left to do."""


@dataclass(frozen=True)
class FinishedStep:
    artifacts: "tuple[Artifact, ...]"
    receipt: dict[str, Any]


class ReadyStep(NamedTuple):
    """A step that may start at once, and the queue to wake for it."""

    step_id: str
    queue: str


@dataclass(frozen=True)
class IdempotencyKey:
    """What a caller sent so that a request repeated by accident is done once. `fingerprint` is of its content."""

    owner: str
    key: str
    fingerprint: str


class Dialect(StrEnum):
    """Whose API a task was asked for by: its callbacks speak as that one does."""

    KINORA = "kinora"
    OPENAI = "openai"
    STABILITY = "stability"
    REPLICATE = "replicate"
    MCP = "mcp"


@dataclass(frozen=True)
class Bounds:
    """How many steps may wait, in all and for one queue."""

    waiting: int
    waiting_per_queue: int


@dataclass(frozen=True)
class Quota:
    """What one key may use; 0 is no limit. `stored_bytes` counts pictures and videos until they are deleted."""

    tasks_per_hour: int
    waiting: int
    stored_bytes: int


@dataclass(frozen=True)
class Callback:
    """Where to tell of one task, and which events."""

    url: str
    events: list[str]


@dataclass(frozen=True)
class Input:
    """What a task is made from."""

    role: str
    """What it is to the task: `picture`, or the `video` that goes on."""
    key: str
    """In the storage."""
    sha256: str
    """Of what was sent."""
    media_type: str
    """Of what is stored; empty if it was recorded before this was noted."""


@dataclass(frozen=True)
class Artifact:
    """What a step made: bytes in storage."""

    name: str
    key: str
    bytes: int | None
    """None, like `sha256`, if it was recorded before these were noted."""
    sha256: str | None


@dataclass(frozen=True)
class NewTask:
    task_id: str
    owner: str
    engine: str
    params: dict[str, Any]
    inputs: list[Input]
    warnings: list[str]
    steps: list[NewStep]
    callback: Callback | None = None
    stored_bytes: int = 0
    """Of the picture."""
    dialect: Dialect = Dialect.KINORA
    remixed_from: str | None = None
    extended_from: str | None = None
    retried_from: str | None = None
    result_step: str = ""
    """The name of the step whose artifacts and receipt are the task's; if empty, the last one."""


@dataclass(frozen=True)
class ErrorInfo:
    code: str
    message: str


@dataclass(frozen=True)
class Task:
    """A task as the ledger holds it. Times are seconds since the epoch by the database's clock."""

    task_id: str
    owner: str
    """The id of the key that made it; empty if no key was asked for."""
    status: Status
    engine: str
    params: dict[str, Any]
    warnings: list[str]
    created_at: float
    started_at: float | None
    finished_at: float | None
    expired_at: float | None
    error: ErrorInfo | None
    receipt: dict[str, Any] | None
    callback_url: str | None
    callback_events: list[str]
    dialect: str
    remixed_from: str | None
    """The task whose picture this one has too."""
    extended_from: str | None
    """The task whose video this one continues."""
    retried_from: str | None
    """The task that this one makes again."""
    deleted_at: float | None
    """When its owner deleted it, and not only time."""
    result_step: str
    """The id of the step whose artifacts and receipt are the task's."""


@dataclass(frozen=True)
class Step:
    """A step as the ledger holds it. `attempt` is the fencing token: only the newest attempt may write."""

    step_id: str
    task_id: str
    position: int
    kind: str
    queue: str
    status: Status
    attempt: int
    params: dict[str, Any]
    progress: int
    phase: str | None
    waits_for: int
    worker_id: str | None
    size: str
    work: float
    receipt: dict[str, Any] | None
    name: str
    engine: str | None
    weight: float
    reserved_weight: float
    essential: bool
    max_attempts: int | None
    content_key: str | None
    checkpoint: dict[str, Any] | None
    """What an attempt left for the next one."""
    cost: dict[str, Any] | None
    """`amount` and `currency`; None if it cost nothing."""
    error: ErrorInfo | None


def to_iso(seconds: float | None) -> str | None:
    """Return seconds since the epoch as ISO 8601 in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def progress_of(steps: Sequence[Step]) -> int:
    """Return 0 to 100, over all steps of a task: each counts by its weight, and so do those that are yet to be
    planned."""
    done = sum(step.progress * step.weight for step in steps)
    return whole_percent(done / (sum(step.weight + step.reserved_weight for step in steps) or 1.0))


def whole_percent(percent: float) -> int:
    return int(percent + 1e-6)  # a sum of shares may miss the whole by a little


@dataclass(frozen=True)
class MadeStep:
    """A finished step, and what it made by name."""

    step: Step
    artifacts: dict[str, Artifact]

    @property
    def receipt(self) -> dict[str, Any]:
        return self.step.receipt or {}


@dataclass(frozen=True)
class Claim:
    """A step that this worker may work on, with what it needs to know of its task."""

    step: Step
    task: Task
    started_at: float
    """By the database's clock, in seconds since the epoch."""
    waited: float
    """Seconds from becoming ready to this claim."""
    tells_progress: bool = False
    """Whether a callback wants to know how far the task is."""
    needs: tuple[MadeStep, ...] = ()
    """The finished steps whose artifacts this one uses, in order."""
    inputs: dict[str, Input] = field(default_factory=dict)
    """What the task is made from, by role."""


class Rest(NamedTuple):
    """How long a step is to rest before its next attempt: `seconds` were left when the ledger's clock was `since`
    seconds earlier."""

    step_id: str
    attempt: int
    seconds: float
    since: float


class HeldLease(NamedTuple):
    """What an attempt holds a step by. Each renewal changes `lease_until`; `overdue` is by the database's clock."""

    step_id: str
    attempt: int
    lease_until: float
    overdue: bool
