"""What a hub answers to who uploads: a repository is made, small files come in the commit, large ones before it (LFS).

Only the account of TOKEN may. Files are there once the commit names them.
"""

import base64
import json
import re
import tempfile
from pathlib import Path


class Uploads:
    """Part of the hub's front: POST and PUT."""

    PREUPLOAD = re.compile(r"^/api/models/([^/]+/[^/]+)/preupload/main$")
    BATCH = re.compile(r"^/([^/]+/[^/]+)\.git/info/lfs/objects/batch$")
    COMMIT = re.compile(r"^/api/models/([^/]+/[^/]+)/commit/main$")

    def do_POST(self):
        self.handle_it()

    def do_PUT(self):
        self.handle_it()

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def taken(self, path, token, large):
        """Answer what an upload asks; False: it is none."""
        content = self.body()
        if path.startswith("/lfs/"):
            self.hub.uploads[path.rpartition("/")[2]] = content
            self.say(200)
        elif path == "/api/validate-yaml":
            self.say(200, {"errors": [], "warnings": []})
        elif self.request_.token != token:
            self.fail(401, "Unauthorized", "Invalid username or password.")
        elif path == "/api/repos/create":
            self.created(json.loads(content))
        elif found := self.PREUPLOAD.match(path):
            asked = json.loads(content)["files"]
            mode = lambda file: "lfs" if Path(file).suffix in large else "regular"  # noqa: E731
            self.say(200, {"files": [{"path": f["path"], "uploadMode": mode(f["path"]), "shouldIgnore": False,
                                      "oid": None} for f in asked]})  # fmt: skip
        elif self.BATCH.match(path):
            put = lambda o: {"upload": {"href": f"{self.hub.url}/lfs/{o['oid']}"}}  # noqa: E731
            objects = [{**o, "actions": put(o)} for o in json.loads(content)["objects"]]
            self.say(200, {"transfer": "basic", "objects": objects})
        elif found := self.COMMIT.match(path):
            self.committed(found[1], [json.loads(line) for line in content.splitlines()])
        else:
            return False
        return True

    def created(self, asked):
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        if ("models", name) in self.hub.repositories:
            self.say(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
        else:
            self.hub.add(name, tempfile.mkdtemp(prefix="hub-"), private=asked.get("private") or
                         asked.get("visibility") == "private")  # fmt: skip
            self.say(200, {"url": f"{self.hub.url}/{name}"})

    def committed(self, name, lines):
        repository = self.hub.repositories["models", name]
        for line in lines:
            value = line["value"]
            if line["key"] in ("file", "lfsFile"):
                target = repository.folder / value["path"]
                target.parent.mkdir(parents=True, exist_ok=True)
                large = line["key"] == "lfsFile"
                target.write_bytes(self.hub.uploads[value["oid"]] if large else base64.b64decode(value["content"]))
        self.say(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{repository.commit}", "success": True,
                       "commitOid": repository.commit})  # fmt: skip
