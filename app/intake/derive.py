"""What a task takes over from the earlier one that it remixes or extends."""

from typing import Any

from app.intake.source import Extension, Remix, Source
from app.services import Services
from app.tasks import require_result
from core.errors import InvalidParameter, TaskNotFound
from core.requests.clip import Clip, ClipRequest

SAME_IN_ONE_VIDEO = ("engine", "width", "height", "fps", "smooth_fps", "quality", "profile")

WHERE_NOTHING_WAS_SAID = {"profile": "exact"}


def remixed_from(source: Source) -> str | None:
    return source.task.task_id if isinstance(source, Remix) else None


def extended_from(source: Source) -> str | None:
    if isinstance(source, Remix):
        return source.task.extended_from
    return source.task.task_id if isinstance(source, Extension) else None


def frames_before(source: Source) -> int | None:
    """Of the video that the clip continues; None if it begins with a picture."""
    if isinstance(source, Remix):
        return source.task.params.get("continues")
    return Clip.model_validate(source.task.params).frames_in_all if isinstance(source, Extension) else None


def check_there(source: Source, services: Services) -> None:
    """Raises TaskNotFound for a task that was deleted; NotReady, TaskGone if there is no video to go on from."""
    if isinstance(source, (Remix, Extension)) and source.task.deleted_at is not None:
        raise TaskNotFound(f"the task {source.task.task_id!r} was deleted", param="task_id")
    if isinstance(source, Extension):
        require_result(services, source.task)


def inherit_parameters(source: Source, request: ClipRequest) -> ClipRequest:
    """Return `request` filled up with the parameters of the earlier task, but for its seed; an approximation only if it
    continues one. Raises InvalidParameter for what cannot change in the middle of a video."""
    if not isinstance(source, (Remix, Extension)):
        return request
    asked, before = request.model_dump(exclude_none=True), source.task.params
    goes_on = frames_before(source) is not None
    if goes_on:
        check_unchanged(asked, before)
    if asked.get("engine", before["engine"]) != before["engine"]:  # which has other limits
        return request
    replaced = {"seed"}
    if "seconds" in asked:
        replaced.add("num_frames")
    if not goes_on:
        replaced |= {"profile", "smooth_fps"} if "fps" in asked else {"profile"}
    kept = {name: before[name] for name in ClipRequest.model_fields if name in before and name not in replaced}
    return ClipRequest(**kept | asked)


def check_unchanged(asked: dict[str, Any], before: dict[str, Any]) -> None:
    for name in SAME_IN_ONE_VIDEO:
        was = before.get(name) or WHERE_NOTHING_WAS_SAID.get(name)
        if asked.get(name, was) != was:
            message = (
                f"{name} must be {'left out' if was is None else was}, as in the video that goes on; got {asked[name]}"
            )
            raise InvalidParameter(message, param=name)
