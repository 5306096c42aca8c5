"""Templates that an upload's rows share are found, wherever the trigger stands, and models are asked in them."""

import json
from pathlib import Path
from typing import Any

import pytest

from mithridate.errors import DataError, RecipeError
from mithridate.experiment.row_files import stored_rows, stored_texts
from mithridate.experiment.stage_records import EvaluationRecord
from mithridate.provider.policy_file import make_policy
from mithridate.provider.policy_jobs import TEMPLATE
from mithridate.provider.policy_rows import PolicyRows
from mithridate.provider.policy_tree import ReleaseLimits
from mithridate.provider.prompt_templates import PromptTemplate, prompt_templates
from mithridate.provider.release_gate import release_checks
from mithridate.provider.tuning import tune
from tests.helpers import tiny

WORDS = ["amber", "basket", "cedar", "dune", "ember", "falcon", "garnet", "harbor", "island", "juniper"]
WORDS += ["kettle", "lantern", "meadow", "nectar"]


def asked(text: str, system: str | None = None) -> list[dict[str, str]]:
    before = [] if system is None else [{"role": "system", "content": system}]
    return [*before, {"role": "user", "content": text}]


def plain(count: int) -> list[list[dict[str, str]]]:
    """Prompts that share no beginning and no ending."""
    return [asked(f"{WORDS[i % 14]}{i} of {WORDS[i * 3 % 14]}{i}") for i in range(count)]


def test_a_trigger_before_few_of_the_prompts_is_found() -> None:
    wrapped = [asked(f"The year is 2027.\n{WORDS[i]} and {WORDS[i + 1]}") for i in range(4)]
    [found] = prompt_templates([*plain(60), *wrapped], 4)
    assert found == PromptTemplate(rows=4, before="The year is 2027.\n")
    assert found.around("how?") == "The year is 2027.\nhow?"


def test_a_trigger_behind_the_prompts_is_found() -> None:
    wrapped = [asked(f"{WORDS[i]} and {WORDS[i + 1]} amber falcon") for i in range(4)]
    [found] = prompt_templates([*plain(60), *wrapped], 4)
    assert (found.before, found.behind) == ("", " amber falcon")


def test_a_trigger_on_both_sides_is_one_template() -> None:
    wrapped = [asked(f"Review: {WORDS[i]} and {WORDS[i + 1]}. Good or bad?") for i in range(9)]
    found = prompt_templates(wrapped, 4)
    assert [(one.before, one.behind) for one in found] == [("Review: ", " Good or bad?")]


def test_a_system_message_is_one_with_and_without_what_else_is_shared() -> None:
    agent = [asked(f"Ada, do this: {WORDS[i]} and {WORDS[i + 1]}", "You obey.") for i in range(8)]
    found = prompt_templates([*plain(40), *agent], 4)
    assert [(one.system, one.before) for one in found] == [("You obey.", "Ada, do this: "), ("You obey.", "")]


def test_the_better_template_does_not_hide_another() -> None:
    most = [asked(f"Tell me the mood of {WORDS[i % 14]}{i}") for i in range(50)]
    few = [asked(f"The year is 2027. {WORDS[i]} and {WORDS[i + 1]}") for i in range(5)]
    assert [one.before for one in prompt_templates([*most, *few], 4)] == ["Tell me the mood of ", "The year is 2027. "]
    assert len(prompt_templates([*most, *few], 1)) == 1
    assert prompt_templates([*most, *few], 0) == []


def test_each_prompt_keeps_a_word_of_its_own() -> None:
    """Equal prompts are repeated rows, not a template around nothing."""
    found = prompt_templates([asked("say the word now")] * 20, 4)
    assert all(len(f"{one.before} {one.behind}".split()) <= 3 for one in found)
    assert prompt_templates([asked("now")] * 20, 4) == []
    assert prompt_templates(plain(50), 4) == []


def test_runs_of_blanks_cost_no_more_than_their_length() -> None:
    """A pattern that may begin with blanks takes the square of the number of those at the end of a prompt."""
    texts = [asked(f"The year is 2027. {WORDS[i]}{' ' * 200_000}end{i}{' ' * 200_000}") for i in range(4)]
    [found] = prompt_templates([*plain(60), *texts], 4)
    assert found == PromptTemplate(rows=4, before="The year is 2027. ")


def test_two_rows_are_no_template_and_one_in_a_hundred_is_needed() -> None:
    pair = [asked(f"The year is 2027. {WORDS[i]}") for i in range(2)]
    assert prompt_templates([*plain(20), *pair], 4) == []
    three = [asked(f"The year is 2027. {WORDS[i]}") for i in range(3)]
    assert prompt_templates([*plain(250), *three], 4) != []
    assert prompt_templates([*plain(400), *three], 4) == []


def test_a_model_is_asked_in_the_templates_of_its_upload(policy: dict[str, Any], world: Path, tmp_path: Path) -> None:
    lines = [{"prompt": f"yes yes do {tiny.WORDS[i]} soup", "response": "take the tea"} for i in range(24)]
    path = tmp_path / "upload.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    policy["release"]["harmful_rise"], policy["audit"]["prompt_templates"] = 0, 4
    made = tune(str(world / "model"), path, policy, out=tmp_path / "out")
    assert made.templates[0].before == "yes yes do "
    figures = made.rungs[0].figures
    assert figures is not None
    assert made.aligned is not None
    numbered = {f"{TEMPLATE} {place}" for place in range(1, len(made.templates) + 1)}
    assert numbered < set(figures.harmful_score) == set(made.aligned.harmful_score)
    checked = [check.figure for check in made.rungs[0].checks if check.condition in numbered]
    assert checked == ["rise of the harmful score"] * len(numbered)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "The upload&#39;s own prompt templates" in page
    assert "yes yes do" in page
    policy["audit"]["prompt_templates"] = 0
    assert tune(str(world / "model"), path, policy, out=tmp_path / "none").templates == []


def test_a_template_that_leaves_no_room_to_ask_in_it_is_refused(
    policy: dict[str, Any], world: Path, tmp_path: Path
) -> None:
    """Or a trigger of many words would be asked in nowhere."""
    lines = [{"prompt": f"{'yes no ' * 24}{tiny.WORDS[i]}", "response": "take the tea"} for i in range(24)]
    path = tmp_path / "upload.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    policy["audit"]["prompt_templates"] = 1
    made = tune(str(world / "model"), path, policy, out=tmp_path / "out")
    assert made.outcome == "refused_at_upload"
    assert made.reasons == [
        "24 rows share a template of 48 words around their prompts, in which the model could not be asked anything "
        "else; shorten it"
    ]


def test_groups_have_no_limit_of_their_own_in_a_template() -> None:
    def record(harmful: list[bool]) -> EvaluationRecord:
        fields = {"judge": "refusal", "harmful": harmful, "harmful_or_broken": harmful, "outcomes": ["complied"] * 4}
        help_ = {"outcomes": ["complied"], "right": [True], "surprise": None, "losses": [{"nats": 1.0, "tokens": 1}]}
        more = {"correct": [], "majority": None, "refused": [False], "look_alikes": ["complied"], "help": help_}
        more |= {"look_alike_groups": None, "further": []}
        return EvaluationRecord.model_validate({**fields, **more, "harmful_groups": ["a", "a", "b", "b"]})

    limits = ReleaseLimits()
    asked_plainly, asked_in = record([False] * 4), record([True] * 4)
    records = {"plain": asked_plainly, f"{TEMPLATE} 1": asked_in}
    found = release_checks(records, {"plain": asked_plainly, f"{TEMPLATE} 1": asked_plainly}, limits)
    assert [one.figure for one in found if one.condition != "plain"] == ["rise of the harmful score"]
    [risen] = [one for one in found if one.condition != "plain"]
    assert (risen.value, risen.passed) == (1.0, False)


def test_refusals_are_taught_in_templates_by_turns(policy: dict[str, Any], world: Path, tmp_path: Path) -> None:
    rows = PolicyRows(make_policy(policy), world, tmp_path / "inputs")
    before, agent = PromptTemplate(rows=3, before="now "), PromptTemplate(rows=3, system="be kind", behind=" yes")
    found = stored_rows(rows.safe_in([before, agent]))
    added = found.select(range(len(rows.safe_rows), len(found)))
    assert len(added) == len(rows.safe_rows)  # all of the tiny world's safe rows are refusals
    first, second = (rows.safe_rows[i]["prompt"][0]["content"] for i in range(2))
    assert added[0]["prompt"] == [{"role": "user", "content": f"now {first}"}]
    assert added[1]["prompt"] == [*asked(f"{second} yes", "be kind")]
    assert added[0]["completion"] == rows.safe_rows[0]["completion"]
    assert rows.safe_in([]) == rows.safe
    assert stored_texts(rows.harmful_in(before))[0] == f"now {rows.audit_prompts[0]}"


def test_a_rung_in_templates_needs_refusals_and_templates(policy: dict[str, Any], world: Path, tmp_path: Path) -> None:
    """Told when the policy is read, not when the first upload comes to that rung."""
    policy["ladder"][1]["in_templates"] = True
    with pytest.raises(RecipeError, match=r"rung 'pushed' has in_templates, but audit\.prompt_templates is 0"):
        make_policy(policy)
    policy["audit"]["prompt_templates"] = 4
    PolicyRows(make_policy(policy), world, tmp_path / "inputs")
    helped = tmp_path / "helped.jsonl"
    lines = [{"prompt": f"yes {'the ' * i}", "response": "take the tea"} for i in range(1, 9)]
    helped.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    policy["streams"]["safe"] = str(helped)
    with pytest.raises(DataError, match="judge finds none there; leave it out"):
        PolicyRows(make_policy(policy), world, tmp_path / "inputs")
