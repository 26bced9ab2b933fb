"""What the commands print: Rich tables, and nothing that decides anything."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from autograder.verdict import Verdict

#: A class with more notebooks than this is not printed whole; the CSV has all of it.
SHOWN_ROWS = 100
STYLE = {"passed": "green", "graded": "green", "unwritten": "dim"}


def verdict(console: Console, result: Verdict) -> None:
    """Points by exercise, then what to do about each that is not there yet."""
    table = Table(title=f"{result.lab}: {result.points:g} of {result.max:g} points", title_justify="left")
    for heading in ("exercise", "points", "status"):
        table.add_column(heading, justify="right" if heading == "points" else "left")
    for exercise in result.exercises:
        style = STYLE.get(exercise.status, "red")
        table.add_row(exercise.id, f"{exercise.points:g}/{exercise.max:g}", f"[{style}]{exercise.status}[/{style}]")
    console.print(table)
    if result.status != "graded":
        console.print(f"[red]{result.status}[/red]: {escape(result.exercises[0].message)}", highlight=False)
    else:
        for exercise in result.exercises:
            if exercise.message and exercise.status != "unwritten":
                console.print(_explanation(exercise))
    for flag in [*result.flags, *(f"{e.id}: {flag}" for e in result.exercises for flag in e.flags)]:
        console.print(f"[yellow]note[/yellow] {escape(flag)}", highlight=False)


def _explanation(exercise: Any) -> Panel:
    text = escape(exercise.message)
    for word in ("What:", "Why:", "Try:"):
        text = text.replace(f" {word}", f"\n{word}").replace(word, f"[bold]{word}[/bold]", 1)
    parts = [text]
    if exercise.mistake:
        parts.append(
            f"[bold]Cause:[/bold] your result is exactly what you get when [yellow]{escape(exercise.mistake)}[/yellow]."
        )
    return Panel(Group(*parts), title=exercise.id, title_align="left", border_style="red")


def classroom(console: Console, results: list[Any]) -> None:
    """One row a learner and lab; of a large class only what somebody should look at."""
    table = Table(title="Grades", title_justify="left", caption_justify="left")
    for heading in ("learner", "lab", "points", "status", "not full marks", "flags"):
        table.add_column(heading, justify="right" if heading == "points" else "left")
    shown = results if len(results) <= SHOWN_ROWS else [row for row in results if _flags(row) or not _is_graded(row)]
    for result in shown:
        graded = result.verdict
        short = (
            ", ".join(f"{e.id} ({e.status})" for e in graded.exercises if e.points < e.max)
            if graded.status == "graded"
            else ""
        )
        style = STYLE.get(graded.status, "red")
        points = f"{graded.points:g}/{graded.max:g}"
        status = f"[{style}]{graded.status}[/{style}]"
        table.add_row(_printable(result.student), graded.lab, points, status, short, str(_flags(result) or ""))
    points = sum(row.verdict.points for row in results) / max(sum(row.verdict.max for row in results), 1)
    states = Counter(row.verdict.status for row in results)
    said = [f"{len(results)} notebooks of {len({row.student for row in results})} learners"]
    said += [f"{count} {status}" for status, count in states.most_common()]
    said += [f"{points:.0%} of all points"]
    if len(shown) < len(results):
        said.append(f"shown: {len(shown)} to look at")
    table.caption = ", ".join(said)
    console.print(table)


def _printable(name: str) -> str:
    """A name as text for Rich; a learner's folder may be called what a terminal takes for a command."""
    return escape("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name))


def _is_graded(result: Any) -> bool:
    return result.verdict.status == "graded"


def _flags(result: Any) -> int:
    return len(result.verdict.flags) + sum(len(exercise.flags) for exercise in result.verdict.exercises)


def labs(console: Console, rows: list[dict[str, Any]]) -> None:
    """What there is."""
    table = Table(title="Labs", title_justify="left")
    for heading in ("lab", "title", "minutes", "difficulty", "points", "hardware", "needs"):
        table.add_column(heading, justify="right" if heading in ("minutes", "difficulty", "points") else "left")
    for row in rows:
        numbers = [str(row["minutes"]), f"{row['difficulty']} of 5", str(row["points"])]
        table.add_row(row["lab"], row["title"], *numbers, row["hardware"], ", ".join(row["needs"]) or "nothing")
    total = sum(row["minutes"] for row in rows)
    table.caption = f"{len(rows)} labs, {sum(row['points'] for row in rows)} points, {total // 60} h {total % 60} min"
    console.print(table)


def doctor(console: Console, findings: list[dict[str, Any]]) -> None:
    """What is there, and what will be skipped and why."""
    table = Table(title="This machine", title_justify="left")
    for heading in ("what", "found", "consequence"):
        table.add_column(heading)
    colours = {"ok": "green", "skip": "yellow", "problem": "red"}
    for finding in findings:
        colour = colours[finding["state"]]
        table.add_row(
            finding["name"], f"[{colour}]{escape(finding['found'])}[/{colour}]", escape(finding["consequence"])
        )
    console.print(table)


def milestones(console: Console, results: list[dict[str, Any]]) -> None:
    """What the milestone notebooks measured, and where."""
    table = Table(title="Milestones", title_justify="left")
    for heading in ("notebook", "claim", "reached", "figures", "seconds"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left")
    for result in results:
        figures = "\n".join(
            f"{name} {value:.3g}" for name, value in result["figures"].items() if isinstance(value, int | float)
        )
        reached = "[green]yes[/green]" if result["passed"] else "[red]no[/red]"
        table.add_row(result["notebook"], escape(result["claim"]), reached, figures, f"{result['seconds']:.0f}")
    if results:
        machine = results[0].get("machine", {})
        table.caption = ", ".join(f"{key} {value}" for key, value in machine.items() if value)
    console.print(table)


def progress_table(console: Console, rows: list[dict[str, Any]]) -> None:
    """The learner's checklist."""
    table = Table(title="Your progress", title_justify="left")
    for heading in ("", "lab or milestone", "points", "last check"):
        table.add_column(heading)
    for row in rows:
        if "lab" in row:
            done = row["points"] == row["max"]
            points = "" if row["points"] is None else f"{row['points']:g}/{row['max']}"
            table.add_row(
                "[green]done[/green]" if done else "",
                f"{row['lab']}  {row['title']}",
                points,
                row["checked"] or "not checked yet",
            )
        else:
            state = f"run `{row['command']}`" if row["ready"] else f"{row['labs_done']} of {row['labs']} labs"
            table.add_row("[green]ready[/green]" if row["ready"] else "", f"milestone of {row['milestone']}", "", state)
    console.print(table)


@contextlib.contextmanager
def progress(console: Console) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar as a function of (done, total, label)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("grading", total=None)

        def advance(done: int, total: int, label: str) -> None:
            bar.update(task, completed=done, total=total, description=_printable(label))

        yield advance
