"""What a run was made on: versions, device and commit, and nobody's name."""

import json
import os
import re
import subprocess
from pathlib import Path

import torch

from ppvae.environment import commit, environment


def test_the_environment_names_versions_and_neither_machine_nor_user():
    env = environment()
    assert env["versions"]["torch"] == torch.__version__
    assert set(env["versions"]) >= {"python", "pyro", "ppvae", "numpy"}
    assert env["cpu_count"] == os.cpu_count()
    keys = {"started", "versions", "platform", "cpu", "cpu_count", "threads", "device", "cuda", "commit"}
    assert set(env) == keys
    assert str(Path.home()) not in json.dumps(env)


def test_the_commit_is_that_of_the_folder_one_works_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    (tmp_path / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "first", "--no-verify"]):
        subprocess.run([*git, *command], check=True, cwd=tmp_path)
    first = commit()
    assert first is not None
    assert re.fullmatch("[0-9a-f]{40}", first)
    (tmp_path / "file").write_text("2")
    assert commit() == f"{first}-dirty"
    monkeypatch.setenv("PATH", "")
    assert commit() is None
