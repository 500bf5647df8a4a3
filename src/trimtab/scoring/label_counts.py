"""What a labelled file holds: verdicts per objective, and how often any two agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trimtab.data.tally import RowTally
from trimtab.scoring.labels import agreement, agreement_with_kept, verdict_counts
from trimtab.scoring.score_files import read_jsonl
from trimtab.stats import Estimate


def summary(
    path: Path, scored: Sequence[str], costs: Sequence[str], tally: RowTally, *, kept: bool
) -> dict[str, Any]:
    """Counts of verdicts per objective, and how often any two verdicts agree."""
    rows = list(read_jsonl(path))
    labels, scores = [row["labels"] for row in rows], [row["scores"] for row in rows]
    kept_labels = [{name: row["labels"][name] for name in row.get("kept", ())} for row in rows]
    objectives = dict.fromkeys([*scored, *(name for row in kept_labels for name in row)])
    with_kept = agreement_with_kept(kept_labels, scores, costs) if kept else {}
    return {
        "pairs": len(rows),
        "rows": {"read": tally.rows, **tally.counts},
        "objectives": {name: verdict_counts(labels, scores, name) for name in objectives},
        "agreement": _shares(agreement(labels, [*objectives], kept=kept)),
        "agreement_with_kept": _shares(with_kept),
    }


def _shares(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, float | None]]:
    """For JSON, which has no NaN: a share of no pairs is null."""
    return {name: {**asdict(e), "value": e.value if e.n else None} for name, e in estimates.items()}
