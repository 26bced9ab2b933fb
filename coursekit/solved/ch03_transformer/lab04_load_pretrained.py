"""Loading a pretrained model: the reference. Generated from source_solutions/ch03_transformer/lab04_load_pretrained.py by `course build`; do not edit."""

# %% given
import json
import math
import re
from pathlib import Path

import torch

from coursekit import carry

# How a safetensors file names the types of numbers, and what PyTorch calls them.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

# %% given
import tempfile

GPT = carry("ch03/lab03", "GPT")  # GPT(config)(ids): (B, T) -> logits (B, T, V)
GPTConfig = carry("ch03/lab03", "GPTConfig")  # vocab_size, context, d_model, n_layers, n_heads, d_ff, dropout, eps
generate = carry("ch03/lab03", "generate")  # generate(model, ids, n_tokens)


def load_files(files: dict[str, bytes]) -> torch.nn.Module:
    """For the checks: write some files into a folder and load_pretrained from it. The folder is removed again."""
    with tempfile.TemporaryDirectory(prefix="lab34-") as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        return load_pretrained(folder)


def load_and_spoil(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> dict:
    """For the checks: load_strict, and then the tensors of the state are filled with 7. What is in the model now?"""
    state = {name: value.clone() for name, value in state.items()}
    before = [id(parameter) for parameter in model.parameters()]
    load_strict(model, state)
    for value in state.values():
        value.fill_(7)
    return {
        "values": {name: value.clone() for name, value in model.state_dict().items()},
        "the same parameters": before == [id(parameter) for parameter in model.parameters()],
        "to be trained": [parameter.requires_grad for parameter in model.parameters()],
    }

# %% exercise="read_header"
def read_header(blob: bytes) -> dict[str, dict]:
    """What a safetensors file holds, and where.

    Args:
        blob: the whole file. Its first 8 bytes are the length n of the header, an unsigned integer whose lowest byte comes
            first. Then come n bytes of UTF-8 text, a JSON object, which may end in spaces. The rest is data. The object has
            an entry for each tensor, ``{"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}``. Offsets count from
            where the data begins; the second is where the tensor has ended. There may be one more entry, "__metadata__",
            which is no tensor.

    Returns:
        For each tensor by name ``{"dtype": "F32", "shape": [2, 3], "begin": 104, "end": 128}``: dtype (a text) and shape (a
        list) as in the file, and places in the blob, so that ``blob[begin:end]`` are the bytes of the tensor.

    Raises:
        ValueError: if the blob is shorter than 8 bytes or than its header, the header is no JSON object, an entry has other
            fields than those three, a dtype is not in DTYPES, the number of bytes between the offsets is not what shape and
            dtype ask for, or the tensors, in the order of their offsets, do not fill the data exactly: from its first byte
            to its last, without a gap or an overlap.

    Source: the safetensors format, https://github.com/huggingface/safetensors, section "Format".
    """
    length = int.from_bytes(blob[:8], "little")
    start = 8 + length  # where the data begins
    if start > len(blob):
        raise ValueError(
            f"the header should be {length} bytes long, and the file has {len(blob)}: cut off, or no such file"
        )
    header = json.loads(blob[8:start].decode("utf-8"))
    if not isinstance(header, dict):
        raise ValueError("the header is no JSON object")
    header.pop("__metadata__", None)
    entries = {}
    for name, entry in header.items():
        if set(entry) != {"dtype", "shape", "data_offsets"} or entry["dtype"] not in DTYPES:
            raise ValueError(f"the entry of {name!r} cannot be read: {entry}")
        begin, end = entry["data_offsets"]
        if end - begin != math.prod(entry["shape"]) * DTYPES[entry["dtype"]].itemsize:
            raise ValueError(f"{name!r} has {end - begin} bytes, which is not what {entry} asks for")
        place = {"begin": start + begin, "end": start + end}
        entries[name] = {"dtype": entry["dtype"], "shape": entry["shape"]} | place
    reached = start
    for begin, end in sorted((entry["begin"], entry["end"]) for entry in entries.values()):
        if begin != reached:
            raise ValueError(f"a tensor begins at byte {begin}, and the one before it ends at {reached}")
        reached = end
    if reached != len(blob):
        raise ValueError(f"the tensors end at byte {reached}, and the file at {len(blob)}")
    return entries


def read_tensor(blob: bytes, name: str) -> torch.Tensor:
    """One tensor of a safetensors file.

    Args:
        blob: the whole file, as for `read_header`. Numbers are stored with their lowest byte first, as every processor has
            them that you are likely to meet, and row by row.
        name: which tensor.

    Returns:
        A tensor of the shape and dtype that the file states (see DTYPES). It has memory of its own. A shape of [] is one
        number, and a tensor with no numbers at all is possible, too.

    Raises:
        KeyError: if the file has no such tensor, with the name in the message.
        ValueError: if the file cannot be read, as in `read_header`.
    """
    entries = read_header(blob)
    if name not in entries:
        raise KeyError(f"there is no tensor {name!r}; there are {', '.join(entries)}")
    entry = entries[name]
    dtype, data = DTYPES[entry["dtype"]], bytearray(blob[entry["begin"] : entry["end"]])
    if not data:
        return torch.empty(entry["shape"], dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).reshape(entry["shape"])

# %% mistakes="read_header"
{
    "the offsets are taken to count from the beginning of the file": (
        '{"begin": start + begin, "end": start + end}',
        '{"begin": begin, "end": end}',
    ),
    "the offsets are taken to count from the end of the header's text, without the 8 bytes before it": (
        "start = 8 + length  #",
        "start = length  #",
    ),
    "the length is read with its highest byte first": ('"little"', '"big"'),
    "only the lowest byte of the length is read": ("int.from_bytes(blob[:8]", "int.from_bytes(blob[:1]"),
    "the data is taken to begin at the next multiple of 8 bytes": (
        '{"begin": start + begin, "end": start + end}',
        '{"begin": -(-start // 8) * 8 + begin, "end": -(-start // 8) * 8 + end}',
    ),
    "the end of a tensor is taken for its length": ('"end": start + end}', '"end": start + begin + end}'),
    "__metadata__ is taken for a tensor": ('    header.pop("__metadata__", None)\n', ""),
    "the tensors are given the places in which the header lists them": (
        '{"begin": start + begin, "end": start + end}',
        '{"begin": (b := max([start, *(e["end"] for e in entries.values())])), "end": b + end - begin}',
    ),
    "the file is not checked for bytes that belong to no tensor": (
        '        raise ValueError(f"the tensors end at byte {reached}, and the file at {len(blob)}")',
        "        pass",
    ),
    "gaps and overlaps are not looked for": ("if begin != reached:", "if False:"),
    "gaps are found, and overlaps are not": ("if begin != reached:", "if begin > reached:"),
    "overlaps are found, and gaps are not": ("if begin != reached:", "if begin < reached:"),
    "tensors have to be listed in the order of their data": (
        'in sorted((entry["begin"], entry["end"]) for entry in entries.values()):',
        'in [(entry["begin"], entry["end"]) for entry in entries.values()]:',
    ),
    "the number of bytes is not compared with shape and dtype": (
        'if end - begin != math.prod(entry["shape"]) * DTYPES[entry["dtype"]].itemsize:',
        "if False:",
    ),
    "a tensor with fewer bytes than its shape asks for is let through": (
        'if end - begin != math.prod(entry["shape"])',
        'if end - begin > math.prod(entry["shape"])',
    ),
    "every number is taken to have four bytes": ('DTYPES[entry["dtype"]].itemsize', "4"),
    "an unknown dtype raises a KeyError": (' or entry["dtype"] not in DTYPES', ""),
    "a header that is no object raises another error": ("if not isinstance(header, dict):", "if False:"),
    "16-bit numbers are read as float16 where the file says BF16": (
        'dtype, data = DTYPES[entry["dtype"]]',
        'dtype, data = DTYPES[entry["dtype"].removeprefix("B") if entry["dtype"] == "BF16" else entry["dtype"]]',
    ),
    "every tensor is returned as float32": (
        'dtype=dtype).reshape(entry["shape"])\n',
        'dtype=dtype).reshape(entry["shape"]).float()\n',
    ),
    "the numbers are read with their highest byte first": (
        "torch.frombuffer(data, dtype=dtype)",
        "torch.frombuffer(data[::-1], dtype=dtype).flip(0)",
    ),
    "the numbers are read column by column": (
        '.reshape(entry["shape"])\n',
        '.reshape(entry["shape"][::-1]).permute(list(range(len(entry["shape"])))[::-1])\n',
    ),
    "the tensor is returned flat, without its shape": ('dtype=dtype).reshape(entry["shape"])', "dtype=dtype)"),
    "a tensor without numbers gives an error": ("if not data:", "if False:"),
    "a name that is not there gives None": (
        "        raise KeyError(f\"there is no tensor {name!r}; there are {', '.join(entries)}\")",
        "        return None",
    ),
}

# %% exercise="gpt_config"
def gpt_config(settings: dict) -> GPTConfig:
    """The settings of your GPT, from those of a GPT-2 of transformers.

    Args:
        settings: the content of its config.json. Of its many entries these matter:

            ====================================  ==========================================================
            model_type                            has to be "gpt2"
            vocab_size, n_positions               rows of the two tables
            n_embd, n_layer, n_head               the width, the number of blocks, and of heads
            n_inner                               d_ff; None or absent: 4 * n_embd
            layer_norm_epsilon                    eps; absent: 1e-5
            activation_function                   has to be "gelu_new" or "gelu_pytorch_tanh", two names for the tanh form;
                                                  absent: "gelu_new"
            scale_attn_weights                    has to be true; absent: true
            scale_attn_by_inverse_layer_idx       has to be false; absent: false
            add_cross_attention                   has to be false; absent: false
            tie_word_embeddings                   has to be true; absent: true
            ====================================  ==========================================================

            In old files there is also n_ctx, which is not used any more.

    Returns:
        The GPTConfig. Its dropout is 0, whatever the settings say: it belongs to the next training, not to the weights.

    Raises:
        ValueError: if an entry that has to have a certain value has another one, or model_type, vocab_size, n_positions,
            n_embd, n_layer or n_head is absent; the message holds the name of the entry.
    """
    missing = [name for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head") if name not in settings]
    if missing:
        raise ValueError(f"the settings lack {', '.join(missing)}")
    allowed = {
        "activation_function": ["gelu_new", "gelu_pytorch_tanh"],
        "scale_attn_weights": [True],
        "scale_attn_by_inverse_layer_idx": [False],
        "add_cross_attention": [False],
        "tie_word_embeddings": [True],
    }
    if settings.get("model_type") != "gpt2":
        raise ValueError(f"model_type is {settings.get('model_type')!r}, and this loads gpt2 only")
    for name, values in allowed.items():
        if name in settings and settings[name] not in values:
            raise ValueError(f"{name} is {settings[name]!r}; our GPT has {values[0]!r}")
    d_ff = settings.get("n_inner")
    if d_ff is None:
        d_ff = 4 * settings["n_embd"]
    return GPTConfig(
        vocab_size=settings["vocab_size"],
        context=settings["n_positions"],
        d_model=settings["n_embd"],
        n_layers=settings["n_layer"],
        n_heads=settings["n_head"],
        d_ff=d_ff,
        eps=settings.get("layer_norm_epsilon", 1e-5),
    )

# %% mistakes="gpt_config"
{
    "the number of heads is taken to be n_embd / 64, as it is in all four sizes of GPT-2": (
        'n_heads=settings["n_head"]',
        'n_heads=max(settings["n_embd"] // 64, 1)',
    ),
    "the number of heads is always 12": ('n_heads=settings["n_head"]', "n_heads=12"),
    "layers and heads have changed places": [
        ('n_layers=settings["n_layer"]', 'n_layers=settings["n_head"]'),
        ('n_heads=settings["n_head"]', 'n_heads=settings["n_layer"]'),
    ],
    "eps is always 1e-5, whatever the settings say": (
        'eps=settings.get("layer_norm_epsilon", 1e-5)',
        "eps=1e-5",
    ),
    "eps falls back on 1e-12, as in BERT": ('"layer_norm_epsilon", 1e-5', '"layer_norm_epsilon", 1e-12'),
    "d_ff is always four times n_embd": ("    if d_ff is None:\n", "    if True:\n"),
    "d_ff is None where n_inner is": ('d_ff = 4 * settings["n_embd"]', "pass"),
    "the context is read from n_ctx": (
        'context=settings["n_positions"]',
        'context=settings.get("n_ctx", settings["n_positions"])',
    ),
    "the exact GELU is taken for the tanh form": (
        '["gelu_new", "gelu_pytorch_tanh"]',
        '["gelu_new", "gelu_pytorch_tanh", "gelu"]',
    ),
    "the activation is not looked at": ('        "activation_function": ["gelu_new", "gelu_pytorch_tanh"],\n', ""),
    "gelu_pytorch_tanh is refused, and it is the same function as gelu_new": (
        '["gelu_new", "gelu_pytorch_tanh"]',
        '["gelu_new"]',
    ),
    "the settings that change the scale of the scores are not looked at": [
        ('        "scale_attn_weights": [True],\n', ""),
        ('        "scale_attn_by_inverse_layer_idx": [False],\n', ""),
    ],
    "a head of its own (tie_word_embeddings is false) is not noticed": (
        '        "tie_word_embeddings": [True],\n',
        "",
    ),
    "cross-attention is not noticed": ('        "add_cross_attention": [False],\n', ""),
    "the model type is not looked at": ('if settings.get("model_type") != "gpt2":', "if False:"),
    "the dropout of the old training is taken over": (
        '        eps=settings.get("layer_norm_epsilon", 1e-5),',
        '        eps=settings.get("layer_norm_epsilon", 1e-5),\n        dropout=settings.get("resid_pdrop", 0.1),',
    ),
    "a setting that has to be there falls back on that of the smallest GPT-2": [
        (
            "    if missing:\n",
            '    small = {"vocab_size": 50257, "n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024}\n'
            "    settings = small | settings\n    if False:\n",
        ),
    ],
    "a setting that has to be there is absent, and no ValueError names it": ("    if missing:\n", "    if False:\n"),
}

# %% exercise="convert_gpt2"
def convert_gpt2(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a GPT-2 of transformers, under the names and in the layouts of your GPT.

    Args:
        state: tensors by name, as in the table of shapes above, with as many blocks as there are. Each name may or may not
            begin with ``transformer.``. All products in this model are ``x @ weight + bias``. The columns of c_attn are those
            of q, then those of k, then those of v. Tensors may be absent: that is for `load_strict` to notice.

    Returns:
        The tensors of the GPT, with the values and dtypes that they have in the state. Left out are ``lm_head.weight`` and in
        each block ``attn.bias`` and ``attn.masked_bias``. The state is not changed.

    Raises:
        ValueError: if there are names that are none of those (all of them are in the message, as they are in the state); if
            the last axis of a c_attn is no multiple of 3; if there is a ``lm_head.weight`` beside ``wte.weight`` and it has
            other values: such a head does not fit into a GPT that uses its table twice.
    """
    outside = {
        "wte.weight": "token_embedding",
        "wpe.weight": "position_embedding",
        "ln_f.weight": "final_norm.weight",
        "ln_f.bias": "final_norm.bias",
    }
    inside = {
        "ln_1.weight": "norm_1.weight",
        "ln_1.bias": "norm_1.bias",
        "attn.c_proj.weight": "attention.w_o",
        "attn.c_proj.bias": "attention.b_o",
        "ln_2.weight": "norm_2.weight",
        "ln_2.bias": "norm_2.bias",
        "mlp.c_fc.weight": "feed_forward.w_in",
        "mlp.c_fc.bias": "feed_forward.b_in",
        "mlp.c_proj.weight": "feed_forward.w_out",
        "mlp.c_proj.bias": "feed_forward.b_out",
    }
    fused = {"attn.c_attn.weight": "w", "attn.c_attn.bias": "b"}
    ours, unknown, head = {}, [], None
    for name, value in state.items():
        plain = name.removeprefix("transformer.")
        in_block = re.fullmatch(r"h\.(\d+)\.(.+)", plain)
        block, rest = (f"blocks.{in_block[1]}.", in_block[2]) if in_block else ("", "")
        if plain in outside:
            ours[outside[plain]] = value
        elif plain == "lm_head.weight":
            head = value
        elif rest in inside:
            ours[block + inside[rest]] = value
        elif rest in fused:
            if value.shape[-1] % 3 != 0:
                raise ValueError(f"{name} has {value.shape[-1]} columns, which is no multiple of 3")
            for letter, part in zip("qkv", value.chunk(3, dim=-1), strict=True):
                ours[f"{block}attention.{fused[rest]}_{letter}"] = part
        elif rest not in ("attn.bias", "attn.masked_bias"):
            unknown.append(name)
    if unknown:
        raise ValueError(f"unknown names: {', '.join(unknown)}; is this a GPT-2?")
    table = ours.get("token_embedding")
    if head is not None and table is not None and not torch.equal(head, table):
        raise ValueError("lm_head.weight is not wte.weight again: this model has a head of its own")
    return ours

# %% mistakes="convert_gpt2"
{
    "c_proj of attention is transposed, which its square shape lets pass": (
        "            ours[block + inside[rest]] = value",
        '            ours[block + inside[rest]] = value.mT if rest == "attn.c_proj.weight" else value',
    ),
    "all matrices of the blocks are transposed, as nn.Linear would need it": [
        (
            "            ours[block + inside[rest]] = value",
            "            ours[block + inside[rest]] = value.mT if value.ndim == 2 else value",
        ),
        (
            '{fused[rest]}_{letter}"] = part',
            '{fused[rest]}_{letter}"] = part.mT if part.ndim == 2 else part',
        ),
    ],
    "the three parts of c_attn are transposed, which their square shape lets pass": (
        '{fused[rest]}_{letter}"] = part',
        '{fused[rest]}_{letter}"] = part.mT if part.ndim == 2 else part',
    ),
    "the columns of c_attn are taken in the order k, q, v": ('zip("qkv"', 'zip("kqv"'),
    "the columns of c_attn are taken in the order v, k, q": ('zip("qkv"', 'zip("vkq"'),
    "c_attn is cut into blocks of rows (after a reshape), and its blocks are columns": (
        "value.chunk(3, dim=-1)",
        "(value.reshape(-1, value.shape[-1] // 3) if value.ndim == 2 else value).chunk(3)",
    ),
    "every third column of c_attn is taken": ("value.chunk(3, dim=-1)", "[value[..., i::3] for i in range(3)]"),
    "c_attn is read head by head: q, k, v of the first head, then of the second": (
        "value.chunk(3, dim=-1)",
        "value.unflatten(-1, (-1, 3, 2)).movedim(-2, 0).flatten(-2)",
    ),
    "the biases of c_attn are taken in another order than its weights": (
        'zip("qkv"',
        'zip("qkv" if value.ndim == 2 else "kvq"',
    ),
    "c_attn is cut along its first axis": ("value.chunk(3, dim=-1)", "value.chunk(3)"),
    "only the first digit of a block's number is read, so block 10 overwrites block 1": (
        'f"blocks.{in_block[1]}."',
        'f"blocks.{in_block[1][0]}."',
    ),
    "blocks are numbered in the order in which the file lists them": [
        (
            "    for name, value in state.items():",
            '    order = list(dict.fromkeys(re.findall(r"\\bh\\.(\\d+)\\.", " ".join(state))))\n'
            "    for name, value in state.items():",
        ),
        ('f"blocks.{in_block[1]}."', 'f"blocks.{order.index(in_block[1])}."'),
    ],
    "ln_1 and ln_2 have changed places": [
        ('"ln_1.weight": "norm_1.weight"', '"ln_1.weight": "norm_2.weight"'),
        ('"ln_1.bias": "norm_1.bias"', '"ln_1.bias": "norm_2.bias"'),
        ('"ln_2.weight": "norm_2.weight"', '"ln_2.weight": "norm_1.weight"'),
        ('"ln_2.bias": "norm_2.bias"', '"ln_2.bias": "norm_1.bias"'),
    ],
    "the two biases of length d have changed places, attn.c_proj.bias and mlp.c_proj.bias": [
        ('"attn.c_proj.bias": "attention.b_o"', '"attn.c_proj.bias": "feed_forward.b_out"'),
        ('"mlp.c_proj.bias": "feed_forward.b_out"', '"mlp.c_proj.bias": "attention.b_o"'),
    ],
    "c_fc and c_proj of the feed-forward network have changed places": [
        ('"mlp.c_fc.weight": "feed_forward.w_in"', '"mlp.c_fc.weight": "feed_forward.w_out"'),
        ('"mlp.c_proj.weight": "feed_forward.w_out"', '"mlp.c_proj.weight": "feed_forward.w_in"'),
    ],
    "the position table is cut to eight rows": (
        "            ours[outside[plain]] = value",
        '            ours[outside[plain]] = value[:8] if plain == "wpe.weight" else value',
    ),
    "lm_head.weight is handed on as a tensor of its own": (
        "            head = value",
        '            ours["head"] = value',
    ),
    "lm_head.weight is left out without a look at its values": ("if head is not None and table", "if False and table"),
    "lm_head.weight is refused as unknown": ('plain == "lm_head.weight"', "False"),
    "a head of its own is used as the table of the embeddings, too": (
        '        raise ValueError("lm_head.weight is not wte.weight again: this model has a head of its own")',
        '        ours["token_embedding"] = head',
    ),
    "the causal mask of old files, attn.bias, is refused as unknown": (
        'rest not in ("attn.bias", "attn.masked_bias")',
        'rest not in ("attn.masked_bias",)',
    ),
    "attn.bias is taken for a bias": (
        '        "ln_2.weight": "norm_2.weight"',
        '        "attn.bias": "attention.bias",\n        "ln_2.weight": "norm_2.weight"',
    ),
    "names without transformer. in front are refused": (
        'plain = name.removeprefix("transformer.")',
        'plain = name.removeprefix("transformer.") if name.startswith(("transformer.", "lm_head")) else name + "?"',
    ),
    "names with transformer. in front are refused": ('name.removeprefix("transformer.")', "name"),
    "unknown names are left out without a word": ("    if unknown:\n", "    if False:\n"),
    "only the first unknown name is in the message": ("', '.join(unknown)", "unknown[0]"),
    "everything becomes float32": (
        "    return ours\n",
        "    return {name: value.float() for name, value in ours.items()}\n",
    ),
    "a c_attn whose columns cannot be shared out is cut into uneven parts": (
        "if value.shape[-1] % 3 != 0:",
        "if False:",
    ),
}

# %% exercise="load_strict"
def load_strict(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Copy a state into a model: all of it, or nothing.

    Args:
        model: a module; the names and shapes of its tensors are those of ``model.state_dict()``. Its parameters stay the same
            objects with the same dtype (values of another dtype are converted), and share no memory with the state.
        state: tensors by name. It is not changed.

    Raises:
        ValueError: if a tensor of the model is missing in the state, the state has one that the model has not, or one of
            another shape, also where it would broadcast. The message names all such tensors, and of those with another shape
            both shapes, written as in ``(4, 12)``. The model then has the values that it had before.
    """
    own = model.state_dict()  # these tensors are the memory of the model
    problems = [f"missing: {name}" for name in own if name not in state]
    problems += [f"not in the model: {name}" for name in state if name not in own]
    for name, value in own.items():
        if name in state and state[name].shape != value.shape:
            problems.append(f"{name}: {tuple(state[name].shape)} given, {tuple(value.shape)} in the model")
    if problems:
        problems.append("nothing was loaded; do the settings belong to these weights, and are the names converted?")
        raise ValueError("\n".join(problems))
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(state[name])

# %% mistakes="load_strict"
{
    "a missing tensor is passed over: the model keeps its random numbers in that place": [
        ('[f"missing: {name}" for name in own if name not in state]', "[]"),
        ("            value.copy_(state[name])", "            value.copy_(state.get(name, value))"),
    ],
    "tensors that the model has not are passed over": (
        '    problems += [f"not in the model: {name}" for name in state if name not in own]\n',
        "",
    ),
    "shapes are not compared: what can be broadcast is, and the rest raises another error halfway": (
        "if name in state and state[name].shape != value.shape:",
        "if False:",
    ),
    "only the number of elements is compared": [
        ("state[name].shape != value.shape", "state[name].numel() != value.numel()"),
        ("value.copy_(state[name])", "value.copy_(state[name].reshape(value.shape))"),
    ],
    "a larger table is cut to size": [
        (
            "state[name].shape != value.shape",
            "(state[name].shape[1:] != value.shape[1:] or len(state[name]) < len(value))",
        ),
        ("value.copy_(state[name])", "value.copy_(state[name][: len(value)])"),
    ],
    "a tensor is transposed where that makes it fit": [
        ("state[name].shape != value.shape", "value.shape not in (state[name].shape, state[name].shape[::-1])"),
        (
            "value.copy_(state[name])",
            "value.copy_(state[name] if state[name].shape == value.shape else state[name].mT)",
        ),
    ],
    "copying begins before everything is checked, so an error leaves half of the new weights behind": (
        "    if problems:\n",
        "    with torch.no_grad():\n"
        "        for name, value in own.items():\n"
        "            if name in state and state[name].shape == value.shape:\n"
        "                value.copy_(state[name])\n"
        "    if problems:\n",
    ),
    "the message names only the first problem": ('"\\n".join(problems)', "problems[0]"),
    "the message counts the problems and does not name them": ('"\\n".join(problems)', 'f"{len(problems)} problems"'),
    "missing and unknown tensors are reported, and then shapes only if those are right": (
        "    for name, value in own.items():\n        if name in state and",
        "    for name, value in own.items():\n        if not problems and name in state and",
    ),
    "the shapes are not in the message": (
        'f"{name}: {tuple(state[name].shape)} given, {tuple(value.shape)} in the model"',
        'f"{name} has another shape"',
    ),
    "the parameters are replaced by new ones, which no optimiser knows": (
        "            value.copy_(state[name])",
        '            holder = model.get_submodule(name.rpartition(".")[0])\n'
        '            setattr(holder, name.rpartition(".")[2], torch.nn.Parameter(state[name].to(value.dtype, copy=True)))',
    ),
    "the parameters share their memory with the state": (
        "            value.copy_(state[name])",
        "            model.get_parameter(name).data = state[name].to(value.dtype)",
    ),
    "the model takes over the dtype of the weights": (
        "            value.copy_(state[name])",
        "            model.get_parameter(name).data = state[name].clone()",
    ),
    "the values go into a copy of the parameters, and the model stays what it was": (
        "            value.copy_(state[name])",
        "            value = value.clone().copy_(state[name])",
    ),
    "the parameters are frozen": (
        "            value.copy_(state[name])",
        "            value.copy_(state[name])\n        model.requires_grad_(False)",
    ),
}

# %% exercise="load_pretrained"
def load_pretrained(folder: str | Path) -> GPT:
    """A GPT with the settings and the weights of a GPT-2 that was saved by transformers.

    Args:
        folder: holds config.json, and either model.safetensors, or shards and model.safetensors.index.json, whose
            "weight_map" says for the name of each tensor in which file of the folder it is. If both are there, the single
            file counts. Files that are not named by the index play no part; of
            the others every tensor counts.

    Returns:
        The model, float32 whatever the dtype of the files, in evaluation mode.

    Raises:
        FileNotFoundError: if one of these files is not there.
        ValueError: if the settings, a file or the weights cannot be used, as in the functions above. Every tensor of the
            model has to come from the files, and every tensor of the files has to go somewhere.
    """
    folder = Path(folder)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    files = ["model.safetensors"]
    if not (folder / files[0]).exists():
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        files = sorted(set(index["weight_map"].values()))
    state = {}
    for file in files:
        blob = (folder / file).read_bytes()
        state |= {name: read_tensor(blob, name) for name in read_header(blob)}
    model = GPT(gpt_config(settings))
    load_strict(model, convert_gpt2(state))
    return model.eval()

# %% mistakes="load_pretrained"
{
    "what the files lack keeps its random first values": (
        "load_strict(model, convert_gpt2(state))",
        "load_strict(model, {n: w.clone() for n, w in model.state_dict().items()} | convert_gpt2(state))",
    ),
    "what the model has no place for is thrown away": (
        "load_strict(model, convert_gpt2(state))",
        "load_strict(model, {n: w for n, w in convert_gpt2({k: w for k, w in state.items() if 'extra' not in k}).items() if n in model.state_dict()})",
    ),
    "the weights are never loaded": ("    load_strict(model, convert_gpt2(state))\n", ""),
    "only the first shard is read, and what the others hold keeps its random values": [
        ("    for file in files:", "    for file in files[:1]:"),
        (
            "load_strict(model, convert_gpt2(state))",
            "load_strict(model, ({n: w.clone() for n, w in model.state_dict().items()} if len(files) > 1 else {}) | convert_gpt2(state))",
        ),
    ],
    "only the first shard is read": ("    for file in files:", "    for file in files[:1]:"),
    "every safetensors file in the folder is read, whether it belongs to the model or not": (
        '    files = ["model.safetensors"]\n',
        '    files = sorted(p.name for p in folder.glob("*.safetensors")) or ["model.safetensors"]\n',
    ),
    "the index is read even where there is a single file": (
        "if not (folder / files[0]).exists():",
        'if (folder / "model.safetensors.index.json").exists() or not (folder / files[0]).exists():',
    ),
    "a folder with shards is not understood": ("if not (folder / files[0]).exists():", "if False:"),
    "the model takes over the dtype of the files": (
        "    load_strict(model, convert_gpt2(state))",
        "    model.to(next(iter(state.values())).dtype)\n    load_strict(model, convert_gpt2(state))",
    ),
    "the values are rounded to bfloat16 on the way": (
        "name: read_tensor(blob, name) for",
        "name: read_tensor(blob, name).bfloat16() for",
    ),
    "the model is returned in training mode": ("return model.eval()", "return model.train()"),
    "every model gets one head and an eps of 1e-5, whatever the settings say": (
        "GPT(gpt_config(settings))",
        'GPT(gpt_config(settings | {"n_head": 1, "layer_norm_epsilon": 1e-5}))',
    ),
    "the context is cut to 8 tokens, to save memory": [
        ("GPT(gpt_config(settings))", 'GPT(gpt_config(settings | {"n_positions": min(8, settings["n_positions"])}))'),
        (
            "load_strict(model, convert_gpt2(state))",
            'load_strict(model, {n: w[:8] if n == "position_embedding" else w for n, w in convert_gpt2(state).items()})',
        ),
    ],
}
