"""What clips begin with, decoded and at the clip's size; that of the next step while this one renders, for a large
picture takes longer than all else between two clips."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog
from PIL import Image

from core.config.settings import Settings
from core.engines.known import find_engine
from core.errors import ArtifactNotFound, InputMissing
from core.ledger.moves import Ledger
from core.picture import read_stored
from core.plan.steps import PARAMS, RenderClip
from core.storage import Storage
from core.task import Claim, Input, Step, Task
from worker.attempt import Attempt
from worker.media.fit import fit_picture
from worker.media.video import last_frame

LOOK_SECONDS = 0.5

Peek = Callable[[], tuple[Step, Task] | None]
"""Returns the step that will likely be claimed next, and its task."""

log = structlog.get_logger(__name__)


class Pictures:
    def __init__(self, settings: Settings, storage: Storage, scratch: Path) -> None:
        """Videos are in `scratch` while their last frame is read."""
        self.settings, self.storage, self.scratch = settings, storage, scratch
        self._ahead: tuple[str, Future[Image.Image]] | None = None
        """Of which step. It may never be asked for: another worker may be faster."""
        self._lock = threading.Lock()

    def get(self, claim: Claim, params: RenderClip, attempt: Attempt) -> Image.Image:
        """Raises what reading and decoding raise."""
        with self._lock:
            ahead = self._ahead if self._ahead and self._ahead[0] == claim.step.step_id else None
            self._ahead = None if ahead else self._ahead
        if ahead:
            while not ahead[1].done():
                wait([ahead[1]], timeout=LOOK_SECONDS)
                attempt.check()
            with suppress(Exception):  # what failed there is tried again here, and told
                return ahead[1].result()
        source = input_of(params, claim.inputs)
        try:
            return attempt.keep_trying(lambda: self._decode(params, source))
        except ArtifactNotFound as error:
            raise InputMissing("what the task was made from is no longer in the storage") from error

    @contextmanager
    def reading_ahead(self, ledger: Ledger, peek: Peek) -> Iterator[None]:
        """While the block runs, read and decode the picture of the step that `peek` says is next. Nothing is claimed,
        and what fails here is left to the step itself."""
        ended = threading.Event()
        threading.Thread(target=self._keep_looking, args=[ledger, peek, ended], name="ahead", daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def _keep_looking(self, ledger: Ledger, peek: Peek, ended: threading.Event) -> None:
        looked_at = None
        while not ended.is_set():
            try:
                found = peek()
                if found and found[0].step_id != looked_at:
                    step, task = found
                    looked_at = step.step_id
                    params = PARAMS.validate_python(step.params)
                    if isinstance(params, RenderClip) and params.begins_with != "part":
                        source = input_of(params, ledger.inputs(task.task_id))
                        self._read_ahead(step, params, source, ended.is_set)
            except Exception as error:
                log.debug("not_read_ahead", reason=type(error).__name__)
            ended.wait(LOOK_SECONDS)

    def _read_ahead(self, step: Step, params: RenderClip, source: Input, is_late: Callable[[], bool]) -> None:
        if self._ahead and self._ahead[0] == step.step_id:
            return
        picture = Future[Image.Image]()
        with self._lock:  # for this alone: the clip that renders may be about to ask for its own picture
            if is_late():
                return
            self._ahead = step.step_id, picture
        try:
            picture.set_result(self._decode(params, source))
        except Exception as error:
            picture.set_exception(error)
            raise

    def _decode(self, params: RenderClip, source: Input) -> Image.Image:
        picture, wanted = self._read(params, source.key), params.settings
        if find_engine(params.engine, self.settings).fits_pictures:
            return fit_picture(picture, wanted.width, wanted.height, wanted.fit)
        return picture

    def _read(self, params: RenderClip, key: str) -> Image.Image:
        if params.begins_with == "picture":
            return read_stored(self.storage.read(key))
        with TemporaryDirectory(prefix="kinora-continue-", dir=self.scratch) as folder:
            video = Path(folder) / "before.mp4"
            self.storage.download(key, video)
            return Image.fromarray(last_frame(video))


def input_of(params: RenderClip, inputs: dict[str, Input]) -> Input:
    """Return the one of the task's inputs that the clip begins with."""
    return inputs[str(params.input_role)]
