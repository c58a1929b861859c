"""What is found is what is installed now: no stale cache, no damaged neighbour, no double."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dimesh.errors import UnknownDriverError
from dimesh.plugins.discovery import OFFICIAL_EXTRAS, Kind, find
from dimesh.plugins.selection import Selection, resolve

LIST = """
import json
from dimesh.plugins.discovery import Kind, find
def names(): return {kind.label: [f.name for f in find(kind) if f.distribution.startswith("toy")] for kind in Kind}
"""
PRINT = LIST + "print(json.dumps(names()))"


@pytest.mark.slow
def test_a_plugin_is_seen_as_soon_as_it_is_installed(install: Any, run: Any, tmp_path: Path) -> None:
    install("toy-one", {"toy_one": ""}, {"dimesh.bus": {"one": "toy_one"}})
    assert run(PRINT)["bus"] == ["one"]
    # The same version again, one more entry point, the file times a moment apart: as authors of plugins do.
    install(
        "toy-one", {"toy_one": ""}, {"dimesh.bus": {"one": "toy_one"}, "dimesh.hooks": {"two": "toy_one"}}
    )
    assert run(PRINT)["hooks"] == ["two"]
    assert not (tmp_path / "cache").exists()


def test_a_running_process_sees_what_is_installed_and_removed(tools: Any, run: Any, tmp_path: Path) -> None:
    wheel = tools.build_wheel(tmp_path, "toy-one", {"toy_one": ""}, {"dimesh.cdc": {"one": "toy_one"}})
    before, during, after = run(
        LIST
        + f"""
import glob, importlib, shutil, sys, zipfile
site = {str(tmp_path / "site")!r}
seen = [names()["cdc"]]
zipfile.ZipFile({str(wheel)!r}).extractall(site)
importlib.invalidate_caches()
seen.append(names()["cdc"])
shutil.rmtree(glob.glob(site + "/toy_one*.dist-info")[0])
importlib.invalidate_caches()
seen.append(names()["cdc"])
print(json.dumps(seen))
"""
    )
    assert (before, during, after) == ([], ["one"], [])


@pytest.mark.parametrize("content", ["[dimesh.bus]\nno equals sign\n", b"[dimesh.bus]\nx = \xff\xfe\n"])
@pytest.mark.slow
def test_a_damaged_distribution_hides_no_other(
    install: Any, run: Any, site: Path, content: str | bytes
) -> None:
    install("toy-one", {"toy_one": ""}, {"dimesh.bus": {"one": "toy_one"}})
    info = site / "damaged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: damaged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_bytes(content.encode() if isinstance(content, str) else content)
    warnings, found = run(
        LIST
        + """
import logging
warnings = []
class Keep(logging.Handler):
    def emit(self, record): warnings.append(record.getMessage())
logging.getLogger("dimesh.plugins").addHandler(Keep(logging.WARNING))
bus = [f.name for f in find(Kind.BUS)]
print(json.dumps([warnings, bus]))
"""
    )
    assert {"memory", "sqlite", "one"} <= set(found)
    assert len(warnings) == 1
    assert "damaged-1.0.dist-info" in warnings[0]


@pytest.mark.slow
def test_a_distribution_without_metadata_is_listed(install: Any, run: Any, site: Path) -> None:
    install("toy-one", {"toy_one": ""}, {"dimesh.bus": {"one": "toy_one"}})
    (next(site.glob("toy_one*.dist-info")) / "METADATA").unlink()
    [row] = run(
        "import json; from dimesh.plugins.discovery import *;"
        "print(json.dumps([[f.distribution, f.version] for f in find(Kind.BUS) if f.name == 'one']))"
    )
    assert row == ["unknown", "unknown"]


@pytest.mark.slow
def test_a_distribution_twice_on_the_path_counts_once(
    install: Any, run: Any, site: Path, tmp_path: Path
) -> None:
    install("toy-one", {"toy_one": ""}, {"dimesh.bus": {"one": "toy_one"}})
    shutil.copytree(site, tmp_path / "again")
    assert run(f"import sys; sys.path.append({str(tmp_path / 'again')!r})\n{PRINT}")["bus"] == ["one"]


def test_importing_dimesh_imports_no_plugin_machinery() -> None:
    code = "import sys, dimesh, dimesh.events; print(sorted({'stevedore', 'pluggy', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in OFFICIAL_EXTRAS.items() for name in names]
)
def test_a_plugin_of_ours_that_is_not_installed_says_how_to_get_it(kind: Kind, name: str) -> None:
    if any(found.name == name for found in find(kind)):
        pytest.skip(f"{name} is installed here")
    with pytest.raises(ValueError, match=rf'To get it: pip install "dimesh\[{name}\]"') as caught:
        resolve(kind, name, Selection())
    assert "installed are: " in str(caught.value)


def test_an_unknown_driver_names_the_nearest_and_what_there_is() -> None:
    with pytest.raises(UnknownDriverError) as caught:
        resolve(Kind.BUS, "sqlit", Selection())
    assert re.fullmatch(
        r"no bus plugin is named 'sqlit'; installed are: (\w+, )*memory, (\w+, )*sqlite\. Did you mean 'sqlite'\?",
        str(caught.value),
    )
    for kind, names in OFFICIAL_EXTRAS.items():
        for name in set(names) - {found.name for found in find(kind)}:
            with pytest.raises(
                UnknownDriverError,
                match=rf'Did you mean \'{name}\'\? To get it: pip install "dimesh\[{name}\]"',
            ):
                resolve(kind, name[:-1], Selection())


@pytest.mark.parametrize("name", ["", "../x", "a\0b", "🦜", "x" * 10_000, 7, None])
def test_a_hostile_name_is_an_unknown_driver(name: Any) -> None:
    with pytest.raises(UnknownDriverError) as caught:
        resolve(Kind.BUS, name, Selection())
    assert len(str(caught.value)) < 500
