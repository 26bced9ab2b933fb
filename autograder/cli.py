"""The `course` command line: the one way to do each thing. A command imports what it needs itself, to start fast.

Exit codes: 0 done (for `check`: full marks), 1 not all well (stale, not full marks, a gate failed), 2 wrong usage or
input, 3 something broke, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from autograder import options, paths

out = Console()
err = Console(stderr=True)


class _Commands(TyperGroup):
    """What nobody has foreseen ends with code 3 and one line; its traceback is shown where COURSE_DEBUG is set."""

    def invoke(self, context: Any) -> Any:
        try:
            return super().invoke(context)
        except Exception as error:
            # Wrong usage and the ends of commands are exceptions too, and carry their own codes.
            if isinstance(error, typer.Abort) or hasattr(error, "exit_code") or os.environ.get("COURSE_DEBUG"):
                raise
            message = f"something broke: {type(error).__name__}: {error} (COURSE_DEBUG=1 shows where)"
            err.print(message, style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(3) from None


app = typer.Typer(
    cls=_Commands,
    help="Attention to Silicon: learn, check, build and grade the course.",
    no_args_is_help=True,
    add_completion=False,
)


@app.callback()
def main() -> None:
    paths.use_own_programs()


Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
LabId = Annotated[str, typer.Argument(help="A lab's id, such as ch01/lab03.")]


def _fail(what: str, code: int = 2) -> None:
    """End with a clear message on standard error."""
    err.print(what, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def _root() -> Path:
    try:
        return paths.root()
    except FileNotFoundError as problem:
        _fail(str(problem))


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


@app.command()
def learn(
    headless: Annotated[bool, typer.Option("--headless", help="Prove the whole path on one lab and end.")] = False,
    lab: Annotated[str, typer.Option(help="The lab to open.")] = "ch01/lab01",
) -> None:
    """Open the course at its first lab, with the book one click away."""
    from autograder import learning
    from autograder.labs import LabError

    root = _root()
    try:
        code = (0 if learning.prove(root, lab, out) else 1) if headless else learning.open_lab(root, lab, out)
    except (LookupError, LabError) as problem:
        _fail(str(problem.args[0]))
    raise typer.Exit(code)


@app.command()
def build(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; fail if anything committed is stale.")
    ] = False,
) -> None:
    """Build release notebooks and references from the lab sources."""
    from autograder import build as builder
    from autograder.labs import LabError

    try:
        with err.status("building from source_solutions/"):
            report = builder.build(_root(), check=check)
    except (LabError, ValueError) as problem:
        _fail(str(problem))
    for path in report.stale:
        verb = ("stale" if check else "wrote") if path in report.written else ("orphan" if check else "removed")
        out.print(f"{verb:8} {path}  ({report.summaries[path]})", highlight=False, soft_wrap=True)
    for path in report.kept:
        out.print(f"kept     a copy of the work in it: {path}", highlight=False, soft_wrap=True)
    if not report.stale:
        out.print("everything is up to date")
    elif check:
        _fail("run `course build` and commit what it writes", 1)


@app.command()
def check(
    lab: LabId,
    notebook: Annotated[
        Path | None, typer.Argument(help="Your notebook; the one in work/ where it is left out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Grade your own notebook with the hidden tests. Ends with 0 only on full marks."""
    from autograder import checking

    root = _root()
    try:
        with err.status(f"checking {lab}"):
            verdict = checking.check(root, lab, notebook)
    except checking.CannotCheck as problem:
        order = ". A notebook comes second: `course check ch02/lab04 NOTEBOOK`" if lab.endswith(".ipynb") else ""
        _fail(f"{problem}{order}")
    if as_json:
        _print_json(verdict.to_json())
    else:
        from autograder import report

        report.verdict(out, verdict)
    raise typer.Exit(0 if verdict.status == "graded" and verdict.points == verdict.max else 1)


@app.command()
def grade(
    chapter: Annotated[str, typer.Argument(help="A chapter's folder, such as ch01_attention.")],
    db: Annotated[
        str | None, typer.Option(help="The gradebook's URL; nbgrader's SQLite file where it is left out.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Notebooks that run at a time.", min=1)] = 2,
    student: Annotated[
        list[str] | None, typer.Option(help="Only this learner; may be given several times.", metavar="NAME")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Run everything anew, on the same hidden inputs as before.")
    ] = False,
    feedback: Annotated[bool, typer.Option(help="Write feedback pages too.")] = True,
    scheduler: Annotated[
        str | None, typer.Option(help="Run on the Dask cluster of this scheduler.", metavar="tcp://HOST:PORT")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--i-trust-this-code", help="Run the learners' code without a sandbox.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Grade every submission of a chapter into nbgrader's gradebook.

    A run that was interrupted goes on where it was when the same command is given again.
    """
    from autograder import classroom, report
    from autograder.labs import LabError

    expected: tuple[type[Exception], ...] = (classroom.CannotGrade, LabError)
    pool = None
    if scheduler:
        from autograder.cluster import ClusterError, DaskPool

        pool, expected = DaskPool(scheduler), (*expected, ClusterError)
    try:
        with report.progress(err) as advance:
            results, table = classroom.grade(
                _root(),
                chapter,
                db_url=db,
                jobs=jobs,
                feedback=feedback,
                progress=advance,
                students=student,
                again=again,
                trust=trust,
                pool=pool,
            )
    except expected as problem:
        _fail(str(problem))
    except KeyboardInterrupt:
        _fail("stopped; what has been graded so far is kept, and the same command goes on from there", 130)
    if as_json:
        _print_json([{"learner": row.student, "seed": row.seed} | row.verdict.to_json() for row in results])
    else:
        report.classroom(out, results)
        out.print(f"written to {table.relative_to(_root())}", highlight=False)


@app.command()
def generate(
    checkpoint: Annotated[Path, typer.Argument(help="The .safetensors file that the capstone's save_model wrote.")],
    prompt: Annotated[
        str, typer.Option(help="The text to go on from; - reads it from standard input.", show_default="a line break")
    ] = "\n",
    temperature: Annotated[
        float, typer.Option(help="Divides the logits; 0 takes the most probable token.", callback=options.at_least_0)
    ] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Keep only so many tokens.", min=1)] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Keep the smallest set of tokens with this probability.", callback=options.share),
    ] = None,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1, tokens that occurred before become less likely.", callback=options.above_0)
    ] = 1.0,
    stop: Annotated[
        list[str] | None,
        typer.Option(help="End before this text; may be given several times.", metavar="TEXT", callback=options.stops),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="The largest number of new tokens.", min=1)] = 200,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.", min=0, max=2**63 - 1)] = 0,
) -> None:
    """Write text with a model of your own, as it comes: the capstone's checkpoint, and your own sampler if it passes.

    Standard output holds the new text alone, without the prompt.
    """
    import sys

    def tell(said: str) -> None:
        if said:
            err.print(said, style="dim", markup=False, highlight=False, soft_wrap=True)

    with err.status("loading"):
        from autograder import generating
    root, to = _root(), sys.stdout
    try:
        path, start = generating.find(checkpoint), generating.prompt_of(prompt, sys.stdin)
        with err.status("loading"):
            tools = generating.tools(root)
            tell(tools.said)
            model, tokenizer, facts = generating.open_checkpoint(tools.load_model, path)
            tell(facts)
        pieces = generating.text(
            tools,
            model,
            tokenizer,
            start,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            stop=tuple(stop or ()),
            max_tokens=max_tokens,
            seed=seed,
        )
        generating.write(pieces, to)
    except generating.CannotGenerate as problem:
        _fail(str(problem))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:
        generating.close_quietly(to)


@app.command()
def book(open_browser: Annotated[bool, typer.Option("--open", help="Open it when it is built.")] = False) -> None:
    """Build the book, with warnings as errors."""
    from autograder import book as builder

    try:
        builder.build(open_browser=open_browser)
    except builder.BookError as problem:
        _fail(str(problem), 1)


@app.command()
def milestones(
    chapters: Annotated[
        list[str] | None, typer.Argument(help="Chapters such as ch01; all where none is named.")
    ] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="name=value for the notebooks' parameters cell.")
    ] = None,
    demonstrations: Annotated[bool, typer.Option(help="Run the demonstration notebooks too.")] = False,
    as_json: Json = False,
) -> None:
    """Run the milestone notebooks and show what they measured on this machine."""
    from autograder import measure, report

    try:
        results = measure.run(_root(), chapters or [], parameter or [], err, demonstrations=demonstrations)
    except measure.MilestoneError as problem:
        _fail(str(problem))
    if as_json:
        _print_json(results)
    else:
        report.milestones(out, results)
    raise typer.Exit(0 if all(result["passed"] for result in results) else 1)


@app.command()
def labs(as_json: Json = False) -> None:
    """List the labs: time, difficulty, points, hardware, needs."""
    from autograder import report
    from autograder.labs import LabError, catalog

    try:
        found = catalog(_root())
    except LabError as problem:
        _fail(str(problem))
    rows = [
        {
            "lab": lab.id,
            "title": lab.title,
            "minutes": lab.minutes,
            "difficulty": lab.difficulty,
            "points": lab.points,
            "exercises": len(lab.exercises),
            "hardware": lab.hardware,
            "needs": lab.needs,
            "builds": lab.builds,
        }
        for lab in found
    ]
    if as_json:
        _print_json(rows)
    else:
        report.labs(out, rows)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show versions, GPU, data and browser, and what will be skipped and why."""
    from autograder import doctor as examination
    from autograder import report

    findings = examination.examine(_root())
    if as_json:
        _print_json(findings)
    else:
        report.doctor(out, findings)
    raise typer.Exit(1 if any(finding["state"] == "problem" for finding in findings) else 0)


@app.command()
def progress(as_json: Json = False) -> None:
    """Show how far you have come: your last check of each lab, and the milestones."""
    from autograder import checking, report
    from autograder.labs import LabError

    try:
        rows = checking.progress(_root())
    except LabError as problem:
        _fail(str(problem))
    if as_json:
        _print_json(rows)
    else:
        report.progress_table(out, rows)


@app.command()
def gates(
    labs: Annotated[list[str] | None, typer.Argument(help="Lab ids; all labs where none is named.")] = None,
) -> None:
    """Run the gates that every lab has to pass. For authors."""
    import sys

    import pytest

    selected = [argument for lab in labs or [] for argument in ("--lab", lab)]
    sys.exit(pytest.main([str(_root() / "tests" / "gates"), "-q", *selected]))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context) -> None:
    """Run every test of the course: style, freshness, units, gates, grading and the book. Arguments go to pytest."""
    import sys

    import pytest

    # Two at a time, as two cores allow; `-n 0` in the arguments is for a debugger. In the order of the files: xdist's
    # own begins with the groups of many tests, and leaves the long ones for one process at the end.
    workers = ["-n", "2", "--dist", "loadgroup", "--no-loadscope-reorder"]
    sys.exit(pytest.main([str(_root() / "tests"), *workers, *context.args]))


if __name__ == "__main__":
    app()
