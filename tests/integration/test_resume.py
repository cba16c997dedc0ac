"""A run that is killed goes on to the weights of the run that was not, bit for bit."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from scidiff.training import checkpoint as checkpoints
from scidiff.training import interrupt

sys.path.insert(0, str(Path(__file__).parent))
import train_tiny

SCRIPT = Path(__file__).with_name("train_tiny.py")


def start(out: Path, steps: int, *options: str) -> subprocess.Popen[str]:
    # standard error to a file: a pipe that nobody reads fills up and stops the run
    with out.with_suffix(".log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), str(out), str(steps), *options],
            stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def wait_for_step(out: Path, alive: Callable[[], bool], beyond: int) -> int:
    """The last checkpoint's step, once it is beyond a given one or the process has ended."""
    while True:
        found = checkpoints.folders(out / "checkpoints")
        step = int(found[-1].name.removeprefix("step-")) if found else 0
        if step > beyond or not alive():
            return step
        time.sleep(0.01)


def fork(server: BaseContext, out: Path, steps: int, *options: str) -> BaseProcess:
    """As `start`, without the time to import torch: forked from a server that has imported it and done no more."""
    process = server.Process(target=train_tiny.main, args=(str(out), str(steps), *options))
    process.start()
    return process


def final(out: Path) -> bytes:
    return (out / "weights" / "weights.safetensors").read_bytes()


@pytest.mark.timeout(900)  # seconds alone; minutes on a machine that trains beside it
def test_kill_9_at_random_instants_then_resume_gives_the_same_bits(tmp_path):
    steps, moments = 160, random.Random(5)
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["scidiff.training", "torch.utils.tensorboard"])
    whole = fork(server, tmp_path / "whole", steps)
    done = 0
    for attempt in range(4):
        process = fork(server, tmp_path / "cut", steps, *(["--resume"] if attempt else []))
        reached = wait_for_step(tmp_path / "cut", process.is_alive, done + 3)
        time.sleep(moments.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert reached > done
        done = reached
    assert not (tmp_path / "cut" / "weights").exists()
    last = fork(server, tmp_path / "cut", steps, "--resume")
    for process in (whole, last):
        process.join()
        assert process.exitcode == 0
    assert final(tmp_path / "cut") == final(tmp_path / "whole")


def test_ctrl_c_writes_a_checkpoint_and_exits_with_130(tmp_path):
    process = start(tmp_path / "run", 100_000)
    reached = wait_for_step(tmp_path / "run", lambda: process.poll() is None, 3)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    process.communicate()
    found = checkpoints.latest(tmp_path / "run" / "checkpoints")
    assert found is not None
    assert found.state.step >= reached
    assert "Traceback" not in (tmp_path / "run.log").read_text()


def test_a_signal_that_was_ignored_stays_ignored():
    """As in a shell's background, or under nohup; a termination is still kept."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupt.kept() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop.requested
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.signal == signal.SIGTERM
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_stopped_script_says_where_it_goes_on(tmp_path):
    assert "nothing is kept" in checkpoints.where_to_resume(tmp_path)
    for step in (1, 12):
        checkpoints.save(tmp_path, checkpoint(step))
    line = checkpoints.where_to_resume(tmp_path)
    assert str(tmp_path / "step-000000012") in line
    assert "--resume" in line


def checkpoint(step: int) -> checkpoints.Checkpoint:
    tensors = {"w": torch.full((4,), float(step))}
    state = checkpoints.RunState(step=step, position=step, config={}, fingerprint="f")
    return checkpoints.Checkpoint(state=state, model=tensors, ema=tensors, optimiser=tensors)


def die_at(operation: int) -> None:
    """End this process, as a kill would, at a given file operation from now on."""
    left = [operation]

    def watch(event: str, arguments: tuple) -> None:
        if event in {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.listdir", "os.scandir"}:
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)

    sys.addaudithook(watch)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_at_any_file_operation_leaves_a_whole_checkpoint(tmp_path):
    """Every instant of writing the fourth checkpoint, which removes the second, is tried in a forked child."""
    survived = []
    for operation in range(1, 200):
        root = tmp_path / str(operation)
        for step in (1, 2, 3):
            checkpoints.save(root, checkpoint(step))
        child = os.fork()
        if child == 0:
            die_at(operation)
            checkpoints.save(root, checkpoint(4))
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found = checkpoints.latest(root)
        assert found is not None
        step = found.state.step
        assert step in (3, 4)
        assert found.model["w"].tolist() == [float(step)] * 4
        survived.append(step)
        for folder in checkpoints.folders(root):
            checkpoints.load(folder)  # what is there is whole
        checkpoints.save(root, checkpoint(4))  # what a resumed run does next
        assert checkpoints.latest(root).state.step == 4
        checkpoints.save(root, checkpoint(5))
        assert sorted(path.name for path in root.iterdir()) == ["step-000000004", "step-000000005"]
        assert checkpoints.latest(root).state.step == 5
        if code == 0:
            break
        assert code == 9
    assert code == 0
    assert survived[0] == 3
    assert len(survived) > 15
    assert survived == sorted(survived)  # the new one is there from one operation on
