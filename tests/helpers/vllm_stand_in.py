"""Stands in for vLLM's Python: answers its protocol by transformers, or fails in the way that STAND_IN names.

What it takes and sends is what vLLM 0.32.0 was seen to take and send.
"""

import json
import os
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

START = os.environ.get("STAND_IN", "")
VERSION = os.environ.get("STAND_IN_VERSION", "9.9.9")
SERVER = "vllm.entrypoints.openai.api_server"


def fault() -> str:
    """How to fail when asked; a test may write it while the server runs."""
    path = Path(os.environ["STAND_IN_NOTES"], "fault")
    return path.read_text() if path.is_file() else START


def make_python(folder: Path) -> Path:
    """Write a program that takes a Python's arguments, and return its path."""
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" "$@"\n')
    program.chmod(0o755)
    return program


class Model:
    """The served weights."""

    def __init__(self, folder: str, dtype: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.torch = torch
        torch.set_num_threads(1)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    def continued(self, prompt: list[int], most: int, ends: list[int]) -> list[int]:
        """Greedy, without batches and without a cache."""
        ids: list[int] = []
        while len(ids) < most and (not ids or ids[-1] not in ends):
            with self.torch.no_grad():
                ids.append(int(self.model(self.torch.tensor([prompt + ids])).logits[0, -1].argmax()))
        return ids


def parts(index: int, prompt: list[int], ids: list[int], ends: list[int]) -> Iterator[dict[str, Any]]:
    """The first token at once and the others together, as with a long interval of the stream."""
    reason = "stop" if ids[-1] in ends else "length"
    if fault() == "short":
        ids, reason = ids[:-1], "length"
    read = [*prompt, 1] if fault() == "other prompt" else prompt
    pieces = [(ids[:1], read), (ids[1:], None)] if len(ids) > 1 else [(ids, read)]
    for place, (piece, echoed) in enumerate(pieces):
        scores: list[Any] = [-0.5] * len(piece)
        if fault() == "nan" and piece:
            scores[-1] = None
        yield {
            "index": index,
            "text": "",
            "logprobs": {"token_logprobs": scores, "tokens": [f"token_id:{one}" for one in piece]},
            "finish_reason": reason if place + 1 == len(pieces) else None,
            "prompt_token_ids": echoed,
            "token_ids": piece,
        }


def events(asked: dict[str, Any], model: Model | None) -> Iterator[str]:
    """Server-sent events, the prompts' answers mixed."""
    if fault() == "dies when asked":
        print("RuntimeError: the engine died of a test", flush=True)
        os._exit(3)
    if fault() == "hangs":
        time.sleep(600)
    if fault() == "fails":
        yield 'data: {"error": {"message": "EngineCore encountered an issue", "code": 500}}\n\n'
    if fault() == "garbage":
        yield 'data: {"surprise": 1}\n\n'
    prompts, ends, most = asked["prompt"], asked["stop_token_ids"], asked["max_tokens"]
    found = []
    for index, prompt in enumerate(prompts[:-1] if fault() == "fewer" else prompts):
        ids = [7] * most if model is None else model.continued(prompt, most, ends)
        found += list(parts(index, prompt, ids, ends))
    name = "another" if fault() == "wrong model" else asked["model"]
    for choice in sorted(found, key=lambda one: one["finish_reason"] is not None):
        yield "data: " + json.dumps({"object": "text_completion", "model": name, "choices": [choice]}) + "\n\n"
    if fault() != "cut":
        yield "data: [DONE]\n\n"


def serve(options: Any) -> None:
    """Serve until the process is ended."""
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse, Response, StreamingResponse

    # Like vLLM's engine: a process of its own, which must not outlive the server.
    child = subprocess.Popen(["sleep", "600"])
    Path(os.environ["STAND_IN_NOTES"], "child").write_text(str(child.pid))
    weights = None if START else Model(options.model, options.dtype)
    app = FastAPI()

    @app.get("/health")
    def health() -> Response:
        return Response()

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        asked = await request.json()
        Path(os.environ["STAND_IN_NOTES"], "asked.json").write_text(json.dumps(asked))
        if fault() == "refuses":
            return JSONResponse({"error": {"message": "no room for these prompts"}}, status_code=400)
        return StreamingResponse(events(asked, weights), media_type="text/event-stream")

    uvicorn.run(app, uds=options.uds, log_level="warning")


def main(arguments: list[str]) -> None:
    """Act as a Python that is asked for vLLM's version, or to run its server."""
    if arguments[0] == "-c":
        if START == "no vllm":
            sys.exit("KeyError: 'vllm'")
        print(VERSION)
        return
    assert arguments[:2] == ["-m", SERVER], arguments
    parser = ArgumentParser()
    for name in ("model", "served-model-name", "uds", "dtype", "load-format", "seed", "generation-config"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--max-model-len", required=True)
    for name in ("skip-tokenizer-init", "disable-uvicorn-access-log", "enforce-eager"):
        parser.add_argument(f"--{name}", action="store_true")
    options = parser.parse_args(arguments[2:])
    Path(os.environ["STAND_IN_NOTES"], "options.json").write_text(json.dumps(vars(options) | {"pid": os.getpid()}))
    if START == "dies":
        print("ValueError: Model architectures ['Odd'] are not supported", flush=True)
        print(*(f"line {i} of a traceback" for i in range(40)), sep="\n", flush=True)
        sys.exit(1)
    if START == "never up":
        time.sleep(600)
    serve(options)


if __name__ == "__main__":
    main(sys.argv[1:])
