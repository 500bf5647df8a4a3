"""Which objectives an ARM takes a preference over, as its `adapter_config.json` says."""

from __future__ import annotations

from trimtab.errors import ConfigError, ModelLoadError
from trimtab.models.folder import adapter_config, is_adapter

CONDITIONED = ("PBLORA", "MOSLORA")
"""`peft_type` of our own adapters: bilinear and affine."""


def is_conditioned(name: str) -> bool:
    """Whether a local folder holds an ARM that takes the preference as input (PARM, UniARM)."""
    return is_adapter(name) and adapter_config(name).get("peft_type") in CONDITIONED


def conditioned_on(name: str) -> list[str]:
    """The objectives of a conditioned ARM; none for any other folder."""
    if not is_conditioned(name):
        return []
    names = adapter_config(name).get("objectives")
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise ModelLoadError(
            f"{name}/adapter_config.json has objectives {names!r}", "train or copy the ARM again"
        )
    return names


def require_unconditioned(label: str, folder: str) -> None:
    """Refuse a model of a contrast that takes a preference.

    Raises:
        ConfigError: it does.
    """
    if objectives := conditioned_on(folder):
        raise ConfigError(
            f"the {label} ({folder}) is conditioned on {', '.join(objectives)}",
            "export it at one preference first (trimtab export --preference)",
        )
