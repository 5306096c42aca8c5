"""Where vLLM stands: in an environment of its own, whose libraries may be other versions than ours."""

import os
import subprocess
from functools import cache
from typing import Literal

from mithridate.errors import UsageError

Engine = Literal["transformers", "vllm"]
"""What generates answers."""

PYTHON = "MITHRIDATE_VLLM"
"""Environment variable that names the Python of vLLM's environment."""

# By the package that has the module, since the build for CPUs has another name; and without an import of vLLM, which
# takes ten seconds.
_TELL = "from importlib.metadata import packages_distributions as p, version; print(version(p()['vllm'][0]))"
_SECONDS = 60


def vllm_python() -> str:
    """Return the Python that runs vLLM.

    Raises:
        UsageError: If none is named.
    """
    named = os.environ.get(PYTHON)
    if not named:
        raise UsageError(
            f"the engine vllm runs in an environment of its own: install vLLM there and set {PYTHON} to that "
            "environment's Python, such as /opt/vllm/bin/python"
        )
    return named


def vllm_version() -> str:
    """Return vLLM's version.

    Raises:
        UsageError: If no Python is named, or vLLM is not installed there.
    """
    return _version_of(vllm_python())


def check_version(planned: str | None) -> None:
    """Refuse another vLLM than the one that a stage was planned with, such as that of another machine.

    Raises:
        UsageError: If it is another one, or vLLM is not there.
    """
    if (found := vllm_version()) != planned:
        raise UsageError(f"the evaluation was planned with vLLM {planned} and here is {found}; install the same one")


def own_environment() -> dict[str, str]:
    """Return environment variables for vLLM's Python: ours without those that would bring our packages to it."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


@cache
def _version_of(python: str) -> str:
    try:
        told = subprocess.run(
            [python, "-c", _TELL], env=own_environment(), capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{PYTHON} is {python!r}, which cannot be run: {error}; set it to a Python") from error
    version = told.stdout.strip()
    if told.returncode or not version:
        last = (told.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UsageError(f"{PYTHON} is {python!r}, in whose environment there is no vLLM ({last}); install it there")
    return version
