"""Adapters as students publish them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from counterhint import Weights
from counterhint.jobs import ADAPTER_METADATA


class Adapter:
    """One that peft itself made for a model folder, drawn wide so that scores change."""

    def __init__(self, model_folder: Path, folder: Path, seed: int = 0, **settings: Any) -> None:
        config = peft.LoraConfig(**({"r": 4, "target_modules": ["q_proj", "up_proj"]} | settings))
        base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
        self.model = peft.get_peft_model(base, config).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if "lora_" in name:
                    parameter.normal_(0, 0.2, generator=generator)
        saved = folder / f"adapter-{seed}"
        self.model.save_pretrained(str(saved))
        self.tensors = load_file(saved / "adapter_model.safetensors")
        self.settings = json.loads((saved / "adapter_config.json").read_text())
        self.file = folder / f"adapter-{seed}.safetensors"

    def publish(self) -> Weights:
        save_file(self.tensors, self.file, {ADAPTER_METADATA: json.dumps(self.settings)})
        digest = hashlib.sha256(self.file.read_bytes()).hexdigest()
        return Weights("run", self.file.stem, self.file.as_uri(), digest)
