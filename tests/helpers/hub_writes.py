"""What the loopback hub of hub_server.py answers to pushes: repositories, preupload, LFS (basic), commits, cards.

A card is judged as the hub documents it (https://huggingface.co/docs/hub/model-cards), so that a wrong one is refused.
"""

import base64
import json
import re
from typing import Any

import yaml

PREUPLOAD = re.compile(r"/api/models/(?P<repo>.+?)/preupload/main")
COMMIT = re.compile(r"/api/models/(?P<repo>.+?)/commit/main")
LFS = re.compile(r"/(?P<repo>.+?)\.git/info/lfs/objects/batch")
OBJECT = re.compile(r"/lfs/(?P<oid>[0-9a-f]{64})")
BLOCK = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
HUB_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
OID = "a" * 40


class Pushed:
    """Files by repository and path, as they came in; `url` is the server's."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.messages: list[str] = []
        self._objects: dict[str, bytes] = {}

    def put(self, path: str, body: bytes) -> tuple[int, Any]:
        """Status and answer to a PUT: the content of a large file."""
        match = OBJECT.fullmatch(path)
        if match is None:
            return 404, {"error": "no such page"}
        self._objects[match["oid"]] = body
        return 200, {}

    def post(self, url: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and answer to a POST."""
        if path == "/api/validate-yaml":
            problems = card_problems(json.loads(body)["content"])
            return (400 if problems else 200), {"errors": [{"message": text} for text in problems], "warnings": []}
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            self.files.setdefault(repo, {})
            return 200, {"url": f"{url}/{repo}", "name": repo, "id": repo}
        if match := PREUPLOAD.fullmatch(path):
            asked = json.loads(body)["files"]
            return 200, {
                "files": [
                    {"path": file["path"], "uploadMode": _mode(file["path"]), "shouldIgnore": False} for file in asked
                ]
            }
        if match := LFS.fullmatch(path):
            objects = [
                {**one, "actions": {"upload": {"href": f"{url}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        if (match := COMMIT.fullmatch(path)) and match["repo"] in self.files:
            for line in map(json.loads, body.decode().splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.files[match["repo"]][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.files[match["repo"]][value["path"]] = self._objects[value["oid"]]
                else:
                    self.messages.append(value["summary"])
            return 200, {
                "success": True,
                "commitOid": OID,
                "commitUrl": f"{url}/{match['repo']}/commit/{OID}",
                "hookOutput": "",
            }
        return 404, {"error": "no such page"}


def _mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


def card_problems(content: str) -> list[str]:
    """What is wrong with the metadata of a model card; nothing if the hub would take it."""
    block = BLOCK.match(content)
    if block is None:
        return ["no metadata"]
    try:
        data = yaml.safe_load(block[1])
    except yaml.YAMLError as error:
        return [f"not YAML: {error}"]
    problems = [
        f"{key} is no text" for key in ("library_name", "pipeline_tag", "license") if not _text(data.get(key, "-"))
    ]
    for key in ("base_model", "datasets"):
        named = data.get(key, [])
        ids = [named] if isinstance(named, str) else named
        problems += [f"{key}: {name!r} is no id on the hub" for name in ids if not HUB_ID.fullmatch(str(name))]
    for key in ("tags", "metrics"):
        if not all(map(_text, data.get(key, []))):
            problems.append(f"{key}: not a list of texts")
    for model in data.get("model-index", []):
        if not _text(model.get("name")) or not model.get("results"):
            problems.append("model-index: no name or no results")
        for result in model["results"]:
            named = [result["task"].get("type"), result["dataset"].get("type"), result["dataset"].get("name")]
            named += [metric.get("type") for metric in result["metrics"]]
            if not all(map(_text, named)) or any(metric.get("value") is None for metric in result["metrics"]):
                problems.append(f"model-index: {result}")
    return problems


def _text(value: Any) -> bool:
    return isinstance(value, str) and value != ""
