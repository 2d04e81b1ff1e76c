"""The workflow of docs/n8n: filled in as its user would do it, and what n8n does with it as far as HTTP goes.

Only what that file holds is understood; scripts/try-n8n runs it in a real n8n.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2

from harness.pictures import SAMPLES
from harness.stack import ROOT

WORKFLOW = ROOT / "docs/n8n/image-to-video.json"

EXPRESSION = re.compile(r"\{\{ (.+?) \}\}")
PATH = re.compile(r"(?:\$\('(?P<node>[^']+)'\)\.first\(\)\.json|\$json)\.(?P<path>[\w.]+)")


def filled_in(fields: dict[str, str] | None = None, **settings: str) -> dict[str, Any]:
    """The workflow with these values in its node Settings, and these fields more in what it asks Kinora for."""
    workflow: dict[str, Any] = json.loads(WORKFLOW.read_text())
    parameters = {node["name"]: node["parameters"] for node in workflow["nodes"]}
    for assignment in parameters["Settings"]["assignments"]["assignments"]:
        assignment["value"] = settings.pop(assignment["name"])
    assert not settings, f"not in Settings: {settings}"
    rows = [{"parameterType": "formData", "name": name, "value": value} for name, value in (fields or {}).items()]
    parameters["Make a video"]["bodyParameters"]["parameters"] += rows
    return workflow


class Pictures(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def served_samples() -> Iterator[str]:
    """Where the pictures of samples/ can be fetched."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Pictures, directory=str(SAMPLES))) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@dataclass
class Item:
    json: dict[str, Any] = field(default_factory=dict)
    binary: dict[str, bytes] = field(default_factory=dict)


class Run:
    """One execution. `called_back` stands for the Wait node: it gives the body of the callback to `resume_url`."""

    def __init__(self, workflow: dict[str, Any], resume_url: str, called_back: Callable[[], dict[str, Any]]) -> None:
        self.nodes = {node["name"]: node for node in workflow["nodes"]}
        self.connections, self.resume_url, self.called_back = workflow["connections"], resume_url, called_back
        self.items: dict[str, Item] = {}
        self.last = Item()

    def follow(self, name: str = "Start") -> str:
        """The name of the last node."""
        while True:
            output = self.do(name)
            if name not in self.connections:
                return name
            ((target,),) = self.connections[name]["main"][output : output + 1]
            name = target["node"]

    def do(self, name: str) -> int:
        """Which of its outputs the item leaves by."""
        node, output = self.nodes[name], 0
        parameters = node["parameters"]
        match node["type"].removeprefix("n8n-nodes-base."):
            case "set":
                given = parameters["assignments"]["assignments"]
                self.last = Item({entry["name"]: self.render(entry["value"]) for entry in given})
            case "httpRequest":
                self.last = self.request(parameters)
            case "wait":
                assert (parameters["resume"], parameters["httpMethod"]) == ("webhook", "POST")
                self.last = Item({"body": self.called_back()})
            case "if":
                (condition,) = parameters["conditions"]["conditions"]
                output = int(self.render(condition["leftValue"]) != self.render(condition["rightValue"]))
            case kind:
                assert kind in ("manualTrigger", "stopAndError"), f"{name} is a {kind}"
        self.items[name] = self.last
        return output

    def request(self, parameters: dict[str, Any]) -> Item:
        files: dict[str, bytes] = {}
        fields: dict[str, str] = {}
        for entry in parameters.get("bodyParameters", {}).get("parameters", []):
            if entry["parameterType"] == "formBinaryData":
                files[entry["name"]] = self.last.binary[entry["inputDataFieldName"]]
            else:
                fields[entry["name"]] = self.render(entry["value"])
        headers = parameters.get("headerParameters", {}).get("parameters", [])
        response = httpx2.request(
            parameters.get("method", "GET"),
            self.render(parameters["url"]),
            headers={header["name"]: self.render(header["value"]) for header in headers},
            data=fields,
            files=files,
            timeout=30,
        )
        assert response.is_success, response.text
        wanted = parameters["options"].get("response", {}).get("response", {})
        if wanted.get("responseFormat") == "file":
            return Item(binary={wanted["outputPropertyName"]: response.content})
        return Item(response.json())

    def render(self, value: str) -> str:
        return EXPRESSION.sub(lambda found: self.look_up(found[1]), value[1:]) if value.startswith("=") else value

    def look_up(self, expression: str) -> str:
        if expression == "$execution.resumeUrl":
            return self.resume_url
        found = PATH.fullmatch(expression)
        assert found, f"not understood: {expression}"
        value: Any = (self.items[found["node"]] if found["node"] else self.last).json
        for name in found["path"].split("."):
            value = value[name]
        return str(value)
