"""Downloads and unpacks the packages in sources.toml: python base/fetch.py --out build/packages

Uses `apt-get download` and `dpkg-deb`, `pip download`, and `npm pack`, which need no rights. Each
package becomes the folder OUT/REGISTRY/NAME, and packages that are there already are skipped. A
Debian release has one version of a package; another one than that in the table is reported.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from base.corpus import HERE, Source, read_sources


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr)


def _only_file(folder: Path) -> Path:
    [file] = folder.iterdir()
    return file


def debian(name: str, version: str, folder: Path) -> str:
    """Unpack a package of the machine's Debian release, which has one version of it."""
    with tempfile.TemporaryDirectory() as temporary:
        _run(["apt-get", "download", "-qq", name], Path(temporary))
        file = _only_file(Path(temporary))
        _run(["dpkg-deb", "-x", str(file), str(folder)], Path(temporary))
    return file.name


def pypi(name: str, version: str, folder: Path) -> str:
    """Unpack a wheel, or the source distribution of `SOURCE_ONLY`."""
    is_source = name in SOURCE_ONLY
    kind = ["--no-binary", ":all:"] if is_source else ["--only-binary", ":all:"]
    with tempfile.TemporaryDirectory() as temporary:
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            *kind,
            f"{name}=={version}",
        ]
        _run(pip, Path(temporary))
        file = _only_file(Path(temporary))
        if file.suffix == ".whl":
            zipfile.ZipFile(file).extractall(folder)
        else:
            _untar(file, folder)
    return file.name


def npm(name: str, version: str, folder: Path) -> str:
    """Unpack a package of npm."""
    with tempfile.TemporaryDirectory() as temporary:
        _run(["npm", "pack", "--silent", f"{name}@{version}"], Path(temporary))
        file = _only_file(Path(temporary))
        _untar(file, folder)
    return file.name


SOURCE_ONLY = ("brotli",)  # its texts are test data, which wheels do not have
# Each unpacks a package into a folder and returns the name of the file it came in.
REGISTRIES: dict[str, Callable[[str, str, Path], str]] = {
    "debian": debian,
    "pypi": pypi,
    "npm": npm,
}


def _untar(file: Path, folder: Path) -> None:
    """Unpack an archive without its single top folder."""
    with tempfile.TemporaryDirectory() as temporary, tarfile.open(file) as archive:
        archive.extractall(temporary, filter="data")
        shutil.copytree(_only_file(Path(temporary)), folder)


def fetch(sources: list[Source], out: Path) -> Iterator[str]:
    """Unpack every package that is missing, with a line about each."""
    out = out.resolve()  # the programs run in folders of their own
    for source in sources:
        folder = out / source.registry / source.name
        if folder.exists():
            continue
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(partial, ignore_errors=True)
        file = REGISTRIES[source.registry](source.name, source.version, partial)
        partial.rename(folder)
        is_other = source.version not in unquote(file)
        yield f"{file}{f': not version {source.version}' if is_other else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Downloads and unpacks the packages.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sources", type=Path, default=HERE / "sources.toml")
    options = parser.parse_args()
    for line in fetch(read_sources(options.sources), options.out):
        print(line, flush=True)


if __name__ == "__main__":
    main()
