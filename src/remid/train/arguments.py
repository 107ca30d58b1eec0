"""What both kinds of TRL trainers are told alike: where they compute, what they log and keep, and the seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def common_arguments(model: Any, out: Path, seed: int) -> dict[str, Any]:
    """Arguments of SFTConfig and GRPOConfig. out: folder for checkpoints, of which the newest is kept."""
    on_cpu = model.device.type == "cpu"
    return {
        "output_dir": str(out),
        "activation_checkpointing": not on_cpu,
        "bf16": not on_cpu and model.dtype != torch.float32,  # float32 is meant where it is asked for
        "use_cpu": on_cpu,
        "logging_steps": 1,
        "logging_first_step": True,
        "save_strategy": "steps",
        "save_total_limit": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
        "data_seed": seed,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": not on_cpu,
    }
