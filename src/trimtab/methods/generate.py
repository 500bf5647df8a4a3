"""`trimtab generate` as a function: rows answered, in memory or to a file that can go on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from trimtab.arms.named import left_to_load, named_arms, objectives_of
from trimtab.comparison.alpaca_eval import require_place, write_alpaca_eval
from trimtab.data.sources import fingerprint, read_rows
from trimtab.engines.guides import (
    ContrastLike,
    InstructionLike,
    contrasts,
    instructions,
    models_of,
    require_distinct,
)
from trimtab.engines.input_rows import request_of
from trimtab.engines.policies import Amateur, policies_of, require_apart, require_share
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import LoadSettings, Request, Speculate
from trimtab.entries import as_entries, named_entries, parse_bytes
from trimtab.errors import ConfigError
from trimtab.jobs import Progress, Say, unseen
from trimtab.methods.judges import JUDGES, JudgeLoading, judges_of
from trimtab.methods.protocol import Judge, Method
from trimtab.methods.registry import choose
from trimtab.methods.row_run import RowRun, Rows, SearchPlan
from trimtab.models.messages import Prompt
from trimtab.models.origins import Origins
from trimtab.models.types import DType, PromptFormat, Quantization
from trimtab.steering import Combine, PreferenceLike

logger = logging.getLogger(__name__)

FUSION = "fusion"
"""The method that is no search: the guided base decodes token by token."""
ASK = "add --method, such as best-of-n"
_APART = ("cache_memory", "instruct", "contrast", "amateur")
"""No token depends on the first; the others are written as they were read."""


def generate(
    *,
    base: str,
    input: str | Rows,
    arms: Mapping[str, str] | Sequence[str] = (),
    output: str | Path | None = None,
    preference: PreferenceLike | None = None,
    strength: float = 1.0,
    kl_budget: float | None = None,
    gate: float | None = None,
    combine: Combine = "fusion",
    describe: Mapping[str, str] | None = None,
    instruct: Mapping[str, InstructionLike] | Sequence[str] = (),
    contrast: Mapping[str, ContrastLike] | Sequence[str] = (),
    policy: Mapping[str, str] | Sequence[str] = (),
    amateur: Amateur | str | None = None,
    method: str | Method = FUSION,
    reward_model: str | None = None,
    baseline_reward_model: str | None = None,
    method_options: Mapping[str, Any] | Sequence[str] = (),
    as_released: bool = False,
    max_new_tokens: int = 128,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int = 0,
    stop: Sequence[str] = (),
    ignore_eos: bool | None = None,
    batch_size: int = 8,
    report: bool = False,
    speculate: Speculate = "off",
    draft: str | None = None,
    max_length: int | None = None,
    cache_memory: int | str | None = None,
    quantization: Quantization | None = None,
    prompt_format: PromptFormat = "auto",
    dtype: DType = "auto",
    device: str | None = None,
    trust_remote_code: Collection[str] = (),
    revisions: Mapping[str, str] | None = None,
    alpaca_eval: str | Path | None = None,
    generator: str = "",
    overwrite: bool = False,
    progress: Progress = unseen,
    each: Callable[[dict[str, Any]], None] = lambda row: None,
    say: Say = logger.warning,
) -> list[dict[str, Any]]:
    """Answer rows of prompts with a frozen base steered by ARMs.

    To answer prompts one after the other, load an engine once: `trimtab.load`.

    Args:
        base: folder, GGUF file or hub id of the frozen base.
        input: a file or hub data set of rows, or the rows: `prompt` (text or chat messages, with
            `tools` where it has some; or AlpacaEval's `instruction`) and, where a row differs,
            `preference`, `strength`, `instructions`, `kl_budget`, `gate`, `seed`, `max_new_tokens`,
            `temperature`, `top_k`, `top_p`, `min_p`.
        arms: objective -> folder of its ARM, or `OBJECTIVE=FOLDER` texts and folders of ARMs that
            say what they are for.
        output: JSONL file; rows are appended as they are done, and a killed run goes on where it
            stopped.
        preference, strength, kl_budget, gate: of rows that have none; see `Steering`.
        instruct, contrast: as for `load`, or texts like `plain=Use short words.` and
            `safe=TUNED:UNTUNED`, with a weight before it where it is not 1 (`plain=-0.5:...`).
        policy: objective -> folder, or `OBJECTIVE=FOLDER` texts; as for `load`.
        amateur: as for `load`.
        method: `fusion` decodes the guided base token by token; any other searches, with the
            arguments of `trimtab.search`.
        reward_model, baseline_reward_model, as_released: of a search.
        method_options: of a search method, by name.
        combine, describe, draft, max_length, cache_memory, quantization: as for `load`.
        prompt_format, dtype, device, trust_remote_code, revisions: as for `load`.
        max_new_tokens, temperature, top_k, top_p, min_p, seed, stop, ignore_eos: see `Sampling`;
            row number i takes `seed + i`. A search may have a temperature and top_k of its own.
        batch_size: prompts decoded together; the next one starts as soon as one is done.
        report: add base log-prob, rewards and fused log-prob of every token.
        speculate: draft tokens and verify them in one pass: the same tokens.
        alpaca_eval: JSON file for the answers as AlpacaEval's outputs, written when all rows are
            done, and again when the finished command is run again.
        generator: what they are called there.
        overwrite: replace an output file of another run.
        progress: is told (what, done, total).
        each: is given every row as soon as it is done.
        say: is told what a user should know, a line each.

    Returns:
        The rows; none that were written to a file.

    Raises:
        TrimtabError: rows, options or models that cannot work; nothing is written.
    """
    parse_bytes(cache_memory, "--cache-memory")
    if batch_size < 1:
        raise ConfigError(f"--batch-size is {batch_size}", "it must be 1 or more")
    named = named_arms(as_entries(arms), revisions)
    opposed, instructed = contrasts(contrast), instructions(instruct)
    weak = None if amateur is None else Amateur.of(amateur)
    places = named_entries(as_entries(policy), "--policy", "safe=FOLDER")
    policies = policies_of(places, weak)
    require_distinct(named, opposed, instructed, policies)
    require_apart(policies, [*named, *opposed, *instructed], combine)
    others = [*models_of(opposed), *policies]
    origins = [*named, *as_entries(arms), *others, *JUDGES.values()]
    Origins.of(["base", "draft", *origins], trust_remote_code, revisions or {})
    objectives = [
        *(*objectives_of(named), *opposed, *instructed, *policies),
        *(describe or {}),
    ]
    chosen = None if method == FUSION else choose(method, method_options, as_released=as_released)
    judges: Mapping[Judge, str] = {}
    if chosen:
        guides = [*named, *opposed, *instructed, *policies]
        judges = judges_of(chosen.method, guides, reward_model, baseline_reward_model, revisions)
    elif reward_model or baseline_reward_model or method_options or as_released:
        raise ConfigError("a reward model or an option of a search, and no search", ASK)
    own = {"temperature": temperature, "top_k": top_k, "ignore_eos": ignore_eos}
    common_sampling = {
        "max_new_tokens": max_new_tokens,
        "top_p": top_p,
        "min_p": min_p,
        "seed": seed,
        "stop": tuple(stop),
        **(chosen.sampling if chosen else {}),
        **{name: value for name, value in own.items() if value is not None},
    }
    sampling = Sampling.given(**common_sampling)
    common = Request(
        "", preference, strength, sampling, kl_budget, gate, report=report, speculate=speculate
    )
    require_share(common.steering(objectives).strength, policies)
    if chosen:
        chosen.require(common, by_guides=not judges, forward_kl=combine == "forward-kl")
    rows: Rows = [row for _, row in read_rows(input)] if isinstance(input, str) else input
    names = [
        f"row {i} of the input" if isinstance(input, str) or len(rows) > 1 else ""
        for i in range(1, len(rows) + 1)
    ]
    requests = [
        request_of(row, i, common, objectives, place, instructed)
        for i, (row, place) in enumerate(zip(rows, names, strict=True))
    ]
    if alpaca_eval is not None:
        _require_other_file(alpaca_eval, output, input)
        asked = [cast(Prompt, request.prompt) for request in requests]  # rows hold no ids
        require_place(alpaca_eval, generator, asked, overwrite=overwrite)
    elif generator:
        raise ConfigError(f"--generator {generator} names nothing", "add --alpaca-eval FILE")
    loading: LoadSettings = {
        "dtype": dtype,
        "device": device,
        "prompt_format": prompt_format,
        "trust_remote_code": [n for n in trust_remote_code if n not in JUDGES.values()],
        "revisions": left_to_load(revisions or {}, others),
        "draft": draft,
        "max_length": max_length,
        "cache_memory": cache_memory,
        "quantization": quantization,
        "combine": combine,
        "describe": dict(describe or {}),
        "instruct": instructed,
        "contrast": opposed,
        "policy": places,
        "amateur": weak,
    }
    trusted = [name for name in trust_remote_code if name in JUDGES.values()]
    judging = JudgeLoading(judges, dtype, device, trusted)
    search = SearchPlan(chosen, judging) if chosen else None
    run = RowRun(base, named, loading, batch_size, requests, rows, names, each, search)
    if output is None:
        answers = list(run.answers(0))
        if alpaca_eval is not None:
            write_alpaca_eval(answers, alpaca_eval, generator=generator, overwrite=overwrite)
        return answers
    read = json.dumps(list(rows), sort_keys=True, default=str).encode()
    settings = {
        "command": "generate",
        "base": base,
        "arms": named,
        "loading": {k: v for k, v in loading.items() if k not in _APART},
        "instruct": {name: asdict(instruction) for name, instruction in instructed.items()},
        "contrast": {name: asdict(pair) for name, pair in opposed.items()},
        "amateur": asdict(weak) if weak else None,
        "common": asdict(common),
        **(search.identity() if search else {}),
        "input_sha256": fingerprint([input])
        if isinstance(input, str)
        else hashlib.sha256(read).hexdigest(),
        **run.identity(),
    }
    run.to_file(Path(output), settings, overwrite=overwrite, progress=progress, say=say)
    if alpaca_eval is not None:
        write_alpaca_eval(output, alpaca_eval, generator=generator, overwrite=overwrite)
    return []


def _require_other_file(path: str | Path, *others: object) -> None:
    """Refuse to write AlpacaEval's outputs over what is read, or written otherwise.

    Raises:
        ConfigError: the file is one of the others.
    """
    for other in others:
        if isinstance(other, str | Path) and Path(other).resolve() == Path(path).resolve():
            raise ConfigError(f"{path} is --alpaca-eval and more", "name another file")
