"""The process that renders chat templates: reads one request per line, writes one answer per line.

A template is a program that came with a model. Its sandbox keeps it from files and attributes, but not from a loop
without end or a text without end; this process ends where it takes too long or too much. The kernel does that, so that
nothing in the template can prevent it.

    python -m mithridate.service.chat.template_child SECONDS

SECONDS is the processor time of one rendering.
"""

import json
import resource
import signal
import sys
from typing import Any

BYTES = 512 << 20
"""Address space of the process; a third of it is the interpreter's and the libraries'."""


def main() -> None:
    """Answer until there are no more requests."""
    seconds = float(sys.argv[1])
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    from mithridate.data.chat_template import TEMPLATE_FAULTS

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = BYTES if hard == resource.RLIM_INFINITY else min(BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process
    answer: dict[str, Any] = {"ready": True}
    while True:
        print(json.dumps(answer), flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        asked = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            texts, _ = render_jinja_template(
                conversations=[asked["turns"]],
                chat_template=asked["template"],
                add_generation_prompt=True,
                **asked["tokens"],
            )
            answer = {"text": texts[0]}
        except TemplateError as error:
            answer = {"refused": str(error)}
        except TEMPLATE_FAULTS as error:
            answer = {"refused": f"{type(error).__name__}: {error}"}  # of an operation of the template's
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    main()
