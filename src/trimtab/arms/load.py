"""ARMs from folders or the hub: whole models, or adapters on the model they were trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trimtab.arms.conditioned_files import with_conditioned_adapter
from trimtab.arms.objectives import is_conditioned
from trimtab.arms.peft_adapter import with_adapter
from trimtab.arms.sidecar import language_model_facts, require_base
from trimtab.arms.starts import start_of
from trimtab.models.classifiers import require_language_model
from trimtab.models.folder import adapter_revision, is_adapter
from trimtab.models.load import load_config, load_model, load_tokenizer
from trimtab.models.protocols import Config, Tokenizer
from trimtab.models.types import DType


def has_tokenizer(name: str) -> bool:
    """Whether a model or an ARM brings its own; an adapter's folder need not."""
    return not is_adapter(name) or (Path(name) / "tokenizer_config.json").is_file()


def tokenizer_of(
    name: str, *, trust_remote_code: bool = False, revision: str | None = None
) -> Tokenizer:
    """The tokenizer of a model or an ARM; an adapter folder without one uses its base's."""
    if not has_tokenizer(name):
        name, revision = backbone_of(name)
    return load_tokenizer(name, trust_remote_code=trust_remote_code, revision=revision)


def config_of(name: str, *, trust_remote_code: bool = False, revision: str | None = None) -> Config:
    """The model config of a model or an ARM; an adapter's is its backbone's."""
    if is_adapter(name):
        name, revision = backbone_of(name)
    return load_config(name, trust_remote_code=trust_remote_code, revision=revision)


def load_backbone(adapter: str, **options: Any) -> Any:
    """The model that an adapter was trained on, at the revision that its config names."""
    base, revision = backbone_of(adapter)
    return load_model(base, revision=revision, **options)


def backbone_of(adapter: str) -> tuple[str, str | None]:
    """The model that an adapter was trained on, and the revision of its hub id."""
    base = require_base(adapter)
    return base, None if Path(base).exists() else adapter_revision(adapter)


def load_arm(
    name: str,
    *,
    dtype: DType = "auto",
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> Any:
    """An ARM as one model of its own: a whole causal LM, or an adapter on its backbone."""
    language_model_facts(name)
    require_language_model(name)
    options: dict[str, Any] = {
        "dtype": dtype,
        "device": device,
        "trust_remote_code": trust_remote_code,
    }
    if not is_adapter(name):
        return load_model(name, **options)
    return _on(load_backbone(name, **options), name)


def load_arm_and_start(name: str, **options: Any) -> tuple[Any, Any]:
    """An ARM, and the model that its rewards are measured against, or None. See `load_arm`.

    An adapter's shares its memory with it.

    Raises:
        MissingFileError, ModelLoadError: what it is measured against is not there, or not the same.
    """
    start = start_of(name)
    if start is None:
        return load_arm(name, **options), None
    carrier = load_model(start.place, revision=start.revision, **options)
    return (_on(carrier, name) if is_adapter(name) else load_arm(name, **options)), carrier


def _on(carrier: Any, adapter: str) -> Any:
    """An adapter on its backbone."""
    put = with_conditioned_adapter if is_conditioned(adapter) else with_adapter
    return put(carrier, adapter)
