"""What the README and docs/serve.md say of the server is done as they say it."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import save_model
from served import serving

from trimtab.serving.contract import UNSUPPORTED

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/serve.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
THERE = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the server that both pages start with the same line."""
    folder = tmp_path_factory.mktemp("pages")
    save_model(folder / "MODEL", 0)
    for seed, name in enumerate(("helpful", "harmless"), 1):
        save_model(folder / "arms" / name, seed)
    [line] = re.findall(r"^    trimtab serve (.*)$", PAGE, flags=re.MULTILINE)
    assert f"    trimtab serve {line}\n" in README
    before = Path.cwd()
    os.chdir(folder)
    try:
        with serving(shlex.split(line)) as process:
            yield process.url
    finally:
        os.chdir(before)


def test_the_readmes_curl_is_answered(place: str) -> None:
    text = README.replace("\\\n", " ")
    [line] = re.findall(r"^    curl (.*)$", text, flags=re.MULTILINE)
    url, _, header, _, body = shlex.split(line)
    assert header == "Content-Type: application/json"
    reply = httpx.post(
        url.replace(THERE, place),
        content=json.dumps({**json.loads(body), "max_tokens": 4}),
        headers=dict([header.split(": ")]),
        timeout=60,
    )
    assert reply.json()["choices"][0]["trimtab"]["preference"] == {"helpful": 0.7, "harmless": 0.3}


def test_the_pages_python_is_answered(place: str) -> None:
    [block] = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(block.replace(THERE, place).replace("messages=", "max_tokens=4, messages="), names)
    assert names["answer"].choices[0].message.content is not None


def test_the_page_of_fields_has_all_that_is_not_supported() -> None:
    fields = (ROOT / "docs/http.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in fields for name in UNSUPPORTED)
    assert "POST /v1/score" in fields and "GET /metrics" in fields


def test_the_image_installs_what_serves() -> None:
    """No container runs here: what is copied is there, and what it starts is a command."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    [copied] = re.findall(r"^COPY (.*) \./$", lines, flags=re.MULTILINE)
    assert all((ROOT / name).is_file() for name in copied.split())
    assert ".[serve,gguf]" in lines and 'ENTRYPOINT ["trimtab"]' in lines


def test_the_image_is_for_cpus_unless_the_build_says_otherwise() -> None:
    """What the page sets is an argument of the build, known where pip is called with it."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    built_in = lines.partition("\nFROM ")[2]
    assert "\nARG TORCH_INDEX=https://download.pytorch.org/whl/cpu\n" in built_in
    assert '--extra-index-url "${TORCH_INDEX}"' in built_in
    page = (ROOT / "docs/serve.md").read_text(encoding="utf-8")
    named = re.findall(r"--build-arg (\w+)=(\S+)", page)
    assert named and all(f"\nARG {name}=" in built_in for name, _ in named)
    assert all(value.startswith("https://download.pytorch.org/whl/cu") for _, value in named)
