"""Operations and memory are counted as they are computed: against torch's own counter, and against slow twins."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, MambaConfig, MixtralConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "lm"))

from tiny_models import KINDS, VOCABULARY, ids, tiny

from remid.engine.roofline import Shape, executed, matrix_rate, memory, passes_of, shape_of, useful
from remid.errors import ModelError
from remid.lm.attention import ROWS, TILE
from remid.lm.attention import Path as KeyPath
from remid.lm.cpu import has_onednn
from remid.lm.layouts import Tree
from remid.lm.tree import arrange
from remid.lm.work import Work

SMALL = Shape(
    weights=10, body=7, vocabulary=5, hidden=3, inner=6, layers=2, heads=4, kv_heads=2, head=8, bytes=4
)  # fmt: skip


def random_work(seed: int, prompts: int = 6) -> list[Work]:
    """Prompts that share beginnings of all lengths, with answers from one token on."""
    rng = np.random.default_rng(seed)
    trunk = ids(200, seed)
    made = []
    for k in range(prompts):
        kept = int(rng.integers(0, 200))
        prompt = (*trunk[:kept], *ids(int(rng.integers(1, 90)), 100 * seed + k))
        answers = {tuple(ids(int(rng.integers(1, 60)), 1000 * seed + 10 * k + a)): None for a in range(4)}
        made.append(Work(prompt, tuple(answers)))
    return made


def dense_flop(name: str, length: int) -> tuple[dict[str, int], Shape]:
    """torch's count of one prompt with logits at its last token, by operator, every key multiplied."""
    model = AutoModelForCausalLM.from_config(KINDS[name].config, attn_implementation="eager").eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(input_ids=torch.tensor([ids(length, 3)]), use_cache=False, logits_to_keep=1)
    return {str(op): flop for op, flop in counter.get_flop_counts()["Global"].items()}, shape_of(model)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "gemma3-window"])
def test_a_models_operations_are_what_torch_counts(name: str) -> None:
    counted, shape = dense_flop(name, 40)
    # An answer of one token feeds nothing and is read off the prompt's last row.
    flop = useful([Work(tuple(ids(40, 3)), ((1,),))], shape)
    batched = sum(f for op, f in counted.items() if "bmm" in op and "addmm" not in op)
    # Rotary angles are a product of one column too: 2 x half a head x positions, once for each way of rotating.
    attention = flop.attention * 40 * 40 // (40 * 41 // 2)
    assert batched - attention in {k * shape.head * 40 for k in range(3)}
    assert sum(counted.values()) - batched == flop.body + flop.last
    assert (flop.tokens, flop.read) == (40, 1)


@pytest.mark.parametrize("seed", range(4))
def test_useful_operations_are_those_of_every_token_walked_one_by_one(seed: int) -> None:
    work = random_work(seed)
    tokens = keys = read = 0
    for index, kept in arrange(work):
        item = work[index]
        for at in range(kept, len(item.prompt)):
            tokens, keys = tokens + 1, keys + at + 1
        read += 1
        for answer in item.continuations:
            for at in range(len(answer) - 1):
                tokens, keys, read = tokens + 1, keys + len(item.prompt) + at + 1, read + 1
    flop = useful(work, SMALL)
    assert (flop.tokens, flop.read) == (tokens, read)
    assert flop.body == 2 * 7 * tokens
    assert flop.last == 2 * 5 * 3 * read
    assert flop.attention == 2 * 2 * 2 * 4 * 8 * keys
    assert flop.total == flop.body + flop.last + flop.attention


@pytest.mark.parametrize(("rows", "block"), [(64, 32), (1024, 128), (50, 50)])
def test_executed_operations_are_what_torch_counts_of_the_tree(rows: int, block: int) -> None:
    model = tiny("llama").model.to(torch.bfloat16)  # plain products, which torch's counter knows
    shape, work = shape_of(model), random_work(9)
    layout, counter = Tree(model, whole_head=False), FlopCounterMode(display=False)
    with counter:
        answered = sum(map(len, layout.run(work, rows, block)))
    assert answered == sum(len(w.continuations) for w in work)
    flop = executed(work, shape, rows, block)
    counted = sum(counter.get_flop_counts()["Global"].values())
    assert flop.total <= counted <= 1.01 * flop.total  # left: rotary angles (a product of one column)
    floor, most = useful(work, shape), (ROWS - 1) * passes_of(work, rows, block)["passes"]  # rows of padding
    assert floor.tokens <= flop.tokens <= floor.tokens + most
    assert floor.read <= flop.read <= floor.read + most
    assert flop.attention > floor.attention


def test_one_prompt_is_cut_into_the_passes_that_are_counted() -> None:
    work = [Work(tuple(ids(300, 1)), tuple(tuple(ids(21, k)) for k in range(12)))]
    # 300 rows of prompt in blocks of 128, 12 answers of 20 rows in 32 columns each, eight to a block.
    assert passes_of(work, 1024, 128) == {"passes": 1, "prompt_blocks": 3, "leaf_blocks": 2}
    assert passes_of(work, 256, 128)["passes"] > 1


def test_keys_and_values_take_the_memory_that_is_stated() -> None:
    shape = shape_of(tiny("llama").model)
    path = KeyPath(1500, 256, onednn=True)
    one = torch.zeros(1, shape.kv_heads, 1, shape.head)
    layers = [path.layer(index, one, one) for index in range(shape.layers)]
    tile = one.nbytes * TILE  # the last tile of values, laid out anew
    held = sum(layer.key.nbytes + layer.value.nbytes + tile for layer in layers)
    stated = memory(shape, 1500, 60, 1024, 128)
    assert stated.path == held
    assert stated.total == stated.weights + stated.packed + stated.path + stated.activations + stated.logits
    assert stated.weights == sum(p.nbytes for p in tiny("llama").model.parameters())
    assert memory(shape, 3000, 60, 1024, 128).path > 1.5 * stated.path
    two = memory(shape, 1500, 60, 1024, 128, lanes=2)
    assert (two.path, two.logits, two.weights) == (2 * stated.path, 2 * stated.logits, stated.weights)
    assert memory(shape, 1500, 2000, 1024, 128).path > stated.path  # a long answer is kept as well


def test_what_cannot_be_counted_is_refused() -> None:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1}
    experts = MixtralConfig(
        **sizes, intermediate_size=16, num_attention_heads=2, num_key_value_heads=1, num_local_experts=2
    )
    for config, word in ((experts, "experts"), (MambaConfig(**sizes, state_size=4), "num_attention_heads")):
        with pytest.raises(ModelError, match=word):
            shape_of(AutoModelForCausalLM.from_config(config))


def test_products_have_a_rate_each() -> None:
    rates = matrix_rate(size=64, repeats=1)
    assert set(rates) == ({"mm", "onednn"} if has_onednn() else {"mm"})
    assert min(rates.values()) > 0
