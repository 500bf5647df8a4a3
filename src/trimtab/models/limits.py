"""What a model's configs say of where a text must end: its context, and the ends of a turn."""

from __future__ import annotations

from trimtab.models.protocols import Config

_NAMES = ("max_position_embeddings", "max_seq_len")  # MPT's is the second


def context_limit(config: Config) -> int | None:
    """Tokens that a model can read, by its config (or its text part); None without a limit."""
    text = config.get_text_config()
    limits = [getattr(text, name, None) or 0 for name in _NAMES]
    return min((int(limit) for limit in limits if limit > 0), default=None)


def configured_ends(generation_config: object) -> list[int]:
    """Ids that end a turn by a generation config, which may be missing or name none."""
    ends = getattr(generation_config, "eos_token_id", None)
    return list(ends) if isinstance(ends, list | tuple) else [] if ends is None else [int(ends)]
