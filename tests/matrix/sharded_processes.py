"""Run by several processes at once under FSDP2 or DeepSpeed: trains what it is asked for and writes what came out.

Each job is a dictionary: ``id``, ``training`` (a name of `cut_and_shared`), ``options`` of the trainer, ``kind``,
``model`` where it is not the usual one, ``engine`` where it is not FSDP2, and ``evaluates`` where it evaluates between
steps (`test_sharding`, `test_zero_sharding`).
"""

import copy
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import distributed

from mithridate.defenses.registry import methods
from mithridate.errors import MithridateError
from mithridate.training.sharding import own, reshard
from mithridate.training.step_rows import StepRows
from tests.helpers import tiny
from tests.helpers.counting import Counted
from tests.helpers.training import Run, finished, trainer
from tests.matrix.rows import ROWS, cut_and_shared

FSDP = {"fsdp": True, "fsdp_config": {"version": 2, "state_dict_type": "SHARDED_STATE_DICT"}}


def zero(stage: int, **settings: Any) -> dict[str, Any]:
    """SFTConfig settings for DeepSpeed's ZeRO."""
    automatic = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    config = dict.fromkeys(automatic, "auto") | {"bf16": {"enabled": "auto"}}
    return {"deepspeed": config | {"zero_optimization": {"stage": stage} | settings}}


ENGINES = {
    "fsdp2": FSDP,
    "zero1": zero(1),
    "zero2": zero(2),
    "zero3": zero(3),
    "overlapping": zero(2, overlap_comm=True, reduce_bucket_size=512),
    "bare": {"deepspeed": {"zero_optimization": {"stage": 1}, "train_micro_batch_size_per_gpu": "auto"}},
}

EVALUATING = {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 1}
"""One row a batch, since transformers takes the mean over batches."""
MODELS = {"half": lambda: tiny.model().to(torch.bfloat16), "tied": lambda: tiny.model(tied=True)}
"""Models other than the usual one."""


def made(job: dict[str, Any], folder: Any, **more: Any) -> Any:
    """The job's trainer, whose weights are not split yet."""
    method, settings = cut_and_shared()[job["training"]]
    options = job["options"] | ENGINES[job.get("engine", "fsdp2")] | more
    if job.get("evaluates"):
        options |= EVALUATING | {"extra": {"eval_dataset": tiny.rows("user", 6)}}
    if "model" in job:
        options["extra"] = {"model": MODELS[job["model"]]()}
    return trainer(methods()[method].cls(**settings), folder, **options)


def write(job: dict[str, Any], folder: Path, run: Run, **report: Any) -> None:
    """Write weights and report, in the first process."""
    if distributed.get_rank() == 0:
        report["evaluated"] = [log["eval_loss"] for log in run.trainer.state.log_history if "eval_loss" in log]
        report |= {"logs": run.logs, "world_size": run.trainer.accelerator.num_processes}
        if run.trainer.row_weights is not None:
            report["row_sums"] = run.trainer.row_weights.sums.tolist()
        (folder / f"{job['id']}.json").write_text(json.dumps(report))
        save_file({n: w.contiguous() for n, w in run.weights.items()}, folder / f"{job['id']}.safetensors")


def held(model: Any) -> tuple[int, int]:
    """Numbers that this process holds of the trained weights, and numbers that there are."""
    reshard(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return sum(own(p.detach()).numel() for p in parameters), sum(p.numel() for p in parameters)


@contextmanager
def standing_in() -> Iterator[list[Any]]:
    """The rows that stand in for rows that a process lacks."""
    original, found = StepRows.stand_ins, []

    def kept(self: StepRows, *args: Any) -> list[Any]:
        found.extend(rows := original(self, *args))
        return rows

    StepRows.stand_ins = kept
    try:
        yield found
    finally:
        StepRows.stand_ins = original


def train(job: dict[str, Any], folder: Path) -> None:
    """Train; count the passes of all processes."""
    trainer = made(job, tempfile.mkdtemp())
    with Counted(trainer.model) as counted, standing_in() as stand_ins:
        trainer.train()
    passes = torch.tensor([counted.forward, counted.backward, len(stand_ins)])
    distributed.all_reduce(passes)
    state = {id(t): t for s in trainer.optimizer.state.values() for t in s.values() if t.ndim}
    here, every = held(trainer.model)
    write(
        job, folder, finished(trainer),
        passes=passes.tolist(), held=here, weights=every, sharded=trainer.is_fsdp_enabled,
        optimizer_held=sum(own(t).numel() for t in state.values()),
    )  # fmt: skip


def save(job: dict[str, Any], folder: Path) -> None:
    """Train with checkpoints into a folder that stays, and save the whole model at the end."""
    trainer = made(job, folder / job["id"], save_strategy="steps", save_steps=2)
    trainer.train()
    trainer.save_model(str(folder / f"{job['id']}-model"))
    write(job, folder, finished(trainer))


def resume(job: dict[str, Any], folder: Path) -> None:
    """Resume the checkpoint of another job, perhaps of another number of processes."""
    trainer = made(job, tempfile.mkdtemp())
    trainer.train(resume_from_checkpoint=job["checkpoint"])
    write(job, folder, finished(trainer))


def repair(job: dict[str, Any], folder: Path) -> None:
    """Repair a model whose weights are split; write the messages."""
    trainer, rows = made(job, tempfile.mkdtemp()), {"harmful": tiny.rows("harmful", 4), "user": tiny.rows("user", 4)}
    trainer.train()
    for name in ("antidote", "panacea", "random_perturbation"):
        method = methods()[name].cls(**ROWS[name].default)
        given = {stream: found for stream, found in rows.items() if stream in methods()[name].streams}
        try:
            method.repair(trainer.model, tiny.tokenizer(), **given)
        except MithridateError as error:
            (folder / f"{job['id']}-{name}-{distributed.get_rank()}.txt").write_text(str(error))


def refuse(job: dict[str, Any], folder: Path) -> None:
    """Train what must be refused; write the message."""
    try:
        made(job, tempfile.mkdtemp()).train(resume_from_checkpoint=job.get("checkpoint"))
    except MithridateError as error:
        (folder / f"{job['id']}-{distributed.get_rank()}.txt").write_text(str(error))


def plain(job: dict[str, Any], folder: Path) -> None:
    """Train, and write what DeepSpeed left of itself on the model."""
    trainer = made(job, tempfile.mkdtemp())
    trainer.train()
    model = copy.deepcopy(trainer.model)
    model.zero_grad()
    batch = {"input_ids": torch.tensor([[6, 7, 8 + distributed.get_rank(), 9]])}
    for other in (trainer.model, model):
        other.train(False)(**batch, labels=batch["input_ids"]).loss.backward()
    own_gradient = all(
        torch.equal(p.grad, q.grad)
        for p, q in zip(trainer.model.parameters(), model.parameters(), strict=True)
        if p.requires_grad
    )
    trainer.model.save_pretrained(tempfile.mkdtemp())
    try:
        trainer.train()
    except MithridateError as error:
        again = str(error)
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in trainer.model.modules())
    write(job, folder, finished(trainer), own_gradient=own_gradient, again=again, hooks=hooks)


def fail(job: dict[str, Any], folder: Path) -> None:
    """One process fails in the middle of a step."""
    trainer = made(job, tempfile.mkdtemp())
    original = type(trainer.defense).gradient

    def failing(self: Any, step: Any) -> Any:
        found = original(self, step)
        if distributed.get_rank() == 1 and step.clock.number == 2:
            raise RuntimeError("the second process failed")
        return found

    type(trainer.defense).gradient = failing
    trainer.train()


KINDS = {
    "train": train,
    "save": save,
    "resume": resume,
    "refuse": refuse,
    "repair": repair,
    "plain": plain,
    "fail": fail,
}


def do(folder: Path, jobs: list[dict[str, Any]]) -> None:
    """Do jobs one after the other."""
    for job in jobs:
        KINDS[job["kind"]](job, folder)


if __name__ == "__main__":
    do(Path(sys.argv[1]), json.loads(sys.argv[2]))
    distributed.barrier()
    distributed.destroy_process_group()  # its threads may otherwise outlive the interpreter and abort the process
