"""Globs: they match what wcmatch says, and no key makes that take long."""

from itertools import product

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from wcmatch import glob

from dropflow.datasets import Dataset
from dropflow.globs import Glob

FLAGS = glob.GLOBSTAR | glob.BRACE | glob.DOTGLOB | glob.FORCEUNIX | glob.CASE
PIECES = [*"*?abA.[]{},!-é", "[ab]", "[!a]", "[^b]", "[a-c]", "[[:alpha:]]", "[a/b]"]
ESCAPES = ["\\*", "\\?", "\\[", "\\{", "\\a", "\\\\"]
BRACES = ["{a,b}", "{,b}", "{a/**,b}", "{**/,}", "{a,{b,c}}", "{a/b,*/?}", "{1..3}"]
NAMES = st.one_of(
    st.sampled_from(("**", "**", "*", "a", "b", "..", ".", "", "***", ".*", "*a*b")),
    st.lists(st.sampled_from([*PIECES, *ESCAPES, *BRACES]), max_size=3).map("".join),
)
PATTERNS = st.lists(NAMES, min_size=1, max_size=5).map("/".join)
KEYS = [
    "/".join(names) for length in (1, 2, 3, 4) for names in product(("a", "ab", "2", "..", ""), repeat=length)
]
KEYS += [
    "*",
    "a?",
    "[",
    "a/[a/b]",
    "{a,b}",
    "a\\",
    "a\nb",
    "a/b\n",
    "é/é",
    ".",
    "./a",
    "a/.",
    "A/a",
    ".a/b",
    "-/!/b",
]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(PATTERNS)
@example("a/**")
@example("**/a")
@example("a/**/**/b")
@example("**/a/**/b/**")
@example("a/[a/b]")
@pytest.mark.filterwarnings("ignore:Possible nested set:FutureWarning")
def test_globs_match_what_wcmatch_matches(pattern: str) -> None:
    assume("\\/" not in pattern)  # it takes the slashes of a/\\/b for two
    ours, theirs = Glob(pattern), glob.compile(pattern, flags=FLAGS)
    keys = [key for key in KEYS if key.strip("/")]
    assert {key: ours.matches(key) for key in keys} == {key: theirs.match(key) for key in keys}


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("raw/**/a/**/a/**/a/**/b", "raw/" + "a/" * 500 + "c", False),
        ("raw/**/a/**/a/**/a/**/c", "raw/" + "a/" * 500 + "c", True),
        ("raw/**/*a*/**/*a*/**/*a*/**/*.csv", "raw/" + "a/" * 510, False),
        ("raw/" + "**/*/" * 30 + "b", "raw/" + "a/" * 500 + "c", False),
        ("raw/**/*.csv/**/*.csv/**/*.csv", "raw/" + ".csv" * 250, False),
        ("raw/" + "*a" * 30 + "b", "raw/" + "a" * 1000, False),
        ("raw/" + "*a" * 30 + "*", "raw/" + "a" * 1000, True),
        ("raw/" + "*?[!b]" * 10 + "b", "raw/" + "a" * 1000, False),
        ("raw/**/" + "*{a,aa}" * 5 + "b", "raw/" + "a" * 1000, False),
    ],
    ids=range(9),
)
def test_no_key_takes_long_to_match(churn: Dataset, pattern: str, key: str, matches: bool) -> None:
    """Such a key stopped the listener, which matches each object that the store tells of."""
    bucket, _, rest = key.partition("/")
    assert churn.model_copy(update={"match": pattern}).matches(bucket, rest) is matches
