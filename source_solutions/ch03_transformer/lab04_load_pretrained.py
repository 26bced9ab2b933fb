# ---
# title: Loading a pretrained model
# lab: ch03/lab04
# minutes: 95
# difficulty: 3
# hardware: cpu
# needs: [ch03/lab03]
# builds: [read_header, read_tensor, gpt_config, convert_gpt2, load_strict, load_pretrained]
# ---

# %% [markdown]
# # Lab 3.4 · Loading a pretrained model
#
# ## The idea
#
# Somebody else has paid for the training. What they publish is a folder: a small JSON file with the settings, and one
# or more large files with the weights. Your GPT of [Lab 3.3](lab03_decoder_only.ipynb) has the same architecture. So
# loading their model means to copy numbers, and a copy is either right or wrong. What makes it hard is that a wrong one
# seldom looks wrong. Many matrices are square, so they fit transposed as well. Three matrices stored side by side have
# six orders, and all of them fit. A tensor that is left out keeps random numbers, and nothing complains.
#
# The weights come in the *safetensors* format, and that is simple enough to read by hand. Take a file with one tensor
# `w` that holds 1 and 2:
#
# | bytes | content | meaning |
# |---|---|---|
# | 0 to 7 | `38 00 00 00 00 00 00 00` | the header is 0x38 = 56 bytes long; the lowest byte comes first |
# | 8 to 63 | `{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}` and two spaces | the header, JSON |
# | 64 to 71 | `00 00 80 3f 00 00 00 40` | the data: 1.0 and 2.0 as float32 |
#
# The offsets count from where the data begins. So `w` is in bytes 64 + 0 up to 64 + 8. Read the length from the wrong
# end, and the header is $56 \cdot 2^{56} \approx 4 \cdot 10^{18}$ bytes long.
#
# You write the whole way from such bytes to a working model: read the file, read the settings, translate names and
# layouts, copy strictly, and put it all together. The judge is `transformers`: the same folder has to give the same
# logits. What is in a checkpoint, why the format is what it is, and what a hub does, is on the page [Pretrained
# models](../../book/ch03_transformer/pretrained_models.md).
#
# ## Shapes
#
# | theirs (`d` is `n_embd`) | shape | ours |
# |---|---|---|
# | `wte.weight`, `wpe.weight` | `(V, d)`, `(context, d)` | `token_embedding`, `position_embedding` |
# | `h.0.attn.c_attn.weight`, `.bias` | `(d, 3 d)`, `(3 d,)` | `blocks.0.attention.w_q`, `w_k`, `w_v`; `b_q`, `b_k`, `b_v` |
# | `h.0.attn.c_proj.weight`, `.bias` | `(d, d)`, `(d,)` | `blocks.0.attention.w_o`, `b_o` |
# | `h.0.mlp.c_fc.weight`, `.bias` | `(d, d_ff)`, `(d_ff,)` | `blocks.0.feed_forward.w_in`, `b_in` |
# | `h.0.mlp.c_proj.weight`, `.bias` | `(d_ff, d)`, `(d,)` | `blocks.0.feed_forward.w_out`, `b_out` |
# | `h.0.ln_1`, `h.0.ln_2` | `(d,)` each | `blocks.0.norm_1`, `blocks.0.norm_2`, each with `weight` and `bias` |
# | `ln_f.weight`, `ln_f.bias` | `(d,)` | `final_norm.weight`, `final_norm.bias` |

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

# %% given side="learner"
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


# %% [markdown]
# ## A picture
#
# What does a wrong copy look like? The cell below makes a GPT-2 with two blocks in `transformers` and a copy of it with
# one slip. None of the slips changes a shape. Then it compares the logits. It does so twice. The triangles are for the
# weights with which GPT-2 starts: small matrices, norms of ones, biases of zeros. The circles are for a model in which
# everything is random and large, biases and norms included.

# %%
import copy

import plotly.graph_objects as go
from transformers import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel
from transformers.utils import logging

from coursekit import plots

logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)


def every(state, ending):
    return [name for name in state if name.endswith(ending)]


def transposed(settings, state):
    for name in every(state, "attn.c_proj.weight"):
        state[name] = state[name].T


def reordered(settings, state):
    for name in every(state, "attn.c_attn.weight") + every(state, "attn.c_attn.bias"):
        q, k, v = state[name].chunk(3, dim=-1)
        state[name] = torch.cat([v, k, q], dim=-1)


def by_heads(settings, state):
    for name in every(state, "attn.c_attn.weight") + every(state, "attn.c_attn.bias"):
        mixed = state[name].unflatten(-1, (settings["n_head"], 3, -1))  # q, k, v of head 0, then of head 1 ...
        state[name] = mixed.transpose(-2, -3).flatten(-3)


def exchanged(settings, state):
    for name in every(state, "ln_1.weight") + every(state, "ln_1.bias"):
        other = name.replace("ln_1", "ln_2")
        state[name], state[other] = state[other], state[name]


def without_bias(settings, state):
    for name in every(state, "mlp.c_fc.bias"):
        state[name] = torch.zeros_like(state[name])


def moved(settings, state):
    state["transformer.wpe.weight"] = state["transformer.wpe.weight"].roll(1, 0)


SLIPS = {
    "c_proj of attention transposed": transposed,
    "c_attn read as v, k, q": reordered,
    "c_attn read head by head": by_heads,
    "ln_1 and ln_2 exchanged": exchanged,
    "biases of c_fc left at zero": without_bias,
    "positions moved by one": moved,
    "12 heads in place of 4": lambda settings, state: settings.update(n_head=12),
    "exact GELU": lambda settings, state: settings.update(activation_function="gelu"),
    "eps 1e-6 in place of 1e-5": lambda settings, state: settings.update(layer_norm_epsilon=1e-6),
}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": None, "eos_token_id": None}


def with_slip(settings, state, slip, ids, **more):
    """What a model of transformers returns that was loaded with a slip."""
    settings, state = dict(settings), {name: value for name, value in state.items() if name != "lm_head.weight"}
    slip(settings, state)
    model = GPT2LMHeadModel(GPT2Config(**settings)).eval()
    return torch.func.functional_call(model, state, (ids,), more)


settings = NO_DROPOUT | {"vocab_size": 50, "n_positions": 32, "n_embd": 48, "n_layer": 2, "n_head": 4}
torch.manual_seed(0)
fresh = GPT2LMHeadModel(GPT2Config(**settings)).eval()
worn = copy.deepcopy(fresh)
with torch.no_grad():
    for name, parameter in worn.named_parameters():
        noise = torch.randn(parameter.shape)
        parameter.copy_(0.15 * noise if parameter.ndim == 2 else 0.2 * noise + name.endswith("weight"))
ids = torch.randint(50, (4, 24))
figure = go.Figure()
with torch.no_grad():
    for label, symbol, model in (
        ("first weights", "triangle-up", fresh),
        ("all random and large", "circle", worn),
    ):
        right, state = model(ids).logits, model.state_dict()
        wrong = [with_slip(settings, state, slip, ids).logits for slip in SLIPS.values()]
        apart = [float((logits - right).abs().max()) for logits in wrong]
        for name, difference in zip(SLIPS, apart, strict=True):
            print(f"{label:26} {name:32} {difference:.1e}")
        figure.add_scatter(
            x=[max(difference, 1e-8) for difference in apart],
            y=list(SLIPS),
            mode="markers",
            marker={"symbol": symbol, "size": 11},
            name=label,
            customdata=apart,
            hovertemplate="%{y}<br>logits differ by %{customdata:.1e}<extra>" + label + "</extra>",
        )
figure.add_vline(x=1e-4, line={"color": plots.GREY, "dash": "dash"})
figure.update_xaxes(
    title="largest difference of the logits (dashed: 1e-4)", type="log", dtick=2, exponentformat="power"
)
figure.update_yaxes(autorange="reversed", automargin=True)
figure.update_layout(height=420, legend={"orientation": "h", "y": -0.25})
figure.show()

# %% [markdown]
# All nine load without an error. (The dashed line is a usual limit for such a comparison: two correct programs in float32
# differ by less, because they round differently.) With the first weights three of them stay below the line: norms of ones and zeros may change places,
# and biases of zero may be forgotten, with a difference of exactly 0 (drawn at $10^{-8}$), and the exact GELU stays far
# below $10^{-4}$. Such a model cannot tell you whether your loader is right. Only epsilon shows better in it, because the
# variances that it is added to are small. In the tests of this lab every parameter is drawn at random, and large.
#
# ## Exercise 1 · `read_header`
#
# Begin with the file. `read_header` says which tensors are in it, of what type and shape, and where. `read_tensor`
# returns one of them. Both get the content of the file as `bytes`.
#
# A file from a stranger is not to be trusted. A header that contradicts itself must not be believed in part: refuse
# it. The format forbids gaps and overlaps, so nothing can be hidden between the tensors.
#
# *Difficulty 2 of 5 · 20 minutes · 5 points*


# %% exercise="read_header" difficulty=2 minutes=20 forbid=["safetensors.torch", "safetensors.safe_open", "safetensors.deserialize"]
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
    ### BEGIN SOLUTION
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
    ### END SOLUTION


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
    ### BEGIN SOLUTION
    entries = read_header(blob)
    if name not in entries:
        raise KeyError(f"there is no tensor {name!r}; there are {', '.join(entries)}")
    entry = entries[name]
    dtype, data = DTYPES[entry["dtype"]], bytearray(blob[entry["begin"] : entry["end"]])
    if not data:
        return torch.empty(entry["shape"], dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).reshape(entry["shape"])
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary><code>int.from_bytes</code> turns bytes into a number, and asks you for the order.
# <code>json.loads</code> raises a ValueError of its own where there is no JSON. <code>DTYPES[name].itemsize</code> is the
# size of one number in bytes, and the product of an empty shape is 1.</details>
# <details><summary>A bigger nudge</summary>Where the data begins is 8 + n; add it to both offsets. To find gaps and
# overlaps, sort the tensors by both places, begin and end (a tensor without numbers begins where its neighbour does), and walk along: each has to begin where the one before it ended, and the last
# has to end with the file. For the numbers, <code>torch.frombuffer</code> reads a <code>bytearray</code>, but not an empty
# one.</details>

# %% test="read_header" points=3
from coursekit import check

import struct

import torch

text = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}  '
blob = struct.pack("<Q", 56) + text + struct.pack("<2f", 1.0, 2.0)
check.equal(
    read_header(blob),
    {"w": {"dtype": "F32", "shape": [2], "begin": 64, "end": 72}},
    'the file of 72 bytes in "The idea"',
)
check.raises(ValueError, lambda: read_header(blob[:40]), "the same file, cut off after 40 bytes")
check.raises(ValueError, lambda: read_header(blob[:-4]), "the same file without its last number")
### BEGIN HIDDEN TESTS
import json

import safetensors
from safetensors.torch import save


def pack(header, data=b"", spaces=0):
    text = (header if isinstance(header, str) else json.dumps(header)).encode() + b" " * spaces
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


draw = torch.Generator().manual_seed(check.seed(1))
tensors = {
    "b": torch.randn(3, 5, generator=draw),
    "a.weight": torch.randn(7, generator=draw, dtype=torch.float64),
    "größe": torch.randn(2, 1, 3, generator=draw).half(),
    'a "name"': torch.randn(3, generator=draw).bfloat16(),
    "one number": torch.tensor(3.5),
    "nothing": torch.empty(0, 4),
    "ids": torch.tensor([1, -2, 3]),
    "i32": torch.tensor([[5, 6]], dtype=torch.int32),
    "i16": torch.tensor([5, 6, 7], dtype=torch.int16),
    "i8": torch.tensor([-1], dtype=torch.int8),
    "u8": torch.tensor([255, 0, 3], dtype=torch.uint8),
    "mask": torch.tensor([True, False, True, True, False]),
}
for case, blob in {
    "12 tensors, all types": save(tensors),
    "with __metadata__": save(tensors, metadata={"format": "pt", "dtype": "F32"}),
    "no tensor at all": save({}),
    "metadata alone": save({}, metadata={"format": "pt"}),
    "300 bytes of spaces after the header": pack({"w": entry("U8", [2, 1], 0, 2)}, b"ab", 300),
    "a header whose length is no multiple of 8": pack({"w": entry("U8", [2, 1], 0, 2)}, b"ab", 301),
    "a header in another order than the data": pack(
        {"z": entry("U8", [4], 6, 10), "y": entry("I16", [3], 0, 6), "x": entry("F32", [0], 6, 6)}, bytes(range(10)), 3
    ),
}.items():
    want = {
        name: [tensor["dtype"], tensor["shape"], bytes(tensor["data"])]
        for name, tensor in safetensors.deserialize(blob)
    }
    found = read_header(blob)
    check.equal(sorted(found), sorted(want), f"{case}: the names")
    for name, tensor in want.items():
        mine = found[name]
        check.equal(sorted(mine), ["begin", "dtype", "end", "shape"], f"{case}: what is said of {name}")
        got = [mine["dtype"], mine["shape"], blob[mine["begin"] : mine["end"]]]
        check.equal(got, tensor, f"{case}: dtype, shape and bytes of {name}, as the safetensors library finds them")
        check.equal(mine["end"] - mine["begin"], len(tensor[2]), f"{case}: end - begin of {name}")

good = {"v": entry("F32", [2], 0, 8), "w": entry("U8", [2], 8, 10)}
read_header(pack(good, bytes(10)))
for case, blob in {
    "nothing": b"",
    "7 bytes": bytes(7),
    "8 bytes, and no header": bytes(8),
    "a header that is longer than the file": struct.pack("<Q", 1 << 40) + b"{}",
    "a header that is longer than the file by one byte": struct.pack("<Q", 3) + b"{}",
    "no JSON": pack('{"w":'),
    "a JSON list": pack("[]"),
    "JSON that is only a number": pack("3"),
    "no UTF-8": struct.pack("<Q", 7) + b'{"\xff":1}',
    "an entry without a shape": pack({"w": {"dtype": "U8", "data_offsets": [0, 2]}}, bytes(2)),
    "an entry without offsets": pack({"w": {"dtype": "U8", "shape": [2]}}, bytes(2)),
    "an unknown type": pack({"w": entry("F31", [2], 0, 8)}, bytes(8)),
    "more bytes than the shape asks for": pack({"w": entry("F32", [1], 0, 8)}, bytes(8)),
    "fewer bytes than the shape asks for": pack({"w": entry("F32", [3], 0, 8)}, bytes(8)),
    "bytes for another type": pack({"w": entry("F32", [4], 0, 8)}, bytes(8)),
    "one number, and room for two": pack({"w": entry("F32", [], 0, 8)}, bytes(8)),
    "a gap and an overlap": pack({"v": entry("U8", [3], 1, 4), "w": entry("U8", [2], 3, 5)}, bytes(5)),
    "a gap before the first tensor": pack({"w": entry("U8", [2], 1, 3)}, bytes(3)),
    "a gap between two tensors": pack(good | {"w": entry("U8", [2], 9, 11)}, bytes(11)),
    "two tensors in the same place": pack({"v": entry("U8", [2], 0, 2), "w": entry("U8", [2], 0, 2)}, bytes(2)),
    "two tensors that overlap": pack(good | {"w": entry("U8", [2], 7, 9)}, bytes(9)),
    "bytes after the last tensor": pack(good, bytes(11)),
    "a file that lacks its last byte": pack(good, bytes(9)),
    "data, and no tensor": pack({}, bytes(4)),
}.items():
    check.raises(ValueError, lambda blob=blob: read_header(blob), f"refused: {case}")
### END HIDDEN TESTS

# %% test="read_header" points=2
from coursekit import check

import struct

import torch

text = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}  '
blob = struct.pack("<Q", 56) + text + struct.pack("<2f", 1.0, 2.0)
check.equal(read_tensor(blob, "w"), torch.tensor([1.0, 2.0]), 'the tensor of the file in "The idea"')
check.raises(KeyError, lambda: read_tensor(blob, "x"), "a tensor that is not there", match="x")
### BEGIN HIDDEN TESTS
import json

from safetensors.torch import load, save

draw = torch.Generator().manual_seed(check.seed(2))
tensors = {
    "b": torch.randn(3, 5, generator=draw),
    "square": torch.randn(4, 4, generator=draw),
    "f64": torch.randn(7, generator=draw, dtype=torch.float64),
    "f16": torch.randn(2, 1, 3, generator=draw).half(),
    "bf16": torch.randn(3, 2, generator=draw).bfloat16(),
    "extreme": torch.tensor([torch.inf, -torch.inf, torch.nan, -0.0, 1e-45, 3e38]),
    "one number": torch.tensor(3.5),
    "nothing": torch.empty(0, 4),
    "nothing either": torch.empty(3, 0, 2, dtype=torch.int64),
    "ids": torch.tensor([1, -2, 3 << 40]),
    "i32": torch.tensor([[5, -6]], dtype=torch.int32),
    "i16": torch.tensor([5, 6, 700], dtype=torch.int16),
    "i8": torch.tensor([-1], dtype=torch.int8),
    "u8": torch.tensor([[255], [0], [3]], dtype=torch.uint8),
    "mask": torch.tensor([True, False, True, True, False]),
}
blob = save(tensors, metadata={"format": "pt"})
for name, want in load(blob).items():
    check.equal(read_tensor(blob, name), want, f"{name}, as the safetensors library reads it")
# A header of odd length, so that no number lies at a multiple of its size.
entries = {"v": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}}
entries["w"] = {"dtype": "F32", "shape": [2, 2], "data_offsets": [3, 19]}
text = json.dumps(entries).encode()
text += b" " * (1 - len(text) % 2)
odd = struct.pack("<Q", len(text)) + text + b"abc" + struct.pack("<4f", 1.0, -2.0, 3.0, -4.0)
check.equal(read_tensor(odd, "w"), torch.tensor([[1.0, -2.0], [3.0, -4.0]]), "numbers at odd places in the file")
check.equal(read_tensor(odd, "v"), torch.tensor([97, 98, 99], dtype=torch.uint8), "the bytes before them")
check.raises(KeyError, lambda: read_tensor(blob, "__metadata__"), "__metadata__ is no tensor", match="__metadata__")
check.raises(ValueError, lambda: read_tensor(blob[:-1], "b"), "a file that lacks its last byte")
### END HIDDEN TESTS


# %% alternative="read_header"
def read_header(blob):
    import struct

    try:
        (n,) = struct.unpack_from("<Q", blob, 0)
        if n > len(blob) - 8:
            raise ValueError("cut off")
        found, sizes = {}, []
        for name, (dtype, shape, offsets) in (
            (name, (e.pop("dtype"), e.pop("shape"), e.pop("data_offsets")))
            for name, e in json.loads(str(blob[8 : 8 + n], "utf-8")).items()
            if name != "__metadata__"
        ):
            count = 1
            for size in shape:
                count = count * size
            if offsets[1] - offsets[0] != count * torch.empty((), dtype=DTYPES[dtype]).element_size():
                raise ValueError("wrong size")
            found[name] = {"shape": shape, "dtype": dtype, "begin": 8 + n + offsets[0], "end": 8 + n + offsets[1]}
            sizes.append(tuple(offsets))
    except (KeyError, AttributeError, struct.error) as error:
        raise ValueError(f"malformed: {error}") from None
    sizes = [(0, 0), *sorted(sizes), (len(blob) - 8 - n,) * 2]
    if any(sizes[i][1] != sizes[i + 1][0] for i in range(len(sizes) - 1)):
        raise ValueError("a gap or an overlap")
    return found


def read_tensor(blob, name):
    import numpy as np

    entry = read_header(blob)[name]
    raw = torch.from_numpy(np.frombuffer(blob[entry["begin"] : entry["end"]], dtype=np.uint8).copy())
    print(name, len(raw), "bytes")
    numbers = torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
    numbers.view(-1).view(torch.uint8)[...] = raw
    return numbers


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

# %% equivalent="read_header"
{
    "drop: raise ValueError(f'the header should be {length} bytes long, and the file has {len(blob)}: cut off, or no such file')": (
        "a header that is cut off is no JSON, and where it is, the tensors do not end with the file; the text is clearer"
    ),
    "drop: raise KeyError(f\"there is no tensor {name!r}; there are {', '.join(entries)}\")": (
        "looking the name up in the dict raises a KeyError with the name, too"
    ),
}

# %% [markdown]
# ## Exercise 2 · `gpt_config`
#
# The weights do not say how many heads there are: the matrices of 4 heads and of 12 have the same shape. Nor do they say
# which GELU, or what epsilon. That is in `config.json`. Translate it into the settings of your GPT, and refuse what your
# GPT cannot do. A model that computes something else is worse than an error.
#
# *Difficulty 2 of 5 · 10 minutes · 4 points*


# %% exercise="gpt_config" difficulty=2 minutes=10 forbid=["AutoConfig"]
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
    ### BEGIN SOLUTION
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
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Three kinds of entries: those that have to be there, those with a value to fall back
# on, and those with only one value that your GPT can do. Treat each kind by itself.</details>
# <details><summary>A bigger nudge</summary><code>settings.get(name, default)</code> gives the default where the entry is
# absent, but not where it is there and None. Which of the entries can be there and None?</details>

# %% test="gpt_config" points=4
from coursekit import check

FIELDS = ("vocab_size", "context", "d_model", "n_layers", "n_heads", "d_ff", "dropout", "eps")
# What the config.json of the smallest GPT-2 says, as far as it matters here.
small = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "resid_pdrop": 0.1,
}
small |= {"n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257}
small |= {"layer_norm_epsilon": 1e-05, "initializer_range": 0.02}
found = gpt_config(small)
check.equal(
    [getattr(found, name) for name in FIELDS],
    [50257, 1024, 768, 12, 12, 3072, 0.0, 1e-05],
    f"the smallest GPT-2: {', '.join(FIELDS)}",
)
for name in ("relu", "gelu"):
    wrong = small | {"activation_function": name}
    check.raises(
        ValueError, lambda wrong=wrong: gpt_config(wrong), f"the activation is {name!r}", match="activation_function"
    )
### BEGIN HIDDEN TESTS
import json

from transformers import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel
from transformers.utils import logging

logging.set_verbosity_error()
base = {"vocab_size": 19, "n_positions": 9, "n_embd": 12, "n_layer": 2, "n_head": 3}
for changes in (
    {},
    {"n_inner": 20, "layer_norm_epsilon": 0.1, "resid_pdrop": 0.5},
    {"n_inner": None, "n_head": 6, "n_layer": 3, "activation_function": "gelu_pytorch_tanh"},
    {"n_embd": 10, "n_head": 1, "n_positions": 40, "layer_norm_epsilon": 1e-12, "attn_pdrop": 0.0},
):
    config = GPT2Config(**base | changes)
    model = GPT2LMHeadModel(config).transformer
    block = model.h[0]
    want = [*model.wte.weight.shape[:1], *model.wpe.weight.shape, len(model.h), block.attn.num_heads, block.mlp.c_fc.nf]
    want += [0.0, block.ln_1.eps]
    case = f"a GPT-2 with {changes}" if changes else "a small GPT-2"
    settings = json.loads(config.to_json_string(use_diff=False))
    found = gpt_config(settings)
    check.equal([getattr(found, name) for name in FIELDS], want, f"{case}: {', '.join(FIELDS)}")
    found = gpt_config(settings | {"n_ctx": 5})
    check.equal([getattr(found, name) for name in FIELDS], want, f"{case}, with n_ctx = 5: {', '.join(FIELDS)}")
least = base | {"model_type": "gpt2"}
found = gpt_config(least)
check.equal(
    [getattr(found, name) for name in FIELDS],
    [19, 9, 12, 2, 3, 48, 0.0, 1e-5],
    f"nothing but what must be there: {least}",
)
for name in least:
    short = {key: value for key, value in least.items() if key != name}
    check.raises(ValueError, lambda short=short: gpt_config(short), f"{name} is absent", match=name)
fine = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
fine |= {"tie_word_embeddings": True, "activation_function": "gelu_new", "reorder_and_upcast_attn": True}
check.equal(gpt_config(least | fine).n_heads, 3, "what has to have a certain value is there and has it")
for name, value in (
    *((name, not value) for name, value in fine.items() if isinstance(value, bool) and "upcast" not in name),
    *(("activation_function", value) for value in ("gelu", "relu", "silu", "gelu_new_exact")),
    ("model_type", "gpt_neox"),
    ("model_type", "bert"),
):
    check.raises(ValueError, lambda n=name, v=value: gpt_config(least | {n: v}), f"{name} is {value}", match=name)
### END HIDDEN TESTS


# %% alternative="gpt_config"
def gpt_config(settings):
    known = {"activation_function": "gelu_new", "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
    known |= {"add_cross_attention": False, "tie_word_embeddings": True, "layer_norm_epsilon": 1e-5, "n_inner": None}
    s = known | settings
    try:
        sizes = [s[name] for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")]
        kind = s["model_type"]
    except KeyError as error:
        raise ValueError(f"{error} is absent") from None
    problems = [name for name, value in known.items() if isinstance(value, bool) and s[name] is not value]
    problems += ["model_type"] * (kind != "gpt2")
    problems += ["activation_function"] * (s["activation_function"] not in {"gelu_new", "gelu_pytorch_tanh"})
    if problems:
        raise ValueError(", ".join(problems))
    return GPTConfig(*sizes, s["n_inner"] if s["n_inner"] else sizes[2] * 4, 0.0, s["layer_norm_epsilon"])


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

# %% [markdown]
# ## Exercise 3 · `convert_gpt2`
#
# Now the names and the layouts. The table under "Shapes" says what belongs to what. One thing is left to find out: what
# has to be transposed? Ours are used as `x @ w`. Look at the shape of `c_fc` and decide. Then think about `c_proj` of
# attention, which is square and does not tell.
#
# Files differ in what is around the weights:
# - Most have names with `transformer.` in front. The oldest ones, the first GPT-2 on the hub among them, have not.
# - `lm_head.weight` is there or not. It is the token table a second time.
# - Old files also hold `attn.bias` and `attn.masked_bias` in each block. These are no biases. They are the causal mask
#   and a very negative number.
#
# *Difficulty 3 of 5 · 20 minutes · 5 points*


# %% exercise="convert_gpt2" difficulty=3 minutes=20
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
    ### BEGIN SOLUTION
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
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Two small dicts do most of the work: one for the names outside the blocks, one for the
# ends of names inside them. What is in neither dict is special, and there are only four such names.</details>
# <details><summary>A bigger nudge</summary>Cut a name at its dots, or use a regular expression: the number of a block may have
# two digits. Collect unknown names in a list and complain at the end, once. For the transposes: a product
# <code>x @ w</code> turns d numbers into d_ff, so what is the shape of w, and what is the shape of c_fc?</details>

# %% test="convert_gpt2" points=5
from coursekit import check

import torch

state = {
    "transformer.wte.weight": torch.arange(12.0).view(3, 4),
    "transformer.h.0.attn.c_attn.weight": torch.arange(48.0).view(4, 12),
    "transformer.h.0.attn.c_attn.bias": torch.arange(12.0) + 100,
    "transformer.h.0.attn.c_proj.weight": torch.arange(16.0).view(4, 4),
    "transformer.h.0.attn.bias": torch.ones(1, 1, 5, 5).tril(),
    "lm_head.weight": torch.arange(12.0).view(3, 4),
}
found = convert_gpt2(state)
want = {
    "token_embedding": state["transformer.wte.weight"],
    "blocks.0.attention.w_q": torch.tensor([[0.0, 1, 2, 3], [12, 13, 14, 15], [24, 25, 26, 27], [36, 37, 38, 39]]),
    "blocks.0.attention.w_k": torch.tensor([[4.0, 5, 6, 7], [16, 17, 18, 19], [28, 29, 30, 31], [40, 41, 42, 43]]),
    "blocks.0.attention.w_v": torch.tensor([[8.0, 9, 10, 11], [20, 21, 22, 23], [32, 33, 34, 35], [44, 45, 46, 47]]),
    "blocks.0.attention.b_q": torch.tensor([100.0, 101.0, 102.0, 103.0]),
    "blocks.0.attention.b_k": torch.tensor([104.0, 105.0, 106.0, 107.0]),
    "blocks.0.attention.b_v": torch.tensor([108.0, 109.0, 110.0, 111.0]),
    "blocks.0.attention.w_o": torch.arange(16.0).view(4, 4),
}
check.equal(sorted(found), sorted(want), "the names that six tensors of a small file become")
for name, value in want.items():
    check.equal(found[name], value, f"{name} of the small file")
strange = state | {"transformer.h.0.attn.rotary": torch.zeros(1), "h.0.extra": torch.zeros(1)}
check.raises(ValueError, lambda: convert_gpt2(strange), "two unknown names", match="transformer.h.0.attn.rotary")
### BEGIN HIDDEN TESTS
from transformers import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel
from transformers.utils import logging

logging.set_verbosity_error()
check.raises(ValueError, lambda: convert_gpt2(strange), "two unknown names, and the other one", match="h.0.extra")
none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": None, "eos_token_id": None}
for V, context, d, n_layers, n_heads, d_ff, dtype in (
    (50, 13, 12, 11, 3, 20, torch.float64),
    (7, 9, 6, 1, 1, None, torch.float32),
    (11, 9, 12, 2, 6, 12, torch.float64),
):
    config = GPT2Config(
        vocab_size=V, n_positions=context, n_embd=d, n_layer=n_layers, n_head=n_heads, n_inner=d_ff, **none
    )
    config._attn_implementation = "eager"
    twin = GPT2LMHeadModel(config).to(dtype).eval()
    draw = torch.Generator().manual_seed(check.seed(d + n_layers))
    with torch.no_grad():
        for parameter in twin.parameters():
            noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
            parameter.copy_(noise / parameter.shape[0] ** 0.5 if parameter.ndim == 2 else 0.3 * noise)
        twin.transformer.wte.weight.mul_(V**0.5)
    full = {name: value.clone() for name, value in twin.state_dict().items()}
    masks = {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, context, context).tril() for i in range(n_layers)}
    masks |= {f"transformer.h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(n_layers)}
    no_head = {name: value for name, value in full.items() if name != "lm_head.weight"}
    backwards = dict(reversed([*full.items(), *masks.items()]))
    cases = {
        "with lm_head": full,
        "without lm_head": no_head,
        "an old file: no prefix, with the masks": {
            n.removeprefix("transformer."): v for n, v in (masks | no_head).items()
        },
        "everything, from the last to the first": backwards,
    }
    ids = torch.randint(V, (2, context), generator=draw)
    with torch.no_grad():
        logits = twin(ids, use_cache=False).logits
    of_block = {"norm_1.weight": "ln_1.weight", "norm_1.bias": "ln_1.bias"}
    of_block |= {"norm_2.weight": "ln_2.weight", "norm_2.bias": "ln_2.bias"}
    of_block |= {"attention.w_o": "attn.c_proj.weight", "attention.b_o": "attn.c_proj.bias"}
    of_block |= {"feed_forward.w_in": "mlp.c_fc.weight", "feed_forward.b_in": "mlp.c_fc.bias"}
    of_block |= {"feed_forward.w_out": "mlp.c_proj.weight", "feed_forward.b_out": "mlp.c_proj.bias"}
    want = {"token_embedding": full["transformer.wte.weight"], "position_embedding": full["transformer.wpe.weight"]}
    want |= {f"final_norm.{part}": full[f"transformer.ln_f.{part}"] for part in ("weight", "bias")}
    for i in range(n_layers):
        want |= {f"blocks.{i}.{mine}": full[f"transformer.h.{i}.{theirs}"] for mine, theirs in of_block.items()}
        for short, long in (("w", "weight"), ("b", "bias")):
            whole = full[f"transformer.h.{i}.attn.c_attn.{long}"]
            want |= {f"blocks.{i}.attention.{short}_{c}": whole[..., j * d : (j + 1) * d] for j, c in enumerate("qkv")}
    for case, state in cases.items():
        case = f"{n_layers} layers, d={d}, {n_heads} heads, {case}"
        found = convert_gpt2(state)
        check.equal(sorted(found), sorted(want), f"{case}: the names")
        if state is full:
            for name, value in want.items():
                check.equal(found[name], value, f"{case}: {name}")
        flat = [torch.cat([values[name].flatten() for name in sorted(want)]) for values in (found, want)]
        check.equal(*flat, f"{case}: all values, one tensor after the other")
    model = GPT(GPTConfig(V, context, d, n_layers, n_heads, d_ff or 4 * d))
    model.to(dtype)
    model.load_state_dict(found)
    atol = 1e-9 if dtype == torch.float64 else 1e-4
    check.close(model(ids), logits, f"{case}: a GPT with these weights has the logits of transformers", atol=atol)
# Every number keeps its type.
for dtype in (torch.bfloat16, torch.float16):
    found = convert_gpt2({name: value.to(dtype) for name, value in no_head.items()})
    check.equal({str(value.dtype) for value in found.values()}, {str(dtype)}, f"the dtypes of a file in {dtype}")
other_head = full | {"lm_head.weight": full["lm_head.weight"] + 1e-3}
check.raises(ValueError, lambda: convert_gpt2(other_head), "a head with other values than the table", match="lm_head")
longer = full | {"lm_head.weight": torch.cat([full["lm_head.weight"]] * 2)}
check.raises(ValueError, lambda: convert_gpt2(longer), "a head with more rows than the table", match="lm_head")
for name in ("transformer.h.0.attn.c_attn.weight", "transformer.h.1.attn.c_attn.bias"):
    uneven = no_head | {name: full[name][..., :-1]}
    check.raises(ValueError, lambda uneven=uneven: convert_gpt2(uneven), f"{name} without its last column", match=name)
for name in (
    "transformer.h.0.attn.bias2",
    "transformer.wte.bias",
    "h.x.ln_1.weight",
    "model.wte.weight",
    "score.weight",
):
    more = no_head | {name: torch.zeros(3)}
    check.raises(ValueError, lambda more=more: convert_gpt2(more), f"the unknown name {name}", match=name)
check.equal(sorted(convert_gpt2({})), [], "nothing becomes nothing: what is absent is not convert_gpt2's to notice")
### END HIDDEN TESTS


# %% alternative="convert_gpt2"
def convert_gpt2(state):
    new, wrong = {}, []
    middle = {"attn": "attention", "mlp": "feed_forward", "ln_1": "norm_1", "ln_2": "norm_2"}
    letters = {"attn.c_proj": "o", "mlp.c_fc": "in", "mlp.c_proj": "out"}
    for name in state:
        value, parts = state[name], name.split(".")
        if parts[0] == "transformer":
            parts = parts[1:]
        match parts:
            case ["wte", "weight"]:
                new["token_embedding"] = torch.einsum("vd->vd", value)
            case ["wpe", "weight"]:
                new["position_embedding"] = value.clone()
            case ["ln_f", ("weight" | "bias") as kind]:
                new[f"final_norm.{kind}"] = value
            case ["lm_head", "weight"] | ["h", _, "attn", "bias" | "masked_bias"]:
                pass
            case ["h", n, ("ln_1" | "ln_2") as norm, ("weight" | "bias") as kind] if n.isdigit():
                new[f"blocks.{n}.{middle[norm]}.{kind}"] = value
            case ["h", n, "attn", "c_attn", ("weight" | "bias") as kind] if n.isdigit():
                d = value.shape[-1] // 3
                if d * 3 != value.shape[-1]:
                    raise ValueError(f"{name}: {value.shape}")
                for i in range(3):
                    new[f"blocks.{n}.attention.{kind[0]}_{'qkv'[i]}"] = value.narrow(-1, i * d, d)
            case ["h", n, part, layer, ("weight" | "bias") as kind] if n.isdigit() and f"{part}.{layer}" in letters:
                new[f"blocks.{n}.{middle[part]}.{kind[0]}_{letters[f'{part}.{layer}']}"] = value
            case _:
                wrong.append(name)
    if wrong:
        raise ValueError(str(wrong))
    head, table = state.get("lm_head.weight"), new.get("token_embedding")
    if head is not None and table is not None and (head.shape != table.shape or (head != table).any()):
        raise ValueError("lm_head.weight")
    return new


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

# %% equivalent="convert_gpt2"
{"True -> False": "zip over three letters and three parts: there is nothing for strict to find"}

# %% [markdown]
# ## Exercise 4 · `load_strict`
#
# Now the numbers have to get into the model. Loading must be all or nothing. If anything does not fit, the message lists
# *everything* that does not, and the model stays as it was. Nobody wants to mend one name, load again, and be told of
# the next.
#
# A trap: `copy_` broadcasts. A tensor of shape `(1,)` goes into a bias of 768 numbers without a murmur.
#
# *Difficulty 3 of 5 · 15 minutes · 5 points*


# %% exercise="load_strict" difficulty=3 minutes=15 forbid=["load_state_dict"]
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
    ### BEGIN SOLUTION
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
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Two passes. The first only looks and collects. The second only copies. Between them stands
# one <code>raise</code>.</details>
# <details><summary>A bigger nudge</summary>The tensors in <code>model.state_dict()</code> are no copies: they are the memory of the
# parameters, so filling them in place fills the model. Compare shapes with <code>!=</code> and not by the number of
# elements.</details>

# %% test="load_strict" points=5
from coursekit import check

import torch

model = GPT(GPTConfig(vocab_size=5, context=3, d_model=4, n_layers=1, n_heads=2, d_ff=6))
shapes = {name: value.shape for name, value in model.state_dict().items()}
draw = torch.Generator().manual_seed(0)
state = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
load_strict(model, state)
for name, value in state.items():
    check.equal(model.state_dict()[name], value, f"{name} after loading")
more = state | {"head": torch.zeros(5, 4)}
check.raises(ValueError, lambda: load_strict(model, more), "a tensor that the model has not")
fewer = {name: value + 1 for name, value in state.items() if name != "final_norm.weight"}
check.raises(ValueError, lambda: load_strict(model, fewer), "a tensor of the model is missing")
one_number = {name: value + 1 for name, value in state.items()} | {"final_norm.bias": torch.zeros(1)}
check.raises(ValueError, lambda: load_strict(model, one_number), "a bias of one number, and the model has four")
# Four things are wrong: one missing, one unknown, two of another shape.
wrong = {name: value + 1 for name, value in state.items() if name != "blocks.0.attention.w_q"}
wrong |= {"head": torch.zeros(5, 4), "final_norm.bias": torch.zeros(1), "position_embedding": torch.zeros(7, 4)}
for text in ("blocks.0.attention.w_q", "head", "final_norm.bias", "position_embedding", "(7, 4)", "(3, 4)"):
    check.raises(
        ValueError, lambda: load_strict(model, wrong), f"four problems: the message holds {text!r}", match=text
    )
for name, value in state.items():
    check.equal(model.state_dict()[name], value, f"{name} after the error: what it was before")
### BEGIN HIDDEN TESTS
draw = torch.Generator().manual_seed(check.seed(1))
for sizes, dtype, given in (
    ((11, 9, 12, 2, 3, 20), torch.float32, torch.float32),
    ((7, 4, 6, 1, 1, 24), torch.float64, torch.float64),
    ((7, 4, 6, 2, 2, 5), torch.float32, torch.bfloat16),
    ((7, 4, 6, 2, 2, 5), torch.float32, torch.float16),
    ((7, 4, 6, 2, 2, 5), torch.float32, torch.float64),
    ((7, 4, 6, 2, 2, 5), torch.float64, torch.float32),
    ((7, 4, 6, 2, 2, 5), torch.bfloat16, torch.float32),
):
    model = GPT(GPTConfig(*sizes))
    model.to(dtype)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    state = {name: torch.randn(shape, generator=draw).to(given) for name, shape in shapes.items()}
    # Columns first in memory, and the names in another order than the model's.
    state = {name: value.T.contiguous().T if value.ndim == 2 else value for name, value in reversed(state.items())}
    case = f"a model of {dtype}, weights of {given}"
    found = load_and_spoil(model, state)
    for name, value in state.items():
        check.equal(found["values"][name], value.to(dtype), f"{case}: {name}, even if the state is changed afterwards")
    check.that(
        found["the same parameters"],
        f"{case}: the parameters are the same objects as before",
        hint="Fill the parameters in place (copy_).",
    )
    check.that(
        all(found["to be trained"]), f"{case}: the parameters can still be trained", hint="Leave requires_grad alone."
    )
    for name, value in model.state_dict().items():
        check.equal(str(value.dtype), str(dtype), f"{case}: the dtype of {name}")

model = GPT(GPTConfig(7, 4, 6, 2, 2, 24))
good = {name: value.clone() + 1 for name, value in model.state_dict().items()}
before = {name: value.clone() for name, value in model.state_dict().items()}
names = list(good)
w_o, b_in, table = "blocks.1.attention.w_o", "blocks.0.feed_forward.b_in", "token_embedding"
for case, wrong, texts in (
    ("the first tensor is missing", {n: v for n, v in good.items() if n != names[0]}, [names[0]]),
    ("the last tensor is missing", {n: v for n, v in good.items() if n != names[-1]}, [names[-1]]),
    (
        "block 1 is missing",
        {n: v for n, v in good.items() if "blocks.1" not in n},
        [n for n in names if "blocks.1" in n],
    ),
    ("nothing is there", {}, names),
    ("one too many", good | {"lm_head.weight": good[table]}, ["lm_head.weight"]),
    ("a third block", good | {f"blocks.2.norm_{i}.bias": torch.zeros(6) for i in (1, 2)}, ["blocks.2.norm_2.bias"]),
    ("a row would broadcast", good | {w_o: torch.zeros(1, 6)}, [w_o, "1, 6", "6, 6"]),
    ("a single number would broadcast", good | {b_in: torch.zeros(())}, [b_in, "()", "(24,)"]),
    ("one number in one axis would broadcast", good | {b_in: torch.zeros(1)}, [b_in, "(1,)", "(24,)"]),
    ("the same numbers in another shape", good | {w_o: torch.zeros(4, 9)}, [w_o, "4, 9", "6, 6"]),
    ("one axis too many", good | {w_o: torch.zeros(1, 6, 6)}, [w_o, "1, 6, 6"]),
    ("transposed", good | {"blocks.0.feed_forward.w_in": torch.zeros(24, 6)}, ["feed_forward.w_in", "24, 6", "6, 24"]),
    ("more rows than the table has", good | {table: torch.zeros(9, 6)}, [table, "9, 6", "7, 6"]),
    ("fewer rows than the table has", good | {table: torch.zeros(6, 6)}, [table, "6, 6", "7, 6"]),
    (
        "three problems of three kinds",
        {n: v for n, v in good.items() if n != table} | {"extra": torch.zeros(2), b_in: torch.zeros(5)},
        [table, "extra", b_in, "(5,)"],
    ),
):
    for text in texts[:3] + texts[-1:]:
        check.raises(
            ValueError, lambda w=wrong: load_strict(model, w), f"{case}: the message holds {text!r}", match=text
        )
    now = model.state_dict()
    for name, value in before.items():
        check.equal(now[name], value, f"{case}: {name} is what it was")
load_strict(model, good)
check.equal(model.state_dict()[w_o], good[w_o], "after all these errors a good state is loaded")
### END HIDDEN TESTS


# %% alternative="load_strict"
def load_strict(model, state):
    places = dict(model.named_parameters())
    print(len(places), "tensors")
    missing, extra = sorted(places.keys() - state.keys()), sorted(state.keys() - places.keys())
    shapes = [
        f"{name} should be {list(places[name].shape)} or {tuple(places[name].shape)}, it is {tuple(state[name].shape)}"
        for name in sorted(places.keys() & state.keys())
        if list(places[name].shape) != list(state[name].shape)
    ]
    if missing or extra or shapes:
        raise ValueError(f"missing {missing}, extra {extra}, shapes {shapes}")
    for name, parameter in places.items():
        parameter.data[...] = state[name].detach().to(parameter.dtype)


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

# %% equivalent="load_strict"
{
    "drop: problems.append('nothing was loaded; do the settings belong to these weights, and are the names converted?')": (
        "a sentence of advice in the message"
    ),
}

# %% [markdown]
# ## Exercise 5 · `load_pretrained`
#
# All parts are there. Take a folder, return a model.
#
# Large models come in several files, *shards*. Then there is no `model.safetensors`, but an index beside the shards,
# `model.safetensors.index.json`: `{"metadata": ..., "weight_map": {"transformer.wte.weight":
# "model-00001-of-00002.safetensors", ...}}`.
#
# *Difficulty 3 of 5 · 15 minutes · 6 points*


# %% exercise="load_pretrained" difficulty=3 minutes=15 forbid=["from_pretrained", "load_state_dict", "safetensors.torch", "safetensors.safe_open"]
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
    ### BEGIN SOLUTION
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
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>First find out which files to read. Then collect the tensors of all of them in one dict. The
# rest is three calls.</details>
# <details><summary>A bigger nudge</summary>The values of the <code>weight_map</code> are file names, each many times. Convert and
# load only when the tensors of all shards are together: a single shard is never complete. A new module is in training
# mode.</details>

# %% test="load_pretrained" points=6
from coursekit import check

import json

import torch
from safetensors.torch import save
from torch.nn import functional as F

# With zeros in c_proj, the blocks add nothing: what is left is tables, norm and head.
draw = torch.Generator().manual_seed(0)
table, places = torch.randn(7, 4, generator=draw), torch.randn(5, 4, generator=draw)
weight, bias = torch.tensor([1.0, 2.0, -1.0, 0.5]), torch.tensor([0.0, 0.5, 0.0, -1.0])
shapes = {"ln_1.weight": [4], "ln_1.bias": [4], "ln_2.weight": [4], "ln_2.bias": [4]}
shapes |= {
    "attn.c_attn.weight": [4, 12],
    "attn.c_attn.bias": [12],
    "attn.c_proj.weight": [4, 4],
    "attn.c_proj.bias": [4],
}
shapes |= {"mlp.c_fc.weight": [4, 16], "mlp.c_fc.bias": [16], "mlp.c_proj.weight": [16, 4], "mlp.c_proj.bias": [4]}
state = {f"transformer.h.0.{name}": torch.zeros(shape) for name, shape in shapes.items()}
state |= {"transformer.wte.weight": table, "transformer.wpe.weight": places}
state |= {"transformer.ln_f.weight": weight, "transformer.ln_f.bias": bias}
settings = {"model_type": "gpt2", "vocab_size": 7, "n_positions": 5, "n_embd": 4, "n_layer": 1, "n_head": 2}
settings |= {"layer_norm_epsilon": 0.5}
ids = torch.tensor([[3, 0, 6], [1, 1, 2]])
wanted = F.layer_norm(table[ids] + places[:3], (4,), weight, bias, eps=0.5) @ table.T
config = json.dumps(settings).encode()
model = load_files({"config.json": config, "model.safetensors": save(state)})
check.close(
    model(ids), wanted, "blocks that add nothing, one file: norm of (token row + position row), times the table"
)
first = {name: value for name, value in state.items() if ".h." in name}
shards = {"model-00001-of-00002.safetensors": save(first)}
shards["model-00002-of-00002.safetensors"] = save({name: state[name] for name in state if name not in first})
where = {name: f"model-0000{1 if name in first else 2}-of-00002.safetensors" for name in state}
index = json.dumps({"metadata": {}, "weight_map": where}).encode()
model = load_files(shards | {"config.json": config, "model.safetensors.index.json": index})
check.close(model(ids), wanted, "the same weights in two shards")
check.raises(FileNotFoundError, lambda: load_files({"config.json": config}), "a folder without weights")
### BEGIN HIDDEN TESTS
import tempfile
from pathlib import Path

from safetensors.torch import load
from transformers import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()


def saved(model, **how):
    """The files that transformers writes."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, **how)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def drawn(seed, d=32, n_layer=2, **changes):
    config = GPT2Config(vocab_size=50, n_positions=19, n_embd=d, n_layer=n_layer, **changes)
    config._attn_implementation = "eager"
    twin = GPT2LMHeadModel(config).eval()
    draw = torch.Generator().manual_seed(check.seed(seed))
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            parameter.copy_(0.2 * noise if parameter.ndim == 2 else 0.3 * noise + name.endswith("weight"))
    return twin


def logits_of(twin, ids):
    with torch.no_grad():
        return twin(ids, use_cache=False).logits


draw = torch.Generator().manual_seed(check.seed(3))
ids = torch.randint(50, (3, 19), generator=draw)
twin = drawn(4, n_head=4, layer_norm_epsilon=1e-2, n_inner=40)
files = saved(twin)
want = logits_of(twin, ids)
model = load_files(files)
check.equal(model.training, False, "the model is in evaluation mode")
check.equal({str(w.dtype) for w in model.state_dict().values()}, {"torch.float32"}, "the dtypes of the model")
for length in (19, 7, 1):
    case = f"2 layers, 4 heads, eps 0.01, d_ff 40, T={length}"
    check.close(model(ids[:, :length]), want[:, :length], f"{case}: the logits of transformers", atol=1e-4)
check.close(model(ids[:1]), want[:1], "a batch of one sequence", atol=1e-4)
shards = saved(twin, max_shard_size="20KB")
check.that(len(shards) > 4, "transformers has written shards")
check.close(load_files(shards)(ids), want, "the same model in shards of 20 KB", atol=1e-4)
stray = {"adapter_model.safetensors": save({"lora": torch.ones(3)})}
check.close(load_files(shards | stray)(ids), want, "shards, and files that the index does not name", atol=1e-4)
check.close(load_files(files | stray)(ids), want, "one file, and others that do not belong to it", atol=1e-4)
where = {"transformer.wte.weight": "model-00099-of-00099.safetensors"}
broken = {"model.safetensors.index.json": json.dumps({"weight_map": where}).encode()}
broken["model-00099-of-00099.safetensors"] = b"broken"
check.close(load_files(files | stray | broken)(ids), want, "one file, and an index: the file counts", atol=1e-4)

# An old file: no prefix, the masks of all blocks, the head, and n_ctx in the settings.
old = {name.removeprefix("transformer."): value for name, value in load(files["model.safetensors"]).items()}
old |= {f"h.{i}.attn.bias": torch.ones(1, 1, 19, 19).tril() for i in range(2)} | {
    "lm_head.weight": old["wte.weight"].clone()
}
config = json.dumps(json.loads(files["config.json"]) | {"n_ctx": 19}).encode()
model = load_files({"config.json": config, "model.safetensors": save(old)})
check.close(model(ids), want, "an old file: no prefix, masks and head in it", atol=1e-4)

# Half the bytes: the model is float32 again, with the values that the file has.
for dtype in (torch.bfloat16, torch.float16):
    half = drawn(5, d=24, n_layer=1, n_head=2).to(dtype)
    model = load_files(saved(half))
    check.equal(
        {str(w.dtype) for w in model.state_dict().values()}, {"torch.float32"}, f"the model from a file in {dtype}"
    )
    check.close(model(ids), logits_of(half.float(), ids), f"a file in {dtype}: the logits in float32", atol=1e-4)

# Whatever is not as it should be is refused.
config, weights = files["config.json"], load(files["model.safetensors"])
for case, changed in {
    "one tensor is missing": {n: w for n, w in weights.items() if n != "transformer.h.1.mlp.c_fc.bias"},
    "a block is missing": {n: w for n, w in weights.items() if ".h.1." not in n},
    "there is a tensor too many": weights | {"transformer.h.0.attn.extra": torch.zeros(3)},
    "there is a block too many": weights | {n.replace(".h.1.", ".h.2."): w.clone() for n, w in weights.items()},
    "the position table has other rows": weights | {"transformer.wpe.weight": torch.zeros(20, 32)},
    "a bias would broadcast": weights | {"transformer.ln_f.bias": torch.zeros(1)},
    "the head is another matrix": weights | {"lm_head.weight": torch.zeros(50, 32)},
}.items():
    broken = {"config.json": config, "model.safetensors": save(changed)}
    check.raises(ValueError, lambda broken=broken: load_files(broken), case)
shorter = files | {"model.safetensors": files["model.safetensors"][:-4]}
check.raises(ValueError, lambda: load_files(shorter), "the file lacks its last number")
other = files | {"config.json": json.dumps(json.loads(config) | {"activation_function": "relu"}).encode()}
check.raises(ValueError, lambda: load_files(other), "a model with another activation")
last = max(name for name in shards if name.endswith(".safetensors"))
fewer = {name: content for name, content in shards.items() if name != last}
check.raises(FileNotFoundError, lambda: load_files(fewer), "a shard is not there")
weights_alone = {name: content for name, content in files.items() if name != "config.json"}
check.raises(FileNotFoundError, lambda: load_files(weights_alone), "no config.json")
### END HIDDEN TESTS


# %% alternative="load_pretrained"
def load_pretrained(folder):
    import os

    def read(name):
        with open(os.path.join(folder, name), "rb") as file:
            return file.read()

    config = gpt_config(json.loads(read("config.json")))
    try:
        shards = {"model.safetensors": read("model.safetensors")}
    except FileNotFoundError:
        where = json.loads(read("model.safetensors.index.json"))["weight_map"]
        shards = {name: read(name) for name in where.values()}
    merged = {}
    for blob in shards.values():
        for name in read_header(blob):
            merged[name] = read_tensor(blob, name).float()
    print("read", len(merged), "tensors")
    model = GPT(config).float()
    load_strict(model, convert_gpt2(merged))
    model.train(False)
    return model


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

# %% [markdown]
# ## Look at it
#
# Let somebody else train a model. The cell uses `transformers` alone: its GPT-2 learns an old counting song, and is saved
# to a folder in shards. Then you load the folder with what you have written, compare the logits, and continue the
# song.

# %%
their_folder = tempfile.TemporaryDirectory()
words = ["One man", *(f"{n} men" for n in ("Two", "Three", "Four", "Five", "Six", "Seven"))]
verses = []
for count, who in enumerate(words):
    company = ", ".join(word.lower() for word in reversed(words[1 : count + 1]))
    company = f"{company[:1].upper()}{company[1:]}, one man" if company else "One man"
    verses.append(f"{who} went to mow,\nwent to mow a meadow.\n{company} and his dog\nwent to mow a meadow.\n\n")
song = "".join(verses)
letters = sorted(set(song))
numbers = torch.tensor([letters.index(letter) for letter in song])

torch.manual_seed(0)
song_settings = NO_DROPOUT | {"vocab_size": len(letters), "n_positions": 96, "n_embd": 48, "n_layer": 2, "n_head": 4}
theirs = GPT2LMHeadModel(GPT2Config(**song_settings))
optimiser = torch.optim.AdamW(theirs.parameters(), lr=6e-3)
for step in range(320):
    for group in optimiser.param_groups:
        group["lr"] = 6e-3 * min(1.0, (step + 1) / 20) * (1 - step / 320)
    starts = torch.randint(len(numbers) - 96, (8,))
    batch = numbers[starts[:, None] + torch.arange(96)]
    loss = theirs(batch, labels=batch).loss
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
theirs.eval()
theirs.save_pretrained(their_folder.name, max_shard_size="100KB")
print("in the folder:", *sorted(path.name for path in Path(their_folder.name).iterdir()), sep="\n    ")

try:
    mine = load_pretrained(their_folder.name)
    with torch.no_grad():
        apart = float((mine(batch) - theirs(batch).logits).abs().max())
    print(f"largest difference of the logits: {apart:.1e}")
    beginning = torch.tensor([[letters.index(letter) for letter in "Seven men went"]])
    print("".join(letters[i] for i in generate(mine, beginning, 80)[0]))
except NotImplementedError:
    print("load_pretrained is not written yet")
their_folder.cleanup()

# %% [markdown]
# Now the nine slips of the picture again, on this model. What do they do to its loss? Before you run the cell, guess
# which of them you would have noticed if the loss were all you had.

# %%
pieces = numbers[torch.arange(0, len(numbers) - 96, 37)[:, None] + torch.arange(96)]
song_state = theirs.state_dict()
with torch.no_grad():
    right = theirs(pieces, labels=pieces)
    rows = []
    for name, slip in SLIPS.items():
        wrong = with_slip(song_settings, song_state, slip, pieces, labels=pieces)
        rows.append((name, float(wrong.loss), float((wrong.logits - right.logits).abs().max())))
print(f"{'':34} loss    logits differ by")
print(f"{'loaded as it should be':34} {float(right.loss):.4f}")
for name, loss, apart in rows:
    print(f"{name:34} {loss:.4f}  {apart:.1e}")
figure = go.Figure(
    go.Bar(
        x=[loss for _, loss, _ in rows],
        y=[name for name, _, _ in rows],
        orientation="h",
        marker_color=plots.COLOURS[1],
        customdata=[apart for _, _, apart in rows],
        hovertemplate="%{y}<br>loss %{x:.4f}, logits differ by %{customdata:.1e}<extra></extra>",
    )
)
figure.add_vline(x=float(right.loss), line={"color": plots.COLOURS[0], "width": 3})
figure.update_xaxes(title="loss on the song in nats (line: loaded as it should be)", rangemode="tozero")
figure.update_yaxes(autorange="reversed", automargin=True)
figure.update_layout(height=400)
figure.show()

# %% [markdown]
# The exact GELU and the wrong epsilon do not change the loss in the four decimals shown, and the forgotten biases hardly do. A
# loss that looks right is no proof: it is an average, and it forgives. The logits do not. So whoever writes a
# conversion compares logits, and so does this lab.
#
# Why does the loss suffer so much less from 12 heads in place of 4 than from exchanging v and q, although both spoil every
# attention?
#
# <details><summary>An answer</summary>Each of the 4 heads has 12 columns, and is cut into three heads of 4. All of them
# still have their own queries, keys and values, and write to their own rows of <code>w_o</code>. The values are right, and
# each score is made of a third of the right products, times a scale that is too large. With v and q exchanged, the scores
# compare values with keys, and the output is a mixture of what was meant as queries: neither half is right.</details>
#
# With a network you can load the real thing. The cell below downloads about 550 MB when you set the flag. The course was
# written without a network, so nobody has tried it: it is the one cell of the lab whose result is not verified.

# %%
USE_THE_HUB = False
if USE_THE_HUB:
    from huggingface_hub import snapshot_download
    from tokenizers import Tokenizer

    gpt2_folder = snapshot_download(
        "openai-community/gpt2", allow_patterns=["config.json", "model.safetensors", "tokenizer.json"]
    )
    gpt2 = load_pretrained(gpt2_folder)
    tokenizer = Tokenizer.from_file(f"{gpt2_folder}/tokenizer.json")
    prompt = torch.tensor([tokenizer.encode("The first thing that an engineer does in the morning").ids])
    print(tokenizer.decode(generate(gpt2, prompt, 20)[0].tolist()))
else:
    print("nothing was downloaded: set USE_THE_HUB = True to load the GPT-2 of 2019")

# %% [markdown]
# Of those 550 MB, $124{,}439{,}808 \cdot 4$ bytes = 498 MB are weights. What are the other 50? (The file is one of the old ones.
# Each of 12 blocks holds a table of $1024 \cdot 1024$ numbers.)
#
# ## Common mistakes
#
# - **A square matrix transposed.** `c_proj` of attention is `(d, d)`. Shapes agree, loading succeeds, text comes out. The same
#   happens with `w_q`, `w_k` and `w_v` once `c_attn` is cut up.
# - **The wrong cut through c_attn.** Six orders of q, k and v, blocks or every third column, all at once or head by head: every one of
#   them fits. GPT-NeoX does store its heads one by one. Look it up for each model.
# - **`load_state_dict(state, strict=False)`.** It was written to get past one harmless key. Next month it hides that a prefix has changed and nothing
#   at all is loaded.
# - **A setting out of the wrong place.** The number of heads leaves no trace in any shape. Nor do epsilon and the kind of GELU.
# - **Tested with fresh weights.** Norms of ones and biases of zeros can be exchanged and forgotten. Draw all parameters at random
#   before you compare.
# - **Broadcast into place.** `copy_` takes what can be broadcast. Compare the shapes yourself.
# - **The head loaded as a copy.** A tied head that gets memory of its own gives the same logits, until the first step of training.
# - **The dtype of the file.** A model that stays in bfloat16 computes with two to three significant digits. Convert on
#   loading, and know that this does not bring lost digits back.
# - **Half a load.** A loader that copies first and checks later leaves a mixture of two models behind when it fails. In a notebook
#   the next cell goes on with it.
# - **Training mode.** A model with dropout that is used in training mode gives another answer each time.
#
# ## Going further
#
# - **Save, too.** Write `save_pretrained(model, folder)`: fuse c_attn again, write the header, and let `transformers` load the
#   folder. Pad the header with spaces so that the data begins at a multiple of 8. A reader that copies does not need it. Which reader does?
# - **The other direction of layouts.** nanoGPT keeps the names of GPT-2, but its layers are `nn.Linear`, which compute `x @ w.T`. Load a
#   checkpoint of it. (Andrej Karpathy, nanoGPT, 2022.)
# - **Read only what you need.** Map the file into memory (`mmap`) and let each tensor be a view of the map. Nothing is read until it is
#   used. Measure the time from the file to the first logit both ways.
# - **One loader, many models.** Pythia (Stella Biderman and others, Pythia: A Suite for Analyzing Large Language Models Across Training
#   and Scaling, 2023) has rotary positions, parallel branches and an untied head. What in this lab would have to change?
