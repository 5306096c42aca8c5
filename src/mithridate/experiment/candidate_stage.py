"""Writes a model as it would be released, so that what is judged is the very bytes that leave."""

import shutil
from pathlib import Path

import torch

from mithridate.experiment.jobs import CandidateJob
from mithridate.experiment.stage_folder import MODEL
from mithridate.experiment.stage_records import CandidateRecord
from mithridate.experiment.step_figures import Progress
from mithridate.files import file_hash
from mithridate.models.loading import Where, load, load_served, save_merged
from mithridate.models.merge_loss import merge_loss
from mithridate.models.serving_forms import store_quantized


def write_candidate(job: CandidateJob, where: Where, folder: Path, progress: Progress) -> CandidateRecord:
    """Write all weights, merged and in the type in which they are served, with the tokenizer to serve with.

    Args:
        job: What to do.
        where: The model after its last stage.
        folder: Folder to fill.
        progress: Called when it is done.
    """
    target, loss = folder / MODEL, None
    dtype: torch.dtype = getattr(torch, job.dtype)
    tokenizer = load_served(where, job.template)
    # An adapter that was trained on a quantized base is merged into the whole weights.
    model = load(where._replace(quantize="none"), job.precision)
    if where.quantize != "none" and where.adapter is not None:
        loss = merge_loss(model, where.quantize)._asdict()
    if job.form == "merged":
        save_merged(model, tokenizer, target, dtype)
    else:
        whole = folder / "whole"
        for left in (whole, target):  # by a kill
            shutil.rmtree(left, ignore_errors=True)
        save_merged(model, tokenizer, whole, dtype)
        store_quantized(whole, target, job.form, dtype)
        tokenizer.save_pretrained(target)
        shutil.rmtree(whole)
    progress(1, 1)
    return CandidateRecord(files={path.name: file_hash(path) for path in sorted(target.iterdir())}, merging=loss)
