"""Names of models: what looks like a folder is a folder, and what is wrong with it is said first."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from mithridate.cli.models import open_model
from mithridate.errors import JudgeError, ModelError
from mithridate.evaluation.judges import ClassifierJudge
from mithridate.model_names import locate
from mithridate.models.loading import Where, load, where_named
from tests.helpers import tiny


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    tiny.model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def home(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with models/good, in which every look-up in a hub fails the test."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved, "models/good")
    return tmp_path


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        pytest.fail("a library was asked for a model that is not there")

    for kind in (AutoTokenizer, AutoModelForCausalLM, AutoModelForSequenceClassification):
        monkeypatch.setattr(kind, "from_pretrained", never)


@pytest.mark.parametrize("name", ["org/name", "name", "org/name.v1_b-2", "meta-llama/Llama-2-7b-hf"])
def test_hub_ids_are_left_as_they_are(home: Path, name: str) -> None:
    assert locate(name) == name


def test_a_folder_is_found_by_path_and_variable(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MITHRIDATE_DATA", str(home))
    monkeypatch.setenv("HOME", str(home))
    assert locate("models/good", tokenizer=True) == "models/good"
    assert locate("$MITHRIDATE_DATA/models/good") == locate("~/models/good") == str(home / "models/good")
    assert where_named("~/models/good") == Where(str(home / "models/good"), None)


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_said(home: Path, monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("MITHRIDATE_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("MITHRIDATE_DATA", value)
    with pytest.raises(
        ModelError, match=r"^\$MITHRIDATE_DATA/m uses \$MITHRIDATE_DATA, which is not set; set MITHRIDA"
    ):
        locate("$MITHRIDATE_DATA/m")


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("models/goo", "not a model folder: it does not exist; did you mean .*/models/good"),
        ("./nowhere", "does not exist; .* holds the folders models$"),
        ("../nowhere", "does not exist"),
        ("/nowhere/model", "does not exist; / holds the folders"),
        ("~/nowhere", "does not exist"),
        ("~nobody-of-this-name/x", "is not a path; give a folder or a hub id"),
        ("a/b/c", "does not exist"),
        ("models\\good", "does not exist; did you mean .*/models"),
        ("my model", "does not exist"),
        ("models", "it lacks config.json and weights"),
        ("models/good/config.json", "but a file; give the folder that holds config.json"),
        ("", "the model's name is ''; give a folder or a hub id"),
        ("a\0b", "give a folder or a hub id"),
        ("x" * 300, "is not a path"),
        ("miniature:bse", "the embedded model is called 'miniature:base'"),
    ],
)
def test_what_looks_like_a_folder_is_never_asked_of_a_hub(home: Path, name: str, message: str) -> None:
    for use in (locate, lambda given: open_model(given, None), lambda given: load(Where(given, None), "float32")):
        with pytest.raises(ModelError, match=message) as caught:
            use(name)
        assert "\n" not in str(caught.value)
    with pytest.raises(JudgeError, match=message):
        ClassifierJudge(name)


def _without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def _with(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def _headless(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _narrow(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": "wide"}))


DAMAGE = {
    "no config": (_without("config.json"), "it lacks config.json; save it again with save_pretrained"),
    "no weights": (_without("model.safetensors"), r"it lacks weights \(\*\.safetensors\)"),
    "no tokenizer": (_without("tokenizer.json", "tokenizer_config.json"), "it lacks a tokenizer"),
    "no template": (_without("chat_template.jinja"), "has no chat template; give --template alpaca"),
    "config cut short": (_with("config.json", b"{"), r"config\.json cannot be read"),
    "config of bytes": (_with("config.json", b"\xff\0"), r"config\.json cannot be read"),
    "config list": (_with("config.json", b"[]"), r"config\.json holds a list, not settings"),
    "config depth": (_with("config.json", b"[" * 100_000), r"config\.json cannot be read"),
    "config of nothing": (_with("config.json", b"{}"), "cannot be loaded"),
    "config of another type": (_narrow, "cannot be loaded .*hidden_size"),
    "tokenizer list": (_with("tokenizer.json", b"[]"), r"tokenizer\.json holds a list"),
    "tokenizer settings": (_with("tokenizer_config.json", b"[]"), r"tokenizer_config\.json holds a list"),
    "garbage weights": (_with("model.safetensors", b"garbage"), "cannot be loaded"),
    "no head": (_headless, r"not a complete causal language model: its checkpoint lacks lm_head\.weight"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_folder_is_one_sentence(home: Path, case: str) -> None:
    damage, message = DAMAGE[case]
    damage(home / "models/good")
    with pytest.raises(ModelError, match=message) as caught:
        open_model("models/good", None)
    assert "\n" not in str(caught.value)


def test_an_adapter_names_its_base(home: Path) -> None:
    get_peft_model(tiny.model(), tiny.lora()).save_pretrained("adapter")
    config = Path("adapter/adapter_config.json")
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"base_model_name_or_path": "models/good"}))
    assert where_named("adapter") == Where("models/good", "adapter")
    open_model("adapter", None)
    with pytest.raises(ModelError, match="adapter holds a LoRA adapter and no whole model"):
        locate("adapter")
    for base, message in (
        ("./gone", "the base that .* names: gone is not a model folder"),
        (None, "names no base model"),
    ):
        config.write_text(json.dumps(settings | {"base_model_name_or_path": base}))
        with pytest.raises(ModelError, match=message):
            where_named("adapter")
    for content, message in (("[]", "holds a list"), ("{", "cannot be read")):
        config.write_text(content)
        with pytest.raises(ModelError, match=message):
            where_named("adapter")
    config.write_text(json.dumps(settings | {"base_model_name_or_path": "models/good"}))
    Path("adapter/adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="it lacks adapter_model"):
        where_named("adapter")
