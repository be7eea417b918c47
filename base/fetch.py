"""Downloads and unpacks the packages in sources.toml: python base/fetch.py --out build/packages

Uses `apt-get download` and `dpkg-deb`, `pip download`, and `npm pack`, which need no rights. Each
package becomes the folder OUT/REGISTRY/NAME, and packages that are there already are skipped. The
versions are written to OUT/versions.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from base.corpus import HERE, read_sources


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr)


def _only_file(folder: Path) -> Path:
    [file] = folder.iterdir()
    return file


def debian(name: str, folder: Path) -> str:
    """Unpack a package of the machine's Debian release; returns its file name."""
    with tempfile.TemporaryDirectory() as temporary:
        _run(["apt-get", "download", "-qq", name], Path(temporary))
        file = _only_file(Path(temporary))
        _run(["dpkg-deb", "-x", str(file), str(folder)], Path(temporary))
    return file.name


def pypi(name: str, folder: Path) -> str:
    """Unpack a wheel, or the source distribution of `SOURCE_ONLY`; returns its file name."""
    is_source = name in SOURCE_ONLY
    kind = ["--no-binary", ":all:"] if is_source else ["--only-binary", ":all:"]
    with tempfile.TemporaryDirectory() as temporary:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *kind, name]
        _run(pip, Path(temporary))
        file = _only_file(Path(temporary))
        if file.suffix == ".whl":
            zipfile.ZipFile(file).extractall(folder)
        else:
            _untar(file, folder)
    return file.name


def npm(name: str, folder: Path) -> str:
    """Unpack a package of npm; returns its file name."""
    with tempfile.TemporaryDirectory() as temporary:
        _run(["npm", "pack", "--silent", name], Path(temporary))
        file = _only_file(Path(temporary))
        _untar(file, folder)
    return file.name


SOURCE_ONLY = ("brotli",)  # its texts are test data, which wheels do not have
REGISTRIES: dict[str, Callable[[str, Path], str]] = {"debian": debian, "pypi": pypi, "npm": npm}


def _untar(file: Path, folder: Path) -> None:
    """Unpack an archive without its single top folder."""
    with tempfile.TemporaryDirectory() as temporary, tarfile.open(file) as archive:
        archive.extractall(temporary, filter="data")
        shutil.copytree(_only_file(Path(temporary)), folder)


def fetch(sources: Path, out: Path) -> dict[str, str]:
    """Unpack every package that is missing; returns file names by REGISTRY/NAME."""
    versions_file = out / "versions.json"
    versions: dict[str, str] = {}
    if versions_file.exists():
        versions = json.loads(versions_file.read_text("utf-8"))
    for source in read_sources(sources):
        for name in source.package_names:
            place = f"{source.registry}/{name}"
            if place in versions:
                continue
            shutil.rmtree(out / place, ignore_errors=True)
            (out / place).parent.mkdir(parents=True, exist_ok=True)
            versions[place] = REGISTRIES[source.registry](name, out / place)
            versions_file.write_text(json.dumps(versions, indent=1) + "\n", encoding="utf-8")
    return versions


def main() -> None:
    parser = argparse.ArgumentParser(description="Downloads and unpacks the packages.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sources", type=Path, default=HERE / "sources.toml")
    options = parser.parse_args()
    for place, file in fetch(options.sources, options.out).items():
        print(f"{place}: {file}")


if __name__ == "__main__":
    main()
