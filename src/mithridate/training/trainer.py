"""The one subclass of TRL's trainer: it hands each optimizer step to a defense."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers.trainer_utils import rotate_checkpoints
from trl import SFTConfig, SFTTrainer

from mithridate.data import refuse_control_tokens, require_rows
from mithridate.errors import CheckpointError, DataError, DefenseError, UsageError
from mithridate.model_names import locate
from mithridate.models.batches import STAND_IN
from mithridate.models.decoder import learned_positions
from mithridate.models.fused_head import drop_fused_head, fused_head
from mithridate.models.tokenization import Rows, completion_ids, require_chat_template, tokenize
from mithridate.training import state
from mithridate.training.defense import Defense, Rescalable, require_defense, require_finite
from mithridate.training.finishing import finish, save_finished
from mithridate.training.fsdp_host import save_whole, settle_sharding, shard_on_cpus
from mithridate.training.given_streams import given_streams, stream_trained_at
from mithridate.training.host import (
    ROW,
    KeepingRow,
    forwards_kept,
    padded_by_the_host,
    recompute_soundly,
    refuse_adapted_head,
    refuse_host,
    refuse_settings,
    require,
    without_repetitions,
)
from mithridate.training.observed import StepMeans
from mithridate.training.processes import Processes
from mithridate.training.quantized_host import adapter_given, settle_quantized
from mithridate.training.row_stream import Stream
from mithridate.training.row_weights import MeanRowWeights
from mithridate.training.rows_apart import require_rows_apart
from mithridate.training.scoring import Likelihood
from mithridate.training.sharding import sum_gradients
from mithridate.training.step import Step
from mithridate.training.step_rows import Clock, Memory
from mithridate.training.trainable_weights import Weights
from mithridate.training.training_state import TrainingState
from mithridate.training.zero import ZeroEngine, split_by_block, stepping, trained_once
from mithridate.training.zero_host import refuse_zero, require_same_engine, settle_zero, zero_on_cpus

LARGEST_DROP = 0.2
"""Share of training rows that may be lost to truncation before the run is refused."""


class DefendedTrainer(SFTTrainer):  # type: ignore[misc]
    """TRL's ``SFTTrainer`` with a defense; data, LoRA, launch, logging and checkpoints are TRL's.

    Args:
        model: Model, path or hub id, as for ``SFTTrainer``.
        args: ``SFTConfig``.
        train_dataset: Rows to train on, a ``Dataset`` or a list of dicts: the user's at fine-tuning, safe ones at
            alignment.
        defense: The defense; plain ``SFT`` must be asked for as well.
        safe_dataset: Safe prompt/completion rows, where the defense needs them beside its training rows.
        harmful_dataset: The provider's harmful prompt/completion rows.
        refusals: Refusal sentences.
        stream_batch_size: Rows drawn from each other stream per optimizer step; by default as many as the
            optimizer step has training rows.
        stage: ``alignment`` or ``finetuning``, where the defense can act at both; by default its last one.
        exact_differences: Whether differences of gradients are computed in float32 also where autocast would round
            the displaced weights to half precision. That is exact, and on a GPU slower.
        **kwargs: Everything else ``SFTTrainer`` takes.

    Raises:
        DefenseError: If a stream the defense needs is not given.
        DataError: If more than a fifth of the rows is lost to truncation, or a row's text holds control tokens.
        UsageError: If a setting of ``args`` cannot be combined with a defense, or ``model`` has an adapter on its head.

    Attributes:
        defense: The defense.
        dropped_rows: Training rows lost because their answer lies wholly beyond ``max_length``.
        dropped_stream_rows: The same for each other stream.
        finished: What the defense did once after the last step, in figures.
        displacement: What the defense added to the weights after the last step, so that its scale can be changed;
            None where it adds nothing.
        step_means: Loss and token accuracy on the training rows of the last optimizer step; None before the first, and
            where the defense trained on another stream in it.
        served_tokenizer: The tokenizer to serve the finished model with; it is saved with the model.
    """

    def __init__(
        self,
        model: Any,
        args: SFTConfig | None = None,
        train_dataset: Dataset | Rows | None = None,
        *,
        defense: Defense,
        safe_dataset: Rows | None = None,
        harmful_dataset: Rows | None = None,
        refusals: Sequence[str] = (),
        stream_batch_size: int | None = None,
        stage: str | None = None,
        exact_differences: bool = True,
        **kwargs: Any,
    ) -> None:
        self._zero: ZeroEngine | None = None
        self.defense = require_defense(defense)
        self.main_stream = stream_trained_at(self.defense.info, stage)
        self._rows = require_rows(train_dataset, "train_dataset", trained=True)
        streams = given_streams(self.defense, {"safe": safe_dataset, "harmful": harmful_dataset}, refusals)
        require({"formatting_func (rows have a prompt and a completion)": kwargs.get("formatting_func")})
        if isinstance(args, SFTConfig):
            refuse_settings(args, self._rows.column_names)
            refuse_zero(args)
        refuse_adapted_head(model)
        if isinstance(model, str):
            model = locate(model, tokenizer="processing_class" not in kwargs)
        # A row's position must survive TRL's filtering and the sampler's shuffling.
        numbered = self._rows.add_column(ROW, list(range(len(self._rows))))
        args, self._unpadded = padded_by_the_host(args)
        adapter = adapter_given(model, kwargs)
        super().__init__(model=model, args=args, train_dataset=numbered, **kwargs)
        self._settle_with_the_host()
        settle_quantized(self, adapter)
        self.data_collator: Any = KeepingRow(self.data_collator)
        self._exact_differences = exact_differences
        self._refusals = completion_ids(refusals, self._tokenizer, self._conversational) if refusals else []
        self._streams: dict[str, Stream] = {}
        self.dropped_stream_rows: dict[str, int] = {}
        for name, rows in streams.items():
            if name != self.main_stream and name in self.defense.streams:
                self._add_stream(name, list(rows), stream_batch_size)
        # Now, so that what cannot be served is refused before training.
        self.served_tokenizer = self.defense.served(copy.deepcopy(self._tokenizer))
        self._begin()

    def _settle_with_the_host(self) -> None:
        """What TRL's trainer left, set up or lost."""
        drop_fused_head(self.model)
        # Again, because without args TRL makes its own, and it changes given ones.
        refuse_settings(self.args, self._rows.column_names)
        recompute_soundly(self.args)
        refuse_host(self)
        settle_sharding(self)
        settle_zero(self)
        self.dropped_rows = len(self._rows) - len(self.train_dataset)
        if self.dropped_rows > LARGEST_DROP * len(self._rows):
            raise DataError(
                f"{self.dropped_rows} of {len(self._rows)} rows have no answer within max_length="
                f"{self.args.max_length} tokens; raise max_length or shorten the rows"
            )
        if self._conversational:
            require_chat_template(self._tokenizer)
            refuse_control_tokens(self._rows, self._tokenizer)

    def create_accelerator_and_postprocess(self) -> None:
        """Set up accelerate, with FSDP2 and DeepSpeed on CPUs too where they are asked for."""
        super().create_accelerator_and_postprocess()
        shard_on_cpus(self)
        zero_on_cpus(self)

    @property
    def _conversational(self) -> bool:
        """Whether rows are laid out by the chat template."""
        return "messages" in self._rows.column_names or not isinstance(self._rows[0].get("prompt", ""), str)

    def _begin(self) -> None:
        """Nothing of an earlier training is left."""
        self._training = TrainingState(Weights(self.model), self._streams, len(self._rows))
        self.finished: dict[str, float] = {}
        self.displacement: Rescalable | None = None
        self.step_means: StepMeans | None = None

    @property
    def memory(self) -> Memory:
        """What the defense remembers between the steps of the present training."""
        return self._training.memory

    @property
    def row_weights(self) -> MeanRowWeights | None:
        """Weight of each training row, where the defense weighs rows; None otherwise."""
        return self._training.row_weights

    def _add_stream(self, name: str, rows: list[Mapping[str, Any]], batch_size: int | None) -> None:
        """Rows to draw from at every optimizer step, by default as many as it has training rows."""
        size = batch_size or (
            self.args.per_device_train_batch_size
            * self.args.gradient_accumulation_steps
            * self.accelerator.num_processes
        )
        examples = tokenize(rows, self._tokenizer, self.args.max_length)
        self._streams[name] = Stream(examples, size, self.args.seed)
        self.dropped_stream_rows[name] = len(rows) - len(examples)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        # transformers removes all other columns before the collator sees them.
        columns: list[str] = self._signature_columns
        self._signature_columns: list[str] = [*dict.fromkeys([*columns, ROW])]

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Collect micro-batches; at the last one compute the whole optimizer step's gradient."""
        self._training.micro_batches.append(self._prepare_inputs(without_repetitions(self, inputs)))
        # transformers adds up what its micro-steps return, so the step's loss is returned once, with the last of them.
        if not self.accelerator.gradient_state.sync_gradients:
            return torch.zeros((), device=self.args.device)
        micro_batches, self._training.micro_batches = self._training.micro_batches, []
        # As the method it replaces does: an evaluation between steps leaves dropout off.
        model.train()
        step = self._step(micro_batches)
        with stepping(self._zero, self._training.weights) as follow:
            # Not after a resume: what was measured then comes from the checkpoint.
            if self.state.global_step == 0:
                self.defense.start(step)
            gradient = self.defense.gradient(step)
            require_finite(gradient, self.defense, self.state.global_step + 1)
            follow(gradient)
        if gradient.row_shares is not None:
            self._training.add_row_weights(gradient.row_shares)
        return self._record(step, micro_batches)

    def _step(self, micro_batches: list[dict[str, Tensor]]) -> Step:
        return Step(
            main=self.main_stream,
            micro_batches=micro_batches,
            likelihood=self._likelihood(),
            streams=self._streams,
            refusals=self._refusals,
            micro_batch_size=self.args.per_device_train_batch_size,
            pad_token_id=self._tokenizer.pad_token_id,
            clock=Clock(self.state.global_step, self.state.max_steps, self.args.seed, len(self._rows)),
            memory=self.memory,
            longest=self._longest(),
        )

    def _likelihood(self) -> Likelihood:
        return Likelihood(
            # Not DDP's wrapper, which would average gradients at every backward pass; they are summed once a step.
            self.model,
            self._training.weights,
            self.accelerator.autocast,
            self._processes,
            exact_differences=self._exact_differences,
            unpadded=self._unpadded,
        )

    @property
    def _processes(self) -> Processes:
        host = self.accelerator
        return Processes(host.process_index, host.num_processes, self.args.device)

    def _longest(self) -> int | None:
        """Tokens that the settings allow and the model has embeddings of positions for."""
        limits = [limit for limit in (self.args.max_length, learned_positions(self.model)) if limit is not None]
        return min(limits, default=None)

    def _record(self, step: Step, micro_batches: list[dict[str, Tensor]]) -> Tensor:
        """TRL's metrics over the training rows, and the defense's activity."""
        means = step.observed.over(self._processes)
        # Over all processes: the last batch of a pass over the data may leave one of them without a row.
        if means.tokens == 0:
            raise DefenseError(
                f"{type(self.defense).__name__} took no gradient of the '{self.main_stream}' rows it trains on"
            )
        seen = sum(float(batch["attention_mask"].sum()) for batch in micro_batches if STAND_IN not in batch)
        # Of the rows that this trainer was given to train on alone, whatever else a step may turn to.
        self.step_means = means if step.trained_on == self.main_stream else None
        self._total_train_tokens += int(self._processes.total(seen))
        metrics = self._metrics["train"]
        metrics["entropy"].append(means.entropy)
        metrics["mean_token_accuracy"].append(means.accuracy)
        # TRL logs the mean of each list, and this is a running total.
        metrics["num_tokens"] = [self._total_train_tokens]
        for name, figure in step.logs.items():
            metrics[name].append(figure)
        return torch.tensor(means.loss, device=self.args.device)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, then let the defense act once on the finished weights.

        Args:
            resume_from_checkpoint: Checkpoint folder, or True for the newest finished one in ``output_dir``.
            *args: As for ``SFTTrainer.train``.
            **kwargs: As for ``SFTTrainer.train``.

        Raises:
            CheckpointError: If a checkpoint file is missing, truncated or altered.
            DefenseError: If the defense cannot act.
        """
        if resume_from_checkpoint is True:
            newest = state.newest_finished(Path(self.args.output_dir))
            if newest is None:
                raise CheckpointError(f"{self.args.output_dir} holds no finished checkpoint; start without resuming")
            resume_from_checkpoint = str(newest)
        if resume_from_checkpoint:
            state.verify(Path(resume_from_checkpoint))
            require_same_engine(Path(resume_from_checkpoint), self)
        elif self.finished:
            raise UsageError(
                f"{self.defense.info.name} has changed the trained weights once at the end of this trainer's training, "
                "and would do so again on top; make a new DefendedTrainer to train on"
            )
        with trained_once(self), forwards_kept(self.model):
            self._begin()
            output = super().train(resume_from_checkpoint or None, *args, **kwargs)
        finished = finish(self.defense, self._training)
        self.finished, self.displacement = finished.figures, finished.displacement
        if self.row_weights is not None and self.accelerator.is_main_process:
            self.row_weights.write(Path(self.args.output_dir) / "row_weights.jsonl", self._rows)
        return output

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """Wrap the model; under FSDP2 its weights are split over the processes from here on."""
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        sum_gradients(self.model)
        self._zero = ZeroEngine(self.deepspeed) if self.is_deepspeed_enabled else None
        if self._unpadded:
            require_rows_apart(self._likelihood(), self.train_dataset[0]["input_ids"], self._tokenizer.pad_token_id)
        # Not after a resume: the start then comes from the checkpoint.
        if resume_from_checkpoint is None and "start" in self.defense.info.references:
            self._training.keep_start()
        return prepared

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's optimizer, whose groups of parameters DeepSpeed flattens one by one."""
        made = super().create_optimizer(*args, **kwargs)
        return split_by_block(made, self._training.weights) if self.is_deepspeed_enabled else made

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's loss, for evaluation."""
        # TRL calls the model with its fused head, which was taken off so that defenses can have logits.
        with fused_head(self.model), self.defense.applied(self.model, self.memory):
            return super().compute_loss(model, inputs, *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the model with the tokenizer it is to be served with."""
        # The parent writes `processing_class`, which was trained with, not what is to be served.
        trained: Any = self.processing_class
        self.processing_class: Any = self.served_tokenizer
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.processing_class = trained

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the whole model; under FSDP2 all processes must call it."""
        # transformers saves nothing here, and says nothing, where checkpoints are saved by shards.
        if self.is_fsdp_enabled and not _internal_call:
            self._save(output_dir, self.accelerator.get_state_dict(self.model))
        else:
            super().save_model(output_dir, _internal_call)

    def _save_served(self, folder: Path) -> None:
        save_whole(self, folder)
        if self.accelerator.is_main_process:
            self.served_tokenizer.save_pretrained(folder)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is left to train after a checkpoint of the last step; transformers would take one step more."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        # An older checkpoint of the same name is unfinished from here on.
        (folder / state.MANIFEST).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        main = self.accelerator.is_main_process
        if main or self.is_fsdp_enabled:
            self._training.save(folder, self._total_train_tokens, writes=main)
        # TRL would delete the oldest checkpoint before the new one is complete.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        # Other processes write files of their own, such as random states, which the list of hashes must hold whole.
        self.accelerator.wait_for_everyone()
        if main or self.is_fsdp_enabled:
            save_finished(self.defense, self._training, folder, self._save_served)
        if main:
            state.seal(folder)
            # Older checkpoints go only now, so that at every moment a finished one is there.
            rotate_checkpoints(str(folder.parent), limit, self.state.best_model_checkpoint, use_mtime=True)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        # Here, because transformers calls this once, after the weights are loaded and before the first step.
        if checkpoint is not None:
            self._total_train_tokens = self._training.load(Path(checkpoint))
