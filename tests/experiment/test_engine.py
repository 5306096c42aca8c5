"""A whole run on a tiny model: sharing, repeating, adapters, files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import mithridate as mi
from mithridate.errors import CheckpointError, DataError, UsageError
from mithridate.experiment.identity import model_identity
from mithridate.files import file_hash
from tests.matrix.row import thinned

CHAIN = {
    "name": "chain",
    "alignment": "antibody_alignment",
    "finetuning": "antibody_tuning",
    "posttuning": [{"method": "antidote", "mask_ratio": 0.2}, {"method": "panacea", "radius": 0.5}],
}


def stages(folder: Path) -> list[str]:
    return sorted(path.name.split("-")[0] for path in (folder / "store").iterdir() if path.is_dir())


def test_variants_share_stages_and_a_second_run_does_nothing(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["variants"] += [{"name": "repaired", "posttuning": {"method": "panacea", "radius": 0.5}}, CHAIN]
    tree["seeds"] = [0, 1]
    first = mi.run(tree, tmp_path)
    assert stages(tmp_path).count("alignment") == 2  # SFT's and Antibody's, shared by both seeds
    assert stages(tmp_path).count("finetuning") == 4  # two defenses at two seeds
    assert stages(tmp_path).count("posttuning") == 6
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("result.json")}
    second = mi.run(tree, tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("result.json")}
    assert [v.harmful_score for v in first.variants] == [v.harmful_score for v in second.variants]
    tree["variants"][1]["posttuning"]["radius"] = 0.7
    mi.run(tree, tmp_path)
    assert stages(tmp_path).count("finetuning") == 4
    assert stages(tmp_path).count("posttuning") == 8


@pytest.mark.usefixtures("drawn")
def test_results_and_manifest_hold_what_the_design_names(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["variants"].append(CHAIN)
    mi.run(tree, tmp_path, command="mithridate run tiny.yaml")
    results = json.loads((tmp_path / "results.json").read_text())
    chain = next(v for v in results["variants"] if v["name"] == "chain")
    for score in ("harmful_score", "harmful_score_plus", "finetune_accuracy", "over_refusal"):
        assert 0 <= chain[score]["low"] <= chain[score]["value"] <= chain[score]["high"] <= 1
    assert chain["harmful_score"]["n"] == 6
    assert chain["posttuning"] == "antidote + panacea"
    assert chain["cost"]["alignment"]["passes"] == {"forward": 4, "backward": 4}
    assert chain["cost"]["finetuning"]["seconds"] > 0
    assert chain["cost"]["finetuning"]["peak_bytes"] > 0
    assert chain["activity"]["antibody_alignment.extra_gradient_norm"] > 0
    assert len(chain["row_weights"]["rows"]) == 12  # 16 rows, 4 held out
    assert {row["harmful"] for row in chain["row_weights"]["rows"]} == {True, False}
    assert chain["layer_profiles"][0]["layers"] == ["0", "1"]
    report = (tmp_path / "report.html").read_text()
    assert "mithridate run tiny.yaml" in report
    assert "<script" not in report
    folder = tmp_path / chain["folders"][0]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["recipe"]["name"] == "tiny"
    assert manifest["world_size"] == 1
    assert manifest["hashes"]["inputs"]["safe"]
    assert [stage["stage"] for stage in manifest["stages"]] == ["alignment", "finetuning", "posttuning", "posttuning"]
    assert manifest["files"]["model.safetensors"] == file_hash(folder / "model.safetensors")
    assert "row_weights.jsonl" in manifest["files"]
    AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("adapter", thinned(["continue", "fresh", "none"], ["fresh", "none"]))
def test_every_adapter_mode_moves_only_what_it_should(tree: dict[str, Any], tmp_path: Path, adapter: str) -> None:
    tree |= {"adapter": adapter, "save": "adapter"}
    scope = "weights" if adapter == "none" else "adapter"
    repairs = [{"method": "antidote", "mask_ratio": 0.2, "scope": scope}, {"method": "panacea", "radius": 0.5}]
    tree["variants"] = [CHAIN | {"name": "undefended", "posttuning": repairs}]
    mi.run(tree, tmp_path)
    folder = tmp_path / "variants/undefended/seed-0"
    tuned = [path for path in (tmp_path / "store").glob("finetuning-*/*") if path.name in ("model", "adapter")]
    assert [path.name for path in tuned] == ["model" if adapter == "none" else "adapter"]
    aligned = [path for path in (tmp_path / "store").glob("alignment-*/*") if path.name in ("model", "adapter")]
    assert [path.name for path in aligned] == ["adapter" if adapter == "continue" else "model"]
    assert (folder / "adapter_model.safetensors").is_file() == (adapter != "none")
    assert (folder / "model.safetensors").is_file() == (adapter == "none")  # nothing else is there to be served


def test_a_model_is_known_by_all_files_that_decide_what_it_answers(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"w")
    known = [model_identity(str(tmp_path))]
    for name in ("tokenizer.model", "merges.txt", "chat_template.jinja"):
        (tmp_path / name).write_text("x")
        known.append(model_identity(str(tmp_path)))
    assert len({json.dumps(identity) for identity in known}) == 4
    (tmp_path / "README.md").write_text("x")
    assert model_identity(str(tmp_path)) == known[-1]


def test_merged_folder_answers_like_base_and_adapter(tree: dict[str, Any], tmp_path: Path) -> None:
    mi.run(tree, tmp_path)
    store = tmp_path / "store"
    base, adapter = next(store.glob("alignment-*/model")), next(store.glob("finetuning-*/adapter"))
    apart = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "variants/undefended/seed-0")
    ids = torch.arange(5, 20)[None]
    torch.testing.assert_close(apart(ids).logits, merged(ids).logits, atol=1e-5, rtol=1e-5)


def test_two_processes_at_a_time_give_the_same_bits(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["seeds"] = [0, 1]
    mi.run(tree, tmp_path / "one")
    mi.run(tree, tmp_path / "two", jobs=2)
    for seed in tree["seeds"]:
        name = f"variants/undefended/seed-{seed}/model.safetensors"
        assert file_hash(tmp_path / "one" / name) == file_hash(tmp_path / "two" / name)


def test_auto_strength_stays_within_the_budget_and_shows_its_curve(tree: dict[str, Any], tmp_path: Path) -> None:
    panacea = {"method": "panacea", "strength": "auto", "budget": 0.02, "safe_budget": 9.0}
    tree["variants"].append({"name": "auto", "posttuning": panacea})
    curve = mi.run(tree, tmp_path).variants[1].dose_curves[0]
    chosen = next(point for point in curve.points if point.dose == curve.chosen)
    assert chosen.rise is not None
    assert chosen.rise <= 0.02
    beyond = [point for point in curve.points if point.dose > chosen.dose]
    assert beyond
    assert all(point.rise is not None and point.rise > 0.02 for point in beyond)


def test_auto_strength_stays_within_the_budget_of_the_safe_rows_too(tree: dict[str, Any], tmp_path: Path) -> None:
    panacea = {"method": "panacea", "strength": "auto", "budget": 9.0, "safe_budget": 0.02}
    tree["variants"].append({"name": "auto", "posttuning": panacea})
    curve = mi.run(tree, tmp_path).variants[1].dose_curves[0]
    assert curve.safe_budget == 0.02
    chosen = next(point for point in curve.points if point.dose == curve.chosen)
    assert chosen.safe_rise is not None
    assert chosen.safe_rise <= 0.02
    beyond = [point for point in curve.points if point.dose > chosen.dose]
    assert beyond
    assert all(point.safe_rise is not None and point.safe_rise > 0.02 for point in beyond)


def test_auto_without_held_out_rows_is_refused_before_any_work(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["streams"]["user"]["held_out"] = 0
    tree["variants"].append({"name": "auto", "posttuning": {"method": "antidote", "strength": "auto"}})
    with pytest.raises(UsageError, match=r"set streams\.user\.held_out"):
        mi.run(tree, tmp_path)
    assert not (tmp_path / "store").exists()


def test_a_repair_that_needs_an_adapter_is_refused_before_any_work(tree: dict[str, Any], tmp_path: Path) -> None:
    tree |= {"adapter": "none", "variants": [CHAIN | {"name": "undefended"}]}
    with pytest.raises(UsageError, match="set its scope to 'weights'"):
        mi.run(tree, tmp_path)


def test_an_altered_stage_is_refused(tree: dict[str, Any], tmp_path: Path) -> None:
    mi.run(tree, tmp_path)
    weights = next((tmp_path / "store").glob("finetuning-*/adapter/adapter_model.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="altered or cut"):
        mi.run(tree, tmp_path)


def test_overlap_between_attack_and_evaluation_names_a_row(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["evaluation"]["harmful"] = tree["streams"]["user"]["harmful"]
    with pytest.raises(DataError, match=r"attack\.jsonl:1"):
        mi.run(tree, tmp_path)


def test_nan_weights_are_refused(tree: dict[str, Any], tmp_path: Path, world: Path) -> None:
    broken = tmp_path / "broken"
    model = AutoModelForCausalLM.from_pretrained(world / "model")
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    model.save_pretrained(broken)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (broken / name).write_bytes((world / "model" / name).read_bytes())
    with pytest.raises(mi.errors.ModelError, match=r"hold NaN or Inf \(model\.norm\.weight\)"):
        mi.run(tree | {"model": str(broken)}, tmp_path / "out")
    assert not (tmp_path / "out/results.json").exists()


def test_displacement_gives_the_weights_before_back(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["variants"] = [{"name": "undefended", "posttuning": {"method": "panacea", "radius": 0.5}}]
    mi.run(tree | {"save": "adapter"}, tmp_path)
    tuned = load_file(next((tmp_path / "store").glob("finetuning-*/adapter/adapter_model.safetensors")))
    kept = load_file(tmp_path / "variants/undefended/seed-0/displacement.safetensors")
    base = {name.removeprefix("base/").replace(".default", ""): t for name, t in kept.items() if "base/" in name}
    assert base.keys() == tuned.keys()
    assert all(torch.equal(base[name], tuned[name]) for name in tuned)


COMPARING = ["lox", "resta", {"method": "safe_lora", "layers": 2}, {"method": "safe_delta", "scale": 0.5}, "wise_ft"]


@pytest.mark.parametrize("adapter", thinned(["continue", "fresh", "none"], ["fresh"]))
def test_repairs_compare_with_the_models_before(tree: dict[str, Any], tmp_path: Path, adapter: str) -> None:
    """The aligned model is the alignment stage's, the base the recipe's, whatever else was repaired before."""
    back = [{"method": "panacea", "radius": 0.5}, {"method": "wise_ft", "alpha": 0.0}]
    further = [{"method": "wise_ft", "alpha": 0.0}, {"method": "resta", "strength": 1.0}]
    tree |= {"adapter": adapter, "reference": None}
    tree["variants"] = [
        {"name": "aligned", "finetuning": "none"},
        {"name": "back", "posttuning": back},
        {"name": "further", "posttuning": further},
        {"name": "unaligned", "alignment": "none", "posttuning": {"method": "wise_ft", "alpha": 0.0}},
        *({"name": f"v{place}", "posttuning": repair} for place, repair in enumerate(COMPARING)),
    ]
    results = mi.run(tree, tmp_path)
    weights = {v.name: load_file(tmp_path / v.folders[0] / "model.safetensors") for v in results.variants}
    base = AutoModelForCausalLM.from_pretrained(tree["model"]).state_dict()
    moved = 0.0
    for name, aligned in weights["aligned"].items():
        torch.testing.assert_close(weights["back"][name], aligned, atol=1e-6, rtol=0)
        torch.testing.assert_close(weights["unaligned"][name], base[name], atol=1e-6, rtol=0)
        torch.testing.assert_close(weights["further"][name], 2 * aligned - base[name], atol=2e-6, rtol=0)
        moved = max(moved, float((aligned - base[name]).abs().max()))
    assert moved > 1e-3
    assert all(v.activity for v in results.variants if v.name.startswith("v"))


@pytest.mark.parametrize("adapter", thinned(["fresh", "none"], ["fresh"]))
def test_a_safety_prompt_is_served_and_not_trained(tree: dict[str, Any], tmp_path: Path, adapter: str) -> None:
    prompt = "no i"
    ptst = {"method": "ptst", "prompt": prompt}
    tree |= {"adapter": adapter, "reference": None}
    tree["variants"] = [
        {"name": "plain"},
        {"name": "served", "finetuning": ptst},
        {"name": "repaired", "finetuning": ptst, "posttuning": {"method": "wise_ft", "alpha": 0.5}},
    ]
    variants = {variant.name: variant for variant in mi.run(tree, tmp_path).variants}
    folders = {name: tmp_path / variant.folders[0] for name, variant in variants.items()}
    plain, served = (load_file(folders[name] / "model.safetensors") for name in ("plain", "served"))
    assert all(torch.equal(served[name], weight) for name, weight in plain.items())
    shown = {
        name: AutoTokenizer.from_pretrained(folder).apply_chat_template(
            [{"role": "user", "content": "a"}], tokenize=False
        )
        for name, folder in folders.items()
    }
    assert [shown[name].count(prompt) for name in ("plain", "served", "repaired")] == [0, 1, 1]
    answers = {name: [sample.answer for sample in variant.samples] for name, variant in variants.items()}
    assert answers["plain"] != answers["served"], "the evaluation did not use the served prompt"


def test_overrides_without_a_file_are_refused(tree: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="overrides apply to a recipe file only"):
        mi.run(tree, tmp_path, overrides=["seed=3"])
