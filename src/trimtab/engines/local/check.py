"""Whether every stream computes here what the library that owns its format computes: asked once,
when it is loaded.

transformers has hundreds of architectures, PEFT dozens of adapters. One that keeps state where we
do not see it, changes its logits after the LM head, or hangs on a forward that we go past would
give wrong tokens in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trimtab import fusion
from trimtab.engines.local.group_cache import Entry, to_base
from trimtab.engines.local.guided_model import open_caches
from trimtab.engines.local.shelves import CacheMemory
from trimtab.engines.local.stream_rows import StreamRow
from trimtab.engines.local.streams import Group, Stream
from trimtab.errors import ConfigError, TrimtabError, first_line, is_out_of_memory
from trimtab.models.probe import Reference, rms_gap


@dataclass(frozen=True)
class Case:
    """What a stream has to give.

    Attributes:
        wanted: from its library.
        what: the stream, for a message.
        conditions: the preference inside a conditioned ARM.
        is_adapter: it is PEFT's, or ours.
    """

    wanted: Reference
    what: str
    conditions: Sequence[float] = field(default=())
    is_adapter: bool = False


@torch.no_grad()
def check_groups(groups: Sequence[Group], cases: Mapping[str, Sequence[Case]]) -> None:
    """Read each stream's text in two pieces and compare with its library.

    Args:
        groups: of an engine.
        cases: by the stream's name; one whose library cannot be asked has none.

    Raises:
        ConfigError: a stream that is not what its library computes.
    """
    for group in groups:
        known = {name: cases[name] for name in group.index if cases.get(name)}
        for turn in range(max(map(len, known.values()), default=0)):
            now = {name: these[turn] for name, these in known.items() if turn < len(these)}
            try:
                logps = _forward_in_two(group, now)
            except TrimtabError:  # it says what is wrong by itself
                raise
            except Exception as error:  # third-party model code raises anything
                if is_out_of_memory(error):
                    raise
                first = next(iter(now.values()))
                how = f"{type(error).__name__}: {first_line(error)}"
                raise _refusal(group, first, how) from error
            for name, case in now.items():
                _compare(group, group.streams[group.index[name]], case, logps[name])


def _compare(group: Group, stream: Stream, case: Case, logp_TV: Tensor) -> None:
    wanted = case.wanted
    logits_TV = wanted.logits_TV.to(logp_TV.device)
    own_TV = fusion.log_softmax(logits_TV, stream.vocabulary.own_size)
    gap = rms_gap(to_base(own_TV, stream.vocabulary), logp_TV)
    if not gap <= wanted.bar:
        raise _refusal(group, case, f"{gap:.2g} nats off, where {wanted.bar:.2g} are allowed")


def _forward_in_two(group: Group, cases: Mapping[str, Case]) -> dict[str, Tensor]:
    """Log-probs after each token of each case's text, over the base's ids, [T, V]."""
    # the second pieces are equally long, as tokens are when a group decodes
    second = min(len(case.wanted.ids) - case.wanted.cut for case in cases.values())
    conditions = {name: case.conditions for name, case in cases.items() if case.conditions}
    coefficients = group.coefficients(conditions).tolist()
    [cache] = open_caches([group], CacheMemory())
    rows = []
    for name, case in cases.items():
        at = group.index[name]
        mine = tuple(coefficients[at])
        rows.append(StreamRow(at, case.wanted.ids, group.streams[at].vocabulary, mine))
        cache.outgrown(rows[-1])
    parts: list[list[Tensor]] = [[] for _ in rows]
    for piece in (slice(None, -second), slice(-second, None)):
        entries = [Entry(row, ids := row.sequence[piece], len(ids)) for row in rows]
        logps = cache.forward(entries, max(entry.wanted for entry in entries))
        for part, entry, logp in zip(parts, entries, logps, strict=True):
            part.append(logp[: entry.wanted])
    return {name: torch.cat(part) for name, part in zip(cases, parts, strict=True)}


def _refusal(group: Group, case: Case, how: str) -> ConfigError:
    return ConfigError(
        f"{case.what} ({type(group.lm).__name__}), read here piece by piece on ordinary text, "
        f"is not what {case.wanted.source} computes: {how}",
        "merge it into its base where it can be (trimtab export --merge), or train a LoRA"
        if case.is_adapter
        else "try --dtype float32; please report this architecture",
    )
