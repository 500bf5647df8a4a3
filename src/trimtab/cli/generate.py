"""`trimtab generate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.cli import show
from trimtab.cli.options import EngineOptions, JsonOptions, RowFileOptions, SamplingOptions
from trimtab.cli.parse import parse, quiet_libraries
from trimtab.engines.generate import generate
from trimtab.engines.input_rows import request_of
from trimtab.engines.types import Request
from trimtab.errors import ConfigError

DESCRIPTION = "Answer prompts with a frozen base steered by ARMs."


@dataclass(kw_only=True)
class GenerateOptions(RowFileOptions, JsonOptions, EngineOptions, SamplingOptions):
    """Answer prompts with a frozen base steered by ARMs."""

    prompt: str | None = None
    """One prompt; its answer is streamed."""

    input: str | None = None
    """File of rows with `prompt` (text or chat messages, with `tools` where it has some) and, where
    a row differs, `preference`, `strength`, `instructions` (other texts for those of --instruct, by
    name), `kl_budget`, `gate`, `seed`, `max_new_tokens`, `temperature`, `top_k`, `top_p`, `min_p`.
    An `id` is kept; columns of preference data say nothing here; any other key is refused."""

    output: str | None = None
    """JSONL file; rows are appended as they are done, and a killed run goes on where it stopped.
    Without it the rows of an input file are printed."""

    batch_size: int = 8
    """Prompts decoded together; the next one starts as soon as one is done."""

    report: bool = False
    """Add base log-prob, rewards and fused log-prob of every token."""


def main(argv: Sequence[str]) -> int:
    """Parse, answer, show."""
    options = parse(GenerateOptions, argv, "generate", DESCRIPTION)
    if (options.prompt is None) == (options.input is None):
        raise ConfigError("nothing to answer", "give either --prompt TEXT or --input FILE")
    if options.prompt == "":
        raise ConfigError("the prompt is empty", "give at least one character")
    as_json = options.json or options.report
    if options.prompt is not None and options.output is None and not as_json:
        return _stream(options, options.prompt)
    options.require_draft()
    quiet_libraries()
    with show.progress() as progress:
        rows = generate(
            base=options.base,
            input=options.input or [{"prompt": options.prompt}],
            arms=options.arm,
            output=options.output,
            preference=options.preference,
            strength=options.strength,
            kl_budget=options.kl_budget,
            gate=options.gate,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
            seed=options.seed,
            stop=options.stop,
            batch_size=options.batch_size,
            report=options.report,
            speculate=options.speculate,
            overwrite=options.overwrite,
            progress=progress,
            each=_print if options.output is None and not as_json else lambda row: None,
            say=show.say,
            **options.loading(),
        )
    if options.output is None and as_json:
        show.print_json(rows)
    return 0


def _stream(options: GenerateOptions, prompt: str) -> int:
    """One answer, as it comes."""
    common = Request(
        "",
        options.preference,
        options.strength,
        options.sampling(),
        options.kl_budget,
        options.gate,
    )
    request = request_of({"prompt": prompt}, 0, common, options.objectives)
    for event in options.load().stream(request, speculate=options.speculate):
        print(event.text, end="", flush=True)
        if event.completion and event.completion.error:
            raise ConfigError(event.completion.error, "the answer ends here")
    print()
    return 0


def _print(row: dict[str, Any]) -> None:
    print(json.dumps(row, ensure_ascii=False), flush=True)
