"""The model card written beside a trained reward model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from trimtab.arms.sidecar import Sidecar

_KINDS = {
    "genarm": "autoregressive reward model (GenARM, arXiv 2410.08193)",
    "parm": "autoregressive reward model conditioned on the preference (PARM, arXiv 2505.06274)",
    "uniarm": "autoregressive reward model conditioned on the preference "
    "(a reconstruction of UniARM, arXiv 2602.09538)",
    "trajectory": "trajectory-level reward model (Bradley-Terry, scalar head)",
}


def model_card(
    sidecar: Sidecar,
    *,
    model: str,
    is_adapter: bool,
    datasets: list[str],
    results: Mapping[str, float],
    counts: Mapping[str, int],
    settings: Mapping[str, Any],
    objectives: Sequence[str] = (),
) -> str:
    """Markdown with Hugging Face front matter: what it is, how it was made, what was measured."""
    front = {
        "library_name": "trimtab" if objectives else "peft" if is_adapter else "transformers",
        "base_model": model,
        "datasets": datasets,
        "pipeline_tag": "text-classification"
        if sidecar.method == "trajectory"
        else "text-generation",
        "tags": ["trimtab", "reward-model", sidecar.method]
        + ([sidecar.objective] if sidecar.objective else []),
    }
    name = sidecar.objective or ", ".join(objectives) or "unnamed objective"
    betas = ", ".join(f"{key} {value:g}" for key, value in sidecar.betas.items())
    rows = "\n".join(f"| {key} | {value:.4g} |" for key, value in results.items())
    pairs = ", ".join(f"{count} {split}" for split, count in counts.items())
    options = "\n".join(f"{key}: {value}" for key, value in settings.items())
    fixed = f"\nExported at the preference {sidecar.preference}." if sidecar.preference else ""
    preference = ",".join(f"{objective}={1 / len(objectives):.2g}" for objective in objectives)
    arm = f"THIS_FOLDER --preference {preference}" if objectives else "reward=THIS_FOLDER"
    if sidecar.objective:
        arm = f"{sidecar.objective}=THIS_FOLDER"
    usage = f'    trimtab generate --base {model} --arm {arm} --prompt "…"\n'
    if sidecar.method == "trajectory":
        usage = ""
    made = f"Data SHA-256 `{sidecar.data_sha256}`."
    if results:
        made = f"Pairs: {pairs}. {made}\n\n| measured at the end | value |\n| --- | --- |\n{rows}"
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip()}
---
# {name}: {_KINDS[sidecar.method]}

Trained with Trimtab {sidecar.trimtab_version} on {model}.
β_r = {betas or sidecar.beta}, scale {sidecar.scale}.{fixed}

{usage}
## How it was made

    {sidecar.command}

{made}

<details><summary>All settings</summary>

```yaml
{options}
```

</details>
"""
