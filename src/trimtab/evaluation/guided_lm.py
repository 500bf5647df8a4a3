"""A steered model in EleutherAI's lm-evaluation-harness: `GuidedLM`. Imports lm-eval.

Tokens are made and cut as lm-eval's own model over transformers (`HFLM`) makes and cuts them, so
that a task's numbers at strength 0 are those of `--model hf`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from trimtab.engines.sampling import Sampling
from trimtab.engines.types import Request
from trimtab.errors import ConfigError
from trimtab.evaluation.guided_loading import AUTO, load_guided, texts_at_once
from trimtab.models.messages import Message
from trimtab.models.templates import apply_template, require_template
from trimtab.steering import PreferenceLike, Steering

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models import utils as models_utils
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    from tqdm import tqdm
except ImportError as error:
    raise ConfigError(f"lm-eval is not here ({error})", "pip install 'trimtab[lm-eval]'") from error

if TYPE_CHECKING:
    from trimtab.engines.local import LocalEngine

T = TypeVar("T")
logger = logging.getLogger(__name__)

ROUND = 16
"""Batches between two looks at the progress bar."""
CLI_DEVICE = "cuda:0"
"""What lm-eval's command line says without `--device`, on a machine without a GPU, too."""
MAX_GEN_TOKS = 256
"""Tokens of an answer for which the task names no number, as in `HFLM`."""
_SAMPLING = ("temperature", "top_k", "top_p", "min_p")


@dataclass(frozen=True)
class _Given:
    """A continuation to be looked at: what lm-eval calls it, and ids before and of it."""

    pair: tuple[str, str] | None
    context: Sequence[int]
    continuation: Sequence[int]


@register_model("trimtab")
class GuidedLM(TemplateLM):
    """A frozen model and its guides, as lm-eval asks models.

    Args:
        engine: that is asked; or None, and what follows names what is loaded.
        base: folder, GGUF file or hub id of the frozen model.
        arm: `NAME=PLACE` of an ARM, or a list of them, or a mapping; a place alone says what it is.
        instruct: `NAME=TEXT`, a list or a mapping, as `trimtab.load` takes it.
        contrast: `NAME=TUNED:UNTUNED`, likewise.
        policy: `NAME=PLACE`, likewise.
        preference: weight per objective; None weighs all alike.
        strength: how hard the guides pull; 0 is the base exactly.
        kl_budget: nats per token that the steered distribution may be from the base.
        gate: leave the guides out where the base gives one token more than this probability.
        batch_size: texts at once; `auto` is 32.
        max_batch_size: of no effect: nothing is tried out.
        max_length: tokens that the models read; by default as many as they can.
        device: `cpu`, `cuda`, …; by default, and by lm-eval's default `cuda:0`, the GPU where there
            is one.
        **loading: what else `trimtab.load` takes: `dtype`, `quantization`, `revisions`, ….

    Raises:
        ConfigError, PreferenceError, ModelLoadError: before anything is asked.
    """

    def __init__(
        self,
        engine: LocalEngine | None = None,
        *,
        base: str | None = None,
        arm: Any = (),
        instruct: Any = None,
        contrast: Any = None,
        policy: Any = None,
        preference: PreferenceLike | None = None,
        strength: float = 1.0,
        kl_budget: float | None = None,
        gate: float | None = None,
        batch_size: int | str = AUTO,
        max_batch_size: int | None = None,
        max_length: int | None = None,
        device: str | None = None,
        **loading: Any,
    ) -> None:
        super().__init__()
        self._steering: dict[str, Any] = {
            "preference": preference, "strength": strength, "kl_budget": kl_budget, "gate": gate,
        }  # fmt: skip
        self._at_once = texts_at_once(batch_size)
        if engine is None:
            guides = {"instruct": instruct, "contrast": contrast, "policy": policy}
            own = None if device == CLI_DEVICE else device
            engine = load_guided(base, arm, guides, self._steering, device=own, **loading)
        elif base or arm or instruct or contrast or policy or loading:
            raise ConfigError("an engine and models to load were given", "give one of both")
        Steering.of(engine.objectives, **self._steering)
        self.engine, self.tokenizer = engine, engine.base.tokenizer
        self._max_length = self._longest(max_length)

    @property
    def max_length(self) -> int:
        """Tokens that every stream can read of a text, an instruction before it included."""
        return self._max_length

    def _longest(self, asked: int | None) -> int:
        engine = self.engine
        config = engine.base.model.config
        limits = [asked or models_utils.resolve_max_length(config, self.tokenizer)]
        limits += [n for group in engine.groups if (n := group.context)]
        limits += [engine.max_length] if engine.max_length else []
        token = next(i for i in range(2) if i != self.tokenizer.bos_token_id)
        told = [len(arm.prompt_ids([token])) - 1 for arm in engine.arms if arm.instruction]
        left = min(limits) - max(told, default=0)
        if left < 2:
            raise ConfigError(f"{left} tokens are left for a text", "shorten the instruction")
        return left

    # --- what lm-eval wants to know -------------------------------------------------------------

    @property
    def batch_size(self) -> int:
        """Texts at once."""
        return self._at_once

    @property
    def max_gen_toks(self) -> int:
        """Tokens of an answer for which the task names no number."""
        return MAX_GEN_TOKS

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        ends = [self.tokenizer.eos_token_id, *sorted(self.engine.ends)]
        end = next((i for i in ends if i is not None), None)
        if end is None:
            raise ConfigError("the base's tokenizer has no end-of-text token", "lm-eval needs one")
        return int(end)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context."""
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else int(first)

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's caches of requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """A text's ids; a BOS that it begins with as text is not put there again."""
        if add_special_tokens is None and string.startswith(
            self.tokenizer.decode(self.prefix_token_id)
        ):
            add_special_tokens = False
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer(string, **options)["input_ids"])

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A chat in the base's template, which all guides read, too.

        Raises:
            ConfigError: a guide that reads chats otherwise, as lm-eval hands over nothing but text.
        """
        require_template(self.tokenizer)
        options = {
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
        }
        chat = [Message(role=turn["role"], content=turn["content"]) for turn in chat_history]
        text = apply_template(self.tokenizer, chat, **options)
        for arm in self.engine.arms:
            if arm.instruction:
                raise ConfigError(
                    f"{arm.name} is an instruction, which belongs into a chat, not before it",
                    "leave out --apply_chat_template, or put it into --system_instruction",
                )
            for stream in (arm, *([arm.reference] if arm.reference else [])):
                own = stream.tokenizer
                if own is not self.tokenizer and apply_template(own, chat, **options) != text:
                    raise ConfigError(
                        f"{arm.name} reads chats in another template than the base",
                        "leave out --apply_chat_template: lm-eval has one text for all models",
                    )
        return text

    # --- what it asks ---------------------------------------------------------------------------

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy decoding gives it) of continuations behind contexts."""
        cut = 0
        asked = []
        for pair, context, continuation in requests:
            if not 0 < len(continuation) <= self.max_length:
                raise ConfigError(
                    f"a continuation has {len(continuation)} tokens ({pair!s:.80})",
                    f"it must have 1 to {self.max_length}",
                )
            before = context[-(self.max_length + 1 - len(continuation)) :]
            cut += len(before) < len(context)
            asked.append(_Given(pair, before, continuation))
        if cut:
            logger.warning(
                "%d contexts lose their beginning: with their continuations they are longer than "
                "%d tokens", cut, self.max_length
            )  # fmt: skip
        found: list[tuple[float, bool]] = []
        for some in self._rounds(asked, "log-likelihoods", quiet=disable_tqdm):
            likely = self.engine.log_likelihoods(
                [one.context for one in some],
                [one.continuation for one in some],
                batch_size=self._at_once,
                **self._steering,
            )
            for one, given in zip(likely, some, strict=True):
                found.append((one.total, one.is_greedy))
                if given.pair is not None:
                    self.cache_hook.add_partial("loglikelihood", given.pair, found[-1])
        return found

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihoods of whole texts, in windows of as many tokens as the models read."""
        windows: list[tuple[None, list[int], list[int]]] = []
        counts = []
        for request in requests:
            ids = self.tok_encode(request.args[0])
            pieces = [
                (None, *make_disjoint_window(pair))
                for pair in get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1)
            ]
            windows += pieces
            counts.append(len(pieces))
        values = iter(self._loglikelihood_tokens(windows, disable_tqdm))
        totals = []
        for request, count in zip(requests, counts, strict=True):
            totals.append(sum(next(values)[0] for _ in range(count)))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, totals[-1])
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Steered answers, up to the texts that end them."""
        asked = [(self._to_answer(r.args, number), r.args) for number, r in enumerate(requests)]
        texts: list[str] = []
        for some in self._rounds(asked, "answers", quiet=disable_tqdm):
            answers = self.engine.generate(
                [request for request, _ in some], batch_size=self._at_once
            )
            for answer, (request, args) in zip(answers, some, strict=True):
                if answer.error:
                    raise ConfigError(answer.error, "the answers before this one are whole")
                stops = list(request.sampling.stop)
                text = self.tokenizer.decode(answer.token_ids, skip_special_tokens=True)
                text = models_utils.postprocess_generated_text(text, stops, None)
                texts.append(str(text))
                self.cache_hook.add_partial("generate_until", args, texts[-1])
        return texts

    def _to_answer(self, args: tuple[str, Mapping[str, Any]], number: int) -> Request:
        """A context and how it is to be answered, as a request; number i has the seed i."""
        context, options = args
        wanted = dict(models_utils.normalize_gen_kwargs(dict(options), MAX_GEN_TOKS))
        eos = self.tokenizer.decode(self.eot_token_id)
        stops = models_utils.handle_stop_sequences(wanted.pop("until"), eos=eos)
        tokens, draws = int(wanted.pop("max_gen_toks")), bool(wanted.pop("do_sample", False))
        sampling = {name: wanted.pop(name) for name in _SAMPLING if name in wanted}
        sampling["temperature"] = float(sampling.get("temperature", 0.0))
        if wanted:
            raise ConfigError(
                f"the task asks for {', '.join(sorted(wanted))}, which has no effect here",
                f"of sampling there are do_sample, {', '.join(_SAMPLING)} (--gen_kwargs)",
            )
        if draws and not sampling["temperature"]:
            raise ConfigError("the task samples at temperature 0", "--gen_kwargs temperature=1")
        room = self.max_length - tokens
        if room < 1:
            raise ConfigError(
                f"the task wants {tokens} tokens of an answer, but the models read "
                f"{self.max_length}",
                "lower it: --gen_kwargs max_gen_toks=…",
            )
        ids = self.tok_encode(context) or [self.prefix_token_id]
        if len(ids) > room:
            logger.warning("a context of %d tokens is cut to its last %d", len(ids), room)
        chosen = Sampling.given(
            max_new_tokens=tokens, seed=number, stop=tuple(s for s in stops if s), **sampling
        )
        return Request(ids[-room:], sampling=chosen, **self._steering)

    def _rounds(self, asked: Sequence[T], what: str, *, quiet: bool) -> Iterator[Sequence[T]]:
        """A few batches at a time, with a progress bar."""
        size = ROUND * self._at_once
        with tqdm(total=len(asked), disable=quiet, desc=f"Running {what}") as bar:
            for start in range(0, len(asked), size):
                some = asked[start : start + size]
                yield some
                bar.update(len(some))
