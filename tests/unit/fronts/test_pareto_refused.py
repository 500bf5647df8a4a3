"""What `pareto` refuses before the first response: one line, nothing said or written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest
import sweeps
from conftest import save_model
from sweeps import GUIDE, HAPPY, RULED, sweep, tree

from trimtab.errors import TrimtabError

world, in_the_world = sweeps.world, sweeps.in_the_world  # the fixtures


class Refused(Protocol):
    def __call__(self, said: str, base: Path, /, **options: Any) -> str: ...


@pytest.fixture
def refused(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Sweeps, and expects an error of one line, which it gives; nothing is said or written."""

    def check(said: str, base: Path, /, **options: Any) -> str:
        before, heard = tree(world), []
        capsys.readouterr()  # what making models has shown
        with pytest.raises(TrimtabError, match=re.escape(said)) as caught:
            sweep(
                base, tmp_path / "front", say=heard.append,
                progress=lambda *now: heard.append(now), **options,
            )  # fmt: skip
        assert len(str(caught.value).splitlines()) == 1 and not heard
        assert capsys.readouterr() == ("", "")
        assert not (tmp_path / "front").exists() and tree(world) == before
        return str(caught.value)

    return check


def guided(**options: Any) -> dict[str, Any]:
    return {"guides": GUIDE, **options}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "no guide to measure; give --guide NAME=FOLDER, or --instruct OBJECTIVE=TEXT"),
    ({"guides": ["loras"]}, "cannot read --guide loras"),
    ({"instruct": ["happy"]}, "cannot read --instruct happy; write --instruct helpful="),
    ({"instruct": {"happy": "x"}}, "guide 'instructions' steers to happy, but the scorers"),
    ({"instruct": ["a.happy=x", "brief=y"]}, "guide 'a' steers to happy, but the scorers measure"),
    ({"instruct": {"happy": "", "brief": "x"}}, "the instruction 'happy' has no text"),
    ({"instruct": {"my guide.happy": "x"}}, "'my guide' is no name"),
    ({"instruct": {"base.happy": "x", "base.brief": "y"}}, "the name 'base' is taken by the ungui"),
    (
        {"guides": {"a": "loras"}, "instruct": ["a.happy=x", "a.brief=y"]},
        "two guides are called 'a'; give each a name of its own",
    ),
    (
        {"instruct": ["a.happy=x", "a.brief=y"], "contrast": ["a.happy=parm:parm"]},
        "guide 'a' has an instruction and a contrast for 'happy'; steer each objective by one",
    ),
    (
        {"instruct": ["instructions.happy=x", "happy=y", "brief=z"]},
        "two of --instruct for 'happy'; name each once",
    ),
    (
        {"contrast": {"happy": "loras/happy:./none", "brief": "loras/happy:loras/brief"}},
        "no untuned model of contrasts.happy at ./none",
    ),
    (
        {"contrast": {"happy": "loras/happy:parm", "brief": "loras/happy:loras/brief"}},
        "the untuned model of contrasts.happy (parm) is conditioned on brief, happy",
    ),
    (
        {
            "instruct": {"m.happy": "x"},
            "contrast": {"m.brief": "loras/happy:loras/brief"},
            "revisions": {"m.brief.reference": "v2"},
        },
        "a revision for loras/brief, which is on this machine",
    ),
    ({"guides": {"g": "none"}}, "no guide 'g' at none"),
    (
        {"guides": {"g": "loras/happy"}},
        "guide 'g' steers to happy, but the scorers measure happy, br",
    ),
    (
        {"guides": {"base": "loras"}},
        "the name 'base' is taken by the unguided base; give loras anot",
    ),
    ({"soups": {"s": "whole/0"}}, "only LoRA ARMs make a soup"),
    ({"soups": {"s": "parm"}}, "nothing to average"),
    ({"policies": {"m": "loras@2"}}, "strength 2 with the policies of guide 'm'; use 0 (the base)"),
    (
        {"policies": {"m": "loras"}, "combine": ["m"]},
        "cannot read --combine m; write --combine mod=forward-kl",
    ),
    (guided(combine={"g": "soup"}), "--combine names 'g', which is no guide of --policies"),
    ({"guides": {**GUIDE, "h": "loras@-2"}}, "strength -2 is negative"),
    (guided(strength=-1.0), "strength -1.0 is negative"),
    (
        guided(scorers={**RULED, "funny": "pareto_rules:long"}),
        "the scorers measure happy, brief, funny",
    ),
    (guided(costs=["brief", "funny"]), "--costs names 'funny', which has no --scorer"),
    (guided(rubrics={"funny": "ha"}), "--rubric names 'funny'"),
    (guided(rubrics={"happy": "ha"}), "a rubric for 'happy', whose scorer is no judge"),
    (guided(preference_step=0.3), "a step of 0.3 does not divide 1"),
    (guided(preferences=["happy=1"]), "the preference has no weight for brief"),
    (guided(preferences=["happy=1,funny=1"]), "unknown objective 'funny'"),
    (guided(preferences=["happy=1,brief=0"] * 2), "is given twice"),
    (guided(seeds=[0, 0]), "--seeds are none, or one twice"),
    (guided(batch_size=0), "--batch-size is 0; it must be 1 or more"),
    (guided(scorer_batch_size=0), "--scorer-batch-size is 0"),
    (guided(prompts_limit=0), "--prompts-limit is 0"),
    (guided(resamples=10), "--resamples is 10; it must be 100 or more"),
    (guided(temperature=-1.0), "temperature is -1.0"),
    (guided(reference="best"), "cannot read --reference best"),
    (guided(reference="happy=1"), "cannot use --reference happy=1; write worst, base, or"),
    (guided(reference="happy=1,brief=x"), "--reference has 'x' for 'brief'"),
    (guided(reference="happy=1,brief=inf"), "cannot use --reference"),
    (guided(prompts="none.jsonl"), "no such file: none.jsonl"),
    (guided(base="none/at/all"), "no base model at none/at/all"),
    (
        guided(seeds=[0, 1, 2], max_responses=100),
        "the sweep needs 144 responses ((1 base + 1 guides x 11 preferences) x 3 seeds x 4 prompts)"
        ", at most 864 tokens; --max-responses is 100; take a larger --preference-step",
    ),
    (guided(preference_step=1e-6), "the sweep needs 4000008 responses"),
    (
        guided(revisions={"funny": "v2"}),
        "no model is called 'funny'; there are base, g, happy",
    ),
    (guided(revisions={"happy": "v2"}), "a revision for 'happy', whose scorer is no model"),
    (guided(revisions={"g": "v2"}), "a revision for loras, which is on this machine"),
    (guided(revisions={"base": "v2"}), "which is on this machine; leave it out"),
    (guided(trust_remote_code=["funny"]), "no model is called 'funny'"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED, ids=[said[:40] for _, said in REFUSED])
def test_bad_input_is_one_line(
    options: Mapping[str, Any], said: str, base_dir: Path, refused: Refused
) -> None:
    refused(said, base_dir, **options)


@pytest.mark.parametrize(
    ("scorers", "said"),
    [
        ({}, "nothing to score with; give --scorer OBJECTIVE=SCORER"),
        (HAPPY, "one objective makes no front"),
        ({**HAPPY, "brief": "no_such:rule"}, "no module 'no_such'"),
        ({**HAPPY, "brief": "pareto_rules:rule"}, "has no function 'rule'"),
        ({**HAPPY, "brief": "parm"}, "takes a preference as input"),
        ({**HAPPY, "brief": "./none"}, "no reward model at ./none"),
        ({**HAPPY, "brief": "judge:m"}, "cannot read the judge of 'brief'"),
        ({**HAPPY, "br,ief": "pareto_rules:long"}, "objective 'br,ief' is no name; use letters"),
        ({**HAPPY, "has space": "pareto_rules:long"}, "objective 'has space' is no na"),
        ({**HAPPY, "brief": "pareto_rules:fails"}, "fails on the first prompt, answer"),
        ({**HAPPY, "brief": "pareto_rules:moody"}, "gives None for the first prompt"),
        ({**HAPPY, "brief": "pareto_rules:leaves"}, "(SystemExit: 0); mend the rule"),
        (
            {**HAPPY, "brief": "judge:m@http://127.0.0.1:1/v1"},
            "the judge m at http://127.0.0.1:1/v1 does not answer",
        ),
    ],
)
def test_bad_scorers_are_one_line(
    scorers: Mapping[str, str], said: str, base_dir: Path, refused: Refused
) -> None:
    refused(said, base_dir, **guided(scorers=scorers))


def test_a_prompt_that_a_scorer_cannot_read_is_found_before_the_first_response(
    base_dir: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.engines.local.load_engine", None)  # would fail if it were called
    config = json.loads((base_dir / "config.json").read_text())
    short = shutil.copytree(base_dir, tmp_path / "short")
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8}))
    scorers = {"happy": str(short), "brief": "pareto_rules:long"}
    said = "tokens with its prompt, the model reads 8; shorten"
    found = refused(said, base_dir, **guided(scorers=scorers))
    assert found.startswith("prompt ")


def test_guides_of_another_vocabulary_are_refused_before_the_first_response(
    base_dir: Path, tmp_path: Path, refused: Refused
) -> None:
    for name in ("happy", "brief"):
        folder = save_model(tmp_path / "odd" / name)
        (folder / "trimtab.json").write_text(json.dumps({"objective": name}))
    facts = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = facts["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    (folder / "tokenizer.json").write_text(json.dumps(facts))
    guides = {**GUIDE, "odd": str(tmp_path / "odd")}
    refused(f"the ARM brief of odd ({tmp_path / 'odd' / 'brief'})", base_dir, guides=guides)
