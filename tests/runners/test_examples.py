"""The examples as a whole: each says what it shows and how it is run; those that nobody runs name what is there."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import CHECKOUT

from envmgr import spec
from envmgr.cli.app import command
from envmgr.settings import schema

EXAMPLES = CHECKOUT / "examples"
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
NAMES = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
INDEX = (EXAMPLES / "README.md").read_text(encoding="utf-8")
NOT_RUN = [path for name in ("kubernetes", "yarn", "orca") for path in sorted((EXAMPLES / name).iterdir())]
PLACES = re.compile(r"/(?:usr/local/bin|var/lib|run|etc|opt)/[\w./-]*\w")


@pytest.mark.parametrize("name", NAMES)
def test_each_example_says_what_it_is(name: str) -> None:
    """An example has a README and is in the index; it can be run and says what comes out, or that it is not run."""
    directory = EXAMPLES / name
    text = (directory / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# ")
    if name != "site":
        assert INDEX.count(f"| [{name}]({name}/README.md) |") == 1
    if (directory / "run").exists():
        assert os.access(directory / "run", os.X_OK)
        assert (directory / "expected.txt").read_text(encoding="utf-8").strip()
        assert f"scripts/examples {name}" in text
        return
    assert not (directory / "expected.txt").exists()
    assert "not run" in text.lower() or "scripts/" in text


def test_each_system_is_in_the_readme() -> None:
    """The README's table has a row for each example, with its lines of configuration."""
    table = re.findall(r"^\|[^|]+\|([^|]+)\| \[([\w-]+)\]\(examples/([\w-]+)/README\.md\) \|$", README, re.MULTILINE)
    assert sorted(name for _, name, _ in table) == sorted(set(NAMES) - {"site", "quickstart"})
    for configuration, name, folder in table:
        assert (name, configuration.count("<br>")) == (folder, 1)


def test_the_index_names_no_others() -> None:
    """Every example of the index is there."""
    named = re.findall(r"^\| \[([\w-]+)\]", INDEX, re.MULTILINE)
    assert sorted(named) == sorted(set(NAMES) - {"site"})


@pytest.mark.parametrize("path", NOT_RUN, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_commands_and_paths_exist(path: Path) -> None:
    """Where nobody runs an example, each envmgr command that it names is one, with its options; each path is ours."""
    text = path.read_text(encoding="utf-8")
    for words in commands(text):
        assert options_of(words) >= {word for word in words if word.startswith("--")}, words
    known = {"/usr/local/bin/envmgr-python", "/var/lib/envmgr", "/run/envmgr", "/etc/envmgr", "/opt/envmgr"}
    for found in PLACES.findall(text):
        assert any(found == each or found.startswith(f"{each}/") for each in known), found


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words behind ``envmgr`` of every command that a text names."""
    for line in text.splitlines():
        for found in re.findall(r"(?<![\w/.-])envmgr,? +((?:[a-z][\w-]*|--[\w-]+)[^`;)#\]]*)", line):
            words = found.replace(",", " ").split()
            if words[0] in command().commands:
                yield words
            else:
                assert "'" in line or not re.search(r"[`$(\[]envmgr,? ", line), line  # a sentence about envmgr


def options_of(words: list[str]) -> set[str]:
    """Return the options of the command that these words begin with."""
    tree: Any = command()
    for word in words:
        if not hasattr(tree, "commands"):
            break
        tree = tree.get_command(None, word)
        assert tree is not None, words
    return {name for parameter in tree.params for name in (*parameter.opts, "--help")}


def test_manifests() -> None:
    """The manifests are YAML; their mounts are volumes, their specs are specs, and their settings are settings."""
    documents = [
        document
        for path in sorted((EXAMPLES / "kubernetes").glob("*.yml"))
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    ]
    assert sorted(document["kind"] for document in documents) == ["ConfigMap", "ConfigMap", "DaemonSet", "Job"]
    for document in documents:
        if document["kind"] == "ConfigMap":
            continue
        pod = document["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in pod["initContainers"] + pod["containers"]:
            is_job = document["kind"] == "Job"
            assert not is_job or container["securityContext"]["runAsUser"] > 0
            for mount in container["volumeMounts"]:
                assert not is_job or "hostPath" not in volumes[mount["name"]] or mount["readOnly"]
                volume = volumes[mount["name"]]
                assert volume.get("hostPath", {}).get("path", mount["mountPath"]) == mount["mountPath"]
            assert all(isinstance(word, str) for word in container["command"])
    data = {key: text for document in documents if "data" in document for key, text in document["data"].items()}
    assert spec.parse(data["environment.yml"].encode()).label == "report"
    compile(data["job.py"], "job.py", "exec")
    settings = re.findall(r"^(?:# )?(\w+) = ", data["settings.toml"], re.MULTILINE)
    assert len(settings) > 4
    assert set(settings) <= {entry.key for entry in schema.ENTRIES}


@pytest.mark.slow
@pytest.mark.runners
def test_pack(run_example: Callable[..., str]) -> None:
    """The archive works under another path without envmgr, and Spark's executor runs from it."""
    run_example("pack")
