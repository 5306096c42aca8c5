"""Makes the judge that is named on the command line."""

import re

from mithridate.errors import UsageError
from mithridate.evaluation.judges import ChatJudge, ClassifierJudge, GuardJudge, Judge, RefusalJudge
from mithridate.evaluation.judges.endpoint import is_local
from mithridate.evaluation.judges.guard_forms import FORMS
from mithridate.models.loading import device
from mithridate.nearest import nearest

# The port may be given or not; the path has no colon, the model's name may have one. The quantifiers are possessive, so
# that a port is never given back and taken for the model.
_ADDRESS = re.compile(r"(?P<url>https?://(?:\[[^\]\s]+\]|[^/:\s]+)(?::\d++)?+(?:/[^:\s]*)?):(?P<model>\S.*)")


def judge_named(name: str, key_env: str | None = None) -> Judge:
    """Return a judge from ``refusal``, ``classifier:MODEL``, ``guard:[FORM:]MODEL`` or ``chat:URL:MODEL``.

    A guard behind an endpoint is ``guard:[FORM:]URL:MODEL``. A local endpoint gets no key and any other the one in
    ``OPENAI_API_KEY``, unless `key_env` names a variable.

    Raises:
        UsageError: If the name has another form, or the variable of a key is not set.
    """
    kind, _, rest = name.partition(":")
    address = _ADDRESS.fullmatch(rest)
    if key_env is not None and kind in ("refusal", "classifier"):
        raise UsageError(f"--judge-key-env has no effect with --judge {kind}; leave it out")
    if kind == "refusal" and not rest:
        return RefusalJudge()
    if kind == "classifier" and rest:
        return ClassifierJudge(rest, device=device())
    if kind == "guard" and rest:
        return _guard(rest, key_env)
    if kind == "chat" and address:
        return ChatJudge(address["url"], address["model"], api_key_env=_key_of(address["url"], key_env))
    near = nearest(kind, ("refusal", "classifier", "guard", "chat"))
    hint = f"; did you mean '{near}'?" if near and near != kind else ""
    raise UsageError(
        f"--judge is {name!r}; give refusal, classifier:MODEL, guard:[FORM:]MODEL, guard:[FORM:]URL:MODEL or "
        f"chat:URL:MODEL{hint}"
    )


def _guard(rest: str, key_env: str | None) -> GuardJudge:
    # Only a known family is taken for one: the model's name or its URL may begin with a word and a colon too.
    start, _, behind = rest.partition(":")
    form, rest = (start, behind) if start in FORMS else (None, rest)
    address = _ADDRESS.fullmatch(rest)
    if address is None:
        if key_env is not None:
            raise UsageError("--judge-key-env has no effect with a guard that runs here; leave it out")
        return GuardJudge(rest, form, device=device())
    url = address["url"]
    return GuardJudge(address["model"], form, base_url=url, api_key_env=_key_of(url, key_env))


def _key_of(url: str, key_env: str | None) -> str | None:
    # A key that happens to be set must not go to whatever listens on this machine.
    return key_env if key_env is not None or is_local(url) else "OPENAI_API_KEY"
