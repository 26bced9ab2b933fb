"""Rewrites the tests as the notebook compiles them.

Tries: an AST transformer of IPython that takes every assertion, check and error out of later cells.
A correct grader: compiles its tests in another process.
"""

from tests.hostile import kit

EXTRA = """
import ast


class Gag(ast.NodeTransformer):
    def visit_Expr(self, node):
        called = ast.unparse(node)
        return ast.copy_location(ast.Pass(), node) if called.startswith("check.") else node

    def visit_Assert(self, node):
        return ast.copy_location(ast.Pass(), node)


get_ipython().ast_transformers.append(Gag())
"""
ANSWERS = {"ema": kit.WRONG_EMA, "steps_to": kit.WRONG_STEPS}
EARNS = {"ema": 0, "steps_to": 0}
