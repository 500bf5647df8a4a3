"""`trimtab calibrate` end to end on tiny random models: what it finds holds when measured again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import test_bad_input
from conditioned import save_arm
from conftest import write_jsonl
from test_bad_input import Refused, tree

import trimtab
from trimtab.calibration.files import notes
from trimtab.calibration.plan import NoStrengthError
from trimtab.cli.main import main
from trimtab.engines.local import load_engine
from trimtab.scoring.scorer import Scorer

Capture = pytest.CaptureFixture[str]
refused = test_bad_input.refused  # the fixture: it looks at tmp_path before and after

PROMPTS = [f"the {word} {i}" for i, word in enumerate(["cat", "dog", "sun", "moon"] * 3)]
SHORT = {"max_new_tokens": 8, "resamples": 100}
RULES = """
def letters(response): return response.count("a") - len(response) / 50
def brief(response): return -len(response)
"""


@pytest.fixture
def arm(arm_dir: Path, tmp_path: Path) -> Path:
    """An ARM with facts of its own, some of which no version here knows."""
    folder = tmp_path / "arm"
    shutil.copytree(arm_dir, folder)
    facts = {"method": "genarm", "objective": "happy", "scale": 1.0, "note": "ein Füllwort"}
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    (folder / "trimtab.json").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": text} for text in PROMPTS])


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "calibration_rules.py").write_text(RULES)
    monkeypatch.syspath_prepend(tmp_path)


def measured(base: Path, arm: Path, strength: float) -> Any:
    """KL, base NLL and reward per token, as anyone would take them from the engine."""
    engine = load_engine(str(base), {"happy": str(arm)})
    answers = engine.generate(PROMPTS, strength=strength, max_new_tokens=8, report=True)
    rows = [[(t.kl, -t.logp_base, t.rewards["happy"]) for t in answer.tokens] for answer in answers]
    return np.mean([np.mean(row, axis=0) for row in rows], axis=0)


def test_a_target_kl_holds_when_it_is_measured_again(
    base_dir: Path, arm: Path, prompts: Path, tmp_path: Path, capsys: Capture
) -> None:
    """With the scale stored, strength 1 has the KL that was asked for, and the curve's numbers."""
    before, out = tree(arm), tmp_path / "out"
    command = ["calibrate", "--base", base_dir, "--arm", arm, "--prompts", prompts]
    command += ["--target-kl", 0.05, "--max-new-tokens", 8, "--resamples", 100, "--save"]
    assert main([str(word) for word in (*command, "--output-dir", out)]) == 0
    screen = capsys.readouterr().out
    found = json.loads((out / "calibration.json").read_text(encoding="utf-8"))
    scale = found["scale"]
    assert f"Stored scale {scale:g}" in screen and "n = 12 prompts" in screen
    kl, base_nll, reward = measured(base_dir, arm, 1.0)
    assert abs(kl - 0.05) <= 0.05 * 0.05
    chosen = found["chosen"]
    assert [chosen[name]["value"] for name in ("kl", "base_nll", "reward")] == pytest.approx(
        [kl, base_nll, reward], abs=1e-5
    )
    assert chosen["kl"]["low"] <= kl <= chosen["kl"]["high"] and chosen["kl"]["n"] == 12
    assert found["saved"] and found["scale_before"] == 1 and scale == chosen["strength"]
    assert (out / "calibration.png").read_bytes().startswith(b"\x89PNG")
    after = tree(arm)
    old, new = before.pop("trimtab.json"), after.pop("trimtab.json")
    assert old and new and after == before
    assert new == old.replace(b'"scale": 1.0', f'"scale": {scale}'.encode())


def test_a_stored_scale_changes_nothing_of_the_curve(
    base_dir: Path, arm: Path, prompts: Path
) -> None:
    """Strengths count as if none were stored: to calibrate twice is to calibrate once."""
    options: Any = {"target_kl": 0.05, "strengths": [0.5, 2], **SHORT}
    first = trimtab.calibrate(str(base_dir), str(arm), str(prompts), save=True, **options)
    again = trimtab.calibrate(str(base_dir), str(arm), PROMPTS, save=True, **options)
    assert again.scale_before == first.scale != 1
    assert list(again.curve) == list(first.curve) and again.chosen == first.chosen


@pytest.mark.parametrize("kind", ["instruct", "contrast"])
def test_a_guide_without_training(
    kind: str, base_dir: Path, arm_dir: Path, prompts: Path, tmp_path: Path, capsys: Capture
) -> None:
    """The strength found has the KL that was asked for; the guide's own weight multiplies it."""
    given = "0.5:big red sun" if kind == "instruct" else f"0.5:{arm_dir}:{base_dir}"
    out = tmp_path / "out"
    command = ["calibrate", "--base", base_dir, f"--{kind}", f"happy={given}", "--prompts", prompts]
    command += ["--target-kl", 0.005, "--max-new-tokens", 8, "--resamples", 100]
    assert main([str(word) for word in (*command, "--output-dir", out)]) == 0
    found = json.loads((out / "calibration.json").read_text(encoding="utf-8"))
    assert f"Pass it: --strength {found['scale']:g}." in capsys.readouterr().out
    engine = load_engine(str(base_dir), **{kind: {"happy": given}})  # type: ignore[arg-type]
    answers = engine.generate(PROMPTS, strength=found["scale"], max_new_tokens=8, report=True)
    kl = np.mean([np.mean([token.kl for token in answer.tokens]) for answer in answers])
    assert abs(kl - 0.005) <= 0.05 * 0.005
    assert found["chosen"]["kl"]["value"] == pytest.approx(kl, abs=1e-5)
    assert found["arm"] is None and found["guide"][kind]["happy"]["weight"] == 0.5
    assert set(found["weights"]) == (
        {"base"} if kind == "instruct" else {"base", "happy", "happy.reference"}
    )
    assert main([str(word) for word in (*command, "--save")]) == 2
    assert "no folder to store a scale of 'happy' in; leave out --save" in capsys.readouterr().err


def test_one_guide_is_calibrated(refused: Refused, base_dir: Path, prompts: Path) -> None:
    command = ["calibrate", "--base", base_dir, "--prompts", prompts, "--target-kl", 1]
    refused(*command, names=["no guide to calibrate; give one: an ARM, an instruction"])
    refused(*command, "--instruct", "a=x", "--instruct", "b=y", names=["2 guides to calibrate"])
    refused(*command, "--instruct", "a=x", "--arm", base_dir, names=["2 guides to calibrate"])
    refused(*command, "--instruct", "a=", names=["cannot read --instruct a="])


def test_the_curve_in_closed_form(base_dir: Path, prompts: Path) -> None:
    """An ARM that is the base makes π_b^(1+w): for w = 1 at every token

    KL = Σ p² log(p² / Z / p) / Z = (Σ p² log p) / Z − log Z with Z = Σ p², and its reward is the
    base's log-prob.
    """
    import torch

    found = trimtab.calibrate(
        str(base_dir), str(base_dir), str(prompts), target_kl=0.01, strengths=[1], **SHORT
    )
    zero, *_, one = found.curve
    assert (zero.strength, one.strength) == (0, 1)
    assert zero.kl.value == pytest.approx(0, abs=1e-6)
    assert zero.reward.value == pytest.approx(-zero.base_nll.value, abs=1e-6)
    engine = load_engine(str(base_dir), {"arm": str(base_dir)})
    kls = []
    for i, prompt in enumerate(PROMPTS):
        [answer] = engine.generate([prompt], max_new_tokens=8, seed=i)
        ids = engine.base.prompt_ids(prompt)
        text = torch.tensor([[*ids, *answer.token_ids]])
        with torch.no_grad():
            logits = engine.base.model(input_ids=text).logits[0, len(ids) - 1 : -1]
        logp_TV = logits.double().log_softmax(-1)
        z_T = (2 * logp_TV).exp().sum(-1)
        kl_T = ((2 * logp_TV).exp() * logp_TV).sum(-1) / z_T - z_T.log()
        kls.append(float(kl_T.mean()))
    assert one.kl.value == pytest.approx(np.mean(kls), rel=1e-4)


def test_every_objective_of_a_conditioned_arm_counts_alike(
    base_dir: Path, prompts: Path, tmp_path: Path
) -> None:
    folder = save_arm(tmp_path / "parm", base_dir, "bilinear", ["brief", "happy"])
    options: Any = {"target_kl": 1e-4, "tolerance": 0.5, "strengths": [1], **SHORT}

    def at_one(preference: Any) -> float:
        found = trimtab.calibrate(
            str(base_dir), str(folder), str(prompts), preference=preference, **options
        )
        return found.curve[-1].kl.value

    both, one, other = (at_one(p) for p in (None, "brief=1,happy=0", "brief=0,happy=1"))
    assert one != other
    assert both == pytest.approx((one + other) / 2, rel=1e-4)


@pytest.mark.usefixtures("rules")
def test_the_best_score_is_taken(base_dir: Path, arm: Path, prompts: Path, capsys: Capture) -> None:
    """`letters` as a cost is taken where it is least; nothing is stored without --save."""
    before = tree(arm)
    command = ["calibrate", "--base", base_dir, "--arm", f"happy={arm}", "--prompts", prompts]
    command += ["--scorer", "few=calibration_rules:letters", "--strengths", "0.5,1,2"]
    command += ["--max-new-tokens", 8, "--resamples", 100, "--costs", "few", "--max-loops", 1]
    assert main([str(word) for word in (*command, "--json")]) == 0
    found = json.loads(capsys.readouterr().out)
    scores = {point["strength"]: point["score"]["value"] for point in found["curve"]}
    assert list(scores) == [0, 0.5, 1, 2]
    assert scores[found["scale"]] == min(scores.values()) < scores[0]
    engine = load_engine(str(base_dir), {"happy": str(arm)})
    answers = engine.generate(PROMPTS, strength=2, max_new_tokens=8)
    own = [a.text.count("a") - len(a.text) / 50 for a in answers]
    assert scores[2] == pytest.approx(np.mean(own))
    assert tree(arm) == before and not found["saved"]


class Moody(Scorer):
    """Rates what it likes, as a judge may."""

    identity: ClassVar[dict[str, str]] = {"rule": "moody"}
    trouble = "a sigh"

    def score(self, prompts: Any, responses: Any, **facts: Any) -> list[float | None]:
        return [None if len(text) % 2 else float(len(text)) for text in responses]


def test_missing_scores_are_counted(base_dir: Path, arm: Path) -> None:
    options: Any = {"scorer": Moody(), "strengths": [1], "max_loops": 1, **SHORT}
    try:
        found = trimtab.calibrate(str(base_dir), str(arm), PROMPTS, **options)
    except NoStrengthError as error:  # it need not like the ARM
        found = error.measured
    engine = load_engine(str(base_dir), {"happy": str(arm)})
    for point in found.curve:
        answers = engine.generate(PROMPTS, strength=point.strength, max_new_tokens=8)
        lengths = [len(answer.text) for answer in answers]
        even = [n for n in lengths if n % 2 == 0]
        assert point.missing == len(lengths) - len(even) > 0
        assert point.score is not None and point.score.n == len(even)
        assert point.score.value == pytest.approx(np.mean(even))
    assert any("answers got no score" in note for note in notes(found))


def test_a_kl_out_of_reach_is_refused_with_the_largest(
    base_dir: Path, arm: Path, prompts: Path, tmp_path: Path, capsys: Capture
) -> None:
    """The curve that shows it is there; the ARM is as it was."""
    before, out = tree(arm), tmp_path / "out"
    command = ["calibrate", "--base", base_dir, "--arm", arm, "--prompts", prompts]
    command += ["--target-kl", 50, "--max-new-tokens", 4, "--resamples", 100, "--save"]
    command += ["--strengths", "1,0", "--output-dir", out]
    assert main([str(word) for word in command]) == 2
    said = capsys.readouterr()
    found = json.loads((out / "calibration.json").read_text())
    top = found["curve"][1]["kl"]["value"]
    last = said.err.splitlines()[-1]
    assert f"50 nats per token is not reached: the largest is {top:.3g}, at strength 1" in last
    assert found["chosen"] is None and "base NLL" in said.out
    assert tree(arm) == before and (out / "calibration.png").is_file()
    with pytest.raises(NoStrengthError) as caught:
        trimtab.calibrate(str(base_dir), str(arm), PROMPTS, target_kl=50, strengths=[1], **SHORT)
    assert caught.value.measured.chosen is None


@pytest.mark.usefixtures("rules")
def test_an_interrupt_leaves_all_as_it_was(
    base_dir: Path, arm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(what: str, done: int, total: int) -> None:
        if what == "answering, step 1":
            raise KeyboardInterrupt

    before = tree(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        trimtab.calibrate(
            str(base_dir), str(arm), PROMPTS, target_kl=0.05, tolerance=0.001, save=True,
            output_dir=tmp_path / "out", progress=interrupted, **SHORT,
        )  # fmt: skip
    assert tree(tmp_path) == before


def test_what_cannot_be_stored_is_refused_before_anything_is_measured(
    refused: Refused, base_dir: Path, arm: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["calibrate", "--base", base_dir, "--prompts", prompts, "--target-kl", "0.1"]
    hub = ["on the hub", "hf download", "leave out --save"]
    refused(*command, "--save", "--arm", "someone/arm", names=hub)
    refused(*command, "--save", "--arm", arm.parent / "none", names=["no ARM at"])
    monkeypatch.setattr("os.access", lambda path, mode: False)
    refused(*command, "--save", "--arm", arm, names=["cannot be written to", "copy it"])


@pytest.mark.usefixtures("rules")
def test_bad_options(
    refused: Refused, base_dir: Path, arm: Path, prompts: Path, tmp_path: Path
) -> None:
    parm = save_arm(tmp_path / "parm", base_dir, "bilinear", ["brief", "happy"])
    few = ["--scorer", "few=calibration_rules:letters"]
    cases: list[tuple[list[object], str]] = [
        ([], "nothing to calibrate to"),
        (["--target-kl", "0"], "the target KL is 0"),
        (["--target-kl", "nan"], "the target KL is nan"),
        (["--target-kl", "1", "--tolerance", "0"], "the tolerance is 0"),
        (["--target-kl", "1", "--max-kl", "1"], "leave one out"),
        (["--target-kl", "1", "--strengths", "0"], "no strength to measure but 0"),
        (["--target-kl", "1", "--strengths", "1,x"], "strength is not a number ('x')"),
        (["--target-kl", "1", "--strengths", "1,-1"], "is negative"),
        (["--target-kl", "1", "--resamples", "1"], "resamples is 1"),
        (["--target-kl", "1", "--batch-size", "0"], "batch size is 0"),
        (["--target-kl", "1", "--prompts-limit", "0"], "prompts is 0"),
        (["--target-kl", "1", "--temperature", "-1"], "temperature is -1"),
        (["--target-kl", "1", "--preference", "sad=1"], "unknown objective 'sad'"),
        (["--target-kl", "1", "--trust-remote-code", "other"], "no model is called 'other'"),
        (["--target-kl", "1", "--output-dir", arm], "is not empty"),
        ([*few, *few[:1], "x=calibration_rules:brief"], "several scorers"),
        ([*few, "--max-loops", "2"], "the share of loops is 2"),
        ([*few, "--costs", "many"], "--costs names 'many'"),
        (["--scorer", "few=nowhere:letters"], "nowhere"),
        ([*few, "--arm", parm], "give one: --preference"),
    ]
    command = ["calibrate", "--base", base_dir, "--prompts", prompts]
    for more, words in cases:
        given = [] if "--arm" in more else ["--arm", arm]
        refused(*command, *given, *more, names=[words])
    (arm / "trimtab.json").write_text('{"scale": -1}')
    refused(*command, "--arm", arm, "--target-kl", "1", names=["steers away", "put 1 into"])
