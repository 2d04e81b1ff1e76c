"""What Node's `fetch` can be told, against a real service: forms, JSON, events, and a redirect."""

import base64
import json
import os
import shutil
import subprocess

import pytest

from harness.pictures import SAMPLES
from tests.clients.conftest import Service, frames_of

BEGIN = """
import { readFile } from "node:fs/promises";
const { URL_OF_SERVICE: url, KEY: key, PICTURE: picture } = process.env;
const headers = { Authorization: `Bearer ${key}` };
const small = { width: 64, height: 64, num_frames: 2 };
const bytes = await readFile(picture);

function form(file) {
  const form = new FormData();
  for (const [name, value] of Object.entries(small)) form.append(name, value);
  form.append("file", file, "photo.jpg");
  return form;
}

async function events(id) {
  const answer = await fetch(`${url}/status/${id}/events`, { headers });
  let told = "";
  for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) told += piece;
  return told.split("\\n").filter((line) => line.startsWith("data: ")).map((line) => JSON.parse(line.slice(6)));
}

const say = (found) => console.log(JSON.stringify(found));
"""


def node(service: Service, program: str) -> object:
    """Returns what it said."""
    if not os.environ.get("CI") and not shutil.which("node"):
        pytest.skip("no Node here")
    given = {"URL_OF_SERVICE": service.url, "KEY": service.ann, "PICTURE": str(SAMPLES / "cat.jpg")}
    command = ["node", "--input-type=module", "--eval", BEGIN + program]
    done = subprocess.run(command, env=os.environ | given, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "file",
    [
        'new Blob([bytes], { type: "image/jpeg" })',
        "new Blob([bytes])",
        'new File([bytes], "photo", { type: "text/plain" })',
        'new Blob([bytes.toString("base64")])',
        'new Blob([bytes.toString("base64url")])',
        'new Blob([`data:image/jpeg;base64,${encodeURIComponent(bytes.toString("base64"))}`])',
    ],
)
def test_a_form_becomes_a_video_that_is_followed_by_its_events(service: Service, file: str) -> None:
    told = node(
        service,
        f"""
const made = await (await fetch(`${{url}}/generate`, {{ method: "POST", headers, body: form({file}) }})).json();
const told = await events(made.task_id);
const video = await fetch(told.at(-1).result_url);
say({{ status: told.at(-1).status, video: Buffer.from(await video.arrayBuffer()).toString("base64") }});
""",
    )
    assert told["status"] == "finished"
    assert frames_of(base64.b64decode(told["video"])) == (2, 64, 64)


def test_json_a_stream_and_a_part_are_taken(service: Service) -> None:
    told = node(
        service,
        """
const type = { ...headers, "Content-Type": "application/json" };
const body = JSON.stringify({ ...small, image: bytes.toString("base64") });
const whole = await fetch(`${url}/generate`, { method: "POST", headers: type, body });
const pieces = new Blob([body]).stream();
const streamed = await fetch(`${url}/generate`, { method: "POST", headers: type, body: pieces, duplex: "half" });
const { task_id } = await streamed.json();
await events(task_id);
const part = await fetch(`${url}/results/${task_id}`, { headers: { ...headers, Range: "bytes=0-99" } });
const head = await fetch(`${url}/results/${task_id}`, { headers, method: "HEAD" });
say([whole.status, streamed.status, part.status, (await part.arrayBuffer()).byteLength, head.status]);
""",
    )
    assert told == [202, 202, 206, 100, 200]


def test_a_path_with_a_slash_at_its_end_is_led_on_but_for_a_form(service: Service) -> None:
    """A form's stream cannot be sent twice: so docs/clients.md says to give paths without."""
    told = node(
        service,
        """
const list = await fetch(`${url}/tasks/`, { headers });
const type = { ...headers, "Content-Type": "application/json" };
const body = JSON.stringify({ ...small, image: bytes.toString("base64") });
const text = await fetch(`${url}/generate/`, { method: "POST", headers: type, body });
const sent = fetch(`${url}/generate/`, { method: "POST", headers, body: form(new Blob([bytes])) });
const answered = await sent.then((answer) => answer.status, () => "failed");
say([list.status, text.status, answered === 202]);
""",
    )
    assert told == [200, 202, False]
