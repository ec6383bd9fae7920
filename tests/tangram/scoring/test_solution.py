"""What of a solution may come beside the tests."""

from __future__ import annotations

import pytest

from tangram.scoring.solution import diff_without_steering, is_steering, without_steering


@pytest.mark.parametrize(
    "path",
    ["conftest.py", "a/b/conftest.py", "./x/../conftest.py", "sitecustomize.py", "lib/evil.pth"],
)
def test_steering_files_are_known_wherever_they_stand(path: str) -> None:
    assert is_steering(path)


def test_other_files_are_let_through_and_the_suites_configuration_is_not() -> None:
    files = {"solution.py": "", "my_conftest.py": "", "conf/pytest.ini": "", "conftest.py": ""}
    kept, ignored = without_steering(files, ["./conf/pytest.ini"])
    assert list(kept) == ["solution.py", "my_conftest.py"]
    assert ignored == ["conf/pytest.ini", "conftest.py"]


def section(path: str, *lines: str, header: bool = True) -> str:
    body = [f"+{line}" for line in lines]
    head = [f"diff --git a/{path} b/{path}", "index 1..2 100644"] if header else []
    return "\n".join(
        [*head, f"--- a/{path}", f"+++ b/{path}", f"@@ -0,0 +1,{len(body)} @@", *body, ""]
    )


@pytest.mark.parametrize("header", [True, False])
def test_only_the_parts_of_a_diff_that_touch_steering_files_go(header: bool) -> None:
    first, last = section("a.py", "x = 1", header=header), section("b.py", "y", header=header)
    planted = section("sub/conftest.py", "evil", header=header)
    kept, ignored = diff_without_steering(first + planted + last, [])
    assert kept == first + last
    assert ignored == ["sub/conftest.py"]


def test_contents_that_look_like_headers_stay_contents() -> None:
    tricky = (
        "--- a/notes.txt\n+++ b/notes.txt\n@@ -1,2 +1,2 @@\n"
        "--- a/conftest.py\n-old\n+++ b/conftest.py\n+new\n"
    )
    assert diff_without_steering(tricky, []) == (tricky, [])


@pytest.mark.parametrize(
    "planted",
    [
        "diff --git a/x.py b/conftest.py\nrename from x.py\nrename to conftest.py\n",
        "diff --git a/x.py b/conftest.py\ncopy from x.py\ncopy to conftest.py\n",
        'diff --git "a/c.py" "b/conftes\\164.py"\n--- /dev/null\n+++ "b/conftes\\164.py"\n',
        "Index: conftest.py\n@@ -0,0 +1 @@\n+x\n",
        "--- /dev/null\n+++ b/conftest.py\t2026-01-01\n@@ -0,0 +1 @@\n+x\n",
        "diff --git a/my tests/conftest.py b/my tests/conftest.py\nnew file mode 100644\n",
        "diff --git a/conftest.py b/conftest.py\nnew file mode 120000\n",
    ],
)
def test_a_part_is_known_by_any_line_that_names_its_file(planted: str) -> None:
    before = section("a.py", "x")
    kept, ignored = diff_without_steering(before + planted, [])
    assert kept == before
    assert [path.rpartition("/")[2] for path in ignored] == ["conftest.py"]


def test_a_diff_that_lies_about_its_lines_hides_nothing() -> None:
    """git refuses it; `patch` ends the hunk where it is broken off, and so do we."""
    lying = "--- a/a.py\n+++ b/a.py\n@@ -0,0 +1,99 @@\n+x\ndiff --git a/conftest.py b/conftest.py\n"
    planted = "--- /dev/null\n+++ b/conftest.py\n@@ -0,0 +1 @@\n+evil\n"
    kept, ignored = diff_without_steering(lying + planted, [])
    assert ignored == ["conftest.py"]
    assert "evil" not in kept
