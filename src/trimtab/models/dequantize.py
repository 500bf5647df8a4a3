"""GGUF files as model folders: read by transformers, dequantised once, checked by us.

transformers' reader drops tensors that it has no name for, and does not read every field (rope
scaling, soft caps, pre-tokenizers, begin-of-text). What it leaves out is refused by name here, so
that a file gives its model or an error.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from trimtab.errors import ModelLoadError, first_line
from trimtab.files import storage_errors, write_json
from trimtab.models.cache import cache_dir
from trimtab.models.complete import some
from trimtab.models.gguf import RECORD, check_gguf, content_hash, is_gguf
from trimtab.models.gguf_fields import read_fields, unread_fields
from trimtab.models.gguf_tokenizer import end_ids, load_gguf_tokenizer
from trimtab.models.weight_files import tensors_fingerprint

logger = logging.getLogger(__name__)

_READER = 2
"""Counted up when what is written here changes: it is part of the cache's key."""


def gguf_folder(path: str, dtype: str | None = None) -> str:
    """A model folder with what a GGUF file holds, made once and kept in the cache.

    Args:
        path: of the file.
        dtype: of the weights, as torch calls it; None for config and tokenizer alone.

    Returns:
        A folder as `save_pretrained` writes it.

    Raises:
        ModelLoadError: something in the file that transformers does not read, named.
    """
    check_gguf(path)
    digest = content_hash(path)
    kind = f"{dtype or 'no-weights'}-{transformers.__version__}-{_READER}"
    folder = cache_dir() / "gguf" / f"{Path(path).stem}-{digest[:16]}-{kind}"
    if not folder.is_dir():
        _make_whole(Path(path), dtype, digest, folder)
    return str(folder)


def facts_folder(name: str) -> str:
    """Where config and tokenizer of a model are: a GGUF file is read for them first."""
    return gguf_folder(name) if is_gguf(name) else name


def _make_whole(path: Path, dtype: str | None, digest: str, folder: Path) -> None:
    """Make a folder under another name and rename it: it is there whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        with storage_errors(folder):
            _convert(path, dtype, staging)
            record = {"sha256": digest, "file": str(path.resolve())}
            write_json(staging / RECORD, {**record, "weights": tensors_fingerprint(staging)})
            if not folder.is_dir():  # another process may have been faster
                staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _convert(path: Path, dtype: str | None, folder: Path) -> None:
    """Write tokenizer and config and, beside copies of those, weights."""
    if dtype is None:
        _write_facts(path, folder)
        return
    facts = gguf_folder(str(path))
    shutil.copytree(facts, folder, dirs_exist_ok=True)
    logger.warning("reading %s as %s, once: the next load takes it from the cache", path, dtype)
    model = _read(
        path,
        transformers.AutoModelForCausalLM,
        config=transformers.AutoConfig.from_pretrained(facts),
        dtype=getattr(torch, dtype),
        # else some architectures stay packed and cannot be saved
        quantization_config=transformers.GgufConfig(dequantize=True),
    )
    if unmapped := _unmapped_tensors(path, model):
        raise ModelLoadError(
            f"{path} holds tensors that transformers does not read: {some(unmapped)}",
            "use the model's own folder (safetensors) in its place",
        )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # it is dequantised
    model.generation_config = transformers.GenerationConfig.from_pretrained(facts)
    model.save_pretrained(folder)


def _write_facts(path: Path, folder: Path) -> None:
    """Tokenizer, config and what ends a turn."""
    fields = read_fields(path)
    config = _read(path, transformers.AutoConfig)
    if unread := unread_fields(fields, config):
        raise ModelLoadError(
            f"{path} says {', '.join(unread)}, which transformers does not read",
            "use the model's own folder (safetensors) in its place",
        )
    with alone(path) as place:
        tokenizer = load_gguf_tokenizer(path, place, fields)
    tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)
    transformers.GenerationConfig(
        eos_token_id=end_ids(fields), bos_token_id=fields.get("tokenizer.ggml.bos_token_id")
    ).save_pretrained(folder)


@contextlib.contextmanager
def alone(path: Path) -> Iterator[str]:
    """A folder with nothing but the file in it: transformers would read what lies beside it."""
    with tempfile.TemporaryDirectory(prefix="trimtab-") as place:
        (Path(place) / path.name).symlink_to(path.resolve())
        yield place


def _read(path: Path, auto_class: Any, **options: Any) -> Any:
    """From transformers' reader; weights that the file lacks are an error."""
    loads_weights = "dtype" in options
    if loads_weights:
        options["output_loading_info"] = True
    try:
        with alone(path) as place:
            loaded = auto_class.from_pretrained(place, gguf_file=path.name, **options)
    except (torch.OutOfMemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise ModelLoadError(
            f"transformers cannot read {path} ({first_line(error)})",
            "use the model's own folder (safetensors) in its place",
        ) from error
    if not loads_weights:
        return loaded
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ModelLoadError(f"{path} lacks tensors: {some(missing)}", "download it again")
    return model


def _unmapped_tensors(path: Path, model: Any) -> list[str]:
    """Tensors of the file that are in no tensor of the model.

    Counted, so that nothing depends on what transformers says of its own reading: as many numbers
    must have arrived as there are in the file.
    """
    from gguf import GGUFReader
    from transformers.modeling_gguf_pytorch_utils import TensorProcessor, get_gguf_hf_weights_map

    tensors = {t.name: int(t.n_elements) for t in GGUFReader(path).tensors}
    arrived = sum(p.numel() for p in model.parameters())
    if sum(tensors.values()) == arrived:
        return []
    try:
        known = get_gguf_hf_weights_map(model, TensorProcessor(config=model.config.to_dict()))
    except NotImplementedError:
        known = {}
    unknown = [name for name in tensors if name not in known]
    return unknown or [f"{sum(tensors.values())} numbers, of which {arrived} arrive"]
