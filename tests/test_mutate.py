"""The mutants of a solution: what is changed, what is left alone, and that each is one real change."""

from __future__ import annotations

import ast

import pytest

from autograder.lab_model import solution_source
from autograder.mutate import mutants

FUNCTION = '''
def f(a: int = 3, b=None):
    """A docstring with 7 in it."""
    total = 0
    if a < b:
        raise ValueError(f"a is {a + 1}")
    total += g(a, b)
    return total - a * 2
'''
EXPECTED = {
    "0 -> 1",
    "drop: total = 0",
    "if a < b -> if not",
    "a < b -> a <= b",
    "drop: raise ValueError(f'a is {a + 1}')",
    "g(a, b) -> g(b, a)",
    "drop: total += g(a, b)",
    "total - a * 2 -> total + a * 2",
    "a * 2 -> a / 2",
    "a * 2 -> a * 3",
    "drop: return total - a * 2",
    "3 -> 4",
}


def test_the_mutants_of_a_function_are_these_and_no_others():
    assert {description for description, _ in mutants(FUNCTION)} == EXPECTED


@pytest.mark.parametrize(
    ("expression", "mutated"),
    [
        ("a + b", "a - b"),
        ("a - b", "a + b"),
        ("a * b", "a / b"),
        ("a / b", "a * b"),
        ("a // b", "a * b"),
        ("a % b", "a * b"),
        ("a ** b", "a * b"),
        ("a & b", "a | b"),
        ("a @ b", "b @ a"),
        ("a <= b", "a < b"),
        ("a >= b", "a > b"),
        ("a == b", "a != b"),
        ("a is b", "a is not b"),
        ("a in b", "a not in b"),
        ("a and b", "a or b"),
        ("a if b else c", "a if not b else c"),
        ("softmax(dim=-1)", "softmax(dim=-2)"),
        ("x[0]", "x[1]"),
        ("f(True)", "f(False)"),
        ("f(a, b, c)", "f(b, a, c)"),
    ],
)
def test_each_kind_of_change(expression, mutated):
    sources = sorted(source for _, source in mutants(f"y = {expression}"))
    assert sources == ["pass", f"y = {mutated}"], "beside it only the dropped statement"


@pytest.mark.parametrize(
    "source",
    [
        '"""Only 3 words here."""',
        "@cache(3)\ndef f(a: List[3]) -> Tuple[4]: ...",
        "x.transpose(a, b)",
        "f(*a, *b)",
        "f'{a + b}'",
        "from x import y",
        "max(a, b)",
        "raise ValueError(f(a, b), a + 3)",
    ],
)
def test_what_no_test_should_depend_on_is_left_alone(source):
    changed = [description for description, _ in mutants(source) if not description.startswith("drop: ")]
    assert changed == []


def test_a_while_that_is_negated_and_a_chain_of_comparisons():
    assert dict(mutants("while a < b:\n    c()"))["if a < b -> if not"] == "while not a < b:\n    c()"
    assert dict(mutants("y = 0 < a < b"))["0 < a < b -> 0 <= a < b"] == "y = 0 <= a < b"


@pytest.fixture
def solution(built_course):
    from autograder.labs import find

    return solution_source(find("ch90/lab01", built_course).exercises[0].source)


def test_every_mutant_is_python_and_differs_from_the_solution_and_from_the_others(solution):
    found = mutants(solution)
    trees = [ast.dump(ast.parse(source)) for _, source in found]
    assert len(found) > 20
    assert ast.dump(ast.parse(solution)) not in trees
    assert len(set(trees)) == len(trees)
    assert len({description for description, _ in found}) == len(found), "a list of equivalents names each by its text"


def test_descriptions_do_not_depend_on_layout_or_comments(solution):
    relaid = solution.replace("beta * average + (1", "(beta  *  average) + \\\n            (1") + "\n# a comment\n"
    assert relaid.count("\n") == solution.count("\n") + 3
    assert mutants(relaid) == mutants(solution)


def test_equal_changes_at_two_places_are_told_apart():
    found = dict(mutants("y = a + b\nz = a + b"))
    assert found["a + b -> a - b"] == "y = a - b\nz = a + b"
    assert found["a + b -> a - b #2"] == "y = a + b\nz = a - b"
