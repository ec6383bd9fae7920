"""The signature of every form of command that agents write, and of texts that are none."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tangram.server.signatures import SIGNATURE_CHARACTERS_MAX, signature_of


@pytest.mark.parametrize(
    ("command", "signature"),
    [
        ("pytest -n 4 tests/test_a.py::TestX", "pytest"),
        ("python -m unittest discover -s tests", "python -m unittest"),
        ("make -j 8 test", "make test"),
        ("make -C src -j8 CFLAGS=-O2 test", "make test"),
        ("git -C /tmp/x status --short", "git status"),
        ("/usr/bin/gcc-12 -O2 x.c", "gcc"),
        ("./run_tests.sh 3", "run_tests.sh"),
        ("npm run test:unit -- --ci", "npm run test:unit"),
        ("npm --prefix web test", "npm test"),
        ("tox -e py311 -- -k x", "tox"),
        ("python3.11 -W ignore -X dev -m pytest -x", "pytest"),
        ("python manage.py test app --parallel 8", "python manage.py test"),
        ("python -c 'import os; os.remove(1)'", "python -c"),
        ("python", "python"),
        ("java -jar build/x.jar", "java"),
    ],
)
def test_a_command_is_named_by_its_program_and_what_it_is_told_to_do(
    command: str, signature: str
) -> None:
    assert signature_of((), command) == signature
    assert signature_of(["bash", "-lc", command]) == signature


@pytest.mark.parametrize(
    "command",
    [
        "pytest",
        "/opt/venv/bin/pytest -x tests/unit",
        "python -m pytest -k 'a or b'",
        "cd /testbed && pytest -q",
        "A=1 B='x y' pytest",
        "export A=1; source venv/bin/activate; pytest",
        "sudo -u me env A=1 timeout -k 5 60 nice -n 10 pytest",
        "conda run -n testbed pytest",
        "uv run --with xdist pytest",
        "bash -c 'cd a; sh -c \"pytest -x\"'",
        "pytest 2>&1 > out.txt | tail -20",
        "pytest &> log.txt",
        "pytest < $(ls | head -1)",
        "pytest $(git ls-files | grep test)",
        "pytest # then: make clean",
        "pytest \\\n  -x",
        "for t in a b; do pytest $t; done",
        "if [ -f setup.cfg ]; then pytest; fi",
        "(cd a && pytest) & wait",
        "pytest a; pytest b || pytest c",
        "echo 'make clean'; pytest",
        'pytest -k "it\'s; fine"',
    ],
)
def test_ways_of_saying_the_same_share_a_signature(command: str) -> None:
    assert signature_of((), command) == "pytest"


@pytest.mark.parametrize(
    ("command", "signature"),
    [
        ("pip install -e . && pytest && pytest -x", "pip install; pytest"),
        ("make && make test && ls && wc x", "make; make test; ls"),
        ("cat > x.py <<'EOF'\nimport os; rm(1)\nEOF\npython x.py", "cat; python x.py"),
        ("grep -rn a src | xargs sed -i s/a/b/", "grep"),
        ("while true; do curl host; sleep 1; done", "curl"),
        ("cd /x", "cd"),
        ("cd /x && echo done", "cd"),
        ("timeout 60", "timeout"),
    ],
)
def test_steps_that_take_time_are_named_in_order_once(command: str, signature: str) -> None:
    assert signature_of((), command) == signature


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("bash /tmp/tmp8fj2kx9q.sh", "bash /tmp/tmpabcdefgh.sh"),
        ("python /a/b/run_1.py --seed 3", "python run_22.py --seed 4"),
        ("./3f2a9c1d77.sh", "./90aa12bc34.sh"),
        ("python3 -m app.main", "python3.12 -m app.main"),
    ],
)
def test_what_differs_by_chance_is_left_out(one: str, other: str) -> None:
    assert signature_of((), one) == signature_of((), other)


def test_what_differs_on_purpose_is_kept() -> None:
    commands = ["make test", "make lint", "git log", "git status", "pytest", "python a.py", "a.py"]
    assert len({signature_of((), command) for command in commands}) == len(commands)


def test_an_argv_is_taken_as_it_is() -> None:
    assert signature_of(["/usr/bin/python3", "-m", "pytest", "-n", "{cores}"]) == "pytest"
    assert signature_of(["echo; pytest", "x"]) == "echopytest"
    assert signature_of(["grep", "pytest; make", "&&", "tox"]) == "grep"


def test_values_of_arguments_never_show() -> None:
    command = (
        "curl -H 'Authorization: s3cret' https://host/s3cret?k=s3cret; K=s3cret mysql -ps3cret"
    )
    assert signature_of((), command) == "curl; mysql"


@pytest.mark.parametrize(
    "command", ["", "  \n ", "';", "|||", "`", "$(", "<<", "\\", "\N{SNOWMAN}", "()", '"', "\0"]
)
def test_what_names_nothing_has_no_signature(command: str) -> None:
    assert signature_of((), command) == ""


@given(st.text() | st.text("ab1 ;|&<>()'\"\\$`#=-/\n"), st.lists(st.text(), max_size=4))
@example("$(" * 2000, [])
@example("<<A\n" * 2000, [])
@example("'" * 5001, [])
@example("0" * 5000 + ".x", [])
@example("bash -c " * 600, ["bash", "-c"] * 200)
def test_no_text_makes_it_fail_or_grow(text: str, argv: list[str]) -> None:
    for signature in (signature_of((), text), signature_of([*argv, text])):
        assert len(signature) <= SIGNATURE_CHARACTERS_MAX
        assert signature.isprintable()
        assert signature == signature.strip()
