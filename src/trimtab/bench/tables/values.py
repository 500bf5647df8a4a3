"""A value model for searches that want one: of the base's answers and their rewards."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from trimtab.arms.reward_model import RewardModel
from trimtab.bench.tables.answering import answered, load, loading
from trimtab.bench.tables.jobs import Work
from trimtab.bench.tables.rates import Rates
from trimtab.bench.tables.training import COMMON, trained
from trimtab.bench.tables.ways import Asked
from trimtab.files import write_text


@dataclass(frozen=True)
class Values:
    """Sample, score and train a value model.

    Attributes:
        name: of the job, and of the model's folder.
    """

    name: str

    def seconds(self, work: Work, rates: Rates) -> float:
        """Answers of the base, and a training on them."""
        config = work.config
        tokens = config.samples * config.sampled_prompts * config.max_new_tokens
        return 30 + rates.decoding(tokens / config.batch_size, tokens) + rates.training(2 * tokens)

    def run(self, work: Work) -> dict[str, Any]:
        """Write the samples, train on them."""
        config = work.config
        prompts = work.material.training_prompts(config.objective, config.sampled_prompts)
        how = Asked(ask={"strength": 0.0, "temperature": 1.0})
        engine = load(work, how)
        rows: list[dict[str, Any]] = [
            {"prompt": prompt, "response": answer.text, "finish_reason": answer.finish_reason}
            for seed in range(config.samples)
            for prompt, answer in zip(
                prompts,
                answered(work, how, prompts, config.max_new_tokens, seed + 1, engine),
                strict=True,
            )
        ]
        judge = RewardModel(work.model("trajectory-0"), **loading(work))
        scored = judge.score([r["prompt"] for r in rows], [r["response"] for r in rows])
        rows = [{**row, "score": one.reward} for row, one in zip(rows, scored, strict=True)]
        file = work.material.folder / f"{self.name}.jsonl"
        write_text(file, "".join(json.dumps(row) + "\n" for row in rows))
        options = {
            "model": work.base,
            "data": str(file),
            "objectives": config.objective,
            "method": "value",
            **COMMON,
            **config.options("value"),
        }
        return {"samples": len(rows), **trained(work.model(self.name), 0, options)}
