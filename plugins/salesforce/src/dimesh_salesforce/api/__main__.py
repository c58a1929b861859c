"""Make ``descriptors.binpb`` from ``eventbus.proto``; needs grpcio-tools."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


def compiled() -> bytes:
    """Return the descriptors of ``eventbus.proto``."""
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "descriptors.binpb")
        if protoc.main(["protoc", f"-I{HERE}", f"--descriptor_set_out={made}", str(HERE / "eventbus.proto")]):
            sys.exit("eventbus.proto cannot be compiled")
        return made.read_bytes()


if __name__ == "__main__":
    (HERE / "descriptors.binpb").write_bytes(compiled())
