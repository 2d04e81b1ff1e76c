"""Steps that are yet to be done know themselves what they do: before, each held the whole clip and looked at it."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

SETTINGS = (
    *("width", "height", "num_frames", "fps", "seed", "fit", "prompt", "num_inference_steps", "motion_bucket_id"),
    *("noise_aug_strength", "min_guidance_scale", "max_guidance_scale", "decode_chunk_size", "profile", "motion"),
    "memory_plan",
)
PASSED_ON_CRF = 8

tasks = sa.table("tasks", sa.column("task_id"), sa.column("params", sa.JSON))
steps = sa.table(
    "steps",
    *(sa.column("step_id"), sa.column("task_id"), sa.column("verb"), sa.column("status")),
    *(sa.column("position"), sa.column("params", sa.JSON)),
)
needs = sa.table("needs", sa.column("step_id"), sa.column("needed_id"))


def upgrade() -> None:
    connection = op.get_bind()
    columns = (steps.c.step_id, steps.c.verb, steps.c.params, tasks.c.params.label("task_params"))
    found = sa.select(*columns).join_from(steps, tasks, tasks.c.task_id == steps.c.task_id)
    for row in connection.execute(found.where(steps.c.status.in_(["queued", "started"]))).all():
        if "width" not in row.params:
            continue
        needed = (
            sa.select(steps.c.verb)
            .join_from(needs, steps, steps.c.step_id == needs.c.needed_id)
            .where(needs.c.step_id == row.step_id)
            .order_by(steps.c.position)
        )
        verbs = list(connection.execute(needed).scalars())
        params = typed(row.verb, {name: value for name, value in row.params.items() if value is not None}, verbs)
        if row.verb == "join" and len(verbs) > 1:
            left_out = {"engine"} if row.params.get("continues") is not None else {"engine", "continues"}
            params["parameters"] = {name: value for name, value in row.task_params.items() if name not in left_out}
        connection.execute(steps.update().where(steps.c.step_id == row.step_id).values(params=params))


def typed(verb: str, clip: dict[str, Any], needs: list[str]) -> dict[str, Any]:
    """Return the parameters of a step of kind `verb`, by the clip that it held and the kinds of what it needs."""
    continues, smooth_fps, crf = clip.get("continues"), clip.get("smooth_fps"), clip["quality"]
    passed_on = min(crf, PASSED_ON_CRF) if smooth_fps else crf
    if verb == "smooth":
        played = (clip["num_frames"] - 1) * smooth_fps // clip["fps"] + 1
        names = ("width", "height", "fps")
        sizes = {name: clip[name] for name in names}
        goes_on = bool(continues)
        of = {"smooth_fps": smooth_fps, "num_frames": played - goes_on, "drop_first": goes_on, "crf": crf}
        return {"kind": verb} | sizes | of
    if verb == "join":
        is_passed_on = bool(smooth_fps) and needs[:1] == ["clip"]
        said = {"parameters": {"continues": continues}} if continues is not None else {}
        shown = {"crf": passed_on if is_passed_on else crf, "shows": not is_passed_on}
        return {"kind": verb, "after_input": continues is not None} | shown | said
    part = clip.get("part")
    begins_with = "part" if needs else "picture" if not continues else "last_frame"
    return {
        "kind": verb,
        "engine": clip["engine"],
        "settings": {name: clip[name] for name in SETTINGS if name in clip},
        "begins_with": begins_with,
        **({"adds": part["num_frames"], "continuity": part["number"] < part["of"] - 1} if part else {}),
        "drop_first": bool(continues) and not smooth_fps and not needs,
        "crf": passed_on,
        "shows": not (part or smooth_fps or continues),
    }


def downgrade() -> None:
    raise NotImplementedError("what a step held before is not known any more")
