"""What a caller asks for, whatever dialect it was said in."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from app.intake.source import Sizing, Source, name_of
from core.errors import InvalidParameter
from core.requests.clip import ClipRequest
from core.task import Callback, Dialect


@dataclass(frozen=True)
class Submission:
    source: Source
    request: ClipRequest
    """What it leaves out is as it was in the task that is remixed or extended, but for the seed; else as the engine's
    entry has it."""
    idempotency_key: str | None = None
    """A submission that comes again with it gives the task that was made first."""
    callback: Callback | None = None
    dialect: Dialect = Dialect.KINORA
    nearest: bool = False
    """An engine that cannot make the size, or so many seconds more, makes its largest of that shape, or as many as it
    can."""
    warnings: tuple[str, ...] = ()
    """Those of the dialect."""
    sizing: Sizing | None = None
    """What takes the place of `request` once the picture's own width and height are known."""
    reuse: bool = False
    """A step that the owner has had done before is not done again."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Of the parameters that the caller calls by another name than Kinora: Kinora's name, and the caller's."""

    @contextmanager
    def refused_by_name(self) -> Iterator[None]:
        """What is wrong with a parameter is said of the name that it was sent with."""
        try:
            yield
        except InvalidParameter as error:
            name = self.names.get(error.param or "")
            if not name:
                raise
            raise InvalidParameter(f"{name}: {error.message}", param=name) from error

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of all that the caller sent; defaults are not filled in, for they may change."""
        told = f" {self.callback.url} {' '.join(self.callback.events)}" if self.callback else ""
        more = (f" {self.sizing.name}" if self.sizing else "") + " reuse" * self.reuse
        sent = f"{self.request.model_dump_json(exclude_none=True)} {name_of(self.source)}{told}{more}"
        return hashlib.sha256(sent.encode()).hexdigest()
