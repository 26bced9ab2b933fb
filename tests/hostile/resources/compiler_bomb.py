"""Is a cell that cannot be compiled in reasonable time or room.

Tries: a hundred thousand brackets, a constant of a gigabyte and a hundred thousand nested lambdas, in cells of their
own.
A correct grader: counts the cells as broken; the answers still count.
"""

EXTRA = """
for source in ("(" * 100_000 + ")" * 100_000, "-" * 500_000 + "1", "lambda: " * 5_000 + "1", "1" + "+1" * 100_000):
    try:
        compile(source, "bomb", "exec")
    except (SyntaxError, MemoryError, RecursionError, ValueError) as error:
        print(type(error).__name__)
"""
LAST = "x = " + "(" * 50_000 + ")" * 50_000
RUNS = False
EARNS = {"ema": 4, "steps_to": 1}
LIMITS = {"memory_mebibytes": 2048}
