"""What a model folder holds, found out before a weight is loaded.

Only safetensors are read. A pickle checkpoint can run any code when it is opened, so it is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trimtab.errors import ConfigError, MissingFileError, ModelLoadError, first_line
from trimtab.models.gguf import check_gguf, content_hash, gguf_source, is_gguf
from trimtab.models.weight_files import header, tensors_fingerprint

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_HARMLESS = {"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"}


def is_local(name: str) -> bool:
    """Whether a model is on this machine, a folder or a GGUF file (otherwise it is a hub id)."""
    return bool(name) and (Path(name).is_dir() or is_gguf(name))


def fetch(name: str, *, what: str = "ARM", revision: str | None = None) -> str:
    """A folder on this machine with what is at a hub id: weights (safetensors), config, tokenizer.

    An ARM's sidecar and adapter config are read before its weights are, so a hub id is fetched
    whole. A local folder is checked and passes as it is.

    Args:
        name: folder, GGUF file or hub id.
        what: it is, for an error.
        revision: of a hub id: a branch, tag or commit.

    Raises:
        ConfigError: a revision of something on this machine.
        MissingFileError: nothing of that name, here or on the hub.
        ModelLoadError: a local folder that cannot be loaded.
    """
    check_folder(name, what=what)
    if Path(name).exists():
        if revision is not None:
            raise ConfigError(f"a revision for {name}, which is on this machine", "leave it out")
        return name
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    patterns = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken"]
    try:
        return str(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except RevisionNotFoundError as error:
        raise MissingFileError(
            f"the hub's {name} has no revision {revision!r}", "name a branch, tag or commit"
        ) from error
    except RepositoryNotFoundError as error:  # gated ones with it
        raise MissingFileError(
            f"no folder and no hub model {name!r}",
            "check the path or the hub id; a private or gated one needs `hf auth login`",
        ) from error
    except Exception as error:  # the hub client raises a zoo of types: all mean "not to be had"
        raise MissingFileError(
            f"no folder and no hub model {name!r} ({first_line(error)})",
            "check the path or the hub id",
        ) from error


def is_adapter(name: str) -> bool:
    """Whether a local folder holds a PEFT adapter rather than a whole model."""
    return (Path(name) / "adapter_config.json").is_file()


def canonical(name: str) -> str:
    """A local folder as an absolute path; a hub id as it is."""
    return str(Path(name).resolve()) if is_local(name) else name


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model folder."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"{path} is not JSON ({error})", "save the model again") from None
    if not isinstance(value, dict):
        raise ModelLoadError(f"{path} holds no object", "save the model again")
    return value


def check_folder(name: str, *, what: str = "model") -> None:
    """Refuse a local folder that cannot be loaded; a hub id is checked when it is fetched.

    Raises:
        MissingFileError: a path that is not there.
        ModelLoadError: no config, no weights, pickle weights, or a corrupt safetensors file.
    """
    folder = Path(name)
    if not folder.exists():
        looks_local = (
            name.startswith((".", "/", "~")) or name.count("/") != 1 or folder.parent.is_dir()
        )
        if looks_local:
            raise MissingFileError(
                f"no {what} at {name}", "check the path; a hub id is written owner/name"
            )
        return
    if is_gguf(name):
        check_gguf(name)
        return
    if not folder.is_dir():
        raise ModelLoadError(f"{name} is a file", f"name the {what}'s folder, or a .gguf file")
    if not (folder / "config.json").is_file() and not is_adapter(name):
        raise ModelLoadError(
            f"{name} is no {what}: it has neither config.json nor adapter_config.json",
            "name a folder written by save_pretrained or by `trimtab train`",
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickles = [p.name for g in _PICKLES for p in folder.glob(g) if p.name not in _HARMLESS]
        if pickles:
            raise ModelLoadError(
                f"{name} holds pickle weights ({pickles[0]}), which can run code when opened",
                "save it again with save_pretrained, which writes safetensors",
            )
        raise ModelLoadError(f"{name} holds no weights (*.safetensors)", "save the model again")
    for path in weights:
        tensors = json.loads(header(path))
        empty = [k for k, v in tensors.items() if k != "__metadata__" and 0 in v["shape"]]
        if empty:
            raise ModelLoadError(
                f"{name} holds no weights ({empty[0]} is empty): saved under ZeRO-3 without "
                "gathering?",
                "save it again with gathered weights",
            )


def weights_fingerprint(name: str) -> str:
    """A cheap identity of a local model's weights (`tensors_fingerprint`).

    Two folders with the same fingerprint are taken as the same backbone. A GGUF file and what was
    made of it, in any type, are one, as long as nothing wrote to that folder. "" for a hub id.
    """
    if not is_local(name):
        return ""
    if is_gguf(name):
        return content_hash(name)
    fingerprint, made = tensors_fingerprint(Path(name)), gguf_source(name)
    return made["sha256"] if made.get("weights") == fingerprint else fingerprint


def adapter_base(name: str) -> str:
    """The model an adapter was trained on, as its `adapter_config.json` names it."""
    return str(adapter_config(name).get("base_model_name_or_path") or "")


def adapter_revision(name: str) -> str | None:
    """The revision of the model that an adapter was trained on, where its config names one."""
    return adapter_config(name).get("revision") or None


def adapter_config(name: str) -> dict[str, Any]:
    """What a PEFT adapter's `adapter_config.json` says."""
    return read_json(Path(name) / "adapter_config.json")
