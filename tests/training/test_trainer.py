"""The trainer: what it counts, what it refuses, and what it does with its arguments."""

import pytest
import torch
from accelerate import ParallelismConfig
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel
from trl import SFTTrainer

import mithridate as mi
from mithridate.errors import DataError, DefenseError, ModelError, UsageError
from mithridate.training.scoring import Likelihood
from mithridate.training.trainable_weights import Weights
from tests.helpers import tiny
from tests.helpers.training import distance, run, streams, trainer


def _made(tmp_path, defense=None, rows=None, **changes):
    own = ("stage", "stream_batch_size", "compute_loss_func", "formatting_func")
    given = {name: changes.pop(name) for name in own if name in changes}
    tokenizer = changes.pop("tokenizer", None) or tiny.tokenizer()
    return mi.DefendedTrainer(
        tiny.model(), args=tiny.config(tmp_path, **changes), train_dataset=rows or tiny.rows("user"),
        defense=defense or mi.SFT(), processing_class=tokenizer, peft_config=tiny.lora(), **streams(), **given,
    )  # fmt: skip


@pytest.mark.parametrize(("setting", "value", "named"), [
    ("packing", True, "packing"), ("fp16", True, "fp16"), ("label_smoothing_factor", 0.1, "label_smoothing"),
    ("loss_type", "dft", "loss_type"), ("neftune_noise_alpha", 5.0, "neftune"),
    ("auto_find_batch_size", True, "auto_find_batch_size"), ("compute_loss_func", lambda *a, **k: 0, "compute_loss"),
    ("truncation_mode", "keep_end", "truncation_mode"),
    ("completion_only_loss", False, "completion_only_loss"), ("formatting_func", lambda row: "", "formatting_func"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.compute_loss_func. is deprecated:FutureWarning")
def test_settings_that_would_change_the_formula_are_refused(setting, value, named, tmp_path):
    with pytest.raises(UsageError, match=named):
        _made(tmp_path, **{setting: value})


def test_settings_are_refused_before_a_model_is_loaded(tmp_path):
    with pytest.raises(UsageError, match="packing=True"):
        mi.DefendedTrainer(
            str(tmp_path / "no-model"), args=tiny.config(tmp_path, packing=True), train_dataset=tiny.rows("user"),
            defense=mi.SFT(),
        )  # fmt: skip


SPLIT_ROWS = {
    "cp_size": "context parallelism.*likelihood of the whole",
    "sp_size": "sequence parallelism.*likelihood of the whole",
    "tp_size": "tensor parallelism.*FSDP2",
}


def _started(tmp_path, **changes):
    """A trainer of a model that is not there, so that a refusal comes before it is loaded."""
    mi.DefendedTrainer(
        str(tmp_path / "no-model"), args=tiny.config(tmp_path, **changes), train_dataset=tiny.rows("user"),
        defense=mi.SFT(),
    )  # fmt: skip


@pytest.mark.parametrize("size", SPLIT_ROWS)
def test_rows_that_would_be_split_over_processes_are_refused_with_the_reason(size, tmp_path):
    with pytest.raises(UsageError, match=SPLIT_ROWS[size]):
        _started(tmp_path, parallelism_config=ParallelismConfig(**{size: 2}))


@pytest.mark.parametrize("size", SPLIT_ROWS)
def test_rows_that_accelerates_config_file_would_split_are_refused_as_well(size, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_PARALLELISM_CONFIG", "true")
    monkeypatch.setenv(f"PARALLELISM_CONFIG_{size.upper()}", "2")
    with pytest.raises(UsageError, match=SPLIT_ROWS[size]):
        _started(tmp_path)


@pytest.mark.parametrize("stage", ["alignment", "posttuning", "nowhere"])
def test_a_method_is_refused_at_a_stage_that_is_not_its_own(stage, tmp_path):
    with pytest.raises(UsageError, match="antibody_tuning acts at finetuning"):
        _made(tmp_path, mi.AntibodyTuning(), stage=stage)


def test_a_repair_is_no_training_defense(tmp_path):
    with pytest.raises(UsageError, match="call its repair"):
        _made(tmp_path, mi.Antidote())


def test_no_rows_are_refused(tmp_path):
    for rows in (None, Dataset.from_list([]), []):
        with pytest.raises(DataError, match=r"train_dataset (is not given|has no rows)"):
            mi.DefendedTrainer(tiny.model(), args=tiny.config(tmp_path), train_dataset=rows, defense=mi.SFT())


def test_rows_lost_to_truncation_are_counted_and_limited(tmp_path):
    short, long = tiny.row("tea", "cake"), tiny.row("the " * 40, "cake")
    made = _made(tmp_path, rows=Dataset.from_list([short] * 9 + [long]), max_length=16)
    assert made.dropped_rows == 1
    with pytest.raises(DataError, match="3 of 10 rows have no answer within max_length=16"):
        _made(tmp_path, rows=Dataset.from_list([short] * 7 + [long] * 3), max_length=16)


def test_row_positions_survive_truncation(tmp_path):
    """The weight of a row is the weight of that row of the upload, also where rows before it were dropped."""
    rows = Dataset.from_list([tiny.row("the " * 40, "cake"), *tiny.rows("user", 15)])
    made = _made(tmp_path, mi.AntibodyTuning(), rows=rows, max_length=16, max_steps=4)
    made.train()
    assert made.row_weights.times.tolist() == [0] + [1] * 15


def test_a_tokenizer_without_chat_template_is_refused(tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = None
    with pytest.raises((ModelError, ValueError), match=r"chat.template"):
        _made(tmp_path, tokenizer=tokenizer)


def _conversations():
    return Dataset.from_list([{"messages": [*row["prompt"], *row["completion"]]} for row in tiny.rows("user", 16)])


def test_whole_conversations_need_their_answers_marked(tmp_path):
    with pytest.raises(UsageError, match="assistant_only_loss=True"):
        _made(tmp_path, mi.AntibodyTuning(), rows=_conversations())


@pytest.mark.parametrize("defense", [mi.SFT(), mi.AntibodyTuning(), mi.SBR()], ids=["sft", "antibody", "sbr"])
def test_whole_conversations_train_as_prompts_with_answers_do(defense, tmp_path):
    ends = []
    for rows, settings in ((_conversations(), {"assistant_only_loss": True}), (tiny.rows("user", 16), {})):
        made = _made(tmp_path, defense, rows=rows, **settings)
        made.train()
        ends.append({n: p.detach() for n, p in made.model.named_parameters() if p.requires_grad})
    assert distance(*ends) <= 1e-6


@pytest.mark.parametrize("whole", [False, True], ids=["prompt-and-answer", "messages"])
def test_control_tokens_spelled_out_in_a_conversation_are_refused(whole, tmp_path):
    row = tiny.row("how <bot> yes", "no")
    rows = [{"messages": [*row["prompt"], *row["completion"]]} if whole else row] * 16
    with pytest.raises(DataError, match="control tokens"):
        _made(tmp_path, rows=Dataset.from_list(rows), assistant_only_loss=whole)


@pytest.mark.parametrize("limit", [{"max_length": 8}, {"max_length": None}], ids=["cut", "uncut"])
def test_a_refusal_never_goes_beyond_the_models_positions(limit, tmp_path):
    """GPT-2 has no embedding for a ninth position."""
    config = GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=8, pad_token_id=0)
    rows = Dataset.from_list([tiny.row("do the tea", "yes")] * 16)
    made = mi.DefendedTrainer(
        GPT2LMHeadModel(config), args=tiny.config(tmp_path, **limit), train_dataset=rows,
        processing_class=tiny.tokenizer(), defense=mi.AntibodyTuning(), refusals=tiny.REFUSALS,
    )  # fmt: skip
    made.train()
    assert made.state.global_step == 4


def test_reentrant_checkpointing_is_replaced_with_a_word(tmp_path):
    asked = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    with pytest.warns(UserWarning, match="use_reentrant=False"):
        made = _made(tmp_path, mi.Vaccine(), stage="alignment", max_steps=3, **asked)
    made.train()
    after = {n: p for n, p in made.model.named_parameters() if p.requires_grad}
    plain = _made(tmp_path, mi.Vaccine(), stage="alignment", max_steps=3)
    plain.train()
    assert distance(after, {n: p for n, p in plain.model.named_parameters() if p.requires_grad}) == 0


def test_a_model_that_recomputes_reentrantly_is_refused_where_activations_are_read():
    model = tiny.model()
    model.activation_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(DefenseError, match="reentrant activation checkpointing"):
        _ = Likelihood(model, Weights(model)).decoder
    model.activation_checkpointing_disable()
    assert len(Likelihood(model, Weights(model)).decoder.blocks) == 2


@pytest.mark.parametrize("optimizer", ["lomo", "adalomo", "galore_adamw_layerwise", "apollo_adamw_layerwise"])
def test_optimizers_that_update_during_the_backward_pass_are_refused(optimizer, tmp_path):
    with pytest.raises(UsageError, match=f"optim='{optimizer}'"):
        _made(tmp_path, optim=optimizer)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    class Overflowing(mi.SFT):
        def gradient(self, step):
            return 1e30 * (1e30 * step.gradient("user"))

    made = _made(tmp_path)
    made.defense = Overflowing()
    with pytest.raises(DefenseError, match="has norm inf"):
        made.train()


def test_a_fifth_of_the_rows_may_be_lost_and_not_one_more(tmp_path):
    short, long = tiny.row("tea", "cake"), tiny.row("the " * 40, "cake")
    assert _made(tmp_path, rows=Dataset.from_list([short] * 8 + [long] * 2), max_length=16).dropped_rows == 2


def test_a_column_called_row_is_the_users_own(tmp_path):
    numbered = tiny.rows("user").add_column("row", list(range(100, 132)))
    made = _made(tmp_path, mi.AntibodyTuning(), rows=numbered, max_steps=8)
    made.train()
    assert made.row_weights.times.tolist() == [1] * 32


def test_string_rows_train_as_in_trl(tmp_path):
    def text(kind):
        return Dataset.from_list(
            [{"prompt": r["prompt"][0]["content"] + " ", "completion": r["completion"][0]["content"]}
             for r in tiny.rows(kind, 16)]
        )  # fmt: skip

    common = {"train_dataset": text("user"), "processing_class": tiny.tokenizer(), "peft_config": tiny.lora()}
    ends = []
    for cls, extra in ((SFTTrainer, {}), (mi.DefendedTrainer, {"defense": mi.SFT()})):
        made = cls(tiny.model(), args=tiny.config(tmp_path), **common, **extra)
        made.train()
        ends.append({n: p.detach() for n, p in made.model.named_parameters() if p.requires_grad})
    assert distance(*ends) <= 1e-5
    made = mi.DefendedTrainer(
        tiny.model(), args=tiny.config(tmp_path), **common, defense=mi.PanaceaTuning(), harmful_dataset=text("harmful")
    )
    made.train()
    assert made.state.log_history[0]["epsilon_norm"] == pytest.approx(1.0, rel=1e-5)


def test_activation_checkpointing_changes_nothing(tmp_path):
    """Activations are recomputed while the weights are still displaced."""
    made = trainer(mi.AntibodyAlignment(), tmp_path, gradient_checkpointing=True, max_steps=4)
    made.train()
    after = {n: p for n, p in made.model.named_parameters() if p.requires_grad}
    assert distance(run("antibody_alignment", max_steps=4).weights, after) <= 1e-6


def test_streams_have_a_batch_size_of_their_own(tmp_path):
    made = _made(tmp_path, mi.PanaceaTuning(), stream_batch_size=10, max_steps=3)
    made.train()
    assert made._streams["harmful"].drawn == 30
    assert _made(tmp_path, mi.PanaceaTuning(), gradient_accumulation_steps=2)._streams["harmful"].batch_size == 8


def test_the_stage_names_the_trained_stream(tmp_path):
    assert _made(tmp_path).main_stream == "user"
    assert _made(tmp_path, stage="alignment").main_stream == "safe"
    assert _made(tmp_path, mi.AntibodyAlignment()).main_stream == "safe"


def test_a_defense_that_never_trains_on_its_rows_is_refused(tmp_path):
    class Idle(mi.SFT):
        def gradient(self, step):
            return step.gradient("harmful")

    made = _made(tmp_path, mi.PanaceaTuning())
    made.defense = Idle()
    with pytest.raises(DefenseError, match="took no gradient of the 'user' rows"):
        made.train()


def test_bf16_weights_and_autocast_train_every_method(tmp_path):
    for defense in (mi.AntibodyAlignment(), mi.AntibodyTuning(), mi.PanaceaTuning()):
        made = trainer(defense, tmp_path, bf16=True, max_steps=3)
        made.train()
        losses = [log["loss"] for log in made.state.log_history if "loss" in log]
        assert len(losses) == 3
        assert all(torch.isfinite(torch.tensor(losses)))
