"""``vllm serve`` as a child process: started, waited for, and stopped with us (``dream-envs serve MODEL``)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from dream_envs.core import DreamEnvsError
from dream_envs.runs import read_json

#: An interpreter whose environment holds vLLM, where ours does not.
PYTHON = "DREAM_ENVS_VLLM_PYTHON"


def interpreter(chosen: str = "") -> str:
    """The Python that can run vLLM: the one that was chosen, that of the environment's variable, or our own.

    Raises:
        DreamEnvsError: if it is not there or cannot import vLLM, with the import's last line.
    """
    python = chosen or os.environ.get(PYTHON, "") or sys.executable
    if shutil.which(python) is None:
        raise DreamEnvsError(f"vllm_python={python!r}: there is no such program")
    words = [python, "-c", "import vllm"]
    found = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "VLLM_NO_USAGE_STATS": "1"})
    if found.returncode:
        last = (found.stderr.strip().splitlines() or ["no message"])[-1]
        raise DreamEnvsError(
            f"{python} cannot import vllm ({last[:160]}): name an interpreter that can, --vllm-python PATH or ${PYTHON}"
        )
    return python


def load_adapter(url: str, name: str, folder: str | Path) -> None:
    """Load an adapter into the vLLM server at this URL; one of this name that is there already stays.

    Raises:
        DreamEnvsError: where the server does not answer or refuses.
    """
    body = json.dumps({"lora_name": name, "lora_path": str(folder)}).encode()
    request = urllib.request.Request(
        f"{url}/load_lora_adapter", body, {"Content-Type": "application/json"}, method="POST"
    )
    try:
        urllib.request.urlopen(request, timeout=120).close()
    except urllib.error.HTTPError as error:
        told = " ".join(error.read().decode("utf-8", "replace").split())[:200]
        if "already been loaded" not in told:
            raise DreamEnvsError(f"adapter {name!r}: {told}") from error
    except OSError as error:
        raise DreamEnvsError(f"adapter {name!r}: {url} does not answer ({error})") from error


class Server:
    """A served model; a context manager that stops it.

    Args:
        model: as vLLM takes it: a folder or a hub id.
        name: what the endpoint calls it.
        port: of 127.0.0.1.
        adapters: folders by name, loaded at the start; more can be loaded while it runs (``load``).
        lora_rank: the largest rank of an adapter; 0: none but those of ``adapters``.
        max_model_len: tokens of a prompt and its reply together.
        dtype: as vLLM takes it.
        python: see ``interpreter``.
        log: a file for the server's output; None: this terminal.
        arguments: further ones of ``vllm serve``.
    """

    def __init__(
        self,
        model: str,
        *,
        name: str = "model",
        port: int = 8000,
        adapters: Mapping[str, str] | None = None,
        lora_rank: int = 0,
        max_model_len: int = 4096,
        dtype: str = "auto",
        python: str = "",
        log: Path | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        self.url, self.log = f"http://127.0.0.1:{port}/v1", log
        ranks = [int((read_json(Path(f) / "adapter_config.json") or {"r": 0})["r"]) for f in (adapters or {}).values()]
        rank = max([lora_rank, *ranks])
        words = [
            interpreter(python), "-m", "vllm.entrypoints.cli.main", "serve", model, "--served-model-name", name,
            "--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(max_model_len), "--dtype", dtype,
            "--no-enable-chunked-prefill", "--max-num-batched-tokens", str(max(max_model_len, 8192)),
            "--logprobs-mode", "processed_logprobs",
        ]  # fmt: skip
        if rank:
            words += ["--enable-lora", "--max-lora-rank", str(rank), "--max-loras", "8"]
        if adapters:
            words += ["--lora-modules", *[f"{name}={folder}" for name, folder in adapters.items()]]
        more = {
            "HF_HUB_OFFLINE": "1" if Path(model).exists() else os.environ.get("HF_HUB_OFFLINE", "0"),
            "VLLM_NO_USAGE_STATS": "1", "VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
        }  # fmt: skip
        out: Any = None if log is None else open(log, "ab")  # noqa: SIM115  the child has it
        self.process = subprocess.Popen(
            [*words, *arguments], env={**os.environ, **more}, stdout=out, stderr=out, start_new_session=True
        )

    def wait(self, seconds: float = 600.0) -> str:
        """The URL, once the server answers.

        Raises:
            DreamEnvsError: if it ends or does not answer in time, with the end of its log.
        """
        until = time.monotonic() + seconds
        health = self.url.removesuffix("/v1") + "/health"
        while time.monotonic() < until:
            if (status := self.process.poll()) is not None:
                raise DreamEnvsError(f"vllm serve ended with status {status}{self._last_words()}")
            try:
                with urllib.request.urlopen(health, timeout=2) as answer:
                    if answer.status == 200:
                        return self.url
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                time.sleep(0.5)
        self.stop()
        raise DreamEnvsError(f"vllm serve does not answer within {seconds:g} s{self._last_words()}")

    def _last_words(self) -> str:
        if self.log is None or not self.log.is_file():
            return ""
        lines = [x for x in self.log.read_text("utf-8", "replace").splitlines() if "Error" in x]
        return f": {lines[-1].strip()[-200:]} (see {self.log})" if lines else f" (see {self.log})"

    def load(self, name: str, folder: str | Path) -> None:
        """Load an adapter under a new name while the server runs; it reaches this replica alone."""
        load_adapter(self.url, name, folder)

    def stop(self) -> None:
        """End the server and all its processes."""
        for how, seconds in ((signal.SIGINT, 15), (signal.SIGTERM, 10), (signal.SIGKILL, 10)):
            if self.process.poll() is not None:
                break
            os.killpg(self.process.pid, how)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                continue

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
