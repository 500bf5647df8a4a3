"""`trimtab generate`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.cli import show
from trimtab.cli.options import EngineOptions, JsonOptions, RowFileOptions, SamplingOptions
from trimtab.cli.parse import parse, quiet_libraries
from trimtab.engines.input_rows import request_of
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import Request
from trimtab.errors import ConfigError
from trimtab.methods.generate import FUSION, generate

DESCRIPTION = "Answer prompts with a frozen base steered by ARMs."


@dataclass(kw_only=True)
class GenerateOptions(RowFileOptions, JsonOptions, EngineOptions, SamplingOptions):
    """Answer prompts with a frozen base steered by ARMs."""

    prompt: str | None = None
    """One prompt; its answer is streamed."""

    input: str | None = None
    """File of rows with `prompt` (text or chat messages, with `tools` where it has some), or
    AlpacaEval's with `instruction`, and, where a row differs, `preference`, `strength`,
    `instructions` (other texts for those of --instruct, by name), `kl_budget`, `gate`, `seed`,
    `max_new_tokens`, `temperature`, `top_k`, `top_p`, `min_p`. `id` and `dataset` are kept; columns
    of preference data say nothing here; any other key is refused."""

    output: str | None = None
    """JSONL file; rows are appended as they are done, and a killed run goes on where it stopped.
    Without it the rows of an input file are printed."""

    alpaca_eval: str | None = None
    """JSON file for the answers as AlpacaEval's outputs (`instruction`, `output`, `generator`, and
    the row's `dataset`), written when all rows are done, and when the finished command is run
    again."""

    generator: str = ""
    """What the answers are called in --alpaca-eval."""

    batch_size: int = 8
    """Prompts decoded together; the next one starts as soon as one is done."""

    report: bool = False
    """Add base log-prob, rewards and fused log-prob of every token."""

    method: str = FUSION
    """How answers are found. `fusion`: the guided base, token by token. Searches with a reward
    model: `best-of-n`, `rejection`, `args`, `transfer-q`, `cards`, `vas`, `controlled-decoding`,
    `blockwise-decoding`, `cbs`, `mcts` (docs/methods/search.md); best-of-n, cbs and mcts also take
    the guides as scorers."""

    reward_model: str | None = None
    """Of a search: folder or hub id of a trajectory or value model, or of any sequence classifier
    with one output."""

    baseline_reward_model: str | None = None
    """transfer-q, the indirect form: what the policy that completes answers was aligned to."""

    method_options: list[str] = field(default_factory=list)
    """Options of the search method, as NAME=VALUE."""

    as_released: bool = False
    """Take the authors' code for a search method's defaults where it differs from the paper."""

    temperature: float | None = None  # type: ignore[assignment]  # a method may have its own
    """Divides the fused log-probs; 0 is greedy. By default 1, or the search method's own."""

    top_k: int | None = None  # type: ignore[assignment]
    """Keep this many of the likeliest tokens; 0 keeps all, as is the default without a search
    method that has its own."""

    ignore_eos: bool = False
    """Go on after the end-of-turn token, as some search methods do --as-released in any case."""

    @property
    def searches(self) -> bool:
        """Whether any option of a search is given."""
        models = self.reward_model or self.baseline_reward_model
        return bool(self.method != FUSION or models or self.method_options or self.as_released)

    def sampling(self) -> Sampling:
        """The options as `Sampling`, where no search has defaults of its own."""
        return Sampling.given(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            seed=self.seed,
            stop=tuple(self.stop),
            ignore_eos=self.ignore_eos,
        )


def main(argv: Sequence[str]) -> int:
    """Parse, answer, show."""
    options = parse(GenerateOptions, argv, "generate", DESCRIPTION)
    if (options.prompt is None) == (options.input is None):
        raise ConfigError("nothing to answer", "give either --prompt TEXT or --input FILE")
    if options.prompt == "":
        raise ConfigError("the prompt is empty", "give at least one character")
    as_json = options.json or options.report
    shows_text = options.prompt is not None and options.output is None and not as_json
    if shows_text and not options.searches and not (options.alpaca_eval or options.generator):
        return _stream(options, str(options.prompt))
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
            method=options.method,
            reward_model=options.reward_model,
            baseline_reward_model=options.baseline_reward_model,
            method_options=options.method_options,
            as_released=options.as_released,
            ignore_eos=options.ignore_eos or None,
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
            alpaca_eval=options.alpaca_eval,
            generator=options.generator,
            overwrite=options.overwrite,
            progress=progress,
            each=_shower(options, as_json=as_json, shows_text=shows_text),
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


def _shower(
    options: GenerateOptions, *, as_json: bool, shows_text: bool
) -> Callable[[dict[str, Any]], None]:
    """What is shown of a row as soon as it is done."""
    if shows_text:
        return lambda row: print(row["text"])
    return _print if options.output is None and not as_json else lambda row: None


def _print(row: dict[str, Any]) -> None:
    print(json.dumps(row, ensure_ascii=False), flush=True)
