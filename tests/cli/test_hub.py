"""To the hub and back: a hub on this machine, `huggingface_hub` as it is, in processes of their own
(it reads the hub's address when it is imported)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import test_bad_input
from conftest import save_model
from hub_server import Hub, metadata_errors, serving
from safetensors.torch import load_file, save_file
from test_bad_input import Refused

refused = test_bad_input.refused  # the fixture: it looks at tmp_path before and after


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def environment(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    home = str(tmp_path_factory.mktemp("home"))
    own = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": home, "HF_HUB_OFFLINE": "0"}
    return {**os.environ, **own, "HF_TOKEN": "hf_alice", "NO_PROXY": "127.0.0.1"}


def run(environment: dict[str, str], *command: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, *map(str, command)]
    return subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture(scope="module")
def pushed(
    hub: Hub,
    environment: dict[str, str],
    pairs_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """An ARM of a hub's model, trained and pushed by one command."""
    folder = tmp_path_factory.mktemp("hub")
    hub.put("acme/base", save_model(folder / "base", seed=1), "main", "v1")
    done = run(
        environment, "-m", "trimtab", "train", "--model", "acme/base", "--revision", "v1",
        "--data", pairs_file, "--objectives", "happy", "--output-dir", folder / "arm",
        "--max-steps", 2, "--save-steps", 1, "--learning-rate", 0.02, "--json",
        "--push-to-hub", "--hub-model-id", "happy-arm", "--hub-private-repo",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [result] = json.loads(done.stdout)
    assert result["url"] == f"{hub.endpoint}/alice/happy-arm"
    assert (folder / "arm" / "checkpoints").is_dir()
    return folder / "arm"


def test_what_is_pushed(hub: Hub, pushed: Path) -> None:
    """Weights, sidecar, card, tokenizer: no checkpoint, no state of the optimiser, no settings."""
    files = hub.commits["alice/happy-arm"]["main"]
    assert set(files) == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja",
        "results.json", "tokenizer.json", "tokenizer_config.json", "trimtab.json",
    }  # fmt: skip
    assert all(files[name] == (pushed / name).read_bytes() for name in files)
    assert hub.private == {"alice/happy-arm": True}
    card = files["README.md"].decode()
    assert metadata_errors(card) == []  # the hub asked, too
    assert "base_model: acme/base" in card and "base_model_relation: adapter" in card
    assert 'trimtab.load("acme/base", arms={"happy": "alice/happy-arm"})' in card


BACK = """
import contextlib, io, json, sys
import trimtab
from trimtab.cli.main import main

def run(*words, code=0):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(list(words)) == code, words
    return out.getvalue()

pairs, output, first, second = sys.argv[1:]
found = {}
for name, pinned in (("main", None), ("first", first), ("second", second), ("tag", "v2")):
    revisions = {"base": "v1", **({"happy": pinned} if pinned else {})}
    engine = trimtab.load("acme/base", {"happy": "alice/happy-arm"}, revisions=revisions)
    [answer] = engine.generate(["the cat"], seed=3, max_new_tokens=6, report=True)
    found[name] = [len(engine.groups), [t.rewards["happy"] for t in answer.tokens]]
models = ["--base", "acme/base", "--arm", "happy=alice/happy-arm", "--prompt", "the cat"]
models += ["--seed", "3", "--max-new-tokens", "6", "--report", "--json", "--revision", "v1"]
found["generate"] = json.loads(run("generate", *models, "happy=v2"))
run("generate", *models, "happy=none", code=2)
arm = ["--arm", "alice/happy-arm", "--revision"]
for revision in ("v2", first):
    score = json.loads(run("score", *arm, revision, "--input", pairs, "--json"))
    accuracy = ["accuracy", *arm, revision, "--data", pairs, "--split", "all", "--json"]
    found[f"judged {revision}"] = [score[0]["reward"], json.loads(run(*accuracy))["n"]]
push = ["--merge", "--output-dir", output, "--push-to-hub", "--hub-model-id", "acme/merged"]
run("export", *arm, first, *push)
print(json.dumps(found))
"""


def test_an_arm_comes_back_at_its_revision(
    hub: Hub, environment: dict[str, str], pushed: Path, pairs_file: Path, tmp_path: Path
) -> None:
    """By id, at a commit, at a tag; on the base's weights, which its config names by id."""
    first = hub.id_of("alice/happy-arm", "main")
    tensors = load_file(pushed / "adapter_model.safetensors")
    changed = {name: tensor * 3 for name, tensor in tensors.items()}
    save_file(changed, tmp_path / "changed.safetensors", metadata={"format": "pt"})
    files = dict(hub.commits["alice/happy-arm"]["main"])
    files["adapter_model.safetensors"] = (tmp_path / "changed.safetensors").read_bytes()
    second = hub.commit("alice/happy-arm", files, "main", "v2")
    hub.asked.clear()
    done = run(environment, "-c", BACK, pairs_file, tmp_path / "merged", first, second)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    by_revision = {name: found[name] for name in ("main", "first", "second", "tag")}
    assert {groups for groups, _ in by_revision.values()} == {1}  # on the base's own weights
    rewards = {name: rewards for name, (_, rewards) in by_revision.items()}
    assert rewards["main"] == rewards["second"] == rewards["tag"] != rewards["first"]
    [row] = found["generate"]
    by_command = [token["rewards"]["happy"] for token in row["tokens"]]
    assert by_command == pytest.approx(rewards["tag"], abs=1e-3)
    assert "the hub's alice/happy-arm has no revision 'none'; name a branch" in done.stderr
    (new, n), (old, m) = found["judged v2"], found[f"judged {first}"]
    assert new != old and n == m == 40
    asked = "".join(hub.asked)
    assert "/alice/happy-arm/resolve/" in asked and "README.md" not in asked
    assert f"pushed to {hub.endpoint}/acme/merged" in done.stderr
    assert {"model.safetensors", "README.md"} <= set(hub.commits["acme/merged"]["main"])


# --- refusals, before anything is trained -------------------------------------------------------


def account(role: str = "write") -> dict[str, Any]:
    token = {"accessToken": {"role": role}}
    return {"name": "alice", "orgs": [{"name": "acme"}], "auth": token}


@pytest.fixture
def logged_in(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    told = account()
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
    monkeypatch.setattr(huggingface_hub, "whoami", lambda: told)
    return told


def test_what_is_refused_before_training(
    refused: Refused, base_dir: Path, pairs_file: Path, tmp_path: Path,
    logged_in: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    train = ["train", "--model", base_dir, "--data", pairs_file, "--output-dir", out]
    push = [*train, "--finetuning", "full", "--push-to-hub"]
    refused(*train, "--hub-model-id", "alice/arm", names=["--hub-model-id without --push-to-hub"])
    refused(*train, "--hub-private-repo", names=["--hub-private-repo without --push-to-hub"])
    refused(*push, "--hub-model-id", "a/b/c", names=["a/b/c is no hub id", "OWNER/NAME"])
    refused(*push, "--hub-model-id", "bob/arm", names=["alice cannot write to bob", "alice, acme"])
    logged_in.update(account("read"))
    refused(*push, names=["token may only read"])
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    refused(*push, names=["--push-to-hub without a login", "hf auth login"])
    export = ["export", "--arm", base_dir, "--output-dir", out]
    refused(*export, "--push-to-hub", names=["whole model"])


def test_a_hub_that_does_not_answer(
    refused: Refused, base_dir: Path, pairs_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")  # conftest: offline
    command = ["train", "--model", base_dir, "--data", pairs_file, "--output-dir", tmp_path / "out"]
    refused(*command, "--finetuning", "full", "--push-to-hub", names=["cannot log in to the hub"])


def test_a_push_that_fails_leaves_the_model(
    base_dir: Path, pairs_file: Path, tmp_path: Path, logged_in: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """… and the same command, resumed, pushes it without training again."""
    from trimtab.cli.main import main

    def create(repo: str, **options: Any) -> str:
        if not pushes:
            raise ConnectionError("no route")
        return f"https://hub/{repo}"

    pushes: list[str] = []
    monkeypatch.setattr(huggingface_hub, "create_repo", create)
    monkeypatch.setattr(huggingface_hub, "upload_folder", lambda **o: pushes.append(o["repo_id"]))
    out = tmp_path / "arms"
    command = ["train", "--model", base_dir, "--data", pairs_file, "--output-dir", out]
    command += ["--max-steps", 1, "--eval-strategy", "no", "--objectives", "happy"]
    words = [str(word) for word in [*command, "--push-to-hub"]]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "is whole, but the hub did not take it as alice/arms (no route)" in said
    assert f"hf upload alice/arms {out}" in said
    before = (out / "adapter_model.safetensors").read_bytes()
    pushes.append("ready")
    assert main([*words, "--resume-from-checkpoint", "auto"]) == 0
    assert pushes == ["ready", "alice/arms"]
    assert "and at https://hub/alice/arms" in capsys.readouterr().out
    assert (out / "adapter_model.safetensors").read_bytes() == before


def test_several_objectives_have_a_repository_each(
    base_dir: Path, tmp_path: Path, logged_in: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trimtab.training.config import TrainConfig

    common: dict[str, Any] = {"model": "m", "data": ["d"], "output_dir": "out/arms"}
    config = TrainConfig(**common, objectives="a,b", push_to_hub=True)
    assert [config.hub_repo(name) for name in "ab"] == ["arms-a", "arms-b"]
    one = TrainConfig(**common, objectives="a", push_to_hub=True, hub_model_id="acme/x")
    both = TrainConfig(**common, objectives="a,b", method="parm", push_to_hub=True)
    assert (one.hub_repo("a"), both.hub_repo(), TrainConfig(**common).hub_repo()) == (
        "acme/x", "arms", "",
    )  # fmt: skip
