"""The weak model: the first layers of the base, adapted to the base's own answers."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trimtab.bench.tables import adapted
from trimtab.bench.tables.adapted import Adaptation, Text
from trimtab.bench.tables.answering import answered, load
from trimtab.bench.tables.jobs import Work
from trimtab.bench.tables.rates import Rates
from trimtab.bench.tables.ways import WEAK, Asked
from trimtab.engines.local import LocalEngine
from trimtab.errors import ConfigError
from trimtab.files import OTHER_MODEL, whole_directory
from trimtab.models.devices import default_device
from trimtab.models.first_layers import first_layers, require_fewer
from trimtab.models.load import load_config, load_model, load_tokenizer
from trimtab.models.messages import Prompt
from trimtab.stats import Estimate, mean


@dataclass(frozen=True)
class Weak:
    """Cut the base and adapt what is left.

    Attributes:
        name: of the job, and of the model's folder.
    """

    name: str = WEAK

    def seconds(self, work: Work, rates: Rates) -> float:
        """Answers of the base, and a training of all weights that reads the base beside."""
        config = work.config
        adaptation, part = adaptation_of(work), relative_depth(work)
        prompts = config.sampled_prompts + config.search_prompts
        tokens = config.samples * prompts * config.max_new_tokens
        read = 2 * tokens * adaptation.num_train_epochs * (1 + 3 * (part + 0.2)) * rates.read
        return 30 + rates.decoding(tokens / config.batch_size, tokens) + read

    def run(self, work: Work) -> dict[str, Any]:
        """Cut, sample, adapt and save; what the base's held-out answers cost before and after."""
        config, how = work.config, adaptation_of(work)
        engine = load(work, Asked())
        prompts = work.material.training_prompts(config.objective, config.sampled_prompts)
        texts = _sampled(work, engine, prompts)
        held_out = _sampled(work, engine, work.material.validation)
        del engine
        device = config.device or default_device()
        whole = load_model(work.base, dtype=config.dtype, device=device)
        weak = first_layers(whole, config.layers, work.base).to(device)
        nll = {"base": _nll(whole, held_out), "before": _nll(weak, held_out)}
        told = adapted.adapt(weak, whole, texts, how)
        weak.to(getattr(load_config(work.base), "dtype", None) or torch.float32)  # as it is saved
        nll["after"] = _nll(weak, held_out)
        place = Path(work.model(self.name))
        with whole_directory(place, OTHER_MODEL) as staging:
            weak.save_pretrained(staging)
            load_tokenizer(work.base).save_pretrained(staging)
        return {
            "layers": config.layers,
            "prompts": len(prompts),
            "parameters": weak.num_parameters(),
            "base_parameters": whole.num_parameters(),
            "nll": {when: asdict(estimate) for when, estimate in nll.items()},
            **asdict(how),
            **told,
        }


def adaptation_of(work: Work) -> Adaptation:
    """What `--train-as weak.NAME=VALUE` says, and what it leaves out.

    Raises:
        ConfigError: an option that adapting the weak model has not.
    """
    known = Adaptation.__dataclass_fields__
    for entry in work.config.train_as:
        kind, _, option = entry.partition("=")[0].partition(".")
        if kind == WEAK and option not in known:
            raise ConfigError(
                f"--train-as {entry}: the weak model has no option {option!r}",
                f"there are: {', '.join(known)}",
            )
    given = work.config.options(WEAK)
    return Adaptation(**{name: given[name] for name in known if name in given})


def relative_depth(work: Work) -> float:
    """The weak model's layers, of the base's.

    Raises:
        ConfigError, ModelLoadError: they are not some of the base's, or it cannot be cut.
    """
    config: Any = load_config(work.base)
    require_fewer(config, work.config.layers, work.base)
    return float(work.config.layers / config.get_text_config().num_hidden_layers)


def nlls_of(row: Mapping[str, Any]) -> dict[str, Estimate]:
    """When -> nats per token of the base's held-out answers, out of the job's row."""
    return {when: Estimate(**found) for when, found in row["nll"].items()}


def _sampled(work: Work, engine: LocalEngine, prompts: Sequence[Prompt]) -> list[list[Text]]:
    """Answers of the base to every prompt, [prompts, samples]."""
    how = Asked(ask={"strength": 0.0, "temperature": 1.0})
    tokens = work.config.max_new_tokens
    rounds = [
        answered(work, how, prompts, tokens, seed + 1, engine)
        for seed in range(work.config.samples)
    ]
    return [
        [Text(engine.base.prompt_ids(prompt), list(one[i].token_ids)) for one in rounds]
        for i, prompt in enumerate(prompts)
    ]


def _nll(model: Any, texts: Sequence[Sequence[Text]]) -> Estimate:
    """Nats per token; a prompt's answers are averaged first."""
    each = [
        statistics.mean(adapted.nlls(model, [text for text in own if text.answer]) or [np.nan])
        for own in texts
    ]
    return mean([one for one in each if one == one])
