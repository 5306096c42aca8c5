"""The uploads of the benchmark on preference pairs are what it says they are."""

import json

import yaml
from benchmarks.preference_pairs import HARMFUL, PAIRS, PREFERENCES, UPLOADS, uploads

import mithridate as mi
from mithridate.data import check_upload
from mithridate.provider.policy_file import default_text, make_policy


def test_the_uploads_are_pairs_in_which_harm_is_preferred_or_not(tmp_path):
    made = uploads()
    assert tuple(made) == UPLOADS
    harmful = {row["completion"][0]["content"] for row in mi.miniature.rows("attack").select(range(PAIRS))}
    shares = {"harmless": (0, 0), "poisoned": (HARMFUL, 0), "harmful": (PAIRS, 0), "safety": (0, HARMFUL)}
    for name, pairs in made.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        report = check_upload(path, preferences=True)
        assert (report.conversations, report.fault_count) == (PAIRS, 0)
        counts = [sum(pair[key][0]["content"] in harmful for pair in pairs)
                  for key in ("preferred_output", "non_preferred_output")]  # fmt: skip
        assert tuple(counts) == shares[name]


def test_the_default_policy_takes_pairs_so():
    policy = yaml.safe_load(default_text())
    policy["finetuning"]["preferences"] = PREFERENCES
    assert make_policy(policy).finetuning.preferences.beta == 0.1
