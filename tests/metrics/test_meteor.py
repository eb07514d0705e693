"""METEOR 1.5 through its jar, and our relative of it: golden values, alignments, stems."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg.errors import RefsegError
from refseg.metrics.captions import meteor as meteor_jar
from refseg.metrics.captions import meteor_es, tokenise, why_no_meteor
from refseg.metrics.meteor import FUNCTION_WORDS, align
from refseg.metrics.words import stem
from tests.metrics.examples import HYPOTHESES, REFERENCES

WORDS = ["red", "dog", "dogs", "the", "left"]


@pytest.mark.parametrize(
    ("word", "root"),
    [
        *[(w, "walk") for w in ("walks", "walked", "walking", "walk")],
        *[(w, w) for w in ("bus", "us", "sky", "news", "sing", "red", "a", "")],
        *[("running", "run"), ("hoping", "hope"), ("hopping", "hop"), ("buses", "buse")],
        *[("ties", "tie"), ("cries", "cri"), ("glasses", "glass"), ("happy", "happi")],
        *[("say", "say"), ("agreed", "agre"), ("feed", "feed"), ("dying", "die")],
        *[("relational", "relat"), ("rational", "ration"), ("hopefulness", "hope")],
        *[("electricity", "electr"), ("generously", "generous"), ("communism", "communism")],
        *[
            ("adoption", "adopt"),
            ("lesson", "lesson"),
            ("falling", "fall"),
            ("controll", "control"),
        ],
        *[("decorative", "decor"), ("sensitivity", "sensit"), ("earring", "earring")],
    ],
)
def test_stems(word, root):
    assert stem(word) == root


def test_meteor_es_equals_the_jar_where_words_are_exact():
    found = meteor_es(HYPOTHESES, REFERENCES)
    assert found.each == pytest.approx({1: 0.440249, 2: 0.470611, 3: 0.380952}, abs=1e-6)
    assert found.corpus == pytest.approx(0.436449, abs=1e-6)


@pytest.mark.parametrize(
    ("hypothesis", "reference", "score"),
    [
        ("red dog", "red dogs", 0.80),
        ("two dogs", "two dog", 0.70),
        ("red dog", "red cat", 0.20),
        ("a b c", "a b c", 1.0),
        ("", "red dog", 0.0),
        ("dog dogs", "dogs dog", 0.4),
        ("left dog dogs right", "left dogs dog right", 0.4),
        ("dogs red cat dog", "dog red cat", 0.4254621458199651),
        ("the man the dog", "the dog the man", 0.4776696620223255),
        ("dog the dog", "the dog", 0.4293659883346746),
        ("left", "the left one", 0.2553191489361702),
        ("the man walking", "the man walks", 0.8285714285714284),
        ("a cat sits", "the cow", 0.0),
    ],
)
def test_meteor_es_of_pairs(hypothesis, reference, score):
    assert meteor_es({0: hypothesis}, {0: [reference]}).corpus == pytest.approx(score, abs=1e-9)


def test_meteor_es_of_a_corpus_sums_the_counts():
    hypotheses = {0: "red dog", 1: "the cat a", 2: "red dog"}
    references = {0: ["red dog", "x"], 1: ["a the cat"], 2: ["x", "red dog"]}
    found = meteor_es(hypotheses, references)
    assert found.corpus == pytest.approx(0.5329776750692976, abs=1e-9)  # the jar's
    assert found.each[1] == pytest.approx(0.4467352531109634, abs=1e-9)


def every_alignment(a, b):
    """All sets of pairs of equal stems, each word at most once."""
    if not a:
        return [()]
    *rest, last = a
    found = []
    for pairs in every_alignment(rest, b):
        taken = {j for _, j in pairs}
        found.append(pairs)
        found += [
            (*pairs, (len(rest), j))
            for j, word in enumerate(b)
            if j not in taken and stem(word) == stem(last)
        ]
    return found


def worth(pairs, a, b):
    exact = sum(a[i] == b[j] for i, j in pairs)
    chunks = sum((i - 1, j - 1) not in pairs for i, j in pairs)
    return len(pairs), exact, -chunks


@settings(max_examples=100)
@given(*[st.lists(st.sampled_from(WORDS), max_size=5)] * 2)
def test_alignment_is_the_best_of_all(a, b):
    best = max(worth(pairs, a, b) for pairs in every_alignment(a, b))
    assert worth(tuple(align(a, b)), a, b) == best


def test_alignment_of_endless_repeats_stays_quick():
    words = ["the", "dog"] * 15
    assert len(align(words, words[::-1])) == 30


def test_function_words_are_single_words():
    assert all(tokenise(word) == [word] for word in FUNCTION_WORDS)


@pytest.mark.slow
def test_meteor_golden_values():
    if why_no_meteor():
        pytest.skip(f"METEOR 1.5: {why_no_meteor()}")
    found = meteor_jar(HYPOTHESES, REFERENCES)
    assert found.each == pytest.approx({1: 0.440249, 2: 0.470611, 3: 0.380952}, abs=1e-6)
    assert found.corpus == pytest.approx(0.436449, abs=1e-6)


def test_meteor_golden_pairs():
    """Each alone is a corpus of one sentence and one reference. The last is a quirk of the jar."""
    if why_no_meteor():
        pytest.skip(f"METEOR 1.5: {why_no_meteor()}")
    pairs = {
        ("red dog", "red dogs"): 0.80,
        ("two dogs", "two dog"): 0.70,
        ("a car", "a automobile"): 0.85,
        ("red dog", "red cat"): 0.20,
        ("car", "automobile"): 0.0,
    }
    told = dict(enumerate(pairs))
    found = meteor_jar(
        {n: one for n, (one, _) in told.items()}, {n: [r] for n, (_, r) in told.items()}
    )
    assert found.each == pytest.approx(dict(enumerate(pairs.values())), abs=5e-3)


def test_without_java_meteor_says_what_to_install(monkeypatch):
    monkeypatch.setattr("refseg.metrics.meteor.shutil.which", lambda name: None)
    with pytest.raises(RefsegError, match=r"java is not on the PATH(.|\n)*refseg\[caption\]"):
        meteor_jar(HYPOTHESES, REFERENCES)


def test_without_the_package_meteor_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pycocoevalcap.meteor.meteor", None)
    with pytest.raises(RefsegError, match=r"pycocoevalcap(.|\n)*refseg\[caption\](.|\n)*Java"):
        meteor_jar(HYPOTHESES, REFERENCES)


def test_a_java_that_stops_is_an_error_not_a_hang(monkeypatch, tmp_path):
    pytest.importorskip("pycocoevalcap.meteor.meteor", reason="needs the extra `caption`")
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(RefsegError, match="jar stopped"):
        meteor_jar(HYPOTHESES, REFERENCES)
