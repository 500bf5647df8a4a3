"""An engine from folders and hub ids. What cannot be fused is refused before weights are loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from trimtab.arms.load import backbone_of
from trimtab.arms.sidecar import Sidecar
from trimtab.engines.guides import (
    REFERENCE,
    START,
    ContrastLike,
    InstructionLike,
    contrasts,
    instructions,
    model_label,
    models_of,
    require_distinct,
)
from trimtab.engines.local.check import Case, check_groups
from trimtab.engines.local.drafting import NGRAM
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.local.folders import checked_draft, checked_folders, fetched_starts
from trimtab.engines.local.guides import LoadedArm, Loading, load_guides
from trimtab.engines.local.opposed import (
    against_start,
    amateur_stream,
    contrast_stream,
    instruction_stream,
    policy_stream,
)
from trimtab.engines.local.references import of_model, say_unverified
from trimtab.engines.local.streams import BASE, DRAFT, Stream
from trimtab.engines.local.tokenization import Tokenization
from trimtab.engines.policies import Amateur, policies_of, require_apart
from trimtab.entries import parse_bytes
from trimtab.errors import is_out_of_memory
from trimtab.models.devices import default_device, require_device
from trimtab.models.folder import canonical, fetch, is_local
from trimtab.models.load import load_model
from trimtab.models.memory import free_bytes
from trimtab.models.origins import Origins
from trimtab.models.probe import probe_ids
from trimtab.models.quantization import quantized_loading
from trimtab.models.types import DType, PromptFormat, Quantization
from trimtab.steering import Combine


def load_engine(
    base: str,
    arms: Mapping[str, str] | None = None,
    *,
    dtype: DType = "auto",
    device: str | None = None,
    prompt_format: PromptFormat = "auto",
    trust_remote_code: Collection[str] = (),
    revisions: Mapping[str, str] | None = None,
    draft: str | None = None,
    max_length: int | None = None,
    cache_memory: int | str | None = None,
    quantization: Quantization | None = None,
    combine: Combine = "fusion",
    describe: Mapping[str, str] | None = None,
    instruct: Mapping[str, InstructionLike] | None = None,
    contrast: Mapping[str, ContrastLike] | None = None,
    policy: Mapping[str, str] | None = None,
    amateur: Amateur | str | None = None,
) -> LocalEngine:
    """Load a frozen base and the guides that steer it.

    Every stream is compared, once, with what the library that owns its format computes on
    ordinary text; one that differs by more than the noise of its type is refused.

    Args:
        base: folder, GGUF file or hub id of a causal LM.
        arms: objective -> folder, GGUF file or hub id of its ARM (a whole model or a LoRA). A LoRA
            trained on the base shares its weights in memory. A conditioned ARM (PARM, UniARM)
            brings its own objectives; its key is only its name in reports.
        dtype: of the weights; `auto` is float32 on a CPU, the checkpoint's own type on a GPU.
        device: `cpu`, `cuda`, …; the GPU by default where there is one.
        prompt_format: how plain-text prompts are read.
        trust_remote_code: names of the models whose checkpoints' code may run: `base`, `draft`,
            or an ARM's (for the backbone that it brings).
        revisions: of hub ids, by the same names: a branch, tag or commit.
        draft: what proposes tokens when speculating: folder or hub id of a small model with the
            base's vocabulary, or `ngram` for the text so far. By default a small ARM, or else the
            text so far.
        max_length: tokens a request may have, prompt and response; the models' limit by default.
        cache_memory: for the keys and values of all requests, bytes or a text like `2GB`; half of
            what is free by default.
        quantization: load the base, and so the LoRA ARMs on it, with weights of so many bits
            (needs optimum-quanto). A base that was saved quantised needs no option.
        combine: `fusion` runs every ARM or policy (of policies this is MOD's reverse KL); `soup`
            averages LoRAs into one, request by request (rewarded soups: their updates), and
            `factor-soup` their factors A and B apart; `forward-kl` joins policies by MOD's forward
            KL.
        describe: further objectives of a UniARM that it was not trained for, name -> description.
            Experimental.
        instruct: objective -> a text that steers the base towards what it would say under it:
            `"Use short words."`, or `{"text": ..., "weight": -0.5}` to steer away.
        contrast: objective -> a tuned and an untuned model (`("TUNED", "UNTUNED")`), the difference
            of whose log-probs is the reward. Their revisions and their code are asked for by the
            names NAME and NAME.reference.
        policy: objective -> folder, GGUF file or hub id of a policy for it (a DPO model, say): at
            strength 1 tokens come from the policies alone, at less the base has its share. Not
            beside guides.
        amateur: a weak model for contrastive decoding: a place, `"PENALTY:PLACE"`, or an `Amateur`.

    Raises:
        VocabularyError: an ARM whose tokens are not the base's, named.
        ModelLoadError, MissingFileError: a folder that cannot be loaded.
        ConfigError: a stream that is not computed here as by its library.
    """
    contrasted, instructed = contrasts(contrast), instructions(instruct)
    weak = None if amateur is None else Amateur.of(amateur)
    policies = policies_of(policy, weak)
    require_distinct(arms or {}, contrasted, instructed, policies)
    require_apart(policies, [*(arms or {}), *contrasted, *instructed], combine)
    models = {**(arms or {}), **models_of(contrasted), **policies}
    origins = Origins.of([BASE, *models, DRAFT], trust_remote_code, revisions or {})
    budget = parse_bytes(cache_memory, "--cache-memory")
    base = str(base)
    models = {
        name: fetch(
            str(place), what=model_label(name, models, policies), revision=origins.revision(name)
        )
        for name, place in models.items()
    }
    arms = {name: models[name] for name in arms or {}}
    own = {name: models[name] for name in policies} or arms  # one by one, or combined
    models |= (starts := fetched_starts(arms, base))
    origins = origins.with_starts({name: name.removesuffix(START) for name in starts})
    draft = checked_draft(draft, origins)
    kind = {"dtype": dtype, "device": require_device(device) if device else default_device()}
    facts, tokenizations = checked_folders(base, arms, own, models, draft, combine, origins)
    streams = _Streams(tokenizations, facts, prompt_format)
    quantized = quantized_loading(quantization, dtype) if quantization else {}
    model = load_model(base, **{**kind, **origins.options(BASE), **quantized})
    frozen = streams.of(BASE, model)
    cases = {BASE: [of_model(frozen.model, base, BASE, streams.probe)]}
    half = frozen.model.dtype in _HALF or quantization is not None
    loading = _loading(base, model, kind, streams, cases[BASE][0], half=half, origins=origins)
    guides = load_guides(own, facts, loading, combine=combine, describe=describe)
    others = {name: place for name, place in models.items() if name not in own}
    opposed = load_guides(others, facts, loading)
    cases |= {guide.name: list(guide.cases) for guide in (*guides, *opposed)}
    whole = {g.name: g for g in opposed}
    guided = []
    for guide in guides:
        stream = streams.of(guide.name, guide.model, guide.adapter, guide.source)
        if weak:
            stream = amateur_stream(stream, weak)
        elif policies:
            stream = policy_stream(stream, frozen)
        elif facts[guide.source].reference == "start":
            start, cases[guide.name + REFERENCE] = _start(guide, whole, streams)
            stream = against_start(stream, start, frozen)
        guided.append(stream)
    parts = {g.name: streams.of(g.name, g.model, g.adapter) for g in opposed}
    guided += [contrast_stream(name, c, parts) for name, c in contrasted.items()]
    guided += [instruction_stream(name, i, frozen) for name, i in instructed.items()]
    drafter: Stream | Literal["ngram"] | None = None
    if draft == NGRAM:
        drafter = NGRAM
    elif draft:
        drafting = _draft_model(draft, loading)
        drafter = streams.of(DRAFT, drafting)
        cases[DRAFT] = [of_model(drafting, draft, DRAFT, streams.probe)]
    more: dict[str, Any] = {"draft": drafter, "max_length": max_length, "cache_memory": budget}
    more["forward_kl"] = combine == "forward-kl"
    return _checked_engine(frozen, guided, cases, more)


def _start(
    guide: LoadedArm, others: Mapping[str, LoadedArm], streams: _Streams
) -> tuple[Any, list[Case]]:
    """The model that an ARM's training started from, and what that has to give."""
    if guide.carrier is None:
        whole = others[guide.name + START]
        return whole.model, list(whole.cases)
    case = of_model(guide.carrier, guide.carrier_name, guide.source, streams.probe)
    return guide.carrier, [case]


def _loading(
    base: str,
    model: Any,
    kind: Mapping[str, Any],
    streams: _Streams,
    case: Case,
    *,
    half: bool,
    origins: Origins,
) -> Loading:
    """What loading the ARMs needs to know of the base, which is in memory."""
    backbones = {base: model}

    def in_float32(name: str, folder: str, backbone: str) -> None:
        size = sum(p.numel() for p in backbones[backbone].parameters())
        _verify_in_float32(name, folder, backbone, size, str(kind["device"]), origins)

    return Loading(
        backbones,
        lambda name: {**kind, "trust_remote_code": origins.trusts(name)},
        streams.probe,
        in_float32 if half else None,
        {base: case.wanted.noise},
        {base: origins.revision(BASE)},
    )


def _draft_model(place: str, loading: Loading) -> Any:
    """The model that drafts: one in memory, where it is the same."""
    for name, model in loading.backbones.items():
        if canonical(name) == canonical(place):
            return model
    return load_model(place, **loading.options(DRAFT))


_HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class _Streams:
    """Makes streams of models.

    Attributes:
        tokenizations: by the name of their stream.
        facts: of ARMs, by name.
        prompt_format: as the user asked for.
    """

    tokenizations: Mapping[str, Tokenization]
    facts: Mapping[str, Sidecar]
    prompt_format: PromptFormat

    def _style(self, source: str) -> PromptFormat:
        """How a stream reads plain text: an ARM as it was trained."""
        if self.prompt_format == "auto" and source in self.facts:
            return self.facts[source].prompt_format
        return self.prompt_format

    def probe(self, name: str, condition: Sequence[int]) -> tuple[list[int], int]:
        """Ordinary text in a stream's own template."""
        tokenization = self.tokenizations[name]
        return probe_ids(
            tokenization.tokenizer,
            self._style(name),
            limit=tokenization.context,
            condition=condition,
        )

    def of(self, name: str, model: Any, adapter: Any = None, source: str | None = None) -> Stream:
        """A stream through a model, which reads as the source does."""
        source = source or name
        tokenization = self.tokenizations[source]
        return Stream(
            name,
            model,
            tokenization.tokenizer,
            tokenization.vocabulary,
            self._style(source),
            self.facts[source].scale if source in self.facts else 1.0,
            adapter,
        )


def _checked_engine(
    base: Stream,
    arms: Sequence[Stream],
    cases: Mapping[str, Sequence[Case]],
    options: Mapping[str, Any],
) -> LocalEngine:
    """The engine, once every stream has been seen to compute what its library does.

    The base's case is from before any ARM was loaded, so it shows, too, that none changed it.
    """
    drafters = [options["draft"]] if isinstance(options["draft"], Stream) else []
    references = [arm.reference for arm in arms if arm.reference]
    streams = (base, *arms, *references, *drafters)
    models = {id(stream.model): stream.model for stream in streams}
    engine = LocalEngine(base, arms, pack=may_pack([*models.values()]), **options)
    check_groups(engine.groups, cases)
    return engine


def _verify_in_float32(
    name: str, folder: str, backbone: str, size: int, device: str, origins: Origins
) -> None:
    """Load an adapter and its backbone once more, in float32, where its effect can be seen.

    Args:
        name: of its stream.
        folder: the adapter's.
        backbone: folder or GGUF file; of a hub id, what the adapter names counts.
        size: numbers in the backbone.
        device: where the models run.
        origins: of all models.
    """
    if 5 * size > free_bytes(device):
        say_unverified(folder, "no memory to compare it in float32")
        return
    revisions: dict[str, str] = {}
    if not is_local(backbone):
        backbone, pinned_by_name = backbone_of(folder)
        pinned = pinned_by_name or origins.revision(BASE)
        revisions = {BASE: pinned} if pinned else {}
    trusted = [BASE] if origins.trusts(name) or origins.trusts(BASE) else []
    is_policy = Sidecar.load(folder).method == "dpo"
    try:
        load_engine(
            backbone,
            {} if is_policy else {name: folder},
            policy={name: folder} if is_policy else {},
            dtype="float32",
            device=device,
            trust_remote_code=trusted,
            revisions=revisions,
        )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        say_unverified(folder, "no memory to compare it in float32")


def may_pack(models: Sequence[Any]) -> bool:
    """Whether the weights may be rearranged: not while PEFT works on the same ones."""
    return not any(hasattr(model, "get_base_model") for model in models)
