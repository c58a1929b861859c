"""The examples of the pages about deployment: units, manifests and settings that fit each other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dimesh.settings import MeshSettings, load_settings

HOW_TO = Path(__file__).resolve().parents[2] / "docs/how-to"
FILE = re.compile(r'^```\w+ title="(?P<name>[^"]+)"\n(?P<text>.*?)^```', re.MULTILINE | re.DOTALL)


def files(page: str) -> dict[str, str]:
    return {found["name"]: found["text"] for found in FILE.finditer((HOW_TO / page).read_text("utf-8"))}


DEPLOYMENT = files("deployment.md")
UNITS = {
    name: text
    for name, text in (DEPLOYMENT | files("backup.md")).items()
    if name.endswith((".service", ".timer"))
}


@pytest.fixture
def settings(tmp_path: Path) -> MeshSettings:
    (tmp_path / "dimesh.toml").write_text(DEPLOYMENT["dimesh.toml"])
    return load_settings(tmp_path / "dimesh.toml").settings


def seconds(unit: str, setting: str) -> int:
    (value,) = re.findall(rf"^{setting}=(\d+)$", unit, re.MULTILINE)
    return int(value)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    assert len(UNITS) == 3
    for name, text in UNITS.items():
        # The program of the example does not exist here.
        (tmp_path / name).write_text(text.replace("/opt/shop/.venv/bin/dimesh", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in UNITS)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "dimesh" in line]
    assert not ours, done.stderr


def test_every_stop_allows_more_time_than_the_drain(settings: MeshSettings) -> None:
    drain = settings.bus.drain_timeout + 5  # what hangs is given up five seconds later
    assert seconds(DEPLOYMENT["dimesh.service"], "TimeoutStopSec") > drain
    stateful, _ = yaml.safe_load_all(DEPLOYMENT["kubernetes.yaml"])
    assert stateful["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > drain


def test_the_manifests_fit_the_settings(settings: MeshSettings) -> None:
    stateful, service = yaml.safe_load_all(DEPLOYMENT["kubernetes.yaml"])
    pod = stateful["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert settings.http.address is not None
    (port,) = container["ports"]
    assert port["containerPort"] == settings.http.address[1] == service["spec"]["ports"][0]["port"]
    probes: dict[str, Any] = {
        name: container[name]["httpGet"] for name in container if name.endswith("Probe")
    }
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",  # never a broker: a restart would not bring it back
        "readinessProbe": "/readyz",
    }
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    labels = pod["metadata"]["labels"]
    assert stateful["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    assert stateful["spec"]["replicas"] == 1  # the sqlite bus serves one machine
    (claim,) = stateful["spec"]["volumeClaimTemplates"]
    (mount,) = container["volumeMounts"]
    assert mount["name"] == claim["metadata"]["name"]
    for path in (settings.mesh.data_dir, Path(settings.cdc.state)):
        assert path.is_relative_to(mount["mountPath"])
    assert yaml.safe_load(DEPLOYMENT["rolling.yaml"])["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_the_container_runs_dimesh_itself() -> None:
    lines = DEPLOYMENT["Dockerfile"].splitlines()
    assert {line.split()[0] for line in lines} <= {
        "FROM", "RUN", "WORKDIR", "COPY", "USER", "VOLUME", "STOPSIGNAL", "CMD",
    }  # fmt: skip
    (command,) = [line.removeprefix("CMD ") for line in lines if line.startswith("CMD ")]
    assert json.loads(command)[0] == "dimesh"  # no shell between it and its signals
