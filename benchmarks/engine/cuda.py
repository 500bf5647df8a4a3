"""A model of 7 billion random weights on a GPU: milliseconds a token against the time to read them.

    python benchmarks/engine/cuda.py OUTPUT.json

The floor is the weights' bytes over the bandwidth of a large copy on the same card, once for the
base and its fused ARMs together. Rows in turn, the median of the repeats, greedy.
"""

from __future__ import annotations

import json
import statistics
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from trimtab.bench.machine import conditions, copy_bandwidth
from trimtab.bench.speed.contenders import Engine, Generate
from trimtab.bench.speed.rows import RandomModels


def syncs(contender: Engine, prompts: list[list[int]]) -> float:
    """Times a step of decoding waits for the device."""
    plans = [contender.plan(ids, 60) for ids in prompts]
    scheduler = contender.engine.scheduler(most=len(plans))
    for number, plan in enumerate(plans):
        scheduler.add(number, plan)
    for _ in range(10):  # until what lasts is captured
        scheduler.step()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        for _ in range(10):
            scheduler.step()
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(w.message) for w in caught) / 10


def main() -> None:
    """Measure and write."""
    models = RandomModels("7b", "bfloat16", "cuda")
    rows: dict[str, Any] = {
        "base": Engine(models.engine()),
        "1 ARM fused": Engine(models.engine(fused=1)),
        "4 ARMs fused": Engine(models.engine(fused=4)),
        "transformers": Generate(models._model()),
    }
    weights = sum(p.numel() * p.element_size() for p in rows["transformers"]._model.parameters())
    bandwidth = copy_bandwidth("cuda")
    found: dict[str, Any] = {
        "conditions": conditions("cuda"), "weights": weights,
        "floor_ms": 1e3 * weights / bandwidth, "rows": [],
    }  # fmt: skip
    for batch in (1, 8):
        prompts = models.prompts(batch, 32)
        runs: dict[str, list[Any]] = {name: [] for name in rows}
        for repeat in range(4):
            for name, row in rows.items():
                run = row.run(prompts, 128)
                if repeat:
                    runs[name].append(run)
        for name, done in runs.items():
            ms = 1e3 * statistics.median(run.per_token for run in done)
            row = {
                "row": name,
                "batch": batch,
                "ms_per_token": ms,
                "to_floor": ms / found["floor_ms"],
            }
            row["first_token_ms"] = 1e3 * statistics.median(run.first for run in done)
            if isinstance(rows[name], Engine):
                row["syncs_per_step"] = syncs(rows[name], prompts)
            found["rows"].append(row)
            print(row, flush=True)
    Path(sys.argv[1]).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
