"""Talks to a ComfyUI server: finds one on this machine, starts it, queues a graph and fetches its pictures."""
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

from .embedded.context import Events
from .embedded.files import numbered_path
from .workflow import is_link

PACK = Path(__file__).resolve().parent.parent
START_SECONDS = 120


class ServerError(ValueError):
    """A server that can't be reached or started, or that refused or failed a graph."""


def find_comfyui() -> Path | None:
    """ComfyUI on this machine: $COMFYUI_PATH, the one around this pack, ~/comfy/ComfyUI or ~/ComfyUI."""
    named = os.environ.get("COMFYUI_PATH")
    home = Path.home()
    enclosing = [PACK.parent.parent] if PACK.parent.name == "custom_nodes" else []
    places = [Path(named).expanduser()] if named else [*enclosing, home / "comfy" / "ComfyUI", home / "ComfyUI"]
    return next((place for place in places if (place / "main.py").is_file() and (place / "comfy").is_dir()), None)


def interpreter_of(root: Path) -> Path:
    """The Python that a ComfyUI runs under: its own virtual environment or embedded Python, else this one."""
    places = [root / env / part for env in (".venv", "venv") for part in ("bin/python", "Scripts/python.exe")]
    places.append(root.parent / "python_embeded" / "python.exe")
    return next((place for place in places if place.is_file()), Path(sys.executable))


def _has_accelerator(python: Path) -> bool:
    probe = ("import torch; print(torch.cuda.is_available() or torch.backends.mps.is_available() or "
             "(hasattr(torch, 'xpu') and torch.xpu.is_available()))")
    answer = subprocess.run([python, "-c", probe], capture_output=True, text=True, check=False)
    return answer.stdout.strip() == "True"


@contextmanager
def started(root: Path, *options: str):
    """Runs the ComfyUI at root on a free port with this pack loaded; gives its URL, ends it afterwards.

    What it saves goes to a folder that ends with it: fetch the pictures before.
    """
    python = interpreter_of(root)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="odeon-comfyui-") as folder:
        command = [str(python), "main.py", "--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch",
                   "--output-directory", folder, *_pack_options(root, Path(folder)), *options]
        if "--database-url" in (root / "comfy" / "cli_args.py").read_text(encoding="utf-8"):
            command += ["--database-url", "sqlite:///:memory:"]
        if "--cpu" not in options and not _has_accelerator(python):
            command.append("--cpu")
        log = Path(folder) / "log.txt"
        with log.open("wb") as sink:
            # in a session of its own, so that Ctrl-C reaches only this process, which then ends the server
            process = subprocess.Popen(command, cwd=root, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(url, process, log)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _pack_options(root: Path, folder: Path) -> list[str]:
    """Options that make a ComfyUI load this pack where it does not lie in its custom_nodes."""
    if any(place.resolve() == PACK for place in (root / "custom_nodes").iterdir()):
        return []
    nodes = folder / "custom_nodes"
    nodes.mkdir()
    try:
        (nodes / "odeon").symlink_to(PACK, target_is_directory=True)
    except OSError:  # Windows without the right to make links
        shutil.copytree(PACK, nodes / "odeon", ignore=shutil.ignore_patterns(".*", "tests", "output", "*.egg-info"))
    config = folder / "paths.yaml"
    config.write_text(f"odeon:\n  custom_nodes: {json.dumps(str(nodes))}\n", encoding="utf-8")
    return ["--extra-model-paths-config", str(config)]


def _wait_until_ready(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            last = "; ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
            raise ServerError(f"ComfyUI stopped while starting (exit code {process.returncode}): {last}")
        try:
            urllib.request.urlopen(f"{url}/system_stats", timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    raise ServerError(f"ComfyUI did not answer within {START_SECONDS} s; start it yourself and give its URL to --host")


class Client:
    """One connection to a running server."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        self.client_id = uuid.uuid4().hex

    def _open(self, path: str, data: bytes | None = None, content_type: str = "application/json"):
        request = urllib.request.Request(f"{self.url}{path}", data=data, headers={"Content-Type": content_type})
        try:
            return urllib.request.urlopen(request, timeout=60)
        except urllib.error.HTTPError as error:
            raise ServerError(_refusal(error)) from error
        except (OSError, ValueError) as error:
            raise self._silent(getattr(error, "reason", error)) from error

    def _silent(self, reason) -> ServerError:
        return ServerError(f"no ComfyUI answers at {self.url} ({reason}); start it, check the address, or use "
                           "--host embedded")

    def get(self, path: str):
        """JSON from the server."""
        with self._open(path) as answer:
            try:
                return json.load(answer)
            except ValueError as error:
                raise ServerError(f"what answers at {self.url} is no ComfyUI (its {path} is not JSON); "
                                  "check the address") from error

    def definitions(self) -> dict:
        """Every node the server knows, as `workflow` reads definitions."""
        return self.get("/object_info")

    def upload_inputs(self, prompt: dict, folders: list[Path]) -> None:
        """Sends the files that LoadImage nodes name and that lie in one of the folders here."""
        for node in prompt.values():
            name = node["inputs"].get("image")
            if node["class_type"] != "LoadImage" or is_link(name):
                continue
            path = next((folder / str(name) for folder in folders if (folder / str(name)).is_file()), None)
            if path is not None:
                body, boundary = _form(path)
                self._open("/upload/image", body, f"multipart/form-data; boundary={boundary}").close()

    def run(self, prompt: dict, ui: dict | None, events: Events) -> dict:
        """Queues a graph, reports its progress, and returns its outputs {node id: {"images": [...]}} when done."""
        import websocket

        extra = {} if ui is None else {"extra_data": {"extra_pnginfo": {"workflow": ui}}}
        parts = urlsplit(self.url)
        scheme = "wss" if parts.scheme == "https" else "ws"
        try:
            channel = websocket.create_connection(
                f"{scheme}://{parts.netloc}{parts.path}/ws?clientId={self.client_id}", timeout=60)
        except (OSError, websocket.WebSocketException) as error:
            raise self._silent(error) from error
        try:
            body = json.dumps({"prompt": prompt, "client_id": self.client_id, **extra}).encode()
            with self._open("/prompt", body) as answer:
                prompt_id = json.load(answer)["prompt_id"]
            self._follow(channel, prompt_id, prompt, events)
        except KeyboardInterrupt:
            with suppress(ServerError):
                self._open("/interrupt", b"{}").close()
            raise
        finally:
            channel.close()
        return self._outputs(prompt_id)

    def _outputs(self, prompt_id: str) -> dict:
        """The outputs of a finished graph; the server files them a moment after it says that it is done."""
        deadline = time.monotonic() + 10.0
        while True:
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return history[prompt_id]["outputs"]
            if time.monotonic() > deadline:
                raise ServerError(f"{self.url} finished the graph but does not list its outputs; "
                                  "look in its own output folder")
            time.sleep(0.05)

    def _follow(self, channel, prompt_id: str, prompt: dict, events: Events) -> None:
        """Reads messages until the graph is done; raises what the server reports as failed."""
        for kind, data in self._messages(channel):
            if data.get("prompt_id", prompt_id) != prompt_id:
                continue
            if kind == "execution_error":
                text = str(data["exception_message"]).strip()
                raise ServerError(f"node {data['node_id']} ({data['node_type']}): {text}")
            if kind == "execution_interrupted":
                raise ServerError("the run was interrupted on the server")
            if kind == "executing" and data["node"] is not None:
                node = prompt.get(data["node"], {})
                events.node_started(data["node"], node.get("_meta", {}).get("title") or node.get("class_type", ""))
            elif kind == "progress":
                events.progress(data["value"], data["max"])
            elif kind in ("execution_success", "executing"):
                return

    def _messages(self, channel):
        """(type, data) of every JSON message; pictures are passed over, a silent server is waited for."""
        import websocket

        while True:
            try:
                message = channel.recv()
            except websocket.WebSocketTimeoutException:
                continue  # a long model call says nothing
            except (OSError, websocket.WebSocketException) as error:
                raise ServerError(f"the connection to {self.url} broke ({error}); "
                                  "the server may still finish the graph") from error
            if isinstance(message, str) and message:
                parsed = json.loads(message)
                yield parsed["type"], parsed["data"]

    def fetch_images(self, outputs: dict, folder: Path, events: Events) -> list[Path]:
        """Saves every picture of a finished graph below folder (previews in temp/), unchanged, under free names."""
        saved = []
        for image in [image for output in outputs.values() for image in output.get("images", [])]:
            query = urlencode({key: image[key] for key in ("filename", "subfolder", "type")}, quote_via=quote)
            with self._open(f"/view?{query}") as answer:
                data = answer.read()
            temp = image["type"] == "temp"
            stem = re.sub(r"_\d+_?$", "", Path(image["filename"]).stem)
            path = numbered_path(folder / ("temp" if temp else ""), "preview" if temp else
                                 str(Path(image["subfolder"]) / stem), *_size(data))
            part = path.with_name(f".{path.name}.part")
            part.write_bytes(data)
            part.replace(path)
            events.saved(path)
            saved.append(path)
        return saved


def _size(data: bytes) -> tuple[int, int]:
    from PIL import Image

    return Image.open(io.BytesIO(data)).size


def _form(path: Path) -> tuple[bytes, str]:
    boundary = uuid.uuid4().hex
    head = (f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{path.name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n")
    fields = f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n--{boundary}--\r\n'
    return head.encode() + path.read_bytes() + fields.encode(), boundary


def _refusal(error: urllib.error.HTTPError) -> str:
    """Everything a server says is wrong with a graph, a line for each node."""
    try:
        answer = json.loads(error.read())
        lines = [answer["error"]["message"]]
        for node_id, node in answer.get("node_errors", {}).items():
            lines += [f"node {node_id} ({node['class_type']}): {problem['message']}: {problem['details']}"
                      for problem in node["errors"]]
        return "\n".join(lines)
    except (ValueError, KeyError, TypeError):
        return f"the server answered {error.code} {error.reason} to {error.url}"
