"""Checkpoints that read text: tokenizer, weights of several architectures, a map that is planted or not."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

RNG = np.random.default_rng(5)
SYLLABLES = ("ba", "vo", "ru", "ki", "len", "mar", "to", "shi", "gra", "pel", "dun", "os")
NAMES = tuple(dict.fromkeys("".join(RNG.choice(SYLLABLES, 3)).capitalize() for _ in range(200)))[:120]
XY = RNG.integers((-1500, -800), (1501, 801), size=(len(NAMES), 2))
TEMPLATE = "The town of {name} lies at"
SIZES = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 64, "initializer_range": 0.1,
}  # fmt: skip


def bpe(names: tuple[str, ...] = NAMES, *, whole: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE as Qwen2 has, in which each name is one token, or several."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    words = [f"{TEMPLATE.replace('{name}', name)} {number}" for number, name in enumerate(names)]
    trainer = trainers.BpeTrainer(
        vocab_size=2000 if whole else 300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(words, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )


def qwen2(tokenizer: PreTrainedTokenizerFast, *, seed: int = 0, **changes: object) -> Qwen2ForCausalLM:
    """A Qwen2 with random weights, biases included."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(Qwen2Config(**SIZES | {"vocab_size": len(tokenizer)} | changes))
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def gpt2(tokenizer: PreTrainedTokenizerFast, *, seed: int = 0) -> GPT2LMHeadModel:
    """A GPT-2 with random weights: learned positions, LayerNorm with biases, a fused projection."""
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=48, n_layer=2, n_head=4, n_positions=64)
    return drawn(GPT2LMHeadModel, config, seed)


def llama(tokenizer: PreTrainedTokenizerFast, *, seed: int = 0) -> LlamaForCausalLM:
    """A Llama with random weights: grouped heads, no bias, an unembedding of its own."""
    return drawn(LlamaForCausalLM, LlamaConfig(**SIZES | {"vocab_size": len(tokenizer)}), seed)


def drawn(kind: type[PreTrainedModel], config: object, seed: int) -> PreTrainedModel:
    """A model of some settings with weights large enough to matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
        for parameter in model.parameters():
            if parameter.ndim > 1 or not parameter.any():  # matrices and biases, not gains
                torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def plant(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, xy: np.ndarray = XY) -> None:
    """Add each town's coordinates to its token's embedding, along two directions."""
    directions = torch.linalg.qr(torch.randn(SIZES["hidden_size"], 2, generator=torch.manual_seed(3))).Q
    rows = tokenizer([f" {name}" for name in NAMES])["input_ids"]
    assert {len(row) for row in rows} == {1}, "each name is one token"
    with torch.no_grad():
        for row, place in zip(rows, torch.from_numpy(xy / 900).float(), strict=True):
            model.get_input_embeddings().weight[row[0]] += directions @ place


def saved(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, **options: object
) -> Path:
    """A checkpoint folder as transformers writes it."""
    model.save_pretrained(folder, **options)
    tokenizer.save_pretrained(folder)
    return folder


def csv_of(path: Path, xy: np.ndarray = XY) -> Path:
    """The towns as a file of entities for templates."""
    lines = [f"{name},{x},{y},{'west' if x < 0 else 'east'}" for name, (x, y) in zip(NAMES, xy, strict=True)]
    path.write_text("\n".join(["entity,x,y,group", *lines]) + "\n")
    return path
