"""Whether all that a model's files hold was loaded, and all that the model needs was there.

transformers only warns of either, and fills what is missing with random numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from trimtab.errors import ModelLoadError

_HARMLESS = (
    # buffers that a model computes itself; older versions saved them
    r"(^|\.)(position_ids|rotary_emb\.inv_freq|attn(ention)?\.(masked_)?bias)$",
)


def require_whole_model(
    name: str, report: Mapping[str, Any], *, fresh: Iterable[str] = (), unused: Iterable[str] = ()
) -> None:
    """Refuse a model whose files and architecture do not fit each other, tensor by tensor.

    Tied heads need no tensor of their own, and what an architecture's own class says to leave out
    (heads for speculation, say) is not in transformers' report.

    Args:
        name: of the model, for the error.
        report: transformers' loading info.
        fresh: parameters that are meant to start at random.
        unused: tensors that are meant to be left.

    Raises:
        ModelLoadError: tensors are missing, left over or of another shape, named.
    """
    new, spare = {*fresh}, {*unused}
    missing = [
        key for key in sorted(report["missing_keys"]) if not _harmless(key) and key not in new
    ]
    left_over = [
        key for key in sorted(report["unexpected_keys"]) if not _harmless(key) and key not in spare
    ]
    other = sorted(
        str(key[0] if isinstance(key, tuple) else key) for key in report["mismatched_keys"]
    )
    if missing:
        raise ModelLoadError(
            f"{name} lacks weights that its config asks for: {some(missing)}",
            "save or copy it again, or mend its config.json (tie_word_embeddings, say)",
        )
    if other:
        raise ModelLoadError(
            f"{name} has weights of another shape than its config says: {some(other)}",
            "save or copy it again with its own config.json",
        )
    if left_over:
        raise ModelLoadError(
            f"{name} holds weights that its architecture has no place for: {some(left_over)}",
            "name a plain causal LM; of one with further heads, save the LM alone",
        )


def some(names: list[str]) -> str:
    """The first names of many."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _harmless(key: str) -> bool:
    return any(re.search(pattern, key) for pattern in _HARMLESS)
