"""From a clip to the graph of steps that makes it: pure, no I/O."""

from typing import Any

from core.config.settings import Settings
from core.engines.base import Engine
from core.plan.graph import Graph, PlannedStep
from core.plan.parts import parts
from core.plan.steps import JoinClips, RenderClip, SmoothClip
from core.requests.clip import Clip

PASSED_ON_CRF = 8
"""x264's crf of a clip that is encoded again later, unless a better one was asked for: 53 dB from what was rendered,
and 2 MB at 1024×576."""


def clip_graph(clip: Clip, engine: Engine, smoothing_queue: str, settings: Settings) -> Graph:
    """Return the steps of a clip: one part or several, joined; smoothed in `smoothing_queue` if `smooth_fps` is set;
    joined to the video that it continues."""
    steps = render_steps(clip, engine, settings)
    to_join = tuple(step.name for step in steps)
    if clip.smooth_fps:
        if len(to_join) > 1:
            steps.append(join_parts(clip, engine, to_join))
        steps.append(smooth_step(clip, clip.smooth_fps, smoothing_queue, steps[-1].name))
        to_join = (steps[-1].name,)
    if clip.continues is not None:
        steps.append(join_to_input(clip, engine, to_join, is_of_parts=len(to_join) > 1))
    elif len(to_join) > 1:
        steps.append(join_parts(clip, engine, to_join))
    return Graph(tuple(steps), steps[-1].name)


def render_steps(clip: Clip, engine: Engine, settings: Settings) -> list[PlannedStep]:
    """Return a step for each part of the clip; each needs the one before it."""
    found = parts(clip, engine, settings)
    is_whole = len(found) == 1
    begins_with = "picture" if clip.continues is None else "last_frame"
    steps: list[PlannedStep] = []
    for number, part in enumerate(found):
        params = RenderClip(
            engine=clip.engine,
            settings=part.settings,
            begins_with=begins_with if number == 0 else "part",
            adds=None if is_whole else part.adds,
            continuity=number < len(found) - 1,
            drop_first=number == 0 and clip.continues is not None and not clip.smooth_fps,
            crf=passed_on(clip.quality) if clip.smooth_fps else clip.quality,
            shows=is_whole and not clip.smooth_fps and clip.continues is None,
        )
        needs = (steps[-1].name,) if steps else ()
        name = "clip" if is_whole else f"clip-{number + 1}"
        size, work = part.settings.size, part.settings.work
        steps.append(PlannedStep(name, params, engine.queue, needs, size, work, engine=clip.engine))
    return steps


def smooth_step(clip: Clip, smooth_fps: int, queue: str, of: str) -> PlannedStep:
    params = SmoothClip(
        width=clip.width,
        height=clip.height,
        fps=clip.fps,
        smooth_fps=smooth_fps,
        num_frames=clip.frames_played - (clip.continues is not None),
        drop_first=clip.continues is not None,
        crf=clip.quality,
    )
    return PlannedStep("smooth", params, queue, (of,), clip.smoothed_size, clip.smoothed_work)


def join_parts(clip: Clip, engine: Engine, needs: tuple[str, ...]) -> PlannedStep:
    crf = passed_on(clip.quality) if clip.smooth_fps else clip.quality
    params = JoinClips(crf=crf, shows=not clip.smooth_fps, parameters=whole(clip, continues=None))
    without = clip.model_copy(update={"continues": None})
    return PlannedStep("join-parts", params, engine.queue, needs, without.joined_size, without.joined_work)


def join_to_input(clip: Clip, engine: Engine, needs: tuple[str, ...], is_of_parts: bool) -> PlannedStep:
    said = whole(clip) if is_of_parts else {"continues": clip.continues}
    params = JoinClips(after_input=True, crf=clip.quality, parameters=said)
    return PlannedStep("join", params, engine.queue, needs, clip.joined_size, clip.joined_work)


def passed_on(quality: int) -> int:
    return min(quality, PASSED_ON_CRF)


def whole(clip: Clip, **changes: None) -> dict[str, Any]:
    """Return what the receipt says of a clip that was made in parts."""
    return clip.model_copy(update=changes).model_dump(exclude_none=True, exclude={"engine"})
