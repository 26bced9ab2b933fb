"""Forbidden shortcuts are found however they are written, and nothing else is."""

from __future__ import annotations

import pytest

from autograder import policy
from autograder.policy import computed_lookups, forbidden_calls, meanings


def found(source, *forbid, before=()):
    return forbidden_calls(source, list(forbid), meanings(before))


SOFTMAX = {
    "short": "F.softmax(x, -1)",
    "in full": "torch.nn.functional.softmax(x, -1)",
    "half in full": "nn.functional.softmax(x, -1)",
    "a module by another name": "import torch.nn.functional as F2; F2.softmax(x, -1)",
    "a package by another name": "import torch as t; t.nn.functional.softmax(x, -1)",
    "a package from another": "from torch import nn as n; n.functional.softmax(x, -1)",
    "a module from a package": "from torch.nn import functional; functional.softmax(x, -1)",
    "imported": "from torch.nn.functional import softmax",
    "imported by another name": "from torch.nn.functional import softmax as s",
    "everything imported": "from torch.nn.functional import *",
    "imported in a function": "def f(x):\n    from torch.nn import functional as g\n    return g.softmax(x, -1)",
    "imported by text": "import importlib\nimportlib.import_module('torch.nn.functional').softmax(x, -1)",
    "import_module by another name": "from importlib import import_module as i\ni('torch.nn.functional').softmax(x)",
    "built in import": "__import__('torch').nn.functional.softmax(x)",
    "built in import with a list": "__import__('torch.nn.functional', fromlist=['softmax']).softmax(x)",
    "from sys.modules": "import sys\nsys.modules['torch.nn.functional'].softmax(x)",
    "a module assigned": "f = F\nf.softmax(x)",
    "assigned twice": "f = F\ng = f\ng.softmax(x)",
    "assigned after its use": "def h(x):\n    return f.softmax(x)\nf = F",
    "a part assigned": "f = torch.nn\ng = f.functional\ng.softmax(x)",
    "a function assigned": "s = F.softmax",
    "with a type": "f: object = F\nf.softmax(x)",
    "a walrus": "(f := F).softmax(x)",
    "a walrus before": "if f := F:\n    f.softmax(x)",
    "a tuple": "a, f = 1, F\nf.softmax(x)",
    "a nested tuple": "(a, (f, b)), *c = (1, (F, 2)), 3\nf.softmax(x)",
    "a star": "a, *f = 1, F\nf[0].softmax(x)",
    "one of two": "f = F if x else None\nf.softmax(x)",
    "or": "f = None or F\nf.softmax(x)",
    "a default argument": "def h(x, f=F):\n    return f.softmax(x)",
    "a keyword's default": "h = lambda x, *, f=F: f.softmax(x)",
    "an attribute": "class A:\n    def g(self):\n        self.f = F\n        self.f.softmax(0)",
    "a list": "f = [F]\nf[0].softmax(x)",
    "a dictionary": "f = {'a': F}\nf['a'].softmax(x)",
    "put into a dictionary": "f = {}\nf['a'] = F\nf['a'].softmax(x)",
    "a loop": "for f in (nn, F):\n    f.softmax(x)",
    "a loop with a counter": "for i, f in enumerate([F]):\n    f.softmax(x)",
    "a loop over pairs": "for i, f in zip([1], [F]):\n    f.softmax(x)",
    "a comprehension": "[f.softmax(x) for f in [F]]",
    "a context": "with F as f:\n    f.softmax(x)",
    "partial": "functools.partial(F.softmax, dim=-1)(x)",
    "getattr": "getattr(F, 'softmax')(x, -1)",
    "getattr with a default": "getattr(getattr(torch.nn, 'functional'), 'softmax', None)(x)",
    "getattr by another name": "g = getattr\ng(F, 'softmax')(x)",
    "builtins.getattr": "import builtins\nbuiltins.getattr(F, 'softmax')(x)",
    "joined constants": "getattr(F, 'soft' 'max')(x)",
    "added constants": "getattr(F, 'soft' + 'max')(x)",
    "a name for a text": "n = 'softmax'\ngetattr(F, n)(x)",
    "a text that grows": "n = 'soft'\nn += 'max'\ngetattr(F, n)(x)",
    "a formatted text": "n = 'max'\ngetattr(F, f'soft{n}')(x)",
    "join": "getattr(F, ''.join(['soft', 'max']))(x)",
    "one of several texts": "for n in ('relu', 'softmax'):\n    getattr(F, n)(x)",
    "letters": "getattr(F, 's' + 'o' + 'f' + 't' + 'max')(x)",
    "vars": "vars(F)['softmax'](x)",
    "__dict__": "F.__dict__['softmax'](x)",
    "get": "F.__dict__.get('softmax')(x)",
    "__getattribute__": "F.__getattribute__('softmax')(x)",
    "object.__getattribute__": "object.__getattribute__(F, 'softmax')(x)",
    "globals": "globals()['F'].softmax(x)",
    "attrgetter": "import operator\noperator.attrgetter('softmax')(F)(x)",
    "attrgetter with a path": "from operator import attrgetter as a\na('nn.functional.softmax')(torch)(x)",
    "an attrgetter kept": "import operator\ng = operator.attrgetter('softmax')\ng(F)(x)",
    "eval": "eval('F.softmax(x)')",
    "exec": "exec('import torch.nn.functional as g\\ny = g.softmax(x)')",
    "compile": "exec(compile('y = F.softmax(x)', '', 'exec'))",
    "eval in eval": "eval('eval(\"F.softmax(x)\")')",
    "a line magic": "%time y = F.softmax(x)",
    "a cell magic": "%%time\ny = F.softmax(x)",
    "beside a magic": "%matplotlib inline\ny = F.softmax(x)",
    "beside a shell command": "!ls\ny = F.softmax(x)",
    "an indented cell": "    y = F.softmax(x)",
    "an attribute of it": "F.softmax.__call__(x, -1)",
    "other letters": "F.ｓｏｆｔｍａｘ(x)",
    "in a function": "def f(x):\n    return [F.softmax(row, -1) for row in x]",
}


@pytest.mark.parametrize("source", SOFTMAX.values(), ids=SOFTMAX)
def test_a_function_is_found_however_it_is_reached(source):
    assert {name for _, name in found(source, "F.softmax")} == {"F.softmax"}
    assert {name for _, name in found(source, "torch.nn.functional.softmax")} == {"torch.nn.functional.softmax"}
    assert {name for _, name in found(source, "softmax")} == {"softmax"} or "import *" in source
    assert found(source, "F.log_softmax", "torch.tanh", "torch.soft") == [] or "import *" in source


@pytest.mark.parametrize(
    "source",
    [
        "def softmax(x): ...\nsoftmax(x)",
        "x.softmax(-1)",
        "torch.softmax(x, -1)",
        "my.F.softmax(x)",
        "F.log_softmax(x)",
        "from mine import softmax\nsoftmax(x)",
        "import torch.nn.functional as G\nH.softmax(x)",
        "# F.softmax(x)\n'F.softmax(x)'",
        "print('F.softmax(x)')",
        "getattr(F, 3)",
        "getattr(F)",
        "getattr(x, 'softmax')",
        "def f(F):\n    return F.softmax(0)",
        "def f():\n    g = F\ndef h(g):\n    return g.softmax(0)",
        "class A:\n    g = F\n    def h(self, g):\n        return g.softmax(0)",
        "[g for g in [F]]\ng.softmax(0)",
        "re.compile('F.softmax(x)')\nmodel.eval('F.softmax')",
        "F.softmax = 1 if",
        "",
    ],
)
def test_a_dotted_name_means_nothing_else(source):
    assert found(source, "F.softmax") == []


@pytest.mark.parametrize(
    "source",
    [
        "x.cumsum(0)",
        "torch.cumsum(x, 0)",
        "from numpy import cumsum as c\nc(x)",
        "getattr(x, 'cumsum')(0)",
        "getattr(x, 'cum' + 'sum')(0)",
        "vars(torch)['cumsum'](x, 0)",
        "operator.methodcaller('cumsum', 0)(x)",
        "import operator\noperator.methodcaller('cumsum', 0)(x)",
        "from torch import *\ncumsum(x, 0)",
        "import torch\nfor n in ['cumsum']:\n    getattr(torch, n)(x, 0)",
    ],
)
def test_a_bare_name_is_any_attribute_or_import(source):
    assert found(source, "cumsum")


@pytest.mark.parametrize(
    "source",
    [
        "def cumsum(x): ...\ncumsum(x)",
        "def cumsum(x): ...\nmine = cumsum\nmine(x)",
        "from torch import *\ndef cumsum(x): ...\ncumsum(x)",
        "from torch import *\ntanh(x)",
        "x.cumsum_all(0)",
        "cumsum = 3\ncumsum + 1",
        "import cumsum",
        "import importlib\nimportlib.import_module('cumsum')",
        "params['cumsum']",
        "print('cumsum')",
        "getattr(x, 'sum')(0)",
    ],
)
def test_a_function_of_the_learner_s_own_may_have_the_bare_name(source):
    assert found(source, "cumsum") == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("nn.Linear(3, 3)", 1),
        ("torch.nn.Linear(3, 3)", 1),
        ("from torch.nn import Linear as L", 1),
        ("from torch.nn import *", 1),
        ("from torch.nn.functional import linear", 1),
        ("import torch.nn as layers; layers.Linear(3, 3)", 1),
        ("nnx.Linear(3, 3)", 0),
        ("mine.nn.Linear(3, 3)", 0),
        ("torch.linear(x)", 0),
    ],
)
def test_a_star_forbids_all_below(source, count):
    assert len(found(source, "nn.*")) == count


@pytest.mark.parametrize(
    "source",
    [
        "scipy.stats.entropy(p)",
        "import scipy.stats",
        "import scipy.stats as s\ns.entropy(p)",
        "from scipy import stats",
        "from scipy.stats import entropy",
        "from scipy.stats.distributions import norm",
    ],
)
def test_a_forbidden_module_is_forbidden_with_all_that_is_in_it(source):
    assert found(source, "scipy.stats")
    assert found(source, "scipy.stat", "scipy.statistics") == []


def test_a_class_has_more_than_one_home():
    for home in ("torch.nn", "torch.nn.modules", "torch.nn.modules.activation"):
        assert found(f"{home}.MultiheadAttention(4, 2)", "nn.MultiheadAttention") == [(1, "nn.MultiheadAttention")]
    assert found("torch.nn.modules.activation.Softmax()", "nn.MultiheadAttention") == []


def test_lines_are_named_in_order_each_once():
    source = "a = x.cumsum(0)\n\nb = [x.cumsum(0), x.cumsum(1)]\nc = torch.einsum('i,i', a, a)\n"
    assert found(source, "einsum", "cumsum") == [(1, "cumsum"), (3, "cumsum"), (4, "einsum")]


def test_what_other_cells_assign_and_import_counts():
    cells = ["import torch.nn.functional as G", "from scipy.signal import lfilter as shortcut\nimport os, sys", "f = G"]
    assert found("G.softmax(x)", "F.softmax", before=cells) == [(1, "F.softmax")]
    assert found("f.softmax(x)", "F.softmax", before=reversed(cells)) == [(1, "F.softmax")]
    assert found("y = 1\nshortcut(x)", "scipy.signal.lfilter", before=cells) == [(2, "scipy.signal.lfilter")]
    assert found("def setup():\n    global g\n    g = f\ng.softmax(x)", "F.softmax", before=cells)
    assert found("G.softmax(x)\nshortcut(x)\nf.softmax(x)", "F.softmax", "scipy.signal.lfilter") == []
    local = ["def h():\n    f = F\n    return f", "[f for f in [F]]", "h = lambda f=F: f", "class A:\n    f = F"]
    assert found("f.softmax(x)", "F.softmax", before=local) == []


COMPUTED = {
    "getattr": "getattr(F, name)(x)",
    "a parameter": "def f(x, n='relu'):\n    return getattr(F, n)(x)",
    "turned round": "getattr(F, 'xamtfos'[::-1])(x)",
    "changed": "getattr(F, 'SOFTMAX'.lower())(x)",
    "with a format": "getattr(F, '%s' % n)(x)",
    "vars": "vars(F)[name](x)",
    "__dict__": "F.__dict__[name](x)",
    "get": "F.__dict__.get(name)(x)",
    "globals": "globals()[name](x)",
    "sys.modules": "import sys\nsys.modules[name]",
    "import_module": "import importlib\nimportlib.import_module(name)",
    "__import__": "__import__(name)",
    "attrgetter": "import operator\noperator.attrgetter(name)(F)",
    "eval": "eval(code)",
    "exec": "exec('y = ' + code)",
    "eval of an eval": "eval('eval(code)')",
    "too many evals": 'eval("eval(\'eval(\\"eval(1)\\")\')")',
    "a magic": "get_ipython().run_line_magic('time', code)",
}


@pytest.mark.parametrize("source", COMPUTED.values(), ids=COMPUTED)
def test_a_lookup_by_a_computed_name_is_a_find_of_its_own(source):
    assert computed_lookups(source) == [1 + source.count("\n")] or source.startswith("def ")
    assert computed_lookups(f"\n\n{source}")[0] == 3 + source.count("\n")


@pytest.mark.parametrize(
    "source",
    [
        "getattr(x, 'sum')",
        "for name in ('w_q', 'w_k'):\n    getattr(self, name)",
        "def f():\n    for n in ('w_q', 'w_k'):\n        getattr(self, n)\ndef g():\n    return {n: 1 for n in x}",
        "for n in 'qkv':\n    getattr(self, f'w_{n}')",
        "for i, n in enumerate('qkv'):\n    getattr(self, 'w_' + n)",
        "names = {'q': 'w_q'}\nfor n in names.values():\n    getattr(self, n)",
        "params[name]",
        "model.eval()\nre.compile(pattern)\nself.compile(x)",
        "eval('1 + 1')",
        "import importlib\nimportlib.import_module('math')",
        "globals()['x']",
        "%matplotlib inline\n%load_ext autoreload",
        "vars(x)",
    ],
)
def test_a_lookup_by_a_name_that_is_spelt_out_is_none(source):
    assert computed_lookups(source) == []


def notebook(answer="pass", *extras, given="from coursekit import carry", lab="ch01/lab01"):
    tests = "from coursekit import check\nx = [1]\ncheck.equal(softmax(x), 1, 'one')"
    cells = [{"kind": "given", "source": given}, {"kind": "exercise", "exercise": "softmax", "source": answer}]
    cells += [{"kind": "test", "exercise": "softmax", "source": tests}]
    cells += [{"kind": "extra", "source": source} for source in extras]
    cells += [{"kind": "plain", "source": "torch.softmax(x, -1)"}, {"kind": "markdown", "source": "F.softmax"}]
    return policy.Notebook(lab, cells)


def flags(answer="pass", *extras, forbid=("softmax",), **options):
    return notebook(answer, *extras, **options).flags("softmax", list(forbid))


def test_flags_say_what_and_where():
    said = "line 2 uses softmax, which this exercise asks you to build"
    assert flags("def softmax(x):\n    return x.softmax(-1)") == [said]
    assert flags("def softmax(x):\n    return getattr(x, n)(-1)") == [
        "line 2 looks up a name that is computed; a person should look"
    ]
    assert flags("def softmax(x):\n    return x.softmax(-1) + getattr(x, n)(-1)", forbid=()) == []


def test_given_cells_are_never_flagged():
    assert flags("def softmax(x):\n    return shortcut(x)", given="def shortcut(x):\n    return x.softmax(-1)") == []
    assert flags("s(x)", given="from torch import softmax as s") != []


HELPERS = {
    "a helper": ("def softmax(x):\n    return help(x)", "def help(x):\n    return x.softmax(-1)"),
    "a helper's helper": (
        "def softmax(x):\n    return help(x)",
        "def help(x):\n    return more(x)",
        "def more(x):\n    return x.softmax(-1)",
    ),
    "a helper by another name": ("def softmax(x):\n    return help(x)", "help = torch.softmax"),
    "in place of the exercise": ("def softmax(x): ...", "softmax = torch.softmax"),
    "in place of a deleted exercise": ("", "def softmax(x):\n    return x.softmax(-1)"),
    "a patched library": ("def softmax(x):\n    return x.mine(-1)", "torch.Tensor.mine = torch.Tensor.softmax"),
    "a patch by another name": ("def softmax(x):\n    return x.m(-1)", "T = torch.Tensor\nT.m = T.softmax"),
    "a patch by setattr": ("def softmax(x):\n    return x.m(-1)", "setattr(torch.Tensor, 'm', torch.softmax)"),
    "a patched scope": ("def softmax(x):\n    return m(x)", "globals()['m'] = torch.softmax"),
    "a patched object": (
        "def softmax(x):\n    return box.m(x)",
        "class box: ...",
        "box.m = torch.softmax",
    ),
    "a default": ("def softmax(x):\n    return help(x)", "help = lambda x, f=torch.softmax: f(x, -1)"),
}


@pytest.mark.parametrize("cells", HELPERS.values(), ids=HELPERS)
def test_a_cell_that_the_exercise_depends_on_is_flagged(cells):
    assert "your own cell, line 1 uses softmax" in (said := " ".join(flags(*cells))) or "line 2 uses softmax" in said
    assert "your own cell" in said


@pytest.mark.parametrize(
    "extra",
    [
        "print((softmax(x) - torch.softmax(x, -1)).abs().max())",
        "ours, theirs = softmax(x), torch.softmax(x, -1)\nfigure.bar(ours)",
        "x = torch.randn(3)\ny = torch.softmax(x, -1)\ny[0] = 1.0",
        "def compare(x):\n    return torch.softmax(x, -1)\ncompare(1)",
    ],
)
def test_a_comparison_beside_the_exercise_is_not(extra):
    answer = "def softmax(x):\n    y = x.exp()\n    return y / y.sum(-1)"
    assert flags(answer, extra) == []


def test_code_that_rewrites_cells_is_flagged():
    (flag,) = flags("pass", "get_ipython().ast_transformers.append(t)")
    assert "ast_transformers" in flag
    assert "a person should look" in flag


ANSWERS = {
    "solved": "from coursekit.solved.ch01_attention.lab01_dot_product import softmax",
    "a package": "import coursekit.solved as s",
    "an attribute": "import coursekit\ncoursekit.solved.ch01_attention",
    "reference": "from coursekit import reference\nreference.load('ch01/lab01')",
    "diagnose": "import coursekit.diagnose",
    "by text": "import importlib\nimportlib.import_module('coursekit.' + 'reference')",
    "sys.modules": "import sys\nsys.modules['coursekit.reference']",
    "the autograder": "from autograder.labs import solution_source",
    "a private name": "import coursekit.carry\ncoursekit.carry._from_reference",
    "another's globals": "carry.__globals__",
    "where it is": "import coursekit\ncoursekit.__file__",
    "carry": "softmax = carry('ch01/lab01', 'softmax')",
    "carry by another name": "from coursekit import carry as c\nc('ch01/' + 'lab01', 'softmax')",
    "a file": "open('/srv/course/coursekit/solved/ch01_attention/lab01_dot_product.py').read()",
    "a source": "p = 'source_solutions/ch01_attention'",
    "the sandbox": "open('/sandbox/course/coursekit')",
    "the root": "import os\nos.environ['COURSE_ROOT']",
}


@pytest.mark.parametrize("source", ANSWERS.values(), ids=ANSWERS)
def test_the_course_s_own_answers_are_forbidden_everywhere(source):
    line = 1 + source.count("\n")
    (flag,) = [flag for flag in flags(source, forbid=()) if flag.startswith(f"line {line} ")]
    assert "its own answers" in flag or "this lab itself" in flag
    assert notebook(source).flags_of_own_cells() == []
    assert f"your own cell, {flag}" in notebook("pass", source).flags_of_own_cells()
    assert flags("pass", source, forbid=()) == []


@pytest.mark.parametrize(
    "source",
    [
        "softmax = carry('ch01/lab02', 'softmax')",
        "from coursekit import check, figures, plots\nfrom coursekit.data import text\nplots.COLOURS\ncheck.seed(3)",
        "import coursekit\nprint(coursekit.__version__, coursekit.__doc__)",
        'def f():\n    """Better than coursekit/solved."""',
        "'''coursekit/solved and COURSE_ROOT'''",
        "# coursekit.solved",
        "print('solved!', 'reference')",
        "reference = 3\nreference + 1\nsolved = x.solved\ndiagnose.run()",
        "open('notes.txt').read()",
    ],
)
def test_what_the_course_offers_is_allowed(source):
    assert flags(source, forbid=()) == []
    assert notebook("pass", source).flags_of_own_cells() == []


ODD = {
    "no Python": "def f(:\n    F.softmax(x)",
    "half a string": "'abc",
    "a null byte": "a\0b",
    "a surrogate": "'\udfff'",
    "nothing": "",
    "only a comment": "# F.softmax",
    "every statement": (
        "import a.b, c as d\nfrom . import e\nfrom .f import g\nasync def h(*i, j=1, **k) -> int:\n"
        "    nonlocal_ = 1\n    async for l in m: await n\n    async with o as (p, q): yield\n"
        "try: pass\nexcept (A, B) as r: raise\nelse: ...\nmatch s:\n    case {'t': u, **v}: del w[0], x.y\n"
        "    case [z, *aa] | B(bb=_) as cc: ...\nglobal dd\nlambda *ee, ff=1, **gg: (yield)\n"
        "class C(D, metaclass=E): hh: int = 1\nii @= -jj ** ~kk\nprint(*ll, **mm, nn=f'{oo!r:>{pp}}')\n"
        "{**qq, 1: 2}; {*rr}; [ss async for ss in tt if uu]; vv[::2, ...]\nassert ww, xx\n"
        "def nested():\n    a = 1\n    def inner():\n        nonlocal a\n        a = 2\n"
    ),
}


@pytest.mark.parametrize("source", ODD.values(), ids=ODD)
def test_odd_code_is_no_find_and_no_error(source):
    assert flags(source, source) == []
    assert found(source, "F.softmax") == []
    assert computed_lookups(source) == []


TOO_MUCH = {
    "long": "x = 1\n" * 50_000,
    "wide": ";".join(["x"] * 50_000),
    "deep": "x" + ".a" * 5_000,
    "a deep sum": "+".join(["'a'"] * 5_000),
    "a deep sign": "-" * 100_000 + "1",
    "many magics": "%x\n" * 200,
}


@pytest.mark.parametrize("source", TOO_MUCH.values(), ids=TOO_MUCH)
def test_what_is_too_much_to_read_is_for_a_person(source):
    (flag,) = flags(source)
    assert "too long or too deeply nested" in flag
    assert [flag.partition(" is too")[0] for flag in flags("pass", source)] == ["your own cell"]
    assert flags("x.softmax(-1)", source, forbid=("F.softmax",)) != []
    assert flags("f.softmax(x)", source, "f = F", forbid=("F.softmax",))[0].startswith("line 1 uses F.softmax")


@pytest.mark.parametrize("source", ["s = 'abcdefgh'\n" + "s = s + s\n" * 40, "x = x.a\n" * 400, "a = b = a, b\n" * 400])
def test_values_that_grow_are_given_up_on(source):
    assert flags(source + "getattr(F, s)") != []
