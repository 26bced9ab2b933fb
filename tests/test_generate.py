"""`course generate`: text as it comes, by the learner's own functions where they pass, and no traceback for anybody."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from autograder import cli, generating
from coursekit import carry, reference
from tests.conftest import ROOT
from tests.learners import code_cell

LAB = generating.LAB
PROMPT = "ROMEO:\n"


@contextmanager
def course_named(root):
    """With COURSE_ROOT set, for fixtures of a wider scope than monkeypatch."""
    before = os.environ.get("COURSE_ROOT")
    os.environ["COURSE_ROOT"] = str(root)
    try:
        yield root
    finally:
        if before is None:
            del os.environ["COURSE_ROOT"]
        else:
            os.environ["COURSE_ROOT"] = before


@pytest.fixture(scope="module")
def reference_of():
    """The capstone's reference functions, whatever a notebook in this checkout's work/ says."""
    with course_named(ROOT), pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_GRADING", "1")
        names = ("load_model", "save_model", "stream", "Sampling")
        return SimpleNamespace(**{name: carry(LAB, name) for name in names})


@pytest.fixture(scope="module")
def checkpoint(reference_of, tmp_path_factory):
    """What `save_model` writes for a tiny model that nobody has trained; do not change it."""
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    with course_named(ROOT), pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_GRADING", "1")
        GPT, GPTConfig = carry("ch03/lab03", "GPT"), carry("ch03/lab03", "GPTConfig")
        tokenizer = carry(LAB, "Tokenizer")([(82, 79), (256, 77), (257, 69), (258, 79)])
        config = GPTConfig(tokenizer.vocab_size, context=12, d_model=8, n_layers=1, n_heads=2, d_ff=16)
        model = GPT(config)
        # First weights are small, and every token about as likely as another: larger ones make a distribution.
        model.load_state_dict({name: 8 * tensor for name, tensor in model.state_dict().items()})
        reference_of.save_model(path, model, tokenizer, config, {"step": 7, "validation_loss": 5.25})
    return path


@pytest.fixture
def course(tmp_path, monkeypatch):
    """This course, but with an empty work/ folder."""
    root = tmp_path / "course"
    root.mkdir()
    for name in ("_toc.yml", "source_solutions", "coursekit"):
        (root / name).symlink_to(ROOT / name)
    monkeypatch.setenv("COURSE_ROOT", str(root))
    for name in ("COURSE_GRADING", "NBGRADER_EXECUTION"):
        monkeypatch.delenv(name, raising=False)
    reference.load.cache_clear()
    return root


@pytest.fixture
def run(course):
    """Run `course generate …` in this process: exit code, standard output, standard error."""

    def invoke(*arguments, stdin=None):
        result = CliRunner().invoke(cli.app, ["generate", *map(str, arguments)], input=stdin)
        assert "Traceback" not in result.output
        return result.exit_code, result.stdout, result.stderr

    return invoke


@pytest.fixture
def fake(monkeypatch):
    """Functions of the capstone that do as they are told: `pieces` is what is streamed, `asked` what was asked."""
    told = SimpleNamespace(pieces=["text\n"], asked=None, loaded=("model", "tokenizer", {}))

    def load_model(path):
        if isinstance(told.loaded, Exception):
            raise told.loaded
        return told.loaded

    def stream(model, tokenizer, prompt, sampling):
        told.asked = (model, tokenizer, prompt, vars(sampling))
        for piece in told.pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    tools = generating.Tools(load_model, stream, SimpleNamespace, "")
    monkeypatch.setattr(generating, "tools", lambda root: tools)
    return told


def words(text):
    return " ".join(text.replace("│", " ").split())


# Text


def test_the_text_is_that_of_the_sampler_and_alone_on_standard_output(run, checkpoint, reference_of):
    model, tokenizer, _ = reference_of.load_model(checkpoint)
    settings = {"temperature": 0.9, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.1, "max_tokens": 30, "seed": 4}
    want = "".join(reference_of.stream(model, tokenizer, PROMPT, reference_of.Sampling(**settings)))
    options = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", value)]
    code, stdout, stderr = run(checkpoint, "--prompt", PROMPT, *options)
    assert (code, stdout.removesuffix("\n")) == (0, want.removesuffix("\n"))
    assert len(want) > 10
    assert stdout.endswith("\n")
    assert "load_model, stream: the reference (" in stderr
    assert "tiny.safetensors: step 7, validation_loss 5.25" in stderr


def test_options_are_handed_on(run, fake, checkpoint):
    assert run(checkpoint)[:2] == (0, "text\n")
    plain = {"temperature": 1.0, "top_k": None, "top_p": None, "repetition_penalty": 1.0, "stop": ()}
    assert fake.asked == ("model", "tokenizer", "\n", plain | {"max_tokens": 200, "seed": 0})
    given = {"temperature": 0.0, "top_k": 1, "top_p": 1.0, "repetition_penalty": 1.5, "max_tokens": 1, "seed": 9}
    options = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
    assert run(checkpoint, "--prompt", "A", *options, "--stop", "\n\n", "--stop", "b")[0] == 0
    assert fake.asked == ("model", "tokenizer", "A", given | {"stop": ("\n\n", "b")})


def test_the_same_seed_gives_the_same_text_and_another_seed_another(run, checkpoint):
    first, again, other = (run(checkpoint, "--prompt", PROMPT, "--seed", seed)[1] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_stop_string_ends_the_text_before_it(run, checkpoint):
    whole = run(checkpoint, "--prompt", PROMPT, "--temperature", 0, "--max-tokens", 40)[1]
    stop = whole[6:9]
    assert len(stop.strip()) > 0
    arguments = [checkpoint, "--prompt", PROMPT, "--temperature", 0, "--max-tokens", 40]
    code, stdout, _ = run(*arguments, "--stop", "no such text", "--stop", stop)
    assert (code, stdout.removesuffix("\n")) == (0, whole[: whole.index(stop)].removesuffix("\n"))


def test_pieces_are_written_as_they_come():
    read, written = os.pipe()
    os.set_blocking(read, False)  # what is not there yet is None
    with open(read, "rb", buffering=0) as reader, open(written, "w", encoding="utf-8") as out:

        def pieces():
            yield "first"
            assert reader.read(100) == b"first", "a reader has it before the next is asked for"
            yield ""
            yield "last"
            assert reader.read(100) == b"last"

        generating.write(pieces(), out)
        assert reader.read(100) == b"\n"


@pytest.mark.parametrize(
    ("pieces", "seen"), [(["a", "b\n"], "ab\n"), (["a\n", "b"], "a\nb\n"), (["a", ""], "a\n"), ([], ""), ([""], "")]
)
def test_the_line_is_ended_once(pieces, seen):
    out = io.StringIO()
    generating.write(pieces, out)
    assert out.getvalue() == seen


def test_a_character_that_cannot_be_shown_is_no_reason_to_stop():
    bytes_seen = io.BytesIO()
    out = io.TextIOWrapper(bytes_seen, encoding="ascii")
    generating.write(["née", "!"], out)
    assert bytes_seen.getvalue() == b"n?e!\n"


# The prompt


def test_the_prompt_comes_from_standard_input_where_it_is_a_dash(run, fake, checkpoint):
    assert run(checkpoint, "--prompt", "-", stdin="ROMEO:\nwhat\n")[0] == 0
    assert fake.asked[2] == "ROMEO:\nwhat\n"
    assert run(checkpoint, "--prompt", "B", stdin="not read")[0] == 0
    assert fake.asked[2] == "B"


def test_an_empty_standard_input_is_an_empty_prompt(run, checkpoint):
    results = [run(checkpoint, "--prompt", "", "--seed", 3), run(checkpoint, "--prompt", "-", "--seed", 3, stdin="")]
    assert results[0] == results[1]
    code, stdout, stderr = results[0]
    assert (code == 0 and stdout.strip()) or (code == 2 and "prompt" in stderr and stdout == "")


def test_nothing_is_read_where_no_prompt_is_asked_for(run, fake, checkpoint):
    assert run(checkpoint, stdin="")[:2] == (0, "text\n")
    assert fake.asked[2] == "\n"


@pytest.mark.parametrize("given", ["-", "\udcff"])
def test_a_prompt_that_is_no_text_is_refused(run, fake, checkpoint, given):
    code, stdout, stderr = run(checkpoint, "--prompt", given, stdin=b"\xff\xfe")
    assert (code, stdout, "not valid UTF-8" in words(stderr)) == (2, "", True)


# Refusals


def damaged(content):
    """The same file in other states, and a word that says what is wrong with it."""
    from safetensors.torch import load, save

    length = 8 + int.from_bytes(content[:8], "little")
    flipped = bytearray(content)
    flipped[length + (len(content) - length) // 2] ^= 1
    return {
        "empty": b"",
        "text": b"not a checkpoint at all, but long enough to look like one",
        "truncated": content[:-9],
        "one flipped bit": bytes(flipped),
        "of another program": save(load(content)),
    }


@pytest.mark.parametrize("state", ["empty", "text", "truncated", "one flipped bit", "of another program"])
def test_a_damaged_or_foreign_file_is_refused(run, checkpoint, tmp_path, state):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(damaged(checkpoint.read_bytes())[state])
    code, stdout, stderr = run(path)
    assert (code, stdout) == (2, "")
    assert "mine.safetensors" in stderr
    assert "save it again, or name another" in words(stderr)


def test_weights_that_do_not_fit_the_settings_are_refused(run, checkpoint, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(checkpoint, "pt") as file:
        metadata = file.metadata()
    metadata["config"] = json.dumps(json.loads(metadata["config"]) | {"d_model": 10})
    path = tmp_path / "mine.safetensors"
    save_file(load_file(checkpoint), path, metadata)
    code, stdout, stderr = run(path)
    assert (code, stdout, "mine.safetensors" in stderr) == (2, "", True)


def test_a_missing_file_is_refused_and_its_neighbours_are_named(run, checkpoint, tmp_path):
    code, stdout, stderr = run(tmp_path / "none.safetensors")
    assert (code, stdout) == (2, "")
    assert f"there is no file {tmp_path}/none.safetensors. Name the" in words(stderr)
    for number in range(7):
        shutil.copy(checkpoint, tmp_path / f"step{number}.safetensors")
    assert "there are: step0.safetensors, step1.safetensors" in words(run(tmp_path / "step9.safetensors")[2])
    code, stdout, stderr = run(tmp_path)
    assert (code, stdout) == (2, "")
    assert "is a folder" in stderr
    assert "step4.safetensors and 2 more" in words(stderr)
    assert run(tmp_path / "no folder" / "none.safetensors")[0] == 2


def test_a_load_model_that_breaks_is_named(run, fake, checkpoint):
    fake.loaded = KeyError("config")
    code, stdout, stderr = run(checkpoint)
    assert (code, stdout) == (2, "")
    assert "tiny.safetensors: load_model ended with KeyError: 'config'" in words(stderr)


def test_what_the_sampler_refuses_is_told_after_what_was_written(run, fake, checkpoint):
    fake.pieces = ["ab", ValueError("every logit is -inf; lower --top-k")]
    code, stdout, stderr = run(checkpoint)
    assert (code, stdout, stderr.strip()) == (2, "ab\n", "every logit is -inf; lower --top-k")


def test_what_nobody_has_foreseen_is_code_3(run, fake, checkpoint):
    fake.pieces = ["ab", ZeroDivisionError("oh")]
    code, stdout, stderr = run(checkpoint)
    assert (code, stdout, stderr.startswith("something broke: ZeroDivisionError: oh")) == (3, "ab\n", True)


WRONG = {
    "temperature below 0": (["--temperature", "-0.1"], "-0.1 is not a number from 0 on"),
    "temperature nan": (["--temperature", "nan"], "nan is not a number"),
    "temperature inf": (["--temperature", "inf"], "inf is not a number"),
    "top-p 0": (["--top-p", "0"], "0 is not above 0 and at most 1"),
    "top-p above 1": (["--top-p", "1.01"], "1.01 is not above 0 and at most 1"),
    "top-p nan": (["--top-p", "nan"], "nan is not above 0"),
    "top-k 0": (["--top-k", "0"], "greater than or equal to 1"),
    "top-k a share": (["--top-k", "0.5"], "as an integer"),
    "penalty 0": (["--repetition-penalty", "0"], "0 is not a number above 0"),
    "stop empty": (["--stop", "a", "--stop", ""], "would end before the first character"),
    "no tokens": (["--max-tokens", "0"], "greater than or equal to 1"),
    "seed below 0": (["--seed", "-1"], "greater than or equal to 0"),
    "seed too large": (["--seed", str(2**63)], "less than or equal to 9223372036854775807"),
}


@pytest.mark.parametrize(("options", "said"), WRONG.values(), ids=WRONG)
def test_bad_options_are_refused(run, fake, checkpoint, options, said):
    code, stdout, stderr = run(checkpoint, *options)
    assert (code, stdout) == (2, "")
    assert said in words(stderr)
    assert options[0] in stderr
    assert fake.asked is None


# How it ends


def test_ctrl_c_ends_the_line_and_says_so_by_the_exit_code(run, fake, checkpoint):
    fake.pieces = ["half a", KeyboardInterrupt()]
    assert run(checkpoint) == (130, "half a\n", "")
    fake.pieces = ["a line\n", KeyboardInterrupt()]
    assert run(checkpoint) == (130, "a line\n", "")


def test_a_closed_pipe_is_a_quiet_end(course, checkpoint):
    """As in `course generate … | head`: here nobody reads from the beginning."""
    read, written = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "autograder.cli", "generate", str(checkpoint), "--max-tokens", "50"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with open(written, "wb", buffering=0) as out:
        done = subprocess.run(
            command, stdout=out, stderr=subprocess.PIPE, text=True, env=environment, stdin=subprocess.DEVNULL
        )
    assert done.returncode == 0
    assert "the reference" in done.stderr, "it has come so far"
    for word in ("Traceback", "Broken", "Exception", "something broke"):
        assert word not in done.stderr


def test_after_a_closed_pipe_nothing_is_complained_of_any_more():
    read, written = os.pipe()
    os.close(read)
    with open(written, "w", encoding="utf-8") as out:
        with pytest.raises(BrokenPipeError):
            generating.write(["text"], out)
        generating.close_quietly(out)
        out.write("what is still in a buffer when Python ends")


def test_the_command_line_starts_without_torch():
    code = "import sys, autograder.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


# The learner's own


OWN = """
import os
HERE = os.getcwd()
BROKEN = False

def load_model(path):
    print("loading", path)
    return None, None, {"kept in": HERE}

def stream(model, tokenizer, prompt, sampling):
    for word in ("mine", " ", str(sampling.seed)):
        print("now", word)
        yield word
"""


@pytest.fixture
def own(course):
    """Put a notebook into work/ that has this cell, and a check of each function that holds unless it is BROKEN."""

    def write(source):
        cells = [code_cell(source, grade_id="mine", solution=True, grade=False)]
        for name in ("load_model", "stream"):
            exercise = next(e for e, text in reference.load(LAB).cells if e and name in reference.defined_names(text))
            test = f'from coursekit import check\ncheck.exercise("{LAB}", "{exercise}")\nassert not BROKEN'
            cells.append(code_cell(test, grade_id=f"test_{name}", solution=False, grade=True))
        folder = course / "work" / "capstone"
        folder.mkdir(parents=True)
        (folder / "mini_gpt.ipynb").write_text(json.dumps({"cells": cells, "nbformat": 4, "nbformat_minor": 5}))
        return folder

    return write


def test_your_own_functions_are_used_where_they_pass(run, own, checkpoint, monkeypatch):
    folder = own(OWN)
    monkeypatch.chdir(checkpoint.parent)
    code, stdout, stderr = run(checkpoint.name, "--seed", 5)
    assert (code, stdout) == (0, "mine 5\n"), "what the code prints is not among the text"
    assert "load_model, stream: your own, from mini_gpt.ipynb" in stderr
    assert f"kept in {folder}" in words(stderr), "the notebook ran where it lies, so that it finds the labs before it"
    assert "loading tiny.safetensors" in stderr
    assert "now mine" in stderr
    assert os.getcwd() == str(checkpoint.parent)


def test_the_reference_is_used_where_your_own_fails(run, own, checkpoint):
    own(OWN.replace("BROKEN = False", "BROKEN = True"))
    code, stdout, stderr = run(checkpoint, "--prompt", PROMPT, "--max-tokens", 5)
    assert (code, "mine" in stdout) == (0, False)
    assert "load_model, stream: the reference (your version in mini_gpt.ipynb does not pass" in stderr


def test_a_course_without_the_capstone_says_so(run, checkpoint, tmp_path, monkeypatch):
    root = tmp_path / "bare"
    (root / "source_solutions").mkdir(parents=True)
    (root / "_toc.yml").write_text("")
    monkeypatch.setenv("COURSE_ROOT", str(root))
    code, stdout, stderr = run(checkpoint)
    assert (code, stdout, "the capstone is not there" in words(stderr)) == (2, "", True)
