"""What the book's reference pages compute: ways, concepts, the map, launch groups, and when a page runs again."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from autograder import catalog_html, catalog_pages, prereq_map
from autograder.catalog_pages import Page
from autograder.chapters import CHAPTERS, WAYS
from tests.extensions import load as extension


@dataclass
class FakeLab:
    """A lab as far as the pages care."""

    id: str
    needs: list[str] = field(default_factory=list)
    hardware: str = "cpu"
    minutes: int = 40
    title: str = "A lab with a title of some length"
    difficulty: int = 3
    builds: list[str] = field(default_factory=lambda: ["thing"])

    @property
    def chapter(self) -> str:
        """Its folder."""
        return f"{self.id.split('/')[0]}_x"

    @property
    def stem(self) -> str:
        """Its file."""
        return f"{self.id.split('/')[1]}_x"


def many_labs() -> list[FakeLab]:
    """As many labs as the whole course plans, each needing the one before and the first."""
    ids = [f"{c.key}/lab{n:02}" for c in CHAPTERS if c.number for n in range(1, c.labs + 1)]
    return [FakeLab(ids[0])] + [FakeLab(b, [ids[0], a] if a != ids[0] else [a]) for a, b in pairwise(ids)]


def test_ways_name_chapters_that_are_planned():
    keys = {chapter.key for chapter in CHAPTERS}
    assert all(set(way.chapters) <= keys for way in WAYS)
    full = next(way for way in WAYS if way.name == "Full path")
    assert sorted(full.chapters) == sorted(keys)


def test_times_are_sums_over_what_is_written_and_the_rest_is_named():
    labs = [FakeLab("ch01/lab01", minutes=50), FakeLab("ch02/lab01", minutes=7)]
    pages = [Page("ch01_x", "a", "A", minutes=5)]
    totals = {t.way.name: t for t in catalog_pages.totals(catalog_pages.statuses(labs, pages))}
    assert totals["Production"].minutes == 55
    assert totals["Variants"].minutes == 62
    assert totals["Quick survey"].minutes == 5
    assert [chapter.key for chapter in totals["Production"].unwritten] == ["ch03", "ch08", "ch09", "ch10"]


def test_a_chapter_is_ready_only_with_all_it_plans():
    pages = [Page("ch01_x", str(n), "A", 1) for n in range(4)]
    labs = [FakeLab(f"ch01/lab{n:02}") for n in range(1, 5)]

    def state(labs, pages):
        return {s.chapter.key: s.state for s in catalog_pages.statuses(labs, pages)}["ch01"]

    assert state(labs, pages) == "ready"
    assert state(labs[1:], pages) == "in part"
    assert state(labs, pages[1:]) == "in part"
    assert state([], []) == "planned"


@pytest.mark.parametrize(("minutes", "said"), [(0, "0 min"), (50, "50 min"), (60, "1 h"), (205, "3 h 25 min")])
def test_hours_are_said_as_people_say_them(minutes, said):
    assert catalog_pages.hours(minutes) == said


def test_a_concept_has_one_owner():
    one, two = Page("ch01_x", "a", "A", 1, ("Softmax", "mask")), Page("ch01_x", "b", "B", 1, ("softmax",))
    assert [c.name for c in catalog_pages.concepts([one])] == ["mask", "Softmax"]
    with pytest.raises(catalog_pages.DoubleOwnerError, match="both a and b own 'softmax'"):
        catalog_pages.concepts([one, two])


def test_the_course_has_one_owner_for_each_concept():
    assert len(catalog_pages.concepts(catalog_pages.pages())) >= 10


@pytest.mark.parametrize("name", ["ch01/lab03", "release/ch01_attention/lab03_multihead.ipynb"])
def test_front_matter_names_labs_by_id_or_by_path(name):
    assert catalog_pages.lab_id(name) == "ch01/lab03"


def test_a_page_is_read_with_its_front_matter(tmp_path):
    folder = tmp_path / "book" / "ch01_x"
    folder.mkdir(parents=True)
    words = "word " * 3 * catalog_pages.WORDS_PER_MINUTE
    code = "```{code-cell}\n" + "code " * 2000 + "\n```\n"
    (folder / "p.md").write_text(f"---\nowns: [a, b]\nlabs: [ch01/lab01]\n---\n# The title\n\n{words}\n{code}")
    (tmp_path / "book" / "_look").mkdir()
    (tmp_path / "book" / "_look" / "x.md").write_text("# No page")
    assert catalog_pages.pages(tmp_path) == [Page("ch01_x", "p", "The title", 3, ("a", "b"), ("ch01/lab01",))]


def test_the_map_leaves_out_what_follows_from_other_arrows():
    labs = [
        FakeLab("ch01/lab01"),
        FakeLab("ch01/lab02", ["ch01/lab01"]),
        FakeLab("ch01/lab03", ["ch01/lab01", "ch01/lab02"]),
    ]
    assert prereq_map.direct_edges(labs) == [("ch01/lab01", "ch01/lab02"), ("ch01/lab02", "ch01/lab03")]


def test_a_circle_of_needs_is_named():
    with pytest.raises(ValueError, match="circle: ch01/lab01 -> ch01/lab02 -> ch01/lab01"):
        prereq_map.ancestors([FakeLab("ch01/lab01", ["ch01/lab02"]), FakeLab("ch01/lab02", ["ch01/lab01"])])


@pytest.mark.parametrize("count", [1, 4, 60])
def test_boxes_of_the_map_do_not_overlap_and_stay_inside(count):
    labs = many_labs()[:count]
    assert len(labs) == count
    boxes, headings, height = prereq_map.layout(labs)
    assert len(headings) == len({lab.chapter for lab in labs})
    for at, box in enumerate(boxes):
        assert 0 <= box.x <= prereq_map.WIDTH - prereq_map.BOX_WIDTH
        assert 0 <= box.y <= height - prereq_map.BOX_HEIGHT
        for other in boxes[:at]:
            apart = abs(box.x - other.x) >= prereq_map.BOX_WIDTH or abs(box.y - other.y) >= prereq_map.BOX_HEIGHT
            assert apart, (box.lab.id, other.lab.id)


def test_the_map_holds_every_lab_and_its_needs():
    text = prereq_map.svg(many_labs())
    assert text.count('class="lab"') == len(many_labs())
    assert text.count('class="need"') == len(many_labs()) - 1
    assert 'href="../release/ch01_x/lab02_x.html"' in text
    assert 'data-above="ch00/lab01 ch00/lab02"' in text


def test_titles_are_escaped():
    lab = FakeLab("ch01/lab01", title="<b>bold</b> & co")
    assert "<b>bold" not in prereq_map.svg([lab])


def test_a_page_opens_the_labs_that_it_names_and_a_gpu_lab_has_a_group_of_its_own(tmp_path):
    launch = extension("course_launch")
    (tmp_path / "_config.yml").write_text("repository: {url: https://github.com/a/b, branch: main}\n")
    groups = launch.groups([FakeLab("ch01/lab01"), FakeLab("ch10/lab02", hardware="gpu")], tmp_path)
    assert [group["label"] for group in groups] == ["launch-buttons", "gpu-launch-buttons"]
    assert [b["url"] for b in groups[0]["buttons"]] == [
        "https://colab.research.google.com/github/a/b/blob/main/release/ch01_x/lab01_x.ipynb"
    ]
    assert [b["text"] for b in groups[1]["buttons"]] == ["Lab 10.2 in Colab (GPU)", "Lab 10.2 in Kaggle (GPU)"]
    (tmp_path / "_config.yml").write_text("repository: {url: https://gitlab.com/a/b, branch: main}\n")
    assert launch.groups([FakeLab("ch01/lab01")], tmp_path) == []


def test_front_matter_that_names_no_lab_is_an_error(tmp_path, monkeypatch):
    launch = extension("course_launch")
    monkeypatch.setattr(catalog_pages, "labs", lambda root=None: [FakeLab("ch01/lab01")])
    (tmp_path / "page.md").write_text("---\nlabs: [ch01/lab09]\n---\n# P\n")
    with pytest.raises(ValueError, match="ch01/lab09"):
        launch.labs_of("page", tmp_path)
    (tmp_path / "page.md").write_text("---\nlabs: [ch01/lab01]\n---\n# P\n")
    assert [lab.id for lab in launch.labs_of("page", tmp_path)] == ["ch01/lab01"]
    assert launch.labs_of("no/such/page", tmp_path) == []


def test_a_page_runs_again_when_what_it_shows_has_changed(tmp_path, monkeypatch):
    fresh = extension("course_fresh")
    for name in fresh.CATALOG_MODULES:
        (tmp_path / "autograder").mkdir(exist_ok=True)
        (tmp_path / "autograder" / f"{name}.py").write_text("1")
    (tmp_path / "coursekit").mkdir()
    for name in ("plots", "check"):
        (tmp_path / "coursekit" / f"{name}.py").write_text("1")
    (tmp_path / "shows.md").write_text("from autograder import catalog_html")
    (tmp_path / "draws.md").write_text("from coursekit import plots")
    (tmp_path / "text.md").write_text("words")
    (tmp_path / "carries.md").write_text('from coursekit import carry\nMine = carry("ch01/lab02", "Mine")')
    for chapter in ("ch01_first", "ch02_second"):
        (tmp_path / "coursekit" / "solved" / chapter).mkdir(parents=True)
        (tmp_path / "coursekit" / "solved" / chapter / "lab01.py").write_text("1")
    labs = [FakeLab("ch01/lab01")]
    monkeypatch.setattr(catalog_pages, "labs", lambda root=None: labs)

    pages = ["shows", "draws", "text", "carries"]

    def changed(before: dict[str, str]) -> set[str]:
        now = fresh.fingerprints(tmp_path, pages)
        return {name for name in now if before.get(name) != now[name]}

    first = fresh.fingerprints(tmp_path, pages)
    assert set(first) == {"shows", "draws", "carries"}
    assert changed(first) == set()
    (tmp_path / "coursekit" / "check.py").write_text("2")
    assert changed(first) == set()
    (tmp_path / "coursekit" / "plots.py").write_text("2")
    assert changed(first) == {"draws"}
    (tmp_path / "coursekit" / "solved" / "ch02_second" / "lab01.py").write_text("2")
    assert changed(first) == {"draws"}
    (tmp_path / "coursekit" / "solved" / "ch01_first" / "lab01.py").write_text("2")
    assert changed(first) == {"draws", "carries"}, "what is carried may stand on the chapter's other labs"
    labs[0].minutes += 1
    assert changed(first) == {"shows", "draws", "carries"}


def test_computed_parts_hold_what_the_tree_holds():
    labs = catalog_pages.labs()
    for part in (catalog_html.milestones(), catalog_html.lab_map(), catalog_html.lab_table()):
        assert all(catalog_pages.lab_page(lab) in part for lab in labs)
    assert "still to be written" in catalog_html.ways()
    assert catalog_html.chapters().count("<li ") == len(CHAPTERS)
