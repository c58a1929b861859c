"""Google's own fake of Cloud Pub/Sub (Go), built once and started on a free port of loopback."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from servers.processes import (
    ServerProcess,
    accepts,
    cache_folder,
    folder_kept_on_failure,
    free_ports,
    made_once,
    needs,
    run,
)
from servers.pubsub import mend

HERE = Path(__file__).parent
MODULE = "cloud.google.com/go/pubsub/v2"


def built() -> Path:
    """Build the program if necessary, which takes a minute, and return its path.

    Raises:
        ServerUnavailable: If Go is missing or the module cannot be downloaded.
    """
    go = needs("go", "the fake of Pub/Sub is written in Go (1.24 or newer)")
    sources = [HERE / name for name in ("main.go", "go.mod", "go.sum", "mend.py")]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]

    def make(folder: Path) -> None:
        for source in sources[:3]:
            shutil.copy(source, folder)
        found = json.loads(run([go, "mod", "download", "-json", MODULE], cwd=folder))
        copy = folder / "module"
        shutil.copytree(found["Dir"], copy)
        fake = copy / "pstest" / "fake.go"
        for path in (copy, fake.parent, fake):
            path.chmod(0o755)
        mend.main(fake)
        run([go, "mod", "edit", f"-replace={MODULE}=./module"], cwd=folder)
        run([go, "build", "-mod=mod", "-o", "pubsub", "."], cwd=folder)
        for path in copy.rglob("*"):
            path.chmod(0o755)
        shutil.rmtree(copy)

    return made_once(cache_folder(f"pubsub-{digest}"), make) / "pubsub"


class PubSub:
    """A running server."""

    def __init__(self, port: int, process: ServerProcess) -> None:
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self.process = process

    def start(self) -> None:
        """Start the server, which is empty also after a restart: the fake keeps everything in memory."""
        self.process.start(lambda: accepts(self.port))


@contextlib.contextmanager
def pubsub_fake() -> Iterator[PubSub]:
    """Start a new server, which is stopped at the end."""
    program = built()
    (port,) = free_ports(1)
    with folder_kept_on_failure("pubsub") as folder:
        server = PubSub(port, ServerProcess([str(program), str(port)], folder / "pubsub.log"))
        server.start()
        try:
            yield server
        finally:
            server.process.stop()
