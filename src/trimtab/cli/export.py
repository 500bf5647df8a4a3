"""`trimtab export`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from trimtab.cli.parse import parse, quiet_libraries

DESCRIPTION = (
    "A conditioned ARM at one preference as a standard LoRA folder, or a merged model. PARM "
    "becomes a plain LoRA, with PEFT the same bits. UniARM's shift makes a bias beside it, which "
    "PEFT applies but cannot merge into layers without one; --merge can."
)

BIAS = (
    "It has a bias (lora_bias), UniARM's shift. PEFT applies it, the same but for rounding, but "
    "cannot merge it into\nlayers that have none, and other readers of LoRA folders may not know "
    "it. For a whole model add --merge."
)


@dataclass(kw_only=True)
class ExportOptions:
    """A conditioned ARM at one preference."""

    arm: str
    """The ARM: a folder or hub id. PARM and UniARM need --preference; a GenARM LoRA --merge."""

    output_dir: str
    """Where the folder goes."""

    preference: str | None = None
    """Weight per objective, such as `helpful=0.7,harmless=0.3`."""

    merge: bool = False
    """Write a whole model: the backbone with the adapter in its weights (UniARM with its shift:
    where the architecture can have biases, as Llama and Qwen2 can)."""

    overwrite: bool = False
    """Allow an output directory that is not empty."""

    revision: str | None = None
    """Of the ARM's hub id: a branch, tag or commit."""

    push_to_hub: bool = False
    """Put the folder at the Hugging Face hub, too; needs a login (`hf auth login`, or HF_TOKEN)."""

    hub_model_id: str | None = None
    """With --push-to-hub: OWNER/NAME, or NAME for one of your own; by default the folder's name."""

    hub_private_repo: bool = False
    """With --push-to-hub: make the repository private, where it has to be made."""


def main(argv: Sequence[str]) -> int:
    """Export and say where."""
    options = parse(ExportOptions, argv, "export", DESCRIPTION)
    from trimtab.arms.export import export, has_bias

    quiet_libraries()
    settings = asdict(options)
    folder = export(settings.pop("arm"), settings.pop("output_dir"), **settings)
    kind = "a whole model" if options.merge else "a standard LoRA"
    print(f"{kind} is in {folder}")
    if has_bias(folder):
        print(BIAS)
    return 0
