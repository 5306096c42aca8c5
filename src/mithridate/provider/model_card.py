"""The card of a released model, with the metadata that the Hugging Face hub reads."""

from mithridate.provider.decision import Decision

PROOF = "`mithridate verify` compares these files with those that were judged."
"""Last line of every card; by it a released model is known wherever it lies."""


FORMS = {"merged": "whole", "int8": "quantized to 8 bits (LLM.int8)", "int4": "quantized to 4 bits (NF4)"}


def model_card(decision: Decision) -> str:
    """Return the card: what the model is, who judged it, and what was measured."""
    assert decision.released is not None
    rung = next(one for one in decision.rungs if one.name == decision.released)
    assert rung.figures is not None
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags:",
        "- mithridate",
        "- safety",
        "---",
        "",
        f"# Tuned under the policy {decision.policy.name}",
        "",
        f"Tuned on {_tuned_on(decision)}, made fit for release by "
        f"'{decision.released}', and judged before it left. Request `{decision.request[:20]}`.",
        f"The weights are {FORMS[decision.form]}, and were judged as such.",
        "",
        "| Figure | Measured | 95 % interval | Answers |",
        "|---|---:|---:|---:|",
    ]
    named = {f"Harmful score ({name})": share for name, share in rung.figures.harmful_score.items()}
    named |= {"Over-refusal": rung.figures.over_refusal, "Helpfulness": rung.figures.helpfulness}
    if rung.figures.finetune_accuracy is not None:
        named["Accuracy on held-out rows"] = rung.figures.finetune_accuracy
    lines += [
        f"| {name} | {100 * share.value:.1f} % | {100 * share.low:.1f} to {100 * share.high:.1f} % | {share.n:,} |"
        for name, share in named.items()
    ]
    lines += ["", PROOF, ""]
    return "\n".join(lines)


def _tuned_on(decision: Decision) -> str:
    count = decision.upload.rows - decision.upload.held_out
    # No defense acts in tuning on preferences.
    return f"{count:,} preference pairs (DPO)" if decision.on_pairs else f"{count:,} rows with defenses"
