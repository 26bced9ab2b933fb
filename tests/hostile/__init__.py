"""Submissions that attack the grader, or that are merely broken, each in a class of honest ones.

Five groups, a folder each: ``forging`` the verdict, ``confidentiality``, ``integrity`` of others, ``resources``, and
``broken`` (not hostile at all). A case is one small file, which is data: `tests.hostile.case` reads it, pytest does not
collect it. `test_hostile` grades every case between two learners who have everything right, and asserts that

1. the hostile one earns exactly what its code earns, with the flags that a person needs;
2. every honest mark, message, page and row of the gradebook is what it is without the hostile one;
3. nothing leaked (other people's work, hidden tests, solutions, the environment, the gradebook, a connection) and
   nothing survived (a process, a file anywhere, a change to the course).

`test_harness` proves that the third part sees what it should see.

To add a case, write ``GROUP/name.py``: a docstring with one paragraph that begins with ``Tries:`` and one that begins
with ``A correct grader:``, and some of these names (`tests.hostile.case.Case` says what each of them means)::

    LAB = "ema"                      # or "layer": a class, its state, gradients
    ANSWERS = {"ema": "def ema(x, beta, correct_bias=True): ..."}   # the others are right
    EXTRA = "..."                    # a cell of the learner's own above the first exercise
    LAST = "..."                     # and one below the last cell
    NOTEBOOK = lambda content: ...   # change the notebook, or return bytes in its place
    FILES = lambda folder, course: ...   # change the folder that is handed in
    LEARNER = "mallory"
    EARNS = {"ema": 0, "steps_to": 1}    # always given
    STATUS, STATUSES, FLAGS, SAYS, LIMITS, AT_MOST, AFTER

Code of a case may use ``@COURSE@`` and the other words of `tests.hostile.stage.Stage.words`: an attacker knows where
things are. What an attack gets hold of it prints as ``trophy: ...``; a trophy in any output or message fails the case.

A case must be harmless where the grader is broken: it reads, it asks and it makes files named ``@TRACE@...``, which the
harness removes; it never writes to what is there, kills nothing but what the harness offers it, and bounds every loop
that starts processes or takes memory. It never holds the words that the leak check looks for.
"""
