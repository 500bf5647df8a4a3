"""`trimtab bench speed` as a function: check, measure, write."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trimtab.arms.named import left_to_load, named_arms
from trimtab.engines.types import LoadSettings
from trimtab.entries import as_entries
from trimtab.errors import ConfigError
from trimtab.files import only_writer, require_fresh, storage_errors, write_json, write_text
from trimtab.jobs import Progress, unseen
from trimtab.models.origins import Origins
from trimtab.models.types import DType, Quantization

if TYPE_CHECKING:
    from trimtab.bench.speed.rows import Models

Shape = Literal["5m", "350m", "7b"]
POINTS = ("1x32", "8x32", "32x32", "1x512")


def bench_speed(
    *,
    base: str = "",
    arms: Mapping[str, str] | Sequence[str] = (),
    draft: str | None = None,
    quantization: Quantization | None = None,
    shape: Shape = "350m",
    rows: Sequence[str] = (),
    points: Sequence[str] = POINTS,
    new_tokens: int = 32,
    repeats: int = 5,
    memory: bool = True,
    dtype: DType = "auto",
    device: str | None = None,
    trust_remote_code: Collection[str] = (),
    revisions: Mapping[str, str] | None = None,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = unseen,
) -> dict[str, Any]:
    """Measure the price of guidance on this machine: time, memory, time to the first token.

    Args:
        base: the frozen base, folder or hub id; without it, random weights of `shape`.
        arms: of the base, objective -> folder or hub id.
        draft: what drafts in the speculation rows, as for `load`.
        quantization: load the base with weights of this many bits.
        shape: of the random model.
        rows: measure those whose name contains one of these; all by default.
        points: batch x prompt tokens.
        new_tokens: decoded for each request.
        repeats: interleaved, after one to warm up; medians are reported.
        memory: measure peak memory too, each row in a process of its own.
        dtype, device, trust_remote_code, revisions: as for `load`.
        output_dir: for results.json, table.md and speed.png, if anywhere.
        overwrite: replace the folder's results.
        progress: is told (what, done, total).

    Returns:
        What results.json holds: conditions, settings, rows, peak memory in bytes.

    Raises:
        TrimtabError: options or models that cannot be measured; nothing is written.
    """
    settings = {
        **{name: value for name, value in locals().items() if name != "progress"},
        "arms": as_entries(arms),
        "trust_remote_code": list(trust_remote_code),
        "output_dir": str(output_dir) if output_dir else None,
    }
    sizes = [_point(text) for text in points]
    if new_tokens < 2 or repeats < 1:
        raise ConfigError("nothing to measure", "give --new-tokens 2 or more, --repeats 1 or more")
    if not base and (arms or draft or quantization):
        raise ConfigError("--arm, --draft-model and --quantization need a base", "add --base MODEL")
    if not base and (trust_remote_code or revisions):
        raise ConfigError("--revision and --trust-remote-code need a base", "add --base MODEL")
    if not sizes:
        raise ConfigError("--points is empty", "write BATCHxPROMPT, such as 8x32")
    folder = Path(output_dir) if output_dir else None
    with only_writer(folder, folder=True) if folder else contextlib.nullcontext():
        if folder:
            require_fresh(folder, overwrite=overwrite)
        models, on = _models(
            base,
            as_entries(arms),
            shape,
            {"dtype": dtype, "device": device, "draft": draft, "quantization": quantization},
            trust_remote_code,
            revisions or {},
        )
        results = _measured(models, on, rows, sizes, new_tokens, repeats, memory, progress)
        results = {"conditions": results.pop("conditions"), "settings": settings, **results}
        if folder:
            _write(folder, results)
    return results


def _point(text: str) -> tuple[int, int]:
    batch, by, prompt = text.partition("x")
    if not by or not batch.isdecimal() or not prompt.isdecimal() or "0" in (batch, prompt):
        raise ConfigError(f"--points {text}", "write BATCHxPROMPT, such as 8x32")
    return int(batch), int(prompt)


def _models(
    base: str,
    arms: Sequence[str],
    shape: Shape,
    options: LoadSettings,
    trust_remote_code: Collection[str],
    revisions: Mapping[str, str],
) -> tuple[Models, str]:
    """What is measured, and on which device."""
    from trimtab.bench.speed.rows import OwnModels, RandomModels
    from trimtab.models.devices import default_device, require_device

    given = options["device"]
    device = require_device(given) if given else default_device()
    if not base:
        dtype = "bfloat16" if options["dtype"] == "auto" else options["dtype"]
        return RandomModels(shape, dtype, device), device
    named = named_arms(arms, revisions)
    Origins.of(["base", "draft", *named], trust_remote_code, revisions)
    loading: LoadSettings = {
        **options,
        "trust_remote_code": list(trust_remote_code),
        "revisions": left_to_load(revisions),
    }
    return OwnModels(base, named, loading), device


def _measured(
    models: Models,
    device: str,
    rows: Sequence[str],
    points: Sequence[tuple[int, int]],
    new_tokens: int,
    repeats: int,
    memory: bool,
    progress: Progress,
) -> dict[str, Any]:
    from trimtab.bench.machine import conditions
    from trimtab.bench.speed.measure import measure, peak_memory
    from trimtab.bench.speed.rows import wanted

    makers = models.makers()
    names = wanted(makers, rows)
    timed = measure(
        {name: makers[name] for name in names},
        models.prompts,
        points,
        new_tokens=new_tokens,
        repeats=repeats,
        progress=progress,
    )
    peaks: dict[str, float] = {}
    for done, name in enumerate(names if memory else [], 1):
        peak = peak_memory(models, name, *points[0], new_tokens)
        peaks |= {} if peak is None else {name: peak}
        progress("measuring memory", done, len(names))
    return {
        "conditions": conditions(device),
        "rows": [asdict(row) for row in timed],
        "peak_memory_bytes": peaks,
    }


def _write(folder: Path, results: Mapping[str, Any]) -> None:
    from trimtab.bench.speed.measure import Row
    from trimtab.bench.speed.table import as_markdown
    from trimtab.evaluation.plots import speed_plot

    rows = [Row(**row) for row in results["rows"]]
    with storage_errors(folder):
        write_text(folder / "table.md", as_markdown(rows, results["peak_memory_bytes"]))
        speed_plot(folder / "speed.png", rows)
        write_json(folder / "results.json", results)
