"""What an evaluation costs: prompts read and answers generated."""

from mithridate.experiment.jobs import EvaluationJob
from mithridate.planning.pass_work import PassWork
from mithridate.planning.planned_training import Work, generated, scored
from mithridate.planning.row_tokens import RowLengths, RowTokens


def evaluation_work(job: EvaluationJob, lengths: RowLengths, work: PassWork) -> Work:
    """Return the work of an evaluation whose answers are as long as they may be; the judge's own is left out."""
    batch, longest = job.batch_size, job.max_new_tokens
    total = generated(lengths.of_prompts(job.prompts), longest, batch, work)
    if job.test is not None:
        total = total.plus(generated(_prompts(lengths.of(job.test)), job.task.max_new_tokens, batch, work))
    if job.look_alikes is not None:
        total = total.plus(generated(lengths.of_prompts(job.look_alikes), longest, batch, work))
    if job.help is not None:
        asked = lengths.of(job.help)
        total = total.plus(generated(_prompts(asked), longest, batch, work)).plus(scored(asked, batch, work))
        # Broken text is found by how much it surprises the aligned model.
        if job.help_check == "coherent":
            total = total.plus(scored(asked, batch, work))
    return total


def _prompts(lengths: RowTokens) -> RowTokens:
    return lengths._replace(whole=lengths.prompts)
