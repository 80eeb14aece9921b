"""The tests' work with a Hub, in a process of its own: the client reads the Hub's address when it is imported."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from typing import Any


@contextmanager
def client_process(endpoint: str, home: Path, log: Path) -> Iterator[Callable[..., Any]]:
    """A process with a Hub client; yields a function that runs a function of this module there."""
    environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    unset = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "HF_DATASETS_CACHE")
    before = dict(os.environ)
    for name in unset:
        os.environ.pop(name, None)
    os.environ |= environment
    pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_prepare, initargs=(str(log),))
    try:
        pool.submit(int).result(timeout=120)
    finally:
        os.environ.clear()
        os.environ |= before
    with pool:
        yield lambda function, *arguments, **named: pool.submit(function, *arguments, **named).result(timeout=120)


def _prepare(file: str) -> None:
    """Everything that this process writes and logs, down to the debug level, goes to a file; it waits in a hurry."""
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(seconds / 10)  # the client waits seconds before it tries again
    stream = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    logging.basicConfig(level=logging.DEBUG, force=True)


def push(folder: str, repo_id: str, **arguments: Any) -> Any:
    from datasets import load_from_disk

    from rsr_datasets import push_curated

    return push_curated(load_from_disk(folder), repo_id, **arguments)


def command(*arguments: object, cwd: Path) -> tuple[int, str, str]:
    """Runs ``rsr-datasets ARGUMENTS``; the exit code, and what was written to stdout and stderr."""
    from rsr_datasets.cli.commands import main

    os.chdir(cwd)
    sys.argv = ["rsr-datasets", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as end:
        return end.code, out.getvalue(), err.getvalue()


def load(repo_id: str, **arguments: Any) -> Any:
    """Rows and features by split, or of one split."""
    from datasets import load_dataset

    loaded = load_dataset(repo_id, **arguments)
    if "split" in arguments:
        return loaded.to_list(), loaded.features
    return {name: (part.to_list(), part.features) for name, part in loaded.items()}


def checked_card(repo_id: str, token: str) -> tuple[str, dict[str, Any]]:
    """A card's text and header, after the Hub's validation."""
    from huggingface_hub import DatasetCard

    card = DatasetCard.load(repo_id, token=token)
    card.validate()
    return str(card), card.data.to_dict()


def train(code: str, student: str, folder: str, token: str) -> tuple[list[str], float, bool]:
    """Runs the card's code to train for one step; what was trained on, the loss, and whether weights changed."""
    import torch
    import transformers

    os.environ["HF_TOKEN"] = token
    before = transformers.AutoModelForCausalLM.from_pretrained(student).state_dict()
    settings = f'output_dir={folder!r}, max_steps=1, per_device_train_batch_size=2, use_cpu=True, report_to="none"'
    code, replaced = re.subn(r'SFTTrainer\("[^"]*"', f"SFTTrainer({student!r}", code)
    code, shortened = re.subn(r'output_dir="trained"', settings, code)
    assert (replaced, shortened) == (1, 1)
    names: dict[str, Any] = {}
    try:
        exec(code, names)
    finally:
        del os.environ["HF_TOKEN"]
    trainer = names["trainer"]
    losses = [entry["train_loss"] for entry in trainer.state.log_history if "train_loss" in entry]
    after = trainer.model.state_dict()
    changed = any(not torch.equal(before[name].cpu(), after[name].cpu()) for name in before if name in after)
    return names["dataset"].column_names, losses[-1], changed
